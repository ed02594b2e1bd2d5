//! The outbox's rules one by one: when the disk is used, what leaves memory, what a hole is and how it heals.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cx_spool::{
    Config, ConsumerNo, Full, Hole, ItemNo, Next, Outbox, Reached, Recovered, RecoveredItem, Summary,
};
use tap_block::{
    Action, Batch, Entry, Epoch, Extent, Lsn, Marker, Monotonic, Position, RunId, RunStart, StreamId,
    SyncCause, VolumeId, WallTime,
};

const A: ConsumerNo = ConsumerNo::new(0);
const B: ConsumerNo = ConsumerNo::new(1);
const KIB: u64 = 1 << 10;

fn config() -> Config {
    Config {
        memory_limit: 100 * KIB,
        spill_after: Some(Duration::from_millis(200)),
        spill_above: 60 * KIB,
        disk_limit: 200 * KIB,
        read_ahead: 25 * KIB,
        detect_holes: true,
    }
}

fn lsn(n: u64) -> Lsn {
    Lsn::new(n).unwrap()
}

fn at(ms: u64) -> Monotonic {
    Monotonic::from_nanos(ms * 1_000_000)
}

fn has(n: u64) -> Reached {
    Reached { lsn: lsn(n), run: (n > 0).then_some(RunId::new(1)), at: (n > 0).then_some(WallTime::EPOCH) }
}

fn write() -> Action {
    Action::Zero { volume: VolumeId::new(1), extent: Extent::between(0, 4096) }
}

fn batch_of(position: Position, action: Action, body: u64) -> Arc<Batch> {
    Arc::new(Batch {
        stream: StreamId::new(1),
        run: RunId::new(1),
        epoch: Epoch::new(1),
        first_lsn: position.lsn(),
        entries: vec![Entry { position, captured_at: WallTime::EPOCH, action }],
        lens: Vec::new(),
        body: Bytes::from(vec![0; body as usize]),
    })
}

/// About 10 KiB: a record.
fn record(n: u64) -> Arc<Batch> {
    batch_of(Position::record(lsn(n)), write(), 10 * KIB)
}

fn copy(as_of: u64) -> Arc<Batch> {
    batch_of(Position::copy_as_of(lsn(as_of)), write(), 10 * KIB)
}

fn mark(n: u64, marker: Marker) -> Arc<Batch> {
    batch_of(Position::record(lsn(n)), Action::Mark(Box::new(marker)), 0)
}

fn run_start(n: u64, durable: u64, sync: Option<SyncCause>) -> Arc<Batch> {
    let name = "web01".parse().unwrap();
    let volume = VolumeId::new(1);
    mark(
        n,
        Marker::RunStart(RunStart { previous: None, durable: lsn(durable), volume, name, size: 4096, sync }),
    )
}

fn outbox(consumers: usize, records: std::ops::RangeInclusive<u64>) -> Outbox {
    let mut outbox = Outbox::new(config(), consumers);
    let before = records.start() - 1;
    for c in 0..consumers {
        assert_eq!(outbox.rewind(ConsumerNo::new(c), has(before)), None);
    }
    for n in records {
        outbox.push(record(n), at(0)).unwrap();
    }
    outbox
}

fn sent(outbox: &mut Outbox, consumer: ConsumerNo) -> Vec<u64> {
    let mut lsns = Vec::new();
    while let Next::Batch(_, batch) = outbox.next(consumer) {
        lsns.extend(batch.last_lsn().map(Lsn::get));
    }
    lsns
}

/// Writes and syncs everything that is due.
fn spill(outbox: &mut Outbox, now: Monotonic) -> Vec<ItemNo> {
    let mut written = Vec::new();
    while let Some(group) = outbox.poll_spill(now) {
        written.extend(group.items.iter().map(|(no, _)| *no));
        outbox.spilled();
    }
    written
}

#[test]
fn what_is_acknowledged_in_time_never_sees_the_disk() {
    let mut outbox = outbox(1, 1..=3);
    assert_eq!(outbox.spill_due(at(0)), Some(at(200)));
    assert_eq!(sent(&mut outbox, A), [1, 2, 3]);
    outbox.acked(A, 3, lsn(3), lsn(3), at(0));
    assert_eq!(spill(&mut outbox, at(500)), []);
    assert!(outbox.is_drained());
    assert_eq!(outbox.durable_below().reached, has(3));
    assert_eq!(outbox.everywhere(), lsn(3));
}

