//! Has history healed: where the journal lost records for good, the tap is asked to copy the whole disk again,
//! so that points after the copy are sound.

use std::sync::Arc;
use std::time::Duration;

use cx_link::DownlinkHandle;
use cx_wire::Question;
use gateway_journal::RegionNo;
use gateway_store::{Store, StoreError};
use tap_block::{Lsn, StreamId};

/// How long the tap may take to begin.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two questions, while the wound is open.
const AGAIN: Duration = Duration::from_secs(30);

/// Asks until a whole copy is under way or complete. Runs while the link stands.
pub(crate) async fn nurse(store: Arc<Store>, stream: StreamId, link: DownlinkHandle) {
    loop {
        let journal = Arc::clone(&store);
        let found = tokio::task::spawn_blocking(move || wound(&journal, stream)).await;
        match found {
            Ok(Wound::Open(from)) => ask(stream, from, &link).await,
            Ok(Wound::InCare) => {}
            Ok(Wound::None) | Err(_) => return,
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn ask(stream: StreamId, from: Lsn, link: &DownlinkHandle) {
    tracing::warn!(%stream, %from, "records after this one are lost: the tap is asked for a whole resync");
    if let Err(e) = link.ask(Question::Resync { from, whole: true }, LIMIT).await {
        tracing::warn!(%stream, "the resync is asked for again later: {e}");
    }
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
    let lost = store.status().damage.into_iter().flat_map(|d| d.lost);
    let first = lost.filter(|(of, ..)| *of == stream).map(|(_, from, _)| from).min();
    let (Some(first), Some(durable)) = (first, store.durable(stream)) else { return Wound::None };
    let catalogue = store.catalogue();
    let Some(volume) = catalogue.volume_of(stream) else { return Wound::None };
    if volume.open_sync().is_some() {
        return Wound::InCare;
    }
    match store.region_map(volume.id(), RegionNo::new(0), durable.lsn) {
        Err(StoreError::Damaged(_)) => Wound::Open(first.previous()),
        _ => Wound::None,
    }
}
