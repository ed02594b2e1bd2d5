//! The ledger against itself and against the segments: entry by entry from the first byte on, then every segment that it
//! says is part of the store.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use gateway_journal::ledger::{Contradiction, Doubt, Entry, Event, Hashed, Loss, Why};
use gateway_journal::{Digest, EntryNo, LEDGER_FILE, SegmentId, StoreId};
use tap_block::WallTime;

use crate::files::Files;
use crate::report::{AnchorReport, Finding, LedgerReport, Report};
use crate::walk::len64;

/// What the entries say.
#[derive(Debug, Default)]
struct Chain {
    last: Option<(EntryNo, Digest)>,
    entries: u64,
    /// Segments that are part of the store.
    segments: BTreeMap<SegmentId, Hashed>,
    unhashed: u64,
    repaired: u64,
    /// When each entry was made that is still there.
    times: BTreeMap<EntryNo, WallTime>,
    anchor: Option<(String, EntryNo)>,
    /// What others keep that is not in the ledger, and where it began anew because it was lost, with the byte of the entry that
    /// says so; until somebody has read of it.
    doubts: Vec<(usize, Doubt)>,
    faults: Vec<(usize, usize, String)>,
}

/// Checks the ledger in `dir`, and holds the segments against it. A store without one has nothing to be held against.
pub(crate) fn check(dir: &Path, files: &Files, report: &mut Report) {
    let path = dir.join(LEDGER_FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return,
        Err(e) => return damage(report, None, (0, 0), e.to_string()),
    };
    let chain = Chain::walk(files.store, &bytes);
    for (from, to, detail) in &chain.faults {
        damage(report, None, (len64(*from), len64(*to)), detail.clone());
    }
    for (at, doubt) in &chain.doubts {
        damage(report, None, (len64(*at), len64(*at)), doubt.to_string());
    }
    let mut hashed = 0;
    for (id, known) in &chain.segments {
        match path_of(files, *id) {
            Some(path) => {
                hashed += 1;
                segment(report, *id, path, known);
            }
            None if is_part(files, *id, known) => taken_away(report, *id, known),
            None => {}
        }
    }
    let anchored = chain.anchor.as_ref().map(|(place, number)| {
        let at = chain.times.get(number).map(ToString::to_string);
        AnchorReport { place: place.clone(), entry: number.get(), at }
    });
    let (entries, unhashed, repaired) = (chain.entries, chain.unhashed, chain.repaired);
    report.ledger = Some(LedgerReport { entries, hashed, unhashed, repaired, anchored });
}

fn path_of(files: &Files, id: SegmentId) -> Option<&Path> {
    let log = files.segments.get(&id).map(|s| s.path.as_path());
    log.or_else(|| files.settled.files.get(&id).map(|(path, _)| path.as_path()))
}

/// Was it not settled, or replaced by a later settle, that is not entered yet?
fn is_part(files: &Files, id: SegmentId, known: &Hashed) -> bool {
    let manifest = files.settled.manifest.as_ref();
    match known.settle {
        0 => manifest.is_none_or(|manifest| id >= manifest.through.0),
        // Its own segments are all part of the newest settle; one that is newer than the manifest was there as well.
        settle => manifest.is_none_or(|manifest| settle >= manifest.settle),
    }
}

/// One that other files speak of is named already.
fn taken_away(report: &mut Report, id: SegmentId, known: &Hashed) {
    if report.damage.iter().any(|f| f.segment == Some(id.get())) {
        return;
    }
    let detail = format!(
        "the ledger knows of {id}, which was part of the store, and it is not there: it was taken away, with what it held"
    );
    let file = "seg".to_owned();
    report.damage.push(Finding { segment: Some(id.get()), file, from: 0, to: u64::from(known.end), detail });
}

/// A hash that differs is explained by damage that was found in the segment.
fn segment(report: &mut Report, id: SegmentId, path: &Path, known: &Hashed) {
    let end = tap_block::units::index(u64::from(known.end));
    let found = fs::read(path).ok().and_then(|bytes| bytes.get(..end).map(Digest::of));
    let explained = report.damage.iter().any(|f| f.segment == Some(id.get()));
    if found == Some(known.digest) || explained {
        return;
    }
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let detail = match report.let_go.contains(&id.get()) {
        true => format!("there is rot in {id}, in what is settled and no point shows any more"),
        false => format!(
            "the content of {id} is not what was entered in the ledger when it was finished, and its checksums fit: somebody \
         changed it, or a byte that no checksum covers"
        ),
    };
    report.damage.push(Finding { segment: Some(id.get()), file, from: 0, to: u64::from(known.end), detail });
}

