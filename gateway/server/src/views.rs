//! What the gateway knows, as the API shows it.

use cx_api::{BookmarkView, GapView, SyncView, VolumeState, VolumeView};
use cx_wire::{Reply, TapState, TapStatus};
use gateway_image::catalogue::{BookmarkPoint, Gap, Volume};
use gateway_store::{Durable, Store};
use tap_block::{Lsn, Name, SyncCause, WallTime};

use crate::skew::Offset;

/// What is known of a volume's tap at one moment.
#[derive(Debug, Default)]
pub(crate) struct TapView {
    /// The last LSN it assigned, when it was asked and answered.
    pub(crate) head: Option<Lsn>,
    /// What it does; `None` when it cannot be reached.
    pub(crate) status: Option<TapStatus>,
    /// The latest tap time up to which everything is durable here.
    pub(crate) proven: Option<WallTime>,
    /// How far its clock is from ours.
    pub(crate) offset: Option<Offset>,
}

impl TapView {
    /// The latest that its clock may show now: a lag is never shown smaller than it is.
    fn now(&self, now: WallTime) -> WallTime {
        self.offset.map_or(now, |offset| offset.latest(now))
    }

    /// With the tap's own answer to [`cx_wire::Question::Head`]; without one, the tap is not reachable.
    pub(crate) fn answered(mut self, reply: Option<Reply>) -> Self {
        (self.head, self.status) = match reply {
            Some(Reply::Head { lsn, status, .. }) => (Some(lsn), Some(status)),
            _ => (None, None),
        };
        self
    }
}

/// The volume, for `volume show` and all that reads it.
pub(crate) fn volume(volume: &Volume, durable: Option<&Durable>, tap: &TapView, now: WallTime) -> VolumeView {
    let sound = durable.and_then(|d| volume.sound_at_or_before(d.lsn));
    let lsn = sound.unwrap_or(Lsn::ZERO);
    let at = durable.filter(|d| d.lsn == lsn).map(|d| d.at);
    VolumeView {
        id: volume.id(),
        name: volume.name().clone(),
        size: volume.size(),
        state: state(volume, tap.status.as_ref()),
        head_lsn: tap.head,
        durable_lsn: lsn,
        durable_time: at.or_else(|| sound.and_then(|lsn| known_time(volume, lsn))),
        lag_seconds: tap
            .status
            .as_ref()
            .and(tap.proven)
            .map(|proven| tap.now(now).since(proven).as_secs_f64()),
        clock_offset_seconds: tap.offset.map(Offset::seconds),
        lag_bytes: tap.status.as_ref().map(|s| s.queued_bytes + s.spooled_bytes + s.marked_bytes),
        baseline_count: u32::try_from(volume.baseline_count()).unwrap_or(u32::MAX),
        resynced_bytes: volume.resynced_bytes(),
        sync: tap.status.as_ref().and_then(|s| s.sync).map(|s| SyncView {
            cause: s.cause,
            done_bytes: s.done,
            total_bytes: s.total,
        }),
        gaps: volume.gaps().map(gap).collect(),
        verified: None,
        damaged: 0,
        history_bytes: 0,
        history_limit: None,
    }
}

/// What the tap says, but never better than what is here: until the end of a sync has arrived, it runs.
fn state(volume: &Volume, status: Option<&TapStatus>) -> VolumeState {
    let Some(status) = status else { return VolumeState::Unknown };
    match status.state {
        TapState::Protected => match volume.open_sync().map(|s| s.cause) {
            None => VolumeState::Protected,
            Some(SyncCause::Baseline) => VolumeState::Baseline,
            Some(_) => VolumeState::Resync,
        },
        // The tap may not know that its baseline had ended when it was killed; here it is a resync.
        TapState::Baseline if volume.open_sync().is_some_and(|s| s.cause != SyncCause::Baseline) => {
            VolumeState::Resync
        }
        TapState::Baseline => VolumeState::Baseline,
        TapState::Spooling => VolumeState::Spooling,
        TapState::Bitmap => VolumeState::Bitmap,
        TapState::Resync => VolumeState::Resync,
        TapState::Stopped => VolumeState::Stopped,
        TapState::Fenced => VolumeState::Fenced,
    }
}

/// The time of an LSN that a sync ended or began with.
fn known_time(volume: &Volume, lsn: Lsn) -> Option<WallTime> {
    let ends = volume.syncs().iter().flat_map(|s| [s.sound, s.end]).flatten();
    ends.into_iter().find(|p| p.lsn == lsn).map(|p| p.at)
}

pub(crate) fn gap(gap: Gap) -> GapView {
    GapView {
        from_lsn: gap.from.map_or(Lsn::ZERO, |p| p.lsn),
        to_lsn: gap.to.map(|p| p.lsn),
        from: gap.from.map(|p| p.at),
        to: gap.to.map(|p| p.at),
        cause: gap.cause,
        bytes: gap.bytes,
    }
}

/// A bookmark of `volume`. One whose point was thinned out, or shows what is lost, does not open.
pub(crate) fn bookmark(volume: &Volume, name: &Name, point: &BookmarkPoint, store: &Store) -> BookmarkView {
    let (id, lsn) = (volume.id(), point.at.lsn);
    BookmarkView {
        volume: volume.name().clone(),
        name: name.clone(),
        lsn: point.at.lsn,
        time: point.at.at,
        consistency: point.consistency,
        note: point.note.to_string(),
        selectable: volume.selectable(lsn).is_ok()
            && store.check_kept(id, lsn).is_ok()
            && store.check_whole(id, lsn).is_ok(),
    }
}
