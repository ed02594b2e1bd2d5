//! The queue itself: memory tier, disk tier, cursors.

mod holes;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tap_block::units::{count, index};
use tap_block::{Batch, Lsn, Monotonic, RunId, WallTime};

use crate::consumer::{Consumer, ConsumerNo, ConsumerView, Hole};
use crate::item::{Item, ItemNo, Place, Reached, Summary};

/// Limits, and when the disk is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Bytes that may wait in memory. At the limit items that are on disk too leave memory; when there are none
    /// left, [`Outbox::push`] says [`Full`].
    pub memory_limit: u64,
    /// Items are written to disk while a consumer has acknowledged nothing for so long though something waits for
    /// it, or while the oldest item waits ten times as long. A consumer that is merely busy does not cause it: its
    /// sender waits for credit, and the disk, often the same one, is left to it. `None`: age is no reason.
    pub spill_after: Option<Duration>,
    /// When more bytes than this are in memory alone, the oldest are written to disk until half is left.
    pub spill_above: u64,
    /// Bytes that may be on disk. At the limit nothing more is written there, so memory fills up.
    pub disk_limit: u64,
    /// Bytes read back ahead for each consumer, besides `memory_limit`; at least one item.
    pub read_ahead: u64,
    /// Records below a consumer's position that are not here any more are a hole ([`Next::Hole`]). False where the
    /// consumer may know less than it acknowledged (a CX whose gateways are away, seen from a tap).
    pub detect_holes: bool,
}

/// The queue is at its limit; the batch was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the outbox is full: memory and disk spool are at their limits until a hop below catches up",
        )
    }
}

impl std::error::Error for Full {}

/// What a consumer gets next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// This batch.
    Batch(ItemNo, Arc<Batch>),
    /// It is on disk; [`Outbox::poll_load`] asks for it.
    Loading,
    /// Nothing now.
    Empty,
    /// Records are missing; said once. Nothing more comes until they do or a sync of everything begins; what is pushed
    /// meanwhile is kept while there is room.
    Hole(Hole),
}

/// What is durable below: on this hop's disk, or at every consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable {
    /// Every item below this one.
    pub item: ItemNo,
    /// Every record up to and including this one.
    pub reached: Reached,
}

/// Items to write to disk, in this order, and to sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpillGroup {
    /// What to write.
    pub items: Vec<(ItemNo, Arc<Batch>)>,
    /// Items below this one need not be found on disk again.
    pub forgotten: ItemNo,
    /// Items from `forgotten` up to this one are on disk, synced.
    pub synced: ItemNo,
    /// Every record up to here is durable at every consumer.
    pub everywhere: Reached,
}

/// Items to read back for a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// For whom.
    pub consumer: ConsumerNo,
    /// Which, in this order.
    pub items: Vec<ItemNo>,
    turn: u64,
}

/// What was found on disk after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// The number of the first item.
    pub first: ItemNo,
    /// The items from there on.
    pub items: Vec<RecoveredItem>,
    /// Every record up to here was durable at every consumer.
    pub everywhere: Reached,
}

/// One item after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoveredItem {
    /// On disk, sound.
    Sound(Summary),
    /// It was on disk and cannot be read.
    Lost,
}

/// Numbers to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// Items held.
    pub items: u64,
    /// Bytes that some consumer has not acknowledged.
    pub queued_bytes: u64,
    /// Bytes in memory alone.
    pub memory_bytes: u64,
    /// Bytes on disk, waiting.
    pub spooled_bytes: u64,
    /// The disk tier is at its limit.
    pub disk_full: bool,
    /// The last write to the disk failed and no later one succeeded.
    pub disk_failing: bool,
    /// The last record taken.
    pub head: Lsn,
}

/// How much longer the oldest item may wait while its consumer is at work.
const SLOW_FACTOR: u32 = 10;
/// Most bytes written before one sync.
const GROUP_BYTES: u64 = 8 << 20;

/// What a spool file adds to each item, about, and the grain of its records.
const RECORD_OVERHEAD: u64 = 256;
const PAGE: u64 = 4096;

