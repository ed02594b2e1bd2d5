//! SCSI commands in a session: admission, their data, the disk, the answer.

use bytes::Bytes;
use std::sync::Arc;
use tap_block::{Answered, BlockDevice, CompletionQueue, Op, Output, Ticket};

use super::pieces::Pieces;
use super::task::{DataOut, Stage, Task};
use super::{IMMEDIATE, Session, reason};
use crate::connection::Action;
use crate::field::len32;
use crate::pdu::{FINAL, Header, Pdu, opcode};
use crate::scsi::party::DEVICE_FAILURE;
use crate::scsi::segments::Named;
use crate::scsi::sense::{Reply, Sense};
use crate::scsi::unit::{Hold, Nexus};
use crate::scsi::work::{Step, Work};
use crate::scsi::{self, Begun};
use crate::target::Target;

/// What the initiator has to send is not what its CDB speaks of, where that would make it something else.
const WRONG_LENGTH: Sense = Sense::new(5, 0x2400);

/// Keeps a command's claim on its blocks until its operation is over, whatever became of the session, and the target: one made
/// anew would know of no claim for the initiator's next session to wait for.
struct Landing {
    queue: Arc<dyn CompletionQueue>,
    _hold: Arc<Hold>,
    _target: Option<Arc<Target>>,
}

impl CompletionQueue for Landing {
    fn complete(&self, tag: u64, answered: Answered) {
        self.queue.complete(tag, answered);
    }
}

impl Session {
    /// A SCSI command (RFC 7143 section 11.3).
    pub(super) fn command(&mut self, pdu: Pdu, output: &mut Output) {
        self.sweep();
        let Pdu { header, data } = pdu;
        if let Err(reason) = self.check_command(&header, &data) {
            return self.reject(&header, reason, output);
        }
        let nexus = self.nexus_of(header.lun());
        let writes = header.flags() & 0x20 != 0;
        let available = if writes { header.word(20) } else { 0 };
        let unsolicited = (writes && !header.is_final()).then(|| self.params.first_burst.min(available));
        let set = nexus.and_then(|n| self.sets.get_mut(n));
        let turn = set.map(|set| set.enter(header.flags() & 0x07));
        let task = Task {
            header,
            nexus,
            turn,
            epoch: nexus.and_then(|n| self.nexuses().get(n)).map_or(0, |nexus| nexus.epoch()),
            work: None,
            hold: None,
            claimed: 0,
            stage: Stage::Dormant,
            tag: None,
            reserved: 0,
            out: DataOut::new(available, data, unsolicited),
            pieces: Pieces::default(),
            verdict: None,
            data_units: 0,
        };
        let has_come = self.has_come(&task);
        self.tasks.insert(header.itt(), task);
        if has_come {
            self.begin(header.itt(), output);
        } else {
            self.dormant.push_back(header.itt());
        }
    }

    fn has_come(&self, task: &Task) -> bool {
        let set = task.nexus.and_then(|n| self.sets.get(n));
        set.zip(task.turn).is_none_or(|(set, turn)| set.has_come(turn))
    }

    /// Begins the tasks whose turn has come. They hold no room before, so that what they wait for never waits for them.
    pub(super) fn wake(&mut self, output: &mut Output) {
        while std::mem::take(&mut self.stirred) {
            for itt in std::mem::take(&mut self.dormant) {
                let Some(task) = self.tasks.get(&itt).filter(|t| t.stage == Stage::Dormant) else { continue };
                if self.is_stale(task) {
                    self.forget(itt);
                } else if self.has_come(task) {
                    self.begin(itt, output);
                } else {
                    self.dormant.push_back(itt);
                }
            }
        }
    }

    /// A task's turn has come: only now is it looked at, since those before it may have changed what it meets.
    fn begin(&mut self, itt: u32, output: &mut Output) {
        let Some(task) = self.tasks.get(&itt) else { return };
        let begun = self.look_at(task.nexus, &task.header);
        let available = task.out.wanted;
        let (work, verdict) = match begun {
            Begun::Reply(reply) => (None, Some(reply)),
            Begun::Work(work) if work.is_exact() && work.wanted() != u64::from(available) => {
                (None, Some(WRONG_LENGTH.into()))
            }
            Begun::Work(work) => (Some(work), None),
        };
        let wanted = work.as_ref().map_or(0, Work::wanted).min(u64::from(available));
        let block = task.nexus.and_then(|n| self.nexuses().get(n)).map_or(0, |nexus| nexus.disk().block);
        let pieces = Pieces::of(work.as_ref(), wanted, block);
        let Some(task) = self.tasks.get_mut(&itt) else { return };
        task.out.limit(u32::try_from(wanted).unwrap_or(available));
        task.pieces = pieces;
        (task.work, task.verdict) = (work, verdict);
        task.stage = Stage::Receiving;
        self.proceed(itt, output);
    }

