//! Between times and LSNs: rows that name a frame now and then, and the frames' own tables for the rest.
//!
//! The source's time never goes back between two places where its clock was set: within a run, or while no tap ran. A time is
//! looked up in the newest such stretch that has a record captured by then.

use std::io;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use gateway_image::Passed;
use gateway_journal::frame::{FRAME_HEADER, FRAME_HEADER_BYTES, check_sum};
use gateway_journal::table::decode_records;
use gateway_journal::{FrameHeader, FrameKind, Kept, KeptPoint, SEGMENT_HEADER, SegmentId};
use tap_block::{Entry, Extent, Lsn, StreamId, VolumeId, WallTime};

use crate::error::{Damage, StoreError};
use crate::index::{IndexStore, Table, keys};
use crate::layout::Layout;
use crate::segments::Segments;
use crate::store::Shared;
use crate::sync::read;

/// A frame and when its first record was captured (never earlier than any record before it by the same clock).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeRow {
    pub(crate) lsn: Lsn,
    pub(crate) time: WallTime,
    pub(crate) segment: SegmentId,
    pub(crate) at: u32,
}

impl TimeRow {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = self.time.nanos().to_le_bytes().to_vec();
        out.extend_from_slice(&self.segment.get().to_le_bytes());
        out.extend_from_slice(&self.at.to_le_bytes());
        out
    }

    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let lsn = Lsn::new(keys::last_number(key)?)?;
        let (time, rest) = value.split_first_chunk::<8>()?;
        let (segment, rest) = rest.split_first_chunk::<4>()?;
        Some(Self {
            lsn,
            time: WallTime::from_nanos(u64::from_le_bytes(*time)),
            segment: SegmentId::new(u32::from_le_bytes(*segment)),
            at: u32::from_le_bytes(*rest.first_chunk::<4>()?),
        })
    }
}

/// A row, and the LSN at which the next one (or the future) begins.
struct Span {
    row: TimeRow,
    next: Lsn,
}

pub(crate) fn lsn_at(
    shared: &Shared,
    stream: StreamId,
    time: WallTime,
) -> Result<Option<Passed>, StoreError> {
    let Some(range) = clock_at(shared, stream, time) else { return Ok(None) };
    under_one_layout(shared, |layout| {
        let settled = kept_of(shared, layout, stream);
        let log = (range.0.max(settled.map_or(Lsn::ZERO, |k| k.settled.next())), range.1);
        if let Some(found) = last_in_log(shared, stream, log, time)? {
            return Ok(Some(found));
        }
        let Some(kept) = settled else { return Ok(None) };
        // Where all that this clock meant is thinned out, what came before it is the last that is kept.
        let by_then = |p: &KeptPoint| p.lsn < range.0 || (p.lsn <= range.1 && p.captured_at <= time);
        let n = kept.points.iter().rposition(by_then).map_or(0, |n| n + 1);
        let point = n.checked_sub(1).and_then(|n| kept.points.get(n)).map(passed);
        let run = kept.points.get(n).filter(|p| p.is_run() && range.0 <= p.lsn && p.lsn <= range.1);
        Ok(run.and_then(|run| mark_of_run(shared, stream, run, time)).or(point))
    })
}

const fn passed(point: &KeptPoint) -> Passed {
    Passed { lsn: point.lsn, at: point.captured_at }
}

/// The last mark of a run that was made by then, of those that are known.
fn mark_of_run(shared: &Shared, stream: StreamId, run: &KeptPoint, time: WallTime) -> Option<Passed> {
    let catalogue = Arc::clone(&read(&shared.published).catalogue);
    let marks = catalogue.volume_of(stream)?.marks();
    marks.made_by((run.first(), run.lsn), time).map(|mark| mark.at)
}

/// A settled point; of one that is not listed on its own what is known of it: the mark, or else what is listed before it.
fn settled_point(shared: &Shared, stream: StreamId, kept: &Kept, lsn: Lsn) -> Option<KeptPoint> {
    let listed = kept.listed(lsn)?;
    if listed.lsn == lsn {
        return Some(KeptPoint { before: 0, ..*listed });
    }
    let catalogue = Arc::clone(&read(&shared.published).catalogue);
    let mark = catalogue.volume_of(stream).and_then(|volume| volume.marks().at(lsn).copied());
    let before = || kept.listed_by(lsn).map(|p| KeptPoint::new(lsn, p.captured_at, p.received_at));
    mark.map(|mark| KeptPoint::new(lsn, mark.at.at, mark.received_at)).or_else(before)
}

