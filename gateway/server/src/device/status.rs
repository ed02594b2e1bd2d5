//! What images tell of themselves without being read: allocation, depth, and what changed since a bookmark.
//!
//! Never more than so many regions are looked at for one question; who asked is answered up to there and asks on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use gateway_image::RegionMap;
use gateway_image::overlay::Written;
use gateway_journal::{REGION_BYTES, RegionNo};
use tap_block::units::index;
use tap_block::{
    Answer, Answered, BLOCK_SIZE, BlockNo, DeviceError, Extent, ExtentSet, Lsn, Map, Name, State, Stretch,
    Stretches,
};

use super::image::Image;
use super::overlay::Layers;

/// Regions whose maps are gathered for one question: 4 GiB of a volume, not counting what is empty behind an empty one.
const MAPS: usize = 256;
/// Regions of which is told block by block what changed: 64 GiB of a volume.
const CHANGED_REGIONS: usize = 4096;
/// Changes since a bookmark that an image remembers, of so many bookmarks: as many as one connection may ask for. They take 512
/// bytes for each region with any.
const REMEMBERED: usize = 16;

/// What may still be looked at for one question.
#[derive(Debug)]
pub(super) struct Walk {
    maps: usize,
    changed: usize,
}

/// The blocks that changed: a bit for each block of each region with any.
#[derive(Debug, Default)]
pub(super) struct Changed(BTreeMap<u64, Box<[u64; WORDS]>>);

const REGION_BLOCKS: u64 = REGION_BYTES / BLOCK_SIZE;
const WORDS: usize = (REGION_BLOCKS / 64) as usize;

/// What changed since the bookmarks that were asked for last. It is worked out once, however many ask for it.
#[derive(Debug, Default)]
pub(super) struct ChangedSince(Mutex<Vec<(Lsn, Place)>>);

type Place = Arc<Mutex<Option<Arc<Changed>>>>;

/// Takes a stretch; false when it has had enough.
pub(super) type Each<'a> = &'a mut dyn FnMut(u64, State) -> bool;

impl Default for Walk {
    fn default() -> Self {
        Self { maps: MAPS, changed: CHANGED_REGIONS }
    }
}

impl Image {
    /// Answers [`tap_block::Op::Status`].
    pub(super) fn status(&self, extent: Extent, maps: &[Map], most: usize) -> Answered {
        of_each(maps, most, |map, stretches| {
            let each: Each<'_> = &mut |length, state| stretches.push(length, state);
            self.describe(extent, map, &mut Walk::default(), each).map(drop)
        })
    }

    /// Tells `each` stretch; did it get to the end?
    pub(super) fn describe(
        &self,
        extent: Extent,
        map: &Map,
        walk: &mut Walk,
        each: Each<'_>,
    ) -> Result<bool, DeviceError> {
        match map {
            Map::Allocation | Map::Depth => self.describe_content(extent, map, walk, each),
            Map::ChangedSince(name) => Ok(self.changed_since(name)?.describe(extent, walk, each)),
        }
    }

    fn describe_content(
        &self,
        extent: Extent,
        map: &Map,
        walk: &mut Walk,
        each: Each<'_>,
    ) -> Result<bool, DeviceError> {
        let mut at = extent.offset();
        while let Some((region, _)) = RegionNo::holding(BlockNo::holding(at)).filter(|_| at < extent.end()) {
            if walk.maps == 0 {
                return Ok(false);
            }
            walk.maps -= 1;
            let mut part = Extent::between(at, extent.end().min(region.offset() + REGION_BYTES));
            let known = match self.store().region_map_in_passing(self.volume(), region, self.point()) {
                Ok(known) => Some(known),
                // The journal may have lost what the flat copy still has.
                Err(_) if self.has_whole_copy() => None,
                Err(e) => return Err(super::image::unreadable(part, &e)),
            };
            if known.as_ref().is_some_and(|known| known.stored_blocks() == 0) {
                part = Extent::between(at, extent.end().min(self.empty_until(region)).max(part.end()));
            }
            if !describe_region(part, known.as_deref(), map, each) {
                return Ok(false);
            }
            at = part.end();
        }
        Ok(true)
    }

