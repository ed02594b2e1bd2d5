//! Images whose creation was cut short.

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
    images: Images,
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
        Self { _tmp: tmp, images, at }
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
