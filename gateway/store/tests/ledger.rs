//! What the ledger shows: a segment that was forged with all its checksums, a ledger that was changed, a store that was put
//! back; and that nothing that the store does by itself looks like any of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::io::IoSlice;
use std::time::Duration;

use common::lab::{Lab, cut, tiers};
use common::{Disk, repair_one};
use gateway_journal::ledger::{Entry, Event, Hashed, Settled, Why, read};
use gateway_journal::{Digest, EntryNo, Head, Ledger, SEGMENT_HEADER, SegmentHeader, StoreId};
use gateway_store::{Finding, FindingKind, LedgerStore, MemoryLedger, Offered, Scope, Store, VerifyReport};
use proptest::prelude::*;
use tap_block::stored::{pack, verify as unit_of};
use tap_block::{BlockNo, WallTime};
use tap_disk::{SegmentDir, SegmentFile};
use testbed_model::Random;

fn verify(store: &Store) -> VerifyReport {
    store.verify(Scope::default(), &mut |_| true).unwrap()
}

fn kinds(report: &VerifyReport) -> Vec<FindingKind> {
    report.findings.iter().map(|f| f.kind).collect()
}

/// Log and settled history, all of it that is finished in the ledger.
fn entered(seed: u64) -> Lab {
    let mut lab = Lab::new(seed, tiers());
    lab.write(120, 5);
    lab.settle();
    lab.store().keep_ledger().unwrap();
    lab.more(25, 8);
    lab.settle();
    lab.write(900, 0);
    assert!(lab.store().keep_ledger().unwrap() > 0, "there is something to hash");
    assert_eq!(lab.store().keep_ledger().unwrap(), 0, "once");
    lab
}

fn events(disk: &Disk) -> Vec<Event> {
    let bytes = disk.ledger.load().unwrap();
    let (mut rest, mut found) = (bytes.as_slice(), Vec::new());
    while !rest.is_empty() {
        let (entry, _, len) = Entry::decode(rest).unwrap();
        found.push(entry.event);
        rest = &rest[len..];
    }
    found
}

fn of_disk(disk: &Disk) -> Ledger {
    let bytes = disk.ledger.load().unwrap();
    let store = Entry::decode(&bytes).unwrap().0.store;
    read(store, &bytes).ledger
}

#[test]
fn what_is_finished_is_entered_once_and_found_unchanged() {
    let mut lab = entered(1);
    let ledger = of_disk(&lab.disk);
    let log = ledger.segments().values().filter(|hashed| hashed.settle == 0).count();
    let status = lab.store().status();
    assert!(log > 0 && status.settled_segments > 0);
    assert_eq!(count(log), status.segments - 1, "all of the log but the open segment");
    assert_eq!(count(ledger.segments().len() - log), status.settled_segments);
    assert_eq!(ledger.settle(), status.settles);
    assert_eq!(events(&lab.disk)[0], Event::Begun(Why::New));
    let settles: Vec<Settled> = settles(&lab.disk);
    assert!(settles.iter().all(|s| !s.outputs.is_empty() && s.counts.is_some() && s.policies == [tiers()]));
    assert_eq!(verify(lab.store()).findings, []);
    lab.open();
    assert_eq!(lab.store().keep_ledger().unwrap(), 0, "it is known over a restart");
    assert_eq!(verify(lab.store()).findings, []);
}

fn count(n: usize) -> u64 {
    n as u64
}

fn settles(disk: &Disk) -> Vec<Settled> {
    let settled = events(disk).into_iter().filter_map(|event| match event {
        Event::Settled(settled) => Some(*settled),
        _ => None,
    });
    settled.collect()
}

#[test]
fn a_segment_that_goes_before_its_turn_is_entered_as_such() {
    let mut lab = Lab::new(2, tiers());
    lab.write(900, 5);
    lab.settle();
    lab.store().keep_ledger().unwrap();
    let settled = settles(&lab.disk).remove(0);
    assert!(settled.inputs.is_empty() && !settled.unhashed.is_empty() && settled.log_from > 1, "{settled:?}");
    lab.write(300, 5);
    lab.store().keep_ledger().unwrap();
    lab.write(900, 5);
    lab.settle();
    lab.store().keep_ledger().unwrap();
    let last = settles(&lab.disk).pop().unwrap();
    assert!(!last.inputs.is_empty(), "{last:?}");
}

