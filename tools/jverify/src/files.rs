//! The files of a store and the segments in them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use gateway_journal::frame::FRAME_HEADER;
use gateway_journal::{
    FORMAT, FrameHeader, MARK_BYTES, MARK_FILE, Mark, SEGMENT_HEADER, SegmentHeader, SegmentId, SettledFrame,
    SettledHeader, StoreId, may_be_rot, newer_frame, newer_header,
};
use tap_block::stored::is_zero;
use tap_disk::SlottedFile;

use crate::VerifyError;
use crate::report::Finding;
use crate::settled::Settled;

/// A segment's file.
#[derive(Debug)]
pub(crate) struct SegmentPath {
    pub(crate) path: PathBuf,
    /// `None` when it is damaged.
    pub(crate) header: Option<SegmentHeader>,
}

/// What the directory holds.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) store: StoreId,
    pub(crate) mark: Option<Mark>,
    /// The log's.
    pub(crate) segments: BTreeMap<SegmentId, SegmentPath>,
    pub(crate) settled: Settled,
    pub(crate) findings: Vec<Finding>,
    /// A segment was begun and its first write cut off.
    pub(crate) torn: bool,
}

/// The start of a file.
struct Head {
    path: PathBuf,
    bytes: Vec<u8>,
    header: Option<SegmentHeader>,
    settled: Option<SettledHeader>,
    frame: Option<FrameHeader>,
    settled_frame: Option<SettledFrame>,
    /// The version of its header or first frame, when it is newer.
    newer: Option<u8>,
}

/// One bit of one version may have flipped by itself: more than that, or two files, are a newer store.
fn refuse_newer(heads: &[Head]) -> Result<(), VerifyError> {
    let said = || heads.iter().filter_map(|head| Some((head, head.newer?)));
    let counts = |version| !may_be_rot(version) || said().filter(|(_, v)| *v == version).count() > 1;
    match said().find(|(_, version)| counts(*version)) {
        Some((head, version)) => Err(newer(&head.path, u32::from(version))),
        None => Ok(()),
    }
}

pub(crate) fn newer(path: &Path, version: u32) -> VerifyError {
    VerifyError::Newer { file: path.display().to_string(), version, known: u32::from(FORMAT) }
}

impl Files {
    pub(crate) fn find(dir: &Path) -> Result<Self, VerifyError> {
        let seg = dir.join("seg");
        if !seg.is_dir() {
            return Err(VerifyError::NotAStore(dir.to_owned()));
        }
        let mut findings = Vec::new();
        let mark = read_mark(&dir.join(MARK_FILE), &mut findings)?;
        let heads = read_heads(&seg)?;
        refuse_newer(&heads)?;
        let named = mark.map(|m| m.store);
        let store = match named.or_else(|| heads.iter().find_map(Head::store)) {
            Some(store) => store,
            // Made, and nothing written to it yet.
            None if dir.join(MARK_FILE).exists() => StoreId::new(0),
            None => return Err(VerifyError::NotAStore(dir.to_owned())),
        };
        let (segments, settled) = (BTreeMap::new(), Settled::default());
        let mut files = Self { store, mark, segments, settled, findings, torn: false };
        for head in heads {
            files.add(head);
        }
        files.settled.choose(dir, store, &mut files.findings)?;
        files.leave_out_leftovers();
        files.check_headers();
        files.check_all_there();
        Ok(files)
    }

    fn add(&mut self, head: Head) {
        let all = (0, crate::walk::len64(head.bytes.len()));
        // A settled segment gets its header last: without one it never counted.
        let header = head.bytes.get(..usize::try_from(SEGMENT_HEADER).unwrap_or(0)).unwrap_or_default();
        if let Some(frame) = head.settled_frame.filter(|f| head.is_headless() && f.store == self.store) {
            self.settled.headless.insert(frame.segment, head.path.clone());
            // Without a header nobody knows yet whether it ever counted.
            return;
        }
        if is_zero(header) && head.frame.is_none() {
            return;
        }
        if head.store().is_some_and(|s| s != self.store) {
            return self.find_at(&head.path, None, all, "it belongs to another store");
        }
        if let Some(header) = head.settled {
            return self.settled.add(head.path, header, self.store);
        }
        let known = head.header.map(|h| h.segment).or(head.frame.map(|f| f.segment));
        let Some(segment) = known else {
            return self.find_at(&head.path, None, all, "neither a segment nor zeroes");
        };
        let ours = || (head.header.is_some(), used(&head.path));
        let better = self.segments.get(&segment).is_none_or(|s| ours() > (s.header.is_some(), used(&s.path)));
        if better {
            self.segments.insert(segment, SegmentPath { path: head.path, header: head.header });
        }
    }

    /// Files may hold segments that are not part of the store any more, or never were: the headers of those that
    /// are say so.
    fn leave_out_leftovers(&mut self) {
        let log_from = self.log_from();
        let headers: Vec<SegmentHeader> = self.segments.values().filter_map(|s| s.header).collect();
        let left_out = |id: SegmentId| {
            id < log_from
                || headers.iter().any(|h| {
                    let previous = h.previous.map_or(SegmentId::new(0), |p| p.segment);
                    id < h.first_live || (previous < id && id < h.segment)
                })
        };
        self.segments.retain(|&id, _| !left_out(id));
    }