    /// Up to where nothing is stored behind an empty region. Where that cannot be told, one region is looked at after the other.
    fn empty_until(&self, region: RegionNo) -> u64 {
        let next = region.get().checked_add(1).map(RegionNo::new);
        let found = next.map(|next| self.store().next_region(self.volume(), next, self.point()));
        match found {
            Some(Ok(Some(next))) => next.offset(),
            Some(Ok(None)) => u64::MAX,
            Some(Err(_)) | None => 0,
        }
    }

    /// Where the bookmark is, if what changed since then can be told: it must be before this image, and kept.
    fn bookmark(&self, name: &Name) -> Option<Lsn> {
        let catalogue = self.store().catalogue();
        let volume = catalogue.volume(self.volume())?;
        let at = volume.bookmark_named(name)?.at.lsn;
        let is_told = at <= self.point() && volume.selectable(at).is_ok();
        (is_told && self.store().check_kept(self.volume(), at).is_ok()).then_some(at)
    }

    pub(super) fn has_bookmark(&self, name: &Name) -> bool {
        self.bookmark(name).is_some()
    }

    pub(super) fn newest_bookmarks(&self, most: usize) -> Vec<Name> {
        let catalogue = self.store().catalogue();
        let Some(volume) = catalogue.volume(self.volume()) else { return Vec::new() };
        let newest = volume.bookmarks_before(self.point().next());
        let told = newest.filter(|(name, _)| self.has_bookmark(name));
        told.take(most).map(|(name, _)| name.clone()).collect()
    }

    fn changed_since(&self, name: &Name) -> Result<Arc<Changed>, DeviceError> {
        let gone = || DeviceError::Io(format!("what changed since bookmark {name} cannot be told any more"));
        let since = self.bookmark(name).ok_or_else(gone)?;
        let place = self.changed.place(since);
        let mut known = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*known {
            return Ok(Arc::clone(known));
        }
        let told = self.store().changed(self.volume(), since, self.point());
        let all = Extent::between(0, self.size());
        let changed = told.map_err(|e| super::image::unreadable(all, &e))?;
        Ok(Arc::clone(known.insert(Arc::new(Changed::of(&changed)))))
    }
}

impl Layers {
    /// Answers [`tap_block::Op::Status`]: what is written here, and between it what the image below says.
    pub(super) fn status(&self, extent: Extent, maps: &[Map], most: usize) -> Answered {
        let (written, extent) = self.written(extent, most);
        of_each(maps, most, |map, stretches| self.describe(extent, &written, map, stretches))
    }

    fn describe(
        &self,
        extent: Extent,
        written: &[(Extent, Written)],
        map: &Map,
        stretches: &mut Stretches,
    ) -> Result<(), DeviceError> {
        let (mut walk, mut at) = (Walk::default(), extent.offset());
        let end = (Extent::between(extent.end(), extent.end()), Written::Data);
        for (run, what) in written.iter().chain([&end]) {
            let below = Extent::between(at, run.offset());
            let each: Each<'_> = &mut |length, state| stretches.push(length, one_below(state));
            if !self.below().describe(below, map, &mut walk, each)?
                || !self.describe_written(*run, *what, map, &mut walk, stretches)?
            {
                break;
            }
            at = run.end();
        }
        Ok(())
    }

    /// What was copied from the image is as much of it allocated as there.
    fn describe_written(
        &self,
        run: Extent,
        what: Written,
        map: &Map,
        walk: &mut Walk,
        stretches: &mut Stretches,
    ) -> Result<bool, DeviceError> {
        match (what, map) {
            (Written::Image(at), Map::Allocation) => {
                let below = Extent::between(at, at.saturating_add(run.length()));
                let each: Each<'_> = &mut |length, state| stretches.push(length, state);
                self.below().describe(below, map, walk, each)
            }
            _ => Ok(stretches.push(run.length(), own(map, what == Written::Zeroes))),
        }
    }
}

