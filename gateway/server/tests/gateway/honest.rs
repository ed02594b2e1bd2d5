//! What an administrator is told when something is gone or damaged: what happened, why, and what to do.

use std::os::unix::fs::FileExt as _;

use cx_api::{Health, PolicySet, Retention, ShortOf, Span, TimelineView, WentShort, WhenFull};
use cx_wire::SetBack;
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

/// Of the store that was put back to where the tap is: so often it is told that it had `more`.
fn told_of(status: &cx_api::StatusView, has: Lsn, more: u64) -> usize {
    let words = [format!("up to lsn:{} ", has.get() + more), format!("than lsn:{}:", has.get())];
    let is_it = |r: &&String| {
        r.contains("put back to an older state")
            && r.contains("--acknowledge")
            && words.iter().all(|w| r.contains(w))
    };
    status.reasons.iter().filter(is_it).count()
}

async fn until_told(site: &Site, has: Lsn, more: u64) {
    let start = Instant::now();
    loop {
        let status = site.gateway().status().await.unwrap();
        if told_of(&status, has, more) == 1 {
            return assert_eq!(status.health, Health::Degraded);
        }
        assert!(start.elapsed() < LIMIT, "{:?}", status.reasons);
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_put_back_is_told_of_until_somebody_has_read_of_it() {
    let site = Site::new().await;
    let (tap, _link) = connected(&site, 64).await;
    let has = site.settled("web01").await.durable_lsn;
    tap.says_set_back(Some(SetBack { had: has.plus(80), has }));
    until_told(&site, has, 80).await;
    let view = site.gateway().verification(name("web01"), Points::default()).await.unwrap();
    let lost = (FindingKind::Missing, Some(has.next()), Some(has.plus(80)));
    assert_eq!((view.open, view.over, view.findings.len()), (0, 1, 1), "{view:?}");
    assert_eq!((view.findings[0].kind, view.findings[0].from_lsn, view.findings[0].to_lsn), lost);
    let acknowledged = site.gateway().acknowledge(name("web01"), Points::default()).await.unwrap();
    assert_eq!(acknowledged.findings.len(), 0);
    // It is said with every heartbeat, and has been read of.
    let (beats, start) = (tap.beats(), Instant::now());
    while tap.beats() < beats + 3 {
        assert!(start.elapsed() < LIMIT);
        tokio::task::yield_now().await;
    }
    assert_eq!(told_of(&site.gateway().status().await.unwrap(), has, 80), 0);
    // Once more, and before anybody reads of it the gateway is started anew: whoever is above has forgotten by then.
    tap.says_set_back(Some(SetBack { had: has.plus(90), has }));
    until_told(&site, has, 90).await;
    tap.says_set_back(None);
    let site = site.restarted().await;
    until_told(&site, has, 90).await;
    site.gateway().acknowledge(name("web01"), Points::default()).await.unwrap();
    assert_eq!(told_of(&site.gateway().status().await.unwrap(), has, 90), 0);
}

/// Of the bits of the first segment one whose flip keeps a block of the newest state from being read; it is left flipped.
async fn flipped(site: &Site) -> u64 {
    let dir = site.tmp.path().join("data/store/seg");
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let file = std::fs::File::options().read(true).write(true).open(&files[0]).unwrap();
    let used = std::fs::read(&files[0]).unwrap().iter().rposition(|&b| b != 0).unwrap() as u64;
    for n in (1..64).rev() {
        let mut byte = [0];
        file.read_exact_at(&mut byte, used * n / 64).unwrap();
        file.write_all_at(&[byte[0] ^ 1], used * n / 64).unwrap();
        if let Some(at) = unread(site.path("nbd.sock")).await {
            return at;
        }
        file.write_all_at(&byte, used * n / 64).unwrap();
    }
    panic!("no block lies anywhere");
}

/// Where the first block lies that is not read.
async fn unread(socket: PathBuf) -> Option<u64> {
    let work = move || {
        let (mut client, export) = open(&socket, "web01").unwrap();
        let mut block = vec![0; 4096];
        (0..export.size / 4096).map(|n| n * 4096).find(|at| {
            client.seek(SeekFrom::Start(*at)).unwrap();
            client.read_exact(&mut block).is_err()
        })
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_a_read_meets_is_told_at_once_and_until_it_is_put_right() {
    let (tmp, hub) = (tempfile::tempdir().unwrap(), Hub::new());
    let plain = config(tmp.path(), &hub);
    // Whoever scrubs never does: nobody but the reader comes past it.
    let store = StoreConfig { scrub_rate: Some(0), ..plain.store };
    let handle = Gateway::start(GatewayConfig { store, ..plain }).await.unwrap();
    let site = Site { tmp, hub, handle };
    let (tap, link) = connected(&site, 63).await;
    site.settled("web01").await;
    // Else it would be put right before it is told.
    link.stop().await;
    site.until("web01", |v| v.state == VolumeState::Unknown).await;
    let before = site.gateway().status().await.unwrap();
    assert!(!before.reasons.iter().any(|r| r.contains("damage")), "{:?}", before.reasons);
    let at = flipped(&site).await;
    let status = site.gateway().status().await.unwrap();
    assert_eq!((status.health, status.volumes[0].damaged), (Health::Degraded, 1), "{:?}", status.reasons);
    assert_eq!((status.journal.damaged, status.journal.refused), (1, 1), "{:?}", status.journal);
    assert!(status.reasons.iter().any(|r| r.contains("chronogate verify web01")), "{:?}", status.reasons);
    let start = Instant::now();
    let view = loop {
        let view = site.gateway().verification(name("web01"), Points::default()).await.unwrap();
        assert_eq!(view.open, 1, "it is counted all the while: {view:?}");
        if !view.findings.is_empty() || start.elapsed() > LIMIT {
            break view;
        }
        tokio::task::yield_now().await;
    };
    let found = view.findings[0].clone();
    assert_eq!((found.kind, found.extent.map(|e| e.offset)), (FindingKind::Block, Some(at)), "{found:?}");
    // Whoever reads it again is refused again, and it is one place all the same.
    assert_eq!(unread(site.path("nbd.sock")).await, Some(at));
    let status = site.gateway().status().await.unwrap();
    assert_eq!((status.volumes[0].damaged, status.journal.refused), (1, 1));
    let _link = tap.connect(&site.hub, "web01");
    site.until("web01", |v| v.damaged == 0 && v.state == VolumeState::Protected).await;
    let status = site.gateway().status().await.unwrap();
    assert_eq!((status.journal.damaged, status.journal.refused), (0, 0), "{:?}", status.journal);
    assert_eq!(unread(site.path("nbd.sock")).await, None);
}
