//! Settled segments, one after the other, for as long as there are any that were not looked at.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_journal::pack::Unpacker;
use gateway_journal::run::decode_run;
use gateway_journal::{
    Location, Manifest, Place, RegionNo, SEGMENT_HEADER, SegmentId, SettledFrame, SettledHeader, SettledKind,
    Version,
};
use tap_block::VolumeId;
use tap_block::units::index;
use tap_disk::SegmentFile;

use super::hidden::Stretch;
use super::{Finding, FindingKind, Step, Suspect, Verifier, not_indexed};
use crate::chunks::ChunkReader;
use crate::error::StoreError;
use crate::index::{IndexError, IndexStore, Table, keys};
use crate::layout::Layout;
use crate::segments::Known;
use crate::settled::{next_sound, read_frame, versions_in};
use crate::sync::lock;

impl Verifier<'_, '_> {
    pub(super) fn settled(&mut self) -> Result<(), StoreError> {
        let (mut layout, mut due) = self.due();
        loop {
            // What a settle wrote meanwhile is looked at as well, until there is nothing left.
            if !Arc::ptr_eq(&layout, &self.layout()) {
                (layout, due) = self.due();
            }
            let Some((id, known)) = due.pop_first() else { break };
            self.left = u64::from(known.end) + due.values().map(|known| u64::from(known.end)).sum::<u64>();
            let step = self.segment(id, known)?;
            self.report.walked.insert(id);
            if self.shared.segments.lives(id) {
                self.accept(step)?;
                self.compare_hash(id)?;
            }
        }
        let step = self.missing()?;
        if Arc::ptr_eq(&layout, &self.layout()) {
            self.accept(step)?;
        }
        let copy = self.copy_of_manifest();
        self.list(copy.into_iter().collect());
        Ok(())
    }

    /// The segments that count and were not looked at, as of one layout. A settle that is about to publish has made its own
    /// known already, whole or not.
    fn due(&self) -> (Arc<Layout>, BTreeMap<SegmentId, Known>) {
        let _turn = lock(&self.shared.index_turn);
        let layout = self.layout();
        // Which volumes a segment holds; the one that holds nothing but the manifest always counts.
        let mut volumes: BTreeMap<SegmentId, (VolumeId, VolumeId)> = BTreeMap::new();
        for s in layout.generations.iter().flat_map(|g| &g.segments) {
            let (first, last) = (s.first.0, s.last.0);
            let entry = volumes.entry(s.segment).or_insert((first, last));
            *entry = (entry.0.min(first), entry.1.max(last));
        }
        let wanted = |id: &SegmentId| match (self.report.scope.volume, volumes.get(id)) {
            (Some(volume), Some((first, last))) => *first <= volume && volume <= *last,
            _ => true,
        };
        let all = self.shared.segments.settled().into_iter();
        (layout, all.filter(|(id, _)| wanted(id) && !self.report.walked.contains(id)).collect())
    }

