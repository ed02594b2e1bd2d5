//! Names of points that retention lets go of.

use cx_api::{PolicySet, Retention, Span, WhenFull};

use super::gates::often;
use super::*;

fn policy(every_write: Duration) -> PolicySet {
    let retention = Retention {
        every_write: Span(every_write),
        tiers: Vec::new(),
        bookmarks: Span(Duration::ZERO),
        when_full: WhenFull::Thin,
        limit: None,
    };
    PolicySet { volume: None, retention: Some(retention), check: false }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bookmark_whose_point_is_gone_is_told_with_its_neighbours_and_listed_no_more() {
    let tmp = tempfile::tempdir().unwrap();
    let hub = Hub::new();
    let handle = Gateway::start(often(tmp.path(), &hub)).await.unwrap();
    let site = Site { tmp, hub, handle };
    let (tap, _link) = connected(&site, 7).await;
    tap.play(|w| vec![w.bookmark(&name("gold")), w.batch(3), w.bookmark(&name("silver")), w.batch(3)]);
    site.settled("web01").await;
    let silver = site.gateway().resolve(name("web01"), "silver".parse().unwrap()).await.unwrap();
    site.gateway().pin(name("web01"), Point::Lsn(silver.lsn), String::new()).await.unwrap();
    site.gateway().policy_set(policy(Duration::from_millis(50))).await.unwrap();
    let listed = || async {
        let listed = site.gateway().bookmarks(name("web01"), None, 1000).await.unwrap();
        listed.iter().map(|view| view.name.to_string()).collect::<Vec<_>>()
    };
    let start = Instant::now();
    while listed().await != ["silver"] {
        assert!(start.elapsed() < LIMIT, "not in time: {:?}", listed().await);
        tap.play(|w| vec![w.batch(2)]);
        site.settled("web01").await;
    }
    let gone = site.gateway().resolve(name("web01"), "gold".parse().unwrap()).await.unwrap_err();
    let text = format!("{gone:?}");
    assert_eq!(gone.code, Code::NotSelectable, "{text}");
    assert!(text.contains("the bookmark gold of web01, made at") && text.contains("choose lsn:"), "{text}");
    let gone = site.gateway().bookmark_remove(name("web01"), name("gold")).await.unwrap_err();
    assert_eq!(gone.code, Code::NotSelectable, "there is nothing to remove");
    let never = site.gateway().resolve(name("web01"), "iron".parse().unwrap()).await.unwrap_err();
    assert_eq!(never.code, Code::NotFound);
    site.gateway().policy_set(policy(Duration::from_secs(3600))).await.unwrap();
    tap.play(|w| vec![w.bookmark(&name("gold"))]);
    site.settled("web01").await;
    site.gateway().resolve(name("web01"), "gold".parse().unwrap()).await.unwrap();
    site.handle.stop(GRACE).await;
}