#[test]
fn one_slow_gateway_of_two_sends_it_to_disk_after_the_delay_and_then_at_once() {
    let mut outbox = outbox(2, 1..=2);
    assert_eq!(sent(&mut outbox, A), [1, 2]);
    outbox.acked(A, 2, lsn(2), lsn(2), at(0));
    assert_eq!(outbox.durable_below().reached, has(0), "the other one has nothing yet");
    assert_eq!(spill(&mut outbox, at(199)), []);
    assert_eq!(spill(&mut outbox, at(200)).len(), 2);
    assert_eq!(outbox.durable_below().reached, has(2));
    assert_eq!(outbox.everywhere(), lsn(0));
    outbox.push(record(3), at(201)).unwrap();
    assert_eq!(spill(&mut outbox, at(201)).len(), 1, "what comes while it stalls need not wait");
    assert_eq!(sent(&mut outbox, B), [1, 2, 3]);
    outbox.acked(B, 3, lsn(3), lsn(3), at(201));
    assert_eq!(sent(&mut outbox, A), [3]);
    outbox.acked(A, 1, lsn(3), lsn(3), at(201));
    outbox.push(record(4), at(202)).unwrap();
    assert_eq!(spill(&mut outbox, at(203)), [], "caught up: the delay counts again");
}

#[test]
fn a_busy_consumer_is_left_the_disk_until_it_is_too_far_behind() {
    let mut outbox = outbox(1, 1..=5);
    assert_eq!(sent(&mut outbox, A).len(), 5);
    for (n, ms) in [(1, 150), (2, 300), (3, 450)] {
        outbox.acked(A, 1, lsn(n), lsn(n), at(ms));
        assert_eq!(spill(&mut outbox, at(ms + 150)), [], "it gets on");
    }
    assert_eq!(spill(&mut outbox, at(650)).len(), 2, "it stalls");
    outbox.acked(A, 1, lsn(4), lsn(4), at(660));
    outbox.push(record(6), at(670)).unwrap();
    assert_eq!(spill(&mut outbox, at(680)), [], "it gets on again");
    assert_eq!(sent(&mut outbox, A), [6]);
    outbox.acked(A, 1, lsn(5), lsn(5), at(2600));
    assert_eq!(spill(&mut outbox, at(2669)), []);
    assert_eq!(spill(&mut outbox, at(2670)).len(), 1, "too slow");
}

#[test]
fn above_its_share_of_memory_the_oldest_half_is_written() {
    let no_delay = Config { spill_after: None, ..config() };
    let mut outbox = Outbox::new(no_delay, 1);
    for n in 1..=5 {
        outbox.push(record(n), at(0)).unwrap();
    }
    assert_eq!(spill(&mut outbox, at(60_000)), [], "age is no reason here");
    outbox.push(record(6), at(0)).unwrap();
    let written = spill(&mut outbox, at(0));
    assert_eq!(written.first(), Some(&ItemNo::new(0)));
    assert!(outbox.status().memory_bytes <= 30 * KIB, "{:?}", outbox.status());
}

#[test]
fn a_full_memory_says_so_and_takes_no_more() {
    let mut outbox = Outbox::new(Config { spill_after: None, disk_limit: 0, ..config() }, 1);
    let taken = (1..=20).take_while(|&n| outbox.push(record(n), at(0)).is_ok()).count();
    assert_eq!(taken, 9);
    assert_eq!(outbox.push(record(10), at(0)), Err(Full));
    assert!(outbox.room() < 11 * KIB);
    assert_eq!(outbox.spill_due(at(0)), None, "no disk to go to");
    assert!(outbox.status().disk_full);
    outbox.rewind(A, has(0));
    assert_eq!(sent(&mut outbox, A).len(), 9);
    outbox.acked(A, 1, lsn(1), lsn(1), at(0));
    assert!(outbox.push(record(10), at(0)).is_ok());
}

#[test]
fn a_batch_above_the_limit_is_taken_when_nothing_else_waits() {
    let mut outbox = Outbox::new(config(), 1);
    let giant = batch_of(Position::record(lsn(1)), write(), 300 * KIB);
    assert!(outbox.push(giant, at(0)).is_ok());
    assert_eq!(outbox.push(record(2), at(0)), Err(Full));
}

