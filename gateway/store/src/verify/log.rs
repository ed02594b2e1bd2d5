//! The log, group by group.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_journal::run::encode_run;
use gateway_journal::{
    Location, Records, RegionNo, SEGMENT_HEADER, SegmentHeader, SegmentId, StoreId, Version,
};
use tap_block::stored::verify;
use tap_block::units::index;
use tap_block::{Action, StreamId, VolumeId};
use tap_disk::SegmentFile;

use super::hidden::Stretch;
use super::known::lost;
use super::{Finding, FindingKind, Scope, Step, Suspect, Verifier, not_indexed};
use crate::chunks::ChunkReader;
use crate::error::{Damage, StoreError};
use crate::index::{IndexStore, Table, keys};
use crate::settle::{Met, PassedFrame, Trail};
use crate::sync::read;
use crate::tail::{Group, GroupInfo};

/// A group to look at.
struct Due {
    info: GroupInfo,
    /// The index has it.
    indexed: bool,
}

impl Verifier<'_, '_> {
    /// Every group that is not settled, the one that is being gathered included.
    pub(super) fn log(&mut self) -> Result<(), StoreError> {
        let groups = self.groups();
        let mut trail = Trail::clone(&self.layout().trail);
        let end = groups.last().map_or(0, |g| {
            let (segment, start) = g.info.through;
            self.shared.segments.bytes_to(segment, start.at)
        });
        self.left = end.saturating_sub(u64::from(trail.at().1.at)) + self.layout().bytes();
        let (mut rest, mut met) = (groups.as_slice(), MetSoFar::default());
        while let Some((due, behind)) = rest.split_first() {
            if due.info.no <= trail.group() {
                rest = behind;
                continue;
            }
            let (before, from) = (trail.group(), trail.at().0);
            let read = self.group(&mut trail, due);
            let layout = self.layout();
            if layout.group > before && !matches!(read, Err(StoreError::Cancelled)) {
                // It was settled while it was read, its files may have been gone: there it is looked at again.
                (trail, met) = (Trail::clone(&layout.trail), MetSoFar::default());
                continue;
            }
            let (mut step, window, damaged) = read?;
            met.take(&window, &due.info);
            trail.trust([&self.known_damage(), layout.trail.damage()], |stream| met.is_whole(stream));
            if !damaged.is_empty() {
                self.hidden_in_log(&damaged, due.info.no, &mut step)?;
            }
            if due.indexed && damaged.is_empty() {
                let findings = self.compare(due, &window)?;
                step.findings.extend(findings);
            }
            self.accept(step)?;
            self.compare_log(from, due.info.through.0)?;
            rest = behind;
        }
        let mut damage = trail.damage().to_vec();
        // A segment before the first that is left is met by no walk.
        let known = self.known_damage();
        let met = |d: &Damage| damage.iter().any(|m| (m.segment, m.from) == (d.segment, d.from));
        let unmet: Vec<Damage> = known.into_iter().filter(|d| !d.lost.is_empty() && !met(d)).collect();
        damage.extend(unmet);
        let findings = damage.iter().flat_map(|d| self.lost(d)).collect();
        self.list(findings);
        self.list(self.shared.still_gone());
        Ok(())
    }

    fn known_damage(&self) -> Vec<Damage> {
        read(&self.shared.published).damage.clone()
    }

    fn groups(&self) -> Vec<Due> {
        let published = read(&self.shared.published);
        let indexed = published.ingested.iter().map(|info| Due { info: info.clone(), indexed: true });
        let frozen = published.frozen.iter().map(|f| Due { info: f.info(), indexed: false });
        let open = self
            .shared
            .segments
            .durable_end()
            .map(|through| Due { info: published.active.info(through), indexed: false });
        let mut groups: Vec<Due> = indexed.chain(frozen).chain(open).collect();
        if let Scope { volume: Some(volume), to: Some(to), .. } = self.report.scope {
            let needed = groups.iter().rposition(|g| g.info.visible(volume, to));
            groups.truncate(needed.map_or(0, |n| n + 1));
        }
        groups
    }

    /// Reads a group; what it holds, and what of it is damaged.
    fn group(&mut self, trail: &mut Trail, due: &Due) -> Result<(Step, Group, Vec<Stretch>), StoreError> {
        let (mut step, mut damaged, mut units) = (Step::default(), Vec::new(), Units::default());
        let (shared, store) = (self.shared, self.layout().trail.store());
        self.ask_the_disk(trail.at().0, due.info.through.0);
        let window = trail.advance(shared, (due.info.no, due.info.through), &mut |met| match met {
            Met::Frame(frame, records) => {
                step.frames += 1;
                self.report.walked.insert(frame.segment);
                if units.enter(frame.segment, frame.file)
                    && let Some(why) = bad_header(store, frame)
                {
                    let finding = self.finding(FindingKind::Header, frame.segment, (0, SEGMENT_HEADER), why);
                    step.findings.push(finding);
                }
                if let Some(records) = records {
                    units.check(frame, records, self.report.scope, &mut step);
                }
                self.passed(u64::from(frame.header.span))
            }
            Met::Damage(damage) => {
                let &Damage { segment, from, to, .. } = damage;
                damaged.push(Stretch { segment, from, to });
                self.passed(u64::from(to.saturating_sub(from)))
            }
            Met::Unsealed(damage) => {
                let &Damage { segment, from, to, .. } = damage;
                damaged.push(Stretch { segment, from, to });
                Ok(())
            }
            // What that costs is listed at the end of the log.
            Met::Missing(_) => Ok(()),
        })?;
        Ok((step, window.versions, damaged))
    }

