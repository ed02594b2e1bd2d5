//! From a point as people name it to an LSN: waits for what is not durable yet, refuses what never was a disk.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use cx_api::{ClockView, Problem};
use gateway_image::Point;
use gateway_image::catalogue::{BookmarkPoint, Volume};
use gateway_journal::RegionNo;
use gateway_store::{Durable, Store, StoreError};
use tap_block::{Clock, Lsn, MarkId, Name, VolumeId, WallTime};

use crate::http::Answer;
use crate::problems;
use crate::shortages::Asked;
use crate::skew::Offset;
use crate::streams::Streams;

/// How long to wait for a point that is not durable yet.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How often to look again when nothing ticks: heartbeats tick each second.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A point, resolved: it never moves again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) volume: VolumeId,
    pub(crate) name: Name,
    /// The bookmark's, when it was one.
    pub(crate) bookmark: Option<Name>,
    pub(crate) lsn: Lsn,
    pub(crate) time: Option<WallTime>,
    pub(crate) size: u64,
}

/// What resolves points.
#[derive(Clone)]
pub(crate) struct Points {
    pub(crate) store: Arc<Store>,
    pub(crate) streams: Arc<Streams>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// A point that is being looked for.
enum Found {
    At(Lsn, Option<Name>),
    /// It may still come.
    NotYet,
}

impl Points {
    /// Resolves a point, waiting up to [`PATIENCE`] for it to become durable. Blocks for that long.
    ///
    /// # Errors
    /// The problem, with what to choose instead.
    pub(crate) async fn resolve(&self, volume: &Name, point: &Point) -> Answer<Resolved> {
        let wanted = self.anchored(volume, point);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut progress = self.streams.progress();
        loop {
            progress.mark_unchanged();
            let (this, name, asked, at) = (self.clone(), volume.clone(), point.clone(), wanted.clone());
            let looked = tokio::task::spawn_blocking(move || this.look(&name, &asked, &at)).await;
            if let Some(resolved) = looked.map_err(problems::internal)?? {
                return Ok(resolved);
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(self.gave_up(volume, point));
            }
            let until = deadline.min(tokio::time::Instant::now() + LOOK_AGAIN);
            // Either way it is time to look again.
            let _ = tokio::time::timeout_at(until, progress.changed()).await;
        }
    }

    /// A time ago is counted from the moment of the question, by the clock of the volume's source: that is what points carry.
    fn anchored(&self, volume: &Name, point: &Point) -> Point {
        match point {
            Point::Ago(ago) => {
                let now = self.clock.wall();
                Point::Time(self.offset(volume).map_or(now, |offset| offset.tap_time(now)).minus(*ago))
            }
            other => other.clone(),
        }
    }

    /// The latest that it may be now by the clock of the volume's source, so that a point is never shown newer than it is.
    pub(crate) fn source_now(&self, volume: &Name) -> WallTime {
        let now = self.clock.wall();
        self.offset(volume).map_or(now, |offset| offset.latest(now))
    }

    /// When the record at `lsn` was captured, where that is known. May block.
    pub(crate) fn time_at(&self, volume: &Volume, lsn: Lsn) -> Option<WallTime> {
        let durable = self.store.durable(volume.stream())?;
        self.time_of(volume, &durable, lsn).ok().flatten()
    }

    fn offset(&self, volume: &Name) -> Option<Offset> {
        let stream = self.store.catalogue().volume_named(volume)?.stream();
        self.streams.get(stream)?.offset()
    }