/// The queue of one stream at one hop. See the crate's documentation.
#[derive(Debug)]
pub struct Outbox {
    config: Config,
    items: VecDeque<Item>,
    first: ItemNo,
    /// The last record and the bytes pushed before the first item.
    forgotten_end: Reached,
    forgotten_bytes: u64,
    /// Items below are on disk.
    spill_end: ItemNo,
    /// The end of the group being written.
    spilling: Option<ItemNo>,
    spill_all: bool,
    spill_latched: bool,
    spill_paused: bool,
    /// Bytes of items in memory alone, of items on disk and in memory, of items on disk.
    memory_bytes: u64,
    resident_bytes: u64,
    disk_bytes: u64,
    /// Items on disk and in memory, ascending.
    resident: VecDeque<ItemNo>,
    consumers: Vec<Consumer>,
    /// What was durable at every consumer when the last process ended.
    known_everywhere: Reached,
}

impl Outbox {
    /// An empty outbox for this many consumers.
    #[must_use]
    pub fn new(config: Config, consumers: usize) -> Self {
        Self::recovered(config, consumers, Recovered::default())
    }

    /// An outbox that goes on with what the disk holds. Every consumer starts with the oldest item.
    #[must_use]
    pub fn recovered(config: Config, consumers: usize, found: Recovered) -> Self {
        let consumer = || Consumer::new(found.first, found.everywhere);
        let mut outbox = Self {
            config,
            items: VecDeque::new(),
            first: found.first,
            forgotten_end: found.everywhere,
            forgotten_bytes: 0,
            spill_end: found.first.plus(count(found.items.len())),
            spilling: None,
            spill_all: false,
            spill_latched: false,
            spill_paused: false,
            memory_bytes: 0,
            resident_bytes: 0,
            disk_bytes: 0,
            resident: VecDeque::new(),
            consumers: std::iter::repeat_with(consumer).take(consumers).collect(),
            known_everywhere: found.everywhere,
        };
        for item in found.items {
            outbox.adopt(item);
        }
        outbox
    }

    /// Takes the next batch.
    ///
    /// # Errors
    /// [`Full`], unless nothing is in memory alone: then even a batch above the limit is taken.
    pub fn push(&mut self, batch: Arc<Batch>, now: Monotonic) -> Result<ItemNo, Full> {
        let summary = Summary::of(&batch);
        if summary.weight > self.room() && self.memory_bytes > 0 {
            return Err(Full);
        }
        let no = self.end();
        self.memory_bytes += summary.weight;
        self.append(Some(batch), Place::Memory, summary, now);
        if summary.heals {
            self.consumers.iter_mut().filter(|c| c.broken.is_some()).for_each(|c| c.heal(no));
        }
        self.relieve();
        self.evict();
        self.forget();
        Ok(no)
    }

    /// Bytes that [`Outbox::push`] takes before it says [`Full`].
    #[must_use]
    pub const fn room(&self) -> u64 {
        self.config.memory_limit.saturating_sub(self.memory_bytes)
    }

    /// Items below this one are needed no more.
    #[must_use]
    pub const fn first(&self) -> ItemNo {
        self.first
    }

    /// The number the next batch will get.
    #[must_use]
    pub fn end(&self) -> ItemNo {
        self.first.plus(count(self.items.len()))
    }

    /// The last record taken, or known from before.
    #[must_use]
    pub fn head(&self) -> Lsn {
        self.end_reached().lsn
    }

    /// The last record of the stream that is known here: that anybody has below, or that was taken in.
    #[must_use]
    pub fn furthest(&self) -> Reached {
        // Of two at one place the one below counts: it cannot be taken back.
        self.consumers
            .iter()
            .map(|c| c.durable)
            .fold(Reached::default(), Reached::max)
            .max(self.end_reached())
    }

    /// The runs of what is held here, in order, and when the last record of each was captured.
    #[must_use]
    pub fn ends(&self) -> Vec<(RunId, WallTime)> {
        let mut ends: Vec<(RunId, WallTime)> = Vec::new();
        for s in self.items.iter().filter(|item| item.place != Place::Lost).map(|item| &item.summary) {
            match ends.last_mut() {
                Some((run, at)) if *run == s.run => *at = s.at.max(*at),
                _ => ends.push((s.run, s.at)),
            }
        }
        ends
    }

    // --- consumers ---

