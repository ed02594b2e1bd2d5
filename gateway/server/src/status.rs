//! What the gateway says about itself and its volumes.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cx_api::{
    BookmarkCreate, BookmarkView, Code, ElapsedConfirm, ElapsedView, Health, ImageView, JournalView, Problem,
    StatusView, VolumeState, VolumeView,
};
use cx_wire::Question;
use gateway_image::catalogue::Volume;
use gateway_journal::{ImageId, ImageRecord};
use gateway_store::{StoreError, StoreStatus};
use tap_block::{Lsn, Name, WallTime};

use crate::gateway::Gateway;
use crate::http::Answer;
use crate::jobs::Job;
use crate::limits::Histories;
use crate::names::BookmarkName;
use crate::points::PATIENCE;
use crate::verification::with_proof;
use crate::views::TapView;
use crate::{problems, views};

/// How long the tap may take to say where it stands.
const HEAD_LIMIT: Duration = Duration::from_secs(2);
/// How long it is waited for what is written on an image to be opened.
const USED_WITHIN: Duration = Duration::from_secs(1);

impl Gateway {
    /// The volume, with its head asked of the tap.
    pub(crate) fn asked_view(
        &self,
        volume: Arc<Volume>,
    ) -> impl Future<Output = VolumeView> + Send + 'static {
        let (store, clock, points) = (Arc::clone(&self.store), Arc::clone(&self.clock), self.points.clone());
        let stream = self.streams.get(volume.stream());
        async move {
            let reply = match &stream {
                Some(stream) => stream.ask(Question::Head, HEAD_LIMIT).await.ok(),
                None => None,
            };
            // The answer came after the question: what it says may have become durable meanwhile.
            let volume = store.catalogue().volume(volume.id()).cloned().unwrap_or(volume);
            let offset = stream.and_then(|stream| stream.offset());
            let tap =
                TapView { proven: points.proven(&volume), offset, ..TapView::default() }.answered(reply);
            let view = views::volume(&volume, store.durable(volume.stream()).as_ref(), &tap, clock.wall());
            Histories::of(&store).complete(with_proof(view, &store))
        }
    }

    /// The volume as far as is known without asking.
    fn heard_view(&self, volume: &Volume, histories: &Histories) -> VolumeView {
        let stream = self.streams.get(volume.stream());
        let (status, offset) = stream.map_or((None, None), |s| (s.status(), s.offset()));
        let tap = TapView { head: None, status, proven: self.points.proven(volume), offset };
        let durable = self.store.durable(volume.stream());
        let view = views::volume(volume, durable.as_ref(), &tap, self.clock.wall());
        histories.complete(with_proof(view, &self.store))
    }

    /// The name is nobody else's as long as what is returned lives: until a bookmark is here, only that says that it is asked
    /// for. A bookmark whose point is gone does not keep its name.
    ///
    /// # Errors
    /// When another one of the volume has it, or is to have it.
    pub(crate) fn reserve_bookmark(&self, volume: &Volume, name: &Name) -> Answer<BookmarkName> {
        let reserved = BookmarkName::reserve(&self.bookmark_names, (volume.id(), name.clone()));
        let reserved = reserved.ok_or_else(|| problems::name_taken(name, "a bookmark that is being made"))?;
        match volume.bookmark_named(name) {
            Some(there) if self.store.check_kept(volume.id(), there.at.lsn).is_ok() => {
                let by = format!("a bookmark of {} at lsn:{}", volume.name(), there.at.lsn.get());
                Err(problems::name_taken(name, &by))
            }
            _ => Ok(reserved),
        }
    }

    /// A bookmark that the tap has made, as soon as it is durable here (or after a while, even if it is not).
    pub(crate) async fn arrived(
        &self,
        volume: &Name,
        request: BookmarkCreate,
        lsn: Lsn,
        time: WallTime,
    ) -> BookmarkView {
        let mut progress = self.streams.progress();
        let here = || {
            let known = self.known(volume).ok()?;
            let there = known.bookmark_named(&request.name).filter(|there| there.at.lsn >= lsn)?;
            Some(views::bookmark(&known, &request.name, there, &self.store))
        };
        let wait = async {
            loop {
                progress.mark_unchanged();
                if let Some(view) = here() {
                    return view;
                }
                if progress.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let late = BookmarkView {
            volume: volume.clone(),
            name: request.name.clone(),
            lsn,
            time,
            consistency: request.consistency,
            note: request.note.clone(),
            selectable: false,
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or(late)
    }

    /// An image, with what is written on it.
    pub(crate) async fn image_view(&self, record: ImageRecord) -> Answer<ImageView> {
        let images = Arc::clone(&self.images);
        let known = self.store.catalogue().volume(record.volume).cloned();
        let volume = known.ok_or_else(|| problems::internal("the image's volume is gone"))?;
        let asked = record.clone();
        let flat = images.flat(record.id).get();
        let used = tokio::task::spawn_blocking(move || images.used(&asked));
        // One that takes long to open is opened all the same, and told of later.
        let used = match tokio::time::timeout(USED_WITHIN, used).await {
            Ok(used) => used.map_err(problems::internal)?,
            Err(_) => None,
        };
        let uris = self.uris(&record);
        Ok(ImageView {
            id: record.id.get(),
            volume: volume.name().clone(),
            lsn: record.point,
            time: Some(record.at).filter(|at| *at != WallTime::EPOCH),
            size: volume.size_at(record.point),
            writable: record.writable,
            quota_bytes: record.writable.then_some(record.quota),
            used_bytes: used,
            materialized_bytes: flat.map(|flat| flat.done()),
            created: record.created_at,
            parent_id: record.parent.map(ImageId::get),
            parent: record.parent.and_then(|id| self.store.catalogue().image(id).map(|i| i.name.clone())),
            uri: uris.first().cloned().unwrap_or_default(),
            uris,
            name: record.name,
        })
    }

    /// Starts a thread of its own for long work.
    fn spawn_worker(&self, work: impl FnOnce() + Send + 'static) -> Answer<()> {
        let started = std::thread::Builder::new().name("job".to_owned()).spawn(work);
        started.map(drop).map_err(|e| problems::internal(format!("cannot start a thread: {e}")))
    }

    /// The same, for a job; one that cannot begin has failed.
    pub(crate) fn spawn_job(&self, job: &Job, work: impl FnOnce() + Send + 'static) -> Answer<()> {
        self.spawn_worker(work).inspect_err(|e| job.finish(Err(e.clone()), self.clock.wall()))
    }

    /// Asks every job to end and waits for that; what is not done goes on when it is started again.
    pub(crate) fn interrupt_jobs(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        self.jobs.all().iter().for_each(|job| job.interrupt());
        self.jobs.wait_for_all(deadline);
    }

    /// What is to be said of room, of the store and of single volumes, and of what goes without its hook.
    fn room_alerts(&self, histories: &Histories) -> Vec<String> {
        let images = self.images.alerts();
        let full = self.full_soon().into_iter().chain(images).chain(self.held_alerts());
        let full = full.chain(self.limit_alerts(histories)).chain(self.shortage_alerts());
        full.chain(self.gate_alerts()).collect()
    }

    /// What is to be said of the ledger: it is not kept, or something speaks against it.
    fn ledger_alerts(&self) -> Vec<String> {
        let ledger = self.store.ledger();
        let failing =
            ledger.failing.map(|e| format!("the ledger is not kept, so nothing new is anchored: {e}"));
        let doubts = ledger.doubts.iter().map(|doubt| {
            format!("{doubt}; `chronogate verify VOLUME --acknowledge` says that you have read of it")
        });
        failing.into_iter().chain(doubts).collect()
    }

    /// The gateway as a whole.
    pub(crate) fn status_view(&self) -> StatusView {
        let catalogue = self.store.catalogue();
        let histories = Histories::of(&self.store);
        let views = catalogue.volumes().map(|v| self.heard_view(v, &histories));
        let mut volumes: Vec<VolumeView> = views.collect();
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        let store = self.store.status();
        let alerts = [
            self.stores.alerts(),
            self.streams.refusals(),
            self.room_alerts(&histories),
            self.store.set_back(),
            self.ledger_alerts(),
            self.group_alerts(&catalogue),
        ]
        .concat();
        let (health, reasons) = health(&store, &volumes, alerts);
        let refused = self.store.refused_blocks();
        let front = self.front();
        StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started,
            now: self.clock.wall(),
            health,
            reasons,
            volumes,
            images: tap_block::units::count(catalogue.images().count()),
            jobs_running: tap_block::units::count(self.jobs.running()),
            nbd_connections: front.as_ref().map_or(0, |f| tap_block::units::count(f.connections())),
            nbd: front.map(|f| f.uris("")).unwrap_or_default(),
            journal: JournalView {
                segments: store.segments + store.settled_segments,
                bytes: store.segment_bytes,
                free_bytes: store.free_bytes,
                records: store.records,
                damaged: tap_block::units::count(store.damage.len()) + refused,
                refused: tap_block::units::count(store.damage.iter().filter(|d| !d.lost.is_empty()).count())
                    + refused,
            },
        }
    }
}

impl Gateway {
    pub(crate) fn elapsed_view(&self) -> ElapsedView {
        let (elapsed, catalogue) = (self.store.elapsed(), self.store.catalogue());
        let then = elapsed.age.plus(elapsed.creditable);
        let ending = catalogue.volumes().flat_map(|volume| {
            let holds = catalogue.rules().holds_of(volume.id(), elapsed.age);
            let ending = holds.filter(|hold| hold.until <= then);
            ending.map(|hold| format!("{} until {}", volume.name(), hold.until)).collect::<Vec<_>>()
        });
        ElapsedView {
            age: elapsed.age,
            machine: elapsed.machine,
            went_seconds: elapsed.missed.map(|missed| missed.went.as_secs()),
            uncounted_seconds: elapsed.missed.map_or(0, |missed| missed.uncounted.as_secs()),
            creditable_seconds: elapsed.creditable.as_secs(),
            holds_ending: ending.collect(),
        }
    }

    /// Durably when this returns.
    pub(crate) fn confirm_elapsed(&self, wanted: ElapsedConfirm) -> Answer<ElapsedView> {
        let confirmed = self.store.confirm_elapsed(Duration::from_secs(wanted.seconds));
        confirmed.map_err(|e| match e {
            StoreError::Invalid(why) => Problem::new(Code::Conflict, why)
                .because("all that went by is counted already, or the machine's clock does not show so much")
                .fix("ask what may be confirmed: chronogate store confirm-time"),
            e => problems::stored(&e),
        })?;
        Ok(self.elapsed_view())
    }
}

/// Beyond this a clock is wrong; below, it is not worth waking anybody.
const OFFSET_LIMIT: f64 = 5.0;

fn clock_alert(volume: &VolumeView) -> Option<String> {
    let offset = volume.clock_offset_seconds.filter(|offset| offset.abs() > OFFSET_LIMIT)?;
    let way = if offset < 0.0 { "behind" } else { "ahead of" };
    Some(format!(
        "the clock of the source of {} is {:.0} s {way} this gateway's: its points carry that clock's times; set the clocks",
        volume.name,
        offset.abs()
    ))
}

/// The worst that is true, and why.
fn health(store: &StoreStatus, volumes: &[VolumeView], alerts: Vec<String>) -> (Health, Vec<String>) {
    let rotten = store.index_damaged.iter().map(|e| {
        format!(
            "the index is damaged, so points may not open ({e}); nothing is lost: restart the gateway, which builds it again from \
             the segments"
        )
    });
    let failing: Vec<String> = store.failing.iter().cloned().chain(rotten).collect();
    let damage =
        store.damage.iter().map(|d| format!("the journal is damaged in {}: {}", d.segment, d.detail));
    let index = store.index_failing.iter().map(|e| format!("the index does not take versions: {e}"));
    let ill = |v: &&VolumeView| !matches!(v.state, VolumeState::Protected | VolumeState::Unknown);
    let found = volumes.iter().filter(|v| v.damaged > 0).map(|v| {
        let places = if v.damaged == 1 {
            "a damaged place".to_owned()
        } else {
            format!("{} damaged places", v.damaged)
        };
        format!("{} has {places}: `chronogate verify {}` says more", v.name, v.name)
    });
    let clocks = volumes.iter().filter_map(clock_alert);
    let states = volumes.iter().filter(ill).map(|v| format!("{} is in state {}", v.name, v.state.as_str()));
    let settle = store.settle_failing.iter().map(|e| format!("old history is not settled: {e}"));
    let alerts = alerts.into_iter().chain(store.uncounted.map(|time| time.to_string()));
    let degraded: Vec<String> =
        damage.chain(index).chain(settle).chain(alerts).chain(found).chain(clocks).chain(states).collect();
    let silent = volumes.iter().filter(|v| v.state == VolumeState::Unknown);
    let unknown: Vec<String> = silent.map(|v| format!("nothing is heard of the tap of {}", v.name)).collect();
    let health = match (failing.is_empty(), degraded.is_empty(), unknown.is_empty()) {
        (false, ..) => Health::Failing,
        (_, false, _) => Health::Degraded,
        (_, _, false) => Health::Unknown,
        _ => Health::Ok,
    };
    (health, [failing, degraded, unknown].concat())
}
