//! Scripted conversations: each rule of the protocol once, kept and broken.

use std::sync::Arc;

use bytes::Bytes;
use tap_block::{
    Action, Batch, Entry, Epoch, Extent, Lsn, Marker, Monotonic, Position, RunId, RunStart, StreamId,
    SyncCause, VolumeId, WallTime,
};

use super::*;
use crate::message::*;

const A: RunId = RunId::new(0xA);
const B: RunId = RunId::new(0xB);
const START: Monotonic = Monotonic::from_nanos(1_000_000_000);

fn lsn(n: u64) -> Lsn {
    Lsn::new(n).unwrap()
}

fn hello() -> Hello {
    Hello {
        protocol: PROTOCOL,
        stream: StreamId::new(1),
        volume: VolumeId::new(2),
        name: "web01".parse().unwrap(),
        size: 1 << 20,
        epoch: Epoch::new(1),
        run: A,
        first_lsn: lsn(1),
        sender: "t".to_owned(),
    }
}

fn batch_of(run: RunId, first: u64, actions: Vec<Action>) -> Batch {
    let entry =
        |(n, action)| Entry { position: Position::record(lsn(n)), captured_at: WallTime::EPOCH, action };
    Batch {
        stream: StreamId::new(1),
        run,
        epoch: Epoch::new(1),
        first_lsn: lsn(first),
        entries: (first..).zip(actions).map(entry).collect(),
        lens: Vec::new(),
        body: Bytes::new(),
    }
}

fn zeroes(run: RunId, range: std::ops::RangeInclusive<u64>) -> Batch {
    let zero = || Action::Zero { volume: VolumeId::new(2), extent: Extent::new(0, 4096).unwrap() };
    batch_of(run, *range.start(), range.map(|_| zero()).collect())
}

fn run_start(run: RunId, at: u64) -> Batch {
    let start = RunStart {
        previous: None,
        durable: Lsn::ZERO,
        volume: VolumeId::new(2),
        name: "web01".parse().unwrap(),
        size: 1 << 20,
        sync: None,
    };
    batch_of(run, at, vec![Action::Mark(Box::new(Marker::RunStart(start)))])
}

fn sync_start(run: RunId, at: u64, cause: SyncCause) -> Batch {
    batch_of(run, at, vec![Action::Mark(Box::new(Marker::SyncStart { cause }))])
}

fn copy(run: RunId, as_of: u64) -> Batch {
    let mut batch = zeroes(run, as_of + 1..=as_of + 1);
    batch.entries[0].position = Position::copy_as_of(lsn(as_of));
    batch
}

fn welcome(durable: u64, durable_run: Option<RunId>) -> Welcome {
    Welcome {
        durable: lsn(durable),
        durable_run,
        known: durable > 0,
        credit: 1 << 20,
        store: None,
        past: None,
        last: None,
    }
}

/// A receiver that has records of A up to `durable` (0: none).
fn receiver(durable: u64) -> Receiver {
    receiver_with(welcome(durable, (durable > 0).then_some(A)), Vec::new())
}

fn receiver_with(welcome: Welcome, given: Vec<Given>) -> Receiver {
    let mut receiver = Receiver::new(START);
    receiver.handle_message(Message::Hello(hello()), START).unwrap();
    assert_eq!(receiver.poll_event(), Some(ReceiverEvent::Opened(hello())));
    receiver.accept(welcome.clone(), given, START);
    assert_eq!(receiver.poll_message(START), Some(Message::Welcome(welcome)));
    assert_eq!(receiver.poll_message(START), None);
    receiver
}

fn give(receiver: &mut Receiver, batch: Batch) -> Result<Option<Arc<Batch>>, SessionError> {
    receiver.handle_message(Message::Data(Arc::new(batch)), START)?;
    Ok(receiver.poll_event().map(|event| match event {
        ReceiverEvent::Batch { batch, .. } => batch,
        other => panic!("{other:?}"),
    }))
}

fn refusal(receiver: &mut Receiver) -> RefuseCode {
    match receiver.poll_message(START) {
        Some(Message::Refuse(refuse)) => refuse.code,
        other => panic!("{other:?}"),
    }
}

fn acked(receiver: &mut Receiver) -> Option<(u64, u64)> {
    receiver.poll_message(START).map(|message| match message {
        Message::Ack(ack) => (ack.batches, ack.durable.get()),
        other => panic!("{other:?}"),
    })
}

