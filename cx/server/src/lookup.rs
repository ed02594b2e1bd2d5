//! What a stretch of a volume looks like below: asked of every gateway, answered with what they agree on.

use std::time::Duration;

use bytes::Bytes;
use cx_link::{Found, Querier};
use cx_wire::{AskCode, AskError, Hashes, Lookup};

/// How long a gateway may take to read and hash a stretch, and to wait for the record asked for.
const LIMIT: Duration = Duration::from_secs(30);

/// Asks all `gateways` at once. A block need not be copied only if every one of them has it, so one that cannot be
/// asked makes the answer an error: the tap copies the stretch as a whole then.
pub(crate) async fn look_up(gateways: Vec<Querier>, lookup: Lookup) -> Found {
    let asked: Vec<_> = gateways
        .into_iter()
        .map(|gateway| tokio::spawn(async move { gateway.query(lookup, LIMIT).await }))
        .collect();
    let mut common: Option<Hashes> = None;
    for answer in asked {
        let found = answer.await.map_err(|e| failed(format!("a query to a gateway failed: {e}")))??;
        common = Some(match common {
            Some(before) => agree(&before, &found)?,
            None => found,
        });
    }
    common.ok_or_else(|| failed("the CX has no gateway to ask: configure one".to_owned()))
}

fn agree(one: &Hashes, other: &Hashes) -> Found {
    let hashes = cx_delta::agreed(&one.hashes, &other.hashes).map_err(|e| failed(e.to_string()))?;
    Ok(Hashes { at: one.at.min(other.at), hashes: Bytes::from(hashes) })
}

fn failed(detail: String) -> AskError {
    AskError::new(AskCode::Failed, detail)
}
