//! The table of routes. `openapi.json` is held to it by a test, both ways.

use cx_api::paths::unescape;

/// What a route takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// Reads; HEAD is answered alike.
    Get,
    /// Acts.
    Post,
    /// Removes.
    Delete,
}

impl Method {
    /// The word in HTTP.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }

    fn takes(self, method: &str) -> bool {
        method == self.as_str() || (self == Self::Get && method == "HEAD")
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Volumes,
    Volume,
    Point,
    Bookmarks,
    BookmarkCreate,
    BookmarkRemove,
    Groups,
    Group,
    GroupPoint,
    GroupBookmark,
    GroupBookmarkRemove,
    Images,
    ImageCreate,
    Image,
    ImageRemove,
    ImageClone,
    ImageMaterialize,
    ImageCommit,
    Exports,
    ExportCreate,
    Export,
    ExportRemove,
    ExportAccess,
    ExportConnect,
    Policies,
    PolicySet,
    PoliciesApply,
    PoliciesPreview,
    Timeline,
    Diff,
    Pin,
    Unpin,
    Hold,
    RestoreCreate,
    Verify,
    Resync,
    AcceptRestored,
    Verification,
    Acknowledge,
    Unit,
    Units,
    Repair,
    RepairMany,
    Jobs,
    Job,
    JobCancel,
    Sessions,
    SessionEnd,
    Status,
    Elapsed,
    ElapsedConfirm,
    Stores,
    StoreGone,
    OpenApi,
    Health,
    Metrics,
}

/// A method on a path; `{...}` stands for one segment.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path as in `openapi.json`.
    pub template: &'static str,
    pub(crate) operation: Operation,
}

const fn route(method: Method, template: &'static str, operation: Operation) -> Route {
    Route { method, template, operation }
}

