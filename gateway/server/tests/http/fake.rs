//! A gateway that answers from memory, for tests of the HTTP layer alone.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use cx_api::{
    AcceptedView, BookmarkCreate, BookmarkView, Code, ConnectView, DiffView, ElapsedConfirm, ElapsedView,
    ExportAccess, ExportCreate, ExportView, GapView, GroupPointView, GroupView, Health, HoldCreate, HoldView,
    ImageClone, ImageCommit, ImageCreate, ImageView, JobId, JobKind, JobState, JobView, PinView, PointView,
    PoliciesApply, PolicyPreview, PolicySet, PolicyView, Problem, RepairCreate, RepairView, RepairedView,
    RepairsCreate, RepairsView, SessionView, StatusView, StoreGone, StoresView, SyncView, TimelineView,
    UnitFound, UnitView, UnitsAsk, UnitsView, VerificationCreate, VerificationView, VolumeState, VolumeView,
};
use gateway_image::Point;
use gateway_server::http::{Answer, Control, ImageKey, Points};
use tap_block::{Consistency, Lsn, Name, SyncCause, VolumeId, WallTime};
use tokio::sync::Notify;

use crate::examples::{self, lsn, name};

/// One volume, web01, with 2500 bookmarks at LSNs 10, 20, 30 ...
#[derive(Default)]
pub(crate) struct Fake {
    /// Acts that were asked for.
    pub(crate) acts: AtomicUsize,
    /// `bookmark create slow` waits for it.
    pub(crate) go: Notify,
    /// Told when `slow` begins to wait.
    pub(crate) waiting: Notify,
    pub(crate) health: Option<Health>,
}

pub(crate) const BOOKMARKS: u64 = 2500;

fn noon() -> WallTime {
    WallTime::parse_rfc3339("2026-11-22T12:00:00Z").unwrap()
}

fn known(volume: &Name) -> Answer<()> {
    if volume.as_str() == "web01" {
        return Ok(());
    }
    Err(Problem::new(Code::NotFound, format!("there is no volume {volume}"))
        .fix("list the volumes: chronogate volume ls"))
}

pub(crate) fn volume() -> VolumeView {
    VolumeView {
        id: VolumeId::new(1),
        name: name("web01"),
        size: 4096,
        state: VolumeState::Resync,
        head_lsn: None,
        durable_lsn: lsn(7),
        durable_time: Some(noon()),
        lag_seconds: None,
        clock_offset_seconds: None,
        lag_bytes: Some(0),
        baseline_count: 1,
        resynced_bytes: 0,
        sync: Some(SyncView { cause: SyncCause::Overflow, done_bytes: 0, total_bytes: 1 }),
        gaps: vec![GapView {
            from_lsn: lsn(1),
            to_lsn: None,
            from: None,
            to: None,
            cause: SyncCause::Overflow,
            bytes: 0,
        }],
        verified: None,
        damaged: 0,
        history_bytes: 4096,
        history_limit: None,
    }
}

fn bookmark(name: Name, at: u64) -> BookmarkView {
    BookmarkView {
        volume: self::name("web01"),
        name,
        lsn: lsn(at),
        time: noon(),
        consistency: Consistency::Crash,
        note: String::new(),
        selectable: true,
    }
}

fn image() -> ImageView {
    ImageView {
        id: 3,
        name: name("test"),
        volume: name("web01"),
        lsn: lsn(7),
        time: Some(noon()),
        size: 4096,
        writable: false,
        quota_bytes: None,
        used_bytes: None,
        materialized_bytes: None,
        created: noon(),
        parent_id: None,
        parent: None,
        uri: "nbd://127.0.0.1:10809/test".into(),
        uris: vec!["nbd://127.0.0.1:10809/test".into()],
    }
}

fn job(path: &str) -> JobView {
    JobView {
        id: JobId::new(5),
        kind: JobKind::Restore,
        state: JobState::Running,
        volume: name("web01"),
        lsn: lsn(7),
        path: path.into(),
        uris: Vec::new(),
        done_bytes: 0,
        total_bytes: 4096,
        started: noon(),
        ended: None,
        error: Some(Problem::new(Code::NoSpace, "full").because("of you").fix("free some")),
    }
}

impl Control for Fake {
    async fn volumes(&self) -> Answer<Vec<VolumeView>> {
        Ok(vec![volume()])
    }

    async fn volume(&self, name: Name) -> Answer<VolumeView> {
        known(&name).map(|()| volume())
    }

