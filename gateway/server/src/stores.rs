//! The stores that this gateway has had. One whose disk is not mounted leaves an empty directory, in which a new store begins:
//! protection of the head goes on, but all history seems gone. So both the gateway's own directory and the CX remember the
//! stores that were here, and as long as one of them is neither back nor said to be gone, that is told everywhere.
//!
//! No store is ever harmed by that: each has its own directory, id and ledger, and when the old one is back in its place, it is
//! the new one that is told of. What lies beside the store and is its own (what was written on its images) is put aside as long
//! as another store is in use; a file in each of these directories says whose it is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fs, io};

use cx_api::{Code, FindingKind, FindingView, OtherStoreView, Problem, StoreGone, StoresView};
use cx_wire::{KnownStore, MAX_LEDGERS};
use gateway_journal::StoreId;
use gateway_store::Store;
use serde::{Deserialize, Serialize};
use tap_block::WallTime;
use tap_disk::{SameDir, ensure_dir, set_aside, small_file};

use crate::gateway::Gateway;
use crate::http::Answer;
use crate::problems;

/// In the gateway's directory.
pub(crate) const FILE: &str = "stores.json";
/// Directories beside the store's whose content goes by the numbers of its images.
const BESIDE: [&str; 3] = ["overlays", "flats", "iscsi"];
/// In each of them: the id of the store that it belongs to.
const OWNER: &str = "STORE";
/// The store in use before, when nobody noted which that was.
const UNKNOWN: u64 = 0;
/// Who remembers what stands in it.
const OWN: &str = "the gateway's own directory";

/// See the module.
pub(crate) struct Stores {
    own: StoreId,
    path: PathBuf,
    /// The directory of the one in use.
    dir: SameDir,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Every store that somebody remembers, by its id.
    known: BTreeMap<u64, Known>,
    /// Somebody said of the second that it is gone while the first was in use.
    gone: BTreeSet<(u64, u64)>,
}

struct Known {
    by: String,
    told: WallTime,
    /// It stands in the gateway's own directory.
    here: bool,
}

#[derive(Default, Serialize, Deserialize)]
struct Written {
    /// The one in use.
    store: Option<u64>,
    /// The one that comes into use in its place: what is beside them is being exchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entering: Option<u64>,
    stores: Vec<Line>,
    gone: Vec<Gone>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    store: u64,
    last: u64,
}

#[derive(Serialize, Deserialize)]
struct Gone {
    store: u64,
    by: u64,
}

impl Stores {
    /// Reads which stores were in use with the directory `data`, and notes that `store` is from here on. What lies there and is
    /// another one's is put aside, and what is this one's comes back.
    ///
    /// # Errors
    /// When that is not possible: what has no image in the store in use would be thrown away.
    pub(crate) fn open(data: &Path, store: &Store, dir: &Path, now: WallTime) -> io::Result<Self> {
        let fresh = store.streams().is_empty();
        Self::take_up(data, store.id(), fresh, SameDir::of(dir)?, now)
    }

    fn take_up(data: &Path, own: StoreId, fresh: bool, dir: SameDir, now: WallTime) -> io::Result<Self> {
        let path = data.join(FILE);
        let mut written = read(&path);
        // Where nobody noted whose that is, it is not a new store's.
        let mut before = written.store.or(fresh.then_some(UNKNOWN));
        let cut_short = before.zip(written.entering);
        if let Some((left, entered)) = cut_short {
            exchange(data, Some(left), entered)?;
            before = Some(entered);
        }
        let other = before.filter(|before| *before != own.get());
        if let Some(other) = other {
            // Noted first: else whoever starts next takes what is there for its own.
            (written.store, written.entering) = (Some(other), Some(own.get()));
            note(&path, &written)?;
            exchange(data, Some(other), own.get())?;
        }
        // Whatever is noted: what says whose it is is not taken for anybody else's.
        let found = exchange(data, None, own.get())?;
        BESIDE.iter().for_each(|name| claim(&data.join(name), own.get()));
        let here = |line: Line| {
            let known = Known { by: OWN.to_owned(), told: WallTime::from_nanos(line.last), here: true };
            (line.store, known)
        };
        let mut state = State {
            known: written.stores.into_iter().take(MAX_LEDGERS).map(here).collect(),
            gone: written.gone.into_iter().map(|gone| (gone.by, gone.store)).collect(),
        };
        for store in found.into_iter().chain([own.get()]) {
            let told = Known { by: OWN.to_owned(), told: now, here: true };
            if store == own.get() || !state.known.contains_key(&store) {
                state.known.insert(store, told);
            }
        }
        let stores = Self { own, path, dir, state: Mutex::new(state) };
        match stores.write(&stores.lock()) {
            Err(e) if other.or(cut_short.map(|(left, _)| left)).is_some() => return Err(e),
            Err(e) => tracing::warn!("which store is here cannot be noted: {e}"),
            Ok(()) => {}
        }
        stores.alerts().iter().for_each(|alert| tracing::error!("{alert}"));
        Ok(stores)
    }

