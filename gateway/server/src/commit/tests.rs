//! Commits that are stopped in the middle: where what is written on the image is put onto its copy.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cx_api::{ImageCreate, ImageView, JobState};
use cx_link::Intake;
use cx_wire::{Hello, PROTOCOL, RefuseCode};
use gateway_image::Point;
use tap_block::{Epoch, Lsn, RunId, StreamId, VolumeId};
use tempfile::TempDir;
use testbed_model::Workload;

use super::*;
use crate::GatewayConfig;
use crate::gateway::GatewayHandle;
use crate::http::Control;

/// No test waits longer for anything.
const LIMIT: Duration = Duration::from_secs(30);

/// A gateway with a volume's history, and somebody who protects disks.
struct Site {
    tmp: TempDir,
    handle: GatewayHandle,
    last: Lsn,
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn record_id(image: &ImageView) -> gateway_journal::ImageId {
    gateway_journal::ImageId::new(image.id)
}

fn key(image: &ImageView) -> ImageKey {
    ImageKey::Id(image.id)
}

impl Site {
    async fn new() -> Self {
        let site = Self::unprotected().await;
        let stream = StreamId::new(0x77);
        site.gateway().protect_with(Box::new(move |name, _, told| {
            told(stream);
            Ok(vec![format!("nbd://tap/{name}")])
        }));
        site
    }

    async fn unprotected() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let mut config = GatewayConfig::new(tmp.path().join("data"));
        config.store.segment_len = 1 << 20;
        let handle = Gateway::start(config).await.unwrap();
        let mut workload = Workload::new(5);
        let (done, stored) = std::sync::mpsc::channel();
        let history = workload.history(60);
        let last = history.iter().filter_map(|batch| batch.last_lsn()).max().unwrap();
        for batch in &history {
            let done = done.clone();
            handle
                .gateway()
                .store
                .append(batch.clone(), Box::new(move |outcome| done.send(outcome).unwrap()));
        }
        history.iter().for_each(|_| assert!(stored.recv().unwrap().is_ok()));
        Self { tmp, handle, last }
    }

    fn gateway(&self) -> &Arc<Gateway> {
        self.handle.gateway()
    }

    async fn create(&self, called: &str, writable: bool) -> Answer<ImageView> {
        let volume = self.gateway().store.catalogue().volumes().next().unwrap().name().clone();
        let at = format!("lsn:{}", self.last.get());
        let wish =
            ImageCreate { volume, at: at.clone(), writable, name: Some(name(called)), quota_bytes: None };
        self.gateway().image_create(wish, at.parse::<Point>().unwrap()).await
    }

    /// A read/write image with something written on it.
    async fn written(&self, called: &str) -> ImageView {
        let image = self.create(called, true).await.unwrap();
        let record = self.gateway().images.find(&key(&image)).unwrap();
        let device = tokio::task::block_in_place(|| self.gateway().images.open(&record)).unwrap();
        for (offset, fill) in [(8192, 7), (40_960, 8)] {
            let data = Bytes::from(vec![fill; 4096]);
            tokio::task::block_in_place(|| run(&*device, Op::Write { offset, data, fua: true })).unwrap();
        }
        image
    }

    fn overlay(&self, image: &ImageView) -> Arc<OverlayDevice> {
        self.gateway().images.overlay_of(&key(image))
    }

    fn copy(&self, image: &ImageView) -> PathBuf {
        self.gateway().images.flats.content_of(image.id)
    }

