//! Slots, quota and the log of an overlay.

use super::*;

fn block(n: u64) -> BlockNo {
    BlockNo::new(n)
}

fn blocks(first: u64, n: u64) -> Extent {
    Extent::between(first * BLOCK_SIZE, (first + n) * BLOCK_SIZE)
}

fn lent(overlay: &mut Overlay, blocks: &[BlockNo]) -> Vec<Loan> {
    let asked = overlay.ask(blocks).unwrap();
    overlay.lend(asked)
}

fn write(overlay: &mut Overlay, n: u64, content: &[u8]) -> SlotNo {
    let loans = lent(overlay, &[block(n)]);
    overlay.map(&[(loans[0], ContentSum::of(block(n), content))]);
    loans[0].slot()
}

fn flush(overlay: &mut Overlay) -> Vec<Change> {
    let changes = overlay.take_changes();
    let list = changes.list().to_vec();
    overlay.recorded(changes);
    list
}

#[test]
fn a_slot_is_overwritten_only_until_it_is_recorded() {
    let mut overlay = Overlay::new(1 << 20);
    let first = write(&mut overlay, 1, b"a");
    assert_eq!(write(&mut overlay, 1, b"b"), first);
    assert_eq!(flush(&mut overlay).len(), 1);
    let second = write(&mut overlay, 1, b"c");
    assert_ne!(second, first);
    assert_ne!(write(&mut overlay, 2, b"d"), first, "the old content may still be needed");
    flush(&mut overlay);
    assert_eq!(write(&mut overlay, 3, b"e"), first, "now it is not");
    assert!(flush(&mut overlay).len() == 1 && overlay.take_changes().is_empty());
}

#[test]
fn blocks_that_are_written_together_lie_together_and_two_writers_never_share_a_slot() {
    let numbers = |loans: &[Loan]| loans.iter().map(|loan| loan.slot().get()).collect::<Vec<_>>();
    let mut overlay = Overlay::new(8 * BLOCK_SIZE);
    let four = [4, 5, 6, 7].map(block);
    let first = lent(&mut overlay, &four);
    let second = lent(&mut overlay, &four[2..]);
    assert_eq!((numbers(&first), numbers(&second)), (vec![0, 1, 2, 3], vec![4, 5]));
    assert!(overlay.admit(blocks(20, 3)).is_err(), "what is lent counts");
    let sum = ContentSum::of(block(4), b"a");
    overlay.map(&first.iter().map(|loan| (*loan, sum)).collect::<Vec<_>>());
    overlay.map(&second.iter().map(|loan| (*loan, sum)).collect::<Vec<_>>());
    assert_eq!(overlay.content(block(6)), Content::Slot(SlotNo(4), sum), "the last one counts");
    assert!(overlay.admit(blocks(20, 4)).is_ok());
    // What the second replaced is free, its own place is written again until it is recorded.
    let again = lent(&mut overlay, &[block(7), block(9), block(10)]);
    assert_eq!(numbers(&again), [5, 2, 3]);
    assert_eq!(again.iter().map(Loan::is_in_place).collect::<Vec<_>>(), [true, false, false]);
    overlay.unused(&again);
    assert_eq!((overlay.growing, overlay.free.len(), overlay.used()), (0, 2, 4 * BLOCK_SIZE));
    assert_eq!(flush(&mut overlay).len(), 4);
    assert_eq!(numbers(&lent(&mut overlay, &four)), [2, 3, 6, 7], "they come back in order");
}

#[test]
fn blocks_here_and_there_are_lent_what_each_of_them_needs() {
    let mut overlay = Overlay::new(12 * BLOCK_SIZE);
    for n in 0..8 {
        write(&mut overlay, n, b"a");
    }
    flush(&mut overlay);
    let own = write(&mut overlay, 3, b"b");
    let asked = overlay.ask(&[1, 3, 4, 7, 9].map(block)).unwrap();
    assert_eq!(overlay.growth(&asked), 4 * BLOCK_SIZE, "nothing is free before the flush");
    let loans = overlay.lend(asked);
    assert_eq!(loans.iter().map(Loan::is_in_place).collect::<Vec<_>>(), [false, true, false, false, false]);
    assert_eq!((loans[1].slot(), overlay.growing), (own, 1));
    assert!(overlay.ask(&[20, 30, 40].map(block)).is_ok(), "eight, one lent, and three");
    let refused = overlay.ask(&[1, 20, 30, 40, 50].map(block)).unwrap_err();
    assert_eq!(refused, QuotaReached { quota: 12 * BLOCK_SIZE });
}