    /// Frames behind a header that is none: damage, but for a last segment that nothing vouches for. There the crash
    /// came while its first group was written.
    fn check_headers(&mut self) {
        let marked = self.mark.and_then(|m| m.durable).map_or(SegmentId::new(0), |m| m.segment);
        let newest = self.segments.last_key_value().map(|(id, _)| *id);
        let headless = self.segments.iter().filter(|(_, s)| s.header.is_none());
        let headless: Vec<_> = headless.map(|(id, s)| (*id, s.path.clone())).collect();
        for (id, path) in headless {
            if Some(id) == newest && id > marked {
                self.segments.remove(&id);
                self.torn = true;
            } else {
                self.find_at(
                    &path,
                    Some(id),
                    (0, u64::from(SEGMENT_HEADER)),
                    "the segment's header is damaged",
                );
            }
        }
    }

    /// Does this stretch of a segment of the log lie before where the log goes on?
    pub(crate) fn is_settled(&self, segment: SegmentId, (from, to): (u64, u64)) -> bool {
        let through = self.settled.manifest.as_ref().map(|m| (m.through.0, u64::from(m.through.1.at)));
        through.is_some_and(|(last, at)| segment < last || (segment == last && from < at && to <= at))
    }

    /// The log's first segment that is not settled.
    fn log_from(&self) -> SegmentId {
        self.settled.manifest.as_ref().map_or(SegmentId::new(0), |m| m.through.0)
    }

    fn check_all_there(&mut self) {
        let named: Vec<_> = self.segments.values().filter_map(|s| s.header).collect();
        let log_from = self.log_from();
        let named = named.iter().filter_map(|h| h.previous.filter(|p| p.segment >= h.first_live));
        let marked = self.mark.and_then(|m| m.durable);
        let missing: BTreeMap<SegmentId, u32> = named
            .chain(marked)
            .filter(|p| p.segment >= log_from && !self.segments.contains_key(&p.segment))
            .map(|p| (p.segment, p.end))
            .collect();
        for (segment, end) in missing {
            let file = Path::new("seg");
            self.find_at(file, Some(segment), (0, u64::from(end)), &format!("{segment} is missing"));
        }
    }

    pub(crate) fn find_at(
        &mut self,
        path: &Path,
        segment: Option<SegmentId>,
        (from, to): (u64, u64),
        detail: &str,
    ) {
        let file = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let segment = segment.map(SegmentId::get);
        self.findings.push(Finding { segment, file, from, to, detail: detail.to_owned() });
    }
}

impl Head {
    /// Neither a header nor a frame of the log.
    fn is_headless(&self) -> bool {
        self.header.is_none() && self.settled.is_none() && self.frame.is_none()
    }

    fn store(&self) -> Option<StoreId> {
        self.header.map(|h| h.store).or(self.settled.map(|h| h.store)).or(self.frame.map(|f| f.store))
    }
}

/// Bytes of a file up to the last that is not zero: an older copy of a segment has fewer.
fn used(path: &Path) -> usize {
    fs::read(path).map_or(0, |bytes| bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0))
}

fn read_mark(path: &Path, findings: &mut Vec<Finding>) -> Result<Option<Mark>, VerifyError> {
    // A gateway goes on without it, and without one that is empty as well.
    if fs::metadata(path).map_or(true, |found| found.len() == 0) {
        return Ok(None);
    }
    let mark = SlottedFile::open(path, MARK_BYTES).map(|file| file.load());
    let detail = match mark {
        Ok(None) => return Ok(None),
        Ok(Some(bytes)) => match (Mark::newer(&bytes), Mark::decode(&bytes)) {
            (Some(version), _) => return Err(newer(path, version)),
            (None, Some(mark)) => return Ok(Some(mark)),
            (None, None) => "not a high-water mark".to_owned(),
        },
        Err(e) => e.to_string(),
    };
    findings.push(Finding { segment: None, file: MARK_FILE.to_owned(), from: 0, to: 0, detail });
    Ok(None)
}

fn read_heads(seg: &Path) -> Result<Vec<Head>, VerifyError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| VerifyError::Io { path, source }
    };
    let mut heads = Vec::new();
    for entry in fs::read_dir(seg).map_err(failed(seg))? {
        let path = entry.map_err(failed(seg))?.path();
        if path.extension().is_some_and(|e| e == "seg") {
            heads.push(read_head(&path).map_err(failed(&path))?);
        }
    }
    heads.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(heads)
}

fn read_head(path: &Path) -> io::Result<Head> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(u64::from(SEGMENT_HEADER) * 2).read_to_end(&mut bytes)?;
    let header = SegmentHeader::decode(&bytes).ok();
    let settled = SettledHeader::decode(&bytes).ok();
    let behind = usize::try_from(SEGMENT_HEADER).unwrap_or(usize::MAX);
    let frame = bytes.get(behind..behind.saturating_add(FRAME_HEADER));
    let frame = frame.and_then(|b| FrameHeader::decode(b).ok());
    let settled_frame = bytes.get(behind..).and_then(|b| SettledFrame::decode(b).ok());
    let known = header.map(|h| (h.store, h.segment)).or(settled.map(|h| (h.store, h.segment)));
    let first = bytes.get(behind..).unwrap_or_default();
    let newer = known.and_then(|(store, segment)| newer_frame(first, store, segment));
    let newer = newer_header(&bytes).or(newer);
    Ok(Head { path: path.to_owned(), bytes, header, settled, frame, settled_frame, newer })
}
