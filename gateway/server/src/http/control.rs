//! What the HTTP layer asks of the gateway: the seam between the two, so that each is tested without the other.

use std::future::Future;
use std::path::PathBuf;

use cx_api::{
    AcceptedView, BookmarkCreate, BookmarkView, ConnectView, DiffView, ElapsedConfirm, ElapsedView,
    ExportAccess, ExportCreate, ExportView, GroupPointView, GroupView, HoldCreate, HoldView, ImageClone,
    ImageCommit, ImageCreate, ImageView, JobId, JobView, PinView, PointView, PoliciesApply, PolicyPreview,
    PolicySet, PolicyView, Problem, RepairCreate, RepairView, RepairsCreate, RepairsView, SessionView,
    StatusView, StoreGone, StoresView, TimelineView, UnitView, UnitsAsk, UnitsView, VerificationCreate,
    VerificationView, VolumeView,
};
use gateway_image::Point;
use tap_block::{Lsn, Name};

/// The outcome of a question or an act.
pub type Answer<T> = Result<T, Problem>;

/// Everything the API can ask. Bodies arrive checked: names are names, points parse, paths are absolute, limits
/// are in range.
///
/// Every future may be dropped half way (the client went away): what it began is then either finished by
/// others or undone, never left half done.
pub trait Control: Send + Sync + 'static {
    /// Every volume, by name.
    fn volumes(&self) -> impl Future<Output = Answer<Vec<VolumeView>>> + Send;

    /// One volume; its tap is asked for the head.
    fn volume(&self, name: Name) -> impl Future<Output = Answer<VolumeView>> + Send;

    /// What a point means; waits up to 10 s for one that is not durable yet.
    fn resolve(&self, volume: Name, point: Point) -> impl Future<Output = Answer<PointView>> + Send;

    /// Makes a bookmark that covers every write acknowledged before the call.
    fn bookmark_create(
        &self,
        volume: Name,
        request: BookmarkCreate,
    ) -> impl Future<Output = Answer<BookmarkView>> + Send;

    /// The bookmarks after this LSN, oldest first, at most `limit` of them.
    fn bookmarks(
        &self,
        volume: Name,
        after: Option<Lsn>,
        limit: usize,
    ) -> impl Future<Output = Answer<Vec<BookmarkView>>> + Send;

    /// Removes a bookmark; its point is an ordinary one from then on.
    fn bookmark_remove(&self, volume: Name, name: Name) -> impl Future<Output = Answer<()>> + Send;

    /// Every consistency group, by name.
    fn groups(&self) -> impl Future<Output = Answer<Vec<GroupView>>> + Send;

    /// One group.
    fn group(&self, name: Name) -> impl Future<Output = Answer<GroupView>> + Send;

    /// The newest point that every member of a group has, not before `after` and not after `before`.
    fn group_point(
        &self,
        name: Name,
        after: Option<Point>,
        before: Option<Point>,
    ) -> impl Future<Output = Answer<GroupPointView>> + Send;

    /// Makes a bookmark in every member of a group, at one barrier.
    fn group_bookmark(
        &self,
        name: Name,
        request: BookmarkCreate,
    ) -> impl Future<Output = Answer<GroupPointView>> + Send;

    /// Removes a bookmark of a group in every member.
    fn group_bookmark_remove(&self, group: Name, name: Name) -> impl Future<Output = Answer<()>> + Send;

    /// Makes an image. `point` is `request.at`, parsed.
    fn image_create(
        &self,
        request: ImageCreate,
        point: Point,
    ) -> impl Future<Output = Answer<ImageView>> + Send;

    /// Every image, oldest first.
    fn images(&self) -> impl Future<Output = Answer<Vec<ImageView>>> + Send;

    /// One image.
    fn image(&self, which: ImageKey) -> impl Future<Output = Answer<ImageView>> + Send;

    /// Makes an image of an image.
    fn image_clone(
        &self,
        which: ImageKey,
        wanted: ImageClone,
    ) -> impl Future<Output = Answer<ImageView>> + Send;

    /// Starts making an image's flat local copy.
    fn image_materialize(&self, which: ImageKey) -> impl Future<Output = Answer<JobView>> + Send;

    /// Starts making an image a volume of its own.
    fn image_commit(
        &self,
        which: ImageKey,
        wanted: ImageCommit,
    ) -> impl Future<Output = Answer<JobView>> + Send;

    /// Removes an image; refused while it is open. With `force` it is taken away from who has it open, and one that is gone already
    /// is removed.
    fn image_remove(&self, which: ImageKey, force: bool) -> impl Future<Output = Answer<()>> + Send;

    /// Every image that is exported with rules, in the order in which that was asked for.
    fn exports(&self) -> impl Future<Output = Answer<Vec<ExportView>>> + Send;

    /// One of them.
    fn export(&self, which: ImageKey) -> impl Future<Output = Answer<ExportView>> + Send;

    /// Exports an image.
    fn export_create(
        &self,
        which: ImageKey,
        wanted: ExportCreate,
    ) -> impl Future<Output = Answer<ExportView>> + Send;

    /// Takes an export back; refused while somebody is logged in. With `force` it is taken away from them, and one whose image is
    /// gone is taken back.
    fn export_remove(&self, which: ImageKey, force: bool) -> impl Future<Output = Answer<()>> + Send;

    /// Gives the target of an export other access rules. Initiators that are not on the list any more are logged out; who is
    /// logged in and stays on it stays, and has to know a new secret from the next login on.
    fn export_access(
        &self,
        which: ImageKey,
        wanted: ExportAccess,
    ) -> impl Future<Output = Answer<ExportView>> + Send;

    /// What to type at clients to open it, at this portal (`HOST:PORT`) or the first there is.
    fn export_connect(
        &self,
        which: ImageKey,
        portal: Option<String>,
    ) -> impl Future<Output = Answer<ConnectView>> + Send;

    /// Starts (or goes on with) a restore to `path`.
    fn restore(
        &self,
        volume: Name,
        point: Point,
        path: PathBuf,
    ) -> impl Future<Output = Answer<JobView>> + Send;

    /// The general retention policy, then every volume's.
    fn policies(&self) -> impl Future<Output = Answer<Vec<PolicyView>>> + Send;

    /// Sets a policy, or takes a volume's own back.
    fn policy_set(&self, wanted: PolicySet) -> impl Future<Output = Answer<PolicyView>> + Send;

    /// Sets several policies, all or none, before any history goes by them.
    fn policies_apply(&self, wanted: PoliciesApply) -> impl Future<Output = Answer<Vec<PolicyView>>> + Send;

    /// What policies would let go, were they set.
    fn policies_preview(
        &self,
        wanted: PoliciesApply,
    ) -> impl Future<Output = Answer<Vec<PolicyPreview>>> + Send;

    /// What is left of a volume's history, with the points before this one.
    fn timeline(
        &self,
        volume: Name,
        before: Option<Lsn>,
    ) -> impl Future<Output = Answer<TimelineView>> + Send;

    /// What changed between two points: extents from the byte `after` on, at most `limit` of them.
    fn diff(
        &self,
        volume: Name,
        points: (Point, Point),
        after: u64,
        limit: usize,
    ) -> impl Future<Output = Answer<DiffView>> + Send;

    /// Pins a point: it is never thinned out.
    fn pin(&self, volume: Name, point: Point, note: String) -> impl Future<Output = Answer<PinView>> + Send;

    /// Takes a pin back.
    fn unpin(&self, volume: Name, point: Point) -> impl Future<Output = Answer<()>> + Send;

    /// Holds a stretch of history until a date.
    fn hold(&self, volume: Name, wanted: HoldCreate) -> impl Future<Output = Answer<HoldView>> + Send;

    /// Has the tap copy the whole disk anew.
    fn resync(&self, volume: Name) -> impl Future<Output = Answer<JobView>> + Send;

    /// Has a tap whose state is an old copy, and that is refused for that, go on all the same.
    fn accept_restored(&self, volume: Name) -> impl Future<Output = Answer<AcceptedView>> + Send;

    /// Starts reading and checking a volume's history.
    fn verify(&self, wanted: VerificationCreate) -> impl Future<Output = Answer<JobView>> + Send;

    /// What is known of the soundness of a volume's history, as far as these points show it.
    fn verification(
        &self,
        volume: Name,
        points: Points,
    ) -> impl Future<Output = Answer<VerificationView>> + Send;

    /// Findings that are over have been read of, as far as these points show them.
    fn acknowledge(
        &self,
        volume: Name,
        points: Points,
    ) -> impl Future<Output = Answer<VerificationView>> + Send;

    /// The stored form of a version of the block at a byte.
    fn unit(&self, volume: Name, offset: u64, version: u64) -> impl Future<Output = Answer<UnitView>> + Send;

    /// The stored forms of several versions of blocks.
    fn units(&self, volume: Name, wanted: UnitsAsk) -> impl Future<Output = Answer<UnitsView>> + Send;

    /// Puts several damaged blocks right.
    fn repair_many(
        &self,
        volume: Name,
        wanted: RepairsCreate,
    ) -> impl Future<Output = Answer<RepairsView>> + Send;

    /// Puts a damaged block right.
    fn repair(&self, volume: Name, wanted: RepairCreate) -> impl Future<Output = Answer<RepairView>> + Send;

    /// Every job that is remembered, oldest first.
    fn jobs(&self) -> impl Future<Output = Answer<Vec<JobView>>> + Send;

    /// One job.
    fn job(&self, id: JobId) -> impl Future<Output = Answer<JobView>> + Send;

    /// Asks a job to end; it may still be `cancelling` in the answer.
    fn job_cancel(&self, id: JobId) -> impl Future<Output = Answer<JobView>> + Send;

    /// Every NBD client that is connected, oldest first.
    fn sessions(&self) -> impl Future<Output = Answer<Vec<SessionView>>> + Send;

    /// Ends a client's connection.
    fn session_end(&self, id: u64) -> impl Future<Output = Answer<()>> + Send;

    /// The gateway as a whole; never waits for a tap.
    fn status(&self) -> impl Future<Output = Answer<StatusView>> + Send;

    /// Time that went by while the gateway was down and is not counted.
    fn elapsed(&self) -> impl Future<Output = Answer<ElapsedView>> + Send;

    /// Counts so much of it; durable when this returns.
    fn elapsed_confirm(&self, wanted: ElapsedConfirm) -> impl Future<Output = Answer<ElapsedView>> + Send;

    /// The stores that the gateway has had.
    fn stores(&self) -> impl Future<Output = Answer<StoresView>> + Send;

    /// One of them is gone; durable when this returns.
    fn store_gone(&self, wanted: StoreGone) -> impl Future<Output = Answer<StoresView>> + Send;

    /// OpenMetrics families beyond those made from the status, without the closing `# EOF`.
    fn metrics(&self) -> String {
        String::new()
    }
}

/// Points from the first to the last; `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Points {
    /// The first.
    pub from: Option<Lsn>,
    /// The last.
    pub to: Option<Lsn>,
}

/// How an image is named in a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageKey {
    /// Digits alone are always an id; no image may be named so.
    Id(u64),
    /// Its export name.
    Name(Name),
}
