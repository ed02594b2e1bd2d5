//! Putting damaged blocks right with what the protected disk still holds of them.
//!
//! The disk goes its own way, so it may show another version by now. What it shows is taken only if it is provably what was
//! written here: its checksum is the one that stands in the journal, or it differs from what is there in the checksum alone.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cx_link::DownlinkHandle;
use cx_wire::{AskCode, AskError, Question, Reply};
use gateway_store::{Finding, FindingKind, Offered, Store, StoreError};
use tap_block::{BlockNo, Position, StreamId, VolumeId};

/// How long the tap may take for a block.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at what the scrub has found.
const AGAIN: Duration = Duration::from_secs(10);
/// Asked for at most between two looks: a volume that is damaged all over is no reason to read its disk without end.
const AT_A_TIME: usize = 1024;

/// What was asked for while the link stood: a disk that has another version does not come back to this one.
type Tried = HashSet<(BlockNo, Position)>;

/// Mends what is found damaged in a stream's volume. Runs while the link stands.
pub(crate) async fn mend_while_linked(store: Arc<Store>, stream: StreamId, link: DownlinkHandle) {
    let mut tried = Tried::new();
    loop {
        if let Some(volume) = volume_of(&store, stream) {
            mend(&store, volume, &mut tried, |question| link.ask(question, LIMIT)).await;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Asks once for every damaged block of a volume.
pub(crate) async fn mend_once<F>(store: &Arc<Store>, volume: VolumeId, ask: impl Fn(Question, Duration) -> F)
where
    F: Future<Output = Result<Reply, AskError>>,
{
    mend(store, volume, &mut Tried::new(), |question| ask(question, LIMIT)).await;
}

async fn mend<F>(store: &Arc<Store>, volume: VolumeId, tried: &mut Tried, ask: impl Fn(Question) -> F)
where
    F: Future<Output = Result<Reply, AskError>>,
{
    for (block, position) in damaged(store, volume, tried) {
        match ask(Question::Block { block }).await {
            Ok(Reply::Block { unit }) => {
                let store = Arc::clone(store);
                let put = move || store.repair(volume, block, position, &unit, Offered::Content);
                let put = tokio::task::spawn_blocking(put).await.ok();
                let is_busy = matches!(put, None | Some(Err(StoreError::Busy)));
                let is_final = matches!(put, Some(Ok(_) | Err(StoreError::Invalid(_))));
                tell(volume, block, put);
                if is_busy {
                    // History is being settled: later.
                    return;
                }
                if !is_final {
                    // There is no room, or the disk fails just here: the others are mended all the same.
                    continue;
                }
            }
            Ok(other) => tracing::warn!(%volume, "the tap answers {other:?} when asked for a block"),
            Err(e) if matches!(e.code, AskCode::Failed | AskCode::NotFound) => {
                tracing::warn!(%volume, "the source cannot give block {}: {e}", block.get());
            }
            // It may answer later.
            Err(e) => return tracing::debug!(%volume, "the source is not asked for damaged blocks: {e}"),
        }
        tried.insert((block, position));
    }
}

fn tell(volume: VolumeId, block: BlockNo, put: Option<Result<usize, StoreError>>) {
    match put {
        Some(Ok(0)) | None => {}
        Some(Ok(_)) => {
            tracing::info!(%volume, "block {} was put right with what the source holds", block.get())
        }
        Some(Err(e)) => tracing::debug!(%volume, "block {} is not put right: {e}", block.get()),
    }
}

fn damaged(store: &Store, volume: VolumeId, tried: &Tried) -> Vec<(BlockNo, Position)> {
    let open = |f: &Finding| f.kind == FindingKind::Block && f.over_at.is_none();
    let of = |f: Finding| Some((BlockNo::holding(f.extent?.offset()), f.position?));
    let found = store.findings(volume).into_iter().filter(open).filter_map(of);
    found.filter(|at| !tried.contains(at)).take(AT_A_TIME).collect()
}

fn volume_of(store: &Store, stream: StreamId) -> Option<VolumeId> {
    store.catalogue().volume_of(stream).map(|volume| volume.id())
}