    async fn resolve(&self, volume: Name, point: Point) -> Answer<PointView> {
        known(&volume)?;
        let Point::Lsn(lsn) = point else {
            return Err(Problem::new(Code::NotYetDurable, format!("{point} is not here yet")));
        };
        Ok(PointView { volume, name: None, lsn, time: Some(noon()) })
    }

    async fn bookmark_create(&self, volume: Name, request: BookmarkCreate) -> Answer<BookmarkView> {
        known(&volume)?;
        let n = self.acts.fetch_add(1, Ordering::SeqCst);
        if request.name.as_str() == "slow" {
            self.waiting.notify_one();
            self.go.notified().await;
        }
        Ok(bookmark(request.name, u64::try_from(n).unwrap() + 1))
    }

    async fn bookmarks(&self, volume: Name, after: Option<Lsn>, limit: usize) -> Answer<Vec<BookmarkView>> {
        known(&volume)?;
        let first = after.map_or(1, |lsn| lsn.get() / 10 + 1);
        Ok((first..=BOOKMARKS).take(limit).map(|n| bookmark(name(&format!("b{n}")), n * 10)).collect())
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
        Ok(examples::group_point(name, after.as_ref(), before.as_ref()))
    }

    async fn bookmark_remove(&self, volume: Name, bookmark: Name) -> Answer<()> {
        known(&volume)?;
        if bookmark.as_str() == "held" { Err(Problem::new(Code::Forbidden, "it is held")) } else { Ok(()) }
    }

    async fn group_bookmark_remove(&self, _: Name, _: Name) -> Answer<()> {
        Ok(())
    }

    async fn group_bookmark(&self, name: Name, request: BookmarkCreate) -> Answer<GroupPointView> {
        Ok(examples::group_bookmark(name, request.name))
    }

    async fn image_create(&self, _: ImageCreate, _: Point) -> Answer<ImageView> {
        self.acts.fetch_add(1, Ordering::SeqCst);
        Ok(image())
    }

    async fn images(&self) -> Answer<Vec<ImageView>> {
        Ok(vec![image()])
    }

    async fn image(&self, which: ImageKey) -> Answer<ImageView> {
        match which {
            ImageKey::Id(3) => Ok(image()),
            ImageKey::Name(n) if n == name("test") => Ok(image()),
            other => Err(Problem::new(Code::NotFound, format!("there is no image {other:?}"))),
        }
    }

    async fn image_clone(&self, which: ImageKey, _: ImageClone) -> Answer<ImageView> {
        self.image(which).await
    }

    async fn image_materialize(&self, which: ImageKey) -> Answer<JobView> {
        self.image(which).await?;
        Ok(job(""))
    }

    async fn image_commit(&self, which: ImageKey, _: ImageCommit) -> Answer<JobView> {
        self.image(which).await?;
        Ok(job(""))
    }

    async fn image_remove(&self, _: ImageKey, force: bool) -> Answer<()> {
        if force {
            return Ok(());
        }
        Err(Problem::new(Code::Conflict, "the image is open").fix("disconnect its clients"))
    }

    async fn exports(&self) -> Answer<Vec<ExportView>> {
        Ok(vec![examples::export()])
    }

    async fn export(&self, which: ImageKey) -> Answer<ExportView> {
        examples::known_export(&which)
    }

    async fn export_create(&self, which: ImageKey, wanted: ExportCreate) -> Answer<ExportView> {
        self.acts.fetch_add(1, Ordering::SeqCst);
        Ok(examples::export_create(examples::known_export(&which)?, wanted))
    }

    async fn export_remove(&self, which: ImageKey, force: bool) -> Answer<()> {
        examples::export_remove(&which, force)
    }

    async fn export_access(&self, which: ImageKey, wanted: ExportAccess) -> Answer<ExportView> {
        self.acts.fetch_add(1, Ordering::SeqCst);
        examples::export_access(&which, wanted)
    }

    async fn export_connect(&self, which: ImageKey, portal: Option<String>) -> Answer<ConnectView> {
        examples::export_connect(&which, portal)
    }

    async fn restore(&self, _: Name, _: Point, path: PathBuf) -> Answer<JobView> {
        Ok(job(&path.to_string_lossy()))
    }

    async fn policies(&self) -> Answer<Vec<PolicyView>> {
        Ok(vec![examples::policy()])
    }

    async fn policy_set(&self, wanted: PolicySet) -> Answer<PolicyView> {
        Ok(examples::policy_set(wanted))
    }

