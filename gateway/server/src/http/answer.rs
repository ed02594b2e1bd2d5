//! From a request to an answer: route, guard, body, then the one question or act that the gateway is asked.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cx_api::image::MAX_QUOTA;
use cx_api::json::Text as _;
use cx_api::paths::{self, MAX_PAGE};
use cx_api::point::{MAX_NOTE, MAX_WAIT_SECONDS};
use cx_api::{
    BookmarkCreate, Code, Health, HealthView, HoldCreate, ImageClone, ImageCreate, ImageView, JobId, JobView,
    Page, PinCreate, PoliciesApply, PolicySet, Problem, RepairsCreate, RestoreCreate, Size, Span, UnitsAsk,
};
use tap_block::units::{count, index};
use tap_block::{Lsn, Name};
use warp::Filter;
use warp::http::HeaderMap;
use warp::path::FullPath;
use warp::reply::Response;

use super::control::{Control, ImageKey, Points};
use super::reply::Reply;
use super::request::{Request, group_name, invalid, point, read_body, volume_name};
use super::routes::{Found, Operation, find};
use super::{Api, export, guard, metrics, openapi};

/// A gate's hook gets so long at least.
const LEAST_DEADLINE: Duration = Duration::from_secs(10);
/// A volume's history of less than a segment is nothing that could be kept to.
const LEAST_LIMIT: u64 = 64 << 20;

pub(super) type Handled = Result<Reply, Problem>;

/// Every request, whatever its method and path, has an answer: this filter rejects nothing.
pub(crate) fn filter<C: Control>(
    api: Arc<Api<C>>,
) -> impl Filter<Extract = (Response,), Error = warp::Rejection> + Clone {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(warp::body::stream())
        .then(move |method: warp::http::Method, path: FullPath, query, headers, body| {
            let api = Arc::clone(&api);
            async move {
                let head =
                    Head { method: method.to_string(), path: path.as_str().to_owned(), query, headers };
                let reply = handle(&api, head, body).await.unwrap_or_else(Reply::from);
                api.requests.count(reply.status);
                reply.into_http()
            }
        })
}

struct Head {
    method: String,
    path: String,
    query: String,
    headers: HeaderMap,
}

async fn handle<C, S, B>(api: &Arc<Api<C>>, head: Head, body: S) -> Handled
where
    C: Control,
    S: warp::Stream<Item = Result<B, warp::Error>>,
    B: bytes::Buf,
{
    let (operation, segment) = match find(&head.method, &head.path) {
        Found::Operation(operation, segment) => (operation, segment),
        Found::OtherMethods(methods) => return Ok(other_methods(&head, &methods)),
        Found::Nothing => return Err(no_such_path(&head.path)),
    };
    let acts = !matches!(head.method.as_str(), "GET" | "HEAD");
    guard::check(&head.headers, acts, api.loopback)?;
    let body = read_body(&head.headers, body).await?;
    let _in_hand = api.in_hand.enter();
    let Head { method, path, query, headers } = head;
    let request = Arc::new(Request { method, path, query, headers, body });
    match request.idempotency_key()? {
        Some(key) if acts => {
            let (actor, asked) = (Arc::clone(api), Arc::clone(&request));
            let act =
                async move { perform(&actor, operation, &segment, &asked).await.unwrap_or_else(Reply::from) };
            Ok(api.keys.once(key, &request, act).await)
        }
        _ => perform(api, operation, &segment, &request).await,
    }
}