fn last_in_log(
    shared: &Shared,
    stream: StreamId,
    range: Lsns,
    time: WallTime,
) -> Result<Option<Passed>, StoreError> {
    // A clock may have been set in the middle of a frame: then no row begins with the first record by it.
    let found = find(shared, stream, range, |row| row.time <= time)?;
    let span = found.map_or_else(|| find(shared, stream, ALL, |row| row.lsn <= range.0), |s| Ok(Some(s)))?;
    let Some(span) = span else { return Ok(None) };
    let mut best = None;
    let mut latest = if span.row.lsn < range.0 { WallTime::EPOCH } else { span.row.time };
    walk(shared, &span, stream, |entry| {
        let lsn = entry.position.lsn();
        if lsn < range.0 {
            return ControlFlow::Continue(());
        }
        if lsn > range.1 {
            return ControlFlow::Break(());
        }
        latest = latest.max(entry.captured_at);
        if latest > time {
            return ControlFlow::Break(());
        }
        best = Some(Passed { lsn: entry.position.lsn(), at: entry.captured_at });
        ControlFlow::Continue(())
    })?;
    Ok(best)
}

pub(crate) fn time_of(shared: &Shared, stream: StreamId, lsn: Lsn) -> Result<Option<WallTime>, StoreError> {
    under_one_layout(shared, |layout| match kept_of(shared, layout, stream).filter(|k| lsn <= k.settled) {
        Some(kept) => Ok(settled_point(shared, stream, kept, lsn).map(|p| p.captured_at)),
        None => time_in_log(shared, stream, lsn),
    })
}