    fn check_command(&mut self, header: &Header, data: &Bytes) -> Result<(), u8> {
        if self.membership.is_none() {
            return Err(reason::PROTOCOL);
        }
        if self.tasks.contains_key(&header.itt()) {
            return Err(reason::IN_PROGRESS);
        }
        let most = usize::try_from(self.limits.commands).unwrap_or(0) + IMMEDIATE;
        if self.tasks.len() >= most {
            return Err(reason::IMMEDIATE);
        }
        let writes = header.flags() & 0x20 != 0;
        let limit = self.params.first_burst.min(header.word(20));
        let unasked = !header.is_final() || !data.is_empty();
        // Sections 4.2.5.2 and 11.3.4: data comes unasked only if it was agreed to, and only so much.
        if unasked && !writes
            || !data.is_empty() && !self.params.immediate_data
            || !header.is_final() && self.params.initial_r2t
            || len32(data.len()) > limit
        {
            return Err(reason::PROTOCOL);
        }
        Ok(())
    }

    fn nexus_of(&self, lun: u64) -> Option<usize> {
        let lun = scsi::decode_lun(lun)?;
        self.nexuses().iter().position(|nexus| nexus.lun == lun)
    }

    fn look_at(&self, nexus: Option<usize>, header: &Header) -> Begun {
        let luns = self.membership.as_ref().map_or(&[][..], |m| m.target.luns());
        match nexus.and_then(|n| self.nexuses().get(n)) {
            Some(nexus) => scsi::begin(nexus, &header.cdb(), luns),
            None => Begun::Reply(scsi::begin_absent(&header.cdb(), luns)),
        }
    }

    /// Forgets tasks that were aborted from elsewhere: nobody is answered (SAM-5 section 5.3, TAS is zero).
    fn sweep(&mut self) {
        if self.nexuses().iter().map(Nexus::epoch).eq(self.epochs.iter().copied()) {
            return;
        }
        let now: Vec<u64> = self.nexuses().iter().map(Nexus::epoch).collect();
        let stale = |task: &Task| task.nexus.and_then(|n| now.get(n)).is_some_and(|&e| e != task.epoch);
        let gone: Vec<u32> = self.tasks.iter().filter(|(_, task)| stale(task)).map(|(itt, _)| *itt).collect();
        gone.into_iter().for_each(|itt| drop(self.forget(itt)));
        self.epochs = now;
    }

    fn is_stale(&self, task: &Task) -> bool {
        task.nexus.and_then(|n| self.nexuses().get(n)).is_some_and(|nexus| nexus.epoch() != task.epoch)
    }

    /// Takes a task out. An operation of it under way goes on; its outcome goes nowhere.
    pub(super) fn forget(&mut self, itt: u32) -> Option<Task> {
        let task = self.tasks.remove(&itt)?;
        self.reserved -= task.reserved;
        for tag in task.tags() {
            self.tags.remove(&tag);
        }
        let set = task.nexus.and_then(|n| self.sets.get_mut(n));
        let others_may_begin = set.zip(task.turn).is_some_and(|(set, turn)| set.leave(turn));
        // One that has not begun is taken off the list of those that wait when that is looked through.
        self.stirred |= others_may_begin || task.stage == Stage::Dormant;
        Some(task)
    }

    /// A Data-Out unit (section 11.7). One for no task belongs to one that ended early.
    pub(super) fn data_out(&mut self, pdu: Pdu, output: &mut Output) {
        let header = pdu.header;
        let itt = header.itt();
        let live = |task: &&mut Task| task.stage != Stage::Landing;
        let Some(task) = self.tasks.get_mut(&itt).filter(live) else { return };
        match task.out.put(pdu) {
            Ok(()) => self.proceed(itt, output),
            Err(_) => {
                self.reject(&header, reason::PROTOCOL, output);
                self.finish_landed(itt, Sense::SHORT_DATA, output);
            }
        }
    }

