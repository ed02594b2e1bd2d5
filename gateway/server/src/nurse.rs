//! Has history healed: where the journal lost records for good, or blocks that the newest point shows, the tap is asked to copy the
//! whole disk again, so that points after the copy are sound.

use std::sync::Arc;
use std::time::Duration;

use cx_link::DownlinkHandle;
use cx_wire::Question;
use gateway_store::Store;
use tap_block::{Lsn, StreamId};

/// How long the tap may take to begin.
const LIMIT: Duration = Duration::from_secs(10);
/// After a question that was not answered, and then twice as long each time: a link is there before the tap behind it is.
const SOON: Duration = Duration::from_millis(100);
/// Between two questions, while the wound is open.
const AGAIN: Duration = Duration::from_secs(30);
/// Between two looks at a copy under way, and at what there is when nothing is wrong.
const LOOK: Duration = Duration::from_secs(5);

/// Asks until a whole copy is under way or complete. Runs while the link stands.
pub(crate) async fn nurse(store: Arc<Store>, stream: StreamId, link: DownlinkHandle) {
    let mut soon = SOON;
    loop {
        let journal = Arc::clone(&store);
        let found = tokio::task::spawn_blocking(move || wound(&journal, stream)).await;
        match found {
            Ok(Wound::Open(from)) if !ask(stream, from, &link).await => {
                // The tap has only just come, or cannot begin yet.
                tokio::time::sleep(soon).await;
                soon = AGAIN.min(soon * 2);
                continue;
            }
            Ok(Wound::Open(_)) => tokio::time::sleep(AGAIN).await,
            // What is damaged may be found at any time.
            Ok(Wound::InCare | Wound::None) => tokio::time::sleep(LOOK).await,
            Err(_) => return,
        }
    }
}

/// Has it begun?
async fn ask(stream: StreamId, from: Lsn, link: &DownlinkHandle) -> bool {
    tracing::warn!(%stream, %from, "what came after this record is lost: the tap is asked for a whole resync");
    let asked = link.ask(Question::Resync { from, whole: true }, LIMIT).await;
    if let Err(e) = &asked {
        tracing::warn!(%stream, "the resync is asked for again soon: {e}");
    }
    asked.is_ok()
}

/// What is wrong with a stream's newest point.
enum Wound {
    None,
    /// A sync is under way; it may be the cure.
    InCare,
    /// The last record before the loss.
    Open(Lsn),
}

fn wound(store: &Store, stream: StreamId) -> Wound {
    let records = store.wound(stream).map(Lsn::previous);
    let volume = store.catalogue().volume_of(stream).cloned();
    if volume.is_some_and(|volume| volume.open_sync().is_some()) {
        return Wound::InCare;
    }
    // The index may be readable another time.
    let blocks = || store.head_wound(stream).ok().flatten();
    records.or_else(blocks).map_or(Wound::None, Wound::Open)
}