/// Blocks in such an order that no two neighbours are written one after the other.
fn scatter(overlay: &mut Overlay, blocks: u64) {
    for n in 0..blocks {
        write(overlay, n * 37 % blocks, b"a");
    }
}

#[test]
fn a_long_write_over_what_is_scattered_goes_to_slots_side_by_side_and_gives_the_others_back() {
    for is_recorded in [false, true] {
        let mut overlay = Overlay::new(4096 * BLOCK_SIZE);
        scatter(&mut overlay, 128);
        if is_recorded {
            flush(&mut overlay);
            for n in 0..128 {
                write(&mut overlay, n * 29 % 128, b"b");
            }
        }
        let (end, all) = (overlay.end() / BLOCK_SIZE, (0..128).map(block).collect::<Vec<_>>());
        let asked = overlay.ask(&all).unwrap();
        let gathered = overlay.gathered(&asked).unwrap();
        assert_eq!((overlay.growth(&asked), overlay.growth(&gathered)), (0, 128 * BLOCK_SIZE));
        let loans = overlay.lend(gathered);
        assert!(loans.iter().map(|loan| loan.slot().get()).eq(end..end + 128));
        assert!(loans.iter().all(|loan| !loan.is_in_place()), "the old ones are read until then");
        let free = overlay.free.len();
        let placed: Vec<_> = loans.iter().map(|loan| (*loan, ContentSum::of(loan.block, b"c"))).collect();
        overlay.map(&placed);
        assert_eq!((overlay.free.len(), overlay.used()), (free + 128, 128 * BLOCK_SIZE));
        let asked = overlay.ask(&all).unwrap();
        assert!(overlay.gathered(&asked).is_none(), "they lie together now");
        assert!(asked.loans.iter().all(Loan::is_in_place));
        assert_eq!(flush(&mut overlay).len(), 128);
    }
}

#[test]
fn a_write_is_gathered_only_if_it_is_long_and_little_lies_free() {
    let mut overlay = Overlay::new(1024 * BLOCK_SIZE);
    scatter(&mut overlay, 128);
    let gathered = |overlay: &Overlay, blocks: std::ops::Range<u64>| {
        overlay.gathered(&overlay.ask(&blocks.map(block).collect::<Vec<_>>()).unwrap()).is_some()
    };
    assert!(gathered(&overlay, 0..128) && gathered(&overlay, 0..64) && !gathered(&overlay, 0..63));
    assert!(!gathered(&overlay, 200..328), "nothing is there, and nothing is free");
    overlay.zero(blocks(0, 70));
    assert!(
        !gathered(&overlay, 70..128) && !gathered(&overlay, 60..128),
        "more than an eighth would lie free"
    );
    // What is free is scattered as well.
    assert!(!gathered(&overlay, 200..264), "that is used up first");
    overlay = Overlay::new(1024 * BLOCK_SIZE);
    scatter(&mut overlay, 128);
    (0..60).for_each(|n| overlay.zero(blocks(n * 2, 1)));
    assert!(gathered(&overlay, 200..264));
}

#[test]
fn what_failed_to_be_recorded_is_recorded_next_time() {
    let mut overlay = Overlay::new(1 << 20);
    write(&mut overlay, 1, b"a");
    overlay.zero(blocks(4, 2));
    let changes = overlay.take_changes();
    overlay.failed(changes);
    assert_eq!(flush(&mut overlay).len(), 2);
}

#[test]
fn the_quota_counts_changed_blocks_once() {
    let mut overlay = Overlay::new(2 * BLOCK_SIZE + 100);
    write(&mut overlay, 1, b"a");
    write(&mut overlay, 2, b"a");
    assert!(overlay.admit(blocks(1, 2)).is_ok());
    assert_eq!(overlay.admit(blocks(1, 3)), Err(QuotaReached { quota: 2 * BLOCK_SIZE }));
    overlay.zero(blocks(2, 1000));
    assert!(overlay.admit(blocks(3, 1)).is_ok(), "zeroes give room back");
    assert_eq!(overlay.used(), BLOCK_SIZE);
}