    fn segment(&mut self, id: SegmentId, known: Known) -> Result<Step, StoreError> {
        let file = match self.shared.segments.pool().get(known.file) {
            Ok(file) => file,
            Err(e) => {
                // If it was given back meanwhile, the step does not count.
                let finding = self.finding(FindingKind::Missing, id, (0, known.end), e.to_string());
                let mut step = Step { findings: vec![finding], ..Step::default() };
                let hidden = [Stretch { segment: id, from: 0, to: known.end }];
                if let Some(settle) = self.settle_of(id) {
                    self.hidden_in_settled(&hidden, settle, &mut step)?;
                }
                return Ok(step);
            }
        };
        if self.report.scope.fresh
            && let Err(e) = file.drop_cache()
        {
            tracing::warn!("{id} is read from the page cache: {e}");
        }
        let settle = self.settle_of(id);
        let reader = ChunkReader::new(Arc::clone(&file));
        let mut walk =
            Walk { settle, reader, unpacker: Unpacker::default(), row: None, step: Step::default() };
        let (mut at, mut hidden) = (SEGMENT_HEADER, Vec::new());
        while at < known.end {
            let read = read_frame(&file, id, at)
                .and_then(|(frame, table)| Ok((frame, versions_in(&frame, at, &table)?, table)));
            let next = match read {
                Ok((frame, versions, table)) => {
                    self.frame(&mut walk, at, &frame, &versions, &table)?;
                    at.saturating_add(frame.span)
                }
                Err(why) => {
                    let next = next_sound(&file, id, at, known.end);
                    walk.step.findings.push(self.finding(FindingKind::Frame, id, (at, next), why));
                    hidden.push(Stretch { segment: id, from: at, to: next });
                    next
                }
            };
            self.passed(u64::from(next - at))?;
            at = next;
        }
        let mut step = walk.step;
        if let Err(why) = self.header(&file, id, known.end, hidden.is_empty().then_some(step.frames)) {
            step.findings.push(self.finding(FindingKind::Header, id, (0, SEGMENT_HEADER), why));
        }
        if let Some(settle) = settle.filter(|_| !hidden.is_empty()) {
            self.hidden_in_settled(&hidden, settle, &mut step)?;
        }
        Ok(step)
    }

    /// Which settle wrote the segment; `None`: it holds nothing but the manifest.
    fn settle_of(&self, id: SegmentId) -> Option<u64> {
        let layout = self.layout();
        let mut generations = layout.generations.iter();
        generations.find(|g| g.segments.iter().any(|s| s.segment == id)).map(|g| g.settle)
    }

    fn header(&self, file: &SegmentFile, id: SegmentId, end: u32, frames: Option<u64>) -> Result<(), String> {
        let mut bytes = vec![0; index(u64::from(SEGMENT_HEADER))];
        file.read_at(0, &mut bytes).map_err(|e| e.to_string())?;
        let header = SettledHeader::decode(&bytes).map_err(|e| e.to_string())?;
        let store = self.layout().trail.store();
        if (header.segment, header.store, header.end) != (id, store, end) {
            return Err(format!(
                "it is the header of {} of store {:016x}",
                header.segment,
                header.store.get()
            ));
        }
        match frames {
            Some(frames) if frames != u64::from(header.frames) => {
                Err(format!("it says that there are {} frames, and there are {frames}", header.frames))
            }
            _ => Ok(()),
        }
    }

    fn frame(
        &mut self,
        walk: &mut Walk,
        at: u32,
        frame: &SettledFrame,
        versions: &[Version],
        table: &[u8],
    ) -> Result<(), StoreError> {
        walk.step.frames += 1;
        let SettledKind::Run(volume, region) = frame.kind else {
            let end = at.saturating_add(frame.span);
            let checked = if frame.kind == SettledKind::Manifest { Manifest::check(table) } else { Ok(()) };
            if let Err(e) = checked {
                let finding = self.finding(FindingKind::Manifest, frame.segment, (at, end), e.to_string());
                walk.step.findings.push(finding);
            }
            return Ok(());
        };
        let counts = |layout: &Layout, settle| counts(layout, settle, volume, region);
        let Some(settle) = walk.settle.filter(|s| counts(&self.layout(), *s)) else { return Ok(()) };
        if !self.report.scope.has(volume) {
            return Ok(());
        }
        walk.units(frame, (volume, region), versions);
        let indexed = walk.is_indexed(&self.shared.index, (settle, volume, region), versions)?;
        if !indexed && counts(&self.layout(), settle) {
            let detail = not_indexed(region);
            let finding = self.finding(FindingKind::Index, frame.segment, (at, at), detail);
            walk.step.findings.push(Finding { volume: Some(volume), ..finding });
        }
        Ok(())
    }

