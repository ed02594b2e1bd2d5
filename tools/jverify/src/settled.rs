//! Settled segments: found by the newest sound manifest, every frame and every block of them checked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use gateway_journal::pack::Unpacker;
use gateway_journal::settled::{check_settled, decode_settled_run};
use gateway_journal::{
    FormatError, Manifest, Pieces, Place, RegionNo, SEGMENT_HEADER, SETTLED_FRAME, SegmentId, SettledFrame,
    SettledHeader, SettledKind, SettledSegment, StoreId, Version,
};
use tap_block::VolumeId;
use tap_block::units::index;

use crate::VerifyError;
use crate::report::{Finding, Report, VolumeReport};
use crate::walk::len64;

/// Settled segments found, and the manifest that counts.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub(crate) files: BTreeMap<SegmentId, (PathBuf, SettledHeader)>,
    pub(crate) manifest: Option<Manifest>,
    /// Files whose header is none, and which segment their first frame is of: those that count are walked by the manifest's word.
    pub(crate) headless: BTreeMap<SegmentId, PathBuf>,
}

impl Settled {
    /// Of several files of one segment the one with more of it counts.
    pub(crate) fn add(&mut self, path: PathBuf, header: SettledHeader, store: StoreId) {
        let known = self.files.get(&header.segment);
        if known.is_none_or(|(known, of)| sound(&path, &header, store) > sound(known, of, store)) {
            self.files.insert(header.segment, (path, header));
        }
    }

    /// Finds the manifest: the newest of those in segments and of the copy in `dir`.
    pub(crate) fn choose(
        &mut self,
        dir: &Path,
        store: StoreId,
        findings: &mut Vec<Finding>,
    ) -> Result<(), VerifyError> {
        let path = dir.join("SETTLED");
        let copy = fs::read(&path).ok().map(|bytes| Manifest::unseal(&bytes));
        let note = |file: &Path, detail: String| Finding {
            segment: None,
            file: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            from: 0,
            to: 0,
            detail,
        };
        let (mut best, mut in_segments) = (None, 0);
        match copy {
            Some(Ok(manifest)) if manifest.store == store => best = Some(manifest),
            Some(Ok(_)) => findings.push(note(&path, "the manifest of another store".into())),
            Some(Err(e)) => {
                refuse_newer(&path, &e)?;
                findings.push(note(&path, e.to_string()));
            }
            None => {}
        }
        for (path, header) in self.files.values() {
            let Some(at) = header.manifest else { continue };
            let newest = best.as_ref().is_none_or(|b: &Manifest| b.settle <= header.settle);
            match self.read_manifest(path, header, at) {
                Ok(found) if newest => {
                    in_segments = found.settle;
                    best = Some(found);
                }
                // A leftover of an earlier settle may be overwritten.
                Ok(_) => {}
                Err(Unread::Newer(why)) => return Err(why),
                Err(Unread::Damaged(e)) if newest => {
                    findings.push(note(path, format!("the manifest of settle {}: {e}", header.settle)))
                }
                Err(Unread::Damaged(_)) => {}
            }
        }
        // One in a segment with a damaged header is found by the gateway, and that header is told of.
        let may_be_there = !self.headless.is_empty();
        if let Some(only) = best.as_ref().filter(|manifest| manifest.settle > in_segments && !may_be_there) {
            let detail = "lies in no segment with a sound header: this copy is all that is left of it";
            findings.push(note(&path, format!("the manifest of settle {} {detail}", only.settle)));
        }
        self.manifest = best;
        let live = self.live();
        self.files.retain(|id, _| live.contains(id));
        let lists = self.manifest.iter().flat_map(|m| &m.generations);
        let lists = lists.flat_map(|g| g.segments.iter().map(|segment| (g.settle, *segment)));
        let absent: Vec<_> = lists.filter(|(_, s)| !self.files.contains_key(&s.segment)).collect();
        self.headless.retain(|id, _| absent.iter().any(|(_, s)| s.segment == *id));
        for (settle, SettledSegment { segment, end, frames, .. }) in absent {
            let Some(path) = self.headless.get(&segment) else {
                findings.push(note(Path::new("seg"), format!("{segment} of settled history is missing")));
                continue;
            };
            let mut damage = note(path, format!("the header of {segment} of settled history is damaged"));
            (damage.segment, damage.to) = (Some(segment.get()), u64::from(SEGMENT_HEADER));
            findings.push(damage);
            // What its frames are to be, the manifest says.
            let header =
                SettledHeader { store, segment, length: 0, settle, end, frames, last: 0, manifest: None };
            self.files.entry(segment).or_insert_with(|| (path.clone(), header));
        }
        Ok(())
    }