#[test]
fn zeroes_and_writes_hide_each_other() {
    let mut overlay = Overlay::new(1 << 20);
    assert_eq!(overlay.content(block(5)), Content::Image(block(5)));
    assert!(overlay.is_untouched(blocks(0, 100)));
    write(&mut overlay, 5, b"a");
    overlay.zero(blocks(4, 3));
    assert_eq!(overlay.content(block(5)), Content::Zero);
    let slot = write(&mut overlay, 5, b"b");
    assert_eq!(overlay.content(block(5)), Content::Slot(slot, ContentSum::of(block(5), b"b")));
    assert_eq!(overlay.content(block(6)), Content::Zero);
    assert_eq!(overlay.entries(), 3);
    assert!(!overlay.is_untouched(Extent::between(6 * BLOCK_SIZE + 1, 6 * BLOCK_SIZE + 2)));
}

#[test]
fn a_log_leads_back_to_the_mapping() {
    let mut overlay = Overlay::new(1 << 20);
    let mut log = Vec::new();
    for no in 0..5 {
        write(&mut overlay, no, b"a");
        write(&mut overlay, 7, &no.to_le_bytes());
        overlay.zero(blocks(no * 3, 2));
        log.extend(encode_group(9, no, &flush(&mut overlay)));
    }
    let found = scan(9, &log).unwrap();
    assert_eq!((found.next_group, found.end), (5, count(log.len())));
    let mut back = Overlay::restore(1 << 20, found.changes);
    assert_eq!(sorted(back.snapshot()), sorted(overlay.snapshot()));
    let used: Vec<_> = back.slots.values().map(|s| s.no).collect();
    assert!(!used.contains(&lent(&mut back, &[block(99)])[0].slot()));
}

fn sorted(mut changes: Vec<Change>) -> Vec<Change> {
    changes.sort_by_key(|c| c.extent().offset());
    changes
}

#[test]
fn a_torn_tail_is_cut_and_damage_is_told() {
    let group = |no| encode_group(9, no, &[Change::Zero(blocks(no, 1))]);
    let log = [group(0), group(1), group(2)].concat();
    let one = log.len() / 3;
    for cut in 0..log.len() {
        assert_eq!(scan(9, &log[..cut]).unwrap().next_group, count(cut / one));
    }
    let mut bad = log.clone();
    bad[one + 20] ^= 1;
    assert_eq!(scan(9, &bad), Err(LogError { at: count(one) }));
    bad[2 * one + 20] ^= 1;
    assert_eq!(
        scan(9, &bad),
        Err(LogError { at: count(one) }),
        "nothing sound behind, and all of it is there"
    );
    assert_eq!(scan(8, &log), Err(LogError { at: 0 }), "the log of another image");
    let stale = [group(0), group(0)].concat();
    assert_eq!(scan(9, &stale).unwrap().next_group, 1, "an older group behind the end is no damage");
}

/// What a group that is written when the power goes leaves are the sectors that came to be written.
#[test]
fn a_group_that_lacks_a_sector_is_torn_and_one_with_a_flipped_bit_is_damaged() {
    torn_or_damaged(|no, changes| {
        let changes: Vec<_> = (0..changes).map(|n| Change::Zero(blocks(no * 1000 + n, 1))).collect();
        encode_group(9, no, &changes)
    });
}

/// There are more rows than changes.
#[test]
fn a_group_with_references_is_torn_or_damaged_like_any_other() {
    torn_or_damaged(|no, changes| {
        let slot = |n| Change::Slot {
            block: block(n * 3),
            slot: SlotNo(n),
            sum: ContentSum { sum: n * 77, of: block(no * 1000 + n) },
        };
        encode_group(9, no, &(1..=changes.div_ceil(2)).map(slot).collect::<Vec<_>>())
    });
}

