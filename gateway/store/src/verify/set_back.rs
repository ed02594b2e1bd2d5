//! A store that has less than it had: it was put back to an older state, or its disk lost what it had written. Somebody above remembers
//! what it acknowledged; what it says is listed until somebody has read of it.

use tap_block::{Lsn, StreamId, VolumeId};

use super::{Finding, FindingKind};
use crate::store::{Shared, Store};
use gateway_journal::SegmentId;

impl Store {
    /// `place` remembers that the stream was durable here up to `had`, and there was no more of it than `has`. It is listed from here on.
    /// `false`: the volume is not known here, so nobody could be told. Blocks until that is on the disk.
    pub fn note_set_back(&self, place: &str, stream: StreamId, (had, has): (Lsn, Lsn)) -> bool {
        let catalogue = self.catalogue();
        let Some(volume) = catalogue.volume_of(stream) else { return false };
        self.shared().note_set_back(volume.id(), said(volume.name().as_str(), place, had, has), (had, has));
        true
    }

    /// Every volume of which the store has less than it had, in words, until somebody has read of it.
    #[must_use]
    pub fn set_back(&self) -> Vec<String> {
        let (catalogue, proving) = (self.catalogue(), &self.shared().proving);
        let of = |id: VolumeId| proving.listed(|f| f.volume == Some(id) && is_set_back(f));
        catalogue.volumes().flat_map(|volume| of(volume.id())).map(|finding| finding.detail).collect()
    }
}

/// Whole segments are missing of no volume in particular.
fn is_set_back(finding: &Finding) -> bool {
    finding.kind == FindingKind::Missing && finding.volume.is_some()
}

fn said(name: &str, place: &str, had: Lsn, has: Lsn) -> String {
    format!(
        "{place} knows that this gateway had {name} up to lsn:{} durable, and it came back with no more than lsn:{}: its store was put \
         back to an older state (a backup, a snapshot), or its disk lost what it had written. What {place} still holds is sent again, and \
         for the rest the disk is copied anew, which is a gap (`chronogate volume show {name}` shows it). Pins, holds, policies and \
         images that were made meanwhile are gone. If the newer store is still to be had, stop the gateway and put that back in its \
         place; else make anew what is missing, and say `chronogate verify {name} --acknowledge`",
        had.get(),
        has.get()
    )
}

impl Shared {
    /// There is nothing to put right, but somebody has to know.
    fn note_set_back(&self, volume: VolumeId, detail: String, (had, has): (Lsn, Lsn)) {
        let now = self.age.now();
        tracing::error!("{detail}");
        let found = Finding::of_store(FindingKind::Missing, SegmentId::new(0), (0, 0), detail, now);
        let points = Some((has.next(), Some(had)));
        self.proving.note(Finding { volume: Some(volume), points, over_at: Some(now), ..found });
    }
}
