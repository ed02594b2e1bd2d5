//! A volume at its limit: no more of it is taken when its policy says so, and all of it when there is room again.

use cx_api::{LimitState, PolicySet, Retention, Size, Span, WhenFull};

use super::gates::often;
use super::*;

fn policy(limit: u64) -> PolicySet {
    let retention = Retention {
        every_write: Span(Duration::from_secs(3600)),
        tiers: Vec::new(),
        bookmarks: Span(Duration::ZERO),
        when_full: WhenFull::Stop,
        limit: Some(Size(limit)),
    };
    PolicySet { volume: Some(name("web01")), retention: Some(retention), check: false }
}

fn state(view: &VolumeView) -> Option<LimitState> {
    view.history_limit.map(|limit| limit.state)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_at_its_limit_is_not_taken_until_there_is_room() {
    let tmp = tempfile::tempdir().unwrap();
    let hub = Hub::new();
    let handle = Gateway::start(often(tmp.path(), &hub)).await.unwrap();
    let site = Site { tmp, hub, handle };
    let (tap, _link) = connected(&site, 42).await;
    let full = site.settled("web01").await;
    assert_eq!((full.history_bytes > 0, full.history_limit), (true, None));
    site.gateway().policy_set(policy(full.history_bytes)).await.unwrap();
    site.until("web01", |v| state(v) == Some(LimitState::Stopped)).await;
    tap.play(|w| (0..5).map(|_| w.batch(3)).collect::<Vec<_>>());
    // What the gateway itself has to note is noted meanwhile.
    for n in 0..20 {
        site.image("now", false, Some(&format!("image-{n}"))).await;
    }
    let behind = site.gateway().volume(name("web01")).await.unwrap();
    assert_eq!((behind.durable_lsn, state(&behind)), (full.durable_lsn, Some(LimitState::Stopped)));
    // The link stands though nothing is taken: the tap is asked over it, time and again.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        let asked = site.gateway().volume(name("web01")).await.unwrap();
        assert_eq!(asked.head_lsn, Some(tap.oracle().last_lsn()));
        tokio::task::yield_now().await;
    }
    let wanted = BookmarkCreate {
        name: name("gold"),
        consistency: Consistency::Crash,
        note: String::new(),
        wait_seconds: 5,
    };
    let made = site.gateway().bookmark_create(name("web01"), wanted).await.unwrap();
    assert!(!made.selectable, "it counts once there is room");
    let status = site.gateway().status().await.unwrap();
    assert!(status.reasons.iter().any(|r| r.contains("no more of it is taken")), "{:?}", status.reasons);
    site.gateway().policy_set(policy(1 << 30)).await.unwrap();
    let open = site.until("web01", |v| v.durable_lsn == tap.oracle().last_lsn()).await;
    assert_eq!(state(&open), Some(LimitState::Fits));
    let image = read(site.path("nbd.sock"), "web01".to_owned()).await.unwrap();
    assert!(image == tap.oracle().image_at(tap.volume(), tap.oracle().last_lsn()));
    site.handle.stop(GRACE).await;
}