#[test]
fn the_disk_has_a_limit_too() {
    let mut outbox = Outbox::new(config(), 1);
    let mut n = 0;
    loop {
        spill(&mut outbox, at(1000));
        if outbox.push(record(n + 1), at(0)).is_err() {
            break;
        }
        n += 1;
    }
    let status = outbox.status();
    assert!(status.disk_full && status.spooled_bytes <= 200 * KIB && status.memory_bytes <= 100 * KIB);
    assert_eq!(n, 16 + 9, "on disk in whole pages, in memory as they are");
}

#[test]
fn what_left_memory_is_read_back_in_order_and_ahead() {
    let mut outbox = outbox(1, 1..=5);
    spill(&mut outbox, at(1000));
    for n in 6..=14 {
        outbox.push(record(n), at(1000)).unwrap();
    }
    let mut got = Vec::new();
    for _ in 0..20 {
        got.extend(sent(&mut outbox, A));
        while let Some(load) = outbox.poll_load() {
            assert!(load.items.len() <= 2, "no more than the read-ahead");
            let found = load.items.iter().map(|no| Some(record(no.get() + 1))).collect();
            outbox.loaded(&load, found);
        }
    }
    assert_eq!(got, (1..=14).collect::<Vec<_>>());
}

#[test]
fn results_of_a_load_before_a_rewind_are_dropped() {
    let mut outbox = recovered(1..=3);
    outbox.rewind(A, has(0));
    let stale = outbox.poll_load().unwrap();
    outbox.detach(A);
    outbox.rewind(A, has(2));
    outbox.loaded(&stale, stale.items.iter().map(|no| Some(record(no.get() + 1))).collect());
    assert_eq!(outbox.next(A), Next::Loading);
    let load = outbox.poll_load().unwrap();
    assert_eq!(load.items, [ItemNo::new(2)], "what the receiver has is skipped");
}

fn recovered(records: std::ops::RangeInclusive<u64>) -> Outbox {
    let items = records.map(|n| RecoveredItem::Sound(Summary::of(&record(n)))).collect();
    Outbox::recovered(config(), 1, Recovered { first: ItemNo::FIRST, items, everywhere: Reached::default() })
}

#[test]
fn a_failing_disk_is_left_alone_until_told_otherwise() {
    let mut outbox = outbox(1, 1..=2);
    assert!(outbox.poll_spill(at(200)).is_some());
    outbox.spill_failed();
    assert!(outbox.status().disk_failing);
    assert_eq!(outbox.durable_below().item, ItemNo::new(0));
    assert!(outbox.poll_spill(at(400)).is_none());
    outbox.resume_spill();
    assert_eq!(spill(&mut outbox, at(400)).len(), 2);
}

#[test]
fn at_the_end_everything_goes_to_disk() {
    let mut outbox = outbox(1, 1..=2);
    outbox.spill_all();
    assert_eq!(spill(&mut outbox, at(0)).len(), 2);
    assert!(outbox.is_all_durable() && !outbox.is_drained());
}

#[test]
fn without_consumers_everything_is_kept() {
    let mut outbox = outbox(0, 1..=2);
    assert_eq!(outbox.durable_below().item, ItemNo::new(0));
    assert_eq!(spill(&mut outbox, at(200)).len(), 2);
    assert_eq!(outbox.durable_below().reached, has(2));
    assert!(!outbox.is_drained());
}

#[test]
fn a_reconnect_sends_again_what_is_not_durable_copies_included() {
    let mut outbox = outbox(1, 1..=1);
    outbox.push(copy(1), at(0)).unwrap();
    outbox.push(record(2), at(0)).unwrap();
    outbox.push(record(3), at(0)).unwrap();
    assert_eq!(sent(&mut outbox, A), [1, 2, 3]);
    outbox.detach(A);
    outbox.rewind(A, has(2));
    assert!(matches!(outbox.next(A), Next::Batch(no, _) if no == ItemNo::new(1)), "from the copy on");
    assert_eq!(sent(&mut outbox, A), [2, 3]);
}

