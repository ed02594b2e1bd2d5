//! The walk: every segment from its first byte to its end, every frame, every block.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use gateway_journal::frame::{FRAME_HEADER, FRAME_MAGIC, check_sum};
use gateway_journal::table::{decode_meta, decode_records, placed};
use gateway_journal::{
    FrameHeader, FrameKind, Records, SEGMENT_HEADER, Sealed, SegmentHeader, SegmentId, may_be_rot,
    newer_frame,
};
use tap_block::stored::verify;
use tap_block::{Action, Entry, Lsn, Marker, RunId, StreamId, SyncCause};

use crate::VerifyError;
use crate::files::{Files, newer};
use crate::report::{Finding, Report, StreamReport};

/// See the module.
pub(crate) struct Walk<'a> {
    files: &'a Files,
    report: Report,
    streams: BTreeMap<StreamId, Stream>,
}

#[derive(Debug, Default)]
struct Stream {
    first: Lsn,
    last: Lsn,
    records: u64,
    runs: BTreeSet<RunId>,
    /// Of frames that are not settled.
    bytes: u64,
}

/// The segment being walked.
struct Segment {
    id: SegmentId,
    path: PathBuf,
    bytes: Vec<u8>,
    /// The next segment says that it ends here.
    sealed: Option<Sealed>,
    /// Everything below was durable once.
    durable: usize,
}

/// What the next frame must follow.
struct Due {
    number: u32,
    previous: Option<u64>,
    /// The group it is in, at the latest.
    group: u32,
}

/// A frame in the bytes of a segment.
struct Frame<'a> {
    at: usize,
    header: FrameHeader,
    table: &'a [u8],
    hash: u64,
}

pub(crate) fn len64(n: usize) -> u64 {
    tap_block::units::count(n)
}

fn usize32(n: u32) -> usize {
    tap_block::units::index(u64::from(n))
}

impl<'a> Walk<'a> {
    pub(crate) fn new(files: &'a Files) -> Self {
        let store = format!("{:016x}", files.store.get());
        let report = Report { store, torn_tail: files.torn, ..Report::default() };
        Self { files, report, streams: BTreeMap::new() }
    }

    pub(crate) fn run(&mut self) -> Result<(), VerifyError> {
        for (&id, segment) in &self.files.segments {
            let bytes = fs::read(&segment.path)
                .map_err(|source| VerifyError::Io { path: segment.path.clone(), source })?;
            let marked = self.files.mark.and_then(|m| m.durable).filter(|m| m.segment == id);
            let next = self.files.segments.range(id.next()..).find_map(|(_, s)| s.header);
            let sealed = next.and_then(|h| h.previous).filter(|p| p.segment == id);
            let durable = sealed.or(marked).map_or(0, |s| usize32(s.end)).min(bytes.len());
            let segment_walked = Segment { id, path: segment.path.clone(), bytes, sealed, durable };
            self.segment(&segment_walked, segment.header.as_ref())?;
        }
        self.files.settled.walk(self.files.store, &mut self.report);
        Ok(())
    }

    pub(crate) fn into_report(self) -> Report {
        let mut report = self.report;
        let found = self.files.findings.iter().map(|f| Finding {
            segment: f.segment,
            file: f.file.clone(),
            from: f.from,
            to: f.to,
            detail: f.detail.clone(),
        });
        report.damage.splice(..0, found);
        report.sound = report.damage.is_empty();
        report.streams = self.streams.iter().map(|(id, stream)| stream.report(*id)).collect();
        report
    }

    fn segment(&mut self, segment: &Segment, header: Option<&SegmentHeader>) -> Result<(), VerifyError> {
        self.report.segments += 1;
        if header.is_some_and(|h| usize32(h.length) != segment.bytes.len()) {
            let len = len64(segment.bytes.len());
            self.damage(segment, (len, len), "the file's length is not what its header says");
        }
        let mut at = usize32(SEGMENT_HEADER);
        let mut due = Due { number: 0, previous: header.map(SegmentHeader::hash), group: 1 };
        let end = segment.sealed.map_or(segment.bytes.len(), |s| usize32(s.end)).min(segment.bytes.len());
        while at < end {
            match self.frame_due(segment, at, &due) {
                Ok(frame) => {
                    self.frame(segment, &frame);
                    at += usize32(frame.header.span);
                    due = Due::after(&frame);
                }
                Err(why) => {
                    self.refuse_newer(segment, at)?;
                    let Some(frame) = self.beyond(segment, at, end, &due, &why) else { break };
                    due = Due { number: frame.header.number, previous: None, group: frame.header.group };
                    at = frame.at;
                }
            }
        }
        self.report.bytes += len64(at.min(segment.bytes.len()));
        Ok(())
    }

