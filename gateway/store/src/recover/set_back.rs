//! An index whose state is older than what lies beside it. fjall keeps its log without a checksum over all of it: one flipped bit, and
//! the end is forgotten without a word, or an older entry is taken for the newest. The state lies there; rows and checkpoints do not.
//! Were the log read again from an older state on, groups would get the numbers of others, and checkpoints of those would hide what is
//! in them.

use gateway_journal::GroupNo;

use crate::index::{IndexError, IndexStore, Table, keys};
use crate::tail::GroupInfo;

/// Refuses an index that knows less of itself than it holds: of groups up to `state`, of which those behind `settled` are known, and of
/// settles up to that one.
pub(super) fn refuse_set_back(
    index: &dyn IndexStore,
    (settled, state): (GroupNo, GroupNo),
    groups: &[GroupInfo],
    settle: u64,
) -> Result<(), IndexError> {
    let (begun, told) = (newest(index, Table::Times)?, newest(index, Table::Maps)?);
    let rows = last_settle(index)?;
    if begun > state.get().saturating_add(1) || told > state.get() {
        let newest = begun.max(told);
        return Err(older(format!("its state knows of group {}, and it was brought {newest}", state.get())));
    }
    if rows > settle {
        return Err(older(format!("it knows of settle {settle}, and has rows of {rows}")));
    }
    let due = settled.get() + 1..=state.get();
    match groups.iter().map(|group| group.no.get()).eq(due) {
        true => Ok(()),
        false => Err(older(format!("groups up to {} are not all there", state.get()))),
    }
}

fn older(what: String) -> IndexError {
    IndexError::damaged(format!("what it says of itself is older than what it holds: {what}"))
}

/// 0: an earlier program did not note it.
fn newest(index: &dyn IndexStore, table: Table) -> Result<u64, IndexError> {
    let value = index.get(table, keys::NEWEST)?;
    Ok(value.and_then(|v| v.first_chunk::<8>().map(|b| u64::from_be_bytes(*b))).unwrap_or(0))
}

/// The last settle that it has rows of.
fn last_settle(index: &dyn IndexStore) -> Result<u64, IndexError> {
    let last = index.last(Table::Settled, &[0; 20], &[0xff; 20])?;
    Ok(last.and_then(|(key, _)| key.first_chunk::<8>().map(|b| u64::from_be_bytes(*b))).unwrap_or(0))
}
