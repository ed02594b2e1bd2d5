//! The API over real sockets, in front of a gateway that answers from memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod examples;
mod fake;
mod openapi;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cx_api::{
    BookmarkView, Code, GroupPointView, GroupView, Health, JobView, Page, Problem, VolumeView, paths,
};
use fake::{BOOKMARKS, Fake};
use gateway_server::http::{ApiConfig, ApiHandle, StartError, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// No test waits longer for anything.
const LIMIT: Duration = Duration::from_secs(20);

struct Server {
    fake: Arc<Fake>,
    api: ApiHandle,
}

/// An answer, as text.
struct Answered {
    status: u16,
    head: String,
    body: String,
}

impl Answered {
    fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// Checks that it is a whole problem, and returns it.
    #[track_caller]
    fn problem(&self, code: Code) -> Problem {
        assert_eq!(self.status, code.http_status(), "{}", self.body);
        assert_eq!(self.header("content-type"), Problem::MEDIA_TYPE);
        let fields: serde_json::Value = self.json();
        assert_eq!(fields["status"], self.status);
        assert_eq!(fields["type"], format!("urn:chronogate:problem:{}", code.as_str()));
        assert_eq!(fields["title"], code.title());
        let problem: Problem = self.json();
        assert_eq!(problem.code, code);
        problem
    }

    fn header(&self, name: &str) -> &str {
        let mut lines = self.head.lines();
        lines.find_map(|l| l.strip_prefix(name)?.strip_prefix(": ")).unwrap_or("")
    }
}

impl Server {
    async fn new() -> Self {
        Self::with(Fake::default()).await
    }

    async fn with(fake: Fake) -> Self {
        let fake = Arc::new(fake);
        let config = ApiConfig { listen: "127.0.0.1:0".parse().unwrap(), insecure: false };
        let api = start(Arc::clone(&fake), &config).await.unwrap();
        Self { fake, api }
    }

    async fn get(&self, path: &str) -> Answered {
        self.ask("GET", path, &[], "").await
    }

    async fn post(&self, path: &str, headers: &[&str], body: &str) -> Answered {
        let mut all = vec!["content-type: application/json"];
        all.extend(headers);
        self.ask("POST", path, &all, body).await
    }

    /// One request on a connection of its own.
    async fn ask(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Answered {
        let lines: String = headers.iter().map(|h| format!("{h}\r\n")).collect();
        let length = body.len();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{lines}content-length: {length}\r\n\r\n{body}"
        );
        read(&raw(self.api.address(), text.as_bytes()).await)
    }
}

/// Sends bytes, and reads until the server closes.
async fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    tokio::time::timeout(LIMIT, async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The server may have closed before it read everything.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    })
    .await
    .expect("the server neither answered nor closed")
}

