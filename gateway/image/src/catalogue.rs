//! What history holds, but for the blocks: volumes with their sizes, runs, bookmarks and syncs, and the images.
//!
//! One owner (the store's commit thread) applies markers in the order of the journal and hands snapshots to
//! readers; a snapshot shares every volume that has not changed since. It is a view: applying the journal's
//! markers again from the start gives the same catalogue.

mod bookmarks;
mod codec;
mod mark_codec;
mod marks;
mod rows;
mod rules;
mod shared_map;
#[cfg(test)]
mod tests;
mod volume;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gateway_journal::{ImageId, ImageRecord, MetaRecord};
use tap_block::{Action, Entry, Epoch, Lsn, Marker, Name, RunId, RunStart, StreamId, VolumeId, WallTime};

pub use bookmarks::BookmarkPoint;
pub use codec::CatalogueError;
pub use marks::{MOST_MARKS, MarkPoint, Marks, Membership};
pub use rows::RowChange;
pub use rules::{GateMark, Rules};
pub use volume::{ClockSet, Gap, MOST_CLOCKS, MOST_GONE, NotSelectable, Run, SyncSpan, Volume, cause_text};

/// The catalogue; see the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalogue {
    volumes: BTreeMap<VolumeId, Arc<Volume>>,
    streams: BTreeMap<StreamId, Epoch>,
    /// Shared as volumes are: what is copied with each change is small.
    images: Arc<BTreeMap<ImageId, ImageRecord>>,
    /// The greatest number an image ever had.
    last_image: u64,
    rules: Arc<Rules>,
}

/// Where a record comes from, and what stood before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Its stream.
    pub stream: StreamId,
    /// The run that wrote it.
    pub run: RunId,
    /// The fencing number in force.
    pub epoch: Epoch,
    /// The stream record before it in this store, of whatever run; `None` for the first of all.
    pub previous: Option<Passed>,
    /// When the store took it, on its own clock.
    pub received_at: WallTime,
}

/// A stream record that is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// Its LSN.
    pub lsn: Lsn,
    /// When it was captured.
    pub at: WallTime,
}

impl Catalogue {
    /// Nothing protected yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Does this record change a catalogue? Only such need to go through [`Catalogue::apply`].
    #[must_use]
    pub const fn concerns(action: &Action) -> bool {
        matches!(action, Action::Mark(_) | Action::Resize { .. })
    }

    /// Takes a record of a stream in, in the order of the journal; says whether anything changed.
    pub fn apply(&mut self, origin: &Origin, entry: &Entry) -> bool {
        let here = Passed { lsn: entry.position.lsn(), at: entry.captured_at };
        match &entry.action {
            Action::Write { .. } | Action::Zero { .. } => return false,
            Action::Resize { volume, size } => self.change(*volume, |v| v.resize(here.lsn, *size)),
            Action::Mark(marker) => self.apply_marker(origin, here, marker),
        }
        true
    }

    fn apply_marker(&mut self, origin: &Origin, here: Passed, marker: &Marker) {
        match marker {
            Marker::RunStart(start) => self.start_run(origin, here, start),
            Marker::Bookmark(mark) => self.change_stream(origin.stream, |v| v.bookmark(here, mark)),
            Marker::Barrier(mark) => {
                self.change_stream(origin.stream, |v| v.barrier(here, origin.received_at, mark));
            }
            Marker::ClockSet { before } => {
                self.change_stream(origin.stream, |v| v.set_clock(here, *before));
            }
            Marker::SyncStart { cause } => {
                self.change_stream(origin.stream, |v| v.start_sync(*cause, origin.previous));
            }
            Marker::SyncEnd { cause, copied, from_zero } => {
                self.change_stream(origin.stream, |v| v.end_sync(*cause, here, *copied, *from_zero));
            }
        }
    }