/// As when a machine is set back to a snapshot with a spool that has been sent since.
#[test]
fn copies_of_a_run_that_ended_below_are_not_sent_again() {
    let entry = |position| Entry { position, captured_at: WallTime::EPOCH, action: write() };
    let both = Arc::new(Batch {
        entries: vec![entry(Position::record(lsn(5))), entry(Position::copy_as_of(lsn(5)))],
        ..(*record(5)).clone()
    });
    let items = [both, copy(5), record(6), copy(6)];
    let items = items.iter().map(|batch| RecoveredItem::Sound(Summary::of(batch))).collect();
    let found = Recovered { items, ..Recovered::default() };
    let of = |n, run| Reached { lsn: lsn(n), run: Some(RunId::new(run)), at: None };
    let waiting = |has: Reached| {
        let mut outbox = Outbox::recovered(config(), 1, found.clone());
        outbox.rewind(A, has);
        outbox.status().items
    };
    assert_eq!((waiting(of(6, 1)), waiting(of(5, 1)), waiting(of(4, 1))), (4, 4, 4));
    assert_eq!((waiting(of(9, 2)), waiting(of(5, 2))), (0, 2), "the next run is there already");
    assert_eq!(waiting(Reached { run: None, ..of(9, 2) }), 4);
}

fn of_run(run: u64, batch: Arc<Batch>) -> Arc<Batch> {
    Arc::new(Batch { run: RunId::new(run), ..(*batch).clone() })
}

/// As when an old copy of a tap wrote into an empty CX while the gateway was away, which has a newer copy's records: it would refuse
/// them, and with them the stream, again and again.
#[test]
fn a_run_that_contradicts_what_a_gateway_has_is_left_out_up_to_the_next_sync_of_everything() {
    let other = |n| Reached { lsn: lsn(n), run: Some(RunId::new(9)), at: None };
    // Its records meet the end of the gateway's history in the middle of a batch, or just there.
    for reached in [4, 5] {
        let mut outbox = Outbox::new(config(), 1);
        let (begin, first) = (run_start(2, 1, None), record(3));
        let both = Batch {
            entries: [&record(4).entries[..], &record(5).entries[..]].concat(),
            ..(*record(4)).clone()
        };
        for batch in [begin, first, Arc::new(both), record(6)] {
            outbox.push(batch, at(0)).unwrap();
        }
        let hole = outbox.rewind(A, other(reached));
        assert_eq!(hole, Some(Hole { consumer: A, after: lsn(reached) }), "it has to be copied");
        assert_eq!(outbox.next(A), Next::Empty, "and nothing is sent that would be refused");
        outbox.detach(A);
        assert_eq!(outbox.rewind(A, other(reached)), None, "it is said once");
        outbox.push(of_run(2, record(100)), at(0)).unwrap();
        assert_eq!(outbox.next(A), Next::Empty);
        outbox.push(of_run(2, mark(101, Marker::SyncStart { cause: SyncCause::HopLost })), at(0)).unwrap();
        outbox.push(of_run(2, record(102)), at(0)).unwrap();
        assert_eq!(sent(&mut outbox, A), [101, 102]);
    }
}

#[test]
fn a_run_that_a_gateway_has_not_seen_yet_contradicts_nothing() {
    let mut outbox = Outbox::new(config(), 1);
    for batch in
        [record(4), of_run(2, run_start(5, 4, None)), of_run(2, record(6)), of_run(3, run_start(50, 6, None))]
    {
        outbox.push(batch, at(0)).unwrap();
    }
    assert_eq!(outbox.rewind(A, has(4)), None);
    assert_eq!(sent(&mut outbox, A), [5, 6, 50]);
    assert_eq!(outbox.rewind(A, Reached { lsn: lsn(6), run: Some(RunId::new(2)), at: None }), None);
    assert_eq!(sent(&mut outbox, A), [50]);
}

/// A record may be durable before this connection has sent it: an earlier one did.
#[test]
fn what_is_durable_is_known_with_its_run() {
    let mut outbox = outbox(1, 1..=2);
    outbox.push(of_run(2, run_start(3, 2, None)), at(0)).unwrap();
    outbox.acked(A, 0, lsn(3), lsn(3), at(0));
    let reached = Reached { lsn: lsn(3), run: Some(RunId::new(2)), at: Some(WallTime::EPOCH) };
    assert_eq!(outbox.durable_at_all(), reached);
}

#[test]
fn a_gateway_that_lost_what_is_still_here_gets_it_again() {
    let mut outbox = outbox(2, 1..=4);
    sent(&mut outbox, A);
    outbox.acked(A, 4, lsn(4), lsn(4), at(0));
    assert_eq!(outbox.rewind(A, has(2)), None);
    assert_eq!(sent(&mut outbox, A), [1, 2, 3, 4]);
}

#[test]
fn what_begins_just_behind_what_a_gateway_has_is_no_hole() {
    let mut outbox = outbox(2, 3..=6);
    sent(&mut outbox, A);
    outbox.acked(A, 4, lsn(6), lsn(6), at(0));
    assert_eq!(outbox.rewind(A, has(2)), None);
    assert_eq!(sent(&mut outbox, A), [3, 4, 5, 6]);
}

