//! Points that somebody has open: settling keeps them. And the moment at which it is decided which others go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use gateway_journal::Kept;
use tap_block::{Lsn, VolumeId};

use crate::error::StoreError;
use crate::layout::Layout;
use crate::store::Shared;
use crate::sync::{lock, read, write};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Points {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    open: BTreeMap<(VolumeId, Lsn), usize>,
    /// What the settle under way leaves; from the decision on nothing else can be opened.
    deciding: Option<BTreeMap<VolumeId, Kept>>,
}

/// A point that stays readable while this lives.
pub struct OpenPoint {
    shared: Arc<Shared>,
    volume: VolumeId,
    point: Lsn,
}

impl Points {
    /// Opens a point.
    ///
    /// # Errors
    /// When it is unknown or thinned out, or about to be.
    pub(crate) fn open(shared: &Arc<Shared>, volume: VolumeId, point: Lsn) -> Result<OpenPoint, StoreError> {
        let mut inner = lock(&shared.points.inner);
        {
            let published = read(&shared.published);
            let known = published.catalogue.volume(volume).ok_or(StoreError::UnknownVolume(volume))?;
            published.layout.check(known, point)?;
        }
        let leaves = inner.deciding.as_ref().and_then(|kept| kept.get(&volume));
        if let Some(kept) = leaves.filter(|kept| !kept.holds(point)) {
            let (before, after) = kept.nearest(point);
            return Err(StoreError::Thinned { point, before, after });
        }
        *inner.open.entry((volume, point)).or_default() += 1;
        Ok(OpenPoint { shared: Arc::clone(shared), volume, point })
    }

    /// Decides what a settle leaves, knowing what is open of each volume; `None`: it is not decided.
    pub(crate) fn decide(
        &self,
        decide: impl FnOnce(&dyn Fn(VolumeId) -> BTreeSet<Lsn>) -> Option<BTreeMap<VolumeId, Kept>>,
    ) -> Option<BTreeMap<VolumeId, Kept>> {
        let mut inner = lock(&self.inner);
        let kept = decide(&|volume| inner.open_of(volume))?;
        inner.deciding = Some(kept.clone());
        Some(kept)
    }

    /// What is open of a volume.
    pub(crate) fn open_of(&self, volume: VolumeId) -> BTreeSet<Lsn> {
        lock(&self.inner).open_of(volume)
    }

    /// What is open at all.
    pub(crate) fn all_open(&self) -> BTreeSet<(VolumeId, Lsn)> {
        lock(&self.inner).open.keys().copied().collect()
    }

    /// Nothing came of it.
    pub(crate) fn call_off(&self) {
        lock(&self.inner).deciding = None;
    }

    /// It is done: readers see `layout` from here on.
    pub(crate) fn replace_layout(&self, shared: &Shared, layout: Arc<Layout>) {
        let mut inner = lock(&self.inner);
        let mut published = write(&shared.published);
        published.ingested.retain(|group| group.no > layout.group);
        published.layout = layout;
        inner.deciding = None;
    }
}

impl Inner {
    fn open_of(&self, volume: VolumeId) -> BTreeSet<Lsn> {
        let range = (volume, Lsn::ZERO)..=(volume, Lsn::ZERO.plus(Lsn::LIMIT));
        self.open.range(range).map(|((_, lsn), _)| *lsn).collect()
    }
}

impl Drop for OpenPoint {
    fn drop(&mut self) {
        let mut inner = lock(&self.shared.points.inner);
        let key = (self.volume, self.point);
        if let Some(users) = inner.open.get_mut(&key) {
            *users -= 1;
            if *users == 0 {
                inner.open.remove(&key);
            }
        }
    }
}

impl std::fmt::Debug for OpenPoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenPoint({} at {})", self.volume, self.point)
    }
}