#[test]
fn a_store_without_a_ledger_begins_one() {
    let mut lab = entered(3);
    let before = of_disk(&lab.disk).segments().len();
    lab.store = None;
    lab.disk.ledger.replace(b"").unwrap();
    lab.open();
    assert_eq!(lab.store().keep_ledger().unwrap(), before);
    assert_eq!(events(&lab.disk)[0], Event::Begun(Why::Older));
    assert_eq!(verify(lab.store()).findings, []);
    lab.store = None;
    lab.disk.ledger.replace(&[7; 3000]).unwrap();
    lab.open();
    lab.store().keep_ledger().unwrap();
    assert_eq!(events(&lab.disk)[0], Event::Begun(Why::Lost));
    assert_eq!(lab.disk.ledger.aside(), [vec![7; 3000]], "nothing is thrown away");
    let found = lab.store().findings(lab.volume());
    assert!(found.iter().any(|f| f.kind == FindingKind::Ledger && f.over_at.is_some()), "{found:?}");
}

#[test]
fn a_ledger_that_cannot_be_read_keeps_no_store_from_starting_and_the_break_is_told_until_it_is_acknowledged()
{
    let mut lab = entered(10);
    let (before, bytes) = (of_disk(&lab.disk).segments().len(), lab.disk.ledger.load().unwrap());
    lab.store = None;
    lab.disk.ledger.fail_reads(true);
    lab.open();
    lab.check(40);
    assert_eq!(lab.store().ledger().doubts.len(), 1, "at once");
    assert_eq!(kinds(&verify(lab.store())), [FindingKind::Ledger]);
    assert_eq!(lab.store().keep_ledger().unwrap(), before);
    assert_eq!(lab.disk.ledger.aside(), [bytes]);
    assert_eq!(events(&lab.disk)[0], Event::Begun(Why::Lost));
    for _ in 0..2 {
        // The list of findings is lost, and the break is not.
        lab.store = None;
        lab.disk.proofs = Default::default();
        lab.open();
        lab.store().keep_ledger().unwrap();
        let report = verify(lab.store());
        assert_eq!(kinds(&report), [FindingKind::Ledger]);
        assert!(report.findings[0].detail.contains("not anchored any more"), "{report:?}");
    }
    lab.store().acknowledge(lab.volume(), |_| true).unwrap();
    assert!(lab.store().findings(lab.volume()).is_empty());
    lab.open();
    assert_eq!(verify(lab.store()).findings, []);
    assert!(lab.store().ledger().doubts.is_empty());
}

#[test]
fn a_crash_while_a_ledger_is_set_aside_hides_no_break() {
    let mut lab = entered(19);
    lab.store = None;
    lab.disk.ledger.set_aside().unwrap();
    lab.open();
    assert_eq!(kinds(&verify(lab.store())), [FindingKind::Ledger]);
    lab.store().keep_ledger().unwrap();
    assert_eq!(events(&lab.disk)[0], Event::Begun(Why::Lost));
}

#[test]
fn a_read_error_that_passes_breaks_no_chain() {
    let mut lab = entered(11);
    let before = of_disk(&lab.disk);
    lab.store = None;
    lab.disk.ledger.fail_reads(true);
    lab.open();
    lab.disk.ledger.fail_reads(false);
    assert_eq!(lab.store().keep_ledger().unwrap(), 0, "all of it is known");
    assert_eq!((of_disk(&lab.disk), lab.disk.ledger.aside().len()), (before, 0));
    assert_eq!(verify(lab.store()).findings, []);
}

/// Opens the store with a ledger that was lost, and enters that.
fn broken(lab: &mut Lab) {
    lab.store = None;
    lab.disk.ledger.fail_reads(true);
    lab.clock.advance(Duration::from_secs(1));
    lab.open();
    lab.store().keep_ledger().unwrap();
    lab.clock.advance(Duration::from_secs(1));
}