#[test]
fn a_gateway_that_lost_what_nobody_has_breaks_off_and_heals_with_a_whole_sync() {
    let mut outbox = outbox(1, 1..=4);
    sent(&mut outbox, A);
    outbox.acked(A, 4, lsn(4), lsn(4), at(0));
    assert_eq!(outbox.rewind(A, has(2)), Some(Hole { consumer: A, after: lsn(2) }));
    assert_eq!(outbox.view(A).unwrap().broken_after, Some(lsn(2)));
    outbox.push(record(5), at(0)).unwrap();
    assert_eq!(outbox.next(A), Next::Empty);
    assert_eq!((outbox.first(), outbox.durable_below().item), (ItemNo::new(4), ItemNo::new(4)), "it is kept");
    outbox.push(mark(6, Marker::SyncStart { cause: SyncCause::HopLost }), at(0)).unwrap();
    outbox.push(record(7), at(0)).unwrap();
    assert_eq!(sent(&mut outbox, A), [6, 7]);
    assert_eq!(outbox.view(A).unwrap().broken_after, None);
}

#[test]
fn a_new_gateway_in_the_middle_of_a_stream_has_a_hole() {
    let mut outbox = Outbox::new(config(), 1);
    outbox.rewind(A, has(0));
    outbox.push(record(500), at(0)).unwrap();
    assert_eq!(outbox.next(A), Next::Hole(Hole { consumer: A, after: lsn(0) }));
    assert_eq!(outbox.next(A), Next::Empty, "said once");
}

#[test]
fn a_new_run_may_jump_but_not_over_what_its_tap_knew_to_be_durable() {
    for (durable, hole) in [(400, false), (401, true)] {
        let mut outbox = Outbox::new(config(), 1);
        outbox.rewind(A, has(400));
        outbox.push(run_start(1000, durable, Some(SyncCause::UncleanStop)), at(0)).unwrap();
        assert_eq!(matches!(outbox.next(A), Next::Hole(_)), hole, "{durable}");
    }
    let mut outbox = Outbox::new(config(), 1);
    outbox.rewind(A, has(0));
    outbox.push(run_start(1000, 999, Some(SyncCause::HopLost)), at(0)).unwrap();
    assert_eq!(sent(&mut outbox, A), [1000], "a whole sync needs nothing");
}

#[test]
fn a_hole_before_a_whole_sync_that_is_here_already_is_passed_over() {
    let mut outbox = outbox(1, 500..=501);
    outbox.push(run_start(1000, 501, Some(SyncCause::ChangedUnwatched)), at(0)).unwrap();
    outbox.detach(A);
    outbox.rewind(A, has(0));
    assert_eq!(sent(&mut outbox, A), [1000]);
}

#[test]
fn an_item_that_cannot_be_read_back_is_a_hole() {
    let mut outbox = recovered(1..=3);
    outbox.rewind(A, has(0));
    assert_eq!(outbox.next(A), Next::Loading);
    let load = outbox.poll_load().unwrap();
    outbox.loaded(&load, vec![Some(record(1)), None]);
    assert_eq!(sent(&mut outbox, A), [1]);
    assert_eq!(outbox.view(A).unwrap().broken_after, Some(lsn(1)));
}

#[test]
fn an_idle_source_with_a_higher_head_reveals_a_hole() {
    let mut outbox = Outbox::new(config(), 1);
    outbox.rewind(A, has(900));
    assert_eq!(outbox.expect_head(A, lsn(900)), None);
    assert_eq!(outbox.expect_head(A, lsn(1000)), Some(Hole { consumer: A, after: lsn(900) }));
    assert_eq!(outbox.expect_head(A, lsn(1000)), None, "said once");
}

/// What lay in a queue of the source was taken for lost, everything behind it was let go and acknowledged, and a CX
/// killed then had acknowledged what nobody had.
#[test]
fn a_hole_that_was_none_closes_when_the_records_come() {
    let mut outbox = Outbox::new(config(), 1);
    outbox.rewind(A, has(900));
    assert!(outbox.expect_head(A, lsn(1000)).is_some());
    outbox.push(record(901), at(0)).unwrap();
    outbox.push(record(902), at(0)).unwrap();
    assert_eq!(outbox.durable_below().reached.lsn, lsn(900), "nothing is acknowledged on its way");
    assert_eq!(sent(&mut outbox, A), [901, 902]);
    assert_eq!(outbox.view(A).unwrap().broken_after, None);
}