#[test]
fn records_follow_each_other_and_a_run_starts_with_its_mark() {
    let mut r = receiver(0);
    assert!(give(&mut r, run_start(A, 1)).unwrap().is_some());
    assert!(give(&mut r, zeroes(A, 2..=5)).unwrap().is_some());
    assert!(give(&mut r, copy(A, 3)).unwrap().is_some());
    assert!(give(&mut r, run_start(B, 100)).unwrap().is_some());
    assert!(give(&mut r, zeroes(B, 101..=101)).unwrap().is_some());
}

#[test]
fn what_was_received_before_is_cut_off() {
    let mut r = receiver(5);
    assert_eq!(give(&mut r, zeroes(A, 3..=5)).unwrap(), None);
    assert_eq!(acked(&mut r), Some((1, 5)), "a repetition is acknowledged at once");
    let rest = give(&mut r, zeroes(A, 4..=7)).unwrap().unwrap();
    assert_eq!((rest.first_lsn, rest.entries.len()), (lsn(6), 2));
    assert_eq!(give(&mut r, zeroes(A, 6..=7)).unwrap(), None);
    assert_eq!(acked(&mut r), None, "a repetition of what is not durable waits for it");
    r.finished(1);
    r.durable(lsn(7), lsn(6));
    assert_eq!(acked(&mut r), Some((3, 7)));
}

#[test]
fn what_an_earlier_connection_gave_is_not_given_again() {
    let given = vec![Given { run: A, last: lsn(9) }, Given { run: B, last: lsn(101) }];
    let mut r = receiver_with(welcome(5, Some(A)), given);
    assert_eq!(give(&mut r, zeroes(A, 6..=9)).unwrap(), None);
    assert_eq!(give(&mut r, run_start(B, 100)).unwrap(), None);
    assert!(give(&mut r, zeroes(B, 101..=102)).unwrap().is_some());
    r.durable(lsn(99), Lsn::ZERO);
    assert_eq!(acked(&mut r), Some((1, 99)));
}

#[test]
fn holes_are_refused_unless_explained() {
    let hole = |first: u64| SessionError::Hole { due: lsn(6), found: lsn(first) };
    assert_eq!(give(&mut receiver(5), zeroes(A, 7..=7)), Err(hole(7)));
    assert_eq!(give(&mut receiver(5), zeroes(B, 6..=7)), Err(hole(6)), "a run starts with its mark");
    assert_eq!(give(&mut receiver(5), sync_start(A, 9, SyncCause::Overflow)), Err(hole(9)));
    assert!(give(&mut receiver(5), sync_start(A, 9, SyncCause::HopLost)).is_ok());
    assert!(give(&mut receiver(5), run_start(B, 9)).is_ok());
    let mut fresh = receiver(0);
    assert!(matches!(give(&mut fresh, zeroes(A, 1..=1)), Err(SessionError::Hole { .. })));
    assert_eq!(refusal(&mut fresh), RefuseCode::Protocol);
    let unknown_run = receiver_with(welcome(5, None), Vec::new());
    assert!(give(&mut { unknown_run }, zeroes(A, 6..=6)).is_ok());
}

#[test]
fn another_run_over_durable_records_is_split_history() {
    let mut r = receiver(5);
    let split = SessionError::SplitHistory { run: B, found: lsn(5), last: lsn(5) };
    assert_eq!(give(&mut r, run_start(B, 5)), Err(split));
    assert_eq!(refusal(&mut r), RefuseCode::SplitHistory);
}

#[test]
fn an_epoch_that_is_over_is_fenced() {
    let mut r = receiver(5);
    let newer = Batch { epoch: Epoch::new(2), ..zeroes(A, 6..=6) };
    assert!(give(&mut r, newer).unwrap().is_some());
    assert!(matches!(give(&mut r, zeroes(A, 7..=7)), Err(SessionError::Fenced { .. })));
    assert_eq!(refusal(&mut r), RefuseCode::Fenced);
}

#[test]
fn batches_of_another_stream_or_broken_ones_are_refused() {
    let other = Batch { stream: StreamId::new(9), ..zeroes(A, 6..=6) };
    assert_eq!(give(&mut receiver(5), other), Err(SessionError::WrongStream));
    let mut broken = zeroes(A, 6..=7);
    broken.entries.swap(0, 1);
    assert!(matches!(give(&mut receiver(5), broken), Err(SessionError::Wire(_))));
}