fn torn_or_damaged(of: impl Fn(u64, u64) -> Vec<u8>) {
    for first in [1, 17, 19, 20, 100] {
        let durable = of(0, first);
        let all = [durable.clone(), of(1, 90)].concat();
        for lost in durable.len() / 512..all.len().div_ceil(512) {
            let mut torn = [all.clone(), vec![0; 5000]].concat();
            torn[durable.len().max(lost * 512)..(lost + 1) * 512].fill(0);
            let found = scan(9, &torn).unwrap();
            assert_eq!((found.next_group, found.is_torn), (1, true), "{first}, sector {lost}");
            assert!(!scan(9, &[durable.clone(), vec![0; 5000]].concat()).unwrap().is_torn);
        }
        for at in 0..all.len() {
            let mut bad = [all.clone(), vec![0; 5000]].concat();
            bad[at] ^= 4;
            assert!(scan(9, &bad).is_err(), "{first}, byte {at}");
        }
        let mut only = [durable.clone(), vec![0; 5000]].concat();
        for at in 0..durable.len() {
            only[at] ^= 4;
            assert_eq!(scan(9, &only), Err(LogError { at: 0 }), "{first}, byte {at}");
            only[at] ^= 4;
        }
    }
    let left = [of(0, 2), of(3, 90)[200..].to_vec(), vec![0; 5000]].concat();
    assert!(scan(9, &left).unwrap().is_torn, "of one that was torn, and written over by a shorter one");
}

#[test]
fn what_was_said_and_is_damaged_is_no_end_of_a_program() {
    let mut recent = Recent::new(9, LogPlace { generation: 0, group: 1 });
    let mut files = [Vec::new(), Vec::new()];
    let mut say = |recent: &mut Recent, n: u64| {
        let said = recent.say(&[Change::Zero(blocks(n, 1))]);
        files[usize::from(said.second)].truncate(usize::try_from(said.offset).unwrap());
        // As programs before marks did.
        files[usize::from(said.second)].extend(said.group());
        recent.said(&said);
    };
    (0..100).for_each(|n| say(&mut recent, n));
    recent.turn(LogPlace { generation: 0, group: 2 });
    (100..150).for_each(|n| say(&mut recent, n));
    let files = files;
    let claims = |files: &[Vec<u8>; 2], group| {
        all_unrecorded(9, [&files[0], &files[1]], LogPlace { generation: 0, group }, None)
            .map(|claims| claims.len())
    };
    assert_eq!((claims(&files, 1), claims(&files, 2), claims(&files, 3)), (Ok(150), Ok(50), Ok(0)));
    let one = files[0].len() / 100;
    let damage = |which: usize, how: &dyn Fn(&mut Vec<u8>)| {
        let mut bad = files.clone();
        how(&mut bad[which]);
        bad
    };
    for at in 0..files[0].len() {
        let bad = damage(0, &|file| file[at] ^= 8);
        assert_eq!(claims(&bad, 1), Err(RecentError), "byte {at} of the first");
        assert_eq!(claims(&bad, 2), Ok(50), "that is in the log");
    }
    for at in 0..files[1].len() {
        let bad = damage(1, &|file| file[at] ^= 8);
        assert_eq!(claims(&bad, 2), Err(RecentError), "byte {at} of the second");
    }
    assert_eq!(claims(&damage(0, &Vec::clear), 1), Err(RecentError));
    assert_eq!(claims(&damage(1, &|file| file.truncate(one * 7 + 30)), 2), Err(RecentError));
    assert_eq!(
        all_unrecorded(8, [&files[0], &files[1]], LogPlace::default(), None),
        Err(RecentError),
        "another image's"
    );
    // Killed while the last was written.
    let page = files[0].len() / 4096 * 4096;
    assert_eq!(claims(&[files[0][..page].to_vec(), Vec::new()], 1), Ok(page / one));
}

/// What comes behind the damage is seen, whatever its beginning.
#[test]
fn a_long_group_with_references_that_is_damaged_is_no_end_of_a_program() {
    let mut recent = Recent::new(9, LogPlace::default());
    let mut file = Vec::new();
    for group in 0..3 {
        let from = |n: u64| Change::Image(FromImage { extent: blocks(n * 2, 1), at: group * BLOCK_SIZE });
        let said = recent.say(&(0..200).map(from).collect::<Vec<_>>());
        file.extend(said.group());
        recent.said(&said);
    }
    let claims =
        |file: &[u8]| all_unrecorded(9, [file, &[]], LogPlace::default(), None).map(|claims| claims.len());
    assert_eq!(claims(&file), Ok(3));
    let one = file.len() / 3;
    for at in (0..one).step_by(97).flat_map(|at| [at, one + at]) {
        file[at] ^= 16;
        assert_eq!(claims(&file), Err(RecentError), "byte {at}");
        file[at] ^= 16;
    }
}

type Found = Result<Vec<Vec<Change>>, RecentError>;

