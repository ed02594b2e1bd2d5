//! The gateway as the HTTP API sees it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cx_api::{
    AcceptedView, BookmarkCreate, BookmarkView, Code, ConnectView, DiffView, ElapsedConfirm, ElapsedView,
    ExportAccess, ExportCreate, ExportView, GroupPointView, GroupView, HoldCreate, HoldView, ImageClone,
    ImageCommit, ImageCreate, ImageView, JobId, JobKind, JobView, PinView, PointView, PoliciesApply,
    PolicyPreview, PolicySet, PolicyView, Problem, RepairCreate, RepairView, RepairsCreate, RepairsView,
    SessionView, StatusView, StoreGone, StoresView, TimelineView, UnitView, UnitsAsk, UnitsView,
    VerificationCreate, VerificationView, VolumeView,
};
use cx_wire::{Question, Reply};
use gateway_image::Point;
use gateway_image::catalogue::Volume;
use gateway_journal::ImageRecord;
use tap_block::{Lsn, Name};

use crate::gateway::Gateway;
use crate::http::{Answer, Control, ImageKey, Points};
use crate::images::Wanted;
use crate::jobs::Task;
use crate::restore::{Note, Restore};
use crate::{problems, views};

/// What a bookmark may take beyond the wait that was asked for.
pub(crate) const BOOKMARK_GRACE: Duration = Duration::from_secs(10);

impl Control for Gateway {
    async fn volumes(&self) -> Answer<Vec<VolumeView>> {
        let catalogue = self.store.catalogue();
        let mut all: Vec<Arc<Volume>> = catalogue.volumes().cloned().collect();
        all.sort_by(|a, b| a.name().cmp(b.name()));
        let asked: Vec<_> = all.into_iter().map(|v| tokio::spawn(self.asked_view(v))).collect();
        let mut views = Vec::new();
        for view in asked {
            views.push(view.await.map_err(problems::internal)?);
        }
        Ok(views)
    }

    async fn volume(&self, name: Name) -> Answer<VolumeView> {
        Ok(self.asked_view(self.known(&name)?).await)
    }

    async fn resolve(&self, volume: Name, point: Point) -> Answer<PointView> {
        let at = self.points.resolve(&volume, &point).await?;
        Ok(PointView { volume: at.name, name: at.bookmark, lsn: at.lsn, time: at.time })
    }

    async fn bookmark_create(&self, volume: Name, request: BookmarkCreate) -> Answer<BookmarkView> {
        let known = self.known(&volume)?;
        let _reserved = self.reserve_bookmark(&known, &request.name)?;
        let wait = Duration::from_secs(u64::from(request.wait_seconds));
        let question = Question::Bookmark {
            name: request.name.clone(),
            consistency: request.consistency,
            note: request.note.clone(),
            wait,
            group: None,
        };
        let stream = self.streams.get(known.stream()).ok_or_else(|| problems::unreachable(&volume))?;
        let reply = stream.ask(question, wait + BOOKMARK_GRACE).await;
        match reply.map_err(|e| problems::asked(&volume, &e))? {
            Reply::Bookmarked { lsn, at } => Ok(self.arrived(&volume, request, lsn, at).await),
            other => Err(problems::internal(format!("the tap answered {other:?} to a bookmark"))),
        }
    }

    async fn bookmarks(&self, volume: Name, after: Option<Lsn>, limit: usize) -> Answer<Vec<BookmarkView>> {
        let known = self.known(&volume)?;
        let page = known.bookmarks_behind(after.unwrap_or_default()).take(limit);
        Ok(page.map(|(name, at)| views::bookmark(&known, name, at, &self.store)).collect())
    }

    async fn bookmark_remove(&self, volume: Name, name: Name) -> Answer<()> {
        self.remove_bookmark(&volume, &name).await
    }

    async fn groups(&self) -> Answer<Vec<GroupView>> {
        // Every mark of every member is looked at.
        Ok(tokio::task::block_in_place(|| self.group_views()))
    }

    async fn group(&self, name: Name) -> Answer<GroupView> {
        tokio::task::block_in_place(|| self.group_view_of(&name))
    }

    async fn group_point(
        &self,
        name: Name,
        after: Option<Point>,
        before: Option<Point>,
    ) -> Answer<GroupPointView> {
        let before = match before {
            Some(before) => Some(self.known_up_to(&name, before).await?),
            None => None,
        };
        tokio::task::block_in_place(|| self.group_point_view(&name, after.as_ref(), before.as_ref()))
    }

    async fn group_bookmark(&self, name: Name, request: BookmarkCreate) -> Answer<GroupPointView> {
        self.bookmark_group(name, request).await
    }

    async fn group_bookmark_remove(&self, group: Name, name: Name) -> Answer<()> {
        self.remove_group_bookmark(&group, &name).await
    }