    fn start_run(&mut self, origin: &Origin, here: Passed, start: &RunStart) {
        let epoch = self.streams.entry(origin.stream).or_insert(origin.epoch);
        *epoch = origin.epoch.max(*epoch);
        if self.is_provisional(origin.stream) {
            self.rename(VolumeId::new(origin.stream.get()), start.volume);
        }
        let fresh = || Arc::new(Volume::new(start.volume, start.name.clone(), origin.stream));
        let unnamed = self.volumes.contains_key(&start.volume);
        let volume = Arc::make_mut(self.volumes.entry(start.volume).or_insert_with(fresh));
        if unnamed && volume.is_unnamed() {
            volume.lost_before(here);
        }
        volume.start_run(origin, here, start);
    }

    /// A stream has records here, and the run that names its volume is lost: what is left of its history is listed all the same,
    /// under a name of its own until a run names it. `volume` is whose its records are; while nobody knows, the stream's number
    /// stands for it. Says whether that changed anything.
    pub fn find_unnamed(&mut self, stream: StreamId, volume: Option<VolumeId>) -> bool {
        let provisional = VolumeId::new(stream.get());
        match (self.volume_of(stream).map(|v| v.id()), volume) {
            (Some(known), Some(volume)) if known == provisional && known != volume => {
                self.rename(known, volume)
            }
            (Some(_), _) => return false,
            (None, _) => {
                let id = volume.unwrap_or(provisional);
                let Some(found) = Volume::unnamed(id, stream) else { return false };
                // Another stream may have named it meanwhile: then it is not this one's to list.
                self.volumes.entry(id).or_insert_with(|| Arc::new(found));
            }
        }
        true
    }

    /// Is it not known yet which volume the stream is of?
    #[must_use]
    pub fn is_provisional(&self, stream: StreamId) -> bool {
        let provisional = self.volumes.get(&VolumeId::new(stream.get()));
        provisional.is_some_and(|v| v.stream() == stream && v.is_unnamed())
    }

    fn rename(&mut self, from: VolumeId, to: VolumeId) {
        if let Some(volume) = self.volumes.remove(&from) {
            let renamed = || Arc::new(Volume { id: to, ..Arc::unwrap_or_clone(volume) });
            self.volumes.entry(to).or_insert_with(renamed);
        }
    }

    fn change(&mut self, id: VolumeId, change: impl FnOnce(&mut Volume)) {
        if let Some(volume) = self.volumes.get_mut(&id) {
            change(Arc::make_mut(volume));
        }
    }

    fn change_stream(&mut self, stream: StreamId, change: impl Fn(&mut Volume)) {
        for volume in self.volumes.values_mut().filter(|v| v.stream() == stream) {
            change(Arc::make_mut(volume));
        }
    }

    /// Takes a record of the gateway's own stream in.
    pub fn apply_meta(&mut self, record: &MetaRecord) {
        match record {
            MetaRecord::ImageCreated(image) => {
                self.last_image = self.last_image.max(image.id.get());
                Arc::make_mut(&mut self.images).insert(image.id, image.clone());
            }
            MetaRecord::ImageRemoved { id } => {
                self.last_image = self.last_image.max(id.get());
                Arc::make_mut(&mut self.images).remove(id);
            }
            MetaRecord::BookmarkRemoved { volume, point, name } => {
                self.change(*volume, |v| v.remove_bookmark(name, *point));
            }
            MetaRecord::PolicySet { .. }
            | MetaRecord::Pinned { .. }
            | MetaRecord::Unpinned { .. }
            | MetaRecord::Held(_)
            | MetaRecord::GateMoved(_) => Arc::make_mut(&mut self.rules).apply(record),
            // Whoever keeps the list of what is damaged takes it in.
            MetaRecord::LossRead => {}
        }
    }

    /// The same of all that one frame holds: policies in a row count together, as if there were nothing between them.
    pub fn apply_all(&mut self, records: &[MetaRecord]) {
        let is_policy = |record: &MetaRecord| matches!(record, MetaRecord::PolicySet { .. });
        for some in records.chunk_by(|one, next| is_policy(one) && is_policy(next)) {
            if some.first().is_some_and(is_policy) {
                Arc::make_mut(&mut self.rules).set_policies(some);
            } else {
                some.iter().for_each(|record| self.apply_meta(record));
            }
        }
    }

