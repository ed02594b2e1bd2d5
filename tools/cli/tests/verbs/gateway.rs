//! A gateway that answers from memory behind the real HTTP layer, with a restore that moves when told to.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use cx_api::{
    AcceptedView, BookmarkCreate, BookmarkView, Code, ConnectView, DiffView, ElapsedConfirm, ElapsedView,
    ExportAccess, ExportCreate, ExportView, GroupPointView, GroupView, Health, HoldCreate, HoldView,
    ImageClone, ImageCommit, ImageCreate, ImageView, JobId, JobKind, JobState, JobView, PinView, PointView,
    PoliciesApply, PolicyPreview, PolicySet, PolicyView, Problem, RepairCreate, RepairOf, RepairView,
    RepairedView, RepairsCreate, RepairsView, SessionView, StatusView, StoreGone, StoresView, SyncView,
    TimelineView, UnitFound, UnitView, UnitsAsk, UnitsView, VerificationCreate, VerificationView, VersionAt,
    VolumeState, VolumeView,
};
use gateway_server::http::{Answer, ApiConfig, ApiHandle, Control, ImageKey, Point, Points, start};
use tap_block::{Consistency, Lsn, Name, SyncCause, VolumeId, WallTime};
use tokio::sync::Notify;

use crate::examples::{self, lsn, name};

pub(crate) const BOOKMARKS: u64 = 1203;
const SIZE: u64 = 1 << 20;

/// One volume, web01, and what was asked of it.
#[derive(Default)]
pub(crate) struct Gateway {
    /// A baseline is running: a bookmark waits until somebody has looked at the volume twice.
    pub(crate) baseline: AtomicBool,
    pub(crate) looks: AtomicU64,
    looked: Notify,
    /// A restore never ends by itself.
    pub(crate) endless: AtomicBool,
    /// A verification finds nothing.
    pub(crate) sound: AtomicBool,
    job: Mutex<Option<JobView>>,
    pub(crate) asked: Mutex<Vec<String>>,
}

/// The gateway with its API.
pub(crate) struct Server {
    pub(crate) gateway: Arc<Gateway>,
    api: ApiHandle,
}

impl Server {
    pub(crate) async fn new() -> Self {
        let gateway = Arc::new(Gateway::default());
        let config = ApiConfig { listen: "127.0.0.1:0".parse().unwrap(), insecure: false };
        let api = start(Arc::clone(&gateway), &config).await.unwrap();
        Self { gateway, api }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.api.address())
    }
}

fn noon() -> WallTime {
    WallTime::parse_rfc3339("2026-11-22T12:00:00.5Z").unwrap()
}

fn bookmark(name: Name, at: u64, note: &str) -> BookmarkView {
    BookmarkView {
        volume: self::name("web01"),
        name,
        lsn: lsn(at),
        time: noon(),
        consistency: Consistency::Crash,
        note: note.into(),
        selectable: true,
    }
}

impl Gateway {
    fn ask(&self, what: impl Into<String>) {
        self.asked.lock().unwrap().push(what.into());
    }

    fn begin(&self, kind: JobKind, volume: Name, path: String) -> JobView {
        let job = JobView {
            id: JobId::new(4),
            kind,
            state: JobState::Running,
            volume,
            lsn: lsn(8),
            path,
            uris: Vec::new(),
            done_bytes: 0,
            total_bytes: SIZE,
            started: noon(),
            ended: None,
            error: None,
        };
        self.job.lock().unwrap().insert(job).clone()
    }

    fn known(&self, volume: &Name) -> Answer<()> {
        match volume.as_str() {
            "web01" | "data01" | "log01" => Ok(()),
            "away" => {
                Err(Problem::new(Code::Unreachable, "the tap of away cannot be reached").fix("start it"))
            }
            _ => Err(Problem::new(Code::NotFound, format!("there is no volume {volume}"))
                .because("nothing protects a disk of that name")
                .fix("list the volumes: chronogate volume ls")),
        }
    }