    fn live(&self) -> BTreeSet<SegmentId> {
        let Some(manifest) = &self.manifest else { return BTreeSet::new() };
        let home = |(id, (_, h)): (&SegmentId, &(PathBuf, SettledHeader))| {
            // Pieces of a manifest may lie in segments that hold nothing else.
            (h.settle == manifest.settle).then_some(*id)
        };
        let listed = manifest.generations.iter().flat_map(|g| &g.segments).map(|s| s.segment);
        listed.chain(self.files.iter().filter_map(home)).collect()
    }

    /// Checks every live segment, and what the manifest says that volumes take of them.
    pub(crate) fn walk(&self, store: StoreId, report: &mut Report) {
        let mut shares = BTreeMap::new();
        for (id, (path, header)) in &self.files {
            report.segments += 1;
            let mut damage = |from, to, detail: String| {
                let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                report.damage.push(Finding { segment: Some(id.get()), file, from, to, detail });
            };
            match fs::read(path) {
                Ok(bytes) => {
                    let whole = !self.headless.contains_key(id);
                    let counts = walk_segment(&bytes, store, (header, whole), &mut damage);
                    report.frames += counts.frames;
                    report.blocks += counts.blocks;
                    report.packed += counts.packed;
                    report.bytes += u64::from(header.end);
                    shares.extend(counts.shares.into_iter().map(|(volume, n)| ((*id, volume), n)));
                }
                Err(e) => damage(0, u64::from(header.end), e.to_string()),
            }
        }
        self.check_shares(&shares, report);
    }

    /// Shares of segments that are damaged are found wrong as well: that is how much is missing.
    fn check_shares(&self, found: &BTreeMap<(SegmentId, VolumeId), u64>, report: &mut Report) {
        let mut sums: BTreeMap<VolumeId, u64> = BTreeMap::new();
        let all = self.manifest.iter().flat_map(|m| &m.generations).flat_map(|g| &g.shares);
        let all: BTreeMap<_, _> = all.map(|s| ((s.segment, s.volume), s.bytes)).collect();
        for ((segment, volume), bytes) in all {
            let there = found.get(&(segment, volume)).copied().unwrap_or(0);
            *sums.entry(volume).or_default() += there;
            if there != bytes {
                let detail =
                    format!("{volume} takes {there} bytes of {segment}, and the manifest says {bytes}");
                let file = "SETTLED".to_owned();
                report.damage.push(Finding { segment: Some(segment.get()), file, from: 0, to: 0, detail });
            }
        }
        let view = |(volume, settled_bytes): (VolumeId, u64)| VolumeReport {
            volume: format!("{:016x}", volume.get()),
            settled_bytes,
        };
        report.volumes = sums.into_iter().map(view).collect();
    }
}

/// Frames and blocks in a file that are sound.
fn sound(path: &Path, header: &SettledHeader, store: StoreId) -> u64 {
    let (bytes, mut wrong) = (fs::read(path).unwrap_or_default(), 0);
    let counts = walk_segment(&bytes, store, (header, true), &mut |_, _, _| wrong += 1);
    (counts.frames + counts.blocks).saturating_sub(wrong)
}

#[derive(Default)]
struct Counts {
    frames: u64,
    blocks: u64,
    packed: u64,
    /// Bytes of the frames of each volume.
    shares: BTreeMap<VolumeId, u64>,
}

