//! The full feature phase (RFC 7143 section 4.2): which unit goes where, in the order of command numbers.

mod answers;
mod commands;
mod management;
mod memory;
mod numbers;
mod order;
mod pieces;
mod task;
mod texts;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tap_block::{Answered, CompletionQueue, Monotonic, Output, Ticket};

use crate::connection::{Action, CloseReason, Limits};
use crate::login::Ended;
use crate::login::params::Params;
use crate::pdu::{Digests, FINAL, Header, NO_TAG, Pdu, opcode};
use crate::scsi::reservation::InitiatorPort;
use crate::scsi::unit::Nexus;
use crate::target::Membership;
use management::Management;
use memory::Memory;
use numbers::{Numbers, Place};
use order::TaskSet;
use task::Task;
use texts::Texts;

/// Immediate commands beyond the window.
const IMMEDIATE: usize = 16;

/// Reasons of a Reject (section 11.17.1).
mod reason {
    pub(super) const SNACK: u8 = 0x03;
    pub(super) const PROTOCOL: u8 = 0x04;
    pub(super) const UNSUPPORTED: u8 = 0x05;
    pub(super) const IMMEDIATE: u8 = 0x06;
    pub(super) const IN_PROGRESS: u8 = 0x07;
}

/// One session, which is one connection.
pub(crate) struct Session {
    params: Params,
    limits: Limits,
    cid: u16,
    port: InitiatorPort,
    numbers: Numbers,
    /// `None` for discovery.
    membership: Option<Membership>,
    queue: Arc<dyn CompletionQueue>,
    tasks: BTreeMap<u32, Task>,
    /// By nexus.
    sets: Vec<TaskSet>,
    /// Tasks whose turn had not come when that was last looked for, by their tags, in the order in which they came.
    dormant: VecDeque<u32>,
    /// It is to be looked for again.
    stirred: bool,
    /// Tasks that wait for room, by their tags.
    queued: VecDeque<u32>,
    /// Bytes set aside for tasks.
    reserved: u64,
    memory: Memory,
    /// What tickets belong to: tasks by their tags.
    tags: BTreeMap<u64, u32>,
    next_tag: u64,
    next_ttt: u32,
    /// The epochs of the nexuses when stale tasks were last looked for.
    epochs: Vec<u64>,
    /// Commands that came before those they follow.
    early: BTreeMap<u32, Pdu>,
    management: Vec<Management>,
    texts: Texts,
    actions: VecDeque<Action>,
    heard: Monotonic,
    now: Monotonic,
    /// Writes that were under way when the session began, perhaps of the same initiator's session before: its
    /// commands wait for them, or for this long.
    barred: (BTreeSet<u64>, Monotonic),
    /// When our NOP-In went out, and its tag.
    ping: Option<(Monotonic, u32)>,
    ended: bool,
}

impl Session {
    pub(crate) fn new(
        ended: Ended,
        membership: Option<Membership>,
        limits: Limits,
        stat_sn: u32,
        queue: Arc<dyn CompletionQueue>,
        now: Monotonic,
    ) -> Self {
        let epochs: Vec<u64> = membership.iter().flat_map(|m| m.nexuses.iter().map(Nexus::epoch)).collect();
        let mut session = Self {
            params: ended.params,
            limits,
            cid: ended.cid,
            port: ended.port,
            numbers: Numbers::new(stat_sn, ended.cmd_sn, limits.commands),
            membership,
            queue,
            tasks: BTreeMap::new(),
            sets: epochs.iter().map(|_| TaskSet::default()).collect(),
            dormant: VecDeque::new(),
            stirred: false,
            queued: VecDeque::new(),
            reserved: 0,
            memory: Memory::default(),
            tags: BTreeMap::new(),
            next_tag: 0,
            next_ttt: 0,
            epochs,
            early: BTreeMap::new(),
            management: Vec::new(),
            texts: Texts::default(),
            actions: VecDeque::new(),
            heard: now,
            now,
            barred: (BTreeSet::new(), now.plus(limits.management)),
            ping: None,
            ended: false,
        };
        session.bar();
        session
    }