/// A CX was killed, and its gateway had not yet made durable what it had got: it said "nothing" when the new CX came, made
/// it durable then, and the next record looked like the first one behind a hole.
#[test]
fn records_that_became_durable_since_the_connection_are_not_missing() {
    let mut outbox = Outbox::new(config(), 1);
    assert_eq!(outbox.rewind(A, has(0)), None);
    outbox.acked(A, 0, lsn(212), lsn(212), at(0));
    assert_eq!(outbox.durable_below().reached.lsn, lsn(212));
    outbox.push(record(213), at(0)).unwrap();
    assert_eq!(sent(&mut outbox, A), [213]);
}

#[test]
fn behind_a_hole_only_what_is_on_disk_is_acknowledged_until_it_heals() {
    let mut outbox = Outbox::new(config(), 1);
    outbox.rewind(A, has(2));
    for n in 9..=10 {
        outbox.push(record(n), at(0)).unwrap();
    }
    assert!(matches!(outbox.next(A), Next::Hole(_)));
    assert_eq!(outbox.durable_below().reached.lsn, lsn(2));
    assert_eq!(spill(&mut outbox, at(200)), [ItemNo::new(0), ItemNo::new(1)]);
    assert_eq!((outbox.durable_below().reached.lsn, outbox.first()), (lsn(10), ItemNo::new(0)));
    outbox.push(mark(11, Marker::SyncStart { cause: SyncCause::HopLost }), at(200)).unwrap();
    assert_eq!((sent(&mut outbox, A), outbox.first()), (vec![11], ItemNo::new(2)));
}

#[test]
fn a_sync_that_comes_while_what_is_before_the_hole_is_sent_again_takes_nothing_of_it() {
    let mut outbox = outbox(1, 1..=2);
    outbox.push(record(9), at(0)).unwrap();
    assert_eq!(sent(&mut outbox, A), [1, 2]);
    assert!(outbox.view(A).unwrap().broken_after.is_some());
    outbox.detach(A);
    outbox.rewind(A, has(0));
    outbox.push(mark(10, Marker::SyncStart { cause: SyncCause::HopLost }), at(0)).unwrap();
    assert_eq!(sent(&mut outbox, A), [1, 2, 10]);
}

#[test]
fn what_lies_before_a_hole_is_read_back_and_sent_again() {
    let mut outbox = outbox(1, 1..=2);
    outbox.push(record(9), at(0)).unwrap();
    assert_eq!(sent(&mut outbox, A), [1, 2]);
    assert_eq!(spill(&mut outbox, at(1000)).len(), 3);
    for n in 10..=16 {
        outbox.push(record(n), at(1000)).unwrap();
    }
    spill(&mut outbox, at(1000));
    outbox.detach(A);
    outbox.rewind(A, has(0));
    assert_eq!(outbox.next(A), Next::Loading, "memory let go of it");
    let load = outbox.poll_load().unwrap();
    assert_eq!(load.items, [ItemNo::new(0)]);
    outbox.loaded(&load, vec![Some(record(1))]);
    assert_eq!(sent(&mut outbox, A), [1, 2]);
    assert_eq!(outbox.poll_load(), None, "what lies behind it waits for a sync");
}

#[test]
fn what_waits_behind_a_hole_does_not_keep_out_the_sync_that_heals_it() {
    let no_disk = Config { disk_limit: 0, ..config() };
    let mut outbox = Outbox::new(no_disk, 1);
    outbox.rewind(A, has(2));
    for n in 9..=60 {
        outbox.push(record(n), at(0)).unwrap();
        outbox.next(A);
    }
    outbox.push(mark(61, Marker::SyncStart { cause: SyncCause::HopLost }), at(0)).unwrap();
    assert_eq!(sent(&mut outbox, A), [61]);
}

