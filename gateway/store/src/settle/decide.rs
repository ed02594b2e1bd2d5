//! What a pass leaves, decided before any of it is written: the log is followed a group at a time, and the pass ends before the
//! group with which its list of points would not fit into a segment. What is held is listed in less detail before that. Where that
//! helps nothing, for most of the list are names and points that nothing lets go, it lies in several.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_image::Catalogue;
use gateway_image::catalogue::Volume;
use gateway_journal::{GateMove, Generation, GroupNo, Kept, Manifest, SegmentId, Start, StoreId};
use tap_block::units::count;
use tap_block::{Lsn, StreamId, VolumeId, WallTime};

use super::coarse::{coarsen, listed};
use super::gates::overruled;
use super::keep::{Terms, all_points, lost_points, points, thinned};
use super::plan::Plan;
use super::short::{self, Shortages};
use super::trail::{Met, Trail, WentPast, Window, check_known, check_unsealed, not_settled};
use crate::error::{Damage, StoreError};
use crate::layout::Layout;
use crate::store::Shared;
use crate::sync::read;

/// A kept point in a manifest takes no more bytes than this: four numbers.
const POINT_BYTES: u64 = 35;
/// A segment in a manifest, and a volume's share of one.
const SEGMENT_BYTES: u64 = 64;
const SHARE_BYTES: u64 = 32;
/// The rest of a manifest, and what is around it in a segment.
const AROUND: u64 = 12 << 10;

/// See the module.
pub(super) struct Decision {
    /// When it was taken.
    at: WallTime,
    /// Behind the groups that it settles.
    pub(super) trail: Trail,
    /// The same as bytes.
    state: Vec<u8>,
    pub(super) window: Window,
    pub(super) kept: BTreeMap<VolumeId, Kept>,
    /// Points that cannot be opened any more.
    pub(super) dropped: u64,
    /// Those of them that were settled before, of each volume.
    pub(super) gone: BTreeMap<VolumeId, usize>,
    /// Gates that they went past for want of room.
    pub(super) overruled: Vec<GateMove>,
    /// What went for want of room, with this pass or before.
    short: Shortages,
    /// What of the log cannot be read any more.
    pub(super) went_past: Option<WentPast>,
}

/// Bytes of the longest list, in however many segments.
const LONGEST: u64 = 256 << 20;

/// A list of points is too long: it has so many bytes.
struct TooMuch(u64);

/// Where the log was followed to.
struct Followed {
    trail: Trail,
    window: Window,
    /// So many groups.
    groups: usize,
    /// The next group cannot be settled by what the log says.
    stopped: Option<StoreError>,
    went_past: Option<WentPast>,
}

/// Follows the log to the end of the plan's groups, or of as many as there may be, and decides which points are left.
pub(super) fn decide(shared: &Shared, plan: &mut Plan, terms: &Terms) -> Result<Decision, StoreError> {
    let layout = Arc::clone(&read(&shared.published).layout);
    let limit = room(shared);
    let mut most = limit;
    loop {
        let mut followed = follow(shared, plan, &layout)?;
        if let Some(why) = followed.stopped.take_if(|_| followed.groups == 0) {
            followed = follow_by_index(shared, plan, &layout, why)?;
        }
        let Followed { trail, window, groups, stopped, went_past } = followed;
        plan.groups.truncate(groups);
        if stopped.is_some() {
            // What lies before it is none the worse.
            continue;
        }
        match leave(shared, plan, &layout, terms, (trail, window), (limit, most)) {
            Ok(decision) => return Ok(Decision { went_past, ..decision }),
            // It is that long without what these groups bring.
            Err(_) if most == limit && (groups == 1 || is_long(shared, plan, &layout)) => most = LONGEST,
            Err(_) if groups > 1 => plan.groups.truncate(groups / 2),
            Err(TooMuch(bytes)) => return Err(StoreError::ListTooLarge { bytes, limit: most }),
        }
    }
}

/// The same of settled history alone: nothing is listed there that was not before.
pub(super) fn decide_settled(shared: &Shared, plan: &Plan, terms: &Terms) -> Result<Decision, StoreError> {
    let layout = Arc::clone(&read(&shared.published).layout);
    let (trail, limit) = (Trail::clone(&layout.trail), u64::MAX);
    let window = trail.stand();
    let too_large = |TooMuch(bytes)| StoreError::ListTooLarge { bytes, limit };
    leave(shared, plan, &layout, terms, (trail, window), (limit, limit)).map_err(too_large)
}

