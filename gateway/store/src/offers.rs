//! Contents of blocks in damaged packs, offered from elsewhere, until their region is written anew.

use std::collections::BTreeMap;
use std::sync::Mutex;

use gateway_journal::Location;
use tap_block::BlockNo;

use crate::sync::lock;

/// So many wait at most; more are refused.
const MOST: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Offers(Mutex<BTreeMap<(Location, BlockNo), Vec<u8>>>);

impl Offers {
    /// Keeps one; false when there are too many.
    pub(crate) fn put(&self, at: Location, block: BlockNo, content: Vec<u8>) -> bool {
        let mut offers = lock(&self.0);
        let room = offers.len() < MOST;
        if room {
            offers.insert((at, block), content);
        }
        room
    }

    pub(crate) fn content(&self, at: Location, block: BlockNo) -> Option<Vec<u8>> {
        lock(&self.0).get(&(at, block)).cloned()
    }

    /// Is there any for this pack?
    pub(crate) fn has(&self, at: Location) -> bool {
        at.is_pack()
            && lock(&self.0).range((at, BlockNo::new(0))..).next().is_some_and(|((of, _), _)| *of == at)
    }

    /// Its region was written anew, or could not be.
    pub(crate) fn clear(&self, at: Location, block: BlockNo) {
        lock(&self.0).remove(&(at, block));
    }
}