/// The files of what is recent, and what is noted beside them, as a driver keeps them.
#[derive(Clone)]
struct Files {
    files: [Vec<u8>; 2],
    noted: Begun,
}

impl Files {
    fn new(recent: &Recent) -> Self {
        let mut files = Self { files: Default::default(), noted: recent.noted() };
        files.put(&recent.ended(), usize::MAX);
        files
    }

    /// As far as the program comes before it is killed.
    fn put(&mut self, said: &Said, so_far: usize) {
        let start = usize::try_from(said.offset).unwrap();
        let file = &mut self.files[usize::from(said.second)];
        file.resize(file.len().max((start + said.bytes.len()).next_multiple_of(8192)), 0);
        let bytes = &said.bytes[..so_far.min(said.bytes.len())];
        file[start..start + bytes.len()].copy_from_slice(bytes);
    }

    fn find(&self, place: LogPlace) -> Found {
        let noted = Noted::decode(&self.noted.encode());
        let found = all_unrecorded(9, [&self.files[0], &self.files[1]], place, noted)?;
        Ok(found.into_iter().map(|claim| claim.changes).collect())
    }

    /// How often the program can be killed while it says that.
    fn killed_at_each_page(&self, said: &Said, place: LogPlace, (before, after): (&Found, &Found)) -> u32 {
        let start = usize::try_from(said.offset).unwrap();
        let mut cuts = 0;
        for page in (start + 1..start + said.bytes.len()).filter(|at| at % 4096 == 0) {
            let mut cut = self.clone();
            cut.put(said, page - start);
            let is_whole = page - start >= said.group().len();
            assert_eq!(cut.find(place), *if is_whole { after } else { before });
            cuts += 1;
        }
        cuts
    }

    /// Whatever is emptied or cut off, or comes out as zeroes from some place on, is missed, if anything of it counts. How often.
    fn damaged(&self, below: &mut impl FnMut(u64) -> u64, place: LogPlace, found: &Found) -> u32 {
        let mut missed = 0;
        for (which, is_zeroed) in [(0, false), (1, false), (0, true), (1, true)] {
            let mut bad = self.clone();
            let file = &mut bad.files[which];
            let cut = match below(3) {
                0 => 0,
                1 => below(count(file.len()) + 1),
                _ => below(count(file.len()) / 4096 + 1) * 4096,
            };
            let cut = usize::try_from(cut).unwrap();
            if is_zeroed {
                file[cut..].fill(0)
            } else {
                file.truncate(cut)
            }
            let now = bad.find(place);
            assert!(now.is_err() || now == *found, "{which} at {cut}, {is_zeroed}");
            missed += u32::from(now.is_err());
        }
        missed
    }
}

/// Where a file was begun anew, what it held before lies behind.
#[test]
fn whoever_is_killed_while_it_says_something_is_not_taken_for_damaged_and_whatever_is_missing_is_missed() {
    let mut random = 7_u64;
    let mut below = |n: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % n
    };
    let (mut cuts, mut missed) = (0, 0);
    for round in 0..90 {
        let (mut place, mut told) = (LogPlace { generation: 0, group: 3 }, Vec::new());
        let mut recent = Recent::new(9, place);
        let (mut files, mut said_at) = (Files::new(&recent), place);
        for step in 0..14 {
            let many = if step == 0 { 0 } else { [1 + below(4), 1 + below(300)][usize::from(below(2) == 0)] };
            // Some end where a page does, with or without their mark.
            let to_page = (4096 * 5 - recent.len() % 4096 - 60 + [0, 20][usize::from(below(2) == 0)]) / 25;
            let many = if round % 3 == 0 && many > 0 { to_page } else { many };
            let from = |n: u64| FromImage { extent: blocks(n, 1), at: below(99) * BLOCK_SIZE };
            let changes: Vec<Change> = match round % 2 {
                0 => (0..many).map(|n| Change::Zero(blocks(n * 3, 1))).collect(),
                _ => (0..many).map(from).map(Change::Image).collect(),
            };
            let said = recent.say(&changes);
            let left = |told: &[(LogPlace, Vec<Change>)], place| -> Found {
                Ok(told.iter().filter(|(at, _)| *at >= place).map(|(_, changes)| changes.clone()).collect())
            };
            let before = left(&told, place);
            if !changes.is_empty() {
                told.push((said_at, changes));
            }
            let after = left(&told, place);
            cuts += files.killed_at_each_page(&said, place, (&before, &after));
            files.put(&said, usize::MAX);
            // It may be killed before it is noted.
            assert_eq!(files.find(place), after);
            recent.said(&said);
            if said.is_noted() {
                files.noted = recent.noted();
            }
            assert_eq!(files.find(place), after);
            missed += files.damaged(&mut below, place, &after);
            // A flush begins, or ends, well or not.
            match below(3) {
                0 => {
                    said_at = LogPlace { generation: place.generation, group: said_at.group + 1 };
                    if recent.turn(said_at) {
                        files.put(&recent.ended(), usize::MAX);
                        assert_eq!(files.find(place), after, "it may be killed before that is noted");
                        files.noted = recent.noted();
                    }
                    assert_eq!(files.find(place), after);
                }
                1 if said_at > place => {
                    place = said_at;
                    recent.recorded();
                }
                _ => {}
            }
        }
    }
    assert!(cuts > 200 && missed > 400, "{cuts}, {missed}");
}

