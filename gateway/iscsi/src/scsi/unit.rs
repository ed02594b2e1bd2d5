//! A logical unit: one disk with all that its initiators share (reservations, mode pages, attentions), and a
//! nexus: one session's view of it.
//!
//! The state has one owner, the mutex in [`LogicalUnit`]; nothing waits while it is held. Commands that read
//! before they write, and writes that overlap them, take turns by [`Hold`]s, first come first served.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tap_block::{BlockDevice, Extent, Ticket};

use crate::scsi::blocks::Disk;
use crate::scsi::copy::Copied;
use crate::scsi::mode::{Medium, Modes};
use crate::scsi::opcodes::{Class, Row};
use crate::scsi::party::Unfit;
use crate::scsi::reservation::{Effects, InitiatorPort, Out, Reservations, Wants};
use crate::scsi::sense::{Reply, Sense};
use crate::target::Target;

/// Attentions that wait for one session; further ones are merged into the last.
const MAX_ATTENTIONS: usize = 8;
/// Ended copies that one session may still ask for.
const MAX_COPIES: usize = 16;
/// Ports remembered as having been here.
const MAX_KNOWN: usize = 1024;

/// Bytes of a logical block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockLength {
    /// 512.
    Short,
    /// 4,096.
    Long,
}

/// What initiators know a disk by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The T10 vendor, at most 8 characters.
    pub vendor: String,
    /// At most 16 characters.
    pub product: String,
    /// At most 4 characters.
    pub revision: String,
    /// The unit's serial number.
    pub serial: String,
    /// The NAA identifier, its first digit 6.
    pub naa: u128,
    /// The logical block.
    pub block: BlockLength,
    /// Physical blocks of 4,096 bytes are told of with logical ones of 512.
    pub emulated: bool,
}

/// A session within its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionId(pub(crate) u64);

/// A disk with its shared state.
pub struct LogicalUnit {
    identity: Identity,
    device: Arc<dyn BlockDevice>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sessions: BTreeMap<SessionId, Joined>,
    /// Ports that had a session before: their next one begins with another attention.
    known: VecDeque<InitiatorPort>,
    reserved: Option<SessionId>,
    reservations: Reservations,
    modes: Modes,
    size: u64,
    holds: VecDeque<Claim>,
    next_hold: u64,
    exclusive: usize,
    drains: Vec<(u64, Ticket)>,
}

struct Joined {
    port: InitiatorPort,
    attentions: VecDeque<Sense>,
    copies: VecDeque<Copied>,
    /// Raised when the session's tasks are aborted by somebody else.
    epoch: Arc<AtomicU64>,
}

/// A stretch that a command works on, or waits for.
struct Claim {
    id: u64,
    extent: Extent,
    exclusive: bool,
    /// There while it waits.
    ticket: Option<Ticket>,
}

/// A command's claim on a stretch, given back when the last clone is dropped.
pub(crate) struct Hold {
    unit: Arc<LogicalUnit>,
    id: u64,
    /// What else its command has claimed, and what has to last as long.
    _besides: Option<(Option<Arc<Hold>>, Arc<Target>)>,
}

/// A session's place at a unit.
#[derive(Clone)]
pub(crate) struct Seat {
    session: SessionId,
    port: InitiatorPort,
    epoch: Arc<AtomicU64>,
}

/// One session's view of a unit.
pub(crate) struct Nexus {
    pub(crate) unit: Arc<LogicalUnit>,
    pub(crate) lun: u16,
    /// The target's name.
    pub(crate) target: Arc<str>,
    seat: Seat,
}

impl BlockLength {
    /// As a number.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Short => 512,
            Self::Long => 4096,
        }
    }
}

impl LogicalUnit {
    /// A disk; `kept` is what [`persistent reservations`](Self::kept) were left with, empty for none.
    ///
    /// `None` when `kept` is damaged: the driver decides whether to start without.
    #[must_use]
    pub fn new(identity: Identity, device: Arc<dyn BlockDevice>, kept: &[u8]) -> Option<Arc<Self>> {
        let reservations = Reservations::decode(kept)?;
        let size = device.geometry().size;
        let state = Mutex::new(State { reservations, size, ..State::default() });
        Some(Arc::new(Self { identity, device, state }))
    }

    /// Its identity.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The disk behind it.
    #[must_use]
    pub fn device(&self) -> &Arc<dyn BlockDevice> {
        &self.device
    }