    /// It is the disk that is to answer, not the page cache.
    fn ask_the_disk(&self, from: SegmentId, to: SegmentId) {
        if !self.report.scope.fresh {
            return;
        }
        for (segment, known) in self.shared.segments.log(from, to) {
            let dropped = self.shared.segments.pool().get(known.file).and_then(|file| file.drop_cache());
            if let Err(e) = dropped {
                tracing::warn!("{segment} is read from the page cache: {e}");
            }
        }
    }

    /// Does the index say of a group what the segments say?
    fn compare(&self, due: &Due, group: &Group) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        for (volume, region, versions) in group.sorted() {
            if self.report.scope.has(volume) && !self.is_indexed(due, volume, region, versions)? {
                let (segment, start) = due.info.through;
                let detail = not_indexed(region);
                let finding = self.finding(FindingKind::Index, segment, (start.at, start.at), detail);
                findings.push(Finding { volume: Some(volume), ..finding });
            }
        }
        Ok(findings)
    }

    fn is_indexed(
        &self,
        due: &Due,
        volume: VolumeId,
        region: RegionNo,
        versions: &[Version],
    ) -> Result<bool, StoreError> {
        let found = self.shared.index.get(Table::Runs, &keys::run(volume, region, due.info.no))?;
        let mut run = Vec::new();
        encode_run(versions, &mut run);
        // It may have been settled just now, and its rows taken away.
        Ok(found.as_ref() == Some(&run) || self.layout().group >= due.info.no)
    }

    /// What records a damaged stretch of the log costs, to whoever was asked for.
    fn lost(&self, damage: &Damage) -> Vec<Finding> {
        let found = lost(self.shared, damage).into_iter();
        let wanted = |f: &Finding| {
            let beyond = self.report.scope.to.zip(f.points).is_some_and(|(to, (first, _))| first > to);
            f.volume.is_none_or(|volume| self.report.scope.has(volume)) && !beyond
        };
        found.filter(wanted).collect()
    }
}

/// How many bytes of each stream's frames were met on a trail, and how many there are: where those are not fewer, nothing is lost
/// that was not when the log was read, whatever a damaged header may have hidden.
#[derive(Default)]
struct MetSoFar {
    streams: BTreeMap<StreamId, (u64, u64)>,
    /// Of some group nobody noted how much there is.
    unknown: bool,
}

impl MetSoFar {
    fn take(&mut self, met: &Group, there: &GroupInfo) {
        self.unknown |= there.spans.is_empty() && !met.spans().is_empty();
        for (stream, bytes) in met.spans() {
            self.streams.entry(*stream).or_default().0 += bytes;
        }
        for (stream, bytes) in &there.spans {
            self.streams.entry(*stream).or_default().1 += bytes;
        }
    }

    fn is_whole(&self, stream: StreamId) -> bool {
        !self.unknown && self.streams.get(&stream).is_none_or(|(met, there)| met >= there)
    }
}

/// The units of a segment's frames.
#[derive(Default)]
struct Units {
    open: Option<(SegmentId, ChunkReader)>,
}

impl Units {
    /// True when it is another segment than before.
    fn enter(&mut self, segment: SegmentId, file: &Arc<SegmentFile>) -> bool {
        if self.open.as_ref().is_some_and(|(open, _)| *open == segment) {
            return false;
        }
        self.open = Some((segment, ChunkReader::new(Arc::clone(file))));
        true
    }

    fn check(&mut self, frame: &PassedFrame<'_>, records: &Records, scope: Scope, step: &mut Step) {
        let Some((_, reader)) = &mut self.open else { return };
        let body_at = frame.header.body_at(frame.at);
        let writes = records.placed(body_at).filter_map(|(entry, lens, at)| match entry.action {
            Action::Write { volume, extent } if scope.has(volume) => {
                Some((volume, extent, entry.position, lens, at))
            }
            _ => None,
        });
        for (volume, extent, position, lens, mut offset) in writes {
            let len: u32 = lens.iter().map(|&len| u32::from(len)).sum();
            let mut bytes = reader.fetch(offset, len);
            for (block, &len) in extent.blocks().zip(lens).filter(|(_, len)| **len > 0) {
                let (unit, rest) = bytes.split_at_checked(usize::from(len)).unwrap_or((bytes, &[]));
                step.blocks += 1;
                if let Err(why) = verify(block, unit) {
                    let at = Location { segment: frame.segment, offset, len };
                    step.suspects.push(Suspect { volume, block, position, at, detail: why.to_string() });
                }
                bytes = rest;
                offset = offset.saturating_add(u32::from(len));
            }
        }
    }
}

/// What is wrong with the header of the segment that `frame` is in.
fn bad_header(store: StoreId, frame: &PassedFrame<'_>) -> Option<String> {
    let mut bytes = vec![0; index(u64::from(SEGMENT_HEADER))];
    if let Err(e) = frame.file.read_at(0, &mut bytes) {
        return Some(e.to_string());
    }
    match SegmentHeader::decode(&bytes) {
        Ok(header) if header.segment == frame.segment && header.store == store => None,
        Ok(header) => {
            Some(format!("it is the header of {} of store {:016x}", header.segment, header.store.get()))
        }
        Err(e) => Some(e.to_string()),
    }
}
