//! Uplink and downlink against each other, over memory and TCP.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Below, TestFeed, ask, below, hello, history, other_stream, until, uplink};
use cx_link::{Address, Hub, UplinkState, connect};
use cx_wire::{AskCode, Lookup, Message, Question, RefuseCode, Reply};
use tap_block::{Consistency, Extent, Lsn};
use tokio::io::AsyncWriteExt;

const TRANSPORTS: [&str; 2] = ["mem:cx", "127.0.0.1:0"];

#[tokio::test]
async fn everything_arrives_in_order_and_is_acknowledged() {
    for at in TRANSPORTS {
        let hub = Hub::new();
        let Below { intake, address, .. } = below(at, &hub, true).await;
        let (work, items) = history(1, 60);
        let feed = TestFeed::new(&items);
        let _up = uplink(&address, &hub, &work, &feed);
        feed.all_acked().await;
        assert_eq!(intake.taken(), items);
        until(&feed.everywhere, |&e| e == work.next_lsn().previous()).await;
        until(&intake.heartbeats, |&n| n > 0).await;
    }
}

#[tokio::test]
async fn memory_hands_over_the_very_batch() {
    let hub = Hub::new();
    let Below { intake, address, .. } = below("mem:cx", &hub, true).await;
    let (work, items) = history(2, 3);
    let feed = TestFeed::new(&items);
    let _up = uplink(&address, &hub, &work, &feed);
    feed.all_acked().await;
    assert!(intake.taken().iter().zip(&items).all(|(a, b)| Arc::ptr_eq(a, b)), "nothing was copied");
}

#[tokio::test]
async fn credit_bounds_what_waits_below() {
    let hub = Hub::new();
    let Below { intake, address, .. } = below("127.0.0.1:0", &hub, false).await;
    let (work, items) = history(3, 200);
    let feed = TestFeed::new(&items);
    let _up = uplink(&address, &hub, &work, &feed);
    let total = items.len();
    let mut received = 0;
    while received < total {
        until(&intake.received, |&n| n > received).await;
        until(&intake.heartbeats, |&n| n > 0).await;
        received = *intake.received.borrow();
        let waiting: u64 = intake.taken().iter().skip(*feed.acked.borrow()).map(|b| b.weight()).sum();
        assert!(waiting <= common::CREDIT, "{waiting} bytes wait");
        intake.settle();
    }
    feed.all_acked().await;
}

#[tokio::test]
async fn a_reconnect_repeats_nothing_to_the_intake_and_loses_no_acknowledgement() {
    for at in TRANSPORTS {
        let hub = Hub::new();
        let Below { intake, address, .. } = below(at, &hub, false).await;
        let (work, items) = history(4, 8);
        let feed = TestFeed::new(&items);
        let _up = uplink(&address, &hub, &work, &feed);
        until(&intake.received, |&n| n == items.len()).await;
        intake.link().await.close("a test");
        until(&feed.lost, |&n| n == 1).await;
        intake.link().await;
        let more = Arc::new(work.clone().batch(3));
        feed.push(Arc::clone(&more));
        until(&intake.received, |_| intake.taken().last() == Some(&more)).await;
        intake.settle();
        feed.all_acked().await;
        let records = |all: &[Arc<tap_block::Batch>]| {
            let entries = all.iter().flat_map(|b| b.entries.clone());
            entries.filter(|e| !e.position.is_copy()).collect::<Vec<_>>()
        };
        assert_eq!(records(&intake.taken()), records(&[&items[..], &[more]].concat()), "{at}");
    }
}

#[tokio::test]
async fn records_that_could_not_be_made_durable_are_sent_again() {
    let hub = Hub::new();
    let Below { intake, address, .. } = below("mem:cx", &hub, false).await;
    let (work, items) = history(5, 4);
    let feed = TestFeed::new(&items);
    let _up = uplink(&address, &hub, &work, &feed);
    until(&intake.received, |&n| n == items.len()).await;
    intake.fail();
    until(&intake.received, |&n| n == 2 * items.len()).await;
    assert_eq!(intake.taken(), items);
    intake.settle();
    feed.all_acked().await;
}