#[test]
fn a_hop_that_lost_what_it_acknowledged_gets_nothing_until_a_sync_of_everything() {
    let mut outbox = Outbox::new(Config { detect_holes: false, ..config() }, 1);
    outbox.rewind(A, has(0));
    for n in 1..=4 {
        outbox.push(record(n), at(n)).unwrap();
    }
    assert_eq!(sent(&mut outbox, A), [1, 2, 3, 4]);
    outbox.acked(A, 2, lsn(2), Lsn::ZERO, at(5));
    outbox.detach(A);
    assert_eq!(outbox.rewind(A, has(1)), None);
    assert_eq!(outbox.view(A).unwrap().durable, lsn(2), "more than it has");
    assert_eq!(outbox.abandon(A, has(1)), Some(Hole { consumer: A, after: lsn(1) }));
    assert_eq!((outbox.next(A), outbox.view(A).unwrap().durable), (Next::Empty, lsn(1)));
    outbox.detach(A);
    outbox.rewind(A, has(1));
    assert_eq!(outbox.next(A), Next::Empty, "a new connection changes nothing");
    outbox.push(mark(5, Marker::SyncStart { cause: SyncCause::HopLost }), at(5)).unwrap();
    assert_eq!(sent(&mut outbox, A), [5]);
}

#[test]
fn where_holes_are_the_next_hops_business_the_sender_goes_on_from_what_was_acknowledged() {
    let mut outbox = Outbox::new(Config { detect_holes: false, ..config() }, 1);
    outbox.rewind(A, has(0));
    for n in 1..=3 {
        outbox.push(record(n), at(0)).unwrap();
    }
    sent(&mut outbox, A);
    outbox.acked(A, 2, lsn(2), lsn(1), at(0));
    outbox.detach(A);
    assert_eq!(outbox.rewind(A, has(0)), None);
    assert_eq!(sent(&mut outbox, A), [3]);
}

#[test]
fn acknowledgements_beyond_what_was_sent_count_for_nothing() {
    let mut outbox = outbox(1, 1..=3);
    outbox.next(A);
    outbox.acked(A, 9, lsn(1), lsn(1), at(0));
    assert_eq!(outbox.durable_below().item, ItemNo::new(1));
    assert_eq!(sent(&mut outbox, A), [2, 3]);
}

#[test]
fn what_was_sent_before_a_hole_must_still_be_acknowledged_before_anything_behind_it_counts() {
    let mut outbox = recovered(1..=4);
    outbox.rewind(A, has(0));
    let load = outbox.poll_load().unwrap();
    outbox.loaded(&load, vec![Some(record(1)), Some(record(2))]);
    assert_eq!(sent(&mut outbox, A), [1, 2]);
    let load = outbox.poll_load().unwrap();
    outbox.loaded(&load, vec![None, Some(record(4))]);
    assert_eq!(outbox.next(A), Next::Hole(Hole { consumer: A, after: lsn(2) }));
    outbox.push(mark(5, Marker::SyncStart { cause: SyncCause::HopLost }), at(0)).unwrap();
    outbox.push(record(6), at(0)).unwrap();
    assert_eq!(sent(&mut outbox, A), [5, 6]);
    outbox.acked(A, 1, lsn(1), lsn(1), at(0));
    assert_eq!(outbox.first(), ItemNo::new(1));
    outbox.acked(A, 1, lsn(2), lsn(2), at(0));
    assert_eq!(outbox.first(), ItemNo::new(4), "what the hole made useless is gone");
    outbox.acked(A, 1, lsn(5), lsn(5), at(0));
    assert_eq!(outbox.first(), ItemNo::new(5));
    outbox.acked(A, 1, lsn(6), lsn(6), at(0));
    assert!(outbox.is_drained());
}

#[test]
fn a_hole_stays_over_a_reconnect_until_its_records_came_from_elsewhere() {
    let mut outbox = Outbox::new(config(), 1);
    outbox.rewind(A, has(0));
    outbox.push(record(1), at(0)).unwrap();
    outbox.push(record(9), at(0)).unwrap();
    for acked in [0, 1] {
        assert!(matches!(outbox.next(A), Next::Batch(..)));
        let said = Next::Hole(Hole { consumer: A, after: lsn(1) });
        assert_eq!(outbox.next(A), if acked == 0 { said } else { Next::Empty }, "said once");
        outbox.acked(A, acked, lsn(acked), lsn(acked), at(0));
        outbox.detach(A);
        outbox.rewind(A, has(acked));
    }
    assert_eq!(outbox.next(A), Next::Empty);
    assert_eq!(outbox.view(A).unwrap().broken_after, Some(lsn(1)));
    outbox.push(record(10), at(0)).unwrap();
    assert_eq!(outbox.next(A), Next::Empty);
    outbox.detach(A);
    outbox.rewind(A, has(10));
    outbox.push(record(11), at(0)).unwrap();
    assert_eq!(sent(&mut outbox, A), [11], "it got the rest from elsewhere");
}

