//! A tap whose state is an old copy, refused for that, and accepted by somebody all the same: how its next life begins.

use std::time::Duration;

use tap_block::{BlockDevice as _, Bookmark, Consistency, Epoch, Lsn, RunId, RunStart, SyncCause};
use tap_splitter::Anew;
use tap_splitter::seal::Identity;

use crate::begin::RESERVATION;
use crate::volume::{Life, Volume};

/// The bookmark behind the comparison waits for its end, however large the disk.
const BOOKMARK_PATIENCE: Duration = Duration::from_secs(365 * 24 * 3600);

/// The life that follows `life` above this record; `None` when that has begun already.
pub(crate) fn life_above(life: Life, above: Lsn, epoch: Epoch) -> Result<Option<Life>, getrandom::Error> {
    if epoch <= life.whose.epoch {
        return Ok(None);
    }
    let run = RunId::new(getrandom::u64()?.max(1));
    Ok(Some(Life { whose: Identity { run, epoch, ..life.whose }, first: above.next() }))
}

/// How it begins; `everywhere`: what is known to be durable at every gateway.
pub(crate) fn anew(volume: &Volume, life: Life, everywhere: Lsn) -> Anew {
    let run = RunStart {
        previous: Some(volume.life().whose.run),
        durable: everywhere.min(life.first.previous()),
        volume: life.whose.volume,
        name: volume.name().clone(),
        size: volume.geometry().size,
        sync: Some(SyncCause::ChangedUnwatched),
    };
    Anew { run, first_lsn: life.first, bound: life.first.plus(RESERVATION) }
}

/// The first point that opens again says in the history what happened. It is forgotten when the tap is stopped before.
pub(crate) fn bookmark(volume: &Volume, life: Life) {
    let name = format!("restored-{}", life.first.get());
    let Ok(name) = name.parse() else { return };
    let note = format!(
        "the tap's state was an old copy (restored from a snapshot or a backup), and an administrator accepted it above lsn:{}; \
         the whole disk was compared, and this is the first point behind that",
        life.first.previous().get()
    );
    let bookmark = Bookmark { name, consistency: Consistency::Crash, note };
    let (of, told) = (volume.name().clone(), life.first);
    volume.bookmark(
        bookmark,
        BOOKMARK_PATIENCE,
        Box::new(move |placed| match placed {
            Ok((lsn, _)) => {
                tracing::info!(volume = %of, %lsn, "the old copy that was accepted above {told} is compared")
            }
            Err(e) => tracing::warn!(volume = %of, "no bookmark says that an old copy was accepted: {e}"),
        }),
    );
}