    async fn policies_apply(&self, wanted: PoliciesApply) -> Answer<Vec<PolicyView>> {
        let mut views = Vec::new();
        for set in wanted.policies {
            views.push(self.policy_set(set).await?);
        }
        Ok(views)
    }

    async fn policies_preview(&self, _: PoliciesApply) -> Answer<Vec<PolicyPreview>> {
        Ok(examples::preview())
    }

    async fn timeline(&self, volume: Name, _: Option<Lsn>) -> Answer<TimelineView> {
        known(&volume)?;
        Ok(examples::timeline())
    }

    async fn diff(&self, volume: Name, points: (Point, Point), after: u64, _: usize) -> Answer<DiffView> {
        known(&volume)?;
        let _ = points;
        Ok(examples::diff(volume, after))
    }

    async fn pin(&self, volume: Name, point: Point, note: String) -> Answer<PinView> {
        known(&volume)?;
        let _ = point;
        Ok(PinView { lsn: lsn(7), note })
    }

    async fn unpin(&self, volume: Name, point: Point) -> Answer<()> {
        known(&volume)?;
        let _ = point;
        Ok(())
    }

    async fn hold(&self, volume: Name, wanted: HoldCreate) -> Answer<HoldView> {
        known(&volume)?;
        Ok(examples::hold(wanted))
    }

    async fn verify(&self, wanted: VerificationCreate) -> Answer<JobView> {
        known(&wanted.volume)?;
        Ok(JobView { kind: JobKind::Verify, volume: wanted.volume, ..job("") })
    }

    async fn resync(&self, volume: Name) -> Answer<JobView> {
        known(&volume)?;
        Ok(JobView { kind: JobKind::Resync, ..job("") })
    }

    async fn accept_restored(&self, volume: Name) -> Answer<AcceptedView> {
        known(&volume)?;
        Ok(examples::accepted())
    }

    async fn verification(&self, volume: Name, points: Points) -> Answer<VerificationView> {
        known(&volume)?;
        let _ = points;
        Ok(examples::verification())
    }

    async fn acknowledge(&self, volume: Name, points: Points) -> Answer<VerificationView> {
        self.verification(volume, points).await
    }

    async fn unit(&self, volume: Name, offset: u64, version: u64) -> Answer<UnitView> {
        known(&volume)?;
        Ok(examples::unit(offset, version))
    }

    async fn units(&self, volume: Name, wanted: UnitsAsk) -> Answer<UnitsView> {
        known(&volume)?;
        let found = |_| UnitFound { unit: Some("00ff".into()), error: None };
        Ok(UnitsView { volume_id: VolumeId::new(1), units: wanted.blocks.iter().map(found).collect() })
    }

    async fn repair_many(&self, volume: Name, wanted: RepairsCreate) -> Answer<RepairsView> {
        known(&volume)?;
        let done = |_| RepairedView { places: Some(1), error: None };
        Ok(RepairsView { blocks: wanted.blocks.iter().map(done).collect() })
    }

    async fn repair(&self, volume: Name, wanted: RepairCreate) -> Answer<RepairView> {
        known(&volume)?;
        Ok(RepairView { places: wanted.version })
    }

    async fn jobs(&self) -> Answer<Vec<JobView>> {
        Ok(vec![job("/x")])
    }

    async fn job(&self, id: JobId) -> Answer<JobView> {
        if id == JobId::new(5) { Ok(job("/x")) } else { Err(Problem::new(Code::NotFound, "no such job")) }
    }

    async fn job_cancel(&self, id: JobId) -> Answer<JobView> {
        self.job(id).await
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
        examples::elapsed_confirm(noon(), &wanted)
    }

    async fn stores(&self) -> Answer<StoresView> {
        Ok(examples::stores(noon()))
    }

    async fn store_gone(&self, wanted: StoreGone) -> Answer<StoresView> {
        examples::store_gone(noon(), &wanted)
    }

    async fn status(&self) -> Answer<StatusView> {
        Ok(StatusView {
            version: "0".into(),
            started: noon(),
            now: noon(),
            health: self.health.unwrap_or(Health::Degraded),
            reasons: vec!["web01: a resync is running".into()],
            volumes: vec![volume()],
            images: 1,
            jobs_running: 0,
            nbd_connections: 0,
            nbd: Vec::new(),
            journal: examples::journal(),
        })
    }

    fn metrics(&self) -> String {
        "# TYPE chronogate_more gauge\nchronogate_more 1\n".into()
    }
}