    /// A task has got something: what now?
    pub(super) fn proceed(&mut self, itt: u32, output: &mut Output) {
        let Some(task) = self.tasks.get_mut(&itt) else { return };
        if task.stage != Stage::Receiving || task.out.unsolicited {
            return;
        }
        if task.verdict.is_some() {
            return self.conclude(itt, output);
        }
        if task.reserved > 0 && task.pieces.are_wanted() {
            return self.write_pieces(itt, output);
        }
        if task.reserved > 0 && !task.out.is_whole() {
            return self.ask(itt, output);
        }
        let needs_room = task.reserved == 0 && task.work.as_ref().is_some_and(|work| work.holds() > 0);
        if task.out.is_whole() && !needs_room {
            return self.run(itt, output);
        }
        task.stage = Stage::Queued;
        self.queued.push_back(itt);
        self.admit_queued(output);
    }

    /// Lets tasks go on that wait for room, first come first served.
    pub(super) fn admit_queued(&mut self, output: &mut Output) {
        self.memory.settle();
        while let Some(&itt) = self.queued.front() {
            let held = self.held(output);
            let Some(task) = self.tasks.get_mut(&itt).filter(|task| task.stage == Stage::Queued) else {
                self.queued.pop_front();
                continue;
            };
            let size = task.work.as_ref().map_or(0, Work::holds) + u64::from(task.out.wanted);
            let used = self.reserved + u64::try_from(output.len()).unwrap_or(u64::MAX);
            if used > 0 && used + size > self.limits.in_flight || !self.memory.has(held.saturating_add(size))
            {
                return;
            }
            task.reserved = size;
            self.reserved += size;
            self.queued.pop_front();
            if task.out.is_whole() {
                self.run(itt, output);
            } else {
                task.stage = Stage::Receiving;
                self.proceed(itt, output);
            }
        }
    }

    /// Asks for data as far as was agreed (section 11.8).
    pub(super) fn ask(&mut self, itt: u32, output: &mut Output) {
        let most = usize::try_from(self.params.max_outstanding_r2t).unwrap_or(1);
        loop {
            let ttt = self.transfer_tag();
            let Some(task) = self.tasks.get_mut(&itt).filter(|task| task.out.r2ts.len() < most) else {
                return;
            };
            let Some(r2t) = task.out.ask(ttt, self.params.max_burst) else { return };
            let header = Header::new(opcode::R2T)
                .with_flags(FINAL)
                .with(8, &task.header.lun().to_be_bytes())
                .with_itt(itt)
                .with_ttt(ttt)
                .with_word(36, task.data_units)
                .with_word(40, r2t.offset)
                .with_word(44, r2t.length);
            task.data_units += 1;
            let header = self.numbers.next_status(header);
            header.send(Bytes::new(), self.params.digests, output);
        }
    }