fn follow(shared: &Shared, plan: &Plan, layout: &Layout) -> Result<Followed, StoreError> {
    let mut trail = Trail::clone(&layout.trail);
    let mut window = trail.stand();
    let (mut last, mut indexed) = (None, BTreeMap::new());
    for (n, group) in plan.groups.iter().enumerate() {
        let passed =
            trail.advance_into(&mut window, shared, (group.no, group.through), &mut |met| match met {
                Met::Frame(..) => Ok(()),
                Met::Damage(damage) => check_known(shared, last.insert(damage.clone())),
                Met::Unsealed(damage) => check_unsealed(shared, last.insert(damage.clone())),
                Met::Missing(damage) => Err(not_settled(damage)),
            });
        for (stream, bytes) in &group.spans {
            *indexed.entry(*stream).or_insert(0) += bytes;
        }
        // Frames without a unit in them, too: the index took in more than there is.
        let passed = passed.and_then(|()| match falls_short(&window, &indexed) {
            true => Err(not_settled(&last.clone().unwrap_or_else(|| short_of(group.through)))),
            false => Ok(()),
        });
        if let Err(why) = passed {
            return Ok(Followed { stopped: Some(why), ..Followed::to(trail, window, n) });
        }
        if !group.spans.is_empty() {
            trail.trust([&read(&shared.published).damage, layout.trail.damage()], |_| true);
        }
        // Records that change nothing are no versions, but take as much memory.
        if window.records() >= shared.config.settle_versions {
            return Ok(Followed::to(trail, window, n + 1));
        }
    }
    Ok(Followed::to(trail, window, plan.groups.len()))
}

/// Follows the log to the end of the plan's first group, which is all of the plan then, by what the index has of it. `why` the log
/// does not do.
fn follow_by_index(
    shared: &Shared,
    plan: &mut Plan,
    layout: &Layout,
    why: StoreError,
) -> Result<Followed, StoreError> {
    plan.groups.truncate(1);
    let group = plan.groups.first().filter(|_| matches!(why, StoreError::Damaged(_)));
    let Some(group) = group else { return Err(why) };
    let mut trail = Trail::clone(&layout.trail);
    let (window, went_past) = trail.advance_by_index(shared, group)?;
    Ok(Followed { went_past: Some(went_past), ..Followed::to(trail, window, 1) })
}

impl Followed {
    const fn to(trail: Trail, window: Window, groups: usize) -> Self {
        Self { trail, window, groups, stopped: None, went_past: None }
    }
}

/// Did the index take in more of any stream's frames than were met?
fn falls_short(window: &Window, indexed: &BTreeMap<StreamId, u64>) -> bool {
    let met = |stream| window.versions.spans().get(stream).copied().unwrap_or(0);
    indexed.iter().any(|(stream, bytes)| met(stream) < *bytes)
}

/// Nothing says what is gone, or where.
fn short_of((segment, end): (SegmentId, Start)) -> Damage {
    let detail = "frames before this place are gone".to_owned();
    Damage { segment, from: end.at, to: end.at, detail, lost: Vec::new() }
}

/// Did the list of points not fit into a segment before?
fn is_long(shared: &Shared, plan: &Plan, layout: &Layout) -> bool {
    let state = layout.trail.encode();
    manifest_bytes(shared, plan, &layout.kept, (&state, short::bytes(&layout.short)), Form::Packed)
        > room(shared)
}

/// Decides which points are left. `Err`: their list, of so many bytes, is longer than it may be; then nothing is decided.
fn leave(
    shared: &Shared,
    plan: &Plan,
    layout: &Layout,
    terms: &Terms,
    (mut trail, window): (Trail, Window),
    (limit, most): (u64, u64),
) -> Result<Decision, TooMuch> {
    let catalogue = Arc::clone(&read(&shared.published).catalogue);
    trail.share_bookmarks(&catalogue, |id| layout.kept.get(&id).map_or(Lsn::ZERO, |kept| kept.settled));
    let (mut overrules, mut state, mut bytes) = (Vec::new(), Vec::new(), 0);
    let mut shortages = layout.short.clone();
    let kept = shared.points.decide(|open| {
        let of = |volume: &Arc<Volume>| {
            let settled = trail.last(volume.stream())?;
            let before = layout.kept.get(&volume.id()).cloned().unwrap_or_default();
            let before = Kept { settled, points: before.points };
            let fresh = window.points.get(&volume.stream()).map_or(&[][..], Vec::as_slice);
            let left = thinned(&catalogue, volume, &before, fresh, open(volume.id()), terms);
            let offered = before.points.iter().chain(fresh);
            overrules.extend(overruled(&catalogue, volume, offered, &left, terms));
            let went = short::went(&catalogue, volume, (&before, fresh), &left, open(volume.id()), terms);
            short::remember(&mut shortages, volume.id(), went);
            Some((volume.id(), left))
        };
        let mut kept: BTreeMap<_, _> = volumes(&catalogue, &trail).filter_map(of).collect();
        let told = short::bytes(&shortages);
        (state, bytes) = fit(shared, plan, (&catalogue, terms.now), (&mut trail, &mut kept), (told, limit));
        (bytes <= most).then_some(kept)
    });
    let kept = kept.ok_or(TooMuch(bytes))?;
    let offered = all_points(&layout.kept) + window.records();
    Ok(Decision {
        at: terms.now,
        dropped: offered.saturating_sub(all_points(&kept)),
        gone: lost_points(&layout.kept, &kept),
        trail,
        state,
        window,
        kept,
        overruled: overrules,
        short: shortages,
        went_past: None,
    })
}