/// Not even where it looks as if the program had been killed while it was written.
#[test]
fn a_flipped_bit_in_what_was_said_last_is_seen() {
    for many in [1, 100, 200, 400] {
        let mut recent = Recent::new(9, LogPlace::default());
        let mut files = Files::new(&recent);
        for n in 0..3 {
            let zero = |at: u64| Change::Zero(blocks(at * 2, 1 + n));
            let said = recent.say(&(0..many).map(zero).collect::<Vec<_>>());
            files.put(&said, usize::MAX);
            recent.said(&said);
            files.noted = if said.is_noted() { recent.noted() } else { files.noted };
        }
        let place = LogPlace::default();
        let end = usize::try_from(recent.len()).unwrap() + noted::MARK;
        for at in (0..end).filter(|at| many == 1 || at % 31 == 0 || at + 50 > end) {
            for bit in [1, 32] {
                files.files[0][at] ^= bit;
                assert_eq!(files.find(place), Err(RecentError), "{many}, byte {at}");
                files.files[0][at] ^= bit;
            }
        }
        assert_eq!(files.find(place).map(|found| found.len()), Ok(3));
    }
}

/// Where a page ends with a group, a program that is killed leaves no mark, and a page that is lost takes the mark with it.
#[test]
fn a_group_that_ends_with_its_page_is_the_last_one_only_if_no_more_was_noted() {
    let place = LogPlace::default();
    let mut recent = Recent::new(9, place);
    let mut files = Files::new(&recent);
    let zeroes = |many: u64| (0..many).map(|n| Change::Zero(blocks(n * 2, 1))).collect::<Vec<_>>();
    for (many, counts) in [(400, 1), (416, 2), (1, 3)] {
        let said = recent.say(&zeroes(many));
        files.killed_at_each_page(
            &said,
            place,
            (&files.find(place), &Ok((0..counts).map(|n| zeroes([400, 416, 1][n])).collect())),
        );
        files.put(&said, usize::MAX);
        recent.said(&said);
        files.noted = if said.is_noted() { recent.noted() } else { files.noted };
        if counts == 2 {
            assert_eq!(recent.len(), 5 * 4096);
        }
    }
    assert_eq!(files.find(place).map(|found| found.len()), Ok(3));
    files.files[0][5 * 4096..].fill(0);
    assert_eq!(files.find(place), Err(RecentError));
}

/// Programs before marks noted how many groups there were.
#[test]
fn what_earlier_programs_noted_is_understood() {
    let said = |said: u64, recorded: u64| [said.to_le_bytes(), recorded.to_le_bytes()].concat();
    let mut recent = Recent::new(9, LogPlace::default());
    let mut file = Vec::new();
    for n in 0..3 {
        let said = recent.say(&[Change::Zero(blocks(n, 1))]);
        file.extend(said.group());
        recent.said(&said);
    }
    let find = |noted: &[u8]| {
        all_unrecorded(9, [&file, &[]], LogPlace::default(), Noted::decode(noted)).map(|claims| claims.len())
    };
    assert_eq!((find(&said(3, 0)), find(&said(2, 0)), find(&[])), (Ok(3), Ok(3), Ok(3)));
    assert_eq!(
        (find(&said(4, 0)), find(&said(4, 4))),
        (Err(RecentError), Ok(3)),
        "one is missing, and is recorded"
    );
    let begun = Recent::new(9, LogPlace { generation: 1, group: 2 }).noted();
    assert_eq!(hex(&begun.encode()), NOTED_GOLDEN);
    assert_eq!(Noted::decode(&begun.encode()), Some(Noted::Begun(begun)));
}