    async fn image_create(&self, request: ImageCreate, point: Point) -> Answer<ImageView> {
        let at = self.points.resolve(&request.volume, &point).await?;
        let (name, writable, quota) = (request.name, request.writable, request.quota_bytes);
        let images = Arc::clone(&self.images);
        // On a task of its own: a client that goes away does not leave it half done.
        let made = tokio::spawn(async move { images.create(Wanted { at, name, writable, quota }).await });
        self.image_view(made.await.map_err(problems::internal)??).await
    }

    async fn images(&self) -> Answer<Vec<ImageView>> {
        let records: Vec<ImageRecord> = self.store.catalogue().images().cloned().collect();
        let mut views = Vec::new();
        for record in records {
            views.push(self.image_view(record).await?);
        }
        Ok(views)
    }

    async fn image(&self, which: ImageKey) -> Answer<ImageView> {
        self.image_view(self.images.find(&which)?).await
    }

    async fn image_clone(&self, which: ImageKey, wanted: ImageClone) -> Answer<ImageView> {
        // On a task of its own: a client that goes away does not leave it half done.
        let images = Arc::clone(&self.images);
        let made = tokio::spawn(async move { images.clone_of(&which, wanted).await });
        self.image_view(made.await.map_err(problems::internal)??).await
    }

    async fn image_materialize(&self, which: ImageKey) -> Answer<JobView> {
        self.start_materialization(&which)
    }

    async fn image_commit(&self, which: ImageKey, wanted: ImageCommit) -> Answer<JobView> {
        self.start_commit(&which, wanted.name)
    }

    async fn image_remove(&self, which: ImageKey, force: bool) -> Answer<()> {
        // On a task of its own: a client that goes away does not leave it half done.
        let gateway = self.me.upgrade().ok_or_else(|| problems::internal("the gateway is stopping"))?;
        let removed = tokio::spawn(async move { gateway.remove_image(&which, force).await });
        removed.await.map_err(problems::internal)?
    }

    async fn exports(&self) -> Answer<Vec<ExportView>> {
        self.export_views()
    }

    async fn export(&self, which: ImageKey) -> Answer<ExportView> {
        self.export_view(&which)
    }

    async fn export_create(&self, which: ImageKey, wanted: ExportCreate) -> Answer<ExportView> {
        // On a task of its own: a client that goes away does not leave it half done.
        let gateway = self.me.upgrade().ok_or_else(|| problems::internal("the gateway is stopping"))?;
        let made = tokio::spawn(async move { gateway.create_export(&which, wanted).await });
        made.await.map_err(problems::internal)?
    }

    async fn export_remove(&self, which: ImageKey, force: bool) -> Answer<()> {
        let gateway = self.me.upgrade().ok_or_else(|| problems::internal("the gateway is stopping"))?;
        let removed = tokio::spawn(async move { gateway.remove_export(&which, force).await });
        removed.await.map_err(problems::internal)?
    }

    async fn export_access(&self, which: ImageKey, wanted: ExportAccess) -> Answer<ExportView> {
        let gateway = self.me.upgrade().ok_or_else(|| problems::internal("the gateway is stopping"))?;
        let changed = tokio::spawn(async move { gateway.change_access(&which, wanted).await });
        changed.await.map_err(problems::internal)?
    }

    async fn export_connect(&self, which: ImageKey, portal: Option<String>) -> Answer<ConnectView> {
        self.connect_view(&which, portal)
    }

    async fn restore(&self, volume: Name, point: Point, path: PathBuf) -> Answer<JobView> {
        let at = self.points.resolve(&volume, &point).await?;
        let image = self.images.image(at.volume, at.lsn)?;
        let task = Task { kind: JobKind::Restore, volume, lsn: at.lsn, path: path.clone(), total: at.size };
        let note = Note { volume: at.volume, lsn: at.lsn, size: at.size, done: 0 };
        let mut forbidden = self.forbidden.clone();
        let committed = self.committed.disks().map_err(problems::internal)?;
        forbidden.files.extend(committed.into_iter().map(|(_, path)| path));
        let job = self.jobs.add(task, self.clock.wall())?;
        let (clock, worker) = (Arc::clone(&self.clock), Arc::clone(&job));
        let (checked, prepared) = tokio::sync::oneshot::channel();
        // Nobody waits for what is sent when the client has gone; the restore goes on.
        let work = move || match Restore::prepare(image, note, &path, &forbidden) {
            Ok(restore) => {
                let _ = checked.send(None);
                worker.finish(restore.run(&worker), clock.wall());
            }
            Err(problem) => {
                // Over before that is said: the client may try again at once.
                worker.finish(Err(problem.clone()), clock.wall());
                let _ = checked.send(Some(problem));
            }
        };
        self.spawn_job(&job, work)?;
        match prepared.await.map_err(problems::internal)? {
            Some(problem) => Err(problem),
            None => Ok(job.view()),
        }
    }

