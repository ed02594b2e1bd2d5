//! Where each resource is. The gateway's routes, the client and `openapi.json` are all held to this list.

use tap_block::Lsn;

/// The version prefix.
pub const PREFIX: &str = "/api/v1";
/// Volumes (GET).
pub const VOLUMES: &str = "/api/v1/volumes";
/// Consistency groups (GET).
pub const GROUPS: &str = "/api/v1/groups";
/// Images (GET, POST).
pub const IMAGES: &str = "/api/v1/images";
/// Images that are exported with rules of who may open them (GET, POST).
pub const EXPORTS: &str = "/api/v1/exports";
/// Restores (POST: 202 and a job).
pub const RESTORES: &str = "/api/v1/restores";
/// Retention policies (GET, POST).
pub const POLICIES: &str = "/api/v1/policies";
/// Several retention policies at once (POST).
pub const POLICIES_APPLY: &str = "/api/v1/policies/apply";
/// What retention policies would let go (POST, which changes nothing).
pub const POLICIES_PREVIEW: &str = "/api/v1/policies/preview";
/// Verifications (POST: 202 and a job).
pub const VERIFICATIONS: &str = "/api/v1/verifications";
/// Jobs (GET).
pub const JOBS: &str = "/api/v1/jobs";
/// NBD clients and iSCSI initiators that are connected (GET).
pub const SESSIONS: &str = "/api/v1/sessions";
/// The whole at a glance (GET).
pub const STATUS: &str = "/api/v1/status";
/// Time that went by uncounted (GET, POST).
pub const ELAPSED: &str = "/api/v1/elapsed";
/// The stores that the gateway has had (GET, POST).
pub const STORES: &str = "/api/v1/stores";
/// The description of this API (GET).
pub const OPENAPI: &str = "/api/v1/openapi.json";
/// For load balancers and watchdogs (GET).
pub const HEALTH: &str = "/healthz";
/// OpenMetrics (GET).
pub const METRICS: &str = "/metrics";

/// The header that makes an act safe to send twice.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The longest key honoured, in bytes.
pub const MAX_IDEMPOTENCY_KEY: usize = 200;
/// The largest request body, in bytes.
pub const MAX_BODY: u64 = 256 << 10;
/// Blocks of one request that asks for stored forms or brings them; of large ones fewer fit into a body.
pub const MAX_UNITS: usize = 256;
/// The most items of one page, and the number given when the client names none.
pub const MAX_PAGE: usize = 1000;

/// One volume (GET).
#[must_use]
pub fn volume(name: &str) -> String {
    format!("{VOLUMES}/{}", escape(name))
}

/// The bookmarks of a volume (GET, POST).
#[must_use]
pub fn bookmarks(volume_name: &str) -> String {
    format!("{}/bookmarks", volume(volume_name))
}

/// One bookmark of a volume (DELETE).
#[must_use]
pub fn bookmark(volume_name: &str, name: &str) -> String {
    format!("{}?name={}", bookmarks(volume_name), escape(name))
}

/// What a POINT means on a volume (GET).
#[must_use]
pub fn point(volume_name: &str, at: &str) -> String {
    format!("{}/point?at={}", volume(volume_name), escape(at))
}

/// One consistency group (GET).
#[must_use]
pub fn group(name: &str) -> String {
    format!("{GROUPS}/{}", escape(name))
}

/// The newest point of a group in a stretch of time, given as POINTs (GET).
#[must_use]
pub fn group_point(name: &str, after: Option<&str>, before: Option<&str>) -> String {
    let limits = [("after", after), ("before", before)];
    let limits = limits.iter().filter_map(|(name, at)| at.map(|at| format!("{name}={}", escape(at))));
    let query: Vec<String> = limits.collect();
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    format!("{}/point{query}", group(name))
}

/// Bookmarks of a group (POST).
#[must_use]
pub fn group_bookmarks(name: &str) -> String {
    format!("{}/bookmarks", group(name))
}

/// One bookmark of a group, in every member (DELETE).
#[must_use]
pub fn group_bookmark(group_name: &str, name: &str) -> String {
    format!("{}?name={}", group_bookmarks(group_name), escape(name))
}

/// What is left of a volume's history (GET).
#[must_use]
pub fn timeline(volume_name: &str) -> String {
    format!("{}/timeline", volume(volume_name))
}

/// The same with the points before this one (GET).
#[must_use]
pub fn timeline_before(volume_name: &str, before: Lsn) -> String {
    format!("{}?before={}", timeline(volume_name), before.get())
}

/// What changed between two POINTs (GET).
#[must_use]
pub fn diff(volume_name: &str, from: &str, to: &str) -> String {
    format!("{}/diff?from={}&to={}", volume(volume_name), escape(from), escape(to))
}

/// Has a tap whose state is an old copy go on all the same (POST).
#[must_use]
pub fn accept_restored(volume_name: &str) -> String {
    format!("{}/accept-restored", volume(volume_name))
}

/// Has the whole disk copied anew (POST: 202 and a job).
#[must_use]
pub fn resync(volume_name: &str) -> String {
    format!("{}/resync", volume(volume_name))
}

/// Pins a point of a volume (POST).
#[must_use]
pub fn pins(volume_name: &str) -> String {
    format!("{}/pins", volume(volume_name))
}

