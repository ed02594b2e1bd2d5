//! Pages of long lists. What each takes is printed, and the memory for all: `CHRONOGATE_BOOKMARKS=1000000 cargo test --release
//! -p gateway-server --test gateway pages -- --nocapture`.

use std::collections::BTreeSet;

use cx_api::{PolicySet, Retention, Span, WhenFull};
use tap_block::Batch;

use super::gates::often;
use super::sessions::{Haggling, there};
use super::*;

const PAGE: usize = 1000;
const AT_ONCE: usize = 1000;

/// As many as the tests are to have.
fn many() -> usize {
    std::env::var("CHRONOGATE_BOOKMARKS").ok().and_then(|n| n.parse().ok()).unwrap_or(2500)
}

/// Bookmarks are kept for good, all else for a moment.
fn only_bookmarks() -> PolicySet {
    let retention = Retention {
        every_write: Span(Duration::from_millis(50)),
        tiers: Vec::new(),
        bookmarks: Span(Duration::from_secs(1 << 30)),
        when_full: WhenFull::Thin,
        limit: None,
    };
    PolicySet { volume: None, retention: Some(retention), check: false }
}

/// The memory that the process has, in KiB, and the most it had.
fn memory(what: &str) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let lines = status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"));
    println!("{what}: {}", lines.collect::<Vec<_>>().join(", "));
}

/// What follows one another as one batch.
fn joined(mut batches: impl Iterator<Item = Batch>) -> Batch {
    let mut first = batches.next().unwrap();
    batches.for_each(|batch| first.entries.extend(batch.entries));
    first
}

/// The longest and the middle one.
fn told(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    println!(
        "{what}: {} pages, {:?} at most, {:?} in the middle",
        took.len(),
        took.last(),
        took.get(took.len() / 2)
    );
}

fn large(dir: &Path, hub: &Hub) -> GatewayConfig {
    let small = often(dir, hub);
    let store = StoreConfig { segment_len: 64 << 20, ..small.store };
    GatewayConfig { store, ..small }
}

async fn make(site: &Site, tap: &Tap, many: usize) {
    let begun = Instant::now();
    for from in (0..many).step_by(AT_ONCE) {
        let names = (from..many.min(from + AT_ONCE)).map(|n| name(&format!("backup-of-the-night-{n}")));
        let names: Vec<Name> = names.collect();
        tap.play(|w| [joined(names.iter().map(|name| w.bookmark(name))), w.batch(2)]);
        site.settled("web01").await;
    }
    println!("{many} bookmarks made in {:?}", begun.elapsed());
    memory("memory with all bookmarks");
    let begun = Instant::now();
    tap.play(|w| [w.bookmark(&name("one-more"))]);
    site.settled("web01").await;
    println!("one more in {:?}", begun.elapsed());
}

async fn bookmarks(gateway: &Gateway) -> Vec<(Lsn, Name)> {
    let (mut after, mut listed, mut took) = (None, Vec::new(), Vec::new());
    loop {
        let begun = Instant::now();
        let page = gateway.bookmarks(name("web01"), after, PAGE).await.unwrap();
        let bytes = serde_json::to_vec(&page).unwrap();
        took.push(begun.elapsed());
        assert!(bytes.len() > page.len());
        let Some(last) = page.last() else { break };
        after = Some(last.lsn);
        listed.extend(page.into_iter().map(|view| (view.lsn, view.name)));
    }
    told("bookmarks", took);
    listed
}

/// Settled, every point is one of the timeline's.
async fn all_settled(site: &Site, tap: &Tap, last: Lsn) {
    let begun = Instant::now();
    while site.gateway().timeline(name("web01"), None).await.unwrap().every_write_after <= last {
        let reasons = || async { site.gateway().status().await.unwrap().reasons };
        assert!(begun.elapsed() < LIMIT * 20, "not in time: {:?}", reasons().await);
        tap.play(|w| [w.batch(2)]);
        site.settled("web01").await;
    }
    println!("settled in {:?}", begun.elapsed());
    memory("memory with all of them settled");
}

/// The points of a timeline, page by page; each says the same of all.
async fn timeline(gateway: &Gateway) -> BTreeSet<Lsn> {
    let (mut before, mut points, mut took) = (None, BTreeSet::new(), Vec::new());
    loop {
        let begun = Instant::now();
        let page = gateway.timeline(name("web01"), before).await.unwrap();
        serde_json::to_vec(&page).unwrap();
        took.push(begun.elapsed());
        assert_eq!(page.stretches.iter().map(|s| s.points).sum::<u64>(), page.point_count);
        let Some(first) = page.points.first() else { break };
        before = Some(first.lsn);
        points.extend(page.points.iter().map(|point| point.lsn));
    }
    told("timeline", took);
    points
}

async fn exports(site: &Site) {
    let mut took = Vec::new();
    for _ in 0..5 {
        let (begun, socket) = (Instant::now(), site.path("nbd.sock"));
        let listed = there(move || Haggling::new(&socket).list()).await;
        took.push(begun.elapsed());
        assert_eq!(listed.len(), 1 + 100);
    }
    told("NBD list", took);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_bookmarks_and_of_the_timeline_are_the_whole_list() {
    let (many, tmp, hub) = (many(), tempfile::tempdir().unwrap(), Hub::new());
    let handle = Gateway::start(large(tmp.path(), &hub)).await.unwrap();
    let site = Site { tmp, hub, handle };
    let (tap, _link) = connected(&site, 7).await;
    site.settled("web01").await;
    site.gateway().policy_set(only_bookmarks()).await.unwrap();
    let before = site.gateway().bookmarks(name("web01"), None, many).await.unwrap().len();
    make(&site, &tap, many).await;
    let listed = bookmarks(site.gateway()).await;
    assert_eq!(listed.len(), before + many + 1);
    assert!(listed.is_sorted_by(|(one, _), (next, _)| one < next));
    assert!(listed.iter().any(|(_, name)| name.as_str() == "one-more"));

    all_settled(&site, &tap, listed.last().unwrap().0).await;
    let points = timeline(site.gateway()).await;
    assert!(listed.iter().all(|(lsn, _)| points.contains(lsn)));
    exports(&site).await;

    let Site { tmp, hub, handle } = site;
    handle.stop(GRACE).await;
    let begun = Instant::now();
    let handle = Gateway::start(large(tmp.path(), &hub)).await.unwrap();
    println!("started again in {:?}", begun.elapsed());
    memory("memory behind a start");
    let again = handle.gateway().bookmarks(name("web01"), None, many * 2).await.unwrap();
    assert!(again.into_iter().map(|view| (view.lsn, view.name)).eq(listed));
    handle.stop(GRACE).await;
}