#[test]
fn what_others_keep_of_before_a_break_calls_nothing_forged_and_what_they_keep_of_after_does() {
    let mut lab = entered(12);
    let mut kept = Vec::new();
    tell(lab.store(), &mut kept);
    let old = kept[0].1.number;
    broken(&mut lab);
    tell(lab.store(), &mut kept);
    let found = lab.store().findings(lab.volume());
    assert!(found.len() == 2 && found.iter().all(|f| !f.detail.contains("rewritten")), "{found:?}");
    assert!(kept[0].1.number > old, "what is told is newer than what was kept");
    lab.store().acknowledge(lab.volume(), |_| true).unwrap();
    tell(lab.store(), &mut kept);
    assert!(verify(lab.store()).findings.is_empty() && lab.store().findings(lab.volume()).is_empty());
    // The chain of after the break is put back to where it was before that was kept.
    lab.store = None;
    let begun = Entry::decode(&lab.disk.ledger.load().unwrap()).unwrap().2;
    lab.disk.ledger.cut(begun as u64).unwrap();
    lab.open();
    tell(lab.store(), &mut kept);
    let found = lab.store().findings(lab.volume());
    assert!(found.iter().any(|f| f.detail.contains("rewritten")), "{found:?}");
}

#[test]
fn a_break_that_was_made_up_with_its_acknowledgement_is_told_when_the_next_head_is_heard() {
    let mut lab = entered(13);
    let mut kept = Vec::new();
    tell(lab.store(), &mut kept);
    lab.store = None;
    let mut ledger = Ledger::new(of_disk(&lab.disk).store());
    lab.disk.ledger.replace(b"").unwrap();
    lab.clock.advance(Duration::from_secs(1));
    for event in [Event::Begun(Why::Lost), Event::Acknowledged] {
        let entry = ledger.next(event, WallTime::from_nanos(u64::MAX >> 1));
        let (bytes, digest) = entry.encode();
        ledger.take(&entry, digest);
        lab.disk.ledger.append(&bytes).unwrap();
    }
    lab.open();
    lab.store().keep_ledger().unwrap();
    assert_eq!(verify(lab.store()).findings, [], "by itself it looks well");
    tell(lab.store(), &mut kept);
    assert_eq!(kinds(&verify(lab.store())), [FindingKind::Ledger]);
    lab.disk.proofs = Default::default();
    lab.open();
    assert_eq!(kinds(&verify(lab.store())), [FindingKind::Ledger], "it stays until it is acknowledged");
}

#[test]
fn a_ledger_that_is_no_file_is_kept_beside_the_new_one() {
    let tmp = tempfile::tempdir().unwrap();
    let mut config = gateway_store::StoreConfig::new(tmp.path().to_owned());
    (config.segment_len, config.spare_segments, config.ledger_each) = (1 << 20, 0, None);
    std::fs::create_dir_all(tmp.path().join("LEDGER/what")).unwrap();
    let store = Store::open(config, std::sync::Arc::new(tap_disk::RealClock)).unwrap();
    store.keep_ledger().unwrap();
    assert!(tmp.path().join("LEDGER.unreadable-1/what").is_dir() && tmp.path().join("LEDGER").is_file());
    assert_eq!(store.ledger().doubts.len(), 1);
}

#[test]
fn the_second_read_of_a_segment_is_at_the_scrubs_rate_and_can_be_ended() {
    let lab = entered(14);
    let hashed: u64 = of_disk(&lab.disk).segments().values().map(|h| u64::from(h.end)).sum();
    let ended_at = |last: u64| {
        let mut ticks = 0;
        let outcome = lab.store().verify(Scope::default(), &mut |_| {
            ticks += 1;
            ticks < last
        });
        (outcome, ticks)
    };
    let (outcome, ticks) = ended_at(u64::MAX);
    let read = outcome.unwrap().bytes;
    assert!(hashed > 2 << 20 && ticks >= read / (1 << 20) + hashed / (1 << 20), "{ticks}: {read}, {hashed}");
    let (outcome, _) = ended_at(read / (1 << 20) + 1);
    assert!(matches!(outcome, Err(gateway_store::StoreError::Cancelled)), "{outcome:?}");
}

