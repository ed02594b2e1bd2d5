//! The commands that are supported, in one table: what REPORT SUPPORTED OPERATION CODES says of each, and
//! what admission needs to know before a command is looked at any closer.

use crate::field::{be16, be32, byte, len16, len32, put};
use crate::scsi::reservation::Wants;
use crate::scsi::sense::{Reply, Sense};

/// How a command stands to reservations and write protection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Always answered, whatever attention waits (SAM-5 section 5.14).
    Inquiring,
    /// Answered whoever holds a reservation.
    Free,
    /// As [`Wants`] says.
    Wants(Wants),
    /// RESERVE, RELEASE.
    OldReservation,
    /// PERSISTENT RESERVE IN and OUT.
    Persistent,
}

/// One command.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) opcode: u8,
    /// The service action, where the opcode has several.
    pub(crate) action: Option<u16>,
    pub(crate) class: Class,
    /// The bits of the CDB that are looked at (SPC-4 section 6.34.4), the opcode among them.
    usage: &'static [u8],
    /// How long it may take, in seconds.
    recommended: u32,
}

const READ: Class = Class::Wants(Wants::Read);
const WRITE: Class = Class::Wants(Wants::Write);
const MANAGE: Class = Class::Wants(Wants::Manage);

const fn row(opcode: u8, action: Option<u16>, class: Class, usage: &'static [u8]) -> Row {
    let recommended = match class {
        Class::Wants(Wants::Write) => 60,
        _ => 30,
    };
    Row { opcode, action, class, usage, recommended }
}

/// Ascending by opcode and service action.
pub(crate) static TABLE: &[Row] = &[
    row(0x00, None, Class::Free, &[0x00, 0, 0, 0, 0, 0x07]),
    row(0x03, None, Class::Inquiring, &[0x03, 1, 0, 0, 0xff, 0x07]),
    row(0x08, None, READ, &[0x08, 0x1f, 0xff, 0xff, 0xff, 0x07]),
    row(0x0a, None, WRITE, &[0x0a, 0x1f, 0xff, 0xff, 0xff, 0x07]),
    row(0x12, None, Class::Inquiring, &[0x12, 1, 0xff, 0xff, 0xff, 0x07]),
    row(0x15, None, MANAGE, &[0x15, 0x11, 0, 0, 0xff, 0x07]),
    row(0x16, None, Class::OldReservation, &[0x16, 0, 0, 0, 0, 0x07]),
    row(0x17, None, Class::OldReservation, &[0x17, 0, 0, 0, 0, 0x07]),
    row(0x1a, None, MANAGE, &[0x1a, 0x08, 0xff, 0xff, 0xff, 0x07]),
    row(0x1d, None, MANAGE, &[0x1d, 0x04, 0, 0, 0, 0x07]),
    row(0x25, None, Class::Free, &[0x25, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0x07]),
    row(0x28, None, READ, &[0x28, 0x18, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0x07]),
    row(0x2a, None, WRITE, &[0x2a, 0x18, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0x07]),
    row(0x2e, None, WRITE, &[0x2e, 0x16, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0x07]),
    row(0x2f, None, READ, &[0x2f, 0x16, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0x07]),
    row(0x34, None, READ, &[0x34, 0x02, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0x07]),
    row(0x35, None, WRITE, &[0x35, 0x02, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0x07]),
    row(0x37, None, READ, &[0x37, 0, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0x07]),
    row(0x41, None, WRITE, &[0x41, 0x18, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0x07]),
    row(0x42, None, WRITE, &[0x42, 0, 0, 0, 0, 0, 0x1f, 0xff, 0xff, 0x07]),
    row(0x55, None, MANAGE, &[0x55, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff, 0x07]),
    row(0x5a, None, MANAGE, &[0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0x07]),
    row(0x5e, Some(0), Class::Persistent, &[0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, 0x07]),
    row(0x5e, Some(1), Class::Persistent, &[0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, 0x07]),
    row(0x5e, Some(2), Class::Persistent, &[0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, 0x07]),
    row(0x5e, Some(3), Class::Persistent, &[0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, 0x07]),
    row(0x5f, Some(0), Class::Persistent, &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x07]),
    row(0x5f, Some(1), Class::Persistent, &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x07]),
    row(0x5f, Some(2), Class::Persistent, &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x07]),
    row(0x5f, Some(3), Class::Persistent, &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x07]),
    row(0x5f, Some(4), Class::Persistent, &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x07]),
    row(0x5f, Some(5), Class::Persistent, &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x07]),
    row(0x5f, Some(6), Class::Persistent, &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x07]),
    row(0x5f, Some(7), Class::Persistent, &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x07]),
    row(0x83, Some(0), WRITE, &[0x83, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 7]),
    row(0x84, Some(0), Class::Free, &[0x84, 0x1f, 255, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 7]),
    row(0x84, Some(3), Class::Free, &[0x84, 0x1f, 255, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 7]),
    row(0x88, None, READ, &[0x88, 0x18, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0x1f, 7]),
    row(0x89, None, WRITE, &[0x89, 0x18, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 255, 0x1f, 7]),
    row(
        0x8a,
        None,
        WRITE,
        &[0x8a, 0x18, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0x1f, 7],
    ),
    row(
        0x8b,
        None,
        WRITE,
        &[0x8b, 0x18, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0x1f, 7],
    ),
    row(
        0x8e,
        None,
        WRITE,
        &[0x8e, 0x16, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0x1f, 7],
    ),
    row(0x8f, None, READ, &[0x8f, 0x16, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0x1f, 7]),
    row(0x90, None, READ, &[0x90, 0x02, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0x1f, 7]),
    row(
        0x91,
        None,
        WRITE,
        &[0x91, 0x02, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0x1f, 7],
    ),
    row(
        0x93,
        None,
        WRITE,
        &[0x93, 0x19, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0x1f, 7],
    ),
    row(0x9e, Some(0x10), Class::Free, &[0x9e, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 7]),
    row(
        0x9e,
        Some(0x12),
        READ,
        &[0x9e, 0x1f, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 7],
    ),
    row(0xa0, None, Class::Inquiring, &[0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x07]),
    row(0xa3, Some(0x0a), Class::Free, &[0xa3, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x07]),
    row(
        0xa3,
        Some(0x0c),
        Class::Free,
        &[0xa3, 0x1f, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x07],
    ),
    row(0xa3, Some(0x0d), Class::Free, &[0xa3, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x07]),
    row(0xa8, None, READ, &[0xa8, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0x07]),
    row(0xaa, None, WRITE, &[0xaa, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0x07]),
    row(0xae, None, WRITE, &[0xae, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0x07]),
    row(0xaf, None, READ, &[0xaf, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0x07]),
    row(0xb7, None, READ, &[0xb7, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x07]),
];