async fn perform<C: Control>(
    api: &Api<C>,
    operation: Operation,
    segment: &str,
    request: &Request,
) -> Handled {
    let control = api.control.as_ref();
    match operation {
        Operation::Volumes => Ok(Reply::json(&Page::whole(control.volumes().await?))),
        Operation::Volume => Ok(Reply::json(&control.volume(volume_name(segment)?).await?)),
        Operation::Point => resolve(control, segment, request).await,
        Operation::Bookmarks => bookmarks(control, segment, request).await,
        Operation::BookmarkCreate => bookmark_create(control, segment, request).await,
        Operation::BookmarkRemove => {
            let (volume, name) = (volume_name(segment)?, bookmark_named(request)?);
            control.bookmark_remove(volume, name).await.map(|()| Reply::nothing())
        }
        Operation::Groups => Ok(Reply::json(&Page::whole(control.groups().await?))),
        Operation::Group => Ok(Reply::json(&control.group(group_name(segment)?).await?)),
        Operation::GroupPoint => group_point(control, segment, request).await,
        Operation::GroupBookmark => group_bookmark(control, segment, request).await,
        Operation::GroupBookmarkRemove => {
            let (group, name) = (group_name(segment)?, bookmark_named(request)?);
            control.group_bookmark_remove(group, name).await.map(|()| Reply::nothing())
        }
        Operation::Images => Ok(Reply::json(&Page::whole(control.images().await?))),
        Operation::ImageCreate => image_create(control, request).await,
        Operation::Image => Ok(Reply::json(&control.image(image_key(segment)?).await?)),
        Operation::ImageClone => image_clone(control, segment, request).await,
        Operation::ImageMaterialize => materialize(control, segment).await,
        Operation::ImageCommit => commit(control, segment, request).await,
        Operation::ImageRemove => image_remove(control, segment, request).await,
        Operation::Exports => Ok(Reply::json(&Page::whole(control.exports().await?))),
        Operation::ExportCreate => export::create(control, request).await,
        Operation::Export => Ok(Reply::json(&control.export(image_key(segment)?).await?)),
        Operation::ExportRemove => export::remove(control, segment, request).await,
        Operation::ExportAccess => export::access(control, segment, request).await,
        Operation::ExportConnect => export::connect(control, segment, request).await,
        Operation::Policies => Ok(Reply::json(&Page::whole(control.policies().await?))),
        Operation::PolicySet => policy_set(control, request).await,
        Operation::PoliciesApply => policies_apply(control, request).await,
        Operation::PoliciesPreview => policies_preview(control, request).await,
        Operation::Timeline => timeline(control, segment, request).await,
        Operation::Diff => diff(control, segment, request).await,
        Operation::Pin => pin(control, segment, request).await,
        Operation::Unpin => unpin(control, segment, request).await,
        Operation::Hold => hold(control, segment, request).await,
        Operation::RestoreCreate => restore(control, request).await,
        Operation::Verify => verify(control, request).await,
        Operation::Resync => Ok(begun(&control.resync(volume_name(segment)?).await?)),
        Operation::AcceptRestored => Ok(Reply::json(&control.accept_restored(volume_name(segment)?).await?)),
        Operation::Verification => verification(control, segment, request).await,
        Operation::Acknowledge => acknowledge(control, segment, request).await,
        Operation::Unit => unit(control, segment, request).await,
        Operation::Repair => Ok(Reply::json(&control.repair(volume_name(segment)?, request.json()?).await?)),
        Operation::Units => units(control, segment, request).await,
        Operation::RepairMany => repair_many(control, segment, request).await,
        Operation::Jobs => Ok(Reply::json(&Page::whole(control.jobs().await?))),
        Operation::Job => Ok(Reply::json(&control.job(job_id(segment)?).await?)),
        Operation::JobCancel => job_cancel(control, segment).await,
        Operation::Sessions => Ok(Reply::json(&Page::whole(control.sessions().await?))),
        Operation::SessionEnd => control.session_end(session_id(segment)?).await.map(|()| Reply::nothing()),
        Operation::Status => Ok(Reply::json(&control.status().await?)),
        Operation::Elapsed => Ok(Reply::json(&control.elapsed().await?)),
        Operation::ElapsedConfirm => Ok(Reply::json(&control.elapsed_confirm(request.json()?).await?)),
        Operation::Stores => Ok(Reply::json(&control.stores().await?)),
        Operation::StoreGone => Ok(Reply::json(&control.store_gone(request.json()?).await?)),
        Operation::OpenApi => Ok(Reply::text("application/json", openapi::DOCUMENT)),
        Operation::Health => Ok(health(control).await),
        Operation::Metrics => {
            let text = metrics::render(&control.status().await?, &api.requests, &control.metrics());
            Ok(Reply::text(metrics::MEDIA_TYPE, text))
        }
    }
}

