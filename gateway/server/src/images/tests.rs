//! Images whose creation was cut short, and one that takes long to open.

use bytes::Bytes;
use gateway_store::StoreConfig;
use tap_block::device::run;
use tap_block::{Extent, Op};
use tap_disk::RealClock;
use tempfile::TempDir;
use testbed_model::Workload;

use super::*;
use crate::device::room::Room;

const QUOTA: u64 = 1 << 20;

struct Rig {
    _tmp: TempDir,
    images: Arc<Images>,
    at: Resolved,
}

impl Rig {
    fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let mut config = StoreConfig::new(tmp.path().join("store"));
        config.segment_len = 1 << 20;
        let clock: Arc<dyn Clock> = Arc::new(RealClock);
        let store = Store::open(config, Arc::clone(&clock)).unwrap();
        let (done, stored) = std::sync::mpsc::channel();
        let history = Workload::new(5).history(60);
        let last = history.iter().filter_map(|batch| batch.last_lsn()).max().unwrap();
        for batch in &history {
            let done = done.clone();
            store.append(batch.clone(), Box::new(move |outcome| done.send(outcome).unwrap()));
        }
        history.iter().for_each(|_| assert!(stored.recv().unwrap().is_ok()));
        let catalogue = store.catalogue();
        let volume = catalogue.volumes().next().unwrap();
        let at = Resolved {
            volume: volume.id(),
            name: volume.name().clone(),
            lsn: last,
            time: None,
            bookmark: None,
            size: volume.size_at(last),
        };
        let room = Arc::new(Room::new(Box::new(|| None), Arc::clone(&clock)));
        let overlays = OverlayDir::new(tmp.path().join("overlays"), room);
        let flats = FlatDir::new(tmp.path().join("flats"), Box::new(|| None), 0);
        let pool = Arc::new(Pool::new("test-read", 4, 16));
        let images = Images::new(store, clock, pool, (overlays, flats), (Arc::default(), QUOTA)).unwrap();
        Self { _tmp: tmp, images: Arc::new(images), at }
    }

    async fn create(&self, called: &str, writable: bool) -> ImageRecord {
        let (at, name) = (self.at.clone(), Some(called.parse().unwrap()));
        self.images.create(Wanted { at, name, writable, quota: None }).await.unwrap()
    }

    fn start_of(&self, image: &ImageRecord) -> Bytes {
        let device = tokio::task::block_in_place(|| self.images.open(image)).unwrap();
        tokio::task::block_in_place(|| run(&*device, Op::Read { extent: Extent::between(0, 8192) })).unwrap()
    }
}

/// A clone whose record the journal did not take leaves its overlay, and its number to the next image.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failed_creation_left_is_on_no_later_image() {
    let rig = Rig::new();
    let written = rig.create("written", true).await;
    let moment = rig.start_of(&written);
    let overlay = rig.images.overlay_of(&ImageKey::Id(written.id.get()));
    let write = Op::Write { offset: 0, data: vec![0xee; 8192].into(), fua: true };
    tokio::task::block_in_place(|| run(&*overlay, write)).unwrap();
    let next = || rig.images.store.catalogue().next_image().get();
    for called in ["fixed", "clone"] {
        let left = next();
        rig.images.dir.fork(&overlay, left, QUOTA).unwrap();
        let image = match called {
            "fixed" => rig.create(called, false).await,
            _ => {
                let name = Some(called.parse().unwrap());
                let wanted = ImageClone { name, writable: false, quota_bytes: None };
                rig.images.clone_of(&ImageKey::Name("fixed".parse().unwrap()), wanted).await.unwrap()
            }
        };
        assert_eq!(image.id.get(), left);
        assert!(rig.start_of(&image) == moment, "{called}");
    }
}

/// Whoever reads this file waits until it goes.
struct Held {
    path: std::path::PathBuf,
    _writer: std::fs::File,
}

impl Drop for Held {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).unwrap();
    }
}

/// As after a kill, when much has to be looked at: whoever reads a file of the overlay waits for the test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_takes_long_to_open_keeps_nobody_waiting_but_who_wants_it() {
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
    let rig = Rig::new();
    let (slow, other) = (rig.create("slow", true).await, rig.create("other", true).await);
    let said = rig.images.dir.of(slow.id.get()).join("recent-0");
    let (user, group) = (rustix::fs::Mode::RUSR, rustix::fs::Mode::WUSR);
    rustix::fs::mknodat(rustix::fs::CWD, &said, rustix::fs::FileType::Fifo, user | group, 0).unwrap();
    let (opened, first) = std::sync::mpsc::channel();
    let open = || {
        let (images, slow, opened) = (Arc::clone(&rig.images), slow.clone(), opened.clone());
        std::thread::spawn(move || opened.send(images.open(&slow).map(drop)).unwrap());
    };
    open();
    let fifo = said.clone();
    // Goes on once the other end is there: it is being opened.
    let held = tokio::task::spawn_blocking(move || std::fs::OpenOptions::new().write(true).open(fifo));
    let held = Held { path: said, _writer: held.await.unwrap().unwrap() };
    open();
    let (images, (of_slow, of_other)) = (Arc::clone(&rig.images), (slow.clone(), other.clone()));
    let others = tokio::task::spawn_blocking(move || {
        images.open(&of_other).map(drop)?;
        assert_eq!((images.used(&of_other), images.used(&of_slow)), (Some(0), None));
        assert_eq!(images.alerts(), [""; 0]);
        Answer::Ok(())
    });
    tokio::time::timeout(PATIENCE, others).await.expect("nobody waits").unwrap().unwrap();
    let made = tokio::time::timeout(PATIENCE, rig.create("third", false)).await;
    assert!(made.is_ok(), "and others are made");
    let refused = rig.images.remove(&ImageKey::Id(slow.id.get())).await.unwrap_err();
    assert!(refused.detail.contains("is open"), "{}", refused.detail);
    assert!(first.try_recv().is_err(), "neither is done");
    drop(held);
    let ends =
        tokio::task::spawn_blocking(move || [first.recv_timeout(PATIENCE), first.recv_timeout(PATIENCE)]);
    assert!(ends.await.unwrap().into_iter().all(|end| end.unwrap().is_ok()), "both have it");
    assert_eq!(rig.images.used(&slow), Some(0));
    rig.images.remove(&ImageKey::Id(slow.id.get())).await.unwrap();
}
