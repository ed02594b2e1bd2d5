//! The store as a whole: its ledger, and what is told when it is not the one that was here.

use super::*;

/// The disk of a gateway is not mounted when it starts: an empty directory is where its store was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_vanished_is_missed_until_it_is_back_or_said_to_be_gone() {
    let mut site = Site::new().await;
    let (tap, link) = connected(&site, 3).await;
    let first = site.settled("web01").await;
    assert!(!site.gateway().status().await.unwrap().reasons.iter().any(|r| r.contains("confirm-gone")));
    link.stop().await;
    site.handle.stop(GRACE).await;
    let (data, away) = (site.tmp.path().join("data"), site.tmp.path().join("away"));
    std::fs::rename(&data, &away).unwrap();
    site.handle = Gateway::start(config(site.tmp.path(), &site.hub)).await.unwrap();
    let link = tap.connect(&site.hub, "web01");
    let anew = site.until("web01", |v| v.durable_lsn == first.durable_lsn).await;
    assert_eq!(anew.state, VolumeState::Protected, "the head is protected meanwhile");
    let view = found(site.gateway(), |view| view.open > 0).await;
    assert_eq!((view.open, view.findings[0].kind), (1, FindingKind::Missing), "{view:?}");
    let status = site.gateway().status().await.unwrap();
    assert_eq!(status.health, cx_api::Health::Degraded);
    assert!(status.reasons[0].contains("chronogate store confirm-gone"), "{:?}", status.reasons);
    let stores = site.gateway().stores().await.unwrap();
    let gone = cx_api::StoreGone { store: stores.others[0].store.clone() };
    assert!(site.gateway().store_gone(gone).await.unwrap().others[0].confirmed_gone);
    let view = site.gateway().verification(name("web01"), Points::default()).await.unwrap();
    assert_eq!((view.open, view.findings.len()), (0, 0));
    // And then the disk is back after all: nothing of it was touched, and now it is the other one that is told of.
    link.stop().await;
    site.handle.stop(GRACE).await;
    std::fs::rename(&data, site.tmp.path().join("meanwhile")).unwrap();
    std::fs::rename(&away, &data).unwrap();
    site.handle = Gateway::start(config(site.tmp.path(), &site.hub)).await.unwrap();
    let _link = tap.connect(&site.hub, "web01");
    assert_eq!(site.settled("web01").await.durable_lsn, first.durable_lsn);
    let oracle = tap.oracle();
    let now = read(site.path("nbd.sock"), "web01".to_owned()).await.unwrap();
    assert!(now == oracle.image_at(tap.volume(), oracle.last_lsn()));
    let start = Instant::now();
    let back = loop {
        let back = site.gateway().stores().await.unwrap();
        if !back.others.is_empty() || start.elapsed() > LIMIT {
            break back;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((&back.store, &back.others[0].store), (&stores.others[0].store, &stores.store));
}

/// Small segments, each entered at once.
fn bookish(dir: &Path, hub: &Hub) -> GatewayConfig {
    let plain = config(dir, hub);
    let each = Some(Duration::from_millis(10));
    GatewayConfig { store: StoreConfig { segment_len: 256 << 10, ledger_each: each, ..plain.store }, ..plain }
}

/// What is known of the volume's soundness, once it is as wanted.
async fn found(gateway: &Arc<Gateway>, wanted: impl Fn(&VerificationView) -> bool) -> VerificationView {
    let start = Instant::now();
    loop {
        let view = gateway.verification(name("web01"), Points::default()).await.unwrap();
        if wanted(&view) {
            return view;
        }
        assert!(start.elapsed() < LIMIT, "not in time: {view:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_is_anchored_above_and_one_that_was_taken_away_is_found() {
    let (tmp, hub) = (tempfile::tempdir().unwrap(), Hub::new());
    let handle = Gateway::start(bookish(tmp.path(), &hub)).await.unwrap();
    let site = Site { tmp, hub, handle };
    let tap = Tap::new(21);
    tap.play(|w| w.history(300));
    let _link = tap.connect(&site.hub, "web01");
    site.settled("web01").await;
    let view = found(site.gateway(), |_| true).await;
    assert!(tap.kept().is_none() && view.anchored.is_none(), "a sender that keeps none is told none");
    tap.keep_heads();
    let view = found(site.gateway(), |view| view.anchored.is_some()).await;
    let (anchored, before) = (view.anchored.unwrap(), tap.kept().unwrap());
    assert!(anchored.place == "cx" && anchored.entry <= before.entry && anchored.entry > 1, "{anchored:?}");
    assert_eq!(view.open + view.over, 0);
    // Notes of another gateway's ledger go back to who passed it on, and another one's of this are listened to.
    let of_another = LedgerHead { store: 0x77, ..before };
    tap.keep(of_another);
    found(site.gateway(), |_| tap.witnessed() == Some(of_another)).await;
    let (gateway, forged) = ("b".to_owned(), LedgerHead { hash: [9; 32], ..before });
    tap.pass_on(Witness { gateway, head: forged });
    let view = found(site.gateway(), |view| view.over > 0).await;
    assert!(view.findings[0].detail.contains("gateway b keeps"), "{:?}", view.findings);
    site.gateway().acknowledge(name("web01"), Points::default()).await.unwrap();
    let before = tap.kept().unwrap();
    site.handle.stop(GRACE).await;
    std::fs::remove_file(site.tmp.path().join("data/store/LEDGER")).unwrap();
    let handle = Gateway::start(bookish(site.tmp.path(), &site.hub)).await.unwrap();
    let told = || tap.kept().is_some_and(|kept| kept.entry > before.entry);
    let of_cx = |f: &cx_api::FindingView| f.kind == FindingKind::Ledger && f.detail.contains("cx keeps");
    found(handle.gateway(), |view| view.findings.iter().any(of_cx) && told()).await;
    handle.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_whose_ledger_cannot_be_read_starts_and_says_so_until_that_is_acknowledged() {
    let site = Site::new().await;
    let (tap, link) = connected(&site, 23).await;
    site.settled("web01").await;
    let Site { tmp, hub, handle } = site;
    handle.stop(GRACE).await;
    drop(link);
    let ledger = tmp.path().join("data/store/LEDGER");
    let _ = std::fs::remove_file(&ledger);
    std::fs::create_dir_all(ledger.join("what")).unwrap();
    let handle = Gateway::start(config(tmp.path(), &hub)).await.unwrap();
    let site = Site { tmp, hub, handle };
    let said = |status: &cx_api::StatusView| status.reasons.iter().any(|r| r.contains("could not be read"));
    assert!(said(&site.gateway().status().await.unwrap()));
    let image = site.image("now", false, Some("test")).await;
    let expected = tap.oracle().image_at(tap.volume(), image.lsn);
    assert!(
        read(site.path("nbd.sock"), "test".to_owned()).await.unwrap() == expected,
        "it serves what is sound"
    );
    site.gateway().acknowledge(name("web01"), Points::default()).await.unwrap();
    assert!(!said(&site.gateway().status().await.unwrap()));
    let site = site.restarted().await;
    assert!(!said(&site.gateway().status().await.unwrap()));
    assert!(site.path("data/store/LEDGER.unreadable-1/what").is_dir());
}