#[test]
fn a_segment_of_the_newest_settle_that_was_taken_away_is_named() {
    let mut lab = entered(15);
    let ledger = of_disk(&lab.disk);
    let last =
        ledger.segments().iter().filter(|(_, h)| h.settle == ledger.settle()).map(|(id, _)| *id).next_back();
    lab.store = None;
    for no in lab.disk.dir.list().unwrap() {
        let file = lab.disk.dir.open(no).unwrap();
        let mut head = vec![0; SEGMENT_HEADER as usize];
        file.read_at(0, &mut head).unwrap();
        if gateway_journal::SettledHeader::decode(&head).ok().map(|h| h.segment) == last {
            lab.disk.dir.remove(no).unwrap();
        }
    }
    lab.open();
    // What stands in for it is damaged, and it is known to be missing from the start on.
    let known = lab.store().findings(lab.volume());
    assert!(known.iter().any(|f| f.kind == FindingKind::Missing && Some(f.segment) == last), "{known:?}");
    let found = verify(lab.store()).findings;
    assert!(found.iter().any(|f| Some(f.segment) == last), "{found:?}");
}

/// Every unit in the files of a store that a checksum vouches for, when it is looked for at every byte.
fn units(file: &SegmentFile, end: u32) -> Vec<(u64, BlockNo, usize)> {
    let mut bytes = vec![0; end as usize];
    file.read_at(0, &mut bytes).unwrap();
    let mut found = Vec::new();
    for at in SEGMENT_HEADER as usize..bytes.len() - 12 {
        let len = usize::from(u16::from_le_bytes([bytes[at + 10], bytes[at + 11]]));
        let len = 12 + len;
        if !(13..=4108).contains(&len) || at + len > bytes.len() {
            continue;
        }
        let block = (0..64).map(BlockNo::new).find(|b| unit_of(*b, &bytes[at..at + len]).is_ok());
        found.extend(block.map(|b| (at as u64, b, len)));
    }
    found
}

/// Other content for the block, whose stored form has the same length and a right checksum.
fn forged(block: BlockNo, len: usize) -> Option<Vec<u8>> {
    let tries = (1..200_u8).flat_map(|n| [len - 12, len, 64].map(|run| (n, run)));
    tries.into_iter().find_map(|(n, run)| {
        let mut content = vec![n; 4096];
        let mut random = Random::new(u64::from(n));
        content.iter_mut().take(run).for_each(|b| *b = random.below(256) as u8);
        let mut unit = Vec::new();
        pack(block, &content, &mut unit);
        (unit.len() == len).then_some(unit)
    })
}

/// Forges a block in a hashed segment, of the log or of settled history.
fn forge(disk: &Disk, settled: bool) -> bool {
    let ledger = of_disk(disk);
    for no in disk.dir.list().unwrap() {
        let file = disk.dir.open(no).unwrap();
        let mut head = vec![0; SEGMENT_HEADER as usize];
        file.read_at(0, &mut head).unwrap();
        let id = match settled {
            false => SegmentHeader::decode(&head).map(|h| h.segment),
            true => gateway_journal::SettledHeader::decode(&head).map(|h| h.segment),
        };
        let Some(hashed) = id.ok().and_then(|id| ledger.segments().get(&id)) else { continue };
        for (at, block, len) in units(&file, hashed.end) {
            if let Some(unit) = forged(block, len) {
                file.write_at(at, &[IoSlice::new(&unit)]).unwrap();
                assert!(unit_of(block, &unit).is_ok());
                return true;
            }
        }
    }
    false
}

#[test]
fn a_block_forged_with_its_checksum_is_found() {
    for settled in [false, true] {
        let mut lab = entered(4);
        assert!(forge(&lab.disk, settled), "no block to forge");
        let report = verify(lab.store());
        assert_eq!(kinds(&report), [FindingKind::Altered], "{report:?}");
        lab.open();
        assert_eq!(lab.store().keep_ledger().unwrap(), 0, "nothing is hashed a second time");
        assert_eq!(kinds(&verify(lab.store())), [FindingKind::Altered]);
    }
}