    /// `place` says which stores it knows by this gateway's name.
    pub(crate) fn hear(&self, place: &str, told: &[KnownStore]) {
        let mut state = self.lock();
        for one in told {
            if let Some(known) = state.known.get_mut(&one.store) {
                known.told = known.told.max(one.told);
                continue;
            }
            if state.known.len() > 2 * MAX_LEDGERS {
                return;
            }
            state.known.insert(one.store, Known { by: place.to_owned(), told: one.told, here: false });
            if state.is_missed(self.own, one.store) {
                tracing::error!("{}", self.alert(one.store, place, one.told));
            }
        }
    }

    /// What is to be said of stores that were here.
    pub(crate) fn alerts(&self) -> Vec<String> {
        let state = self.lock();
        let missed = state.known.iter().filter(|(store, _)| state.is_missed(self.own, **store));
        let missed = missed.map(|(store, known)| self.alert(*store, &known.by, known.told));
        self.dir.check().err().map(|e| e.to_string()).into_iter().chain(missed).collect()
    }

    fn alert(&self, store: u64, by: &str, told: WallTime) -> String {
        format!(
            "the store in use, {}, is not the only one that was here: {} was, as {by} knows (last told at {told}), and its points, \
             bookmarks and holds cannot be opened. Mount its disk and start the gateway again; this store stays as it is where it \
             lies. If the other is gone for good: `chronogate store confirm-gone {}`",
            id(self.own.get()),
            id(store),
            id(store)
        )
    }

    fn view(&self) -> StoresView {
        let state = self.lock();
        let others = state.known.iter().filter(|(store, _)| **store != self.own.get());
        let others = others.map(|(store, known)| OtherStoreView {
            store: id(*store),
            known_by: known.by.clone(),
            last: known.told,
            confirmed_gone: !state.is_missed(self.own, *store),
        });
        StoresView { store: id(self.own.get()), others: others.collect() }
    }

    /// Durably when this returns.
    fn confirm_gone(&self, wanted: &StoreGone) -> Answer<StoresView> {
        let store = parse(&wanted.store)?;
        if store == self.own.get() {
            let text = format!("the store {} is the one in use", wanted.store);
            return Err(Problem::new(Code::Conflict, text).fix("list the others: chronogate store ls"));
        }
        let mut state = self.lock();
        if !state.known.contains_key(&store) {
            let text = format!("nobody knows of a store {} here", wanted.store);
            return Err(Problem::new(Code::NotFound, text).fix("list those that were: chronogate store ls"));
        }
        let new = state.gone.insert((self.own.get(), store));
        if let Err(e) = self.write(&state) {
            if new {
                state.gone.remove(&(self.own.get(), store));
            }
            return Err(problems::of_disk(&e));
        }
        drop(state);
        tracing::warn!("somebody said that the store {} is gone", wanted.store);
        Ok(self.view())
    }