    /// The reservations that are to survive a restart (APTPL), as they are now; empty for none.
    #[must_use]
    pub fn kept(&self) -> Bytes {
        self.lock().reservations.encode().into()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session that may reach this unit begins.
    pub(crate) fn join(
        self: &Arc<Self>,
        lun: u16,
        target: Arc<str>,
        session: SessionId,
        port: &InitiatorPort,
    ) -> Nexus {
        let seat = Seat { session, port: port.clone(), epoch: Arc::new(AtomicU64::new(0)) };
        let mut state = self.lock();
        let first = if state.known.contains(port) {
            Sense::NEXUS_LOST
        } else {
            state.known.push_back(port.clone());
            Sense::POWER_ON
        };
        if state.known.len() > MAX_KNOWN {
            state.known.pop_front();
        }
        let attentions = VecDeque::from([first]);
        let copies = VecDeque::new();
        let joined = Joined { port: port.clone(), attentions, copies, epoch: seat.epoch.clone() };
        state.sessions.insert(session, joined);
        Nexus { unit: self.clone(), lun, target, seat }
    }

    /// What CDBs are checked against.
    pub(crate) fn disk(&self) -> Disk {
        let block = self.identity.block.bytes();
        Disk { block, blocks: self.device.geometry().size / block }
    }

    /// The place of a session that is here.
    pub(crate) fn seat(&self, session: SessionId) -> Option<Seat> {
        let state = self.lock();
        let joined = state.sessions.get(&session)?;
        Some(Seat { session, port: joined.port.clone(), epoch: joined.epoch.clone() })
    }

    /// May a copy do this on behalf of the session? As a command that is sent here, but for attentions.
    pub(crate) fn admit_copy(&self, seat: &Seat, wants: Wants) -> Result<(), Unfit> {
        let read_only = self.device.geometry().read_only;
        let state = self.lock();
        if !state.sessions.contains_key(&seat.session) {
            return Err(Unfit::Gone);
        }
        if state.is_reserved_from(seat, Class::Wants(wants)) {
            return Err(Unfit::Reserved);
        }
        let is_protected = read_only || state.modes.protected;
        if wants == Wants::Write && is_protected { Err(Unfit::Protected) } else { Ok(()) }
    }

    /// The loss of a nexus ends its tasks and RESERVE (SAM-5 section 6.3.4); registrations stay.
    pub(crate) fn part(&self, session: SessionId) {
        let mut state = self.lock();
        if let Some(joined) = state.sessions.remove(&session) {
            joined.epoch.fetch_add(1, Ordering::Release);
        }
        if state.reserved == Some(session) {
            state.reserved = None;
        }
    }

    /// Completes `drained` once nothing of what is under way now changes the disk any more.
    pub(crate) fn drain(&self, drained: Ticket) {
        self.lock().drain(drained);
    }

    /// LOGICAL UNIT RESET (SAM-5 section 6.3.3): every task ends, RESERVE is given up, everybody is told.
    /// `drained` completes once nothing of what was under way touches the disk any more.
    pub(crate) fn reset(&self, drained: Ticket) {
        let mut state = self.lock();
        state.reserved = None;
        state.modes = Modes::default();
        for joined in state.sessions.values_mut() {
            joined.epoch.fetch_add(1, Ordering::Release);
            joined.attend(Sense::UNIT_RESET);
        }
        state.drain(drained);
    }

    /// `None` when `is_current` says that the task was aborted: after a drain has begun, nothing of what it
    /// waits for comes in any more.
    pub(crate) fn claim(
        self: &Arc<Self>,
        extent: Extent,
        exclusive: bool,
        is_current: impl FnOnce() -> bool,
        ticket: impl FnOnce() -> Ticket,
    ) -> Option<(Hold, bool)> {
        let mut state = self.lock();
        if !is_current() {
            return None;
        }
        let id = state.next_hold;
        state.next_hold += 1;
        state.exclusive += usize::from(exclusive);
        let free = state.exclusive == 0 || !state.holds.iter().any(|c| c.excludes(extent, exclusive));
        let ticket = (!free).then(ticket);
        state.holds.push_back(Claim { id, extent, exclusive, ticket });
        drop(state);
        Some((Hold { unit: self.clone(), id, _besides: None }, free))
    }

    fn unclaim(&self, id: u64) {
        let mut woken = Vec::new();
        let mut state = self.lock();
        if let Some(at) = state.holds.iter().position(|claim| claim.id == id)
            && let Some(claim) = state.holds.remove(at)
        {
            state.exclusive -= usize::from(claim.exclusive);
            woken.extend(claim.ticket);
            state.grant(&mut woken);
        }
        state.drained(&mut woken);
        drop(state);
        woken.into_iter().for_each(|ticket| ticket.complete(Ok(Bytes::new())));
    }
}

impl Seat {
    /// The tasks that are aborted from outside are those of an older epoch than this.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
}

impl Hold {
    /// With another one that its command has, and with the target that its unit is of.
    pub(crate) fn besides(self, other: Option<Arc<Self>>, target: Arc<Target>) -> Self {
        // A value that is taken apart would give itself back.
        let mut hold = self;
        hold._besides = Some((other, target));
        hold
    }
}

impl State {
    /// Lets those go on that nothing before them excludes any more.
    fn grant(&mut self, woken: &mut Vec<Ticket>) {
        if self.holds.iter().all(|claim| claim.ticket.is_none()) {
            return;
        }
        for n in 0..self.holds.len() {
            let Some(claim) = self.holds.get(n).filter(|claim| claim.ticket.is_some()) else { continue };
            let (extent, exclusive) = (claim.extent, claim.exclusive);
            if self.holds.iter().take(n).any(|before| before.excludes(extent, exclusive)) {
                continue;
            }
            woken.extend(self.holds.get_mut(n).and_then(|claim| claim.ticket.take()));
        }
    }