async fn job_cancel<C: Control>(control: &C, segment: &str) -> Handled {
    Ok(Reply::json(&control.job_cancel(job_id(segment)?).await?).with_status(202))
}

async fn resolve<C: Control>(control: &C, segment: &str, request: &Request) -> Handled {
    let volume = volume_name(segment)?;
    let at = request.param("at")?.ok_or_else(|| {
        invalid("which point is meant is not said").fix("add ?at=POINT, for example ?at=now")
    })?;
    Ok(Reply::json(&control.resolve(volume, point(&at)?).await?))
}

async fn bookmarks<C: Control>(control: &C, segment: &str, request: &Request) -> Handled {
    let volume = volume_name(segment)?;
    let limit = request.number("limit")?.unwrap_or(count(MAX_PAGE));
    if limit == 0 || limit > count(MAX_PAGE) {
        return Err(invalid(format!("?limit={limit} is out of range"))
            .because(format!("a page has 1 to {MAX_PAGE} items")));
    }
    let after = lsn(request, "after")?;
    // One more than asked for tells whether there is a next page.
    let mut items = control.bookmarks(volume, after, index(limit).saturating_add(1)).await?;
    let more = count(items.len()) > limit;
    items.truncate(index(limit));
    let next = items.last().filter(|_| more).map(|b| b.lsn.get().to_string());
    Ok(Reply::json(&Page { items, next }))
}

async fn bookmark_create<C: Control>(control: &C, segment: &str, request: &Request) -> Handled {
    let (volume, body) = (volume_name(segment)?, bookmark_wanted(request)?);
    Ok(Reply::json(&control.bookmark_create(volume, body).await?).with_status(201))
}

fn bookmark_wanted(request: &Request) -> Result<BookmarkCreate, Problem> {
    let body: BookmarkCreate = request.json()?;
    check_note(&body.note)?;
    if body.wait_seconds > MAX_WAIT_SECONDS {
        return Err(invalid(format!("{} s is too long a wait", body.wait_seconds))
            .because(format!("one request waits at most {MAX_WAIT_SECONDS} s")));
    }
    Ok(body)
}

fn bookmark_named(request: &Request) -> Result<Name, Problem> {
    let missing = || invalid("which bookmark is meant is not said").fix("add ?name=BOOKMARK");
    let name = request.param("name")?.ok_or_else(missing)?;
    name.parse().map_err(|e| invalid(format!("{name:?} is no bookmark's name")).because(format!("{e}")))
}

async fn group_point<C: Control>(control: &C, segment: &str, request: &Request) -> Handled {
    let group = group_name(segment)?;
    let given = |name: &str| request.param(name)?.map(|text| point(&text)).transpose();
    let (after, before) = (given("after")?, given("before")?);
    Ok(Reply::json(&control.group_point(group, after, before).await?))
}

async fn group_bookmark<C: Control>(control: &C, segment: &str, request: &Request) -> Handled {
    let (group, body) = (group_name(segment)?, bookmark_wanted(request)?);
    Ok(Reply::json(&control.group_bookmark(group, body).await?).with_status(201))
}

async fn timeline<C: Control>(control: &C, segment: &str, request: &Request) -> Handled {
    let before = lsn(request, "before")?;
    Ok(Reply::json(&control.timeline(volume_name(segment)?, before).await?))
}