fn read(answer: &[u8]) -> Answered {
    let text = String::from_utf8(answer.to_vec()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answered { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

#[tokio::test]
async fn groups_are_listed_searched_and_bookmarked() {
    let server = Server::new().await;
    let list: Page<GroupView> = server.get(paths::GROUPS).await.json();
    assert_eq!((list.items.len(), list.next), (1, None));
    assert_eq!(server.get(&paths::group("db")).await.json::<GroupView>(), list.items[0]);
    let refused = server.get(&paths::group("a b")).await.problem(Code::NotFound);
    assert!(refused.detail.contains("no group"), "{refused:?}");
    let found: GroupPointView = server.get(&paths::group_point("db", None, Some("-1h"))).await.json();
    assert_eq!(Some(found), list.items[0].oldest);
    server.get(&paths::group_point("db", Some("soon ago"), None)).await.problem(Code::Invalid);
    let path = paths::group_bookmarks("db");
    let made = server.post(&path, &[], r#"{"name": "monday"}"#).await;
    assert_eq!(made.json::<GroupPointView>().bookmark, Some("monday".parse().unwrap()));
    server.post(&path, &[], r#"{"name": "now"}"#).await.problem(Code::Invalid);
    server.post(&path, &[], r#"{"name": "m", "wait_seconds": 86401}"#).await.problem(Code::Invalid);
}

#[tokio::test]
async fn volumes_are_listed_and_shown() {
    let server = Server::new().await;
    let list = server.get(paths::VOLUMES).await;
    assert_eq!(list.json::<Page<VolumeView>>().items, [fake::volume()]);
    assert_eq!(list.header("cache-control"), "no-store");
    assert_eq!(server.get(&paths::volume("web01")).await.json::<VolumeView>(), fake::volume());
    assert_eq!(
        server.get(&paths::volume("db")).await.problem(Code::NotFound).detail,
        "there is no volume db"
    );
    server.get(&paths::volume("a b")).await.problem(Code::NotFound);
    let head = server.ask("HEAD", paths::VOLUMES, &[], "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn what_is_wrong_is_said_with_the_right_code() {
    let server = Server::new().await;
    server.get("/").await.problem(Code::NotFound);
    server.get("/api/v1/nothing").await.problem(Code::NotFound);
    let refused = server.ask("PUT", paths::IMAGES, &[], "").await;
    refused.problem(Code::MethodNotAllowed);
    assert_eq!(refused.header("allow"), "get, post");

    for (body, word) in [
        ("", "empty"),
        ("{", "EOF"),
        ("[]", "expected struct"),
        (r#"{"name": "x", "wiat_seconds": 1}"#, "wiat_seconds"),
        (r#"{"name": "now"}"#, "means something else"),
    ] {
        let problem = server.post(&paths::bookmarks("web01"), &[], body).await.problem(Code::Invalid);
        assert!(problem.cause.contains(word), "{body}: {}", problem.cause);
    }
    let long_wait = r#"{"name": "x", "wait_seconds": 100000}"#;
    server.post(&paths::bookmarks("web01"), &[], long_wait).await.problem(Code::Invalid);
    assert_eq!(server.fake.acts.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_body_has_a_limit_announced_or_not() {
    let server = Server::new().await;
    let large = " ".repeat(usize::try_from(paths::MAX_BODY).unwrap() + 1);
    server.post(paths::IMAGES, &[], &large).await.problem(Code::TooLarge);
    let chunked = format!(
        "POST {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n",
        paths::IMAGES,
        large.len()
    );
    read(&raw(server.api.address(), chunked.as_bytes()).await).problem(Code::TooLarge);
    let announced = "POST /api/v1/images HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\n";
    read(&raw(server.api.address(), announced.as_bytes()).await).problem(Code::TooLarge);
}

#[tokio::test]
async fn points_resolve() {
    let server = Server::new().await;
    let point = server.get(&paths::point("web01", "lsn:5")).await;
    assert_eq!(point.json::<serde_json::Value>()["lsn"], 5);
    server.get(&paths::point("web01", "now")).await.problem(Code::NotYetDurable);
    let problem = server.get(&paths::point("web01", "yesterday at noon")).await.problem(Code::Invalid);
    assert!(problem.cause.contains("RFC 3339"), "{}", problem.cause);
    server.get("/api/v1/volumes/web01/point").await.problem(Code::Invalid);
}

#[tokio::test]
async fn bookmarks_come_page_by_page() {
    let server = Server::new().await;
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page: Page<BookmarkView> =
            server.get(&format!("{}?limit=1000{after}", paths::bookmarks("web01"))).await.json();
        seen.extend(page.items.iter().map(|b| b.lsn.get()));
        let Some(next) = page.next else { break };
        after = format!("&after={next}");
    }
    assert_eq!(seen, (1..=BOOKMARKS).map(|n| n * 10).collect::<Vec<_>>());
    for bad in ["limit=0", "limit=1001", "limit=x", "after=-1", "after=9007199254740992"] {
        server.get(&format!("{}?{bad}", paths::bookmarks("web01"))).await.problem(Code::Invalid);
    }
}

#[tokio::test]
async fn sessions_are_listed_and_ended() {
    let server = Server::new().await;
    let list: serde_json::Value = server.get(paths::SESSIONS).await.json();
    assert_eq!((&list["items"][0]["id"], &list["next"]), (&7.into(), &serde_json::Value::Null));
    assert_eq!(server.ask("DELETE", &paths::session(7), &[], "").await.status, 204);
    for gone in [paths::bookmark("web01", "b7"), paths::group_bookmark("db", "b7")] {
        assert_eq!(server.ask("DELETE", &gone, &[], "").await.status, 204);
    }
    server.ask("DELETE", &paths::bookmark("web01", "held"), &[], "").await.problem(Code::Forbidden);
    server.ask("DELETE", &paths::bookmark("web01", "a b"), &[], "").await.problem(Code::Invalid);
    server.ask("DELETE", &paths::bookmarks("web01"), &[], "").await.problem(Code::Invalid);
    server.ask("DELETE", &paths::session(8), &[], "").await.problem(Code::NotFound);
    server.ask("DELETE", "/api/v1/sessions/seven", &[], "").await.problem(Code::NotFound);
    assert_eq!(server.get(&paths::session(7)).await.status, 405);
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_with_a_reason() {
    let server = Server::new().await;
    let hold = r#"{"until": "2027-12-31T00:00:00Z"}"#;
    server.post(&paths::holds("web01"), &[], hold).await.problem(Code::Invalid);
    for bound in [r#""all": true"#, r#""from": "2026-11-01T00:00:00Z""#] {
        let hold = format!(r#"{{"until": "2027-12-31T00:00:00Z", {bound}}}"#);
        assert_eq!(server.post(&paths::holds("web01"), &[], &hold).await.status, 201, "{hold}");
    }
    let empty = r#"{"volume": "web01", "at": "now", "writable": true, "quota_bytes": 0}"#;
    server.post(paths::IMAGES, &[], empty).await.problem(Code::Invalid);
    for (quota, status) in [(1u64 << 56, 201), ((1 << 56) + 1, 400), (u64::MAX, 400)] {
        let image =
            format!(r#"{{"volume": "web01", "at": "now", "writable": true, "quota_bytes": {quota}}}"#);
        assert_eq!(server.post(paths::IMAGES, &[], &image).await.status, status, "{quota}");
        let clone = format!(r#"{{"writable": true, "quota_bytes": {quota}}}"#);
        assert_eq!(server.post(&paths::clones("3"), &[], &clone).await.status, status, "{quota}");
    }
    let large = r#"{"writable": true, "quota_bytes": 18446744073709551615}"#;
    let large = server.post(&paths::clones("3"), &[], large).await.problem(Code::Invalid);
    assert!(large.correction.contains("give 65536TiB at most"), "{large:?}");
    let tier = |deadline| {
        let gate = format!(r#"{{"hook": "a.sh", "deadline": "{deadline}"}}"#);
        format!(
            r#"{{"retention": {{"every_write": "1h", "tiers": [{{"each": "1m", "keep": "7d", "before_drop": {gate}}}]}}}}"#
        )
    };
    let short = server.post(paths::POLICIES, &[], &tier("1s")).await.problem(Code::Invalid);
    assert!(short.correction.contains("give a.sh 10s at least"), "{short:?}");
    assert_eq!(server.post(paths::POLICIES, &[], &tier("10s")).await.status, 200);
    let limit = |limit| format!(r#"{{"retention": {{"every_write": "1h", "limit": "{limit}"}}}}"#);
    let of_list = |set: &str| format!(r#"{{"policies": [{set}]}}"#);
    for limit in [limit("1"), limit("63MiB")] {
        let small = server.post(paths::POLICIES, &[], &limit).await.problem(Code::Invalid);
        assert!(small.correction.contains("give 64MiB at least"), "{small:?}");
        server.post(paths::POLICIES_APPLY, &[], &of_list(&limit)).await.problem(Code::Invalid);
    }
    server.post(paths::POLICIES_APPLY, &[], &of_list(&tier("1s"))).await.problem(Code::Invalid);
    assert_eq!(server.post(paths::POLICIES_APPLY, &[], &of_list(&limit("64MiB"))).await.status, 200);
}

#[tokio::test]
async fn time_that_was_not_counted_is_told_and_confirmed() {
    let server = Server::new().await;
    let told: cx_api::ElapsedView = server.get(paths::ELAPSED).await.json();
    assert_eq!(told.creditable_seconds, 83 * 86_400);
    let done = server.post(paths::ELAPSED, &[], r#"{"seconds": 7171200}"#).await;
    assert_eq!((done.status, done.json::<cx_api::ElapsedView>().uncounted_seconds), (200, 0));
    server.post(paths::ELAPSED, &[], r#"{"seconds": 7171201}"#).await.problem(Code::Conflict);
    server.post(paths::ELAPSED, &[], "{}").await.problem(Code::Invalid);
}

#[tokio::test]
async fn a_store_that_was_here_is_told_and_said_to_be_gone() {
    let server = Server::new().await;
    let told: cx_api::StoresView = server.get(paths::STORES).await.json();
    assert!(!told.others[0].confirmed_gone);
    let done = server.post(paths::STORES, &[], r#"{"store": "000000000000000a"}"#).await;
    assert!(done.status == 200 && done.json::<cx_api::StoresView>().others[0].confirmed_gone);
    server.post(paths::STORES, &[], r#"{"store": "1"}"#).await.problem(Code::NotFound);
    server.post(paths::STORES, &[], "{}").await.problem(Code::Invalid);
}

#[tokio::test]
async fn images_and_restores() {
    let server = Server::new().await;
    let made = server.post(paths::IMAGES, &[], r#"{"volume": "web01", "at": "lsn:7"}"#).await;
    assert_eq!((made.status, made.header("location")), (201, "/api/v1/images/3"));
    for (key, status) in [("3", 200), ("test", 200), ("4", 404), ("99999999999999999999", 404), ("a+b", 404)]
    {
        assert_eq!(server.get(&paths::image(key)).await.status, status, "{key}");
    }
    for bad in [
        r#"{"volume": "web01", "at": "now", "name": "2026"}"#,
        r#"{"volume": "web01", "at": "no point"}"#,
        r#"{"volume": "web01", "at": "now", "quota_bytes": 1}"#,
    ] {
        server.post(paths::IMAGES, &[], bad).await.problem(Code::Invalid);
    }
    server.ask("DELETE", &paths::image("3"), &[], "").await.problem(Code::Conflict);
    assert_eq!(server.ask("DELETE", &paths::image_forced("3"), &[], "").await.status, 204);
    let path = |force| format!("{}?force={force}", paths::image("3"));
    server.ask("DELETE", &path("false"), &[], "").await.problem(Code::Conflict);
    server.ask("DELETE", &path("yes"), &[], "").await.problem(Code::Invalid);

    let body = |path| format!(r#"{{"volume": "web01", "at": "now", "path": "{path}"}}"#);
    let job = server.post(paths::RESTORES, &[], &body("/srv/x")).await;
    assert_eq!((job.status, job.header("location")), (202, "/api/v1/jobs/5"));
    assert_eq!(job.json::<JobView>().path, "/srv/x");
    server.post(paths::RESTORES, &[], &body("srv/x")).await.problem(Code::Invalid);
    assert_eq!(server.ask("POST", "/api/v1/jobs/5/cancel", &[], "").await.status, 202);
    server.get("/api/v1/jobs/6").await.problem(Code::NotFound);
    server.get("/api/v1/jobs/x").await.problem(Code::NotFound);
}

#[tokio::test]
async fn an_act_with_a_key_happens_once() {
    let server = Server::new().await;
    let (path, key) = (paths::bookmarks("web01"), "Idempotency-Key: 6f1c");
    let first = server.post(&path, &[key], r#"{"name": "b"}"#).await;
    let again = server.post(&path, &[key], r#"{"name": "b"}"#).await;
    assert_eq!((first.status, &first.body), (201, &again.body));
    assert_eq!(server.fake.acts.load(Ordering::SeqCst), 1);
    server.post(&path, &[key], r#"{"name": "c"}"#).await.problem(Code::KeyReused);
    server.post(&path, &["Idempotency-Key: "], r#"{"name": "c"}"#).await.problem(Code::Invalid);
    let long = format!("Idempotency-Key: {}", "k".repeat(201));
    server.post(&path, &[&long], r#"{"name": "c"}"#).await.problem(Code::Invalid);
    let other = server.post(&path, &["Idempotency-Key: 6f1d"], r#"{"name": "b"}"#).await;
    assert_ne!(first.body, other.body);
}

#[tokio::test]
async fn web_pages_of_others_are_kept_out() {
    let server = Server::new().await;
    let (path, body) = (paths::bookmarks("web01"), r#"{"name": "b"}"#);
    server.post(&path, &["origin: https://evil.example"], body).await.problem(Code::Forbidden);
    server.ask("POST", &path, &["content-type: text/plain"], body).await.problem(Code::Invalid);
    server.ask("POST", &path, &[], body).await.problem(Code::Invalid);
    let rebound = "GET /api/v1/status HTTP/1.1\r\nhost: evil.example:7070\r\nconnection: close\r\n\r\n";
    read(&raw(server.api.address(), rebound.as_bytes()).await).problem(Code::Forbidden);
    assert_eq!(server.fake.acts.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn health_is_503_only_when_failing() {
    for (health, status) in [(Health::Degraded, 200), (Health::Unknown, 200), (Health::Failing, 503)] {
        let server = Server::with(Fake { health: Some(health), ..Fake::default() }).await;
        let answer = server.get(paths::HEALTH).await;
        assert_eq!((answer.status, answer.json::<cx_api::HealthView>().health), (status, health));
    }
}

#[tokio::test]
async fn metrics_are_open_metrics() {
    let server = Server::new().await;
    server.get("/nothing").await.problem(Code::NotFound);
    let answer = server.get(paths::METRICS).await;
    assert!(answer.header("content-type").starts_with("application/openmetrics-text; version=1.0.0"));
    assert!(answer.body.ends_with("chronogate_more 1\n# EOF\n"), "{}", answer.body);
    for line in [
        "chronogate_volume_durable_lsn{volume=\"web01\"} 7",
        "chronogate_volume_state{volume=\"web01\",chronogate_volume_state=\"resync\"} 1",
        "chronogate_volume_state{volume=\"web01\",chronogate_volume_state=\"protected\"} 0",
        "chronogate_http_requests_total{class=\"4xx\"} 1",
        "chronogate_journal_records_total 3",
    ] {
        assert!(answer.body.lines().any(|l| l == line), "{line} is missing in\n{}", answer.body);
    }
    // Unknown is no number.
    assert!(!answer.body.contains("chronogate_volume_lag_seconds{"), "{}", answer.body);
    let mut types: Vec<_> = answer.body.lines().filter(|l| l.starts_with("# TYPE")).collect();
    let families = types.len();
    types.sort_unstable();
    types.dedup();
    assert_eq!(types.len(), families, "a family comes twice");
}

#[tokio::test]
async fn garbage_disturbs_nobody() {
    let server = Server::new().await;
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut noise = vec![0u8; 1 << 20];
    for byte in &mut noise {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        *byte = seed.to_le_bytes()[3];
    }
    raw(server.api.address(), &noise).await;
    let endless = format!("GET /{} HTTP/1.1\r\n", "a".repeat(1 << 20));
    raw(server.api.address(), endless.as_bytes()).await;
    let headers: String = (0..1000).map(|n| format!("x-{n}: y\r\n")).collect();
    raw(server.api.address(), format!("GET / HTTP/1.1\r\n{headers}\r\n").as_bytes()).await;
    assert_eq!(server.get(paths::VOLUMES).await.status, 200);
}

#[tokio::test]
async fn a_listener_that_others_can_reach_needs_a_word() {
    let config = |insecure| ApiConfig { listen: "0.0.0.0:0".parse().unwrap(), insecure };
    let refused = start(Arc::new(Fake::default()), &config(false)).await;
    assert!(matches!(refused, Err(StartError::NotLoopback(_))));
    start(Arc::new(Fake::default()), &config(true)).await.unwrap().stop(LIMIT).await;
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_it() {
    let server = Server::new().await;
    let config = ApiConfig { listen: server.api.address(), insecure: false };
    let Err(error) = start(Arc::new(Fake::default()), &config).await else { panic!("bound twice") };
    assert!(error.to_string().contains(&server.api.address().to_string()), "{error}");
}

#[tokio::test]
async fn stopping_lets_a_request_in_hand_finish() {
    let Server { fake, api } = Server::new().await;
    let address = api.address();
    let text = "POST /api/v1/volumes/web01/bookmarks HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{\"name\": \"slow\"}";
    let request = tokio::spawn(async move { raw(address, text.as_bytes()).await });
    // Connections that lie idle, or sent half a request, hold nothing up.
    let _idle = TcpStream::connect(address).await.unwrap();
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"POST /api/v1/images HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\n{")
        .await
        .unwrap();
    let mut less = TcpStream::connect(address).await.unwrap();
    less.write_all(b"GET / HT").await.unwrap();
    fake.waiting.notified().await;
    let stop = tokio::spawn(api.stop(LIMIT));
    fake.go.notify_one();
    assert_eq!(read(&request.await.unwrap()).status, 201);
    tokio::time::timeout(LIMIT / 2, stop).await.expect("it did not stop in time").unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn stopping_ends_what_outlives_the_grace() {
    let Server { fake, api } = Server::new().await;
    let address = api.address();
    let text = "POST /api/v1/volumes/web01/bookmarks HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{\"name\": \"slow\"}";
    let request = tokio::spawn(async move { raw(address, text.as_bytes()).await });
    fake.waiting.notified().await;
    api.stop(Duration::from_millis(10)).await;
    assert_eq!(request.await.unwrap(), b"");
}