#[test]
fn no_byte_of_the_ledger_can_be_changed_unseen() {
    let lab = entered(5);
    let sound = lab.disk.ledger.load().unwrap();
    for n in (0..sound.len()).step_by(37) {
        let mut bad = sound.clone();
        bad[n] ^= 1;
        lab.disk.ledger.replace(&bad).unwrap();
        let report = verify(lab.store());
        assert!(kinds(&report).contains(&FindingKind::Ledger), "byte {n}: {report:?}");
    }
    for len in (0..sound.len()).step_by(101) {
        lab.disk.ledger.replace(&sound[..len]).unwrap();
        assert!(kinds(&verify(lab.store())).contains(&FindingKind::Ledger), "cut to {len}");
    }
    lab.disk.ledger.replace(&sound).unwrap();
    lab.clock.advance(Duration::from_secs(1));
    assert_eq!(verify(lab.store()).findings, []);
    let listed = lab.store().findings(lab.volume());
    assert!(!listed.is_empty() && listed.iter().all(|f| f.over_at.is_some()), "{listed:?}");
}

#[test]
fn a_broken_link_in_the_middle_is_a_finding_and_no_refusal() {
    let mut lab = entered(6);
    lab.store = None;
    let mut bytes = lab.disk.ledger.load().unwrap();
    let (_, _, first) = Entry::decode(&bytes).unwrap();
    bytes[first + 80] ^= 1;
    lab.disk.ledger.replace(&bytes).unwrap();
    lab.open();
    lab.write(900, 0);
    assert!(lab.store().keep_ledger().unwrap() > 0, "it goes on");
    assert!(kinds(&verify(lab.store())).contains(&FindingKind::Ledger));
    lab.open();
    assert!(kinds(&verify(lab.store())).contains(&FindingKind::Ledger), "for as long as it is so");
}

#[test]
fn a_ledger_with_a_flipped_bit_begins_anew_once_that_is_acknowledged_and_is_anchored_again() {
    let mut lab = entered(14);
    let mut kept = Vec::new();
    tell(lab.store(), &mut kept);
    let (old, segments) = (kept[0].1, of_disk(&lab.disk).segments().len());
    lab.store = None;
    let mut bytes = lab.disk.ledger.load().unwrap();
    let (_, _, first) = Entry::decode(&bytes).unwrap();
    bytes[first + 80] ^= 1;
    lab.disk.ledger.replace(&bytes).unwrap();
    lab.clock.advance(Duration::from_secs(1));
    lab.open();
    tell(lab.store(), &mut kept);
    lab.store().acknowledge(lab.volume(), |_| true).unwrap();
    assert!(lab.disk.ledger.aside().is_empty(), "nobody was told of it yet");
    let open = |lab: &Lab| lab.store().findings(lab.volume()).iter().filter(|f| f.over_at.is_none()).count();
    assert!(kinds(&verify(lab.store())).contains(&FindingKind::Ledger) && open(&lab) > 0);
    lab.store().acknowledge(lab.volume(), |_| true).unwrap();
    assert_eq!(lab.disk.ledger.aside().len(), 1, "what was there is kept");
    for round in 0..2 {
        // The CX still keeps what it kept: somebody has read that this is not in here.
        tell(lab.store(), &mut kept);
        assert_eq!(verify(lab.store()).findings, [], "round {round}");
        assert!(lab.store().findings(lab.volume()).is_empty() && lab.store().ledger().doubts.is_empty());
        lab.open();
    }
    assert_eq!(of_disk(&lab.disk).segments().len(), segments, "all is entered again");
    assert_eq!(events(&lab.disk)[0], Event::Begun(Why::Lost), "and the ledger says from where it is told");
    let anchored = lab.store().anchored().unwrap().entry;
    assert!(kept[0].1.number > old.number && anchored == kept[0].1.number, "anchors go on");
}

fn head(n: u64) -> Head {
    Head { number: EntryNo::new(n), digest: Digest::of(&n.to_le_bytes()), at: WallTime::from_nanos(n) }
}

/// The place says what it keeps, and is told what there is.
fn tell(store: &Store, kept: &mut Vec<(StoreId, Head)>) {
    store.hear_heads("cx", kept);
    store.keep_ledger().unwrap();
    if let Some((id, head)) = store.head_for("cx") {
        kept.retain(|(of, _)| *of != id);
        kept.push((id, head));
    }
    store.hear_heads("cx", kept);
    store.keep_ledger().unwrap();
}