#[test]
fn acknowledgements_are_in_order_and_joined() {
    let mut r = receiver(5);
    for n in 6..=8 {
        give(&mut r, zeroes(A, n..=n)).unwrap();
    }
    r.finished(2);
    r.finished(1);
    assert_eq!(acked(&mut r), None);
    r.finished(0);
    r.durable(lsn(8), lsn(8));
    assert_eq!(acked(&mut r), Some((3, 8)));
    assert_eq!(acked(&mut r), None);
}

#[test]
fn a_receiver_shows_that_it_lives_and_notices_a_sender_that_does_not() {
    let mut r = receiver(5);
    let second = START.plus(KEEPALIVE);
    assert_eq!(r.poll_timeout(), Some(second));
    r.handle_timeout(second);
    assert!(matches!(r.poll_message(second), Some(Message::Ack(_))));
    assert_eq!(r.poll_message(second), None);
    r.handle_bytes(second);
    r.handle_timeout(START.plus(SILENCE));
    assert_eq!(r.poll_event(), None, "bytes came in a second after the start");
    r.handle_timeout(second.plus(SILENCE));
    assert!(matches!(r.poll_event(), Some(ReceiverEvent::Closed(_))));
    assert_eq!((r.poll_timeout(), r.has_message()), (None, false));
}

#[test]
fn a_stranger_that_says_nothing_or_nonsense_is_left() {
    let mut silent = Receiver::new(START);
    silent.handle_timeout(START.plus(SILENCE));
    assert!(matches!(silent.poll_event(), Some(ReceiverEvent::Closed(_))));
    let mut early = Receiver::new(START);
    let data = Message::Data(Arc::new(zeroes(A, 1..=1)));
    assert_eq!(early.handle_message(data, START), Err(SessionError::Unexpected("records")));
    let mut old = Receiver::new(START);
    old.handle_message(Message::Hello(Hello { protocol: 99, ..hello() }), START).unwrap();
    assert_eq!(refusal(&mut old), RefuseCode::Protocol);
    assert!(matches!(old.poll_event(), Some(ReceiverEvent::Closed(_))));
}

#[test]
fn a_sender_over_its_credit_is_stopped() {
    let mut r = receiver_with(Welcome { credit: 100, ..welcome(5, Some(A)) }, Vec::new());
    give(&mut r, zeroes(A, 6..=20)).unwrap();
    assert!(matches!(give(&mut r, zeroes(A, 21..=40)), Err(SessionError::Credit { .. })));
}

#[test]
fn questions_are_bounded_and_answered_once() {
    let mut r = receiver(5);
    let ids: Vec<u64> = (0..MAX_ASKS).map(|_| r.ask(Question::Head).unwrap()).collect();
    assert_eq!(r.ask(Question::Head).unwrap_err().code, AskCode::Failed);
    let answer = Answer { id: ids[3], result: Ok(Reply::Done) };
    r.handle_message(Message::Answer(answer.clone()), START).unwrap();
    assert_eq!(r.poll_event(), Some(ReceiverEvent::Answered(answer.clone())));
    let again = r.handle_message(Message::Answer(answer), START);
    assert_eq!(again, Err(SessionError::NotAsked(ids[3])));
    assert_eq!(Receiver::new(START).ask(Question::Head).unwrap_err().code, AskCode::NotReachable);
}

fn lookup() -> Lookup {
    let extent = Extent::new(4096, 2 * 4096).unwrap();
    Lookup { volume: VolumeId::new(2), extent, after: lsn(6), seed: 1 }
}

fn found(id: u64, hash_bytes: usize) -> QueryReply {
    QueryReply { id, result: Ok(Hashes { at: lsn(6), hashes: vec![1; hash_bytes].into() }) }
}

#[test]
fn a_query_reaches_the_receiver_and_its_answer_comes_back() {
    let (mut s, mut r) = (sender(1), receiver(5));
    let id = s.query(lookup()).unwrap();
    r.handle_message(s.poll_message().unwrap(), START).unwrap();
    assert_eq!(r.poll_event(), Some(ReceiverEvent::Queried(Query { id, lookup: lookup() })));
    r.reply(found(id, 32));
    r.reply(found(id, 32));
    s.handle_message(r.poll_message(START).unwrap(), START).unwrap();
    assert_eq!(s.poll_event(), Some(SenderEvent::Found(found(id, 32))));
    assert_eq!(r.poll_message(START), None, "answered once");
}