    /// Forgets the barrier marks at these records of a volume's stream.
    pub fn forget_marks(&mut self, volume: VolumeId, gone: &BTreeSet<Lsn>) {
        if !gone.is_empty() {
            self.change(volume, |v| v.marks.forget(gone));
        }
    }

    /// Forgets half of the barrier marks of each volume, for there is no room for their list; `false`: there are hardly any.
    pub fn halve_marks(&mut self) -> bool {
        let mut some = false;
        for volume in self.volumes.values_mut().filter(|volume| !volume.marks.is_empty()) {
            some |= Arc::make_mut(volume).marks.halve();
        }
        some
    }

    /// About how many bytes of what [`Catalogue::encode`] gives are barrier marks.
    #[must_use]
    pub fn mark_bytes(&self) -> usize {
        self.volumes.values().map(|volume| volume.marks.bytes()).sum()
    }

    /// Forgets these bookmarks of a volume, whose points are gone.
    pub fn forget_bookmarks(&mut self, volume: VolumeId, gone: &BTreeMap<Lsn, Name>) {
        if !gone.is_empty() {
            self.change(volume, |v| v.forget_bookmarks(gone));
        }
    }

    /// Bookmarks of a volume behind this record that another catalogue has just so are shared with it: there may be a million, and they
    /// need not be there twice.
    pub fn share_bookmarks(&mut self, volume: VolumeId, behind: Lsn, like: &Self) {
        if let Some(like) = like.volume(volume) {
            self.change(volume, |v| v.bookmarks.share_with(&like.bookmarks, behind));
        }
    }

    /// A bookmark's point is gone: its name is free.
    pub fn forget_bookmark(&mut self, volume: VolumeId, name: &Name) {
        self.change(volume, |v| v.forget_bookmark(name));
    }

    /// What operators said about keeping history.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The store's clock has been credited with so much in all for time that no program saw go by: that brings no hold
    /// nearer to its end.
    pub fn credit(&mut self, credited: Duration) {
        Arc::make_mut(&mut self.rules).credit(credited);
    }

    /// Every volume, by id.
    pub fn volumes(&self) -> impl Iterator<Item = &Arc<Volume>> {
        self.volumes.values()
    }

    /// The volume with this id.
    #[must_use]
    pub fn volume(&self, id: VolumeId) -> Option<&Arc<Volume>> {
        self.volumes.get(&id)
    }

    /// The volume with this name. Names are unique among volumes: a second one is refused at the link.
    #[must_use]
    pub fn volume_named(&self, name: &Name) -> Option<&Arc<Volume>> {
        self.volumes.values().find(|v| v.name() == name)
    }

    /// The volume of this stream.
    #[must_use]
    pub fn volume_of(&self, stream: StreamId) -> Option<&Arc<Volume>> {
        self.volumes.values().find(|v| v.stream() == stream)
    }

    /// The highest fencing number seen in a run of this stream.
    #[must_use]
    pub fn epoch(&self, stream: StreamId) -> Option<Epoch> {
        self.streams.get(&stream).copied()
    }

    /// Every image, oldest first.
    pub fn images(&self) -> impl Iterator<Item = &ImageRecord> {
        self.images.values()
    }

    /// The image with this id.
    #[must_use]
    pub fn image(&self, id: ImageId) -> Option<&ImageRecord> {
        self.images.get(&id)
    }

    /// The image with this name.
    #[must_use]
    pub fn image_named(&self, name: &Name) -> Option<&ImageRecord> {
        self.images.values().find(|i| i.name == *name)
    }

    /// An id no image ever had.
    #[must_use]
    pub const fn next_image(&self) -> ImageId {
        ImageId::new(self.last_image.saturating_add(1))
    }
}
