//! What the API answers, by example: for gateways that answer from memory, here and behind the tests of the command line.

use cx_api::{
    AcceptedView, Code, ConnectView, DiffView, ElapsedConfirm, ElapsedView, ExportAccess, ExportCreate,
    ExportView, ExtentView, GroupPointView, GroupView, HoldCreate, HoldView, JournalView, OtherStoreView,
    PolicyPreview, PolicySet, PolicyView, Problem, SessionView, StoreGone, StoresView, TimelineView,
    UnitView, VerificationView,
};
use gateway_server::http::{Answer, ImageKey, Point};
use serde::de::DeserializeOwned;
use tap_block::{Lsn, Name, VolumeId, WallTime};

/// A file that shows how an answer is written.
macro_rules! golden {
    ($name:literal) => {
        parse(include_str!(concat!("../../../../cx/api/tests/golden/", $name, ".json")))
    };
}

fn parse<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).unwrap()
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn lsn(n: u64) -> Lsn {
    Lsn::new(n).unwrap()
}

pub(crate) fn policy() -> PolicyView {
    golden!("policy")
}

/// As it is when `wanted` has been set.
pub(crate) fn policy_set(wanted: PolicySet) -> PolicyView {
    let retention = wanted.retention.unwrap_or_else(|| policy().retention);
    PolicyView { volume: wanted.volume, retention, ..policy() }
}

pub(crate) fn preview() -> Vec<PolicyPreview> {
    vec![golden!("preview")]
}

pub(crate) fn timeline() -> TimelineView {
    golden!("timeline")
}

pub(crate) fn accepted() -> AcceptedView {
    golden!("accepted")
}

pub(crate) fn verification() -> VerificationView {
    golden!("verification")
}

/// Two pages: one from the beginning, one behind it.
pub(crate) fn diff(volume: Name, after: u64) -> DiffView {
    let view: DiffView = golden!("diff");
    let extent = ExtentView { offset: after.max(4096), length: 4096 };
    let next = view.next.filter(|_| after == 0);
    DiffView { volume, extents: vec![extent], next, ..view }
}

pub(crate) fn hold(wanted: HoldCreate) -> HoldView {
    let HoldCreate { from, to, until, note, .. } = wanted;
    HoldView { from: from.unwrap_or(WallTime::EPOCH), to: to.unwrap_or(until), until, note }
}

pub(crate) fn unit(offset: u64, version: u64) -> UnitView {
    UnitView { volume_id: VolumeId::new(1), unit: format!("{offset:04x}{version:04x}") }
}

pub(crate) fn group() -> GroupView {
    golden!("group")
}

/// The newest point, or the oldest when only an end is given.
pub(crate) fn group_point(name: Name, after: Option<&Point>, before: Option<&Point>) -> GroupPointView {
    let found = if after.is_none() && before.is_some() { group().oldest } else { group().newest };
    GroupPointView { group: name, ..found.unwrap() }
}

pub(crate) fn group_bookmark(group: Name, bookmark: Name) -> GroupPointView {
    GroupPointView { bookmark: Some(bookmark), ..group_point(group, None, None) }
}

pub(crate) fn export() -> ExportView {
    golden!("export")
}

pub(crate) fn known_export(which: &ImageKey) -> Answer<ExportView> {
    match which {
        ImageKey::Id(3) => Ok(export()),
        ImageKey::Name(name) if name.as_str() == "web01-test" => Ok(export()),
        other => Err(Problem::new(Code::NotFound, format!("there is no image {other:?}"))),
    }
}

pub(crate) fn export_create(of: ExportView, wanted: ExportCreate) -> ExportView {
    let user = |login: &Option<cx_api::ChapLogin>| login.as_ref().map(|login| login.user.clone());
    let (chap_user, mutual_chap_user) = (user(&wanted.chap), user(&wanted.mutual_chap));
    let (acl, as_original, lun) = (wanted.acl, wanted.as_original, wanted.lun.unwrap_or(1));
    let uri = format!("iscsi://127.0.0.1:3260/iqn.2026-01.example.chronogate:web01-test/{lun}");
    let uris = vec![uri.clone()];
    ExportView { chap_user, mutual_chap_user, acl, as_original, lun, uri, uris, ..of }
}

pub(crate) fn export_remove(which: &ImageKey, force: bool) -> Answer<()> {
    if force {
        return Ok(());
    }
    known_export(which)?;
    Err(Problem::new(Code::Conflict, "somebody is logged in").fix("log him out"))
}

pub(crate) fn export_access(which: &ImageKey, wanted: ExportAccess) -> Answer<ExportView> {
    let known = known_export(which)?;
    let chap_user = wanted.chap.map(|login| login.user).or(known.chap_user.clone());
    let chap_user = chap_user.filter(|_| !wanted.no_chap);
    Ok(ExportView { acl: wanted.acl.unwrap_or(known.acl.clone()), chap_user, ..known })
}

pub(crate) fn export_connect(which: &ImageKey, portal: Option<String>) -> Answer<ConnectView> {
    known_export(which)?;
    let view: ConnectView = golden!("connect");
    Ok(ConnectView { portal: portal.unwrap_or(view.portal.clone()), ..view })
}

pub(crate) fn sessions() -> Vec<SessionView> {
    vec![golden!("session")]
}

pub(crate) fn session_end(id: u64) -> Answer<()> {
    if id == 7 { Ok(()) } else { Err(Problem::new(Code::NotFound, format!("there is no session {id}"))) }
}

pub(crate) fn elapsed(now: WallTime) -> ElapsedView {
    ElapsedView {
        age: now,
        machine: now,
        went_seconds: Some(90 * 86_400),
        uncounted_seconds: 83 * 86_400,
        creditable_seconds: 83 * 86_400,
        holds_ending: vec!["web01 until 2026-12-01T00:00:00Z".to_owned()],
    }
}

pub(crate) fn elapsed_confirm(now: WallTime, wanted: &ElapsedConfirm) -> Answer<ElapsedView> {
    let all = elapsed(now);
    if wanted.seconds > all.creditable_seconds {
        return Err(Problem::new(Code::Conflict, "that is more than may be confirmed"));
    }
    let (uncounted_seconds, creditable_seconds, holds_ending) = (0, 0, Vec::new());
    Ok(ElapsedView { went_seconds: None, uncounted_seconds, creditable_seconds, holds_ending, ..all })
}

pub(crate) fn stores(last: WallTime) -> StoresView {
    let (store, known_by) = ("000000000000000a".to_owned(), "cx".to_owned());
    let other = OtherStoreView { store, known_by, last, confirmed_gone: false };
    StoresView { store: "000000000000000b".to_owned(), others: vec![other] }
}

pub(crate) fn store_gone(last: WallTime, wanted: &StoreGone) -> Answer<StoresView> {
    let mut stores = stores(last);
    let other = stores.others.iter_mut().find(|other| other.store == wanted.store);
    other.ok_or_else(|| Problem::new(Code::NotFound, "nobody knows of it"))?.confirmed_gone = true;
    Ok(stores)
}

pub(crate) fn journal() -> JournalView {
    JournalView { segments: 1, bytes: 2, free_bytes: None, records: 3, damaged: 0, refused: 0 }
}