    /// Segments that the layout names and nobody has, and the blocks that lie in them.
    fn missing(&self) -> Result<Step, StoreError> {
        let (mut step, layout) = (Step::default(), self.layout());
        for generation in &layout.generations {
            let gone = generation.segments.iter().filter(|s| !self.shared.segments.lives(s.segment));
            let stretches: Vec<Stretch> =
                gone.map(|s| Stretch { segment: s.segment, from: 0, to: s.end }).collect();
            for &Stretch { segment, from, to } in &stretches {
                let detail = "the segment of settled history is missing".to_owned();
                step.findings.push(self.finding(FindingKind::Missing, segment, (from, to), detail));
            }
            if !stretches.is_empty() {
                self.hidden_in_settled(&stretches, generation.settle, &mut step)?;
            }
        }
        Ok(step)
    }

    /// The copy of the manifest is made anew when it is damaged: the one in the segments counts.
    fn copy_of_manifest(&self) -> Option<Finding> {
        let layout = self.layout();
        if layout.settle == 0 {
            return None;
        }
        let bytes = self.shared.manifests.load().unwrap_or_default();
        let why = match Manifest::unseal(&bytes) {
            Ok(manifest) if manifest.settle >= layout.settle && !layout.copy_only => return None,
            Ok(manifest) if manifest.settle >= layout.settle => ONLY_COPY.to_owned(),
            Ok(_) => format!("{COPY}: it is of an older settle; {ANEW}"),
            Err(e) => format!("{COPY}: {e}; {ANEW}"),
        };
        let current = Arc::ptr_eq(&layout, &self.layout());
        current.then(|| self.finding(FindingKind::Manifest, SegmentId::new(0), (0, 0), why))
    }
}

const COPY: &str = "the copy of the manifest (SETTLED)";
const ANEW: &str = "the next settle writes it anew";
/// The segment that it lay in need not hold anything else: nobody misses it then.
pub(super) const ONLY_COPY: &str = "the manifest lies in no segment any more, for that is gone or damaged: its copy (SETTLED) is all \
                                    that is left of it, until the next settle writes both anew";

/// Does what this settle wrote of the region still count?
fn counts(layout: &Layout, settle: u64, volume: VolumeId, region: RegionNo) -> bool {
    layout.generations.iter().any(|g| g.settle == settle && g.range.holds((volume, region)))
}

/// A row of the index, and which it is.
type SettledRow = ((u64, VolumeId, RegionNo), Vec<Version>);

/// On the way through one segment.
struct Walk {
    /// Which settle wrote it.
    settle: Option<u64>,
    reader: ChunkReader,
    unpacker: Unpacker,
    row: Option<SettledRow>,
    step: Step,
}

impl Walk {
    fn units(&mut self, frame: &SettledFrame, (volume, region): (VolumeId, RegionNo), versions: &[Version]) {
        for version in versions {
            let Place::Unit(at) = version.place else { continue };
            let (block, position) = (region.block(version.first), version.position);
            self.step.blocks += 1;
            let stored = self.reader.fetch(at.offset, at.bytes());
            if let Err(why) = self.unpacker.verify(at, block, stored) {
                let at = Location { segment: frame.segment, ..at };
                self.step.suspects.push(Suspect { volume, block, position, at, detail: why.to_string() });
            }
        }
    }

    /// A region's row holds what its frames hold, one after the other.
    fn is_indexed(
        &mut self,
        store: &dyn IndexStore,
        which: (u64, VolumeId, RegionNo),
        versions: &[Version],
    ) -> Result<bool, IndexError> {
        let row = match self.row.take().filter(|(key, _)| *key == which) {
            Some(row) => row,
            None => {
                let (settle, volume, region) = which;
                let mut row = Vec::new();
                if let Some(run) = store.get(Table::Settled, &keys::settled(settle, volume, region))? {
                    decode_run(&run, |v| row.push(v)).map_err(|e| IndexError::new(e.to_string()))?;
                }
                (which, row)
            }
        };
        let (_, row) = self.row.insert(row);
        let Some(first) = versions.first() else { return Ok(true) };
        let here = row.iter().position(|v| v == first).and_then(|n| row.get(n..)?.get(..versions.len()));
        Ok(here == Some(versions))
    }
}
