//! Putting damaged blocks right with what the protected disk still holds of them.
//!
//! The disk goes its own way, so it may show another version by now. What it shows is taken only if it is provably what was
//! written here: its checksum is the one that stands in the journal, or it differs from what is there in the checksum alone.

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cx_link::DownlinkHandle;
use cx_wire::{AskCode, AskError, Question, Reply};
use gateway_journal::RegionNo;
use gateway_store::{Finding, FindingKind, Offered, Repair, Store, StoreError};
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
    let mut of_regions = BTreeMap::<_, Vec<_>>::new();
    for (block, position) in damaged(store, volume, tried) {
        let region = RegionNo::holding(block).map(|(region, _)| region);
        of_regions.entry(region).or_default().push((block, position));
    }
    // What lies in packs is put right with its region: all of it at once.
    for blocks in of_regions.into_values() {
        let (offered, goes_on) = offers(volume, blocks, tried, &ask).await;
        if !put(store, volume, offered, tried).await || !goes_on {
            return;
        }
    }
}

/// What the source holds of these blocks now. It is left alone when it cannot be asked: `false`.
async fn offers<F>(
    volume: VolumeId,
    blocks: Vec<(BlockNo, Position)>,
    tried: &mut Tried,
    ask: impl Fn(Question) -> F,
) -> (Vec<Repair>, bool)
where
    F: Future<Output = Result<Reply, AskError>>,
{
    let mut offered = Vec::new();
    for (block, position) in blocks {
        match ask(Question::Block { block }).await {
            Ok(Reply::Block { unit }) => {
                offered.push(Repair { block, position, unit: unit.to_vec() });
                continue;
            }
            Ok(other) => tracing::warn!(%volume, "the tap answers {other:?} when asked for a block"),
            Err(e) if matches!(e.code, AskCode::Failed | AskCode::NotFound) => {
                tracing::warn!(%volume, "the source cannot give block {}: {e}", block.get());
            }
            // It may answer later.
            Err(e) => {
                tracing::debug!(%volume, "the source is not asked for damaged blocks: {e}");
                return (offered, false);
            }
        }
        tried.insert((block, position));
    }
    (offered, true)
}

/// Puts right what can be; `false` when history is being settled just now: later.
async fn put(store: &Arc<Store>, volume: VolumeId, offered: Vec<Repair>, tried: &mut Tried) -> bool {
    let which: Vec<_> = offered.iter().map(|repair| (repair.block, repair.position)).collect();
    if which.is_empty() {
        return true;
    }
    let store = Arc::clone(store);
    let put = move || store.repair(volume, &offered, Offered::Content);
    let Ok(Ok(outcomes)) = tokio::task::spawn_blocking(put).await else { return false };
    for ((block, position), outcome) in which.into_iter().zip(outcomes) {
        // Of any other there is no room, or the disk fails just here: it is tried again.
        if matches!(outcome, Ok(_) | Err(StoreError::Invalid(_))) {
            tried.insert((block, position));
        }
        tell(volume, block, outcome);
    }
    true
}

fn tell(volume: VolumeId, block: BlockNo, put: Result<usize, StoreError>) {
    match put {
        Ok(0) => {}
        Ok(_) => tracing::info!(%volume, "block {} was put right with what the source holds", block.get()),
        Err(e) => tracing::debug!(%volume, "block {} is not put right: {e}", block.get()),
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