async fn diff<C: Control>(control: &C, segment: &str, request: &Request) -> Handled {
    let volume = volume_name(segment)?;
    let given = |name: &str| {
        let missing = || invalid(format!("?{name}= is missing")).fix("add ?from=POINT&to=POINT");
        request.param(name)?.ok_or_else(missing).and_then(|text| point(&text))
    };
    let (points, after) = ((given("from")?, given("to")?), request.number("after")?.unwrap_or(0));
    Ok(Reply::json(&control.diff(volume, points, after, MAX_PAGE).await?))
}

async fn policy_set<C: Control>(control: &C, request: &Request) -> Handled {
    let wanted: PolicySet = request.json()?;
    check_policy(&wanted)?;
    Ok(Reply::json(&control.policy_set(wanted).await?))
}

async fn policies_apply<C: Control>(control: &C, request: &Request) -> Handled {
    let wanted: PoliciesApply = request.json()?;
    wanted.policies.iter().try_for_each(check_policy)?;
    Ok(Reply::json(&Page::whole(control.policies_apply(wanted).await?)))
}

async fn policies_preview<C: Control>(control: &C, request: &Request) -> Handled {
    let wanted: PoliciesApply = request.json()?;
    wanted.policies.iter().try_for_each(check_policy)?;
    Ok(Reply::json(&Page::whole(control.policies_preview(wanted).await?)))
}

/// What nobody can mean, though it could be followed.
fn check_policy(wanted: &PolicySet) -> Result<(), Problem> {
    let Some(retention) = &wanted.retention else { return Ok(()) };
    let gates = retention.tiers.iter().filter_map(|tier| tier.before_drop.as_ref());
    if let Some(gate) = gates.into_iter().find(|gate| gate.deadline.0 < LEAST_DEADLINE) {
        let least = Span(LEAST_DEADLINE).to_text();
        return Err(invalid(format!("a deadline of {} is too short", gate.deadline.to_text()))
            .because(format!("no hook hands points on in less than {least}, and then they go without it"))
            .fix(format!("give {} {least} at least; hours are usual", gate.hook)));
    }
    if let Some(limit) = retention.limit.filter(|limit| limit.0 < LEAST_LIMIT) {
        let least = Size(LEAST_LIMIT).to_text();
        return Err(invalid(format!("a limit of {} is too small", limit.to_text()))
            .because("history is let go a segment of 64MiB at a time, and its newest state always stays")
            .fix(format!(
                "give {least} at least, and more than the disk holds; without `limit` history takes what room there is"
            )));
    }
    Ok(())
}

async fn pin<C: Control>(control: &C, segment: &str, request: &Request) -> Handled {
    let (volume, body) = (volume_name(segment)?, request.json::<PinCreate>()?);
    check_note(&body.note)?;
    Ok(Reply::json(&control.pin(volume, point(&body.at)?, body.note).await?).with_status(201))
}

async fn unpin<C: Control>(control: &C, segment: &str, request: &Request) -> Handled {
    let (volume, body) = (volume_name(segment)?, request.json::<PinCreate>()?);
    control.unpin(volume, point(&body.at)?).await.map(|()| Reply::nothing())
}

async fn hold<C: Control>(control: &C, segment: &str, request: &Request) -> Handled {
    let (volume, body) = (volume_name(segment)?, request.json::<HoldCreate>()?);
    check_note(&body.note)?;
    if body.from.is_none() && body.to.is_none() && !body.all {
        return Err(invalid("how much history is to be held is not said")
            .because("nobody can take a hold back, and all of it that is kept until then takes room")
            .fix("give a bound with --from or --to (`from`, `to`), or --all (`all`) to hold everything"));
    }
    Ok(Reply::json(&control.hold(volume, body).await?).with_status(201))
}

fn check_note(note: &str) -> Result<(), Problem> {
    if note.len() <= MAX_NOTE {
        return Ok(());
    }
    Err(invalid(format!("the note has {} bytes", note.len()))
        .because(format!("a note has at most {MAX_NOTE}")))
}