    fn write(&self, state: &State) -> io::Result<()> {
        let lines = state.known.iter().filter(|(_, known)| known.here);
        let mut stores: Vec<Line> =
            lines.map(|(store, known)| Line { store: *store, last: known.told.nanos() }).collect();
        // Of more than is sensible the newest.
        stores.sort_by_key(|line| std::cmp::Reverse(line.last));
        stores.truncate(MAX_LEDGERS);
        let gone = state.gone.iter().map(|(by, store)| Gone { store: *store, by: *by }).collect();
        note(&self.path, &Written { store: Some(self.own.get()), entering: None, stores, gone })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn note(path: &Path, written: &Written) -> io::Result<()> {
    small_file::write_atomic(path, &serde_json::to_vec(written).map_err(io::Error::other)?)
}

/// What a file says; one that is damaged says nothing.
fn read(path: &Path) -> Written {
    let bytes = small_file::read(path).map(Option::unwrap_or_default);
    let said = bytes.and_then(|bytes| match bytes.is_empty() {
        true => Ok(Written::default()),
        false => serde_json::from_slice(&bytes).map_err(io::Error::other),
    });
    said.unwrap_or_else(|e| {
        tracing::warn!("which stores were here is not known from {}: {e}", path.display());
        Written::default()
    })
}

/// Puts what is not `own`'s aside, and takes what is back. What does not say whose it is is the store `before`'s; without one it is
/// `own`'s, unless something of that waits aside. The stores whose it was, where that is said.
fn exchange(data: &Path, before: Option<u64>, own: u64) -> io::Result<BTreeSet<u64>> {
    let mut found = BTreeSet::new();
    for name in BESIDE {
        let place = data.join(name);
        let aside = |store: u64| data.join(format!("{name}-of-{}", id(store)));
        match (owner(&place), before) {
            _ if !place.exists() && before.is_none() => {}
            (Some(owner), _) if owner == own => {}
            (Some(owner), _) => {
                found.extend(put_aside(&place, &aside(owner))?.then_some(owner));
            }
            (None, Some(before)) => put_unowned_aside(&place, &aside(before), before)?,
            (None, None) if holds_something(&aside(own))? => {
                put_aside(&place, &aside(UNKNOWN))?;
            }
            (None, None) => {}
        }
        take_back(&place, &aside(own))?;
    }
    Ok(found)
}

/// A start that was cut short may have done a part of this: what is aside says how far it came.
fn put_unowned_aside(place: &Path, aside: &Path, before: u64) -> io::Result<()> {
    if !aside.exists() {
        put_aside(place, aside)?;
    }
    if before != UNKNOWN && !aside.exists() {
        fs::create_dir(aside)?;
    }
    Ok(())
}

/// Was there anything?
fn put_aside(place: &Path, aside: &Path) -> io::Result<bool> {
    if !holds_something(place)? {
        remove_empty(place)?;
        return Ok(false);
    }
    if holds_something(aside)? {
        // Nothing of it is thrown away.
        let aside = set_aside(place)?;
        tracing::error!("{} is of another store, of which there is more: {aside:?}", place.display());
        return Ok(true);
    }
    remove_empty(aside)?;
    fs::rename(place, aside)?;
    tracing::warn!("{} is of another store and waits as {}", place.display(), aside.display());
    Ok(true)
}

fn take_back(place: &Path, back: &Path) -> io::Result<()> {
    if !back.exists() || holds_something(place)? {
        return Ok(());
    }
    remove_empty(place)?;
    fs::rename(back, place)
}

/// Only what would be in the way of what comes.
fn remove_empty(dir: &Path) -> io::Result<()> {
    for removed in [fs::remove_file(dir.join(OWNER)), fs::remove_dir(dir)] {
        match removed {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// The store that a directory says it belongs to.
fn owner(dir: &Path) -> Option<u64> {
    let path = dir.join(OWNER);
    let said = small_file::read(&path).ok().flatten()?;
    let owner = std::str::from_utf8(&said).ok().and_then(|text| parse(text.trim()).ok());
    if owner.is_none() {
        tracing::warn!("{} does not say which store it belongs to: it is written anew", path.display());
    }
    owner
}

/// From here on it says that it is `own`'s. Where it cannot, that is known as long as the note is there.
fn claim(dir: &Path, own: u64) {
    let said = owner(dir) == Some(own);
    let claimed = ensure_dir(dir).and_then(|()| match said {
        true => Ok(()),
        false => small_file::write_atomic(&dir.join(OWNER), id(own).as_bytes()),
    });
    if let Err(e) = claimed {
        tracing::warn!("that {} belongs to the store in use cannot be noted: {e}", dir.display());
    }
}

fn holds_something(dir: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries?,
    };
    for entry in entries {
        if entry?.file_name() != OWNER {
            return Ok(true);
        }
    }
    Ok(false)
}

impl State {
    fn is_missed(&self, own: StoreId, store: u64) -> bool {
        store != own.get() && !self.gone.contains(&(own.get(), store))
    }
}

impl Gateway {
    pub(crate) fn stores_view(&self) -> StoresView {
        self.stores.view()
    }

    pub(crate) fn confirm_store_gone(&self, wanted: &StoreGone) -> Answer<StoresView> {
        self.stores.confirm_gone(wanted)
    }

    /// What every verification says as long as a store is missed.
    pub(crate) fn missed_stores(&self) -> Vec<FindingView> {
        let finding = |detail| FindingView {
            kind: FindingKind::Missing,
            extent: None,
            version: None,
            from_lsn: None,
            to_lsn: None,
            from: None,
            to: None,
            segment: 0,
            from_byte: 0,
            to_byte: 0,
            detail,
            found: self.started,
            over: None,
        };
        self.stores.alerts().into_iter().map(finding).collect()
    }
}

fn id(store: u64) -> String {
    format!("{store:016x}")
}

fn parse(text: &str) -> Answer<u64> {
    let plain = (1..=16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    let parsed = plain.then(|| u64::from_str_radix(text, 16).ok()).flatten();
    parsed.ok_or_else(|| {
        Problem::new(Code::Invalid, format!("{text:?} is no id of a store"))
            .because("it is 16 hex digits")
            .fix("list the stores: chronogate store ls")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: StoreId = StoreId::new(0xa);
    const NEW: StoreId = StoreId::new(0xb);

    fn at(seconds: u64) -> WallTime {
        WallTime::from_nanos(seconds * 1_000_000_000)
    }

    fn take_up(tmp: &tempfile::TempDir, store: StoreId) -> Stores {
        let dir = SameDir::of(tmp.path()).unwrap();
        Stores::take_up(tmp.path(), store, store == NEW, dir, at(9)).unwrap()
    }

    fn told(store: StoreId) -> KnownStore {
        KnownStore { store: store.get(), told: at(5) }
    }

    fn gone(stores: &Stores, store: StoreId) -> Answer<StoresView> {
        stores.confirm_gone(&StoreGone { store: id(store.get()) })
    }

    #[test]
    fn a_store_that_was_here_is_missed_until_it_is_back_or_said_to_be_gone() {
        let tmp = tempfile::tempdir().unwrap();
        let open = |store| take_up(&tmp, store);
        assert_eq!(open(OLD).alerts(), [""; 0]);
        assert_eq!(open(OLD).alerts(), [""; 0], "it is the same one");
        let stores = open(NEW);
        let alerts = stores.alerts();
        assert!(alerts.len() == 1 && alerts[0].contains("confirm-gone 000000000000000a"), "{alerts:?}");
        assert_eq!(open(NEW).alerts(), alerts, "over a restart");
        assert_eq!(gone(&stores, NEW).unwrap_err().code, Code::Conflict);
        assert_eq!(gone(&stores, StoreId::new(7)).unwrap_err().code, Code::NotFound);
        assert!(gone(&stores, OLD).unwrap().others[0].confirmed_gone);
        assert!(stores.alerts().is_empty() && open(NEW).alerts().is_empty());
        // It is back after all: what came meanwhile lies in the other one.
        let alerts = open(OLD).alerts();
        assert!(alerts.len() == 1 && alerts[0].contains("confirm-gone 000000000000000b"), "{alerts:?}");
    }

    #[test]
    fn the_cx_knows_when_the_directory_went_with_the_disk() {
        let tmp = tempfile::tempdir().unwrap();
        let stores = take_up(&tmp, NEW);
        stores.hear("cx", &[told(NEW)]);
        assert_eq!(stores.alerts(), [""; 0]);
        stores.hear("cx", &[told(OLD), told(NEW)]);
        stores.hear("cx", &[told(OLD), told(NEW)]);
        let alerts = stores.alerts();
        assert!(alerts.len() == 1 && alerts[0].contains("as cx knows (last told at 1970-"), "{alerts:?}");
        gone(&stores, OLD).unwrap();
        let stores = take_up(&tmp, NEW);
        stores.hear("cx", &[told(OLD)]);
        assert_eq!(stores.alerts(), [""; 0], "that it is gone is known over a restart");
    }

    /// Only the store's own disk is gone: what was written on its images lies beside it.
    #[test]
    fn what_is_another_stores_waits_for_it() {
        let tmp = tempfile::tempdir().unwrap();
        let written = tmp.path().join("overlays/1/DATA");
        let write = |text: &str| {
            fs::create_dir_all(written.parent().unwrap()).unwrap();
            fs::write(&written, text).unwrap();
        };
        let there = || fs::read_to_string(&written).ok();
        take_up(&tmp, OLD);
        write("old");
        take_up(&tmp, OLD);
        assert_eq!(there().as_deref(), Some("old"), "the same store's stays");
        let noted = fs::read(tmp.path().join(FILE)).unwrap();
        for _ in 0..2 {
            fs::write(tmp.path().join(FILE), &noted).unwrap();
            take_up(&tmp, NEW);
            assert_eq!(there(), None);
        }
        write("new");
        take_up(&tmp, OLD);
        assert_eq!(there().as_deref(), Some("old"));
        let noted = fs::read(tmp.path().join(FILE)).unwrap();
        take_up(&tmp, NEW);
        assert_eq!(there().as_deref(), Some("new"));
        // A crash came before that was noted.
        fs::write(tmp.path().join(FILE), noted).unwrap();
        take_up(&tmp, NEW);
        assert_eq!(there().as_deref(), Some("new"));
        // Nobody knows whose it is, and a new store has none.
        fs::remove_file(tmp.path().join(FILE)).unwrap();
        fs::remove_file(tmp.path().join("overlays").join(OWNER)).unwrap();
        take_up(&tmp, NEW);
        assert_eq!(there(), None);
        assert!(tmp.path().join("overlays-of-0000000000000000/1/DATA").exists());
    }

    /// The other store's disk is there at the next start, and then its own again.
    #[test]
    fn what_could_not_be_noted_gives_nobody_what_is_anothers() {
        let tmp = tempfile::tempdir().unwrap();
        let written = tmp.path().join("overlays/1/DATA");
        let there = || fs::read_to_string(&written).ok();
        for (store, text) in [(OLD, "old"), (NEW, "new")] {
            take_up(&tmp, store);
            fs::create_dir_all(written.parent().unwrap()).unwrap();
            fs::write(&written, text).unwrap();
        }
        let in_the_way = tmp.path().join("stores.json.tmp");
        fs::create_dir(&in_the_way).unwrap();
        let _ = Stores::take_up(tmp.path(), OLD, false, SameDir::of(tmp.path()).unwrap(), at(9));
        fs::remove_dir(&in_the_way).unwrap();
        take_up(&tmp, NEW);
        assert_eq!(there().as_deref(), Some("new"));
        // Killed behind the note that something begins, whatever was done of it.
        let noted = Written { store: Some(NEW.get()), entering: Some(OLD.get()), ..Written::default() };
        for store in [NEW, OLD] {
            take_up(&tmp, NEW);
            note(&tmp.path().join(FILE), &noted).unwrap();
            exchange(tmp.path(), Some(NEW.get()), OLD.get()).unwrap();
            take_up(&tmp, store);
            assert_eq!(there().as_deref(), Some(if store == NEW { "new" } else { "old" }));
        }
    }

    /// Whoever noted which store was in use: when the note is lost, the directories say it.
    #[test]
    fn what_is_another_stores_waits_for_it_whenever_the_note_is_lost() {
        let lost = [[false, true], [true, false], [true, true]];
        for (lost, owners) in lost.into_iter().flat_map(|lost| [(lost, true), (lost, false)]) {
            let tmp = tempfile::tempdir().unwrap();
            let write = |text: &str| {
                for name in BESIDE {
                    fs::create_dir_all(tmp.path().join(name).join("1")).unwrap();
                    fs::write(tmp.path().join(name).join("1/DATA"), text).unwrap();
                }
            };
            let there = || BESIDE.map(|name| fs::read_to_string(tmp.path().join(name).join("1/DATA")).ok());
            let of = |text: &str| BESIDE.map(|_| Some(text.to_owned()));
            let lose = |lost: bool| {
                if lost {
                    fs::remove_file(tmp.path().join(FILE)).unwrap()
                }
            };
            take_up(&tmp, OLD);
            write("old");
            // As an older gateway left them: then the note alone says it, and what waits aside.
            if !owners {
                BESIDE.iter().for_each(|name| fs::remove_file(tmp.path().join(name).join(OWNER)).unwrap());
            }
            let is_known = owners || !lost[0];
            lose(lost[0]);
            take_up(&tmp, NEW);
            assert_eq!(there(), [None, None, None], "{lost:?}");
            write("new");
            if !owners {
                BESIDE.iter().for_each(|name| fs::remove_file(tmp.path().join(name).join(OWNER)).unwrap());
            }
            if !is_known {
                continue;
            }
            lose(lost[1]);
            let stores = take_up(&tmp, OLD);
            assert_eq!(there(), of("old"), "{lost:?}, {owners}");
            if owners {
                let alerts = stores.alerts();
                assert!(
                    alerts.len() == 1 && alerts[0].contains("confirm-gone 000000000000000b"),
                    "{alerts:?}"
                );
                take_up(&tmp, NEW);
                assert_eq!(there(), of("new"), "{lost:?}");
            }
        }
    }

    #[test]
    fn what_does_not_say_whose_it_is_is_taken_up_once_and_nothing_is_thrown_away() {
        let tmp = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = tmp.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let read = |path: &str| fs::read_to_string(tmp.path().join(path)).ok();
        write("overlays/1/DATA", "adopted");
        write("flats/STORE", "rubbish");
        take_up(&tmp, OLD);
        assert_eq!(read("overlays/1/DATA").as_deref(), Some("adopted"));
        assert_eq!(BESIDE.map(|name| owner(&tmp.path().join(name))), [Some(OLD.get()); 3]);
        // A copy of it was put back while it waited.
        take_up(&tmp, NEW);
        write("overlays/STORE", &id(OLD.get()));
        write("overlays/1/DATA", "a copy");
        take_up(&tmp, NEW);
        assert_eq!(read("overlays/1/DATA"), None);
        assert_eq!(read("overlays-of-000000000000000a/1/DATA").as_deref(), Some("adopted"));
        assert_eq!(read("overlays.unreadable-1/1/DATA").as_deref(), Some("a copy"));
    }

    #[test]
    fn a_disk_that_is_mounted_over_the_store_is_told() {
        let tmp = tempfile::tempdir().unwrap();
        let (dir, away) = (tmp.path().join("store"), tmp.path().join("away"));
        fs::create_dir(&dir).unwrap();
        let open = SameDir::of(&dir).unwrap();
        let stores = Stores::take_up(tmp.path(), OLD, false, open, at(9)).unwrap();
        assert_eq!(stores.alerts(), [""; 0]);
        fs::rename(&dir, &away).unwrap();
        fs::create_dir(&dir).unwrap();
        assert!(stores.alerts()[0].contains("is not the one that was opened"), "{:?}", stores.alerts());
    }

    #[test]
    fn an_id_is_hex_and_a_file_of_rubbish_keeps_nothing_from_starting() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join(FILE), "{").unwrap();
        assert_eq!(take_up(&tmp, NEW).alerts(), [""; 0]);
        assert_eq!(parse("00ff").unwrap(), 0xff);
        for wrong in ["", "+1", "0x1", "00112233445566778", "g"] {
            assert_eq!(parse(wrong).unwrap_err().code, Code::Invalid, "{wrong}");
        }
    }
}
