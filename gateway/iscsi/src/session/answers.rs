//! The answer to a SCSI command: Data-In, status, sense, residuals (RFC 7143 sections 11.4 and 11.7).

use bytes::Bytes;
use tap_block::Output;

use super::Session;
use super::task::Task;
use crate::field::len16;
use crate::pdu::{FINAL, Header, NO_TAG, opcode};
use crate::scsi::sense::{Reply, Sense, status};
use crate::scsi::work::Work;

const OVERFLOW: u8 = 0x04;
const UNDERFLOW: u8 = 0x02;
/// A Data-In unit that carries the status.
const STATUS: u8 = 0x01;

/// What was not moved, or could not be (section 11.4.5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Residual {
    flags: u8,
    count: u32,
}

impl Residual {
    /// `expected` by the initiator, `actual` by the command.
    fn new(expected: u32, actual: u64) -> Self {
        let expected = u64::from(expected);
        let count = u32::try_from(expected.abs_diff(actual)).unwrap_or(u32::MAX);
        let flags = match expected.cmp(&actual) {
            std::cmp::Ordering::Less => OVERFLOW,
            std::cmp::Ordering::Equal => 0,
            std::cmp::Ordering::Greater => UNDERFLOW,
        };
        Self { flags, count }
    }
}

impl Session {
    /// Sends all that a task is answered with.
    pub(super) fn answer(&mut self, task: &Task, reply: Reply, output: &mut Output) {
        self.memory.note(output);
        let residual = residual(task, &reply);
        let mut data = reply.data;
        let most = if task.reads() { task.expected() } else { 0 };
        data.truncate(usize::try_from(most).unwrap_or(0));
        let with_status = reply.status == status::GOOD && !data.is_empty();
        let sent = self.data_in(task, data, with_status.then_some(residual), output);
        if !with_status {
            let sense = reply.sense.map_or(Bytes::new(), |sense| self.sense_data(task, sense));
            let header = Header::new(opcode::RESPONSE)
                .with_flags(FINAL | residual.flags)
                .with(3, &[reply.status])
                .with_itt(task.header.itt())
                .with_word(36, task.data_units + sent)
                .with_word(44, residual.count);
            self.send_status(header, sense, output);
        }
        self.memory.note(output);
    }

    /// Its length, then the sense data in the format that the unit is set to.
    fn sense_data(&self, task: &Task, sense: Sense) -> Bytes {
        let nexus = task.nexus.and_then(|n| self.nexuses().get(n));
        let sense = sense.encode(nexus.is_some_and(|nexus| nexus.modes().descriptors));
        [&len16(sense.len()).to_be_bytes()[..], &sense].concat().into()
    }

    /// Sends Data-In units, the last of them with the status if `ending` is given; how many.
    fn data_in(
        &mut self,
        task: &Task,
        mut data: Bytes,
        ending: Option<Residual>,
        output: &mut Output,
    ) -> u32 {
        let (piece, burst) = (self.params.max_send, self.params.max_burst);
        let (mut offset, mut number) = (0_u32, 0_u32);
        while !data.is_empty() {
            // Section 13.13: a sequence is no longer than a burst, and its last unit is final.
            let left = burst - offset % burst;
            let length = usize::try_from(piece.min(left)).unwrap_or(1).clamp(1, data.len());
            let part = data.split_to(length);
            let length = u32::try_from(length).unwrap_or(left);
            let last = data.is_empty();
            let last_of_burst = if last || length == left { FINAL } else { 0 };
            let header = Header::new(opcode::DATA_IN)
                .with_itt(task.header.itt())
                .with_ttt(NO_TAG)
                .with_word(36, number)
                .with_word(40, offset);
            offset = offset.saturating_add(length);
            number += 1;
            match ending.filter(|_| last) {
                Some(residual) => {
                    let flags = FINAL | STATUS | residual.flags;
                    let header = header.with_flags(flags).with_word(44, residual.count);
                    self.send_status(header, part, output);
                }
                None => {
                    let header = self.numbers.plain(header.with_flags(last_of_burst));
                    header.send(part, self.params.digests, output);
                }
            }
        }
        number
    }
}

fn residual(task: &Task, reply: &Reply) -> Residual {
    let given = u64::try_from(reply.data.len()).unwrap_or(u64::MAX);
    if task.writes() {
        // A command that was refused has moved nothing.
        Residual::new(task.expected(), task.work.as_ref().map_or(0, Work::wanted))
    } else if task.reads() {
        Residual::new(task.expected(), given)
    } else {
        let wanted = task.work.as_ref().map_or(0, Work::wanted);
        Residual::new(0, given.max(wanted))
    }
}