impl Row {
    /// Does it change what the medium holds? SYNCHRONIZE CACHE does not, and where EXTENDED COPY does its list has to say.
    pub(crate) fn changes_medium(&self) -> bool {
        self.class == WRITE && !matches!(self.opcode, 0x35 | 0x83 | 0x91)
    }
}

/// The service action of a CDB, for the opcodes that have one.
fn action_of(cdb: &[u8; 16]) -> u16 {
    u16::from(cdb[1] & 0x1f)
}

/// The row of a command; `None` when it is not supported.
pub(crate) fn find(cdb: &[u8; 16]) -> Result<&'static Row, Sense> {
    let mut of_opcode = TABLE.iter().filter(|row| row.opcode == cdb[0]).peekable();
    if of_opcode.peek().is_none() {
        return Err(Sense::INVALID_OPCODE);
    }
    let found = of_opcode.find(|row| row.action.is_none_or(|action| action == action_of(cdb)));
    found.ok_or(Sense::invalid_field(1))
}

/// REPORT SUPPORTED OPERATION CODES (SPC-4 section 6.34).
pub(crate) fn report(cdb: &[u8; 16]) -> Result<Reply, Sense> {
    let timeouts = cdb[2] & 0x80 != 0;
    let (opcode, action) = (cdb[3], be16(cdb, 4));
    let data = match cdb[2] & 0x07 {
        0 => all(timeouts),
        1 => {
            if TABLE.iter().any(|row| row.opcode == opcode && row.action.is_some()) {
                return Err(Sense::invalid_field(2));
            }
            one(TABLE.iter().find(|row| row.opcode == opcode), timeouts)
        }
        2 => {
            if TABLE.iter().any(|row| row.opcode == opcode && row.action.is_none()) {
                return Err(Sense::invalid_field(2));
            }
            one(TABLE.iter().find(|row| row.opcode == opcode && row.action == Some(action)), timeouts)
        }
        3 => {
            let fits = |row: &&Row| row.opcode == opcode && row.action.is_none_or(|a| a == action);
            one(TABLE.iter().find(fits), timeouts)
        }
        _ => return Err(Sense::invalid_field(2)),
    };
    Ok(Reply::data(data, usize::try_from(be32(cdb, 6)).unwrap_or(0)))
}

fn all(timeouts: bool) -> Vec<u8> {
    let mut data = vec![0; 4];
    for row in TABLE {
        let flags = u8::from(row.action.is_some()) | if timeouts { 0x02 } else { 0 };
        let [high, low] = row.action.unwrap_or(0).to_be_bytes();
        let [long, short] = len16(row.usage.len()).to_be_bytes();
        data.extend_from_slice(&[row.opcode, 0, high, low, 0, flags, long, short]);
        if timeouts {
            data.extend_from_slice(&timeouts_of(row));
        }
    }
    let length = len32(data.len() - 4).to_be_bytes();
    put(&mut data, 0, &length);
    data
}

fn one(row: Option<&Row>, timeouts: bool) -> Vec<u8> {
    let Some(row) = row else { return vec![0, 1, 0, 0] };
    let mut data = vec![0, 3 | if timeouts { 0x80 } else { 0 }];
    data.extend_from_slice(&len16(row.usage.len()).to_be_bytes());
    data.extend_from_slice(row.usage);
    // The usage map shows the service action itself where there is one.
    if let (Some(action), Some(at)) = (row.action, data.get_mut(5)) {
        *at = byte(&action.to_be_bytes(), 1);
    }
    if timeouts {
        data.extend_from_slice(&timeouts_of(row));
    }
    data
}

/// The command timeouts descriptor (section 6.34.4).
fn timeouts_of(row: &Row) -> [u8; 12] {
    let [a, b, c, d] = row.recommended.to_be_bytes();
    [0, 10, 0, 0, 0, 0, 0, 0, a, b, c, d]
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 section 6.35).
pub(crate) fn report_task_management(cdb: &[u8; 16]) -> Reply {
    // ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, TARGET RESET.
    let data = vec![0x80 | 0x40 | 0x10 | 0x08 | 0x02, 0, 0, 0];
    Reply::data(data, usize::try_from(be32(cdb, 6)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_its_maps_begin_with_their_opcodes() {
        assert!(TABLE.is_sorted_by_key(|row| (row.opcode, row.action)));
        for row in TABLE {
            assert_eq!(row.usage[0], row.opcode);
            let length = match row.opcode >> 5 {
                0 => 6,
                1 | 2 => 10,
                4 => 16,
                _ => 12,
            };
            assert_eq!(row.usage.len(), length, "{:#x}", row.opcode);
        }
    }
}
