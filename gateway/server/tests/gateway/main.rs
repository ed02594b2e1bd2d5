//! A whole gateway, from the link to the NBD client: fed by a tap in memory, asked as the API asks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod exports;
mod gates;
mod honest;
mod images;
mod limits;
mod names;
mod pages;
mod sessions;
mod store;
mod tap;

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cx_api::{
    BookmarkCreate, Code, FindingKind, HoldCreate, ImageClone, ImageCommit, ImageCreate, ImageView, JobKind,
    JobState, JobView, RepairCreate, VerificationView, VolumeState, VolumeView,
};
use cx_link::{Address, Hub, UplinkHandle};
use cx_wire::{AskCode, Hashes, LedgerHead, Lookup, RefuseCode, Witness};
use gateway_front::ListenAddress;
use gateway_image::Point;
use gateway_server::http::{Control, ImageKey, Points};
use gateway_server::{Gateway, GatewayConfig, GatewayHandle, StartError};
use gateway_store::StoreConfig;
use nbd::client::{NbdClient, handshake};
use tap::Tap;
use tap_block::{Consistency, Epoch, Extent, Lsn, Name, SyncCause, VolumeId, WallTime};
use tempfile::TempDir;

/// No test waits longer for anything.
const LIMIT: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(2);

struct Site {
    tmp: TempDir,
    hub: Hub,
    handle: GatewayHandle,
}

impl Site {
    async fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let hub = Hub::new();
        let handle = Gateway::start(config(tmp.path(), &hub)).await.unwrap();
        Self { tmp, hub, handle }
    }

    async fn restarted(self) -> Self {
        self.handle.stop(GRACE).await;
        let handle = Gateway::start(config(self.tmp.path(), &self.hub)).await.unwrap();
        Self { handle, ..self }
    }

    fn gateway(&self) -> &Arc<Gateway> {
        self.handle.gateway()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tmp.path().join(name)
    }

    /// Waits until the volume is as wanted.
    async fn until(&self, volume: &str, wanted: impl Fn(&VolumeView) -> bool) -> VolumeView {
        let start = Instant::now();
        loop {
            let view = self.gateway().volume(name(volume)).await;
            match view {
                Ok(view) if wanted(&view) => return view,
                other if start.elapsed() > LIMIT => panic!("not in time: {other:?}"),
                _ => tokio::task::yield_now().await,
            }
        }
    }

    async fn settled(&self, volume: &str) -> VolumeView {
        self.until(volume, |v| v.head_lsn == Some(v.durable_lsn)).await
    }

    async fn job_done(&self, job: JobView) -> JobView {
        let start = Instant::now();
        loop {
            let view = self.gateway().job(job.id).await.unwrap();
            if view.state.is_final() {
                return view;
            }
            assert!(start.elapsed() < LIMIT, "not in time: {view:?}");
            tokio::task::yield_now().await;
        }
    }

    async fn image(&self, at: &str, writable: bool, called: Option<&str>) -> ImageView {
        let point = at.parse().unwrap();
        self.gateway().image_create(wish(at, writable, called), point).await.unwrap()
    }
}

fn config(dir: &Path, hub: &Hub) -> GatewayConfig {
    let plain = GatewayConfig::new(dir.join("data"));
    GatewayConfig {
        store: StoreConfig { segment_len: 4 << 20, ..plain.store },
        links: vec![Address::Memory("gateway".to_owned())],
        nbd: vec![ListenAddress::Unix(dir.join("nbd.sock"))],
        hub: hub.clone(),
        protected: vec![dir.join("protected.img")],
        ..plain
    }
}