    fn bar(&mut self) {
        for at in 0..self.nexuses().len() {
            let (tag, ticket) = self.ticket();
            self.barred.0.insert(tag);
            if let Some(nexus) = self.nexuses().get(at) {
                nexus.unit.drain(ticket);
            }
        }
    }

    pub(crate) fn digests(&self) -> Digests {
        self.params.digests
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.tasks.len() + self.management.len()
    }

    /// Does it wait for something before it takes any more?
    pub(crate) fn is_choked(&self) -> bool {
        self.ended || self.texts.is_listing() || !self.barred.0.is_empty()
    }

    /// What a caller has to do next.
    pub(crate) fn poll_action(&mut self, output: &mut Output) -> Option<Action> {
        self.wake(output);
        self.admit_queued(output);
        self.actions.pop_front()
    }

    /// Gives up everything: tasks, reservations of SPC-2, the place in the target.
    pub(crate) fn end(&mut self) {
        self.memory.left = self.under_way();
        self.ended = true;
        self.tasks.clear();
        self.tags.clear();
        self.sets.clear();
        self.dormant.clear();
        self.queued.clear();
        self.management.clear();
        self.actions.clear();
        self.membership = None;
    }

    /// One unit.
    pub(crate) fn handle(&mut self, pdu: Pdu, now: Monotonic, output: &mut Output) {
        self.heard = now;
        let header = pdu.header;
        match header.opcode() {
            opcode::DATA_OUT => self.data_out(pdu, output),
            opcode::SNACK => self.reject(&header, reason::SNACK, output),
            opcode::NOP_OUT | opcode::COMMAND | opcode::TASK_MANAGEMENT | opcode::TEXT | opcode::LOGOUT => {
                self.order(pdu, output);
            }
            opcode::LOGIN => self.reject(&header, reason::PROTOCOL, output),
            _ => self.reject(&header, reason::UNSUPPORTED, output),
        }
    }

    /// Section 4.2.2.1: commands in the order of their numbers, immediate ones at once.
    fn order(&mut self, pdu: Pdu, output: &mut Output) {
        if pdu.header.is_immediate() {
            return self.perform(pdu, output);
        }
        let cmd_sn = pdu.header.word(24);
        match self.numbers.place(cmd_sn) {
            Place::Outside => {}
            Place::Later => {
                self.early.insert(cmd_sn, pdu);
            }
            Place::Next => {
                self.numbers.took_command();
                self.perform(pdu, output);
                while let Some(pdu) = self.early.remove(&self.numbers.expected()) {
                    self.numbers.took_command();
                    self.perform(pdu, output);
                }
            }
        }
    }

    fn perform(&mut self, pdu: Pdu, output: &mut Output) {
        let header = pdu.header;
        match header.opcode() {
            opcode::COMMAND => self.command(pdu, output),
            opcode::TASK_MANAGEMENT => self.manage(&header, output),
            opcode::TEXT => self.text(&pdu, output),
            opcode::LOGOUT => self.log_out(&header, output),
            _ => self.nop_out(pdu, output),
        }
    }

    /// Section 11.18: an answer to our NOP-In, or a question that wants its data back.
    fn nop_out(&mut self, pdu: Pdu, output: &mut Output) {
        let header = pdu.header;
        if self.ping.is_some_and(|(_, ttt)| ttt == header.ttt()) {
            self.ping = None;
        }
        if header.itt() == NO_TAG {
            return;
        }
        let mut data = pdu.data;
        data.truncate(usize::try_from(self.params.max_send).unwrap_or(0));
        let answer = Header::new(opcode::NOP_IN)
            .with_flags(FINAL)
            .with(8, &header.lun().to_be_bytes())
            .with_itt(header.itt())
            .with_ttt(NO_TAG);
        self.send_status(answer, data, output);
    }