    fn view(&self) -> VolumeView {
        let copying = self.baseline.load(Ordering::SeqCst);
        VolumeView {
            id: VolumeId::new(1),
            name: name("web01"),
            size: SIZE,
            state: if copying { VolumeState::Baseline } else { VolumeState::Protected },
            head_lsn: Some(lsn(8)),
            durable_lsn: lsn(8),
            durable_time: Some(noon()),
            lag_seconds: Some(0.0),
            clock_offset_seconds: None,
            lag_bytes: Some(0),
            baseline_count: 1,
            resynced_bytes: 0,
            sync: copying.then_some(SyncView {
                cause: SyncCause::Baseline,
                done_bytes: SIZE / 2,
                total_bytes: SIZE,
            }),
            gaps: Vec::new(),
            verified: None,
            damaged: 0,
            history_bytes: SIZE,
            history_limit: None,
        }
    }

    /// Each look finds the job a quarter further, unless it is endless.
    fn step(&self) -> Answer<JobView> {
        let mut job = self.job.lock().unwrap();
        let job = job.as_mut().ok_or_else(|| Problem::new(Code::NotFound, "there is no such job"))?;
        match job.state {
            JobState::Running if self.endless.load(Ordering::SeqCst) => job.done_bytes = SIZE / 4,
            JobState::Running => job.done_bytes += SIZE / 4,
            JobState::Cancelling => job.state = JobState::Cancelled,
            _ => {}
        }
        if job.done_bytes == SIZE {
            job.state = JobState::Done;
        }
        Ok(job.clone())
    }

    pub(crate) async fn wait_for_looks(&self, n: u64) {
        while self.looks.load(Ordering::SeqCst) < n {
            self.looked.notified().await;
        }
    }
}

impl Control for Gateway {
    async fn volumes(&self) -> Answer<Vec<VolumeView>> {
        Ok(vec![self.view()])
    }

    async fn volume(&self, name: Name) -> Answer<VolumeView> {
        self.known(&name)?;
        let view = self.view();
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.looked.notify_one();
        Ok(view)
    }

    async fn resolve(&self, volume: Name, point: Point) -> Answer<PointView> {
        self.known(&volume)?;
        self.ask(format!("resolve {point}"));
        match point {
            Point::Bookmark(b) => Ok(PointView { volume, name: Some(b), lsn: lsn(7), time: Some(noon()) }),
            Point::Lsn(l) if l.get() > 8 => Err(Problem::new(Code::NotYetDurable, "it is not here yet")),
            _ => Ok(PointView { volume, name: None, lsn: lsn(8), time: Some(noon()) }),
        }
    }

    async fn bookmark_create(&self, volume: Name, request: BookmarkCreate) -> Answer<BookmarkView> {
        self.known(&volume)?;
        self.ask(format!("bookmark {} wait {} {}", request.name, request.wait_seconds, request.note));
        if request.wait_seconds == 0 && self.baseline.load(Ordering::SeqCst) {
            return Err(Problem::new(Code::TimedOut, "the baseline of web01 did not end within 0 s"));
        }
        if self.baseline.load(Ordering::SeqCst) {
            self.wait_for_looks(2).await;
        }
        let selectable = request.note != "under way";
        Ok(BookmarkView { selectable, ..bookmark(request.name, 9, &request.note) })
    }

    async fn bookmarks(&self, volume: Name, after: Option<Lsn>, limit: usize) -> Answer<Vec<BookmarkView>> {
        self.known(&volume)?;
        let first = after.map_or(1, |l| l.get() + 1);
        let note = "note \u{1b}[31m";
        Ok((first..=BOOKMARKS).take(limit).map(|n| bookmark(name(&format!("b{n}")), n, note)).collect())
    }

    async fn groups(&self) -> Answer<Vec<GroupView>> {
        Ok(vec![examples::group()])
    }

    async fn group(&self, name: Name) -> Answer<GroupView> {
        Ok(GroupView { name, ..examples::group() })
    }