    /// What `consumer` gets next; moves its cursor.
    pub fn next(&mut self, consumer: ConsumerNo) -> Next {
        let Some(c) = self.consumers.get_mut(consumer.get()) else { return Next::Empty };
        let no = c.next;
        let Some(item) = self.items.get(index(no.since(self.first))) else { return Next::Empty };
        let misses = item.summary.needs > c.position && (self.config.detect_holes || c.broken.is_some());
        let held = c.broken.is_some_and(|b| b.until_healed && b.at <= no);
        if misses || held || item.place == Place::Lost {
            if let Some(broken) = &mut c.broken {
                broken.at = broken.at.min(no);
                return Next::Empty;
            }
            let after = c.position;
            return match self.break_off(consumer, after, false) {
                Some(hole) => Next::Hole(hole),
                None => self.next(consumer),
            };
        }
        // At the hole nothing is missing any more: it came after all.
        c.broken = c.broken.filter(|b| b.at > no);
        let Some(batch) = item.batch.clone().or_else(|| c.take_from_window(no)) else { return Next::Loading };
        c.next = no.next();
        c.pass();
        c.position = c.position.max(item.summary.last.unwrap_or_default());
        Next::Batch(no, batch)
    }

    /// `items` more items, in the order in which they were sent, are durable at `consumer`, every record up to
    /// `durable` as well, and every record up to `everywhere` is so at all gateways below it.
    pub fn acked(&mut self, consumer: ConsumerNo, items: u64, durable: Lsn, everywhere: Lsn, now: Monotonic) {
        let Some(c) = self.consumers.get_mut(consumer.get()) else { return };
        if items > 0 {
            c.progress_at = now;
        }
        (0..items.min(c.next.since(c.acked))).for_each(|_| c.acked_one());
        let acked = c.acked;
        c.everywhere = c.everywhere.max(everywhere);
        let reached = self.record_at(durable, acked);
        if let Some(c) = self.consumers.get_mut(consumer.get()) {
            c.durable = c.durable.max(Reached { run: reached.run.or(c.durable.run), ..reached });
            // It may have them from an earlier connection, or from an earlier life of this hop.
            c.position = c.position.max(durable);
        }
        self.forget();
    }

    /// `consumer` is connected and has every record up to `has`: sends again what lies after that and is not
    /// acknowledged. A consumer that has less than it acknowledged has lost records; when they are not all here
    /// any more that is a hole.
    pub fn rewind(&mut self, consumer: ConsumerNo, has: Reached) -> Option<Hole> {
        let durable = has.lsn;
        let (first, head, detect) = (self.first, self.head(), self.config.detect_holes);
        let held = self.items.iter().find_map(|i| i.summary.first).is_some_and(|lsn| lsn <= durable.next());
        let c = self.consumers.get_mut(consumer.get())?;
        let (before, went_back) = (c.durable, detect && durable < c.durable.lsn);
        c.attached = true;
        c.durable = if detect { has } else { has.max(before) };
        c.position = c.durable.lsn;
        if went_back {
            c.everywhere = c.everywhere.min(durable);
            c.restart_at(first);
            return if held { None } else { self.break_off(consumer, durable, true) };
        }
        let filled = durable >= head && c.broken.is_some_and(|b| durable > b.after);
        c.restart(filled);
        if let Some(broken) = &mut c.broken {
            broken.after = durable;
        }
        let hole = match self.is_split(consumer, has) {
            true => self.break_off(consumer, durable, true),
            false => self.skip_received(consumer, has),
        };
        self.forget();
        hole
    }

    /// The connection of `consumer` is gone.
    pub fn detach(&mut self, consumer: ConsumerNo) {
        if let Some(c) = self.consumers.get_mut(consumer.get()) {
            c.attached = false;
            c.restart(false);
        }
    }

    /// The source says that it has nothing waiting and that its last record is `head`. A consumer for which nothing
    /// waits here either, and that has less, misses records.
    pub fn expect_head(&mut self, consumer: ConsumerNo, head: Lsn) -> Option<Hole> {
        let end = self.end();
        let c = self.consumers.get(consumer.get())?;
        let idle = c.attached && c.acked == end && c.broken.is_none();
        let after = c.position.max(c.durable.lsn);
        if idle && self.config.detect_holes && after < head {
            self.break_off(consumer, after, false)
        } else {
            None
        }
    }

    /// `consumer` has records up to `has` only and acknowledged more: what lies between cannot be sent again. It gets
    /// nothing until a sync of everything begins.
    pub fn abandon(&mut self, consumer: ConsumerNo, has: Reached) -> Option<Hole> {
        let c = self.consumers.get_mut(consumer.get())?;
        (c.durable, c.position) = (has, has.lsn);
        c.everywhere = c.everywhere.min(has.lsn);
        self.break_off(consumer, has.lsn, true)
    }

    /// How many consumers there are.
    #[must_use]
    pub const fn consumers(&self) -> usize {
        self.consumers.len()
    }