#[test]
fn a_ledger_put_back_below_its_anchor_is_found() {
    let mut lab = entered(7);
    assert_eq!(lab.store().head_for("cx"), None, "nobody is told before it has said what it keeps");
    let (mut kept, old) = (Vec::new(), lab.disk.ledger.load().unwrap());
    tell(lab.store(), &mut kept);
    let anchored = lab.store().anchored().unwrap();
    assert_eq!((anchored.place.as_str(), anchored.entry), ("cx", kept[0].1.number));
    assert!(anchored.at > WallTime::EPOCH && lab.store().head_for("cx").is_none(), "that was all");
    lab.write(900, 0);
    lab.store().keep_ledger().unwrap();
    tell(lab.store(), &mut kept);
    assert!(lab.store().anchored().unwrap().entry > anchored.entry);
    assert_eq!(verify(lab.store()).findings, []);
    assert!(lab.store().findings(lab.volume()).is_empty());
    lab.store = None;
    lab.disk.ledger = MemoryLedger::holding(old);
    lab.open();
    lab.store().keep_ledger().unwrap();
    let wrong: Vec<Finding> = {
        lab.store().hear_heads("cx", &kept);
        assert_eq!(lab.store().head_for("cx"), None);
        lab.store().keep_ledger().unwrap();
        lab.store().findings(lab.volume())
    };
    assert_eq!(wrong.iter().map(|f| f.kind).collect::<Vec<_>>(), [FindingKind::Ledger], "{wrong:?}");
    tell(lab.store(), &mut kept);
    assert!(
        kept[0].1.number > lab.store().anchored().map_or(EntryNo::new(0), |a| a.entry.min(EntryNo::new(1)))
    );
    assert_eq!(lab.store().findings(lab.volume()).len(), 1, "once");
    lab.store().acknowledge(lab.volume(), |_| true).unwrap();
    lab.open();
    tell(lab.store(), &mut kept);
    assert!(lab.store().findings(lab.volume()).is_empty(), "it was read of, and what is kept is held again");
}

#[test]
fn what_another_gateway_keeps_is_compared_with_the_ledger() {
    let mut lab = entered(16);
    let mut kept = Vec::new();
    tell(lab.store(), &mut kept);
    let (store, head) = kept[0];
    lab.store().hear_witness("gateway b", (store, head));
    lab.store().keep_ledger().unwrap();
    assert_eq!(of_disk(&lab.disk).anchored_at("gateway b").map(|h| h.digest), Some(head.digest));
    assert_eq!(verify(lab.store()).findings, []);
    // The CX was put back with this gateway; the other one was not.
    let other = Head { digest: Digest::of(b"other"), ..head };
    lab.store().hear_witness("gateway b", (store, other));
    lab.store().keep_ledger().unwrap();
    let found = verify(lab.store()).findings;
    assert!(found.len() == 1 && found[0].detail.contains("which gateway b keeps"), "{found:?}");
    lab.store().acknowledge(lab.volume(), |_| true).unwrap();
    lab.open();
    lab.store().hear_witness("gateway b", (store, other));
    lab.store().keep_ledger().unwrap();
    assert_eq!(verify(lab.store()).findings, [], "it was read of");
}

#[test]
fn what_another_gateway_keeps_of_before_the_files_first_entry_is_no_contradiction() {
    let mut lab = entered(17);
    let mut kept = Vec::new();
    tell(lab.store(), &mut kept);
    lab.store = None;
    let mut ledger = of_disk(&lab.disk);
    let fold = ledger.next(ledger.fold(), WallTime::EPOCH);
    let (bytes, digest) = fold.encode();
    ledger.take(&fold, digest);
    lab.disk.ledger.replace(&bytes).unwrap();
    lab.open();
    lab.store().hear_witness("gateway b", kept[0]);
    lab.store().keep_ledger().unwrap();
    assert_eq!(verify(lab.store()).findings, []);
    lab.store().hear_heads("cx", &kept);
    lab.store().keep_ledger().unwrap();
    assert_eq!(verify(lab.store()).findings.len(), 1, "who is told of every head has no such excuse");
}