    async fn policies(&self) -> Answer<Vec<PolicyView>> {
        Ok(self.policy_views())
    }

    async fn policy_set(&self, wanted: PolicySet) -> Answer<PolicyView> {
        self.policy_change(wanted).await
    }

    async fn policies_apply(&self, wanted: PoliciesApply) -> Answer<Vec<PolicyView>> {
        self.policy_changes(wanted.policies, wanted.check).await
    }

    async fn policies_preview(&self, wanted: PoliciesApply) -> Answer<Vec<PolicyPreview>> {
        self.policy_previews(wanted).await
    }

    async fn timeline(&self, volume: Name, before: Option<Lsn>) -> Answer<TimelineView> {
        // Times are looked up in the journal.
        tokio::task::block_in_place(|| self.timeline_view(&volume, before))
    }

    async fn diff(&self, volume: Name, points: (Point, Point), after: u64, limit: usize) -> Answer<DiffView> {
        self.diff_view(volume, points, after, limit).await
    }

    async fn pin(&self, volume: Name, point: Point, note: String) -> Answer<PinView> {
        self.pin_point(volume, point, note).await
    }

    async fn unpin(&self, volume: Name, point: Point) -> Answer<()> {
        self.unpin_point(volume, point).await
    }

    async fn hold(&self, volume: Name, wanted: HoldCreate) -> Answer<HoldView> {
        self.hold_history(volume, wanted).await
    }

    async fn verify(&self, wanted: VerificationCreate) -> Answer<JobView> {
        self.start_verification(wanted).await
    }

    async fn resync(&self, volume: Name) -> Answer<JobView> {
        self.start_resync(volume).await
    }

    async fn accept_restored(&self, volume: Name) -> Answer<AcceptedView> {
        self.accept_copy(volume).await
    }

    async fn verification(&self, volume: Name, points: Points) -> Answer<VerificationView> {
        // Times are looked up in the journal.
        tokio::task::block_in_place(|| self.verification_view(&volume, points))
    }

    async fn acknowledge(&self, volume: Name, points: Points) -> Answer<VerificationView> {
        tokio::task::block_in_place(|| self.acknowledge_findings(&volume, points))
    }

    async fn unit(&self, volume: Name, offset: u64, version: u64) -> Answer<UnitView> {
        tokio::task::block_in_place(|| self.unit_view(&volume, offset, version))
    }

    async fn units(&self, volume: Name, wanted: UnitsAsk) -> Answer<UnitsView> {
        tokio::task::block_in_place(|| self.units_view(&volume, &wanted))
    }

    async fn repair_many(&self, volume: Name, wanted: RepairsCreate) -> Answer<RepairsView> {
        // It may have to wait until history is not being settled.
        tokio::task::block_in_place(|| self.repair_blocks(&volume, &wanted))
    }

    async fn repair(&self, volume: Name, wanted: RepairCreate) -> Answer<RepairView> {
        // It may have to wait until history is not being settled.
        tokio::task::block_in_place(|| self.repair_block(&volume, &wanted))
    }

    async fn jobs(&self) -> Answer<Vec<JobView>> {
        Ok(self.jobs.all().iter().map(|job| job.view()).collect())
    }

    async fn job(&self, id: JobId) -> Answer<JobView> {
        Ok(self.jobs.get(id)?.view())
    }

    async fn job_cancel(&self, id: JobId) -> Answer<JobView> {
        let job = self.jobs.get(id)?;
        if !job.cancel() && job.is_running() {
            return Err(Problem::new(
                Code::Conflict,
                format!("job {id} is past the point where it can be cancelled"),
            )
            .because("what it makes is being put in place")
            .fix("wait for it to end"));
        }
        Ok(job.view())
    }

    async fn sessions(&self) -> Answer<Vec<SessionView>> {
        Ok(self.session_views())
    }

    async fn session_end(&self, id: u64) -> Answer<()> {
        self.end_session(id).await
    }

    async fn elapsed(&self) -> Answer<ElapsedView> {
        Ok(self.elapsed_view())
    }

    async fn elapsed_confirm(&self, wanted: ElapsedConfirm) -> Answer<ElapsedView> {
        tokio::task::block_in_place(|| self.confirm_elapsed(wanted))
    }

    async fn stores(&self) -> Answer<StoresView> {
        Ok(self.stores_view())
    }

    async fn store_gone(&self, wanted: StoreGone) -> Answer<StoresView> {
        tokio::task::block_in_place(|| self.confirm_store_gone(&wanted))
    }

    async fn status(&self) -> Answer<StatusView> {
        Ok(self.status_view())
    }

    fn metrics(&self) -> String {
        crate::metrics::text(&self.store.status(), self.gates.unguarded()) + &self.client_metrics()
    }
}
