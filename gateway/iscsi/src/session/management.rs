//! Task management (RFC 7143 section 11.5): answered once nothing that was aborted touches the disk any
//! more, or when the time for that is up.

use std::collections::BTreeSet;

use bytes::Bytes;
use tap_block::{Monotonic, Output};

use super::Session;
use crate::pdu::{FINAL, Header, opcode};
use crate::scsi;

/// Functions under way at a time.
const MAX_UNDER_WAY: usize = 16;

/// Section 11.6.1.
mod response {
    pub(super) const COMPLETE: u8 = 0;
    pub(super) const NO_TASK: u8 = 1;
    pub(super) const NO_UNIT: u8 = 2;
    pub(super) const NO_REASSIGNMENT: u8 = 4;
    pub(super) const UNSUPPORTED: u8 = 5;
    pub(super) const REJECTED: u8 = 255;
}

/// A function that waits for the disk.
#[derive(Debug)]
pub(super) struct Management {
    itt: u32,
    waits_for: BTreeSet<u64>,
    pub(super) deadline: Monotonic,
    /// All sessions end once it is answered.
    cold: bool,
}

impl Session {
    /// A task management request.
    pub(super) fn manage(&mut self, header: &Header, output: &mut Output) {
        if self.management.len() >= MAX_UNDER_WAY {
            return self.manage_answer(header.itt(), response::REJECTED, output);
        }
        let function = header.flags() & 0x7f;
        let unit = scsi::decode_lun(header.lun());
        let at = self.nexuses().iter().position(|nexus| Some(nexus.lun) == unit);
        let outcome = match (function, at) {
            (1, _) => self.abort_task(header),
            (2..=5, None) => Err(response::NO_UNIT),
            // ABORT TASK SET, and CLEAR TASK SET, which is the same where each session has its own (SAM-5 section 7.5).
            (2 | 4, Some(at)) => Ok(self.abort_all(at)),
            (5, Some(at)) => Ok(self.reset(at)),
            (6 | 7, _) => Ok((0..self.nexuses().len()).flat_map(|at| self.reset(at)).collect()),
            (8, _) => Err(response::NO_REASSIGNMENT),
            _ => Err(response::UNSUPPORTED),
        };
        match outcome {
            Err(response) => self.manage_answer(header.itt(), response, output),
            Ok(waits_for) => {
                let deadline = self.now.plus(self.limits.management);
                let waits_for = waits_for.into_iter().collect();
                let cold = function == 7;
                self.management.push(Management { itt: header.itt(), waits_for, deadline, cold });
                self.manage_done(|_| false, output);
            }
        }
    }

    /// Section 11.5.1: a task that is not there any more was done before, one that never came never will.
    fn abort_task(&mut self, header: &Header) -> Result<Vec<u64>, u8> {
        let there = self.tasks.get(&header.ttt()).is_some_and(|task| task.header.lun() == header.lun());
        if !there {
            return Err(response::NO_TASK);
        }
        Ok(self.abort(header.ttt()))
    }

    /// Ends a task without an answer; what of it is still under way.
    fn abort(&mut self, itt: u32) -> Vec<u64> {
        self.forget(itt).map_or_else(Vec::new, |task| task.tags().collect())
    }

    fn abort_all(&mut self, at: usize) -> Vec<u64> {
        let mine = self.tasks.iter().filter(|(_, task)| task.nexus == Some(at));
        let mine: Vec<u32> = mine.map(|(itt, _)| *itt).collect();
        mine.into_iter().flat_map(|itt| self.abort(itt)).collect()
    }

    /// Ends the tasks of everybody.
    fn reset(&mut self, at: usize) -> Vec<u64> {
        self.abort_all(at);
        let (tag, ticket) = self.ticket();
        let Some(nexus) = self.nexuses().get(at) else { return Vec::new() };
        nexus.unit.reset(ticket);
        vec![tag]
    }

    /// Something that may have been waited for is over.
    pub(super) fn manage_completed(&mut self, tag: u64, output: &mut Output) {
        for management in &mut self.management {
            management.waits_for.remove(&tag);
        }
        self.manage_done(|_| false, output);
    }

    pub(super) fn manage_late(&mut self, now: Monotonic, output: &mut Output) {
        self.manage_done(|management| management.deadline <= now, output);
    }

    fn manage_done(&mut self, late: impl Fn(&Management) -> bool, output: &mut Output) {
        let all = std::mem::take(&mut self.management);
        for management in all {
            if !management.waits_for.is_empty() && !late(&management) {
                self.management.push(management);
                continue;
            }
            self.manage_answer(management.itt, response::COMPLETE, output);
            if let (true, Some(membership)) = (management.cold, &self.membership) {
                membership.target.kick();
            }
        }
    }

    fn manage_answer(&mut self, itt: u32, response: u8, output: &mut Output) {
        let header = Header::new(opcode::TASK_MANAGEMENT_RESPONSE)
            .with_flags(FINAL)
            .with(2, &[response])
            .with_itt(itt);
        self.send_status(header, Bytes::new(), output);
    }
}