#[test]
fn copies_need_the_record_they_were_read_as_of() {
    let mut outbox = Outbox::new(config(), 1);
    outbox.rewind(A, has(3));
    outbox.push(copy(3), at(0)).unwrap();
    outbox.push(copy(5), at(0)).unwrap();
    assert!(matches!(outbox.next(A), Next::Batch(..)));
    assert_eq!(outbox.next(A), Next::Hole(Hole { consumer: A, after: lsn(3) }));
}

/// A hop that was set back with its memory, as its source was: the gateway has what both gave the same places before.
#[test]
fn what_goes_on_from_other_records_than_a_gateway_has_is_left_out_up_to_the_next_sync_of_everything() {
    let mut outbox = Outbox::new(config(), 1);
    for n in 1..=5 {
        outbox.push(record(n), at(0)).unwrap();
    }
    assert_eq!(sent(&mut outbox, A), [1, 2, 3, 4, 5]);
    outbox.acked(A, 2, lsn(2), lsn(2), at(0));
    outbox.detach(A);
    let other = |n| Reached { at: Some(WallTime::from_nanos(1)), ..has(n) };
    assert_eq!(outbox.furthest(), has(5));
    assert_eq!(outbox.rewind(A, other(4)), Some(Hole { consumer: A, after: lsn(4) }));
    assert_eq!(outbox.next(A), Next::Empty);
    outbox.detach(A);
    assert_eq!(outbox.rewind(A, other(4)), None, "it is said once");
    outbox.push(record(6), at(0)).unwrap();
    assert_eq!(outbox.next(A), Next::Empty);
    outbox.push(mark(7, Marker::SyncStart { cause: SyncCause::HopLost }), at(0)).unwrap();
    outbox.push(record(8), at(0)).unwrap();
    assert_eq!(sent(&mut outbox, A), [7, 8]);
    outbox.detach(A);
    assert_eq!(outbox.rewind(A, has(7)), None, "they are its own again");
    assert_eq!(sent(&mut outbox, A), [8]);
}

#[test]
fn of_two_records_at_one_place_the_one_below_is_told_of() {
    let mut outbox = Outbox::new(config(), 1);
    let other = Reached { at: Some(WallTime::from_nanos(1)), ..has(4) };
    assert_eq!((outbox.rewind(A, other), outbox.furthest()), (None, other));
    for n in 1..=4 {
        outbox.push(record(n), at(0)).unwrap();
    }
    assert_eq!(outbox.furthest(), other);
}

/// A source that was set back with its memory gives the places that it gave before to other records.
#[test]
fn another_record_at_a_place_is_told_by_its_time_and_by_where_its_batch_ends() {
    let time = |n| WallTime::from_nanos(n);
    let timed = |n: u64, at: u64| {
        let entry = Entry { captured_at: time(at), ..record(n).entries[0].clone() };
        Arc::new(Batch { entries: vec![entry], ..(*record(n)).clone() })
    };
    let both = Batch {
        entries: [&timed(3, 30).entries[..], &timed(4, 40).entries[..], &copy(4).entries[..]].concat(),
        ..(*record(3)).clone()
    };
    let mut outbox = Outbox::new(config(), 1);
    for batch in [timed(1, 10), timed(2, 20), Arc::new(both), timed(5, 50)] {
        outbox.push(batch, at(0)).unwrap();
    }
    let is_other = |outbox: &Outbox, n, run, at| {
        outbox.contradicts_record(Reached { lsn: lsn(n), run: Some(RunId::new(run)), at: Some(time(at)) })
    };
    for (n, at) in [(1, 10), (2, 20), (4, 40), (5, 50)] {
        assert!(
            !is_other(&outbox, n, 1, at)
                && is_other(&outbox, n, 1, at + 1)
                && !is_other(&outbox, n, 2, at + 1)
        );
    }
    assert!(is_other(&outbox, 3, 1, 30), "no batch ends there");
    assert!(!is_other(&outbox, 6, 1, 60), "of what is not here nothing is known");
    assert!(!outbox.contradicts_record(Reached { at: None, ..has(3) }));
    // Of what was let go the last is remembered.
    assert_eq!(sent(&mut outbox, A), [1, 2, 4, 5]);
    outbox.acked(A, 2, lsn(2), lsn(2), at(0));
    assert!(!is_other(&outbox, 1, 1, 11));
    assert!(!is_other(&outbox, 2, 1, 20) && is_other(&outbox, 2, 1, 21));
}
