//! What an administrator is told when something is gone or damaged: what happened, why, and what to do.

use cx_api::{Health, PolicySet, Retention, ShortOf, Span, TimelineView, WentShort, WhenFull};
use gateway_store::StoreConfig;

use super::*;

/// Everything is kept for longer than this takes, if there is room.
fn keeps_all(limit: Option<u64>) -> PolicySet {
    let long = Span(Duration::from_secs(100 * 3600));
    let limit = limit.map(cx_api::Size);
    let retention =
        Retention { every_write: long, tiers: Vec::new(), bookmarks: long, when_full: WhenFull::Thin, limit };
    PolicySet { volume: None, retention: Some(retention), check: false }
}

/// A store of a few small segments, settled often.
fn cramped(dir: &Path, hub: &Hub) -> GatewayConfig {
    let plain = config(dir, hub);
    let settle_each = Some(Duration::from_millis(20));
    let store = StoreConfig { segment_len: 256 << 10, settle_each, ..plain.store };
    GatewayConfig { store: StoreConfig { max_segments: 20, ..store }.within(20 * (256 << 10)), ..plain }
}

fn bookmark(called: &str) -> BookmarkCreate {
    BookmarkCreate {
        name: name(called),
        consistency: Consistency::Crash,
        note: String::new(),
        wait_seconds: 20,
    }
}

async fn timeline(site: &Site) -> TimelineView {
    site.gateway().timeline(name("web01"), None).await.unwrap()
}

/// Refused with what happened, what else there is, and what to do: never with what its policy says.
fn is_told(refused: &cx_api::Problem, said: &str, remedy: &str) {
    assert_eq!(refused.code, Code::NotSelectable, "{refused:?}");
    assert!(refused.cause.contains(said) && !refused.cause.contains("as its retention"), "{refused:?}");
    let nearest = refused.correction.contains("choose lsn:") || refused.correction.contains("oldest point");
    assert!(nearest && refused.correction.contains(remedy), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_went_for_want_of_room_is_refused_for_that_reason_and_told_in_status_and_timeline() {
    let (tmp, hub) = (tempfile::tempdir().unwrap(), Hub::new());
    let handle = Gateway::start(cramped(tmp.path(), &hub)).await.unwrap();
    let mut site = Site { tmp, hub, handle };
    let (tap, _link) = connected(&site, 61).await;
    site.settled("web01").await;
    site.gateway().policy_set(keeps_all(None)).await.unwrap();
    assert_eq!(timeline(&site).await.shortages, []);
    let first = site.gateway().bookmark_create(name("web01"), bookmark("daily-0")).await.unwrap();
    let start = Instant::now();
    let is_gone = |view: &TimelineView| view.shortages.iter().any(|s| s.went == WentShort::Bookmarks);
    for n in 1.. {
        tap.play(|w| (0..30).map(|_| w.batch(8)).collect::<Vec<_>>());
        // Whoever waits for room comes back by and by.
        let _ = site.gateway().bookmark_create(name("web01"), bookmark(&format!("daily-{n}"))).await;
        let refused = site.gateway().resolve(name("web01"), Point::Bookmark(first.name.clone())).await;
        if is_gone(&timeline(&site).await) && refused.is_err() {
            break;
        }
        assert!(start.elapsed() < 2 * LIMIT, "{:?}", timeline(&site).await.shortages);
    }
    for _ in 0..2 {
        let gateway = site.gateway();
        let why = "bookmark";
        let refused = gateway.resolve(name("web01"), Point::Bookmark(first.name.clone())).await.unwrap_err();
        is_told(&refused, "the journal was full", "raise the journal's limit");
        assert!(refused.cause.contains(why), "{refused:?}");
        let point = Point::Bookmark(first.name.clone());
        let image = gateway.image_create(wish("daily-0", false, None), point).await.unwrap_err();
        is_told(&image, "the journal was full", "raise the journal's limit");
        let view = timeline(&site).await;
        let went = view.shortages.iter().find(|s| s.went != WentShort::Bookmarks).unwrap();
        assert!(went.of == ShortOf::Journal && went.points > 0 && went.since <= went.until);
        let kept = |lsn: &u64| view.points.iter().any(|p| p.lsn.get() == *lsn);
        let gone = (went.first_lsn.get()..=went.last_lsn.get()).find(|lsn| !kept(lsn)).unwrap();
        let refused = gateway.resolve(name("web01"), Point::Lsn(lsn(gone))).await.unwrap_err();
        is_told(&refused, "history of web01", "raise the journal's limit");
        // A time of which nothing is left is no time before all history.
        let early = view.points[0].time.minus(Duration::from_nanos(1));
        let refused = gateway.resolve(name("web01"), Point::Time(early)).await.unwrap_err();
        is_told(&refused, "the journal was full", "raise the journal's limit");
        let status = gateway.status().await.unwrap();
        let told = |what: &str| {
            status.reasons.iter().any(|r| r.contains("the journal was full") && r.contains(what))
        };
        assert!(told("bookmark") && told("history of web01"), "{:?}", status.reasons);
        assert_eq!(status.health, Health::Degraded);
        site.handle.stop(GRACE).await;
        let handle = Gateway::start(cramped(site.tmp.path(), &site.hub)).await.unwrap();
        site = Site { handle, ..site };
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_for_a_volumes_own_limit_is_told_as_that() {
    let (tmp, hub) = (tempfile::tempdir().unwrap(), Hub::new());
    let handle = Gateway::start(gates::often(tmp.path(), &hub)).await.unwrap();
    let site = Site { tmp, hub, handle };
    let (tap, _link) = connected(&site, 62).await;
    tap.play(|w| (0..60).map(|_| w.batch(8)).collect::<Vec<_>>());
    let full = site.settled("web01").await;
    site.gateway().policy_set(keeps_all(Some(full.history_bytes / 2))).await.unwrap();
    let start = Instant::now();
    let view = loop {
        let view = timeline(&site).await;
        if !view.shortages.is_empty() || start.elapsed() > LIMIT {
            break view;
        }
        tokio::task::yield_now().await;
    };
    let went = view.shortages.first().unwrap();
    assert_eq!(went.of, ShortOf::Limit, "{went:?}");
    let kept = |lsn: &u64| view.points.iter().any(|p| p.lsn.get() == *lsn);
    let gone = (went.first_lsn.get()..=went.last_lsn.get()).find(|lsn| !kept(lsn)).unwrap();
    let refused = site.gateway().resolve(name("web01"), Point::Lsn(lsn(gone))).await.unwrap_err();
    is_told(&refused, "the limit of its policy", "raise `limit` in the policy of web01");
}