fn time_in_log(shared: &Shared, stream: StreamId, lsn: Lsn) -> Result<Option<WallTime>, StoreError> {
    let Some(span) = find(shared, stream, ALL, |row| row.lsn <= lsn)? else { return Ok(None) };
    let mut found = None;
    walk(shared, &span, stream, |entry| {
        if entry.position.lsn() >= lsn {
            found = (entry.position.lsn() == lsn).then_some(entry.captured_at);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// A record as a point: when it was captured, and when it was received.
pub(crate) fn point_of(shared: &Shared, stream: StreamId, lsn: Lsn) -> Result<Option<KeptPoint>, StoreError> {
    under_one_layout(shared, |layout| match kept_of(shared, layout, stream).filter(|k| lsn <= k.settled) {
        Some(kept) => Ok(settled_point(shared, stream, kept, lsn)),
        None => point_in_log(shared, stream, lsn),
    })
}

fn point_in_log(shared: &Shared, stream: StreamId, lsn: Lsn) -> Result<Option<KeptPoint>, StoreError> {
    let Some(span) = find(shared, stream, ALL, |row| row.lsn <= lsn)? else { return Ok(None) };
    let mut found = None;
    walk_frames(shared, Gaps::Gone, &span, stream, |header, entries| {
        let entry = entries.iter().find(|e| !e.position.is_copy() && e.position.lsn() == lsn);
        let received_at = header.received_at;
        found = entry.map(|e| KeptPoint::new(lsn, e.captured_at, received_at));
        if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(found)
}

/// Looks something up; again when a settle ended meanwhile, which may have taken away what this was reading.
pub(crate) fn under_one_layout<T>(
    shared: &Shared,
    look: impl Fn(&Layout) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    loop {
        let layout = Arc::clone(&read(&shared.published).layout);
        let found = look(&layout);
        if Arc::ptr_eq(&layout, &read(&shared.published).layout) {
            return found;
        }
    }
}

fn kept_of<'l>(shared: &Shared, layout: &'l Layout, stream: StreamId) -> Option<&'l Kept> {
    let catalogue = Arc::clone(&read(&shared.published).catalogue);
    layout.kept.get(&catalogue.volume_of(stream)?.id())
}

/// The LSNs from the first to the second, both included.
type Lsns = (Lsn, Lsn);
const ALL: Lsns = (Lsn::ZERO, Lsn::ZERO.plus(Lsn::LIMIT));

/// Where a time is looked up; everything when nothing is known of the stream.
fn clock_at(shared: &Shared, stream: StreamId, time: WallTime) -> Option<Lsns> {
    let catalogue = Arc::clone(&read(&shared.published).catalogue);
    catalogue.volume_of(stream).map_or(Some(ALL), |volume| volume.clock_at(time))
}

/// The last row of `stream` within `range` that `wanted` holds for; it holds for a first part of them.
fn find(
    shared: &Shared,
    stream: StreamId,
    range: Lsns,
    wanted: impl Fn(&TimeRow) -> bool,
) -> Result<Option<Span>, StoreError> {
    let (rows, end) = {
        let published = read(&shared.published);
        let Some(durable) = published.streams.get(&stream) else { return Ok(None) };
        let groups = published.frozen.iter().map(|f| &f.group).chain([&published.active]);
        let rows: Vec<TimeRow> =
            groups.flat_map(|g| &g.rows).filter(|(s, _)| *s == stream).map(|(_, row)| *row).collect();
        (rows, durable.lsn.min(range.1).next())
    };
    let rows: Vec<TimeRow> = rows.into_iter().filter(|r| range.0 <= r.lsn && r.lsn <= range.1).collect();
    let n = rows.partition_point(&wanted);
    let after = rows.get(n).map_or(end, |row| row.lsn);
    if let Some(row) = n.checked_sub(1).and_then(|i| rows.get(i)) {
        return Ok(Some(Span { row: *row, next: after }));
    }
    let Some(row) = find_indexed(&shared.index, stream, range, wanted)? else { return Ok(None) };
    let mut next = after;
    let (from, to) = (keys::time(stream, row.lsn.next()), keys::time(stream, after));
    shared.index.scan(Table::Times, &from, &to, &mut |key, value| {
        if let Some(row) = TimeRow::decode(key, value) {
            next = row.lsn;
        }
        false
    })?;
    Ok(Some(Span { row, next }))
}

/// Halving the LSNs: rows ascend in time as they do in LSN.
fn find_indexed(
    index: &dyn IndexStore,
    stream: StreamId,
    (first, last): Lsns,
    wanted: impl Fn(&TimeRow) -> bool,
) -> Result<Option<TimeRow>, StoreError> {
    let row_at = |lsn: Lsn| -> Result<Option<TimeRow>, StoreError> {
        let row = index.last(Table::Times, &keys::time(stream, first), &keys::time(stream, lsn))?;
        Ok(row.and_then(|(key, value)| TimeRow::decode(&key, &value)))
    };
    let Some(last) = row_at(last)? else { return Ok(None) };
    let mut best = None;
    // Rows at or below `low` are done with; those above `high` are not wanted.
    let (mut low, mut high) = (first.get(), last.lsn.get());
    while low <= high {
        let middle = low + (high - low) / 2;
        match row_at(Lsn::ZERO.plus(middle))? {
            Some(row) if wanted(&row) => {
                best = Some(row);
                low = middle + 1;
            }
            Some(row) => match row.lsn.get().checked_sub(1) {
                Some(below) => high = below,
                None => break,
            },
            None => low = middle + 1,
        }
    }
    Ok(best)
}

/// Every change that the log's frames hold from the record after `from` to the record `to`, and copies as of `copies` and
/// later among them.
pub(crate) fn each_change(
    shared: &Shared,
    stream: StreamId,
    (from, to): Lsns,
    copies: Lsn,
    each: &mut dyn FnMut(VolumeId, Extent),
) -> Result<(), StoreError> {
    // A run that begins with a jump may have no row before it, or one that a settle left behind: then the log's first frame will do,
    // but not one that is gone.
    let first = || shared.segments.oldest().map(|segment| (segment, SEGMENT_HEADER));
    let found = find(shared, stream, ALL, |row| row.lsn <= from.next())?;
    if let Some(span) = &found {
        refuse_gap(shared, Gaps::Gone, span.row.segment..span.row.segment.next())?;
    }
    let known = found.filter(|span| shared.segments.lives(span.row.segment));
    let Some((segment, at)) = known.map(|span| (span.row.segment, span.row.at)).or_else(first) else {
        return Ok(());
    };
    let row = TimeRow { lsn: from.next(), time: WallTime::EPOCH, segment, at };
    let span = Span { row, next: to.next() };
    walk_frames(shared, Gaps::All, &span, stream, |_, entries| {
        for entry in entries {
            let lsn = entry.position.lsn();
            let within = if entry.position.is_copy() { copies <= lsn } else { from < lsn };
            if let Some((volume, extent)) = entry.action.changes().filter(|_| within && lsn <= to) {
                each(volume, extent);
            }
        }
        ControlFlow::Continue(())
    })
}

/// The stream's records from the span's frame on, until its next row's or until `each` breaks.
fn walk(
    shared: &Shared,
    span: &Span,
    stream: StreamId,
    mut each: impl FnMut(&Entry) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let mut covered = span.row.lsn.previous();
    walk_frames(shared, Gaps::Gone, span, stream, |_, entries| {
        for entry in entries.iter().filter(|e| !e.position.is_copy()) {
            if entry.position.lsn() <= covered {
                continue;
            }
            covered = entry.position.lsn();
            if covered >= span.next {
                return ControlFlow::Break(());
            }
            each(entry)?;
        }
        ControlFlow::Continue(())
    })
}

/// The stream's frames from the span's on, until one reaches the next row or `each` breaks.
fn walk_frames(
    shared: &Shared,
    gaps: Gaps,
    span: &Span,
    stream: StreamId,
    mut each: impl FnMut(&FrameHeader, &[Entry]) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let (mut segment, mut at) = (span.row.segment, span.row.at);
    let mut covered = span.row.lsn.previous();
    let segments = &shared.segments;
    while covered.next() < span.next {
        let Some(known) = segments.known(segment) else {
            refuse_gap(shared, gaps, segment..segment.next())?;
            break;
        };
        if at >= known.end {
            let Some(next) = segments.after(segment) else { break };
            refuse_gap(shared, gaps, segment.next()..next.next())?;
            (segment, at) = (next, SEGMENT_HEADER);
            continue;
        }
        let (header, table) = read_frame(segments, segment, at)?;
        let here = at;
        at = at.saturating_add(header.span);
        if header.kind != FrameKind::Records || header.stream != stream {
            continue;
        }
        let records = decode_records(&header, &table).map_err(|e| damaged(segment, here, &e.to_string()))?;
        if each(&header, &records.entries).is_break() {
            break;
        }
        let last = records.entries.iter().filter(|e| !e.position.is_copy()).map(|e| e.position.lsn()).max();
        covered = covered.max(last.unwrap_or(covered));
    }
    Ok(())
}

/// What keeps a walk from going on to another segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gaps {
    /// A segment that is gone.
    Gone,
    /// That, and a damaged header: it said where the segment before ended, so some of that may be missing.
    All,
}

fn refuse_gap(shared: &Shared, gaps: Gaps, between: Range<SegmentId>) -> Result<(), StoreError> {
    let published = read(&shared.published);
    let is_gap = |d: &&Damage| {
        let counts = gaps == Gaps::All || !shared.segments.lives(d.segment);
        d.from == 0 && between.contains(&d.segment) && counts && !published.layout.lists(d.segment)
    };
    match published.damage.iter().find(is_gap) {
        Some(gap) => Err(damaged(gap.segment, gap.from, &gap.detail)),
        None => Ok(()),
    }
}

fn read_frame(
    segments: &Segments,
    segment: SegmentId,
    at: u32,
) -> Result<(FrameHeader, Vec<u8>), StoreError> {
    let bad = |e: String| damaged(segment, at, &e);
    let file = segments.file(segment)?.ok_or_else(|| bad("its file is missing".into()))?;
    let mut head = vec![0; FRAME_HEADER];
    file.read_at(u64::from(at), &mut head)?;
    let header = FrameHeader::decode(&head).map_err(|e| bad(e.to_string()))?;
    let len = FRAME_HEADER_BYTES.saturating_add(header.table);
    if u64::from(at) + u64::from(len) > file.len() {
        return Err(bad("it reaches past the segment's end".into()));
    }
    head.resize(usize::try_from(len).map_err(io::Error::other)?, 0);
    let (_, table) = head.split_at_mut(FRAME_HEADER);
    file.read_at(u64::from(at) + u64::from(FRAME_HEADER_BYTES), table)?;
    check_sum(&head).map_err(|e| bad(e.to_string()))?;
    Ok((header, head.split_off(FRAME_HEADER)))
}

fn damaged(segment: SegmentId, at: u32, why: &str) -> StoreError {
    StoreError::Damaged(format!("the frame at {at} of {segment}: {why}"))
}
