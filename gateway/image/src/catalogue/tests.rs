//! Which points are sound: every kind of sync, and what a catalogue keeps.

use super::*;
use crate::gate::Batch;
use gateway_journal::{GateMove, GateStep, Hold, RetentionPolicy};
use tap_block::{BarrierMark, Bookmark, Consistency, MarkId, Position, SyncCause};

const STREAM: StreamId = StreamId::new(7);
const VOLUME: VolumeId = VolumeId::new(9);

fn lsn(n: u64) -> Lsn {
    Lsn::new(n).unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Feeds one stream's markers with LSNs at will.
#[derive(Default)]
struct Tape {
    catalogue: Catalogue,
    run: u64,
    last: Option<Passed>,
}

impl Tape {
    fn at(&mut self, at: u64, action: Action) -> &mut Self {
        let entry = Entry {
            position: Position::record(lsn(at)),
            captured_at: WallTime::from_nanos(at * 1000),
            action,
        };
        let origin = Origin {
            stream: STREAM,
            run: RunId::new(self.run),
            epoch: Epoch::new(1),
            previous: self.last,
            received_at: entry.captured_at,
        };
        self.catalogue.apply(&origin, &entry);
        self.last = Some(Passed { lsn: lsn(at), at: entry.captured_at });
        self
    }

    fn mark(&mut self, at: u64, marker: Marker) -> &mut Self {
        self.at(at, Action::Mark(Box::new(marker)))
    }

    fn run(&mut self, at: u64, sync: Option<SyncCause>) -> &mut Self {
        self.run += 1;
        let start = RunStart {
            previous: None,
            durable: Lsn::ZERO,
            volume: VOLUME,
            name: name("web01"),
            size: 1 << 20,
            sync,
        };
        self.mark(at, Marker::RunStart(start))
    }

    fn end(&mut self, at: u64, cause: SyncCause, from_zero: bool) -> &mut Self {
        self.mark(at, Marker::SyncEnd { cause, copied: at, from_zero })
    }

    fn write(&mut self, at: u64) -> &mut Self {
        let extent = tap_block::Extent::between(0, 4096);
        self.at(at, Action::Write { volume: VOLUME, extent })
    }

    fn volume(&self) -> &Volume {
        self.catalogue.volume(VOLUME).unwrap()
    }

    fn selectable(&self, points: std::ops::RangeInclusive<u64>) -> Vec<u64> {
        points.filter(|&n| self.volume().selectable(lsn(n)).is_ok()).collect()
    }
}

#[test]
fn nothing_is_selectable_before_the_baseline_ends() {
    let mut tape = Tape::default();
    tape.run(1, Some(SyncCause::Baseline)).write(2);
    assert_eq!(tape.selectable(0..=9), [] as [u64; 0]);
    let refused = tape.volume().selectable(lsn(2)).unwrap_err();
    assert_eq!((refused.nearest_before, refused.nearest_after), (None, None));
    tape.end(5, SyncCause::Baseline, false);
    assert_eq!(tape.selectable(0..=7), [5, 6, 7]);
    assert_eq!(tape.volume().selectable(lsn(2)).unwrap_err().nearest_after, Some(lsn(5)));
    assert_eq!(tape.volume().baseline_count(), 1);
    assert_eq!(tape.volume().gaps().count(), 0);
}

#[test]
fn a_disk_of_zeroes_is_selectable_from_its_beginning() {
    let mut tape = Tape::default();
    tape.run(1, Some(SyncCause::Baseline)).write(2).end(3, SyncCause::Baseline, true);
    assert_eq!(tape.selectable(0..=4), [0, 1, 2, 3, 4]);
}

#[test]
fn a_baseline_that_lost_records_is_sound_only_at_its_end() {
    let mut tape = Tape::default();
    tape.run(1, Some(SyncCause::Baseline)).write(2);
    tape.run(100, Some(SyncCause::Baseline)).end(101, SyncCause::Baseline, true);
    assert_eq!(tape.selectable(0..=102), [101, 102]);
    assert_eq!(tape.volume().baseline_count(), 1, "the same baseline, resumed");
}

#[test]
fn a_baseline_resumed_without_a_loss_keeps_its_beginning() {
    let mut tape = Tape::default();
    tape.run(1, Some(SyncCause::Baseline)).write(2);
    tape.run(3, Some(SyncCause::Baseline)).end(4, SyncCause::Baseline, true);
    assert_eq!(tape.selectable(0..=5), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_baseline_that_goes_on_after_its_end_is_a_gap_and_no_second_baseline() {
    let mut tape = Tape::default();
    tape.run(1, Some(SyncCause::Baseline)).end(2, SyncCause::Baseline, true).write(3);
    tape.run(10, Some(SyncCause::Baseline)).run(20, Some(SyncCause::Baseline)).write(21);
    assert_eq!(tape.volume().open_sync().unwrap().cause, SyncCause::UncleanStop);
    tape.end(22, SyncCause::Baseline, true);
    assert_eq!(tape.volume().baseline_count(), 1);
    assert_eq!(tape.selectable(0..=23), [0, 1, 2, 3, 22, 23]);
    let gaps: Vec<_> = tape.volume().gaps().collect();
    assert_eq!((gaps.len(), gaps[0].from.unwrap().lsn, gaps[0].bytes), (1, lsn(3), 22));
}

#[test]
fn an_unclean_stop_is_a_gap_from_the_last_record_received() {
    let mut tape = Tape::default();
    tape.run(1, Some(SyncCause::Baseline)).end(2, SyncCause::Baseline, true).write(3);
    tape.run(10, Some(SyncCause::UncleanStop)).write(11).end(12, SyncCause::UncleanStop, false);
    assert_eq!(tape.selectable(0..=13), [0, 1, 2, 3, 12, 13]);
    let refused = tape.volume().selectable(lsn(10)).unwrap_err();
    assert_eq!((refused.nearest_before, refused.nearest_after), (Some(lsn(3)), Some(lsn(12))));
    let gap = tape.volume().gaps().next().unwrap();
    assert_eq!((gap.from.unwrap().lsn, gap.to.unwrap().lsn, gap.bytes), (lsn(3), lsn(12), 12));
    assert_eq!(tape.volume().resynced_bytes(), 12);
}

#[test]
fn history_is_sound_across_a_jump_without_a_sync() {
    let mut tape = Tape::default();
    tape.run(1, None).write(2).run(10, None).write(11);
    assert_eq!(tape.selectable(0..=11).len(), 12);
}

#[test]
fn a_sync_within_a_run_starts_behind_the_record_before_it() {
    let mut tape = Tape::default();
    tape.run(1, None).write(2).mark(3, Marker::SyncStart { cause: SyncCause::Overflow });
    assert_eq!(tape.selectable(0..=9), [0, 1, 2]);
    assert_eq!(tape.volume().open_sync().unwrap().cause, SyncCause::Overflow);
    tape.run(50, Some(SyncCause::UncleanStop)).end(60, SyncCause::UncleanStop, false);
    assert!(tape.volume().open_sync().is_none(), "the later run's sync covers what was left");
    assert_eq!(tape.selectable(0..=61), [0, 1, 2, 60, 61]);
    let refused = tape.volume().selectable(lsn(55)).unwrap_err();
    assert_eq!((refused.nearest_before, refused.nearest_after), (Some(lsn(2)), Some(lsn(60))));
    assert_eq!(tape.volume().gaps().count(), 2);
}

#[test]
fn the_end_of_another_sync_ends_nothing() {
    let mut tape = Tape::default();
    tape.run(1, Some(SyncCause::Baseline)).write(2);
    tape.mark(3, Marker::SyncStart { cause: SyncCause::Overflow });
    tape.end(4, SyncCause::Overflow, false);
    assert_eq!(tape.volume().open_sync().unwrap().cause, SyncCause::Baseline);
    tape.end(5, SyncCause::Baseline, true);
    assert_eq!(tape.selectable(0..=5), [0, 1, 2, 4, 5], "the overflow stays a gap in a sound baseline");
}

#[test]
fn a_bookmark_is_the_first_of_its_name_until_that_is_forgotten_and_sizes_stay_where_they_were() {
    let mut tape = Tape::default();
    let mark = |consistency| {
        Marker::Bookmark(Bookmark { name: name("gold"), consistency, note: "by hand".to_owned() })
    };
    tape.run(5, None).mark(6, mark(Consistency::FileSystem));
    tape.at(7, Action::Resize { volume: VOLUME, size: 2 << 20 }).mark(8, mark(Consistency::Crash));
    assert_eq!(tape.volume().bookmark_named(&name("gold")).unwrap().at.lsn, lsn(6));
    tape.catalogue.forget_bookmark(VOLUME, &name("gold"));
    tape.mark(9, mark(Consistency::Crash));
    let bookmark = tape.volume().bookmark_named(&name("gold")).unwrap();
    assert_eq!((bookmark.at.lsn, bookmark.consistency), (lsn(9), Consistency::Crash));
    assert_eq!(tape.volume().bookmarks().count(), 1);
    assert_eq!(tape.volume().size_at(lsn(0)), 1 << 20);
    assert_eq!(tape.volume().size_at(lsn(6)), 1 << 20);
    assert_eq!(tape.volume().size(), 2 << 20);
}

/// A program that does not know the field reads the rest of it.
#[test]
fn bookmarks_whose_points_are_gone_are_forgotten_but_for_where_the_last_of_them_stood() {
    let mut tape = Tape::default();
    let mark =
        |name| Marker::Bookmark(Bookmark { name, consistency: Consistency::Crash, note: String::new() });
    tape.run(5, None).mark(6, mark(name("gold"))).mark(7, mark(name("tin"))).mark(8, mark(name("lead")));
    // One has been given anew since that was found.
    let gone = [(lsn(6), name("gold")), (lsn(7), name("tin")), (lsn(3), name("lead"))].into();
    tape.catalogue.forget_bookmarks(VOLUME, &gone);
    let left: Vec<_> = tape.volume().bookmarks().map(|(name, at)| (name.to_string(), at.at.lsn)).collect();
    assert_eq!(left, [("lead".to_owned(), lsn(8))]);
    let stood = |tape: &Tape, of| tape.volume().gone_bookmark(&name(of)).map(|at| at.lsn.get());
    assert_eq!([stood(&tape, "gold"), stood(&tape, "tin"), stood(&tape, "lead")], [Some(6), Some(7), None]);
    let bytes = tape.catalogue.encode();
    assert_eq!(Catalogue::decode(&bytes).unwrap(), tape.catalogue);
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    if std::env::var_os("GOLDEN").is_some_and(|v| v == "write") {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/catalogue/catalogue-gone.hex");
        std::fs::write(path, format!("{hex}\n")).unwrap();
    }
    assert_eq!(hex, include_str!("catalogue-gone.hex").trim(), "that needs a new version: manifests hold it");
    tape.mark(9, mark(name("gold")));
    assert_eq!((stood(&tape, "gold"), tape.volume().bookmarks().count()), (None, 2), "it is there again");
    for n in 10..10 + 2 * MOST_GONE as u64 {
        tape.mark(n, mark(name(&format!("b{n}"))));
        tape.catalogue.forget_bookmarks(VOLUME, &[(lsn(n), name(&format!("b{n}")))].into());
    }
    assert_eq!(tape.volume().bookmarks().count(), 2);
    assert_eq!([stood(&tape, "tin"), stood(&tape, "b10")], [None, None], "the oldest are not known any more");
    assert!(stood(&tape, &format!("b{}", 9 + 2 * MOST_GONE)).is_some());
}

fn image(id: u64) -> ImageRecord {
    ImageRecord {
        id: ImageId::new(id),
        name: name("test-1"),
        volume: VOLUME,
        stream: STREAM,
        point: lsn(3),
        at: WallTime::from_nanos(3000),
        writable: true,
        quota: 1 << 30,
        created_at: WallTime::from_nanos(9000),
        parent: None,
    }
}

/// A program that does not know the field reads the rest of it.
#[test]
fn an_image_of_an_image_survives_its_bytes_in_a_catalogue() {
    let mut catalogue = Catalogue::new();
    let clone = ImageRecord { parent: Some(ImageId::new(3)), ..image(4) };
    catalogue.apply_meta(&MetaRecord::ImageCreated(clone.clone()));
    let bytes = catalogue.encode();
    assert_eq!(Catalogue::decode(&bytes).unwrap().image(ImageId::new(4)), Some(&clone));
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    if std::env::var_os("GOLDEN").is_some_and(|v| v == "write") {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/catalogue/catalogue-clone.hex");
        std::fs::write(path, format!("{hex}\n")).unwrap();
    }
    assert_eq!(
        hex,
        include_str!("catalogue-clone.hex").trim(),
        "that needs a new version: manifests hold it"
    );
}

#[test]
fn an_image_number_is_never_given_twice() {
    let mut catalogue = Catalogue::new();
    assert_eq!(catalogue.next_image(), ImageId::new(1));
    catalogue.apply_meta(&MetaRecord::ImageCreated(image(4)));
    assert_eq!(catalogue.image_named(&name("test-1")), Some(&image(4)));
    catalogue.apply_meta(&MetaRecord::ImageRemoved { id: ImageId::new(4) });
    assert_eq!(catalogue.images().count(), 0);
    assert_eq!(catalogue.next_image(), ImageId::new(5));
}

#[test]
fn a_catalogue_survives_its_bytes_and_refuses_others() {
    let mut tape = Tape::default();
    tape.run(1, Some(SyncCause::Baseline)).write(2).end(3, SyncCause::Baseline, true);
    tape.run(9, Some(SyncCause::UncleanStop));
    let mark = Bookmark { name: name("gold"), consistency: Consistency::Application, note: String::new() };
    tape.mark(10, Marker::Bookmark(mark));
    tape.catalogue.apply_meta(&MetaRecord::ImageCreated(image(4)));
    let volume = tape.catalogue.volumes().next().unwrap().id();
    for rule in rules(volume) {
        tape.catalogue.apply_meta(&rule);
    }
    let bytes = tape.catalogue.encode();
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, include_str!("catalogue-1.hex").trim(), "that needs a new version: manifests hold it");
    assert_eq!(Catalogue::decode(&bytes).unwrap(), tape.catalogue);
    assert_eq!(Catalogue::decode(&[]), Err(CatalogueError::Version(0)));
    for cut in 1..bytes.len() {
        let _ = Catalogue::decode(&bytes[..cut]);
    }
    assert!(Catalogue::decode(&[0xff; 40]).is_err());
}

fn barrier(id: u64, members: &[u64], bookmark: Option<Bookmark>) -> Marker {
    let members = members.iter().map(|&m| VolumeId::new(m)).collect();
    Marker::Barrier(BarrierMark { id: MarkId::new(id), group: name("db"), members, bookmark })
}

/// A group puts a mark into each member each second, and the thread that commits takes them in.
#[test]
fn a_mark_copies_neither_bookmarks_nor_images_nor_rules() {
    let mut tape = Tape::default();
    tape.run(1, None).mark(2, gold());
    tape.catalogue.apply_meta(&MetaRecord::ImageCreated(image(1)));
    let before = tape.catalogue.clone();
    tape.mark(3, barrier(3000, &[4, 9], None));
    let bookmarks = |catalogue: &Catalogue| catalogue.volume(VOLUME).unwrap().bookmarks.clone();
    assert!(bookmarks(&before).is_shared_with(&bookmarks(&tape.catalogue)));
    assert!(Arc::ptr_eq(&before.images, &tape.catalogue.images));
    assert!(Arc::ptr_eq(&before.rules, &tape.catalogue.rules));
    assert_eq!((bookmarks(&before).len(), before.images.len()), (1, 1));
}

#[test]
fn a_bookmark_that_is_removed_is_gone_and_one_made_since_is_not() {
    let mut tape = Tape::default();
    tape.run(1, None).mark(2, gold());
    let gone = MetaRecord::BookmarkRemoved { volume: VOLUME, point: lsn(2), name: name("gold") };
    let before = tape.catalogue.clone();
    tape.catalogue.apply_meta(&gone);
    assert_eq!(tape.volume().bookmarks().count(), 0);
    assert_eq!(before.volume(VOLUME).unwrap().bookmarks().count(), 1, "who holds a copy sees what was");
    assert_eq!(Catalogue::decode(&tape.catalogue.encode()).unwrap(), tape.catalogue);
    tape.mark(5, gold()).catalogue.apply_meta(&gone);
    assert_eq!(tape.volume().bookmark_named(&name("gold")).unwrap().at.lsn, lsn(5));
}

fn gold() -> Marker {
    let consistency = Consistency::Crash;
    Marker::Bookmark(Bookmark { name: name("gold"), consistency, note: String::new() })
}

#[test]
fn barrier_marks_survive_their_bytes() {
    let mut tape = Tape::default();
    tape.run(1, None);
    tape.mark(5, barrier(5000, &[4, 9], None)).write(6).mark(7, barrier(7000, &[4, 9], None));
    let gold = Bookmark { name: name("gold"), consistency: Consistency::Crash, note: String::new() };
    tape.mark(8, barrier(8123, &[4, 9, 11], Some(gold)));
    let bytes = tape.catalogue.encode();
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    if std::env::var_os("GOLDEN").is_some_and(|v| v == "write") {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/catalogue/catalogue-marks.hex");
        std::fs::write(path, format!("{hex}\n")).unwrap();
    }
    assert_eq!(
        hex,
        include_str!("catalogue-marks.hex").trim(),
        "that needs a new version: manifests hold it"
    );
    let back = Catalogue::decode(&bytes).unwrap();
    assert_eq!(back, tape.catalogue);
    let volume = back.volume(VOLUME).unwrap();
    let marks: Vec<_> =
        volume.marks().iter().map(|m| (m.id.get(), m.at.lsn.get(), m.received_at.nanos())).collect();
    assert_eq!(marks, [(5000, 5, 5000), (7000, 7, 7000), (8123, 8, 8000)]);
    assert_eq!(volume.marks().membership_at(lsn(7)).unwrap().members.len(), 2);
    assert_eq!(volume.bookmark_named(&name("gold")).unwrap().at.lsn, lsn(8));
    for cut in 1..bytes.len() {
        let _ = Catalogue::decode(&bytes[..cut]);
    }
}

/// Rows as a store keeps them, by key.
type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Makes rows of `before` those of `now`, and reads the catalogue back from them; how many changed.
fn kept_as_rows(rows: &mut Rows, before: &Catalogue, now: &Catalogue) -> usize {
    let changes = now.rows_since(before);
    for change in &changes {
        let was = match &change.now {
            Some(value) => rows.insert(change.key.clone(), value.clone()),
            None => rows.remove(&change.key),
        };
        assert_eq!(was, change.before);
        assert_ne!(change.now, change.before);
    }
    let mut back = Catalogue::decode(&now.encode_beside_rows()).unwrap();
    rows.iter().for_each(|(key, value)| back.take_row(key, value, &Catalogue::new()).unwrap());
    assert_eq!(back, *now);
    assert_eq!(now.rows_since(&back), [], "they lie in the same rows");
    changes.len()
}

#[test]
fn names_are_kept_as_rows_of_which_only_those_that_changed_are_written() {
    let (mut tape, mut rows) = (Tape::default(), Rows::new());
    tape.run(1, None);
    let named = |text: &str| Bookmark { name: name(text), consistency: Consistency::Crash, note: "n".into() };
    for n in 2..3000 {
        match n % 3 {
            0 => tape.mark(n, Marker::Bookmark(named(&format!("night-{n}")))),
            _ => tape.mark(n, barrier(n * 1000, &[4, 9], None)),
        };
    }
    let mut before = Catalogue::new();
    let mut check = |tape: &Tape, changes: usize| {
        assert_eq!(kept_as_rows(&mut rows, &before, &tape.catalogue), changes);
        before = tape.catalogue.clone();
    };
    let all = 999 + 1999usize.div_ceil(512);
    check(&tape, all);
    check(&tape, 0);
    tape.mark(3000, Marker::SyncStart { cause: SyncCause::Overflow });
    check(&tape, 0);
    tape.mark(3001, Marker::Bookmark(named("one-more")));
    check(&tape, 1);
    tape.mark(3002, barrier(3_002_000, &[4, 9], None));
    check(&tape, 1);
    tape.catalogue.forget_bookmark(VOLUME, &name("night-300"));
    check(&tape, 1);
    let gone = |from: u64, to: u64| (from..to).map(lsn).collect::<BTreeSet<_>>();
    tape.catalogue.forget_marks(VOLUME, &gone(100, 120));
    check(&tape, 1);
    tape.catalogue.forget_marks(VOLUME, &gone(1, 2));
    check(&tape, 0);
    // The first of its chunk: that has another key then.
    tape.catalogue.forget_marks(VOLUME, &gone(2, 3));
    check(&tape, 2);
    // What it was called before a run named it.
    tape.catalogue.rename(VOLUME, VolumeId::new(77));
    check(&tape, 2 * all);
    check(&Tape::default(), all);
    assert!(rows.is_empty());
}

#[test]
fn rows_have_the_bytes_that_they_always_had_and_others_are_refused() {
    let mut tape = Tape::default();
    tape.run(1, None).mark(5, barrier(5000, &[4, 9], None)).mark(7, barrier(7000, &[4, 9], None));
    let gold = Bookmark { name: name("gold"), consistency: Consistency::FileSystem, note: "month".into() };
    tape.mark(8, barrier(8123, &[4, 9], Some(gold)));
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let rows = tape.catalogue.rows_since(&Catalogue::new());
    let line = |row: &RowChange| format!("{} {}\n", hex(&row.key), hex(row.now.as_ref().unwrap()));
    let text = format!("{}\n", hex(&tape.catalogue.encode_beside_rows()));
    let text = text + &rows.iter().map(line).collect::<String>();
    if std::env::var_os("GOLDEN").is_some_and(|v| v == "write") {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/catalogue/catalogue-rows.hex");
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(text, include_str!("catalogue-rows.hex"), "that needs another version: an index holds it");
    let beside = || Catalogue::decode(&tape.catalogue.encode_beside_rows()).unwrap();
    for row in &rows {
        let value = row.now.as_ref().unwrap();
        beside().take_row(&row.key, value, &Catalogue::new()).unwrap();
        assert!(Catalogue::new().take_row(&row.key, value, &Catalogue::new()).is_err(), "of no volume");
        let mut twice = beside();
        twice.take_row(&row.key, value, &Catalogue::new()).unwrap();
        let is_list = row.key[0] == 2;
        assert_eq!(twice.take_row(&row.key, value, &Catalogue::new()).is_err(), is_list);
        for (cut, at) in (0..row.key.len()).map(|cut| (cut, &row.key[..cut])) {
            // A name that is cut off is a name.
            assert!(
                beside().take_row(at, value, &Catalogue::new()).is_err() || (!is_list && cut > 9),
                "{cut}"
            );
        }
        assert!(beside().take_row(&[&[3], &row.key[1..]].concat(), value, &Catalogue::new()).is_err());
        (0..value.len()).for_each(|cut| drop(beside().take_row(&row.key, &value[..cut], &Catalogue::new())));
    }
}

/// The clock shows 30 and was set back from 90; then it was set ahead.
#[test]
fn clocks_that_were_set_survive_their_bytes_and_part_the_times() {
    let mut tape = Tape::default();
    let set = |before| Marker::ClockSet { before: WallTime::from_nanos(before) };
    let take = |tape: &mut Tape, n, at: u64, marker| {
        let (run, epoch, received_at) = (RunId::new(1), Epoch::new(1), WallTime::from_nanos(n));
        let origin = Origin { stream: STREAM, run, epoch, previous: None, received_at };
        let (action, captured_at) = (Action::Mark(Box::new(marker)), WallTime::from_nanos(at));
        tape.catalogue.apply(&origin, &Entry { position: Position::record(lsn(n)), captured_at, action });
    };
    let start = RunStart {
        previous: None,
        durable: Lsn::ZERO,
        volume: VOLUME,
        name: name("web01"),
        size: 1 << 20,
        sync: None,
    };
    take(&mut tape, 1, 10, Marker::RunStart(start));
    take(&mut tape, 60, 30, set(90));
    take(&mut tape, 70, 500, set(40));
    let bytes = tape.catalogue.encode();
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    if std::env::var_os("GOLDEN").is_some_and(|v| v == "write") {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/catalogue/catalogue-clocks.hex");
        std::fs::write(path, format!("{hex}\n")).unwrap();
    }
    let pinned = include_str!("catalogue-clocks.hex").trim();
    assert_eq!(hex, pinned, "that needs a new version: manifests hold it");
    let back = Catalogue::decode(&bytes).unwrap();
    assert_eq!(back, tape.catalogue);
    let volume = back.volume(VOLUME).unwrap();
    let told: Vec<_> =
        volume.clocks().iter().map(|c| (c.first.lsn.get(), c.first.at.nanos(), c.before.nanos())).collect();
    assert_eq!(told, [(60, 30, 90), (70, 500, 40)]);
    let among = |at| volume.clock_at(WallTime::from_nanos(at)).map(|(a, b)| (a.get(), b.get()));
    assert_eq!(among(29), Some((1, 59)), "before it was set back");
    assert_eq!(among(30), Some((60, 69)));
    assert_eq!(among(499), Some((60, 69)));
    assert_eq!(among(500), Some((70, Lsn::ZERO.plus(Lsn::LIMIT).get())));
    assert_eq!(volume.clock_at(WallTime::EPOCH), None);
    for cut in 1..bytes.len() {
        let _ = Catalogue::decode(&bytes[..cut]);
    }
    (0..MOST_CLOCKS as u64 + 3).for_each(|n| take(&mut tape, 100 + n, n, set(7)));
    assert_eq!(tape.catalogue.volume(VOLUME).unwrap().clocks().len(), MOST_CLOCKS);
}

fn rules(volume: VolumeId) -> Vec<MetaRecord> {
    let at = WallTime::from_nanos;
    let hold = Hold {
        volume,
        from: at(5),
        to: at(9),
        until: at(100),
        credited: Duration::ZERO,
        note: "audit".into(),
    };
    vec![
        MetaRecord::PolicySet { volume: None, policy: Some(RetentionPolicy::default()) },
        MetaRecord::PolicySet {
            volume: Some(volume),
            policy: Some(RetentionPolicy { tiers: Vec::new(), ..RetentionPolicy::default() }),
        },
        MetaRecord::Pinned { volume, point: lsn(7), note: "quarter".into() },
        MetaRecord::Held(hold),
    ]
}

/// Moves at two gates: one let go points and is at the next, the other is at its first.
fn gate_moves(volume: VolumeId) -> Vec<MetaRecord> {
    let moved = |keep, through, at, step| {
        let (through, at) = (WallTime::from_nanos(through), WallTime::from_nanos(at));
        let keep = std::time::Duration::from_secs(keep);
        MetaRecord::GateMoved(GateMove { volume, keep, through, at, step })
    };
    vec![
        moved(60, 10, 100, GateStep::Begun),
        moved(60, 10, 150, GateStep::Passed),
        moved(60, 20, 200, GateStep::Begun),
        moved(3600, 5, 100, GateStep::Begun),
    ]
}

#[test]
fn policies_of_one_list_count_together_for_gates_as_well() {
    let (volume, keep) = (VolumeId::new(7), std::time::Duration::from_secs(60));
    let plain = RetentionPolicy { tiers: Vec::new(), ..RetentionPolicy::default() };
    let mut gated = RetentionPolicy { every_write: std::time::Duration::ZERO, ..RetentionPolicy::default() };
    gated.tiers[0].keep = keep;
    gated.tiers[0].before_drop =
        Some(gateway_journal::Gate { hook: "archive".into(), deadline: std::time::Duration::from_secs(10) });
    let set =
        |volume, policy: &RetentionPolicy| MetaRecord::PolicySet { volume, policy: Some(policy.clone()) };
    let mut catalogue = Catalogue::new();
    catalogue.apply_meta(&set(None, &gated));
    let at = WallTime::from_nanos(9);
    let step = GateStep::Passed;
    catalogue.apply_meta(&MetaRecord::GateMoved(GateMove { volume, keep, through: at, at, step }));
    // The general policy becomes another one, and the volume's own what it went by.
    let mut together = catalogue.clone();
    together.apply_all(&[set(None, &plain), set(Some(volume), &gated)]);
    assert_eq!(together.rules().policy_of(volume), gated);
    assert_eq!(together.rules().gate(volume, keep).released, at, "its policy is what it was");
    catalogue.apply_all(&[set(None, &plain)]);
    assert_eq!(catalogue.rules().gate(volume, keep).released, WallTime::EPOCH);
}

#[test]
fn what_a_gate_let_go_and_what_it_is_at_survives_its_bytes() {
    let (volume, keep) = (VolumeId::new(7), std::time::Duration::from_secs);
    let mut catalogue = Catalogue::new();
    gate_moves(volume).iter().for_each(|record| catalogue.apply_meta(record));
    let bytes = catalogue.encode();
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    if std::env::var_os("GOLDEN").is_some_and(|v| v == "write") {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/catalogue/catalogue-gates.hex");
        std::fs::write(path, format!("{hex}\n")).unwrap();
    }
    assert_eq!(
        hex,
        include_str!("catalogue-gates.hex").trim(),
        "that needs a new version: manifests hold it"
    );
    let mut back = Catalogue::decode(&bytes).unwrap();
    assert_eq!(back, catalogue);
    let at = WallTime::from_nanos;
    let mark = back.rules().gate(volume, keep(60));
    assert_eq!((mark.released, mark.last), (at(10), Some((GateStep::Passed, at(150)))));
    assert_eq!(mark.batch, Some(Batch { through: at(20), since: at(200) }));
    assert_eq!(back.rules().gate(volume, keep(3600)).released, WallTime::EPOCH);
    assert_eq!(back.rules().gate(VolumeId::new(8), keep(60)), GateMark::default());
    // Overruled half way: the rest goes on.
    let step = GateStep::Overruled;
    let half = GateMove { volume, keep: keep(60), through: at(15), at: at(210), step };
    back.apply_meta(&MetaRecord::GateMoved(half));
    assert!(back.rules().gate(volume, keep(60)).batch.is_some());
    back.apply_meta(&MetaRecord::GateMoved(GateMove { through: at(20), step: GateStep::Passed, ..half }));
    assert_eq!(back.rules().gate(volume, keep(60)).batch, None);
}

#[test]
fn a_gate_that_was_taken_away_begins_anew_when_it_comes_back() {
    let (volume, keep) = (VolumeId::new(7), std::time::Duration::from_secs(60));
    let tier = |each, keep, hook: Option<&str>| gateway_journal::Tier {
        each: std::time::Duration::from_secs(each),
        keep: std::time::Duration::from_secs(keep),
        before_drop: hook.map(|hook| gateway_journal::Gate {
            hook: hook.into(),
            deadline: std::time::Duration::from_secs(9),
        }),
    };
    let policy = |tiers| RetentionPolicy {
        every_write: std::time::Duration::from_secs(1),
        tiers,
        ..RetentionPolicy::default()
    };
    let gated = |hook| policy(vec![tier(1, 60, Some(hook)), tier(60, 7200, None)]);
    let mut catalogue = Catalogue::new();
    let set = |catalogue: &mut Catalogue, volume, policy| {
        catalogue.apply_meta(&MetaRecord::PolicySet { volume, policy: Some(policy) });
        assert_eq!(Catalogue::decode(&catalogue.encode()).unwrap(), *catalogue);
        catalogue.rules().gate(VolumeId::new(7), std::time::Duration::from_secs(60))
    };
    set(&mut catalogue, None, gated("a"));
    gate_moves(volume)[..3].iter().for_each(|record| catalogue.apply_meta(record));
    let before = catalogue.rules().gate(volume, keep);
    assert!(before.batch.is_some() && before.released > WallTime::EPOCH);
    let same = set(&mut catalogue, None, RetentionPolicy { limit: Some(9), ..gated("a") });
    assert_eq!(same, before, "what is no matter of the gate is none");
    assert_eq!(
        set(&mut catalogue, Some(VolumeId::new(8)), policy(Vec::new())),
        before,
        "nor is another volume's"
    );
    let mut other = catalogue.clone();
    let mark = set(&mut other, None, gated("b"));
    assert_eq!((mark.batch, mark.released), (None, before.released), "another hook has time of its own");
    let mut open = catalogue.clone();
    set(&mut open, Some(volume), policy(vec![tier(1, 60, None), tier(60, 7200, None)]));
    assert_eq!(set(&mut open, Some(volume), gated("a")).batch, None, "its deadline was that of an older day");
    let mark = set(&mut catalogue, None, policy(vec![tier(1, 60, Some("a"))]));
    assert_eq!((mark.batch, mark.released), (None, WallTime::EPOCH), "it let them go to a tier that is gone");
}

#[test]
fn rules_are_in_force_until_they_are_taken_back_and_holds_until_their_date() {
    let (one, other) = (VolumeId::new(1), VolumeId::new(2));
    let mut catalogue = Catalogue::new();
    assert_eq!(catalogue.rules().policy_of(one), RetentionPolicy::default());
    rules(one).iter().for_each(|rule| catalogue.apply_meta(rule));
    assert!(catalogue.rules().policy_of(one).tiers.is_empty());
    assert_eq!(catalogue.rules().policy_of(other).tiers.len(), 2);
    assert_eq!(catalogue.rules().pinned(one).into_iter().collect::<Vec<_>>(), [lsn(7)]);
    assert!(catalogue.rules().pinned(other).is_empty());
    let held = |volume, n| catalogue.rules().holds_of(volume, WallTime::from_nanos(n)).count();
    assert_eq!((held(one, 99), held(one, 100), held(other, 99)), (1, 0, 0));
    catalogue.apply_meta(&MetaRecord::PolicySet { volume: Some(one), policy: None });
    catalogue.apply_meta(&MetaRecord::Unpinned { volume: one, point: lsn(7) });
    assert_eq!(catalogue.rules().policy_of(one).tiers.len(), 2);
    assert!(catalogue.rules().pinned(one).is_empty());
}
