//! While a group's sync runs, units of the next are written, and nothing that says that the group before is durable.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use common::{Disk, Outcome, append_all, image, outcome, send};
use gateway_store::{Parts, Store};
use tap_block::{Batch, Lsn};
use tap_disk::{FileNo, Medium, MemoryDir, PoolOptions, SegmentDir, SegmentFile, SegmentPool};
use testbed_model::{Oracle, Workload};

const PAGE: u64 = 4096;
const MAGIC: &[u8] = b"CGFRAME\x01";

/// Lets writes and syncs through, or keeps them waiting.
#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    writes_wait: bool,
    syncs_wait: bool,
    /// Whoever waits at the gate.
    waiting: usize,
    /// What was written: where.
    written: Vec<Range<u64>>,
    fails: bool,
}

impl Gate {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    /// Until that is so.
    fn until(&self, reached: impl Fn(&State) -> bool) {
        let state = self.state.lock().unwrap();
        let late = Duration::from_secs(30);
        let (_state, waited) = self.changed.wait_timeout_while(state, late, |s| !reached(s)).unwrap();
        assert!(!waited.timed_out(), "it never came to that");
    }

    fn pass(&self, waits: impl Fn(&State) -> bool) {
        self.change(|state| state.waiting += 1);
        self.until(|state| !waits(state));
        self.change(|state| state.waiting -= 1);
    }

    fn written(&self) -> Vec<Range<u64>> {
        self.state.lock().unwrap().written.clone()
    }
}

struct Dir(MemoryDir, Arc<Gate>);

impl Dir {
    fn wrap(&self, file: SegmentFile) -> SegmentFile {
        let (len, name) = (file.len(), file.name().to_owned());
        SegmentFile::over(Box::new(Gated(file, Arc::clone(&self.1))), name, len)
    }
}

impl SegmentDir for Dir {
    fn list(&self) -> io::Result<Vec<FileNo>> {
        self.0.list()
    }
    fn create(&self, no: FileNo, len: u64) -> io::Result<SegmentFile> {
        self.0.create(no, len).map(|file| self.wrap(file))
    }
    fn open(&self, no: FileNo) -> io::Result<SegmentFile> {
        self.0.open(no).map(|file| self.wrap(file))
    }
    fn remove(&self, no: FileNo) -> io::Result<()> {
        self.0.remove(no)
    }
}

struct Gated(SegmentFile, Arc<Gate>);

impl Medium for Gated {
    fn write(&self, offset: u64, data: &[IoSlice<'_>]) -> io::Result<usize> {
        self.1.pass(|state| state.writes_wait);
        let length: usize = data.iter().map(|d| d.len()).sum();
        self.0.write_at(offset, data)?;
        self.1.change(|state| state.written.push(offset..offset + length as u64));
        Ok(length)
    }
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, into).map(|()| into.len())
    }
    fn read_cached(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.0.read_cached(offset, into).map(|there| if there { into.len() } else { 0 })
    }
    fn will_need(&self, _: u64, _: u64) {}
    fn sync(&self) -> io::Result<()> {
        self.1.pass(|state| state.syncs_wait);
        match self.1.state.lock().unwrap().fails {
            true => Err(io::Error::other("on purpose")),
            false => self.0.sync(),
        }
    }
    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A store of which one group is written and waits for its sync, and of the next what may be written.
struct Scene {
    disk: Disk,
    gate: Arc<Gate>,
    store: Arc<Store>,
    workload: Workload,
    /// What was acknowledged, the first group, and the next one.
    parts: [Vec<Batch>; 3],
    waiting: Vec<Outcome>,
    /// Where the first group lies.
    first: Range<u64>,
}

fn scene(seed: u64) -> Scene {
    let (disk, gate) = (Disk::small(), Arc::new(Gate::default()));
    let options = PoolOptions { ready: 0, ..PoolOptions::default() };
    let dir = Box::new(Dir(disk.dir.clone(), Arc::clone(&gate)));
    let segments = SegmentPool::over(dir, u64::from(disk.config.segment_len), options).unwrap();
    let parts = Parts { segments, ..disk.parts() };
    let store = Store::open_on(disk.config.clone(), Arc::clone(&disk.clock), parts).unwrap();
    let mut workload = Workload::new(seed);
    let history = workload.history(20);
    append_all(&store, &history);
    let (first, next) =
        (workload.batch(20), vec![workload.batch(20), workload.batch(20), workload.batch(20)]);
    // While the first is on its way, the others come: then its sync runs beside what is done for them.
    gate.change(|state| (state.writes_wait, state.syncs_wait, state.written) = (true, true, Vec::new()));
    let mut waiting = vec![send(&store, &first)];
    gate.until(|state| state.waiting == 1);
    waiting.extend(next.iter().map(|batch| send(&store, batch)));
    gate.change(|state| state.writes_wait = false);
    // The sync's thread waits; the other has written what it may, and waits for that.
    gate.until(|state| state.written.len() > 1 + next.len() / 2 && state.waiting == 1);
    let first_at = gate.written()[0].clone();
    Scene { disk, gate, store, workload, parts: [history, vec![first], next], waiting, first: first_at }
}