#[tokio::test]
async fn questions_go_up_and_answers_come_down() {
    for at in TRANSPORTS {
        let hub = Hub::new();
        let Below { intake, address, .. } = below(at, &hub, true).await;
        let (work, items) = history(6, 1);
        let feed = TestFeed::new(&items);
        let up = uplink(&address, &hub, &work, &feed);
        let link = intake.link().await;
        assert!(matches!(ask(&link, Question::Head, 10_000).await, Ok(Reply::Head { .. })));
        let dropped = ask(&link, Question::Resync { from: Lsn::ZERO, whole: true }, 10_000).await;
        assert_eq!(dropped.unwrap_err().code, AskCode::Failed);
        let never = Question::Bookmark {
            name: "b".parse().unwrap(),
            consistency: Consistency::Crash,
            note: String::new(),
            wait: std::time::Duration::ZERO,
            group: None,
        };
        assert_eq!(ask(&link, never, 20).await.unwrap_err().code, AskCode::Timeout);
        up.stop().await;
        until(&intake.closed, |&n| n == 1).await;
        assert_eq!(ask(&link, Question::Head, 10_000).await.unwrap_err().code, AskCode::NotReachable);
    }
}

#[tokio::test]
async fn a_second_connection_of_a_stream_takes_the_place_of_the_first() {
    let hub = Hub::new();
    let Below { intake, address, .. } = below("mem:cx", &hub, true).await;
    let (work, _) = history(7, 1);
    let mut first = connect(&address, &hub).await.unwrap();
    first.send(Message::Hello(hello(&work))).await.unwrap();
    assert!(matches!(first.recv().await, Some(Message::Welcome(_))));
    let mut other = connect(&address, &hub).await.unwrap();
    other.send(Message::Hello(other_stream(&hello(&work)))).await.unwrap();
    assert!(matches!(other.recv().await, Some(Message::Welcome(_))));
    let mut second = connect(&address, &hub).await.unwrap();
    second.send(Message::Hello(hello(&work))).await.unwrap();
    assert!(matches!(second.recv().await, Some(Message::Welcome(_))));
    assert!(matches!(first.recv().await, Some(Message::Goodbye(_))));
    assert_eq!(first.recv().await, None);
    assert_eq!(*intake.closed.borrow(), 1, "only the first was closed, and before the second was opened");
}

#[tokio::test]
async fn garbage_closes_its_connection_and_disturbs_nobody() {
    let hub = Hub::new();
    let Below { intake, address, .. } = below("127.0.0.1:0", &hub, true).await;
    let Address::Tcp(at) = &address else { panic!("not TCP") };
    let (work, items) = history(8, 40);
    let feed = TestFeed::new(&items);
    let _up = uplink(&address, &hub, &work, &feed);
    let mut random = testbed_model::Random::new(9);
    for _ in 0..8 {
        let mut garbage = vec![0; 1 << 20];
        random.fill(&mut garbage);
        let mut socket = tokio::net::TcpStream::connect(at).await.unwrap();
        // The other end may close while this is being written: that is what is wanted.
        let _ = socket.write_all(&garbage).await;
    }
    feed.all_acked().await;
    assert_eq!(intake.taken(), items);
}

#[tokio::test]
async fn a_sender_waits_for_its_receiver_and_stops_when_told() {
    let hub = Hub::new();
    let (work, items) = history(10, 5);
    let feed = TestFeed::new(&items);
    let up = uplink(&"mem:late".parse().unwrap(), &hub, &work, &feed);
    let mut state = up.state();
    state.wait_for(|s| matches!(s, UplinkState::Connecting { problem: Some(_) })).await.unwrap();
    let Below { downlink, .. } = below("mem:late", &hub, true).await;
    feed.all_acked().await;
    downlink.stop().await;
    until(&feed.lost, |&n| n == 1).await;
    up.stop().await;
    assert_eq!(*state.borrow(), UplinkState::Stopped);
}