    /// Section 11.14: only the whole session can be logged out of, since it is one connection.
    fn log_out(&mut self, header: &Header, output: &mut Output) {
        let response = match header.flags() & 0x7f {
            0 => 0,
            1 if header.word(20) >> 16 == u32::from(self.cid) => 0,
            1 => 1,
            // Recovery of connections takes recovery level 2.
            2 => 2,
            _ => return self.reject(header, reason::PROTOCOL, output),
        };
        let answer = Header::new(opcode::LOGOUT_RESPONSE)
            .with_flags(FINAL)
            .with(2, &[response])
            .with_itt(header.itt());
        self.send_status(answer, Bytes::new(), output);
        if response == 0 {
            self.end();
            self.actions.push_back(Action::Close(CloseReason::LoggedOut));
        }
    }

    /// Section 11.9: please log out.
    pub(crate) fn ask_to_log_out(&mut self, output: &mut Output) {
        let header = Header::new(opcode::ASYNC)
            .with_flags(FINAL)
            .with_itt(NO_TAG)
            .with(36, &[1])
            .with(42, &5_u16.to_be_bytes());
        self.send_status(header, Bytes::new(), output);
    }

    /// Section 11.17.
    pub(crate) fn reject(&mut self, offending: &Header, reason: u8, output: &mut Output) {
        let header = Header::new(opcode::REJECT).with_flags(FINAL).with(2, &[reason]).with_itt(NO_TAG);
        let data = Bytes::copy_from_slice(offending.bytes());
        self.send_status(header, data, output);
    }

    fn send_status(&mut self, header: Header, data: Bytes, output: &mut Output) {
        self.open_window();
        let header = self.numbers.status(header);
        header.send(data, self.params.digests, output);
    }

    fn open_window(&mut self) {
        let busy = u32::try_from(self.tasks.len()).unwrap_or(u32::MAX);
        self.numbers.open(self.limits.commands.saturating_sub(busy));
    }

    fn tag(&mut self) -> u64 {
        self.next_tag += 1;
        self.next_tag
    }

    /// A ticket that nobody but task management waits for.
    fn ticket(&mut self) -> (u64, Ticket) {
        let tag = self.tag();
        (tag, Ticket::new(tag, self.queue.clone()))
    }

    fn transfer_tag(&mut self) -> u32 {
        self.next_ttt = if self.next_ttt >= NO_TAG - 1 { 0 } else { self.next_ttt + 1 };
        self.next_ttt
    }

    fn nexuses(&self) -> &[Nexus] {
        self.membership.as_ref().map_or(&[], |membership| &membership.nexuses)
    }

    /// An outcome came.
    pub(crate) fn handle_completion(&mut self, tag: u64, answered: Answered, output: &mut Output) {
        self.barred.0.remove(&tag);
        if let Some(itt) = self.tags.remove(&tag) {
            self.resume(itt, tag, answered, output);
        }
        self.manage_completed(tag, output);
    }

    /// Asks a silent initiator whether it is there, and answers task management that waits too long.
    pub(crate) fn handle_time(&mut self, now: Monotonic, output: &mut Output) {
        self.now = now;
        self.manage_late(now, output);
        if self.barred.1 <= now {
            self.barred.0.clear();
        }
        match self.ping {
            Some((sent, _)) if now.since(sent) >= self.limits.ping => {
                self.actions.push_back(Action::Close(CloseReason::Silent));
            }
            None if now.since(self.heard) >= self.limits.idle => {
                let ttt = self.transfer_tag();
                self.ping = Some((now, ttt));
                let header = Header::new(opcode::NOP_IN).with_flags(FINAL).with_itt(NO_TAG).with_ttt(ttt);
                let header = self.numbers.next_status(header);
                header.send(Bytes::new(), self.params.digests, output);
            }
            _ => {}
        }
    }

    pub(crate) fn next_deadline(&self) -> Monotonic {
        let silent = match self.ping {
            Some((sent, _)) => sent.plus(self.limits.ping),
            None => self.heard.plus(self.limits.idle),
        };
        let late = self.management.iter().map(|m| m.deadline);
        let barred = (!self.barred.0.is_empty()).then_some(self.barred.1);
        late.chain(barred).fold(silent, Monotonic::min)
    }
}