impl Scene {
    fn ahead(&self) -> Vec<Range<u64>> {
        self.gate.written().split_off(1)
    }

    /// The store after a power cut now that keeps those pages; how far it is then.
    fn after_cut(&self, keep: impl Fn(u64) -> bool) -> (Arc<Store>, Lsn) {
        let dir = self.disk.dir.after_power_cut(|_, page| keep(page * PAGE));
        let left = Disk { dir, ..self.disk.clone() };
        let store = left.open();
        let durable = store.durable(self.workload.stream()).unwrap().lsn;
        (store, durable)
    }

    fn oracle(&self, parts: usize) -> Oracle {
        let mut oracle = Oracle::new();
        self.parts[..parts].iter().flatten().for_each(|batch| oracle.apply(batch).unwrap());
        oracle
    }

    fn holds(&self, store: &Store, parts: usize) {
        let (oracle, volume) = (self.oracle(parts), self.workload.volume());
        let head = oracle.last_lsn();
        assert_eq!(store.durable(self.workload.stream()).unwrap().lsn, head);
        assert!(image(store, volume, head) == oracle.image_at(volume, head));
    }
}

#[test]
fn what_is_written_ahead_holds_no_header_and_lies_behind_the_group_before() {
    for seed in 1..6 {
        let scene = scene(seed);
        let bytes = {
            let file = scene.disk.dir.open(scene.disk.dir.list().unwrap()[0]).unwrap();
            let mut bytes = vec![0; file.len() as usize];
            file.read_at(0, &mut bytes).unwrap();
            bytes
        };
        let ahead = scene.ahead();
        assert!(!ahead.is_empty());
        for piece in &ahead {
            assert!(piece.start >= scene.first.end && piece.start % PAGE == 0 && piece.end % PAGE == 0);
            let piece = &bytes[piece.start as usize..piece.end as usize];
            assert!(!piece.windows(MAGIC.len()).any(|bytes| bytes == MAGIC));
        }
        scene.gate.change(|state| state.syncs_wait = false);
        assert!(scene.waiting.iter().all(|waiting| outcome(waiting).is_ok()));
        scene.holds(&scene.store, 3);
    }
}

#[test]
fn what_was_written_ahead_does_not_make_damage_of_a_torn_group() {
    for seed in 1..6 {
        let scene = scene(seed);
        let end = scene.first.end;
        for keep in [0, 1, 2] {
            // None of the group that was not durable yet, or every second page of it; all that was written ahead.
            let (store, durable) =
                scene.after_cut(|at| at >= end || (keep > 0 && (at / PAGE).is_multiple_of(keep + 1)));
            assert!(store.status().damage.is_empty(), "{:?}", store.status().damage);
            assert!(durable >= scene.oracle(1).last_lsn());
        }
        let (store, _) = scene.after_cut(|at| at >= end);
        scene.holds(&store, 1);
        let (store, _) = scene.after_cut(|_| true);
        scene.holds(&store, 2);
        assert!(store.status().damage.is_empty());
        scene.gate.change(|state| state.syncs_wait = false);
    }
}

#[test]
fn a_sync_that_fails_takes_what_was_written_ahead_with_it() {
    let mut scene = scene(7);
    scene.gate.change(|state| (state.fails, state.syncs_wait) = (true, false));
    assert!(scene.waiting.iter().all(|waiting| outcome(waiting).is_err()));
    scene.holds(&scene.store, 1);
    // It goes on in another file.
    scene.gate.change(|state| state.fails = false);
    let again: Vec<Batch> = scene.parts[1..].iter().flatten().cloned().collect();
    append_all(&scene.store, &again);
    scene.holds(&scene.store, 3);
    drop(std::mem::replace(&mut scene.store, scene.disk.open()));
    scene.holds(&scene.store, 3);
    assert!(scene.store.status().damage.is_empty());
}