#[test]
fn notes_of_another_ledger_that_the_cx_contradicts_are_found_by_verify() {
    let lab = entered(18);
    let other = StoreId::new(0x77);
    let says = |head: Head| {
        lab.store().hear_heads("cx", &[(other, head)]);
        lab.store().keep_ledger().unwrap();
        verify(lab.store()).findings
    };
    assert_eq!(says(head(9)), []);
    assert_eq!(lab.store().witnessed_after(StoreId::new(u64::MAX)), Some((other, head(9))));
    for wrong in [head(5), Head { digest: Digest::of(b"other"), ..head(9) }] {
        let found = says(wrong);
        assert!(found.len() == 1 && found[0].detail.contains("another gateway's"), "{found:?}");
    }
    assert_eq!(says(head(10)), []);
}

#[test]
fn the_file_stays_small_and_still_answers() {
    let mut lab = entered(8);
    let mut kept = Vec::new();
    tell(lab.store(), &mut kept);
    let (before, other) = (of_disk(&lab.disk), StoreId::new(0x77));
    let mut longest = 0;
    for n in 1..16_000 {
        lab.store().hear_heads("cx", &[kept[0], (other, head(n))]);
        lab.store().keep_ledger().unwrap();
        if let Some(told) = lab.store().head_for("cx").filter(|_| n % 100 == 0) {
            kept[0] = told;
        }
        longest = longest.max(lab.disk.ledger.load().unwrap().len());
    }
    let ledger = of_disk(&lab.disk);
    assert!(longest < (1 << 20) + (64 << 10), "{longest}");
    assert!(ledger.head().unwrap().number > EntryNo::new(16_000));
    assert_eq!(ledger.segments(), before.segments());
    assert_eq!(ledger.witnessed_of(other), Some(head(15_999)));
    assert!(matches!(events(&lab.disk)[0], Event::Folded(_)));
    lab.open();
    tell(lab.store(), &mut kept);
    assert_eq!(verify(lab.store()).findings, []);
    assert!(lab.store().findings(lab.volume()).is_empty(), "what is kept elsewhere is held");
}