    /// Is it somebody else's, as far as this is concerned?
    fn is_reserved_from(&self, seat: &Seat, class: Class) -> bool {
        let elsewhere = self.reserved.is_some_and(|holder| holder != seat.session);
        match class {
            Class::Inquiring => false,
            // SPC-2's RESERVE lets nobody else do anything but ask; RELEASE of others is ignored.
            Class::OldReservation => self.reservations.in_use(),
            Class::Free | Class::Persistent => elsewhere && class == Class::Persistent,
            Class::Wants(wants) => elsewhere || !self.reservations.admits(&seat.port, wants),
        }
    }

    fn drain(&mut self, ticket: Ticket) {
        let mut done = Vec::new();
        self.drains.push((self.next_hold, ticket));
        self.drained(&mut done);
        // A queue takes completions at any time; it only must not call back into the unit.
        done.into_iter().for_each(|ticket| ticket.complete(Ok(Bytes::new())));
    }

    fn drained(&mut self, woken: &mut Vec<Ticket>) {
        let oldest = self.holds.front().map_or(u64::MAX, |claim| claim.id);
        let (done, left) = self.drains.drain(..).partition(|(before, _)| oldest >= *before);
        self.drains = left;
        let done: Vec<(u64, Ticket)> = done;
        woken.extend(done.into_iter().map(|(_, ticket)| ticket));
    }

    fn attend_all(&mut self, but: SessionId, sense: Sense) {
        for (_, joined) in self.sessions.iter_mut().filter(|(session, _)| **session != but) {
            joined.attend(sense);
        }
    }
}

impl Claim {
    fn excludes(&self, extent: Extent, exclusive: bool) -> bool {
        (self.exclusive || exclusive) && self.extent.overlaps(extent)
    }
}

impl Joined {
    fn attend(&mut self, sense: Sense) {
        if self.attentions.contains(&sense) {
            return;
        }
        if self.attentions.len() >= MAX_ATTENTIONS {
            self.attentions.pop_back();
        }
        self.attentions.push_back(sense);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.unit.unclaim(self.id);
    }
}

impl Nexus {
    /// What CDBs are checked against.
    pub(crate) fn disk(&self) -> Disk {
        self.unit.disk()
    }

    /// The session's place here.
    pub(crate) fn seat(&self) -> Seat {
        self.seat.clone()
    }

    /// A copy has ended.
    pub(crate) fn note_copy(&self, copied: Copied) {
        let mut state = self.unit.lock();
        let Some(joined) = state.sessions.get_mut(&self.seat.session) else { return };
        joined.copies.retain(|known| known.list != copied.list);
        if joined.copies.len() >= MAX_COPIES {
            joined.copies.pop_front();
        }
        joined.copies.push_back(copied);
    }

    /// How a copy ended; told once.
    pub(crate) fn take_copy(&self, list: u8) -> Option<Copied> {
        let mut state = self.unit.lock();
        let copies = &mut state.sessions.get_mut(&self.seat.session)?.copies;
        let at = copies.iter().position(|known| known.list == list)?;
        copies.remove(at)
    }

    /// The tasks that are aborted from outside are those of an older epoch than this.
    pub(crate) fn epoch(&self) -> u64 {
        self.seat.epoch()
    }

