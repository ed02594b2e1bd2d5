//! The HTTP API as types: resources, paths, request bodies, problems and jobs.
//!
//! ```text
//!   chronogate verbs ──► request body ──► HTTP ──► gateway/server ──► view ──► JSON ──► table or script
//!                                            └──► Problem (RFC 9457) ──► exit code
//! ```
//!
//! The gateway fills the views, the command line prints them, and scripts rely on every field name: a field
//! may be added, never renamed or given another meaning under `/api/v1`. Conventions, held by golden files in
//! `tests/`: LSNs and byte counts are JSON numbers, times are RFC 3339 in UTC, what is unknown is `null`.
//!
//! Architecture invariant: types only. No socket, no clock, no thread.

pub mod export;
pub mod group;
pub mod image;
pub mod job;
pub mod json;
pub mod page;
pub mod paths;
pub mod point;
pub mod problem;
pub mod retention;
pub mod session;
pub mod shortage;
pub mod status;
pub mod verification;
pub mod volume;

pub use export::{
    ChapLogin, ClientLinesView, ConnectView, ExportAccess, ExportCreate, ExportProtocol, ExportView,
};
pub use group::{GroupPointView, GroupView, MemberPointView};
pub use image::{ImageClone, ImageCommit, ImageCreate, ImageView};
pub use job::{JobId, JobKind, JobState, JobView, RestoreCreate};
pub use page::Page;
pub use point::{BookmarkCreate, BookmarkView, PointView};
pub use problem::{Code, ExitStatus, Problem};
pub use retention::{
    AtGateView, ClockView, DiffView, ExtentView, ForecastView, GateOutcome, GateState, GateView, HistoryView,
    HoldCreate, HoldView, KeptView, PinCreate, PinView, PoliciesApply, PolicyPreview, PolicySet,
    PolicySource, PolicyView, Retention, Size, Span, StretchView, TierView, TimelineView, WhenFull,
};
pub use session::SessionView;
pub use shortage::{ShortOf, ShortageView, WentShort};
pub use status::{
    ElapsedConfirm, ElapsedView, Health, HealthView, JournalView, OtherStoreView, StatusView, StoreGone,
    StoresView, VolumeHealth,
};
pub use verification::{
    AnchorView, FindingKind, FindingView, ProofView, RepairCreate, RepairOf, RepairView, RepairedView,
    RepairsCreate, RepairsView, UnitFound, UnitView, UnitsAsk, UnitsView, VerificationCreate,
    VerificationView, VersionAt,
};
pub use volume::{AcceptedView, GapView, LimitState, LimitView, SyncView, VolumeState, VolumeView};