async fn image_create<C: Control>(control: &C, request: &Request) -> Handled {
    let body: ImageCreate = request.json()?;
    let point = point(&body.at)?;
    check_image(body.name.as_ref(), body.writable, body.quota_bytes)?;
    Ok(created(&control.image_create(body, point).await?))
}

async fn image_clone<C: Control>(control: &C, segment: &str, request: &Request) -> Handled {
    let (which, body) = (image_key(segment)?, request.json::<ImageClone>()?);
    check_image(body.name.as_ref(), body.writable, body.quota_bytes)?;
    Ok(created(&control.image_clone(which, body).await?))
}

async fn image_remove<C: Control>(control: &C, segment: &str, request: &Request) -> Handled {
    let force = flag(request, "force")?;
    control.image_remove(image_key(segment)?, force).await.map(|()| Reply::nothing())
}

/// Is it said to be so? By itself it is not.
pub(super) fn flag(request: &Request, name: &str) -> Result<bool, Problem> {
    match request.param(name)?.as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(invalid(format!("?{name}={other} is neither true nor false"))),
    }
}

fn check_image(name: Option<&Name>, writable: bool, quota: Option<u64>) -> Result<(), Problem> {
    if let Some(digits) = name.filter(|n| is_number(n.as_str())) {
        return Err(invalid(format!("an image cannot be named {digits}"))
            .because("digits alone are read as an image's id")
            .fix("add a letter to the name"));
    }
    if quota == Some(0) {
        return Err(invalid("a quota of no bytes takes no write")
            .fix("give what its writes may take, or no quota: the gateway chooses one then"));
    }
    if let Some(large) = quota.filter(|quota| *quota > MAX_QUOTA) {
        return Err(invalid(format!("a quota of {large} bytes is too large"))
            .because("no volume is as large, so nobody could write as much")
            .fix(format!(
                "give {} at most; more than the volume's size is never used",
                Size(MAX_QUOTA).to_text()
            )));
    }
    if quota.is_some() && !writable {
        return Err(invalid("a read-only image takes no writes, so it has no quota")
            .fix("ask for a writable image, or for no quota"));
    }
    Ok(())
}

fn created(image: &ImageView) -> Reply {
    Reply::json(image).with_status(201).at(paths::image(&image.id.to_string()))
}

async fn restore<C: Control>(control: &C, request: &Request) -> Handled {
    let body: RestoreCreate = request.json()?;
    let (point, path) = (point(&body.at)?, PathBuf::from(&body.path));
    if !path.is_absolute() || body.path.contains('\0') {
        return Err(invalid(format!("{:?} is not an absolute path", body.path))
            .because("the file is written on the gateway's machine, whose working directory is its own")
            .fix("begin the path with /"));
    }
    Ok(begun(&control.restore(body.volume, point, path).await?))
}

async fn verify<C: Control>(control: &C, request: &Request) -> Handled {
    Ok(begun(&control.verify(request.json()?).await?))
}

async fn materialize<C: Control>(control: &C, segment: &str) -> Handled {
    Ok(begun(&control.image_materialize(image_key(segment)?).await?))
}

async fn commit<C: Control>(control: &C, segment: &str, request: &Request) -> Handled {
    Ok(begun(&control.image_commit(image_key(segment)?, request.json()?).await?))
}

fn begun(job: &JobView) -> Reply {
    Reply::json(job).with_status(202).at(paths::job(job.id))
}

async fn verification<C: Control>(control: &C, segment: &str, request: &Request) -> Handled {
    Ok(Reply::json(&control.verification(volume_name(segment)?, points(request)?).await?))
}

async fn acknowledge<C: Control>(control: &C, segment: &str, request: &Request) -> Handled {
    Ok(Reply::json(&control.acknowledge(volume_name(segment)?, points(request)?).await?))
}