fn wish(at: &str, writable: bool, called: Option<&str>) -> ImageCreate {
    ImageCreate {
        volume: name("web01"),
        at: at.to_owned(),
        writable,
        name: called.map(name),
        quota_bytes: None,
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn lsn(n: u64) -> Lsn {
    Lsn::new(n).unwrap()
}

fn open(socket: &Path, export: &str) -> Result<(NbdClient<UnixStream>, nbd::Export), std::io::Error> {
    let mut stream = UnixStream::connect(socket)?;
    let export = handshake(&mut stream, export.as_bytes())?;
    Ok((NbdClient::new(stream, &export), export))
}

/// Reads a whole export as a foreign client does.
async fn read(socket: PathBuf, export: String) -> Result<Vec<u8>, std::io::Error> {
    let work = move || {
        let (mut client, export) = open(&socket, &export)?;
        let mut all = vec![0; usize::try_from(export.size).unwrap()];
        client.read_exact(&mut all)?;
        Ok(all)
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn connected(site: &Site, seed: u64) -> (Arc<Tap>, UplinkHandle) {
    let tap = Tap::new(seed);
    tap.play(|w| w.history(80));
    let link = tap.connect(&site.hub, "web01");
    (tap, link)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_sound_point_opens_over_nbd_as_the_oracle_replays() {
    let mut site = Site::new().await;
    let tap = Tap::new(1);
    tap.play(|w| {
        let mut played = vec![w.begin(), w.batch(6), w.end_sync()];
        played.extend((0..8).flat_map(|_| [w.batch(7), w.grow(1)]));
        played.extend([w.restart(1000, Some(SyncCause::UncleanStop)), w.batch(5), w.end_sync(), w.batch(9)]);
        played
    });
    let _link = tap.connect(&site.hub, "web01");
    let view = site.settled("web01").await;
    assert_eq!(view.state, VolumeState::Protected);
    let oracle = tap.oracle();
    for round in 0..2 {
        let socket = site.path("nbd.sock");
        let mut opened = 0;
        for point in oracle.lsns().into_iter().step_by(3) {
            let selectable = site.gateway().resolve(name("web01"), Point::Lsn(point)).await;
            let got = read(socket.clone(), format!("web01@lsn:{}", point.get())).await;
            match selectable {
                Ok(at) => {
                    assert_eq!(at.lsn, point);
                    assert!(got.unwrap() == oracle.image_at(tap.volume(), point), "{point}");
                    opened += 1;
                }
                Err(e) => {
                    assert_eq!(e.code, Code::NotSelectable, "{e:?}");
                    assert!(got.is_err());
                }
            }
        }
        assert!(opened > 15, "{opened} in round {round}");
        assert!(
            read(socket, "web01".to_owned()).await.unwrap()
                == oracle.image_at(tap.volume(), oracle.last_lsn())
        );
        site = site.restarted().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tap_hears_what_its_disk_looks_like_here() {
    let site = Site::new().await;
    let (tap, link) = connected(&site, 12).await;
    site.settled("web01").await;
    let (querier, oracle) = (link.querier(), tap.oracle());
    let head = oracle.last_lsn();
    let image = oracle.image_at(tap.volume(), head);
    let whole = Extent::between(0, image.len() as u64).to_blocks();
    let lookup = Lookup { volume: tap.volume(), extent: whole, after: head, seed: 99 };
    let Hashes { at, hashes } = querier.query(lookup, LIMIT).await.unwrap();
    assert_eq!((at, hashes.as_ref()), (head, cx_delta::hashes(99, &image).as_slice()));

    let strange = Lookup { volume: VolumeId::new(1), ..lookup };
    assert_eq!(querier.query(strange, LIMIT).await.unwrap_err().code, AskCode::NotFound);

    // A record that is on its way is waited for; one that never comes is not.
    let (after, asked) = (head.next(), querier.clone());
    let waiting = tokio::spawn(async move { asked.query(Lookup { after, ..lookup }, LIMIT).await });
    tap.play(|w| vec![w.batch(4)]);
    let found = waiting.await.unwrap().unwrap();
    assert!(found.at >= after);
    let never = Lookup { after: Lsn::ZERO.plus(1 << 40), ..lookup };
    assert_eq!(querier.query(never, LIMIT).await.unwrap_err().code, AskCode::Timeout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn points_resolve_and_errors_name_what_there_is() {
    let site = Site::new().await;
    let (tap, _link) = connected(&site, 2).await;
    site.settled("web01").await;
    let (gateway, oracle) = (site.gateway(), tap.oracle());
    let now = gateway.resolve(name("web01"), Point::Now).await.unwrap();
    assert_eq!(now.lsn, oracle.last_lsn());
    for (at, mark) in oracle.bookmarks() {
        match gateway.resolve(name("web01"), Point::Bookmark(mark.name.clone())).await {
            Ok(found) => assert_eq!((found.lsn, found.name), (at, Some(mark.name))),
            Err(e) => assert_eq!(e.code, Code::NotSelectable),
        }
    }
    let at_time = gateway.resolve(name("web01"), Point::Time(now.time.unwrap())).await.unwrap();
    assert_eq!(at_time.lsn, oracle.last_lsn());
    let early = gateway.resolve(name("web01"), Point::Time(tap_block::WallTime::from_nanos(1))).await;
    assert_eq!(early.unwrap_err().code, Code::NotSelectable);
    let unknown = gateway.resolve(name("web01"), Point::Bookmark(name("mark"))).await.unwrap_err();
    assert_eq!(unknown.code, Code::NotFound);
    assert!(unknown.correction.contains("mark-"), "{unknown:?}");
    let nowhere = gateway.resolve(name("web02"), Point::Now).await.unwrap_err();
    assert_eq!(nowhere.code, Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_point_that_is_on_its_way_is_waited_for() {
    let site = Site::new().await;
    let (tap, _link) = connected(&site, 3).await;
    let head = site.settled("web01").await.durable_lsn;
    let gateway = Arc::clone(site.gateway());
    let coming = head.plus(4);
    let asked = tokio::spawn(async move { gateway.resolve(name("web01"), Point::Lsn(coming)).await });
    tap.play(|w| [w.batch(8)]);
    assert_eq!(asked.await.unwrap().unwrap().lsn, coming);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_point_that_does_not_come_is_refused_with_what_is_there() {
    let site = Site::new().await;
    let (_tap, _link) = connected(&site, 3).await;
    let head = site.settled("web01").await.durable_lsn;
    let refused = site.gateway().resolve(name("web01"), Point::Lsn(lsn(1 << 50))).await.unwrap_err();
    assert_eq!(refused.code, Code::NotYetDurable);
    assert!(refused.cause.contains(&format!("lsn:{}", head.get())), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bookmark_is_a_round_trip_and_a_point() {
    let site = Site::new().await;
    let (tap, link) = connected(&site, 4).await;
    site.settled("web01").await;
    let ask = |text: &str| BookmarkCreate {
        name: name(text),
        consistency: Consistency::Crash,
        note: "before".to_owned(),
        wait_seconds: 5,
    };
    let made = site.gateway().bookmark_create(name("web01"), ask("gold")).await.unwrap();
    assert_eq!(made.lsn, tap.oracle().last_lsn());
    assert!(made.selectable);
    let taken = site.gateway().bookmark_create(name("web01"), ask("gold")).await.unwrap_err();
    assert_eq!(taken.code, Code::Conflict);
    let listed = site.gateway().bookmarks(name("web01"), None, 1000).await.unwrap();
    assert!(listed.iter().any(|b| b.name == made.name && b.lsn == made.lsn));
    link.stop().await;
    let view = site.until("web01", |v| v.state == VolumeState::Unknown).await;
    assert_eq!((view.head_lsn, view.lag_seconds), (None, None));
    let gone = site.gateway().bookmark_create(name("web01"), ask("late")).await.unwrap_err();
    assert_eq!(gone.code, Code::Unreachable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bookmark_is_removed_for_good_unless_it_is_held() {
    let site = Site::new().await;
    let (tap, _link) = connected(&site, 23).await;
    site.settled("web01").await;
    let ask = |text: &str| BookmarkCreate {
        name: name(text),
        consistency: Consistency::Crash,
        note: String::new(),
        wait_seconds: 5,
    };
    let made = site.gateway().bookmark_create(name("web01"), ask("gold")).await.unwrap();
    site.gateway().pin(name("web01"), Point::Lsn(made.lsn), "why".to_owned()).await.unwrap();
    let again = site.gateway().pin(name("web01"), Point::Lsn(made.lsn), String::new()).await.unwrap();
    assert_eq!(again.note, "why", "pinned again without a word");
    site.gateway().bookmark_remove(name("web01"), name("gold")).await.unwrap();
    let listed = || async { site.gateway().bookmarks(name("web01"), None, 1000).await.unwrap() };
    assert!(listed().await.iter().all(|b| b.name != made.name));
    let again = site.gateway().bookmark_remove(name("web01"), name("gold")).await.unwrap_err();
    assert_eq!(again.code, Code::NotFound);
    let gone = site.gateway().resolve(name("web01"), Point::Bookmark(name("gold"))).await.unwrap_err();
    assert_eq!(gone.code, Code::NotFound);
    let timeline = site.gateway().timeline(name("web01"), None).await.unwrap();
    assert!(
        timeline.pins.iter().any(|pin| pin.lsn == made.lsn && pin.note == "why"),
        "its pin is another matter"
    );
    // The name is free again; what is held keeps its name.
    let second = site.gateway().bookmark_create(name("web01"), ask("gold")).await.unwrap();
    assert!(second.lsn > made.lsn && tap.oracle().last_lsn() == second.lsn);
    let until = WallTime::from_nanos(u64::MAX / 2);
    let hold = HoldCreate { from: Some(second.time), to: None, until, note: "audit".to_owned(), all: false };
    site.gateway().hold(name("web01"), hold).await.unwrap();
    let held = site.gateway().bookmark_remove(name("web01"), name("gold")).await.unwrap_err();
    assert_eq!(held.code, Code::Forbidden, "{held:?}");
    let site = site.restarted().await;
    let left = site.gateway().bookmarks(name("web01"), None, 1000).await.unwrap();
    let left: Vec<Lsn> = left.iter().filter(|b| b.name == made.name).map(|b| b.lsn).collect();
    assert_eq!(left, [second.lsn]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_opens_before_the_baseline_has_ended() {
    let site = Site::new().await;
    let tap = Tap::new(5);
    tap.play(|w| [w.begin(), w.batch(5)]);
    let _link = tap.connect(&site.hub, "web01");
    let view = site.until("web01", |v| v.state == VolumeState::Baseline && v.head_lsn.is_some()).await;
    assert_eq!((view.durable_lsn, view.baseline_count), (Lsn::ZERO, 1));
    let refused = site.gateway().resolve(name("web01"), Point::Now).await.unwrap_err();
    assert_eq!(refused.code, Code::NotSelectable);
    let late = BookmarkCreate {
        name: name("x"),
        consistency: Consistency::Crash,
        note: String::new(),
        wait_seconds: 0,
    };
    let timed_out = site.gateway().bookmark_create(name("web01"), late).await.unwrap_err();
    assert_eq!(timed_out.code, Code::TimedOut);
    assert!(read(site.path("nbd.sock"), "web01".to_owned()).await.is_err());
    tap.play(|w| [w.end_sync()]);
    site.settled("web01").await;
    assert!(read(site.path("nbd.sock"), "web01".to_owned()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unclean_stop_is_shown_as_a_gap() {
    let site = Site::new().await;
    let tap = Tap::new(6);
    let sound = {
        tap.play(|w| [w.begin(), w.batch(5), w.end_sync(), w.batch(9)]);
        tap.oracle().last_lsn()
    };
    let _link = tap.connect(&site.hub, "web01");
    site.settled("web01").await;
    tap.restarts();
    tap.play(|w| [w.restart(500, Some(SyncCause::UncleanStop)), w.batch(4)]);
    let open = site.until("web01", |v| v.gaps.len() == 1).await;
    assert_eq!((open.durable_lsn, open.gaps[0].from_lsn, open.gaps[0].to_lsn), (sound, sound, None));
    tap.play(|w| [w.end_sync()]);
    let closed = site.settled("web01").await;
    assert_eq!(closed.gaps[0].to_lsn, Some(closed.durable_lsn));
    assert_eq!(closed.baseline_count, 1);
    let inside = site.gateway().resolve(name("web01"), Point::Lsn(sound.plus(3))).await.unwrap_err();
    assert!(inside.correction.contains(&format!("lsn:{}", sound.get())), "{inside:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moving_name_stands_still_for_a_client() {
    let site = Site::new().await;
    let (tap, _link) = connected(&site, 7).await;
    site.settled("web01").await;
    let (socket, oracle) = (site.path("nbd.sock"), tap.oracle());
    let first = read(socket.clone(), "web01".to_owned()).await.unwrap();
    assert!(first == oracle.image_at(tap.volume(), oracle.last_lsn()));
    tap.play(|w| [w.batch(20)]);
    let head = site.settled("web01").await.durable_lsn;
    assert!(read(socket.clone(), "web01".to_owned()).await.unwrap() == first);
    let _site = site.restarted().await;
    assert!(read(socket.clone(), "web01".to_owned()).await.unwrap() == first, "over a restart, too");
    let fixed = read(socket, format!("web01@lsn:{}", head.get())).await.unwrap();
    assert!(fixed == tap.oracle().image_at(tap.volume(), head));
    assert!(fixed != first);
}

/// The names that an NBD client is shown, asked for byte by byte: fixed newstyle, NO_ZEROES, LIST.
fn listed(socket: &Path) -> Vec<String> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.read_exact(&mut [0; 18]).unwrap();
    let mut asked = 3u32.to_be_bytes().to_vec();
    asked.extend_from_slice(b"IHAVEOPT");
    asked.extend_from_slice(&[0, 0, 0, 3, 0, 0, 0, 0]);
    stream.write_all(&asked).unwrap();
    let mut names = Vec::new();
    loop {
        let mut head = [0; 20];
        stream.read_exact(&mut head).unwrap();
        let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        let mut body = vec![0; usize::try_from(number(16)).unwrap()];
        stream.read_exact(&mut body).unwrap();
        match number(12) {
            2 => {
                let len = usize::from(body[2]) << 8 | usize::from(body[3]);
                names.push(String::from_utf8(body[4..4 + len].to_vec()).unwrap());
            }
            1 => return names,
            other => panic!("reply {other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_shows_heads_images_and_the_newest_bookmarks() {
    let site = Site::new().await;
    let tap = Tap::new(15);
    tap.play(|w| {
        let mut played = vec![w.begin(), w.end_sync()];
        played.extend((0..1005).map(|n| w.bookmark(&name(&format!("b{n}")))));
        played
    });
    let _link = tap.connect(&site.hub, "web01");
    site.settled("web01").await;
    site.image("b3", false, Some("kept")).await;
    let socket = site.path("nbd.sock");
    let names = tokio::task::spawn_blocking(move || listed(&socket)).await.unwrap();
    assert_eq!((names[0].as_str(), names[1].as_str(), names.len()), ("web01", "kept", 102));
    assert!(names.contains(&"web01@b1004".to_owned()) && !names.contains(&"web01@b904".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_history_of_a_stream_is_refused() {
    let site = Site::new().await;
    let (tap, link) = connected(&site, 16).await;
    site.settled("web01").await;
    link.stop().await;
    let copy = Tap::new(16);
    copy.play(|w| [w.begin()]);
    copy.restarts();
    copy.play(|w| [w.restart(0, Some(SyncCause::UncleanStop)), w.end_sync()]);
    let _copy = copy.connect(&site.hub, "web01");
    let start = Instant::now();
    while copy.refused().is_none() {
        assert!(start.elapsed() < LIMIT);
        tokio::task::yield_now().await;
    }
    assert_eq!(copy.refused().unwrap().code, RefuseCode::SplitHistory);
    assert_eq!(site.gateway().volume(name("web01")).await.unwrap().durable_lsn, tap.oracle().last_lsn());
    // Somebody says that it is the one to go on with: it is told where.
    let accepted = site.gateway().accept_restored(name("web01")).await.unwrap();
    let above = tap.oracle().last_lsn();
    assert_eq!((accepted.history_lsn, accepted.volume.as_str()), (above, "web01"));
    assert_eq!(site.gateway().accept_restored(name("web01")).await.unwrap(), accepted, "said again");
    let told = RefuseCode::BeginAnew { above, epoch: Epoch::new(accepted.epoch) };
    while copy.refused().unwrap().code != told {
        assert!(start.elapsed() < LIMIT);
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_journal_lost_is_told_and_asked_for_again() {
    let site = Site::new().await;
    let tap = Tap::new(17);
    tap.play(|w| {
        let mut played = vec![w.begin(), w.end_sync()];
        played.extend((0..20).map(|_| w.batch(5)));
        played
    });
    let link = tap.connect(&site.hub, "web01");
    let head = site.settled("web01").await.durable_lsn;
    link.stop().await;
    let Site { tmp, hub, handle } = site;
    handle.stop(GRACE).await;
    damage(&tmp.path().join("data/store/seg"));
    // The stop was in order, so the index knows of everything; without it what is damaged is gone.
    std::fs::remove_dir_all(tmp.path().join("data/store/fjall")).unwrap();
    let handle = Gateway::start(config(tmp.path(), &hub)).await.unwrap();
    let site = Site { tmp, hub, handle };
    let status = site.gateway().status().await.unwrap();
    assert!(status.journal.damaged > 0, "{status:?}");
    let refused = site.gateway().resolve(name("web01"), Point::Lsn(head)).await.unwrap_err();
    assert_eq!(refused.code, Code::NotSelectable, "{refused:?}");
    let _link = tap.connect(&site.hub, "web01");
    let start = Instant::now();
    while tap.resync_from().is_none() {
        assert!(start.elapsed() < LIMIT);
        tokio::task::yield_now().await;
    }
    let before = tap.resync_from().unwrap();
    assert!(before < head);
    // The wiped bytes may have begun in the payload of the last sound frames.
    let early = lsn(before.get() / 2);
    let got = read(site.path("nbd.sock"), format!("web01@lsn:{}", early.get())).await.unwrap();
    assert!(got == tap.oracle().image_at(tap.volume(), early), "what lies before the damage is sound");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_before_all_history_was_never_thinned_out() {
    let tmp = tempfile::tempdir().unwrap();
    let hub = Hub::new();
    let handle = Gateway::start(gates::often(tmp.path(), &hub)).await.unwrap();
    let site = Site { tmp, hub, handle };
    let tap = Tap::of(testbed_model::Workload::blank(5, 64 << 12));
    tap.play(|w| {
        let mut played = vec![w.begin(), w.end_sync()];
        played.extend((0..20).map(|_| w.batch(5)));
        played
    });
    let _link = tap.connect(&site.hub, "web01");
    site.settled("web01").await;
    let retention = cx_api::Retention {
        every_write: cx_api::Span(Duration::ZERO),
        tiers: Vec::new(),
        ..cx_api::Retention::built_in()
    };
    let wanted = cx_api::PolicySet { volume: None, retention: Some(retention), check: false };
    site.gateway().policy_set(wanted).await.unwrap();
    let start = Instant::now();
    while site.gateway().timeline(name("web01"), None).await.unwrap().every_write_after.get() < 20 {
        assert!(start.elapsed() < LIMIT);
        tap.play(|w| [w.batch(5)]);
        site.settled("web01").await;
    }
    let resolve = async |n| site.gateway().resolve(name("web01"), Point::Lsn(lsn(n))).await.unwrap_err();
    let (before, thinned) = (resolve(0).await, resolve(7).await);
    assert_eq!((before.code, thinned.code), (Code::NotSelectable, Code::NotSelectable));
    assert!(before.cause.contains("before its first record"), "{before:?}");
    assert!(thinned.cause.contains("kept more sparsely"), "{thinned:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_is_copied_anew_when_somebody_asks_for_it() {
    let site = Site::new().await;
    let (tap, link) = connected(&site, 27).await;
    let head = site.settled("web01").await.durable_lsn;
    let job = site.gateway().resync(name("web01")).await.unwrap();
    assert_eq!((job.kind, job.lsn, tap.resync_from()), (JobKind::Resync, head, Some(head)));
    let second = site.gateway().resync(name("web01")).await.unwrap_err();
    assert!(second.code == Code::Conflict && second.correction.contains("job show 1"), "{second:?}");
    let late = site.gateway().job_cancel(job.id).await.unwrap_err();
    assert_eq!(late.code, Code::Conflict, "nobody calls the tap back");
    // Nothing of the copy has come, then only its beginning.
    tap.play(|w| [w.batch(3)]);
    site.settled("web01").await;
    assert_eq!(site.gateway().job(job.id).await.unwrap().state, JobState::Running);
    tap.play(|w| [w.restart(0, Some(SyncCause::HopLost)), w.batch(3)]);
    site.until("web01", |v| v.gaps.last().is_some_and(|gap| gap.to_lsn.is_none())).await;
    assert_eq!(site.gateway().job(job.id).await.unwrap().state, JobState::Running);
    tap.play(|w| [w.end_sync()]);
    let done = site.job_done(job).await;
    assert_eq!((done.state, done.done_bytes), (JobState::Done, done.total_bytes));
    // A tap that starts anew before it began forgets what it was asked for.
    let job = site.gateway().resync(name("web01")).await.unwrap();
    tap.play(|w| [w.restart(0, None)]);
    let ended = site.job_done(job).await;
    let why = ended.error.unwrap();
    assert!(why.code == Code::Conflict && why.detail.contains("cut short"), "{why:?}");
    link.stop().await;
    let away = site.gateway().resync(name("web01")).await.unwrap_err();
    assert_eq!(away.code, Code::Unreachable, "{away:?}");
}

/// Whoever asks while another one's request is on its way to the tap hears of that one.
#[tokio::test]
async fn of_two_who_ask_for_a_copy_at_once_one_is_told_of_the_other() {
    let site = Site::new().await;
    let (_tap, _uplink) = connected(&site, 5).await;
    site.settled("web01").await;
    let gateway = site.gateway();
    let (one, other) = tokio::join!(gateway.resync(name("web01")), gateway.resync(name("web01")));
    let (job, told) = match (one, other) {
        (Ok(job), Err(told)) | (Err(told), Ok(job)) => (job, told),
        both => panic!("{both:?}"),
    };
    assert_eq!((job.kind, told.code), (JobKind::Resync, Code::Conflict));
    let third = gateway.resync(name("web01")).await.unwrap_err();
    assert!(third.detail.contains(&format!("job {}", job.id)), "{third:?}");
}

/// Wipes a part in the middle of what was written.
fn damage(segments: &Path) {
    let mut files: Vec<PathBuf> = std::fs::read_dir(segments).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let mut bytes = std::fs::read(&files[0]).unwrap();
    let used = bytes.iter().rposition(|&b| b != 0).unwrap();
    bytes[used / 2..used / 2 + 9000].fill(0);
    std::fs::write(&files[0], bytes).unwrap();
}

/// The tap in memory lives in 2023.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_wrong_is_measured_told_and_reckoned_with() {
    let site = Site::new().await;
    let (_tap, _link) = connected(&site, 8).await;
    site.settled("web01").await;
    let years = 3600.0 * 24.0 * 365.0;
    let view = site.until("web01", |v| v.clock_offset_seconds.is_some() && v.lag_seconds.is_some()).await;
    assert!(view.clock_offset_seconds.unwrap() < -2.0 * years, "{view:?}");
    assert!(view.lag_seconds.unwrap() < 60.0, "by its own clock it is hardly behind: {view:?}");
    let reasons = site.gateway().status().await.unwrap().reasons;
    assert!(reasons.iter().any(|r| r.contains("the clock of the source of web01 is")), "{reasons:?}");
}

/// Two gateways may know different disks by one name; a block of the other one would pass every checksum.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_of_another_volume_repairs_nothing() {
    let site = Site::new().await;
    let (_tap, _link) = connected(&site, 8).await;
    site.settled("web01").await;
    let wanted = |volume_id, unit: &str| RepairCreate { volume_id, offset: 0, version: 2, unit: unit.into() };
    let other = site.gateway().repair(name("web01"), wanted(VolumeId::new(1), "00")).await.unwrap_err();
    assert_eq!(other.code, Code::Invalid);
    assert!(other.detail.contains("another volume"), "{other:?}");
    let volume = site.gateway().volume(name("web01")).await.unwrap();
    let unsound = site.gateway().repair(name("web01"), wanted(volume.id, "00")).await.unwrap_err();
    assert_eq!((unsound.code, unsound.cause.contains("not sound")), (Code::Invalid, true), "{unsound:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_is_the_moment_byte_for_byte() {
    let site = Site::new().await;
    let (tap, _link) = connected(&site, 10).await;
    site.settled("web01").await;
    let (gateway, path) = (site.gateway(), site.path("out/restored.img"));
    let nowhere = gateway.restore(name("web01"), Point::Now, path.clone()).await.unwrap_err();
    assert!(
        nowhere.code == Code::Invalid && nowhere.to_string().contains("there is no directory"),
        "{nowhere}"
    );
    assert!(!site.path("out").exists());
    std::fs::create_dir(site.path("out")).unwrap();
    let job = gateway.restore(name("web01"), Point::Now, path.clone()).await.unwrap();
    let done = site.job_done(job).await;
    assert_eq!((done.state, done.error), (JobState::Done, None));
    let expected = tap.oracle().image_at(tap.volume(), done.lsn);
    assert_eq!(done.done_bytes, expected.len() as u64);
    assert!(std::fs::read(&path).unwrap() == expected);
    assert!(!site.path("out/restored.img.chronogate").exists());
    let again = gateway.restore(name("web01"), Point::Now, path).await.unwrap_err();
    assert_eq!(again.code, Code::Conflict);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_never_touches_what_is_not_its_own() {
    let site = Site::new().await;
    let (tap, _link) = connected(&site, 11).await;
    let at = site.settled("web01").await.durable_lsn;
    let gateway = site.gateway();
    let to = |path: PathBuf| gateway.restore(name("web01"), Point::Lsn(at), path);
    std::fs::write(site.path("protected.img"), []).unwrap();
    std::fs::hard_link(site.path("protected.img"), site.path("link.img")).unwrap();
    assert_eq!(to(site.path("link.img")).await.unwrap_err().code, Code::Conflict);
    std::fs::write(site.path("precious"), "data").unwrap();
    assert_eq!(to(site.path("precious")).await.unwrap_err().code, Code::Conflict);
    assert_eq!(std::fs::read(site.path("precious")).unwrap(), b"data");
    assert_eq!(to(site.path("data/x.img")).await.unwrap_err().code, Code::Conflict);
    assert_eq!(to(site.tmp.path().to_owned()).await.unwrap_err().code, Code::Conflict);
    // Half a restore of another moment, then of this one.
    let expected = tap.oracle().image_at(tap.volume(), at);
    let note = |lsn: u64, done: usize| {
        let text = serde_json::json!({
            "chronogate_restore": 1, "volume": tap.volume().get(), "lsn": lsn,
            "size": expected.len(), "done": done,
        });
        std::fs::write(site.path("half.chronogate"), text.to_string()).unwrap();
    };
    let mut half = expected.clone();
    half[100_000..].fill(0);
    std::fs::write(site.path("half"), &half).unwrap();
    note(at.get() - 1, 65_536);
    assert_eq!(to(site.path("half")).await.unwrap_err().code, Code::Conflict);
    note(at.get(), 65_536);
    let done = site.job_done(to(site.path("half")).await.unwrap()).await;
    assert_eq!(done.state, JobState::Done);
    assert!(std::fs::read(site.path("half")).unwrap() == expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_volume_of_the_same_name_is_refused() {
    let site = Site::new().await;
    let (tap, _link) = connected(&site, 12).await;
    site.settled("web01").await;
    let other = Tap::new(13);
    other.play(|w| w.history(5));
    let _other = other.connect(&site.hub, "web01");
    let start = Instant::now();
    while other.refused().is_none() {
        assert!(start.elapsed() < LIMIT);
        tokio::task::yield_now().await;
    }
    assert_eq!(other.refused().unwrap().code, RefuseCode::NameTaken);
    assert!(tap.refused().is_none());
    let status = site.gateway().status().await.unwrap();
    assert_eq!(status.health, cx_api::Health::Degraded);
    assert!(status.reasons.iter().any(|r| r.contains("a tap is not taken: web01 is the name of another")));
    let volumes = site.gateway().volumes().await.unwrap();
    assert_eq!(volumes.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_gateway_on_the_same_directory_is_refused() {
    let site = Site::new().await;
    let again = GatewayConfig::new(site.path("data"));
    let Err(StartError::Lock(e)) = Gateway::start(again).await.map(drop) else { panic!("it started") };
    assert!(e.to_string().contains(&std::process::id().to_string()), "{e}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_tells_what_there_is() {
    let site = Site::new().await;
    let (_tap, _link) = connected(&site, 14).await;
    site.settled("web01").await;
    let status = site.gateway().status().await.unwrap();
    assert_eq!(status.volumes.len(), 1);
    assert!(status.journal.records > 0 && status.nbd.len() == 1);
    let text = Control::metrics(&**site.gateway());
    assert!(text.contains("chronogate_journal_commits_total "), "{text}");
    assert!(text.contains("chronogate_clients_memory_bytes{at=\"gateway\"} 0\n"), "{text}");
    assert!(text.contains("chronogate_clients_waiting_for_memory{at=\"gateway\"} 0\n"), "{text}");
}