/// Tells what a region's map says of `part` of it; without a map, that it is data.
fn describe_region(part: Extent, known: Option<&RegionMap>, map: &Map, each: Each<'_>) -> bool {
    match known {
        None => each(part.length(), map.plain(true)),
        Some(known) if known.stored_blocks() == 0 => each(part.length(), map.plain(false)),
        Some(known) => part.split_at_multiples(BLOCK_SIZE).all(|piece| {
            let within = RegionNo::holding(BlockNo::holding(piece.offset())).map(|(_, within)| within);
            let stored = within.and_then(|within| known.unit(within));
            each(piece.length(), map.plain(stored.is_some()))
        }),
    }
}

/// What is written on an image.
const fn own(map: &Map, is_zero: bool) -> State {
    match map {
        Map::Allocation => map.plain(!is_zero),
        Map::Depth | Map::ChangedSince(_) => map.unknown(),
    }
}

const fn one_below(state: State) -> State {
    match state {
        State::Layer(depth) if depth > 0 => State::Layer(depth + 1),
        other => other,
    }
}

/// The answer for each map. What fails later on is not told: whoever asks on from there hears of it.
fn of_each(
    maps: &[Map],
    most: usize,
    describe: impl Fn(&Map, &mut Stretches) -> Result<(), DeviceError>,
) -> Answered {
    let all = maps.iter().map(|map| {
        let mut stretches = Stretches::new(most);
        match describe(map, &mut stretches) {
            Err(e) if stretches.is_empty() => Err(e),
            _ => Ok(stretches.into_list()),
        }
    });
    all.collect::<Result<Vec<Vec<Stretch>>, _>>().map(Answer::Status)
}

impl ChangedSince {
    fn place(&self, since: Lsn) -> Place {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = places.iter().position(|(lsn, _)| *lsn == since) {
            let known = places.remove(n);
            places.push(known);
        } else {
            if places.len() >= REMEMBERED {
                places.remove(0);
            }
            places.push((since, Place::default()));
        }
        places.last().map(|(_, place)| Arc::clone(place)).unwrap_or_default()
    }
}

impl Changed {
    fn of(changed: &ExtentSet) -> Self {
        let mut regions: BTreeMap<u64, Box<[u64; WORDS]>> = BTreeMap::new();
        for part in changed.iter().flat_map(|extent| extent.split_at_multiples(REGION_BYTES)) {
            let region = part.offset() / REGION_BYTES;
            let bits = regions.entry(region).or_insert_with(|| Box::new([0; WORDS]));
            for within in part.blocks().map(|block| block.get() % REGION_BLOCKS) {
                if let Some(word) = bits.get_mut(index(within / 64)) {
                    *word |= 1 << (within % 64);
                }
            }
        }
        Self(regions)
    }

    fn describe(&self, extent: Extent, walk: &mut Walk, each: Each<'_>) -> bool {
        let mut at = extent.offset();
        let through = extent.offset() / REGION_BYTES..extent.end().div_ceil(REGION_BYTES);
        for (region, bits) in self.0.range(through) {
            let of = Extent::between(region * REGION_BYTES, (region + 1).saturating_mul(REGION_BYTES));
            let Some(part) = of.intersection(extent) else { continue };
            if walk.changed == 0 || !each(part.offset() - at, State::Same) {
                return false;
            }
            walk.changed -= 1;
            for piece in part.split_at_multiples(BLOCK_SIZE) {
                let within = piece.offset() / BLOCK_SIZE % REGION_BLOCKS;
                let is_set = bits.get(index(within / 64)).is_some_and(|word| word >> (within % 64) & 1 == 1);
                if !each(piece.length(), if is_set { State::Changed } else { State::Same }) {
                    return false;
                }
            }
            at = part.end();
        }
        each(extent.end() - at, State::Same)
    }
}
