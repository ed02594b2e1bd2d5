//! Has history healed: where the journal lost records for good, the tap is asked to copy the whole disk again,
//! so that points after the copy are sound.

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
            Ok(Wound::Open(_)) => {}
            Ok(Wound::InCare) => {}
            Ok(Wound::None) | Err(_) => return,
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Has it begun?
async fn ask(stream: StreamId, from: Lsn, link: &DownlinkHandle) -> bool {
    tracing::warn!(%stream, %from, "records after this one are lost: the tap is asked for a whole resync");
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
    let Some(first) = store.wound(stream) else { return Wound::None };
    match store.catalogue().volume_of(stream) {
        Some(volume) if volume.open_sync().is_some() => Wound::InCare,
        _ => Wound::Open(first.previous()),
    }
}
