//! The same key gives the same outcome, once, and memory stays bounded.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use warp::http::HeaderMap;

use super::*;

fn request(body: &'static str) -> Request {
    Request {
        method: "POST".into(),
        path: "/api/v1/images".into(),
        query: String::new(),
        headers: HeaderMap::new(),
        body: body.into(),
    }
}

fn ok(n: usize) -> Reply {
    Reply::text("text/plain", n.to_string())
}

#[tokio::test]
async fn a_repeat_gets_the_first_outcome_and_acts_no_more() {
    let (keys, acts) = (Keys::new(8), Arc::new(AtomicUsize::new(0)));
    for _ in 0..3 {
        let acts = Arc::clone(&acts);
        let act = async move { ok(acts.fetch_add(1, Ordering::Relaxed)) };
        assert_eq!(keys.once("k".into(), &request("{}"), act).await, ok(0));
    }
    assert_eq!(acts.load(Ordering::Relaxed), 1);
    let other = keys.once("k".into(), &request("{1}"), async { ok(9) }).await;
    assert_eq!(other.status, Code::KeyReused.http_status());
}

#[tokio::test]
async fn a_client_that_goes_away_finds_the_outcome_when_it_returns() {
    let (keys, go) = (Keys::new(8), Arc::new(Notify::new()));
    let waiting = Arc::clone(&go);
    let first = request("{}");
    let gone = keys.once("k".into(), &first, async move {
        waiting.notified().await;
        ok(1)
    });
    tokio::select! {
        biased;
        _ = gone => panic!("it cannot have ended"),
        () = tokio::task::yield_now() => {}
    }
    go.notify_one();
    assert_eq!(keys.once("k".into(), &request("{}"), async { ok(2) }).await, ok(1));
}

#[tokio::test]
async fn what_may_end_better_is_tried_again() {
    let keys = Keys::new(8);
    let unreachable = || Reply::from(Problem::new(Code::Unreachable, "the tap is away"));
    assert_eq!(keys.once("k".into(), &request("{}"), async move { unreachable() }).await.status, 503);
    assert_eq!(keys.once("k".into(), &request("{}"), async { ok(2) }).await, ok(2));
}

#[tokio::test]
async fn a_panic_ends_in_an_answer() {
    let keys = Keys::new(8);
    assert_eq!(keys.once("k".into(), &request("{}"), async { panic!("defect") }).await.status, 500);
}

#[tokio::test]
async fn the_oldest_finished_key_makes_room_and_all_at_work_means_busy() {
    let keys = Keys::new(2);
    for key in ["a", "b", "c"] {
        keys.once(key.into(), &request("{}"), async { ok(1) }).await;
    }
    assert_eq!(lock(&keys.table).order, ["b", "c"]);

    let never = |_| std::future::pending::<Reply>();
    for key in ["d", "e"] {
        let asked = request("{}");
        let stuck = keys.once(key.into(), &asked, never(()));
        tokio::select! { biased; _ = stuck => panic!("ended"), () = tokio::task::yield_now() => {} }
    }
    let refused = keys.once("f".into(), &request("{}"), async { ok(1) }).await;
    assert_eq!(refused.status, Code::Busy.http_status());
    assert_eq!(lock(&keys.table).entries.len(), 2);
}