    /// One look; `None` when the point may still come. `asked` is for messages.
    fn look(&self, name: &Name, asked: &Point, point: &Point) -> Answer<Option<Resolved>> {
        let catalogue = self.store.catalogue();
        let volume = catalogue.volume_named(name).ok_or_else(|| problems::no_volume(name))?;
        let durable = self.store.durable(volume.stream()).ok_or_else(|| problems::nothing_yet(name))?;
        let (lsn, bookmark) = match self.find(volume, &durable, asked, point)? {
            Found::At(lsn, bookmark) => (lsn, bookmark),
            Found::NotYet => return Ok(None),
        };
        if lsn > durable.lsn {
            return Ok(None);
        }
        volume.selectable(lsn).map_err(|e| problems::not_selectable(name, &e))?;
        self.store.check_kept(volume.id(), lsn).map_err(|e| self.not_kept(volume, asked, lsn, &e))?;
        self.check_whole(volume, lsn)?;
        Ok(Some(Resolved {
            volume: volume.id(),
            name: name.clone(),
            bookmark,
            lsn,
            time: self.time_of(volume, &durable, lsn)?,
            size: volume.size_at(lsn),
        }))
    }

    /// Records that the point needs may be lost. The first region's map tells; whoever opens the point needs it
    /// next.
    fn check_whole(&self, volume: &Volume, lsn: Lsn) -> Answer<()> {
        match self.store.region_map(volume.id(), RegionNo::new(0), lsn) {
            Err(e @ StoreError::Damaged(_)) => Err(problems::lost(volume.name(), lsn, &e)),
            Err(e) => Err(problems::stored(&e)),
            Ok(_) => Ok(()),
        }
    }

    fn find(&self, volume: &Volume, durable: &Durable, asked: &Point, point: &Point) -> Answer<Found> {
        match point {
            Point::Now | Point::Ago(_) => {
                let sound = volume.sound_at_or_before(durable.lsn);
                sound.map(|lsn| Found::At(lsn, None)).ok_or_else(|| problems::nothing_yet(volume.name()))
            }
            Point::Lsn(lsn) => Ok(Found::At(*lsn, None)),
            Point::Bookmark(name) => match volume.bookmark_named(name) {
                Some(bookmark) => Ok(Found::At(bookmark.at.lsn, Some(name.clone()))),
                None => Err(self.no_bookmark(volume, name)),
            },
            Point::Mark(id) => self.find_mark(volume, durable, *id),
            Point::Time(time) => self.find_time(volume, durable, asked, *time),
        }
    }

    /// A barrier's mark may be here for one member of its group and still come for another.
    fn find_mark(&self, volume: &Volume, durable: &Durable, id: MarkId) -> Answer<Found> {
        match volume.marks().find(id) {
            Some(mark) => Ok(Found::At(mark.at.lsn, None)),
            None if WallTime::from_nanos(id.get()) > self.proven(volume).unwrap_or(durable.at) => {
                Ok(Found::NotYet)
            }
            None => Err(problems::no_mark(volume.name(), id)),
        }
    }

    fn find_time(&self, volume: &Volume, durable: &Durable, asked: &Point, time: WallTime) -> Answer<Found> {
        if time > self.proven(volume).unwrap_or(durable.at) {
            return Ok(Found::NotYet);
        }
        let passed = self.store.lsn_at(volume.stream(), time).map_err(|e| problems::stored(&e))?;
        passed
            .map(|passed| Found::At(passed.lsn, None))
            .ok_or_else(|| self.nothing_by_then(volume, asked, time))
    }

    /// No point that is left shows that time: it lies before the first record, or what was there is let go of.
    fn nothing_by_then(&self, volume: &Volume, asked: &Point, time: WallTime) -> Problem {
        let oldest = self.oldest(volume);
        let (before_all, kept) =
            (volume.runs().first().is_none_or(|run| time < run.first.at), self.store.kept(volume.id()));
        let went = kept.and_then(|kept| Some(kept.points.first()?.lsn)).zip(volume.first_selectable());
        match (went, oldest) {
            (Some((kept, first)), Some(oldest)) if first < kept && !before_all => {
                let short = self.shortage(volume, kept.previous(), Asked::Point);
                problems::gone_by_then(volume.name(), asked, oldest, short)
            }
            _ => problems::too_early(volume.name(), asked, oldest),
        }
    }