static ROUTES: [Route; 56] = [
    route(Method::Get, "/api/v1/volumes", Operation::Volumes),
    route(Method::Get, "/api/v1/volumes/{volume}", Operation::Volume),
    route(Method::Get, "/api/v1/volumes/{volume}/point", Operation::Point),
    route(Method::Get, "/api/v1/volumes/{volume}/bookmarks", Operation::Bookmarks),
    route(Method::Post, "/api/v1/volumes/{volume}/bookmarks", Operation::BookmarkCreate),
    route(Method::Delete, "/api/v1/volumes/{volume}/bookmarks", Operation::BookmarkRemove),
    route(Method::Get, "/api/v1/volumes/{volume}/timeline", Operation::Timeline),
    route(Method::Get, "/api/v1/volumes/{volume}/diff", Operation::Diff),
    route(Method::Post, "/api/v1/volumes/{volume}/pins", Operation::Pin),
    route(Method::Post, "/api/v1/volumes/{volume}/unpin", Operation::Unpin),
    route(Method::Post, "/api/v1/volumes/{volume}/holds", Operation::Hold),
    route(Method::Post, "/api/v1/volumes/{volume}/resync", Operation::Resync),
    route(Method::Post, "/api/v1/volumes/{volume}/accept-restored", Operation::AcceptRestored),
    route(Method::Get, "/api/v1/volumes/{volume}/verification", Operation::Verification),
    route(Method::Post, "/api/v1/volumes/{volume}/verification/acknowledge", Operation::Acknowledge),
    route(Method::Get, "/api/v1/volumes/{volume}/unit", Operation::Unit),
    route(Method::Post, "/api/v1/volumes/{volume}/units", Operation::Units),
    route(Method::Post, "/api/v1/volumes/{volume}/repairs", Operation::Repair),
    route(Method::Post, "/api/v1/volumes/{volume}/repairs/many", Operation::RepairMany),
    route(Method::Get, "/api/v1/policies", Operation::Policies),
    route(Method::Post, "/api/v1/policies", Operation::PolicySet),
    route(Method::Post, "/api/v1/policies/apply", Operation::PoliciesApply),
    route(Method::Post, "/api/v1/policies/preview", Operation::PoliciesPreview),
    route(Method::Get, "/api/v1/groups", Operation::Groups),
    route(Method::Get, "/api/v1/groups/{group}", Operation::Group),
    route(Method::Get, "/api/v1/groups/{group}/point", Operation::GroupPoint),
    route(Method::Post, "/api/v1/groups/{group}/bookmarks", Operation::GroupBookmark),
    route(Method::Delete, "/api/v1/groups/{group}/bookmarks", Operation::GroupBookmarkRemove),
    route(Method::Get, "/api/v1/images", Operation::Images),
    route(Method::Post, "/api/v1/images", Operation::ImageCreate),
    route(Method::Get, "/api/v1/images/{image}", Operation::Image),
    route(Method::Delete, "/api/v1/images/{image}", Operation::ImageRemove),
    route(Method::Post, "/api/v1/images/{image}/clones", Operation::ImageClone),
    route(Method::Post, "/api/v1/images/{image}/materialization", Operation::ImageMaterialize),
    route(Method::Post, "/api/v1/images/{image}/commit", Operation::ImageCommit),
    route(Method::Get, "/api/v1/exports", Operation::Exports),
    route(Method::Post, "/api/v1/exports", Operation::ExportCreate),
    route(Method::Get, "/api/v1/exports/{export}", Operation::Export),
    route(Method::Delete, "/api/v1/exports/{export}", Operation::ExportRemove),
    route(Method::Post, "/api/v1/exports/{export}/access", Operation::ExportAccess),
    route(Method::Get, "/api/v1/exports/{export}/connect", Operation::ExportConnect),
    route(Method::Post, "/api/v1/restores", Operation::RestoreCreate),
    route(Method::Post, "/api/v1/verifications", Operation::Verify),
    route(Method::Get, "/api/v1/jobs", Operation::Jobs),
    route(Method::Get, "/api/v1/jobs/{job}", Operation::Job),
    route(Method::Post, "/api/v1/jobs/{job}/cancel", Operation::JobCancel),
    route(Method::Get, "/api/v1/sessions", Operation::Sessions),
    route(Method::Delete, "/api/v1/sessions/{session}", Operation::SessionEnd),
    route(Method::Get, "/api/v1/status", Operation::Status),
    route(Method::Get, "/api/v1/elapsed", Operation::Elapsed),
    route(Method::Post, "/api/v1/elapsed", Operation::ElapsedConfirm),
    route(Method::Get, "/api/v1/stores", Operation::Stores),
    route(Method::Post, "/api/v1/stores", Operation::StoreGone),
    route(Method::Get, "/api/v1/openapi.json", Operation::OpenApi),
    route(Method::Get, "/healthz", Operation::Health),
    route(Method::Get, "/metrics", Operation::Metrics),
];

/// Every route.
#[must_use]
pub fn routes() -> &'static [Route] {
    &ROUTES
}

/// Where a request leads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// To this operation; the segment that stood for `{...}`, decoded.
    Operation(Operation, String),
    /// To a path that takes other methods only.
    OtherMethods(Vec<&'static str>),
    /// Nowhere.
    Nothing,
}

pub(crate) fn find(method: &str, path: &str) -> Found {
    let mut others = Vec::new();
    for route in &ROUTES {
        let Some(segment) = matches(route.template, path) else { continue };
        if route.method.takes(method) {
            return Found::Operation(route.operation, segment);
        }
        others.push(route.method.as_str());
    }
    if others.is_empty() { Found::Nothing } else { Found::OtherMethods(others) }
}