#[test]
fn what_was_said_and_taken_back_is_not_sure() {
    let mut recent = Recent::new(9, LogPlace::default());
    let mut file = Vec::new();
    for n in 0..4 {
        let said = if n == 2 { recent.take_back() } else { recent.say(&[Change::Zero(blocks(n, 1))]) };
        file.extend(said.group());
        recent.said(&said);
    }
    let sure = |claims: Vec<Claims>| claims.into_iter().map(|claim| claim.is_sure).collect::<Vec<_>>();
    let found = all_unrecorded(9, [&file, &[]], LogPlace::default(), None).unwrap();
    assert_eq!(sure(found), [true, false, false], "neither the one that failed nor the last");
    assert_eq!(unrecorded(9, [&file, &[]], LogPlace::default()).len(), 3);
}

#[test]
fn what_was_said_between_flushes_is_read_back_from_where_it_was_written() {
    let mut recent = Recent::new(9, LogPlace { generation: 1, group: 2 });
    let slot = Change::Slot { block: block(3), slot: SlotNo(4), sum: ContentSum { sum: 5, of: block(3) } };
    let first = recent.say(&[slot, Change::Zero(blocks(6, 1))]);
    assert_eq!((first.second, first.offset), (false, 0));
    assert_eq!(hex(first.group()), GOLDEN, "written by earlier programs");
    assert_eq!(hex(&first.bytes[first.group().len()..]), MARK_GOLDEN);
    recent.said(&first);
    recent.turn(LogPlace { generation: 1, group: 3 });
    let second = recent.say(&[Change::Zero(blocks(7, 1))]);
    assert_eq!((second.second, second.offset), (true, 0), "the flush may fail");
    recent.said(&second);
    recent.turn(LogPlace { generation: 2, group: 1 });
    let third = recent.say(&[Change::Zero(blocks(8, 1))]);
    assert_eq!((third.second, third.offset), (true, count(second.group().len())), "it did");
    let files = [&first.bytes[..], &[second.group(), &third.bytes].concat()];
    let found = |group| unrecorded(9, files, LogPlace { generation: 1, group }).len();
    assert_eq!((found(2), found(3), found(4)), (4, 2, 1));
    assert!(unrecorded(8, files, LogPlace::default()).is_empty(), "of another image");
    for cut in 0..first.group().len() {
        assert!(unrecorded(9, [&first.bytes[..cut], &[]], LogPlace::default()).is_empty());
    }
}

/// Copies `n` blocks.
fn copy(overlay: &mut Overlay, from: u64, n: u64, to: u64) -> Vec<Change> {
    let changes = overlay.copied(blocks(from, n), block(to));
    overlay.show(&changes);
    changes
}

#[test]
fn what_is_shared_is_written_elsewhere_by_either_and_is_free_when_both_have_gone() {
    let mut overlay = Overlay::new(4 * BLOCK_SIZE);
    let slot = write(&mut overlay, 1, b"a");
    let sum = ContentSum::of(block(1), b"a");
    copy(&mut overlay, 1, 1, 8);
    assert_eq!(overlay.content(block(8)), Content::Slot(slot, sum));
    assert_eq!((overlay.used(), overlay.laid_out()), (BLOCK_SIZE, 2 * BLOCK_SIZE));
    assert!(overlay.admit(blocks(20, 3)).is_ok() && overlay.admit(blocks(20, 4)).is_err());
    let loans = lent(&mut overlay, &[block(1), block(8)]);
    assert!(loans.iter().all(|loan| loan.slot() != slot && !loan.is_in_place()));
    assert!(overlay.admit(blocks(20, 2)).is_err(), "two more are lent");
    overlay.unused(&loans);
    assert_ne!(write(&mut overlay, 1, b"b"), slot);
    assert_eq!(overlay.content(block(8)), Content::Slot(slot, sum), "the other one has it still");
    assert_eq!(overlay.used(), 2 * BLOCK_SIZE);
    flush(&mut overlay);
    overlay.zero(blocks(8, 1));
    assert_ne!(write(&mut overlay, 2, b"c"), slot, "a crash may bring it back");
    flush(&mut overlay);
    assert_eq!(write(&mut overlay, 3, b"d"), slot, "now nobody has it");
    overlay = Overlay::restore(4 * BLOCK_SIZE, overlay.seal_all());
    copy(&mut overlay, 1, 3, 2);
    assert_eq!(overlay.used(), 3 * BLOCK_SIZE, "none of the three is gone: each stands one further on");
}