    /// All data is there.
    fn run(&mut self, itt: u32, output: &mut Output) {
        let tag = self.tag();
        let queue = self.queue.clone();
        let Some(task) = self.tasks.get_mut(&itt) else { return };
        let Some(work) = &mut task.work else { return };
        let nexuses = self.membership.as_ref().map_or(&[][..], |m| &m.nexuses);
        let Some(nexus) = task.nexus.and_then(|n| nexuses.get(n)) else { return };
        let Some(membership) = &self.membership else { return };
        let own = || membership.party(nexus);
        if let Err(sense) =
            work.give(nexus, (own, |name: &Named<'_>| membership.reach(name)), task.out.take())
        {
            return self.finish(itt, sense.into(), output);
        }
        if let Some(claims) = work.claims() {
            let claimed = nexus.claim(claims, task.epoch, || Ticket::new(tag, queue));
            let Some((hold, free)) = claimed else {
                self.forget(itt);
                return;
            };
            task.hold = Some(hold);
            if !free {
                task.stage = Stage::Claiming;
                task.tag = Some(tag);
                self.tags.insert(tag, itt);
                return;
            }
        }
        self.claim_for_copy(itt, output);
    }

    /// A copy claims what it writes to unit by unit; all else starts.
    fn claim_for_copy(&mut self, itt: u32, output: &mut Output) {
        loop {
            let tag = self.tag();
            let queue = self.queue.clone();
            let Some(task) = self.tasks.get_mut(&itt) else { return };
            let claims = task.work.as_ref().map_or(&[][..], Work::claims_of_copy);
            let Some((party, extent)) = claims.get(task.claimed) else { return self.start(itt, output) };
            let claimed = party.claim(*extent, task.hold.take(), || Ticket::new(tag, queue));
            let Some((hold, free)) = claimed else { return self.finish(itt, DEVICE_FAILURE.into(), output) };
            task.hold = Some(hold);
            task.claimed += 1;
            if !free {
                task.stage = Stage::Claiming;
                task.tag = Some(tag);
                self.tags.insert(tag, itt);
                return;
            }
        }
    }

    fn start(&mut self, itt: u32, output: &mut Output) {
        let Some(task) = self.tasks.get_mut(&itt) else { return };
        task.stage = Stage::Running;
        let nexuses = self.membership.as_ref().map_or(&[][..], |m| &m.nexuses);
        let nexus = task.nexus.and_then(|n| nexuses.get(n));
        let (Some(nexus), Some(work)) = (nexus, &mut task.work) else { return };
        let step = work.start(nexus);
        self.do_step(itt, step, output);
    }

    /// What a task waited for has come.
    pub(super) fn resume(&mut self, itt: u32, tag: u64, answered: Answered, output: &mut Output) {
        if self.tasks.get(&itt).is_some_and(|task| self.is_stale(task)) {
            self.forget(itt);
            return;
        }
        let Some(task) = self.tasks.get_mut(&itt) else { return };
        if let Some(piece) = task.pieces.remove(tag) {
            return self.piece_came(itt, piece, answered, output);
        }
        task.tag = None;
        if task.stage == Stage::Claiming {
            return self.claim_for_copy(itt, output);
        }
        let nexuses = self.membership.as_ref().map_or(&[][..], |m| &m.nexuses);
        let nexus = task.nexus.and_then(|n| nexuses.get(n));
        let (Some(nexus), Some(work)) = (nexus, &mut task.work) else { return };
        let step = work.go_on(nexus, answered);
        self.do_step(itt, step, output);
    }

    fn do_step(&mut self, itt: u32, step: Step, output: &mut Output) {
        match step {
            Step::Done(reply) => self.finish(itt, reply, output),
            Step::Submit(op) => self.submit(itt, op),
            Step::Errand(device, op) => self.submit_to(itt, device, op),
            Step::Keep(reservations) => self.keep(itt, reservations),
        }
    }

    fn submit(&mut self, itt: u32, op: Op) {
        let Some(task) = self.tasks.get(&itt) else { return };
        let Some(nexus) = task.nexus.and_then(|n| self.nexuses().get(n)) else { return };
        let device = nexus.unit.device().clone();
        self.submit_to(itt, device, op);
    }

    fn submit_to(&mut self, itt: u32, device: Arc<dyn BlockDevice>, op: Op) {
        let tag = self.tag();
        let Some(task) = self.tasks.get_mut(&itt) else { return };
        let hold = task.hold.clone();
        task.tag = Some(tag);
        self.tags.insert(tag, itt);
        let ticket = Ticket::new(tag, self.landing(hold));
        self.actions.push_back(Action::Submit { device, op, ticket });
    }

    /// Where the outcome of an operation goes that was begun with this claim.
    pub(super) fn landing(&self, hold: Option<Arc<Hold>>) -> Arc<dyn CompletionQueue> {
        let Some(hold) = hold else { return self.queue.clone() };
        let target = self.membership.as_ref().map(|m| m.target.clone());
        Arc::new(Landing { queue: self.queue.clone(), _hold: hold, _target: target })
    }

    fn keep(&mut self, itt: u32, reservations: Bytes) {
        let (tag, ticket) = self.ticket();
        let Some(membership) = &self.membership else { return };
        let Some(task) = self.tasks.get_mut(&itt) else { return };
        let Some(nexus) = task.nexus.and_then(|n| membership.nexuses.get(n)) else { return };
        task.tag = Some(tag);
        self.tags.insert(tag, itt);
        let target = membership.target.clone();
        self.actions.push_back(Action::Keep { target, lun: nexus.lun, reservations, ticket });
    }

    /// A task ends with `reply`.
    pub(super) fn finish(&mut self, itt: u32, reply: Reply, output: &mut Output) {
        let Some(task) = self.forget(itt) else { return };
        if !self.is_stale(&task) {
            self.answer(&task, reply, output);
        }
    }
}