/// The decoded segment in place of `{...}` (empty when the template has none), if the path fits.
fn matches(template: &str, path: &str) -> Option<String> {
    let mut segment = String::new();
    let mut given = path.split('/');
    for due in template.split('/') {
        let found = given.next()?;
        if due.starts_with('{') {
            segment = unescape(found).filter(|s| !s.is_empty())?;
        } else if due != found {
            return None;
        }
    }
    given.next().is_none().then_some(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_where_they_should() {
        let to = |operation, segment: &str| Found::Operation(operation, segment.to_owned());
        assert_eq!(find("GET", "/api/v1/volumes"), to(Operation::Volumes, ""));
        assert_eq!(find("HEAD", "/api/v1/volumes/web01"), to(Operation::Volume, "web01"));
        assert_eq!(find("POST", "/api/v1/jobs/7/cancel"), to(Operation::JobCancel, "7"));
        assert_eq!(find("GET", "/api/v1/volumes/a%2Fb"), to(Operation::Volume, "a/b"));
        assert_eq!(find("PUT", "/api/v1/images"), Found::OtherMethods(vec!["GET", "POST"]));
        for nowhere in
            ["/", "", "/api/v1/volumes/", "/api/v1/volumes/a/b", "/api/v1/volumes/%f", "/api/v2/volumes"]
        {
            assert_eq!(find("GET", nowhere), Found::Nothing, "{nowhere}");
        }
    }

    #[test]
    fn the_paths_of_the_client_are_routes() {
        use cx_api::{JobId, paths};
        let seven = JobId::new(7);
        for (method, path) in [
            ("GET", paths::VOLUMES.to_owned()),
            ("GET", paths::volume("web01")),
            ("GET", paths::bookmarks("web01")),
            ("POST", paths::bookmarks("web01")),
            ("DELETE", paths::bookmark("web01", "gold").split('?').next().unwrap().to_owned()),
            ("GET", paths::point("web01", "").split('?').next().unwrap().to_owned()),
            ("GET", paths::timeline("web01")),
            ("GET", paths::diff("web01", "", "").split('?').next().unwrap().to_owned()),
            ("POST", paths::resync("web01")),
            ("POST", paths::accept_restored("web01")),
            ("GET", paths::verification("web01")),
            ("POST", paths::acknowledge("web01", None, None)),
            ("GET", paths::unit("web01", 0, 2).split('?').next().unwrap().to_owned()),
            ("POST", paths::repairs("web01")),
            ("POST", paths::repairs_of_many("web01")),
            ("POST", paths::units("web01")),
            ("POST", paths::VERIFICATIONS.to_owned()),
            ("POST", paths::pins("web01")),
            ("POST", paths::unpin("web01")),
            ("POST", paths::holds("web01")),
            ("GET", paths::POLICIES.to_owned()),
            ("POST", paths::POLICIES.to_owned()),
            ("POST", paths::POLICIES_APPLY.to_owned()),
            ("POST", paths::POLICIES_PREVIEW.to_owned()),
            ("GET", paths::GROUPS.to_owned()),
            ("GET", paths::group("db")),
            ("GET", paths::group_point("db", Some("-1h"), None).split('?').next().unwrap().to_owned()),
            ("POST", paths::group_bookmarks("db")),
            ("DELETE", paths::group_bookmark("db", "gold").split('?').next().unwrap().to_owned()),
            ("GET", paths::IMAGES.to_owned()),
            ("POST", paths::IMAGES.to_owned()),
            ("DELETE", paths::image("img")),
            ("POST", paths::clones("img")),
            ("POST", paths::materialization("img")),
            ("POST", paths::commit("img")),
            ("GET", paths::EXPORTS.to_owned()),
            ("POST", paths::EXPORTS.to_owned()),
            ("GET", paths::export("img")),
            ("DELETE", paths::export_forced("img").split('?').next().unwrap().to_owned()),
            ("POST", paths::export_access("img")),
            ("GET", paths::export_connect("img", Some("a:1")).split('?').next().unwrap().to_owned()),
            ("POST", paths::RESTORES.to_owned()),
            ("GET", paths::JOBS.to_owned()),
            ("GET", paths::job(seven)),
            ("POST", paths::job_cancel(seven)),
            ("GET", paths::SESSIONS.to_owned()),
            ("DELETE", paths::session(7)),
            ("DELETE", paths::image_forced("img").split('?').next().unwrap().to_owned()),
            ("GET", paths::STATUS.to_owned()),
            ("GET", paths::ELAPSED.to_owned()),
            ("POST", paths::ELAPSED.to_owned()),
            ("GET", paths::STORES.to_owned()),
            ("POST", paths::STORES.to_owned()),
            ("GET", paths::OPENAPI.to_owned()),
            ("GET", paths::HEALTH.to_owned()),
            ("GET", paths::METRICS.to_owned()),
        ] {
            assert!(matches!(find(method, &path), Found::Operation(..)), "{method} {path}");
        }
    }
}