    async fn group_point(
        &self,
        name: Name,
        after: Option<Point>,
        before: Option<Point>,
    ) -> Answer<GroupPointView> {
        self.ask(format!("group point {after:?} {before:?}"));
        Ok(examples::group_point(name, after.as_ref(), before.as_ref()))
    }

    async fn bookmark_remove(&self, volume: Name, bookmark: Name) -> Answer<()> {
        self.known(&volume)?;
        self.ask(format!("bookmark rm {volume} {bookmark}"));
        Ok(())
    }

    async fn group_bookmark_remove(&self, group: Name, bookmark: Name) -> Answer<()> {
        self.ask(format!("group bookmark rm {group} {bookmark}"));
        Ok(())
    }

    async fn group_bookmark(&self, name: Name, request: BookmarkCreate) -> Answer<GroupPointView> {
        self.ask(format!("group bookmark {} {}", request.name, request.wait_seconds));
        Ok(examples::group_bookmark(name, request.name))
    }

    async fn image_create(&self, request: ImageCreate, point: Point) -> Answer<ImageView> {
        self.known(&request.volume)?;
        self.ask(format!("image {point} rw {} quota {:?}", request.writable, request.quota_bytes));
        let export = request.name.unwrap_or_else(|| name("web01-1"));
        let uri = format!("nbd+unix:///{export}?socket=/run/gw.sock");
        let iscsi = format!("iscsi://127.0.0.1:3260/iqn.2026-01.example.chronogate:{export}/1");
        Ok(ImageView {
            id: 1,
            name: export,
            volume: request.volume,
            lsn: lsn(8),
            time: Some(noon()),
            size: SIZE,
            writable: request.writable,
            quota_bytes: request.quota_bytes,
            used_bytes: request.writable.then_some(0),
            materialized_bytes: None,
            created: noon(),
            parent_id: None,
            parent: None,
            uris: vec![uri.clone(), iscsi],
            uri,
        })
    }

    async fn images(&self) -> Answer<Vec<ImageView>> {
        Ok(Vec::new())
    }

    async fn image(&self, which: ImageKey) -> Answer<ImageView> {
        Err(Problem::new(Code::NotFound, format!("there is no image {which:?}")))
    }

    async fn image_clone(&self, which: ImageKey, wanted: ImageClone) -> Answer<ImageView> {
        self.ask(format!("clone {which:?} rw {}", wanted.writable));
        let ImageClone { writable, name, quota_bytes } = wanted;
        let request =
            ImageCreate { volume: self::name("web01"), at: "now".into(), writable, name, quota_bytes };
        self.image_create(request, Point::Now).await
    }

    async fn image_materialize(&self, which: ImageKey) -> Answer<JobView> {
        self.ask(format!("materialize {which:?}"));
        Ok(self.begin(JobKind::Materialize, self::name("web01"), "/data/flats/3/content".into()))
    }

    async fn image_commit(&self, which: ImageKey, wanted: ImageCommit) -> Answer<JobView> {
        self.ask(format!("commit {which:?} as {}", wanted.name));
        let job = self.begin(JobKind::Commit, self::name("web01"), "/data/volumes/web02/disk".into());
        let uris = vec!["nbd+unix:///web02?socket=/run/tap.sock".to_owned()];
        Ok(self.job.lock().unwrap().insert(JobView { uris, ..job }).clone())
    }

    async fn image_remove(&self, which: ImageKey, force: bool) -> Answer<()> {
        match which {
            ImageKey::Id(1) => Ok(()),
            _ if force => Ok(()),
            _ => Err(Problem::new(Code::Conflict, "the image is open").fix("disconnect its clients")),
        }
    }

    async fn exports(&self) -> Answer<Vec<ExportView>> {
        Ok(vec![examples::export()])
    }

    async fn export(&self, which: ImageKey) -> Answer<ExportView> {
        examples::known_export(&which)
    }