    /// No bookmark has the name: retention may have let go of the point of one that had.
    pub(crate) fn no_bookmark(&self, volume: &Volume, name: &Name) -> Problem {
        let Some(stood) = volume.gone_bookmark(name) else {
            return problems::no_bookmark(volume.name(), name, &similar(volume, name));
        };
        let near = self.store.kept(volume.id()).unwrap_or_default().nearest(stood.lsn);
        let short = self.shortage(volume, stood.lsn, Asked::Bookmark);
        problems::bookmark_gone(volume.name(), name, stood.at, short, near)
    }

    /// Before the first point of all nothing was ever thinned out.
    fn not_kept(&self, volume: &Volume, asked: &Point, lsn: Lsn, why: &StoreError) -> Problem {
        let early = volume.first_selectable().is_some_and(|first| lsn < first);
        match why {
            StoreError::Thinned { .. } if early => {
                problems::too_early(volume.name(), asked, self.oldest(volume))
            }
            _ => problems::thinned(volume.name(), why, self.shortage(volume, lsn, Asked::Point)),
        }
    }

    /// The oldest point that can be opened.
    fn oldest(&self, volume: &Volume) -> Option<(Lsn, WallTime)> {
        let kept = self.store.kept(volume.id()).unwrap_or_default();
        let settled = kept.points.iter().find(|p| volume.selectable(p.lsn).is_ok());
        let in_log = || {
            let lsn = volume.first_selectable().filter(|lsn| *lsn > kept.settled)?;
            Some((lsn, self.time_at(volume, lsn)?))
        };
        settled.map(|p| (p.lsn, p.captured_at)).or_else(in_log)
    }

    fn time_of(&self, volume: &Volume, durable: &Durable, lsn: Lsn) -> Answer<Option<WallTime>> {
        if lsn == durable.lsn {
            return Ok(Some(durable.at));
        }
        self.store.time_of(volume.stream(), lsn).map_err(|e| problems::stored(&e))
    }

    /// The latest tap time up to which everything is here.
    pub(crate) fn proven(&self, volume: &Volume) -> Option<WallTime> {
        if let Some(sync) = volume.open_sync() {
            return sync.sound.map(|passed| passed.at);
        }
        match self.streams.get(volume.stream()) {
            Some(stream) => stream.proven(),
            None => self.store.durable(volume.stream()).map(|d| d.at),
        }
    }

    fn gave_up(&self, name: &Name, point: &Point) -> Problem {
        let catalogue = self.store.catalogue();
        let volume = catalogue.volume_named(name);
        let durable = volume.and_then(|v| self.store.durable(v.stream())).map_or(Lsn::ZERO, |d| d.lsn);
        let problem = problems::not_yet(name, point, durable, volume.and_then(|v| self.proven(v)));
        match volume.and_then(|v| passed_before(v, point)) {
            Some(clock) => problems::set_back_since(problem, &clock),
            None => problem,
        }
    }
}

/// The time went by once already, by a clock that was set back since.
fn passed_before(volume: &Volume, point: &Point) -> Option<ClockView> {
    let Point::Time(time) = point else { return None };
    let went_by = |clock: &ClockView| !clock.ahead && clock.from <= *time && *time <= clock.to;
    crate::retention::clocks(volume).into_iter().rfind(went_by)
}

/// Bookmarks whose names look like `name`, and the newest; three at most.
fn similar(volume: &Volume, name: &Name) -> Vec<String> {
    let wanted = name.as_str().to_ascii_lowercase();
    let alike = |other: &str| {
        let other = other.to_ascii_lowercase();
        other.contains(&wanted) || wanted.contains(&other)
    };
    let keyed = |(other, at): (&'_ Name, &BookmarkPoint)| (!alike(other.as_str()), Reverse(at.at.lsn));
    let mut best: Vec<((bool, Reverse<Lsn>), &Name)> = Vec::new();
    // There may be very many.
    for (other, at) in volume.bookmarks() {
        let key = keyed((other, at));
        best.insert(best.partition_point(|(k, _)| *k < key), (key, other));
        best.truncate(3);
    }
    best.into_iter().map(|(_, other)| other.to_string()).collect()
}