#[tokio::test]
async fn a_refusal_reaches_the_sender() {
    for at in TRANSPORTS {
        let hub = Hub::new();
        let Below { intake, address, .. } = below(at, &hub, true).await;
        intake.refuse.store(true, Ordering::SeqCst);
        let (work, items) = history(11, 2);
        let feed = TestFeed::new(&items);
        let up = uplink(&address, &hub, &work, &feed);
        until(&feed.refusals, |&n| n > 1).await;
        assert!(matches!(&*up.state().borrow(), UplinkState::Refused(r) if r.code == RefuseCode::Fenced));
        intake.refuse.store(false, Ordering::SeqCst);
        feed.all_acked().await;
    }
}

#[tokio::test]
async fn a_unit_damaged_on_its_way_is_not_taken() {
    let hub = Hub::new();
    let Below { intake, address, .. } = below("127.0.0.1:0", &hub, true).await;
    let (work, items) = history(12, 1);
    let mut damaged = (*items[1]).clone();
    let mut body = damaged.body.to_vec();
    *body.last_mut().unwrap() ^= 1;
    damaged.body = body.into();
    let feed = TestFeed::new(&[Arc::clone(&items[0]), Arc::new(damaged)]);
    let _up = uplink(&address, &hub, &work, &feed);
    until(&feed.lost, |&n| n > 1).await;
    assert_eq!(intake.taken(), items[..1]);
}

fn lookup(work: &testbed_model::Workload, seed: u64) -> Lookup {
    let extent = Extent::new(8192, 3 * 4096).unwrap();
    Lookup { volume: work.volume(), extent, after: Lsn::ZERO.plus(5), seed }
}

#[tokio::test]
async fn a_query_is_answered_refused_or_given_up() {
    let patience = Duration::from_secs(20);
    for at in TRANSPORTS {
        let hub = Hub::new();
        let Below { intake, address, .. } = below(at, &hub, true).await;
        let (work, items) = history(5, 3);
        let up = uplink(&address, &hub, &work, &TestFeed::new(&items));
        let querier = up.querier();
        until_connected(&up).await;
        let found = querier.query(lookup(&work, 1), patience).await.unwrap();
        assert_eq!((found.at, found.hashes.len()), (Lsn::ZERO.plus(5), 3 * cx_wire::HASH_BYTES));
        let dropped = querier.query(lookup(&work, 2), patience).await;
        assert_eq!(dropped.unwrap_err().code, AskCode::Failed);
        let late = querier.query(lookup(&work, 3), Duration::from_millis(20)).await;
        assert_eq!(late.unwrap_err().code, AskCode::Timeout);
        let open = tokio::spawn(async move { querier.query(lookup(&work, 3), patience).await });
        tokio::time::timeout(patience, async {
            while intake.unanswered.lock().unwrap().len() < 2 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        intake.link().await.close("a test");
        assert_eq!(open.await.unwrap().unwrap_err().code, AskCode::NotReachable, "the connection went");
        up.stop().await;
    }
}

#[tokio::test]
async fn a_query_without_a_connection_fails_at_once() {
    let hub = Hub::new();
    let (work, items) = history(6, 1);
    let up = uplink(&"mem:nobody".parse().unwrap(), &hub, &work, &TestFeed::new(&items));
    let asked = up.querier().query(lookup(&work, 1), Duration::from_secs(60)).await;
    assert_eq!(asked.unwrap_err().code, AskCode::NotReachable);
}

async fn until_connected(up: &cx_link::UplinkHandle) {
    let mut state = up.state();
    let connected = state.wait_for(|s| matches!(s, UplinkState::Connected(_)));
    tokio::time::timeout(Duration::from_secs(20), connected).await.unwrap().unwrap();
}