    async fn until(&self, what: &str, is: impl Fn() -> bool) {
        let start = Instant::now();
        while !is() {
            assert!(start.elapsed() < LIMIT, "not in time: {what}");
            // Between two looks the commit has to get on: each look opens the image, and it waits for nobody to have it open.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The commit is where nobody opens the image any more; what holds the overlay holds it there.
    async fn folding(&self, image: &ImageView) {
        let record = self.gateway().images.find(&key(image)).unwrap();
        self.until("folding", || {
            tokio::task::block_in_place(|| self.gateway().images.open(&record)).is_err()
        })
        .await;
    }

    async fn ended(&self, job: &JobView) -> JobView {
        let view = || self.gateway().jobs.get(job.id).unwrap().view();
        self.until("the job's end", || view().state.is_final()).await;
        view()
    }

    fn greet(&self, called: &str, stream: u64) -> Option<RefuseCode> {
        let hello = Hello {
            protocol: PROTOCOL,
            stream: StreamId::new(stream),
            volume: VolumeId::new(stream),
            name: name(called),
            size: 1 << 20,
            epoch: Epoch::new(1),
            run: RunId::new(stream),
            first_lsn: Lsn::ZERO.next(),
            sender: "test".to_owned(),
        };
        self.gateway().streams.open(&hello).err().map(|refuse| refuse.code)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_images_are_made_while_a_commit_puts_the_writes_onto_the_copy() {
    let site = Site::new().await;
    let image = site.written("test").await;
    let overlay = site.overlay(&image);
    let held = overlay.hold();
    let job = site.gateway().start_commit(&key(&image), name("web02")).unwrap();
    site.folding(&image).await;
    let other = tokio::time::timeout(LIMIT, site.create("other", false)).await;
    assert_eq!(other.expect("nothing holds it up").unwrap().name, name("other"));
    // As it is at the switch.
    site.gateway().committed.begin(&name("web02"), record_id(&image)).unwrap();
    let again = site.gateway().start_commit(&key(&image), name("web03")).unwrap_err();
    assert_eq!(again.code, Code::Conflict);
    assert!(site.gateway().committed.disk_of(&name("web02")).parent().unwrap().exists(), "the first goes on");
    let removed = site.gateway().image_remove(key(&image), false).await.unwrap_err();
    assert_eq!(removed.code, Code::Conflict, "the commit is at it");
    drop(held);
    drop(overlay);
    let ended = site.ended(&job).await;
    assert_eq!((ended.state, ended.done_bytes), (JobState::Done, ended.total_bytes), "{ended:?}");
    assert_eq!(ended.total_bytes, image.size + 2 * 4096, "what was written is part of it");
    let disk = std::fs::read(&ended.path).unwrap();
    assert!(disk[8192..12_288] == [7; 4096] && disk[40_960..45_056] == [8; 4096]);
    assert_eq!(tap_block::units::count(disk.len()), image.size);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_cancelled_while_it_puts_the_writes_onto_the_copy_leaves_the_image() {
    for materialized in [false, true] {
        let site = Site::new().await;
        let image = site.written("test").await;
        if materialized {
            let job = site.gateway().start_materialization(&key(&image)).unwrap();
            assert_eq!(site.ended(&job).await.state, JobState::Done);
        }
        let overlay = site.overlay(&image);
        let held = overlay.hold();
        let job = site.gateway().start_commit(&key(&image), name("web02")).unwrap();
        site.folding(&image).await;
        site.gateway().job_cancel(job.id).await.unwrap();
        drop(held);
        assert_eq!(site.ended(&job).await.state, JobState::Cancelled);
        assert_eq!(site.copy(&image).exists(), materialized, "a copy that was asked for by itself stays");
        let record = site.gateway().images.find(&key(&image)).unwrap();
        let device = tokio::task::block_in_place(|| site.gateway().images.open(&record)).unwrap();
        let all = Op::Read { extent: tap_block::Extent::between(0, image.size) };
        let seen = tokio::task::block_in_place(|| run(&*device, all)).unwrap();
        assert!(seen[8192..12_288] == [7; 4096] && seen[40_960..45_056] == [8; 4096]);
        assert_eq!(site.greet("web02", 0x99), None, "the name is free");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_an_image_is_being_committed_to_is_nobody_elses() {
    let site = Site::new().await;
    let (image, second) = (site.written("test").await, site.written("second").await);
    let overlay = site.overlay(&image);
    let held = overlay.hold();
    let job = site.gateway().start_commit(&key(&image), name("web02")).unwrap();
    site.folding(&image).await;
    let refused = site.gateway().start_commit(&key(&second), name("web02")).unwrap_err();
    assert_eq!(refused.code, Code::Conflict);
    assert!(refused.detail.contains("web02"), "{refused:?}");
    let refused = site.create("web02", false).await.unwrap_err();
    assert!(refused.code == Code::Conflict && refused.detail.contains("web02"), "{refused:?}");
    assert_eq!(site.greet("web02", 0x99), Some(RefuseCode::NameTaken));
    drop(held);
    assert_eq!(site.ended(&job).await.state, JobState::Done);
    // Until its own tap has sent something, too.
    assert_eq!(site.create("web02", false).await.unwrap_err().code, Code::Conflict);
    assert_eq!(site.greet("web02", 0x99), Some(RefuseCode::NameTaken));
    assert_eq!(site.greet("web02", 0x77), None, "that is its tap");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_a_tap_has_announced_is_not_committed_to() {
    let site = Site::new().await;
    let image = site.written("test").await;
    assert_eq!(site.greet("web02", 0x99), None);
    let refused = site.gateway().start_commit(&key(&image), name("web02")).unwrap_err();
    assert!(refused.code == Code::Conflict && refused.detail.contains("announced"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_failed_while_it_put_the_writes_onto_the_copy_goes_on_with_that() {
    use std::io::Read as _;
    use std::os::unix::fs::MetadataExt;

    let site = Site::new().await;
    let image = site.written("test").await;
    // Of what was written the last block cannot be read.
    let data = site.tmp.path().join(format!("data/overlays/{}/data", image.id));
    // Not all of it: the file is as long as the quota, nearly all of it a hole.
    let mut sound = Vec::new();
    std::fs::File::open(&data).unwrap().take(1 << 20).read_to_end(&mut sound).unwrap();
    let at = sound.iter().position(|byte| *byte == 8).unwrap();
    flip(&data, at);
    let job = site.gateway().start_commit(&key(&image), name("web02")).unwrap();
    let ended = site.ended(&job).await;
    let error = ended.error.unwrap();
    assert!(ended.state == JobState::Failed && error.detail.contains("rotted"), "{error:?}");
    assert!(error.correction.contains("commit it again"), "{error:?}");
    let copy = std::fs::metadata(site.copy(&image)).expect("the copy stays").ino();
    assert_eq!(site.gateway().image(key(&image)).await.unwrap().materialized_bytes, Some(image.size));
    flip(&data, at);
    let job = site.gateway().start_commit(&key(&image), name("web02")).unwrap();
    let ended = site.ended(&job).await;
    assert_eq!(ended.state, JobState::Done, "{ended:?}");
    assert_eq!(std::fs::metadata(&ended.path).unwrap().ino(), copy, "it is the same copy");
    let disk = std::fs::read(&ended.path).unwrap();
    assert!(disk[8192..12_288] == [7; 4096] && disk[40_960..45_056] == [8; 4096]);
}

fn flip(path: &std::path::Path, at: usize) {
    use std::os::unix::fs::FileExt;

    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at as u64).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_after_a_cancel_that_came_too_late_is_told() {
    let site = Site::unprotected().await;
    let (gateway, runtime) = (Arc::downgrade(site.gateway()), Handle::current());
    site.gateway().protect_with(Box::new(move |_, _, _| {
        // The image is gone by now.
        let gateway = gateway.upgrade().unwrap();
        let id = gateway.jobs.all().last().unwrap().id();
        assert_eq!(runtime.block_on(gateway.job_cancel(id)).unwrap_err().code, Code::Conflict);
        Err("no socket".to_owned())
    }));
    let image = site.written("test").await;
    let job = site.gateway().start_commit(&key(&image), name("web02")).unwrap();
    let ended = site.ended(&job).await;
    assert_eq!((ended.state, ended.error.unwrap().cause.as_str()), (JobState::Failed, "no socket"));
    assert!(std::path::Path::new(&ended.path).exists());
}