    async fn export_create(&self, which: ImageKey, wanted: ExportCreate) -> Answer<ExportView> {
        // What is asked is kept to be looked at; in a gateway a secret never is.
        self.ask(format!("export {which:?} {}", serde_json::to_string(&wanted).unwrap()));
        Ok(examples::export_create(examples::export(), wanted))
    }

    async fn export_remove(&self, which: ImageKey, force: bool) -> Answer<()> {
        examples::export_remove(&which, force)
    }

    async fn export_access(&self, which: ImageKey, wanted: ExportAccess) -> Answer<ExportView> {
        self.ask(format!("access {which:?} {}", serde_json::to_string(&wanted).unwrap()));
        examples::export_access(&which, wanted)
    }

    async fn export_connect(&self, which: ImageKey, portal: Option<String>) -> Answer<ConnectView> {
        examples::export_connect(&which, portal)
    }

    async fn restore(&self, volume: Name, point: Point, path: PathBuf) -> Answer<JobView> {
        self.known(&volume)?;
        self.ask(format!("restore {point} {}", path.display()));
        Ok(self.begin(JobKind::Restore, volume, path.to_string_lossy().into_owned()))
    }

    async fn policies(&self) -> Answer<Vec<PolicyView>> {
        Ok(vec![examples::policy()])
    }

    async fn policy_set(&self, wanted: PolicySet) -> Answer<PolicyView> {
        if let Some(volume) = &wanted.volume {
            self.known(volume)?;
        }
        if wanted.check {
            return Ok(PolicyView { volume: wanted.volume, ..examples::policy() });
        }
        self.ask(format!("policy {:?} {:?}", wanted.volume, wanted.retention));
        Ok(examples::policy_set(wanted))
    }

    async fn policies_apply(&self, wanted: PoliciesApply) -> Answer<Vec<PolicyView>> {
        let check = wanted.check;
        if !check {
            self.ask(format!("policies {}", wanted.policies.len()));
        }
        let mut views = Vec::new();
        for set in wanted.policies {
            views.push(self.policy_set(PolicySet { check, ..set }).await?);
        }
        Ok(views)
    }

    async fn policies_preview(&self, wanted: PoliciesApply) -> Answer<Vec<PolicyPreview>> {
        self.ask(format!("preview {}", wanted.policies.len()));
        Ok(examples::preview())
    }

    async fn timeline(&self, volume: Name, _: Option<Lsn>) -> Answer<TimelineView> {
        self.known(&volume)?;
        Ok(examples::timeline())
    }

    async fn diff(&self, volume: Name, points: (Point, Point), after: u64, _: usize) -> Answer<DiffView> {
        self.known(&volume)?;
        self.ask(format!("diff {} {} after {after}", points.0, points.1));
        Ok(examples::diff(volume, after))
    }

    async fn pin(&self, volume: Name, point: Point, note: String) -> Answer<PinView> {
        self.known(&volume)?;
        self.ask(format!("pin {point} {note}"));
        Ok(PinView { lsn: lsn(7), note })
    }

    async fn unpin(&self, volume: Name, point: Point) -> Answer<()> {
        self.known(&volume)?;
        self.ask(format!("unpin {point}"));
        Ok(())
    }

    async fn hold(&self, volume: Name, wanted: HoldCreate) -> Answer<HoldView> {
        self.known(&volume)?;
        self.ask(format!("hold until {}", wanted.until));
        Ok(examples::hold(wanted))
    }

    async fn verify(&self, wanted: VerificationCreate) -> Answer<JobView> {
        self.known(&wanted.volume)?;
        self.ask(format!("verify to {:?}", wanted.to));
        Ok(self.begin(JobKind::Verify, wanted.volume, String::new()))
    }

    async fn resync(&self, volume: Name) -> Answer<JobView> {
        self.known(&volume)?;
        self.ask("resync");
        Ok(self.begin(JobKind::Resync, volume, String::new()))
    }

    async fn accept_restored(&self, volume: Name) -> Answer<AcceptedView> {
        self.known(&volume)?;
        self.ask("accept-restored");
        Ok(examples::accepted())
    }