#[test]
fn a_fold_made_up_with_forged_hashes_is_not_what_is_kept_elsewhere() {
    let mut lab = entered(9);
    let mut kept = Vec::new();
    tell(lab.store(), &mut kept);
    lab.store = None;
    // Forged: other content, its hash in a fold that claims to stand for the true entries.
    assert!(forge(&lab.disk, false));
    let mut ledger = of_disk(&lab.disk);
    for no in lab.disk.dir.list().unwrap() {
        let file = lab.disk.dir.open(no).unwrap();
        let mut bytes = vec![0; file.len() as usize];
        file.read_at(0, &mut bytes).unwrap();
        let Ok(header) = SegmentHeader::decode(&bytes) else { continue };
        if let Some(hashed) = ledger.segments().get(&header.segment).copied() {
            let digest = Digest::of(&bytes[..hashed.end as usize]);
            let sealed =
                ledger.next(Event::Sealed(header.segment, Hashed { digest, ..hashed }), WallTime::EPOCH);
            let (_, digest) = sealed.encode();
            ledger.take(&sealed, digest);
        }
    }
    let fold = ledger.next(ledger.fold(), WallTime::EPOCH);
    lab.disk.ledger.replace(&fold.encode().0).unwrap();
    lab.open();
    assert_eq!(verify(lab.store()).findings, [], "by itself it looks well");
    lab.store().hear_heads("cx", &kept);
    lab.store().keep_ledger().unwrap();
    let found = lab.store().findings(lab.volume());
    assert_eq!(found.iter().map(|f| f.kind).collect::<Vec<_>>(), [FindingKind::Ledger], "{found:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(8), max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_byte_of_a_hashed_segment_can_be_changed_unseen(seed: u64) {
        let mut random = Random::new(seed);
        let lab = entered(seed);
        let ledger = of_disk(&lab.disk);
        for no in lab.disk.dir.list().unwrap() {
            let file = lab.disk.dir.open(no).unwrap();
            let mut head = vec![0; SEGMENT_HEADER as usize];
            file.read_at(0, &mut head).unwrap();
            let log = SegmentHeader::decode(&head).map(|h| h.segment);
            let id = log.or_else(|_| gateway_journal::SettledHeader::decode(&head).map(|h| h.segment));
            let Some(hashed) = id.ok().and_then(|id| ledger.segments().get(&id)) else { continue };
            let at = random.below(u64::from(hashed.end));
            let mut byte = [0];
            file.read_at(at, &mut byte).unwrap();
            file.write_at(at, &[IoSlice::new(&[byte[0] ^ 4])]).unwrap();
            let report = verify(lab.store());
            prop_assert!(!report.findings.is_empty(), "byte {} of {}", at, no);
            let altered = kinds(&report).iter().filter(|k| **k == FindingKind::Altered).count();
            prop_assert!(altered == 0 || report.findings.len() == 1, "reported twice: {:?}", report.findings);
            file.write_at(at, &[IoSlice::new(&byte)]).unwrap();
            prop_assert_eq!(verify(lab.store()).findings, []);
        }
    }

    #[test]
    fn nothing_looks_forged_after_power_cuts_and_settles(seed: u64) {
        let mut random = Random::new(seed);
        let mut lab = Lab::new(seed, tiers());
        lab.write(60, 3);
        for _ in 0..4 {
            for _ in 0..4 {
                match random.below(4) {
                    0 => drop(lab.settle()),
                    1 => drop(lab.store().keep_ledger().unwrap()),
                    2 => lab.more(20, 40),
                    _ => lab.more(60, 3),
                }
            }
            let mut left = cut(&lab.disk, &mut random);
            if random.one_in(2) {
                // The last entry was being written.
                let bytes = left.ledger.load().unwrap();
                let lost = random.below(bytes.len().min(60) as u64 + 1) as usize;
                left.ledger = MemoryLedger::holding(bytes[..bytes.len() - lost].to_vec());
            }
            lab.store = None;
            lab.disk = left;
            lab.open();
            prop_assert_eq!(verify(lab.store()).findings, []);
            lab.store().keep_ledger().unwrap();
            prop_assert_eq!(verify(lab.store()).findings, []);
            let (ledger, status) = (lab.store().ledger(), lab.store().status());
            prop_assert_eq!(ledger.hashed, status.segments.saturating_sub(1) + status.settled_segments);
        }
    }

    /// Whether the damage was there when the segment was hashed, or came after.
    #[test]
    fn what_is_put_right_does_not_look_forged(seed: u64, before: bool) {
        let mut random = Random::new(seed);
        let mut lab = Lab::new(seed, tiers());
        lab.write(300, 5);
        lab.settle();
        lab.write(300, 1);
        let sound = cut(&lab.disk, &mut random).open();
        if !before {
            lab.store().keep_ledger().unwrap();
        }
        for no in lab.disk.dir.list().unwrap() {
            let file = lab.disk.dir.open(no).unwrap();
            let at = 4096 + random.below(30_000);
            let mut byte = [0];
            file.read_at(at, &mut byte).unwrap();
            file.write_at(at, &[IoSlice::new(&[byte[0] ^ 1])]).unwrap();
        }
        lab.store().keep_ledger().unwrap();
        let report = verify(lab.store());
        for finding in report.findings.iter().filter(|f| f.kind == FindingKind::Block) {
            let (block, position) = (BlockNo::holding(finding.extent.unwrap().offset()), finding.position.unwrap());
            let unit = sound.stored_unit(finding.volume.unwrap(), block, position).unwrap().unwrap();
            repair_one(lab.store(), finding.volume.unwrap(), (block, position), &unit, Offered::Version).unwrap();
        }
        let found = verify(lab.store());
        if before {
            prop_assert!(!kinds(&found).contains(&FindingKind::Altered), "{:?}", found.findings);
        } else {
            let padding = kinds(&report).iter().filter(|k| **k == FindingKind::Altered).count();
            let still = kinds(&found).iter().filter(|k| **k == FindingKind::Altered).count();
            prop_assert_eq!(padding, still, "{:?}", found.findings);
        }
        prop_assert!(!kinds(&found).contains(&FindingKind::Block));
        let repaired = events(&lab.disk).into_iter().any(|event| matches!(event, Event::Repaired { .. }));
        prop_assert!(!repaired, "only sound segments are hashed");
    }
}