/// Takes a pin back (POST).
#[must_use]
pub fn unpin(volume_name: &str) -> String {
    format!("{}/unpin", volume(volume_name))
}

/// Holds a stretch of a volume's history (POST).
#[must_use]
pub fn holds(volume_name: &str) -> String {
    format!("{}/holds", volume(volume_name))
}

/// What is known of the soundness of a volume's history (GET).
#[must_use]
pub fn verification(volume_name: &str) -> String {
    format!("{}/verification", volume(volume_name))
}

/// The same, as far as points from one LSN to another show it.
#[must_use]
pub fn verification_between(volume_name: &str, from: Option<Lsn>, to: Option<Lsn>) -> String {
    verification(volume_name) + &between(from, to)
}

/// Says that what is over has been read of, as far as points from one LSN to another show it (POST).
#[must_use]
pub fn acknowledge(volume_name: &str, from: Option<Lsn>, to: Option<Lsn>) -> String {
    format!("{}/acknowledge{}", verification(volume_name), between(from, to))
}

fn between(from: Option<Lsn>, to: Option<Lsn>) -> String {
    let limits = [("from", from), ("to", to)];
    let limits = limits.iter().filter_map(|(name, lsn)| lsn.map(|lsn| format!("{name}={}", lsn.get())));
    let query: Vec<String> = limits.collect();
    if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) }
}

/// The stored form of a version of the block at a byte (GET).
#[must_use]
pub fn unit(volume_name: &str, offset: u64, version: u64) -> String {
    format!("{}/unit?offset={offset}&version={version}", volume(volume_name))
}

/// Puts a damaged block right (POST).
#[must_use]
pub fn repairs(volume_name: &str) -> String {
    format!("{}/repairs", volume(volume_name))
}

/// Puts several damaged blocks of a volume right (POST).
#[must_use]
pub fn repairs_of_many(volume_name: &str) -> String {
    format!("{}/repairs/many", volume(volume_name))
}

/// The stored form of several versions of blocks (POST, which changes nothing).
#[must_use]
pub fn units(volume_name: &str) -> String {
    format!("{}/units", volume(volume_name))
}

/// One image, by id or name (GET, DELETE).
#[must_use]
pub fn image(id_or_name: &str) -> String {
    format!("{IMAGES}/{}", escape(id_or_name))
}

/// The same, where it is taken away from whoever has it open (DELETE).
#[must_use]
pub fn image_forced(id_or_name: &str) -> String {
    format!("{}?force=true", image(id_or_name))
}

/// Images of an image (POST).
#[must_use]
pub fn clones(id_or_name: &str) -> String {
    format!("{}/clones", image(id_or_name))
}

/// Begins an image's flat local copy (POST).
#[must_use]
pub fn materialization(id_or_name: &str) -> String {
    format!("{}/materialization", image(id_or_name))
}

/// Makes an image a volume of its own (POST).
#[must_use]
pub fn commit(id_or_name: &str) -> String {
    format!("{}/commit", image(id_or_name))
}

/// One export, by its image's id or name (GET, DELETE).
#[must_use]
pub fn export(image: &str) -> String {
    format!("{EXPORTS}/{}", escape(image))
}

/// The same, where it is taken away from whoever is logged in (DELETE).
#[must_use]
pub fn export_forced(image: &str) -> String {
    format!("{}?force=true", export(image))
}

/// The access rules of an export's target (POST).
#[must_use]
pub fn export_access(image: &str) -> String {
    format!("{}/access", export(image))
}

/// What to type at a client to open an export, at this portal if one is named (GET).
#[must_use]
pub fn export_connect(image: &str, portal: Option<&str>) -> String {
    let query = portal.map_or_else(String::new, |portal| format!("?portal={}", escape(portal)));
    format!("{}/connect{query}", export(image))
}

/// A client's connection (DELETE).
#[must_use]
pub fn session(id: u64) -> String {
    format!("{SESSIONS}/{id}")
}

/// One job (GET).
#[must_use]
pub fn job(id: crate::JobId) -> String {
    format!("{JOBS}/{id}")
}

/// Asks a job to end (POST).
#[must_use]
pub fn job_cancel(id: crate::JobId) -> String {
    format!("{JOBS}/{id}/cancel")
}

/// Percent-encodes everything but RFC 3986's unreserved characters, for a path segment or a query value.
#[must_use]
pub fn escape(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

/// Undoes [`escape`] on a path segment; `None` for a broken escape or bytes that are not UTF-8.
#[must_use]
pub fn unescape(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let (high, low) = (hex(bytes.next()?)?, hex(bytes.next()?)?);
            out.push(high << 4 | low);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_survives_the_query() {
        assert_eq!(
            point("web01", "2026-11-22T12:00:00+01:00"),
            "/api/v1/volumes/web01/point?at=2026-11-22T12%3A00%3A00%2B01%3A00"
        );
    }

    #[test]
    fn escaping_goes_both_ways() {
        for text in ["", "web01", "a b/c%?&=+", "ä→", "lsn:5"] {
            assert_eq!(unescape(&escape(text)).as_deref(), Some(text));
        }
        for broken in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(unescape(broken), None, "{broken}");
        }
    }
}