    /// What is known of `consumer`.
    #[must_use]
    pub fn view(&self, consumer: ConsumerNo) -> Option<ConsumerView> {
        let c = self.consumers.get(consumer.get())?;
        Some(ConsumerView {
            attached: c.attached,
            durable: c.durable.lsn,
            everywhere: c.everywhere,
            pending_bytes: self.pushed_bytes().saturating_sub(self.before(c.acked).1),
            broken_after: c.broken.map(|b| b.after),
        })
    }

    // --- progress ---

    /// What is durable below. The item never goes back.
    #[must_use]
    pub fn durable_below(&self) -> Durable {
        let item = self.all_acked().max(self.spill_end);
        Durable { item, reached: self.before(item).0.max(self.durable_at_all()) }
    }

    /// Every record up to here is durable at every gateway.
    #[must_use]
    pub fn everywhere(&self) -> Lsn {
        self.consumers.iter().map(|c| c.everywhere).min().unwrap_or_default()
    }

    /// Every consumer has acknowledged everything.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.items.is_empty()
    }

    /// Nothing is in memory alone.
    #[must_use]
    pub fn is_all_durable(&self) -> bool {
        self.durable_below().item == self.end()
    }

    /// Numbers to show.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            items: count(self.items.len()),
            queued_bytes: self.pushed_bytes().saturating_sub(self.forgotten_bytes),
            memory_bytes: self.memory_bytes,
            spooled_bytes: self.disk_bytes,
            disk_full: self.first_unspilled().is_some_and(|w| !self.disk_has_room(w)),
            disk_failing: self.spill_paused,
            head: self.head(),
        }
    }

    // --- the disk tier: writing ---

    /// From now on everything goes to disk as soon as it can.
    pub fn spill_all(&mut self) {
        self.spill_all = true;
    }

    /// When [`Outbox::poll_spill`] will have something, as things stand; `None` when only a push can change that.
    #[must_use]
    pub fn spill_due(&self, now: Monotonic) -> Option<Monotonic> {
        if self.spilling.is_some() || self.spill_paused || !self.disk_has_room(self.first_unspilled()?) {
            return None;
        }
        if self.spill_all || self.spill_latched || self.memory_bytes > self.config.spill_above {
            return Some(now);
        }
        self.pressing_from()
    }

    /// The next items to write. One group at a time: [`Outbox::spilled`] or [`Outbox::spill_failed`] ends it.
    pub fn poll_spill(&mut self, now: Monotonic) -> Option<SpillGroup> {
        if self.spill_due(now).is_none_or(|due| due > now) {
            return None;
        }
        let aged = self.pressing_from().is_some_and(|from| from <= now);
        let keep = if self.spill_all || aged { 0 } else { self.config.spill_above / 2 };
        self.spill_latched = keep > 0;
        let items = self.spill_candidates(keep);
        if self.memory_bytes.saturating_sub(items.iter().map(|(_, b)| b.weight()).sum()) <= keep {
            self.spill_latched = false;
        }
        self.spilling = Some(items.last()?.0.next());
        Some(SpillGroup {
            items,
            forgotten: self.first,
            synced: self.spill_end,
            everywhere: self.durable_at_all(),
        })
    }

    /// The group is on disk and synced.
    pub fn spilled(&mut self) {
        let Some(end) = self.spilling.take() else { return };
        for no in self.spill_end.get()..end.get() {
            let no = ItemNo::new(no);
            let Some(item) = self.items.get_mut(index(no.since(self.first))) else { break };
            item.place = Place::Disk;
            let weight = item.summary.weight;
            self.memory_bytes = self.memory_bytes.saturating_sub(weight);
            self.resident_bytes += weight;
            self.disk_bytes += on_disk(weight);
            self.resident.push_back(no);
        }
        self.spill_end = self.spill_end.max(end);
        self.evict();
    }

    /// The group could not be written: its items stay in memory, and nothing is written until
    /// [`Outbox::resume_spill`].
    pub fn spill_failed(&mut self) {
        self.spilling = None;
        self.spill_paused = true;
        self.relieve();
    }

    /// Tries the disk again.
    pub const fn resume_spill(&mut self) {
        self.spill_paused = false;
    }

    /// Every record up to here is durable at every consumer: what [`Recovered::everywhere`] takes after a restart.
    #[must_use]
    pub fn durable_at_all(&self) -> Reached {
        self.consumers.iter().map(|c| c.durable).reduce(Reached::min).unwrap_or(self.known_everywhere)
    }

    // --- the disk tier: reading back ---

    /// Items that a consumer waits for, to be read from disk.
    pub fn poll_load(&mut self) -> Option<Load> {
        let (first, limit) = (self.first, self.config.read_ahead);
        for (at, c) in self.consumers.iter_mut().enumerate() {
            let held = c.broken.is_some_and(|b| b.at <= c.next);
            if !c.attached || held || c.loading || c.window_bytes >= limit.max(1) {
                continue;
            }
            let from = c.window_end();
            let items = on_disk_only(&self.items, first, from, limit - c.window_bytes);
            if items.is_empty() || (from != c.next && c.window_bytes > limit / 2) {
                continue;
            }
            c.loading = true;
            return Some(Load { consumer: ConsumerNo::new(at), items, turn: c.turn });
        }
        None
    }

    /// What came of a load, in the order of its items; `None` for one that cannot be read (it is lost).
    pub fn loaded(&mut self, load: &Load, batches: Vec<Option<Arc<Batch>>>) {
        for (&no, batch) in load.items.iter().zip(&batches) {
            if batch.is_none() {
                self.lose(no);
            }
        }
        let Some(c) = self.consumers.get_mut(load.consumer.get()) else { return };
        if c.turn != load.turn {
            return;
        }
        c.loading = false;
        for (&no, batch) in load.items.iter().zip(batches) {
            let Some(batch) = batch.filter(|_| no == c.window_end()) else { break };
            c.window_bytes += batch.weight();
            c.window.push_back((no, batch));
        }
    }

    // --- inside ---

    fn adopt(&mut self, item: RecoveredItem) {
        let lost = Summary {
            run: RunId::new(0),
            at: WallTime::EPOCH,
            first: None,
            last: None,
            last_at: None,
            needs: Lsn::ZERO,
            copies: true,
            heals: false,
            begins: false,
            weight: 0,
        };
        match item {
            RecoveredItem::Sound(summary) => {
                self.disk_bytes += on_disk(summary.weight);
                self.append(None, Place::Disk, summary, Monotonic::default());
            }
            RecoveredItem::Lost => self.append(None, Place::Lost, lost, Monotonic::default()),
        }
    }

    fn append(&mut self, batch: Option<Arc<Batch>>, place: Place, summary: Summary, pushed_at: Monotonic) {
        let last = summary.last.map(|lsn| Reached { lsn, run: Some(summary.run), at: summary.last_at });
        let end = self.end_reached().max(last.unwrap_or_default());
        let end_bytes = self.pushed_bytes() + summary.weight;
        self.items.push_back(Item { batch, place, summary, end, end_bytes, pushed_at });
    }

    fn pushed_bytes(&self) -> u64 {
        self.items.back().map_or(self.forgotten_bytes, |i| i.end_bytes)
    }

    fn end_reached(&self) -> Reached {
        self.items.back().map_or(self.forgotten_end, |i| i.end)
    }

    /// The last record and the bytes of all items below `no`.
    fn before(&self, no: ItemNo) -> (Reached, u64) {
        let n = no.since(self.first).checked_sub(1);
        let last = n.and_then(|n| self.items.get(index(n)).or(self.items.back()));
        last.map_or((self.forgotten_end, self.forgotten_bytes), |i| (i.end, i.end_bytes))
    }

    /// What is known of a record that is durable at a consumer that acknowledged the items below `acked`. It may lie behind them:
    /// an earlier connection brought it there.
    fn record_at(&self, durable: Lsn, acked: ItemNo) -> Reached {
        let before = self.before(acked).0;
        let mut behind = self.items.iter().skip(index(acked.since(self.first)));
        let found = behind.find(|item| item.end.lsn >= durable).filter(|_| durable > before.lsn);
        let end = found.map_or(before, |item| item.end);
        Reached { lsn: durable, at: end.at.filter(|_| end.lsn == durable), ..end }
    }

    /// Every consumer has acknowledged the items below. Without consumers nobody has.
    fn all_acked(&self) -> ItemNo {
        self.consumers.iter().map(|c| c.acked).min().unwrap_or(self.first)
    }

    /// Drops the items that nobody needs.
    fn forget(&mut self) {
        let to = self.all_acked();
        while self.first < to {
            let Some(item) = self.items.pop_front() else { break };
            self.release(&item);
            self.first = self.first.next();
            self.forgotten_end = item.end;
            self.forgotten_bytes = item.end_bytes;
        }
        self.spill_end = self.spill_end.max(self.first);
    }

    fn release(&mut self, item: &Item) {
        let weight = item.summary.weight;
        match item.place {
            Place::Memory => self.memory_bytes = self.memory_bytes.saturating_sub(weight),
            Place::Disk => self.disk_bytes = self.disk_bytes.saturating_sub(on_disk(weight)),
            Place::Lost => {}
        }
        if self.resident.pop_front_if(|no| *no == self.first).is_some() {
            self.resident_bytes = self.resident_bytes.saturating_sub(weight);
        }
    }

    /// Takes items that are on disk out of memory while it is above its limit: first those already sent, then the
    /// ones needed last.
    fn evict(&mut self) {
        let sent = self.consumers.iter().map(|c| c.next).min().unwrap_or(self.first);
        while self.memory_bytes + self.resident_bytes > self.config.memory_limit {
            let oldest = self.resident.pop_front_if(|no| *no < sent);
            let Some(no) = oldest.or_else(|| self.resident.pop_back()) else { break };
            if let Some(item) = self.items.get_mut(index(no.since(self.first))) {
                item.batch = None;
                self.resident_bytes = self.resident_bytes.saturating_sub(item.summary.weight);
            }
        }
    }

    fn lose(&mut self, no: ItemNo) {
        let Some(item) = self.items.get_mut(index(no.since(self.first))).filter(|_| no >= self.first) else {
            return;
        };
        if item.place == Place::Disk && item.batch.is_none() {
            item.place = Place::Lost;
            self.disk_bytes = self.disk_bytes.saturating_sub(on_disk(item.summary.weight));
        }
    }

    /// From when on the consumer that is furthest behind counts as stalled or slow.
    fn pressing_from(&self) -> Option<Monotonic> {
        let (after, oldest) = (self.config.spill_after?, self.items.front()?);
        let slow = oldest.pushed_at.plus(after.saturating_mul(SLOW_FACTOR));
        let waiting = self.consumers.iter().filter(|c| c.acked == self.first);
        let stalled = waiting.map(|c| c.progress_at.max(oldest.pushed_at).plus(after)).min();
        Some(stalled.unwrap_or_else(|| oldest.pushed_at.plus(after)).min(slow))
    }

    fn first_unspilled(&self) -> Option<u64> {
        self.items.get(index(self.spill_end.since(self.first))).map(|i| i.summary.weight)
    }

    const fn disk_has_room(&self, weight: u64) -> bool {
        self.disk_bytes.saturating_add(on_disk(weight)) <= self.config.disk_limit
    }

    /// The oldest items in memory alone, until `keep` bytes are left, a group is full or the disk is.
    fn spill_candidates(&self, keep: u64) -> Vec<(ItemNo, Arc<Batch>)> {
        let (mut taken, mut stored, mut group) = (0, 0, Vec::new());
        let unspilled = self.items.iter().skip(index(self.spill_end.since(self.first)));
        for (no, item) in (self.spill_end.get()..).map(ItemNo::new).zip(unspilled) {
            let after = taken + item.summary.weight;
            stored += on_disk(item.summary.weight);
            let enough = self.memory_bytes.saturating_sub(taken) <= keep || after > GROUP_BYTES;
            let room = self.disk_bytes.saturating_add(stored) <= self.config.disk_limit;
            if !group.is_empty() && (enough || !room) {
                break;
            }
            let Some(batch) = item.batch.clone() else { break };
            group.push((no, batch));
            taken = after;
        }
        group
    }
}

/// The space an item takes on disk, about: its header and whole pages.
const fn on_disk(weight: u64) -> u64 {
    weight.saturating_add(RECORD_OVERHEAD).next_multiple_of(PAGE)
}

/// Consecutive items from `from` on that have to be read from disk: at least one, at most `limit` bytes.
fn on_disk_only(items: &VecDeque<Item>, first: ItemNo, from: ItemNo, limit: u64) -> Vec<ItemNo> {
    let (mut bytes, mut found) = (0, Vec::new());
    let candidates = items.iter().skip(index(from.since(first)));
    for (no, item) in (from.get()..).map(ItemNo::new).zip(candidates) {
        bytes += item.summary.weight;
        let wanted = item.place == Place::Disk && item.batch.is_none();
        if !wanted || (bytes > limit && !found.is_empty()) {
            break;
        }
        found.push(no);
    }
    found
}