#[test]
fn queries_are_bounded_at_both_ends() {
    let mut s = sender(1);
    let first = s.query(lookup()).unwrap();
    assert!((1..MAX_QUERIES).all(|_| s.query(lookup()).is_ok()));
    assert_eq!(s.query(lookup()).unwrap_err().code, AskCode::Timeout);
    s.handle_message(Message::QueryReply(found(first, 32)), START).unwrap();
    assert!(s.query(lookup()).is_ok(), "an answer makes room");
    assert_eq!(Sender::new(hello(), START).query(lookup()).unwrap_err().code, AskCode::NotReachable);

    let mut r = receiver(5);
    let query = |id| Message::Query(Query { id, lookup: lookup() });
    for id in 0..MAX_QUERIES as u64 {
        r.handle_message(query(id), START).unwrap();
    }
    r.reply(found(3, 32));
    r.handle_message(query(100), START).unwrap();
    assert_eq!(r.handle_message(query(101), START), Err(SessionError::TooManyQueries));
    let mut twice = receiver(5);
    twice.handle_message(query(1), START).unwrap();
    assert_eq!(twice.handle_message(query(1), START), Err(SessionError::TooManyQueries));
    let mut early = Receiver::new(START);
    assert_eq!(early.handle_message(query(1), START), Err(SessionError::Unexpected("a query")));
}

#[test]
fn an_answer_to_no_query_or_of_another_length_is_refused() {
    let mut s = sender(1);
    let answer = |s: &mut Sender, id, bytes| s.handle_message(Message::QueryReply(found(id, bytes)), START);
    assert_eq!(answer(&mut s, 7, 32), Err(SessionError::NotQueried(7)));
    let id = s.query(lookup()).unwrap();
    assert_eq!(answer(&mut s, id, 16), Err(SessionError::NotQueried(id)));
}

fn sender(credit: u64) -> Sender {
    let mut sender = Sender::new(hello(), START);
    assert_eq!(sender.poll_message(), Some(Message::Hello(hello())));
    assert!(!sender.can_send(0), "not before the welcome");
    let welcome = Welcome { credit, ..welcome(5, Some(A)) };
    sender.handle_message(Message::Welcome(welcome.clone()), START).unwrap();
    assert_eq!(sender.poll_event(), Some(SenderEvent::Ready(welcome)));
    sender
}

fn ack(batches: u64, durable: u64) -> Message {
    Message::Ack(Ack { batches, durable: lsn(durable), everywhere: Lsn::ZERO, ledger: None, witnessed: None })
}

#[test]
fn credit_holds_a_sender_back_and_comes_back_with_acknowledgements() {
    let batch = Arc::new(zeroes(A, 6..=6));
    let weight = batch.weight();
    let mut s = sender(2 * weight);
    s.send(Arc::clone(&batch)).unwrap();
    assert!(s.can_send(weight) && !s.can_send(weight + 1));
    s.send(Arc::clone(&batch)).unwrap();
    assert!(matches!(s.send(Arc::clone(&batch)), Err(SessionError::Credit { .. })));
    s.handle_message(ack(1, 6), START).unwrap();
    let news = SenderEvent::Acked { batches: 1, durable: lsn(6), everywhere: Lsn::ZERO };
    assert_eq!(s.poll_event(), Some(news));
    assert!(s.can_send(weight));
    s.handle_message(ack(1, 6), START).unwrap();
    assert_eq!(s.poll_event(), None, "a sign of life is no news");
    assert!(sender(1).can_send(1 << 20), "one batch may always go");
}

#[test]
fn acknowledgements_of_the_unsent_are_refused() {
    let mut s = sender(1 << 20);
    s.send(Arc::new(zeroes(A, 6..=6))).unwrap();
    let acknowledged = |acked| Err(SessionError::Acknowledged { acked, sent: 1 });
    assert_eq!(s.handle_message(ack(2, 6), START), acknowledged(2));
    s.handle_message(ack(1, 6), START).unwrap();
    assert_eq!(s.handle_message(ack(0, 6), START), acknowledged(0));
}