#[test]
fn what_is_copied_from_the_image_and_back_is_as_it_was() {
    let mut overlay = Overlay::new(1 << 20);
    copy(&mut overlay, 0, 4, 10);
    copy(&mut overlay, 12, 2, 30);
    assert_eq!(overlay.content(block(31)), Content::Image(block(3)));
    write(&mut overlay, 3, b"a");
    let recorded = flush(&mut overlay);
    copy(&mut overlay, 31, 1, 3);
    assert_eq!(overlay.content(block(3)), Content::Image(block(3)));
    let back = flush(&mut overlay);
    let own = FromImage { extent: blocks(3, 1), at: 3 * BLOCK_SIZE };
    assert_eq!(back, [Change::Image(own)], "the log has to know");
    let again = Overlay::restore(1 << 20, recorded.into_iter().chain(back));
    assert!(again.is_untouched(blocks(0, 10)));
    assert_eq!((again.used(), again.laid_out()), (0, 6 * BLOCK_SIZE));
    assert_eq!(sorted(again.snapshot()), sorted(overlay.snapshot()));
}

#[test]
fn references_are_read_back_and_programs_before_them_find_no_log() {
    let mut overlay = Overlay::new(1 << 20);
    for n in 1..4 {
        write(&mut overlay, n, b"a");
    }
    overlay.zero(blocks(4, 2));
    let plain = flush(&mut overlay);
    copy(&mut overlay, 0, 8, 20);
    write(&mut overlay, 22, b"b");
    let references = flush(&mut overlay);
    assert!(!has_references(&plain) && has_references(&references));
    let log = encode_group(9, 0, &references);
    assert_eq!(log.len(), group_len(&references));
    // A run of the image at either end, zeroes, a slot of its own, and two shared ones, each with a row that says whose.
    assert_eq!(u32::from_le_bytes(log[12..16].try_into().unwrap()), 8);
    assert_eq!(hex(&log), REFERENCES, "written by earlier programs");
    let found = scan(9, &log).unwrap();
    assert_eq!((&found.changes, found.has_references), (&references, true));
    let both = [encode_group(9, 0, &plain), encode_group(9, 1, &references)].concat();
    assert!(!scan(9, &both).unwrap().has_references, "it does not begin with them");
    assert!(!log.starts_with(b"CGO1") && encode_group(9, 0, &plain).starts_with(b"CGO1"));
    let said = Recent::new(9, LogPlace::default()).say(&references);
    assert_eq!(unrecorded(9, [&said.bytes, &[]], LogPlace::default()), references);
    let mut torn = both.clone();
    torn[20] ^= 1;
    assert_eq!(scan(9, &torn), Err(LogError { at: 0 }), "what stands behind the damage is seen");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Never changed.
const REFERENCES: &str = concat!(
    "43474f3200000000000000000800000002008001000000000000200000000000000000000000000000031400",
    "00000000000000000000000000000100000000000000031a0000000000000006000000000000000200000000",
    "0000000415000000000000000100000000000000010000000000000001150000000000000000000000000000",
    "0020a7376f99d0f6d20116000000000000000300000000000000c44ca6cccd169dbb04170000000000000003",
    "00000000000000010000000000000001170000000000000002000000000000009c1bd918e81f98a503b09df6",
    "2a3036dc",
);

/// Never changed.
const MARK_GOLDEN: &str = "434752450100000000000000917f6cd4b1e41424";

/// Never changed.
const NOTED_GOLDEN: &str = "000000000000000000010000000000000002000000000000000000000000000000";

/// Never changed.
const GOLDEN: &str = concat!(
    "4347523100000000000000000100000000000000020000000000000002000000010300000000000000040000",
    "0000000000050000000000000002006000000000000000100000000000000000000000000000c2158713f79d",
    "e460",
);