    /// May the command be looked at any closer? Attentions first, then write protection and reservations
    /// (SAM-5 section 5.14, SPC-4 section 5.9.1).
    pub(crate) fn admit(&self, row: Result<&Row, Sense>) -> Result<(), Reply> {
        let geometry = self.unit.device.geometry();
        let mut state = self.unit.lock();
        // Ended from elsewhere, which its connection has not noticed yet.
        if !state.sessions.contains_key(&self.seat.session) {
            return Err(Sense::NOT_READY.into());
        }
        if geometry.size != state.size {
            state.size = geometry.size;
            state.attend_all(SessionId(u64::MAX), Sense::CAPACITY_CHANGED);
        }
        if !row.is_ok_and(|row| row.class == Class::Inquiring)
            && let Some(sense) = self.attention(&mut state)
        {
            return Err(sense.into());
        }
        let row = row?;
        if state.is_reserved_from(&self.seat, row.class) {
            return Err(Reply::conflict());
        }
        if row.changes_medium() && (geometry.read_only || state.modes.protected) {
            return Err(Sense::WRITE_PROTECTED.into());
        }
        Ok(())
    }

    /// Takes the next attention.
    fn attention(&self, state: &mut State) -> Option<Sense> {
        state.sessions.get_mut(&self.seat.session)?.attentions.pop_front()
    }

    /// REQUEST SENSE takes an attention as well.
    pub(crate) fn take_attention(&self) -> Option<Sense> {
        self.attention(&mut self.unit.lock())
    }

    /// RESERVE(6).
    pub(crate) fn reserve(&self) -> Reply {
        let mut state = self.unit.lock();
        if state.reserved.is_some_and(|holder| holder != self.seat.session) {
            return Reply::conflict();
        }
        state.reserved = Some(self.seat.session);
        Reply::good()
    }

    /// RELEASE(6).
    pub(crate) fn release(&self) -> Reply {
        let mut state = self.unit.lock();
        if state.reserved == Some(self.seat.session) {
            state.reserved = None;
        }
        Reply::good()
    }

    /// PERSISTENT RESERVE IN.
    pub(crate) fn report_reservations(&self, action: u8) -> Option<Vec<u8>> {
        self.unit.lock().reservations.report(action)
    }

    /// PERSISTENT RESERVE OUT; what the driver must keep before it is answered, if anything changed there.
    pub(crate) fn change_reservations(&self, out: &Out<'_>) -> Result<Option<Bytes>, Reply> {
        let mut state = self.unit.lock();
        if !state.sessions.contains_key(&self.seat.session) {
            return Err(Sense::NOT_READY.into());
        }
        let effects = state.reservations.apply(&self.seat.port, out)?;
        let Effects { attentions, aborted, changed } = effects;
        for joined in state.sessions.values_mut() {
            for (port, sense) in &attentions {
                if *port == joined.port {
                    joined.attend(*sense);
                }
            }
            if aborted.contains(&joined.port) {
                joined.epoch.fetch_add(1, Ordering::Release);
            }
        }
        Ok(changed.then(|| state.reservations.encode().into()))
    }

    /// The mode parameters.
    pub(crate) fn modes(&self) -> Modes {
        self.unit.lock().modes
    }

    /// MODE SELECT has changed them.
    pub(crate) fn set_modes(&self, modes: Modes) {
        let mut state = self.unit.lock();
        if state.modes != modes {
            state.modes = modes;
            state.attend_all(self.seat.session, Sense::MODE_CHANGED);
        }
    }

    /// What mode pages tell of the medium.
    pub(crate) fn medium(&self) -> Medium {
        let geometry = self.unit.device.geometry();
        let block = self.unit.identity.block.bytes();
        Medium {
            read_only: geometry.read_only,
            block: u32::try_from(block).unwrap_or(0),
            blocks: geometry.size / block,
        }
    }

    /// Claims a stretch for a command of this epoch that changes it; `false` when `ticket`, which is then
    /// taken, has to be waited for first. `None`: it was aborted.
    pub(crate) fn claim(
        &self,
        (extent, exclusive): (Extent, bool),
        epoch: u64,
        ticket: impl FnOnce() -> Ticket,
    ) -> Option<(Arc<Hold>, bool)> {
        let claimed = self.unit.claim(extent, exclusive, || self.epoch() == epoch, ticket);
        claimed.map(|(hold, free)| (Arc::new(hold), free))
    }
}

impl Drop for Nexus {
    fn drop(&mut self) {
        self.unit.part(self.seat.session);
    }
}

impl fmt::Debug for LogicalUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogicalUnit").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl fmt::Debug for Nexus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nexus").field("lun", &self.lun).field("port", &self.seat.port).finish_non_exhaustive()
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hold({})", self.id)
    }
}