#[test]
fn a_batch_that_no_message_can_hold_is_told_at_once() {
    let block = Extent::new(0, 4096).unwrap();
    let mut big = batch_of(A, 6, vec![Action::Write { volume: VolumeId::new(2), extent: block }; 4096]);
    big.lens = vec![4108; 4096];
    big.body = vec![0; 4108 * 4096].into();
    let weight = big.weight();
    assert_eq!(sender(1 << 30).send(Arc::new(big)), Err(SessionError::TooBig { weight }));
}

#[test]
fn heartbeats_are_due_each_second_and_do_not_pile_up() {
    let status = TapStatus {
        state: TapState::Protected,
        queued_bytes: 0,
        spooled_bytes: 0,
        marked_bytes: 0,
        sync: None,
        baselines: 0,
        resynced_bytes: 0,
    };
    let heartbeat = |n| Heartbeat {
        head: lsn(n),
        at: WallTime::EPOCH,
        status: status.clone(),
        ledgers: None,
        witnesses: Vec::new(),
        stores: Vec::new(),
        set_back: None,
        refused: None,
    };
    let mut s = sender(1);
    for n in 0..3 {
        let now = START.plus(KEEPALIVE * n);
        assert_eq!(s.poll_timeout(), Some(now));
        s.handle_timeout(now);
        assert_eq!(s.poll_event(), Some(SenderEvent::HeartbeatDue));
        s.heartbeat(heartbeat(u64::from(n)));
    }
    assert_eq!(s.poll_message(), Some(Message::Heartbeat(heartbeat(2))));
    assert_eq!(s.poll_message(), None);
}

#[test]
fn a_silent_receiver_is_lost_also_before_its_welcome() {
    for mut s in [sender(1), Sender::new(hello(), START)] {
        s.handle_timeout(START.plus(SILENCE));
        assert!(matches!(s.poll_event(), Some(SenderEvent::Lost(_))));
        assert_eq!(s.poll_timeout(), None);
        assert!(!s.can_send(0));
    }
}

#[test]
fn a_receiver_cannot_ask_without_end() {
    let mut s = sender(1);
    let ask = |id| Message::Ask(Ask { id, question: Question::Head });
    for id in 0..MAX_ASKS as u64 {
        s.handle_message(ask(id), START).unwrap();
    }
    assert_eq!(s.handle_message(ask(99), START), Err(SessionError::TooManyAsks));
    s.answer(Answer { id: 0, result: Ok(Reply::Done) });
    s.handle_message(ask(100), START).unwrap();
}

#[test]
fn both_ends_can_leave() {
    let mut s = sender(1);
    s.leave("enough");
    let goodbye = s.poll_message().unwrap();
    let mut r = receiver(5);
    r.handle_message(goodbye, START).unwrap();
    assert!(matches!(r.poll_event(), Some(ReceiverEvent::Closed(why)) if why.contains("enough")));
    let (mut s, mut r) = (sender(1), receiver(5));
    r.leave("done");
    s.handle_message(r.poll_message(START).unwrap(), START).unwrap();
    assert!(matches!(s.poll_event(), Some(SenderEvent::Lost(why)) if why.contains("done")));
}

#[test]
fn the_head_of_a_ledger_is_told_once_and_counts_for_no_batch() {
    let head = LedgerHead { store: 1, entry: 2, hash: [3; 32], at: WallTime::EPOCH };
    let mut below = receiver(0);
    while below.poll_message(START).is_some() {}
    below.ledger(head);
    below.witnessed(LedgerHead { store: 9, ..head });
    assert!(below.has_message());
    let Some(Message::Ack(ack)) = below.poll_message(START) else { panic!("no acknowledgement") };
    assert_eq!((ack.ledger, ack.batches), (Some(head), 0));
    assert!(!below.has_message(), "once");
    let mut above = sender(1);
    while above.poll_event().is_some() {}
    above.handle_message(Message::Ack(ack), START).unwrap();
    assert_eq!(above.poll_event(), Some(SenderEvent::Ledger(head)));
    let of_another = LedgerHead { store: 9, ..head };
    assert_eq!(above.poll_event(), Some(SenderEvent::Witnessed(of_another)));
    assert_eq!(above.poll_event(), None);
}