/// The points from one LSN to another that are asked about.
fn points(request: &Request) -> Result<Points, Problem> {
    Ok(Points { from: lsn(request, "from")?, to: lsn(request, "to")? })
}

fn lsn(request: &Request, name: &str) -> Result<Option<Lsn>, Problem> {
    match request.number(name)? {
        Some(raw) => Lsn::new(raw).map(Some).ok_or_else(|| invalid(format!("?{name}= is no LSN"))),
        None => Ok(None),
    }
}

async fn unit<C: Control>(control: &C, segment: &str, request: &Request) -> Handled {
    let given = |name: &str| {
        request
            .number(name)?
            .ok_or_else(|| invalid(format!("?{name}= is missing")).fix("give it as in the finding"))
    };
    let (volume, offset, version) = (volume_name(segment)?, given("offset")?, given("version")?);
    Ok(Reply::json(&control.unit(volume, offset, version).await?))
}

async fn units<C: Control>(control: &C, segment: &str, request: &Request) -> Handled {
    let (volume, wanted) = (volume_name(segment)?, request.json::<UnitsAsk>()?);
    check_many(wanted.blocks.len())?;
    Ok(Reply::json(&control.units(volume, wanted).await?))
}

async fn repair_many<C: Control>(control: &C, segment: &str, request: &Request) -> Handled {
    let (volume, wanted) = (volume_name(segment)?, request.json::<RepairsCreate>()?);
    check_many(wanted.blocks.len())?;
    Ok(Reply::json(&control.repair_many(volume, wanted).await?))
}

fn check_many(blocks: usize) -> Result<(), Problem> {
    if blocks <= paths::MAX_UNITS {
        return Ok(());
    }
    Err(invalid(format!("{blocks} blocks are too many for one request"))
        .fix(format!("ask for {} at most", paths::MAX_UNITS)))
}

/// 503 only when history can be neither taken nor served: restarting helps nothing that is merely degraded.
async fn health<C: Control>(control: &C) -> Reply {
    let view = match control.status().await {
        Ok(status) => HealthView::from(&status),
        Err(problem) => {
            HealthView { health: Health::Failing, reasons: vec![problem.detail], volumes: Vec::new() }
        }
    };
    let status = if view.health == Health::Failing { 503 } else { 200 };
    Reply::json(&view).with_status(status)
}

pub(crate) fn image_key(segment: &str) -> Result<ImageKey, Problem> {
    let unknown = || {
        Problem::new(Code::NotFound, format!("there is no image {segment:?}"))
            .fix("list the images: chronogate image ls")
    };
    if is_number(segment) {
        return segment.parse().map(ImageKey::Id).map_err(|_| unknown());
    }
    segment.parse::<Name>().map(ImageKey::Name).map_err(|_| unknown())
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

fn job_id(segment: &str) -> Result<JobId, Problem> {
    segment.parse().map_err(|_| {
        Problem::new(Code::NotFound, format!("there is no job {segment:?}"))
            .fix("list the jobs: chronogate job ls")
    })
}

fn session_id(segment: &str) -> Result<u64, Problem> {
    segment.parse().map_err(|_| {
        Problem::new(Code::NotFound, format!("there is no session {segment:?}"))
            .fix("list the sessions: chronogate session ls")
    })
}

fn other_methods(head: &Head, methods: &[&str]) -> Reply {
    let allowed = methods.join(", ");
    let problem =
        Problem::new(Code::MethodNotAllowed, format!("{} does not take {}", head.path, head.method))
            .fix(format!("use {allowed}"));
    Reply { allow: Some(allowed), ..problem.into() }
}

fn no_such_path(path: &str) -> Problem {
    let shown: String = path.chars().take(200).collect();
    Problem::new(Code::NotFound, format!("there is nothing at {shown}"))
        .fix(format!("every path is listed in {}", paths::OPENAPI))
}