    async fn verification(&self, volume: Name, points: Points) -> Answer<VerificationView> {
        self.known(&volume)?;
        self.ask(format!("verification {:?} {:?}", points.from, points.to));
        let view = examples::verification();
        let findings = if self.sound.load(Ordering::SeqCst) { Vec::new() } else { view.findings };
        let left = u64::from(!findings.is_empty());
        Ok(VerificationView { findings, open: left, over: left, ..view })
    }

    async fn acknowledge(&self, volume: Name, points: Points) -> Answer<VerificationView> {
        self.ask("acknowledge".to_owned());
        self.verification(volume, points).await
    }

    async fn unit(&self, volume: Name, offset: u64, version: u64) -> Answer<UnitView> {
        self.known(&volume)?;
        Ok(examples::unit(offset, version))
    }

    async fn units(&self, volume: Name, wanted: UnitsAsk) -> Answer<UnitsView> {
        self.known(&volume)?;
        self.ask(format!("units {}", wanted.blocks.len()));
        let unit = |at: &VersionAt| Some(format!("{:04x}{:04x}", at.offset, at.version));
        let found = |at: &VersionAt| UnitFound { unit: unit(at), error: None };
        Ok(UnitsView { volume_id: VolumeId::new(1), units: wanted.blocks.iter().map(found).collect() })
    }

    async fn repair_many(&self, volume: Name, wanted: RepairsCreate) -> Answer<RepairsView> {
        self.known(&volume)?;
        wanted.blocks.iter().for_each(|b| self.ask(format!("repair {} {} {}", b.offset, b.version, b.unit)));
        let done = |b: &RepairOf| RepairedView { places: Some(b.version), error: None };
        Ok(RepairsView { blocks: wanted.blocks.iter().map(done).collect() })
    }

    async fn repair(&self, volume: Name, wanted: RepairCreate) -> Answer<RepairView> {
        self.known(&volume)?;
        self.ask(format!("repair {} {} {}", wanted.offset, wanted.version, wanted.unit));
        Ok(RepairView { places: wanted.version })
    }

    async fn jobs(&self) -> Answer<Vec<JobView>> {
        Ok(self.job.lock().unwrap().iter().cloned().collect())
    }

    async fn job(&self, _: JobId) -> Answer<JobView> {
        let job = self.step();
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.looked.notify_one();
        job
    }

    async fn job_cancel(&self, id: JobId) -> Answer<JobView> {
        let mut job = self.job.lock().unwrap();
        let job =
            job.as_mut().ok_or_else(|| Problem::new(Code::NotFound, format!("there is no job {id}")))?;
        job.state = JobState::Cancelling;
        Ok(job.clone())
    }

    async fn sessions(&self) -> Answer<Vec<SessionView>> {
        Ok(examples::sessions())
    }

    async fn session_end(&self, id: u64) -> Answer<()> {
        examples::session_end(id)
    }

    async fn elapsed(&self) -> Answer<ElapsedView> {
        Ok(examples::elapsed(noon()))
    }

    async fn elapsed_confirm(&self, wanted: ElapsedConfirm) -> Answer<ElapsedView> {
        self.ask(format!("confirm {}", wanted.seconds));
        examples::elapsed_confirm(noon(), &wanted)
    }

    async fn stores(&self) -> Answer<StoresView> {
        Ok(examples::stores(noon()))
    }

    async fn store_gone(&self, wanted: StoreGone) -> Answer<StoresView> {
        self.ask(format!("gone {}", wanted.store));
        examples::store_gone(noon(), &wanted)
    }

    async fn status(&self) -> Answer<StatusView> {
        Ok(StatusView {
            version: "0.1.0".into(),
            started: noon(),
            now: noon(),
            health: Health::Ok,
            reasons: Vec::new(),
            volumes: vec![self.view()],
            images: 0,
            jobs_running: 0,
            nbd_connections: 0,
            nbd: Vec::new(),
            journal: examples::journal(),
        })
    }
}
