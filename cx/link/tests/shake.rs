//! Connections that break at any moment, over both transports, with several threads: nothing is lost or repeated.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod common;

use std::sync::Arc;

use common::{Below, TestFeed, below, history, until, uplink};
use cx_link::Hub;
use tap_block::{Batch, Entry};

fn records(all: &[Arc<Batch>]) -> Vec<Entry> {
    let entries = all.iter().flat_map(|b| b.entries.clone());
    entries.filter(|e| !e.position.is_copy()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn breaking_connections_lose_and_repeat_nothing() {
    for (seed, at) in [(21, "mem:cx"), (22, "127.0.0.1:0"), (23, "mem:cx"), (24, "127.0.0.1:0")] {
        let hub = Hub::new();
        let Below { intake, address, .. } = below(at, &hub, false).await;
        let (work, items) = history(seed, 120);
        let feed = TestFeed::new(&items);
        let _up = uplink(&address, &hub, &work, &feed);
        let mut random = testbed_model::Random::new(seed);
        for _ in 0..40 {
            let now = *intake.received.borrow();
            if *feed.acked.borrow() == items.len() {
                break;
            }
            match random.below(4) {
                0 => intake.link().await.close("shaken"),
                1 => intake.settle(),
                _ => {
                    intake.settle();
                    until_more(&intake, &feed, now, items.len()).await;
                }
            }
        }
        settle_until_all_acked(&intake, &feed, items.len()).await;
        assert_eq!(records(&intake.taken()), records(&items), "{at} {seed}");
    }
}

/// Until another batch came, or none is left.
async fn until_more(intake: &common::TestIntake, feed: &TestFeed, before: usize, all: usize) {
    tokio::select! {
        () = until(&intake.received, |&n| n > before) => {}
        () = until(&feed.acked, |&n| n == all) => {}
    }
}

async fn settle_until_all_acked(intake: &common::TestIntake, feed: &TestFeed, all: usize) {
    let mut received = intake.received.subscribe();
    loop {
        intake.settle();
        tokio::select! {
            changed = received.changed() => changed.unwrap(),
            () = until(&feed.acked, |&n| n == all) => return,
        }
    }
}