fn damage(report: &mut Report, segment: Option<u32>, (from, to): (u64, u64), detail: String) {
    report.damage.push(Finding { segment, file: LEDGER_FILE.to_owned(), from, to, detail });
}

impl Chain {
    fn walk(store: StoreId, bytes: &[u8]) -> Self {
        let (mut chain, mut at) = (Self::default(), 0);
        while at < bytes.len() {
            let rest = bytes.get(at..).unwrap_or_default();
            match Entry::decode(rest).and_then(|found| found.0.of(store).map(|()| found)) {
                Ok((entry, digest, len)) => {
                    chain.entry(at, &entry, digest);
                    at += len;
                }
                Err(why) => match next(bytes, at) {
                    Some(sound) => {
                        chain.faults.push((at, sound, why.to_string()));
                        at = sound;
                    }
                    // The last entry was being written.
                    None if Entry::is_cut_off(store, rest) => break,
                    None => {
                        chain.faults.push((at, bytes.len(), why.to_string()));
                        break;
                    }
                },
            }
        }
        chain
    }

    fn entry(&mut self, at: usize, entry: &Entry, digest: Digest) {
        let folded = matches!(entry.event, Event::Folded(_));
        let due = self.last.map_or((EntryNo::FIRST, Digest::NONE), |(number, last)| (number.next(), last));
        let follows = match entry.event {
            Event::Contradicted { number, .. } | Event::Lapsed { number, .. } => {
                entry.number == due.0.max(number.next())
            }
            Event::Folded(_) if at == 0 => true,
            _ => entry.number == due.0,
        };
        if !follows || (entry.previous != due.1 && !(folded && at == 0)) {
            let detail = format!("entry {} does not follow the one before it", entry.number);
            self.faults.push((at, at, detail));
        }
        self.entries = entry.number.get();
        self.last = Some((entry.number, digest));
        self.times.insert(entry.number, entry.at);
        self.doubt(at, entry);
        self.take(&entry.event);
    }

    /// What speaks against the ledger.
    fn doubt(&mut self, at: usize, entry: &Entry) {
        let found = |place: &String, number, digest, lapsed| {
            Doubt::Contradicted(place.clone(), Contradiction { number, digest, lapsed, read: false })
        };
        match &entry.event {
            Event::Begun(Why::Lost) => {
                let loss = Loss { number: entry.number, at: entry.at, read: false };
                self.doubts.push((at, Doubt::Lost(loss)));
            }
            Event::Contradicted { place, number, digest } => {
                self.doubts.push((at, found(place, *number, *digest, false)));
            }
            Event::Lapsed { place, number, digest } => {
                self.doubts.push((at, found(place, *number, *digest, true)));
            }
            Event::Acknowledged => self.doubts.clear(),
            Event::Folded(folded) if at == 0 => {
                let lost = folded.lost.filter(|lost| !lost.read).map(Doubt::Lost);
                let others = folded.contradicted.iter().filter(|(_, found)| !found.read);
                let others = others.map(|(place, found)| Doubt::Contradicted(place.clone(), *found));
                self.doubts = lost.into_iter().chain(others).map(|doubt| (at, doubt)).collect();
            }
            _ => {}
        }
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Sealed(id, hashed) => drop(self.segments.insert(*id, *hashed)),
            Event::Settled(settled) => {
                self.unhashed += len64(settled.unhashed.len());
                for id in &settled.inputs {
                    self.segments.remove(id);
                }
            }
            Event::Repaired { segment, digest, .. } => {
                self.repaired += 1;
                if let Some(known) = self.segments.get_mut(segment) {
                    known.digest = *digest;
                }
            }
            Event::Anchored { place, number, .. } => self.anchored(place, *number),
            Event::Folded(folded) => {
                self.segments = folded.segments.iter().copied().collect();
                self.times.extend(folded.anchors.iter().map(|(_, head)| (head.number, head.at)));
                folded.anchors.iter().for_each(|(place, head)| self.anchored(place, head.number));
            }
            Event::Begun(_)
            | Event::Witnessed { .. }
            | Event::Contradicted { .. }
            | Event::Lapsed { .. }
            | Event::Acknowledged => {}
        }
    }

    fn anchored(&mut self, place: &str, number: EntryNo) {
        if self.anchor.as_ref().is_none_or(|(_, known)| *known <= number) {
            self.anchor = Some((place.to_owned(), number));
        }
    }
}

/// Where the next sound entry behind a bad one begins.
fn next(bytes: &[u8], bad: usize) -> Option<usize> {
    (bad + 1..bytes.len()).find(|&at| {
        let rest = bytes.get(at..).unwrap_or_default();
        rest.starts_with(b"CGLEDGE") && Entry::decode(rest).is_ok()
    })
}