    /// A frame of a newer version is no damage.
    fn refuse_newer(&self, segment: &Segment, at: usize) -> Result<(), VerifyError> {
        let bytes = segment.bytes.get(at..).unwrap_or_default();
        match newer_frame(bytes, self.files.store, segment.id).filter(|&version| !may_be_rot(version)) {
            Some(version) => Err(newer(&segment.path, u32::from(version))),
            None => Ok(()),
        }
    }

    /// The frame at `at`, if it is sound and the one that is due.
    fn frame_due<'b>(&self, segment: &'b Segment, at: usize, due: &Due) -> Result<Frame<'b>, String> {
        let frame = self.frame_at(segment, at)?;
        if frame.header.number != due.number {
            return Err(format!("frame {} where {} was due", frame.header.number, due.number));
        }
        if due.previous.is_some_and(|hash| hash != frame.header.previous) {
            return Err("it does not follow the frame before it".into());
        }
        Ok(frame)
    }

    fn frame_at<'b>(&self, segment: &'b Segment, at: usize) -> Result<Frame<'b>, String> {
        let bytes = segment.bytes.get(at..).unwrap_or_default();
        let header = FrameHeader::decode(bytes).map_err(|e| e.to_string())?;
        if header.store != self.files.store || header.segment != segment.id {
            return Err("a frame of an earlier life of the file".into());
        }
        if usize32(header.span) > bytes.len() {
            return Err("a frame that reaches past the file's end".into());
        }
        let head = bytes.get(..FRAME_HEADER + usize32(header.table)).ok_or("a frame that is cut off")?;
        let hash = check_sum(head).map_err(|e| e.to_string())?;
        let table = head.get(FRAME_HEADER..).unwrap_or_default();
        Ok(Frame { at, header, table, hash })
    }

    /// There is no sound frame at `at`. The next one behind it, when that shows damage; nothing when the segment
    /// simply ends here.
    fn beyond<'b>(
        &mut self,
        segment: &'b Segment,
        at: usize,
        end: usize,
        due: &Due,
        why: &str,
    ) -> Option<Frame<'b>> {
        let places = (at + 8..end).step_by(8).filter(|&p| segment.bytes.get(p..p + 8) == Some(&FRAME_MAGIC));
        let mut sound = places.filter_map(|p| self.frame_at(segment, p).ok());
        // A frame of the group that was being written proves nothing; one of a later group does.
        let next = sound
            .find(|f| f.header.number > due.number && (f.header.group > due.group || f.at < segment.durable));
        match next {
            Some(frame) => {
                self.damage(segment, (len64(at), len64(frame.at)), why);
                Some(frame)
            }
            None => {
                if at < segment.durable {
                    self.damage(segment, (len64(at), len64(segment.durable)), why);
                } else if self.frame_header_is_ours(segment, at) {
                    self.report.torn_tail = true;
                }
                None
            }
        }
    }

    fn frame_header_is_ours(&self, segment: &Segment, at: usize) -> bool {
        let header = segment.bytes.get(at..).map(FrameHeader::decode);
        header.is_some_and(|h| h.is_ok_and(|h| h.store == self.files.store && h.segment == segment.id))
    }

    fn frame(&mut self, segment: &Segment, frame: &Frame<'_>) {
        self.report.frames += 1;
        self.report.records += u64::from(frame.header.entries);
        let place = (len64(frame.at), len64(frame.at) + u64::from(frame.header.span));
        match frame.header.kind {
            FrameKind::Meta => {
                if let Err(e) = decode_meta(&frame.header, frame.table) {
                    self.damage(segment, place, &e.to_string());
                }
            }
            FrameKind::Records => match decode_records(&frame.header, frame.table) {
                Ok(records) => {
                    self.blocks(segment, frame, &records);
                    self.order(segment, frame, &records);
                }
                Err(e) => self.damage(segment, place, &e.to_string()),
            },
        }
    }

    /// Every stored block against its checksum.
    fn blocks(&mut self, segment: &Segment, frame: &Frame<'_>, records: &Records) {
        let Ok(start) = u32::try_from(frame.at) else { return };
        let torn = frame.at + usize32(frame.header.span) > segment.durable && segment.sealed.is_none();
        for (entry, lens, units) in placed(&records.entries, &records.lens, frame.header.body_at(start)) {
            let Action::Write { extent, volume } = &entry.action else { continue };
            let mut from = usize32(units);
            for (block, &len) in extent.blocks().zip(lens) {
                let to = from + usize::from(len);
                let stored = segment.bytes.get(from..to).unwrap_or_default();
                self.report.blocks += u64::from(len > 0);
                if len > 0
                    && let Err(e) = verify(block, stored)
                {
                    if torn && self.is_last_group(segment, frame) {
                        self.report.torn_tail = true;
                        return;
                    }
                    let lsn = entry.position.lsn();
                    let what = format!("block {} of {volume} as of {lsn}: {e}", block.get());
                    self.damage(segment, (len64(from), len64(to)), &what);
                }
                from = to;
            }
        }
    }

    /// No sound frame of a later group is behind this one.
    fn is_last_group(&self, segment: &Segment, frame: &Frame<'_>) -> bool {
        let mut at = frame.at + usize32(frame.header.span);
        while let Ok(next) = self.frame_at(segment, at) {
            if next.header.group > frame.header.group {
                return false;
            }
            at += usize32(next.header.span).max(8);
        }
        true
    }

    /// LSNs are contiguous; only the start of a run, or of a resync for what a hop lost, explains a jump.
    fn order(&mut self, segment: &Segment, frame: &Frame<'_>, records: &Records) {
        let id = frame.header.stream;
        self.count(segment, frame);
        let mut problems = Vec::new();
        for entry in records.entries.iter().filter(|e| !e.position.is_copy()) {
            let lsn = entry.position.lsn();
            let stream = self.streams.entry(id).or_default();
            if stream.records == 0 {
                (stream.first, stream.last) = (lsn, lsn.previous());
            }
            if lsn > stream.last.next() && !explains_jump(entry) {
                problems.push(format!(
                    "records {} to {} of {id} are missing",
                    stream.last.next(),
                    lsn.previous()
                ));
            }
            if lsn > stream.last {
                stream.last = lsn;
                stream.records += 1;
                stream.runs.insert(frame.header.run);
            }
        }
        for problem in problems {
            self.damage(segment, (len64(frame.at), len64(frame.at)), &problem);
        }
    }

    /// What a stream takes of the log that is not settled.
    fn count(&mut self, segment: &Segment, frame: &Frame<'_>) {
        let through = self.files.settled.manifest.as_ref().map(|m| (m.through.0, usize32(m.through.1.at)));
        if through.is_none_or(|through| (segment.id, frame.at) >= through) {
            self.streams.entry(frame.header.stream).or_default().bytes += u64::from(frame.header.span);
        }
    }

    /// What is settled is read no more: nothing that is damaged there costs anything.
    fn damage(&mut self, segment: &Segment, (from, to): (u64, u64), detail: &str) {
        if self.files.is_settled(segment.id, (from, to)) {
            self.report.let_go.insert(segment.id.get());
            return;
        }
        let file = segment.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let segment = Some(segment.id.get());
        self.report.damage.push(Finding { segment, file, from, to, detail: detail.to_owned() });
    }
}

impl Due {
    fn after(frame: &Frame<'_>) -> Self {
        let header = &frame.header;
        let group = if header.following > 0 { header.group } else { header.group.saturating_add(1) };
        Self { number: header.number.saturating_add(1), previous: Some(frame.hash), group }
    }
}

impl Stream {
    fn report(&self, id: StreamId) -> StreamReport {
        StreamReport {
            stream: format!("{:016x}", id.get()),
            first_lsn: self.first.get(),
            last_lsn: self.last.get(),
            records: self.records,
            runs: len64(self.runs.len()),
            log_bytes: self.bytes,
        }
    }
}

fn explains_jump(entry: &Entry) -> bool {
    let Action::Mark(marker) = &entry.action else { return false };
    matches!(**marker, Marker::RunStart(_) | Marker::SyncStart { cause: SyncCause::HopLost })
}