fn walk_segment(
    bytes: &[u8],
    store: StoreId,
    (header, whole): (&SettledHeader, bool),
    damage: &mut impl FnMut(u64, u64, String),
) -> Counts {
    let mut counts = Counts::default();
    let (mut at, mut last) = (SEGMENT_HEADER, 0);
    for number in 0..header.frames {
        let found = frame_at(bytes, at).and_then(|(frame, table, hash)| {
            if frame.store != store || frame.segment != header.segment || frame.number != number {
                return Err("not the frame that is due".into());
            }
            Ok((frame, table, hash))
        });
        let (frame, table, hash) = match found {
            Ok(found) => found,
            Err(why) => {
                damage(u64::from(at), u64::from(header.end), why);
                return counts;
            }
        };
        counts.frames += 1;
        if let SettledKind::Run(volume, region) = frame.kind {
            *counts.shares.entry(volume).or_default() += u64::from(frame.span);
            match decode_settled_run(&frame, at, table) {
                Ok(versions) => counts.units(bytes, region, &versions, damage),
                Err(e) => damage(u64::from(at), u64::from(at) + u64::from(frame.span), e.to_string()),
            }
        }
        last = hash;
        at = at.saturating_add(frame.span);
    }
    if whole && (at, last) != (header.end, header.last) {
        damage(u64::from(at), u64::from(header.end), "it does not end as its header says".into());
    }
    counts
}

fn frame_at(bytes: &[u8], at: u32) -> Result<(SettledFrame, &[u8], u64), String> {
    let bytes = bytes.get(index(u64::from(at))..).unwrap_or_default();
    let frame = SettledFrame::decode(bytes).map_err(|e| e.to_string())?;
    let head = bytes.get(..SETTLED_FRAME + index(u64::from(frame.table))).ok_or("a frame that is cut off")?;
    let hash = check_settled(head).map_err(|e| e.to_string())?;
    Ok((frame, head.get(SETTLED_FRAME..).unwrap_or_default(), hash))
}

impl Counts {
    /// Every stored block against its checksum.
    fn units(
        &mut self,
        bytes: &[u8],
        region: RegionNo,
        versions: &[Version],
        damage: &mut impl FnMut(u64, u64, String),
    ) {
        let mut unpacker = Unpacker::default();
        for version in versions {
            let Place::Unit(place) = version.place else { continue };
            self.blocks += 1;
            self.packed += u64::from(place.is_pack());
            let (from, to) = (index(u64::from(place.offset)), index(u64::from(place.end())));
            let block = region.block(version.first);
            let stored = bytes.get(from..to).unwrap_or_default();
            if let Err(e) = unpacker.verify(place, block, stored) {
                let detail = format!("block {} as of {}: {e}", block.get(), version.position.lsn());
                damage(len64(from), len64(to), detail);
            }
        }
    }
}

/// Why a manifest was not read.
enum Unread {
    Damaged(String),
    Newer(VerifyError),
}

impl From<String> for Unread {
    fn from(why: String) -> Self {
        Self::Damaged(why)
    }
}

impl Settled {
    fn read_manifest(&self, path: &Path, header: &SettledHeader, at: u32) -> Result<Manifest, Unread> {
        let table = table_at(path, (header.segment, at), SettledKind::Manifest)?;
        let of = |e| unread(path, &e);
        let Some(pieces) = Pieces::decode(&table).map_err(of)? else {
            return Manifest::decode(&table).map_err(of);
        };
        pieces.join(|segment, at| {
            let gone = || Unread::Damaged(format!("a piece of it lay in {segment}, which is gone"));
            let (path, _) = self.files.get(&segment).ok_or_else(gone)?;
            table_at(path, (segment, at), SettledKind::Piece)
        })
    }
}

fn table_at(path: &Path, (segment, at): (SegmentId, u32), kind: SettledKind) -> Result<Vec<u8>, Unread> {
    let bytes = fs::read(path).map_err(|e| e.to_string())?;
    let (frame, table, _) = frame_at(&bytes, at)?;
    match (frame.kind, frame.segment) == (kind, segment) {
        true => Ok(table.to_vec()),
        false => Err(Unread::Damaged(format!("nothing of it is at {at} of {segment}"))),
    }
}

fn unread(path: &Path, why: &FormatError) -> Unread {
    match refuse_newer(path, why) {
        Err(newer) => Unread::Newer(newer),
        Ok(()) => Unread::Damaged(why.to_string()),
    }
}

impl From<FormatError> for Unread {
    fn from(why: FormatError) -> Self {
        Self::Damaged(why.to_string())
    }
}

fn refuse_newer(path: &Path, why: &FormatError) -> Result<(), VerifyError> {
    match *why {
        FormatError::Newer { version, known, .. } => {
            Err(VerifyError::Newer { file: path.display().to_string(), version, known })
        }
        _ => Ok(()),
    }
}
