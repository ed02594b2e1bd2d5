//! What the chain shows, and what it survives.

use super::*;
use crate::policy::RetentionPolicy;

const STORE: StoreId = StoreId::new(0x55);

fn digest(n: u8) -> Digest {
    Digest::of(&[n])
}

fn sealed(n: u32) -> Event {
    let hashed = Hashed { settle: 0, end: 8192, digest: digest(n.to_le_bytes()[0]) };
    Event::Sealed(SegmentId::new(n), hashed)
}

fn anchored(number: u64, digest: Digest) -> Event {
    Event::Anchored { place: "cx".into(), number: EntryNo::new(number), digest }
}

fn at(n: u64) -> WallTime {
    WallTime::from_nanos(n)
}

/// Appends an entry to a ledger and its file.
fn add(ledger: &mut Ledger, file: &mut Vec<u8>, event: Event) {
    let entry = ledger.next(event, at(7));
    let (bytes, digest) = entry.encode();
    ledger.take(&entry, digest);
    file.extend(bytes);
}

fn filled() -> (Ledger, Vec<u8>) {
    let (mut ledger, mut file) = (Ledger::new(STORE), Vec::new());
    add(&mut ledger, &mut file, Event::Begun(Why::New));
    (1..=3).for_each(|n| add(&mut ledger, &mut file, sealed(n)));
    let settled = Settled {
        settle: 1,
        log_from: 3,
        inputs: vec![SegmentId::new(1), SegmentId::new(2)],
        policies: vec![RetentionPolicy::default()],
        counts: Some([9, 4, 2]),
        ..Settled::default()
    };
    add(&mut ledger, &mut file, Event::Settled(Box::new(settled)));
    (ledger, file)
}

#[test]
fn what_was_entered_is_read_again() {
    let (ledger, file) = filled();
    let reading = read(STORE, &file);
    assert_eq!(reading, Reading { ledger: ledger.clone(), faults: Vec::new(), fold: None, end: file.len() });
    assert_eq!(ledger.segments().keys().copied().collect::<Vec<_>>(), [SegmentId::new(3)]);
    assert_eq!((ledger.settle(), ledger.head().unwrap().number), (1, EntryNo::new(5)));
}

#[test]
fn no_byte_can_be_changed_unseen() {
    let (ledger, file) = filled();
    for n in 0..file.len() {
        let mut bad = file.clone();
        bad[n] ^= 0x20;
        let reading = read(STORE, &bad);
        let shown = !reading.faults.is_empty() || reading.ledger.head() != ledger.head();
        assert!(shown, "byte {n} was changed, and nothing shows it");
        // A length that is more than there is looks like a crash; all else does not.
        assert!(!reading.faults.is_empty() || reading.end < file.len());
    }
    let last = file.len() - 40;
    let mut bad = file.clone();
    bad[last] ^= 1;
    assert_eq!(read(STORE, &bad).faults.len(), 1, "the last one is no exception");
    bad[last..].fill(0);
    assert_eq!((read(STORE, &bad).faults.len(), read(STORE, &bad).end), (1, file.len()));
}

#[test]
fn what_is_cut_off_is_the_start_of_what_was() {
    let (ledger, file) = filled();
    for cut in 0..file.len() {
        let reading = read(STORE, &file[..cut]);
        assert_eq!(reading.faults, []);
        assert!(reading.end <= cut && reading.ledger.head() != ledger.head());
        let head = reading.ledger.head();
        assert!(head.is_none_or(|h| ledger.holds(h.number, h.digest)));
    }
}

#[test]
fn an_entry_made_anew_with_its_own_hash_breaks_the_chain() {
    let (_, file) = filled();
    let (first, _, from) = Entry::decode(&file).unwrap();
    let (second, _, len) = Entry::decode(&file[from..]).unwrap();
    assert_eq!(first.number, EntryNo::FIRST);
    let (forged, _) = Entry { event: sealed(9), ..second }.encode();
    let changed = [&file[..from], &forged, &file[from + len..]].concat();
    assert_eq!(read(STORE, &changed).faults.len(), 1);
    let left_out = [&file[..from], &file[from + len..]].concat();
    assert_eq!(read(STORE, &left_out).faults.len(), 1);
    assert!(read(StoreId::new(1), &file).ledger.head().is_none(), "another store's is not read");
}

#[test]
fn a_fold_stands_for_what_was_before() {
    let (mut ledger, mut file) = filled();
    let told = ledger.news_for(EntryNo::new(0)).unwrap();
    add(&mut ledger, &mut file, anchored(told.number.get(), told.digest));
    assert_eq!(ledger.anchored(), Some(("cx", told)));
    assert_eq!(ledger.news_for(told.number), None, "what is said of ledgers is no news");
    let (before, event) = (file.len(), ledger.fold());
    add(&mut ledger, &mut file, event);
    let fold = ledger.news_for(told.number).unwrap();
    add(&mut ledger, &mut file, anchored(fold.number.get(), fold.digest));
    add(&mut ledger, &mut file, sealed(5));
    let whole = read(STORE, &file);
    assert_eq!((whole.fold, whole.faults.len()), (Some((fold.number, before)), 0));
    assert_eq!(whole.ledger, ledger);
    let reading = read(STORE, &file[before..]);
    assert_eq!((reading.faults.len(), reading.fold), (0, None));
    let short = reading.ledger;
    assert!(short.holds(fold.number, fold.digest) && !short.holds(told.number, told.digest));
    ledger.forget_before(fold.number);
    assert_eq!(short, ledger);
}

#[test]
fn what_follows_a_contradiction_is_numbered_above_it() {
    let (mut ledger, mut file) = filled();
    let (number, digest) = (EntryNo::new(70), digest(1));
    assert!(!ledger.holds(number, digest));
    add(&mut ledger, &mut file, Event::Contradicted { place: "cx".into(), number, digest });
    assert_eq!(ledger.news_for(number).unwrap().number, EntryNo::new(71));
    assert!(ledger.is_contradicted("cx", number, digest));
    assert_eq!(read(STORE, &file).faults, []);
}