/// What is known behind the groups as bytes, and how many the whole manifest has. Where those are too many, and most of them are
/// of what is held, that is listed in less detail; where most are barrier marks, there are fewer. Of all else nothing can be left out:
/// the manifest is packed, and lies in several segments. Only when that is too long as well, what is held and what is known pay for
/// whatever it is.
fn fit(
    shared: &Shared,
    plan: &Plan,
    (catalogue, now): (&Catalogue, WallTime),
    (trail, kept): (&mut Trail, &mut BTreeMap<VolumeId, Kept>),
    (told, limit): (u64, u64),
) -> (Vec<u8>, u64) {
    coarsen(kept, catalogue, now, shared.most_held());
    trail.forget_names(kept);
    trail.forget_harmless();
    let mut state = trail.encode();
    let mut bytes = manifest_bytes(shared, plan, kept, (&state, told), Form::Plain);
    for (form, most) in [(Form::Plain, limit), (Form::Packed, limit.max(LONGEST))] {
        if bytes > limit && form == Form::Packed {
            bytes = manifest_bytes(shared, plan, kept, (&state, told), form);
        }
        while bytes > most {
            let known = if form == Form::Packed { state.len() } else { trail.catalogue().mark_bytes() };
            let held = listed(kept, catalogue, now);
            let is_fewer = count(known).saturating_mul(2) >= bytes && trail.halve_marks();
            if is_fewer {
                state = trail.encode();
            } else if held.saturating_mul(2) < count(points(kept)) || !coarsen(kept, catalogue, now, held / 2)
            {
                break;
            }
            bytes = manifest_bytes(shared, plan, kept, (&state, told), form);
        }
    }
    (state, bytes)
}

/// The volumes that the trail knows of, as they are now.
fn volumes<'a>(catalogue: &'a Catalogue, trail: &'a Trail) -> impl Iterator<Item = &'a Arc<Volume>> {
    trail.catalogue().volumes().map(|known| catalogue.volume(known.id()).unwrap_or(known))
}

/// Bytes of a manifest that fit into a segment.
pub(super) fn room(shared: &Shared) -> u64 {
    u64::from(shared.config.segment_len).saturating_sub(AROUND)
}

/// How a manifest is to be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    /// Where it does not fit as it is.
    Packed,
}

/// Bytes of the manifest of a pass, at most.
fn manifest_bytes(
    shared: &Shared,
    plan: &Plan,
    kept: &BTreeMap<VolumeId, Kept>,
    (state, told): (&[u8], u64),
    form: Form,
) -> u64 {
    let entry =
        |g: &Generation| count(g.segments.len()) * SEGMENT_BYTES + count(g.shares.len()) * SHARE_BYTES;
    let there: u64 = plan.untouched.iter().map(entry).sum();
    // What went for want of room is little, and is not reckoned smaller for being packed.
    let written = written_bytes(shared, plan, count(kept.len())) + told;
    let listed = (count(points(kept)) + count(kept.len())) * POINT_BYTES;
    let most = count(state.len()) + written + there + listed;
    if most <= room(shared) {
        return most;
    }
    let packed = form == Form::Packed;
    let list = Manifest {
        store: StoreId::new(0),
        settle: 0,
        at: WallTime::EPOCH,
        generations: plan.untouched.clone(),
        through: (SegmentId::new(0), Start::of_segment(None)),
        group: GroupNo::new(0),
        kept: kept.iter().map(|(v, k)| (*v, k.clone())).collect(),
        short: Vec::new(),
        state: if packed { state.to_vec() } else { Vec::new() },
    };
    match form {
        Form::Plain => count(state.len()) + written + count(list.encode().len()),
        Form::Packed => written + count(list.encode_within(room(shared).saturating_sub(written)).len()),
    }
}

/// Bytes of the generation that a pass writes, at most.
fn written_bytes(shared: &Shared, plan: &Plan, volumes: u64) -> u64 {
    let fresh = plan.groups.last().map_or(0, |g| shared.segments.bytes_to(g.through.0, g.through.1.at));
    let merged: u64 = plan.merged.iter().map(Generation::bytes).sum();
    let segments = (fresh + merged) / (u64::from(shared.config.segment_len) / 2).max(1) + 2;
    segments * SEGMENT_BYTES + (segments + volumes) * SHARE_BYTES
}

impl Decision {
    pub(super) fn manifest(&self, settle: u64, generations: Vec<Generation>) -> Manifest {
        Manifest {
            store: self.trail.store(),
            settle,
            at: self.at,
            generations,
            through: self.trail.at(),
            group: self.trail.group(),
            kept: self.kept.iter().map(|(v, k)| (*v, k.clone())).collect(),
            short: self.short.iter().flat_map(|(v, all)| all.iter().map(|s| (*v, *s))).collect(),
            state: self.state.clone(),
        }
    }

    /// When it was taken.
    pub(super) const fn at(&self) -> WallTime {
        self.at
    }

    /// What of the log it goes past.
    pub(super) fn damaged(&self) -> &[Damage] {
        self.went_past.as_ref().map_or(&[], |past| &past.damage)
    }
}
