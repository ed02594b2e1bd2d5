//! What was found, for people and for scripts.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

/// The outcome of a check.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The store's number, in hex.
    pub store: String,
    /// No damage.
    pub sound: bool,
    /// Segments of the store.
    pub segments: u64,
    /// Frames that were read.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// Stored blocks that were checked.
    pub blocks: u64,
    /// Those of them that lie in packs.
    pub packed: u64,
    /// Bytes of the journal that were read.
    pub bytes: u64,
    /// The last write was cut off by a crash. That is no damage: nobody was told that it was done.
    pub torn_tail: bool,
    /// What the ledger of segments says; `None`: the store has none.
    pub ledger: Option<LedgerReport>,
    /// The streams in it.
    pub streams: Vec<StreamReport>,
    /// The volumes of settled history.
    pub volumes: Vec<VolumeReport>,
    /// What is damaged.
    pub damage: Vec<Finding>,
    /// Segments with damage in what is settled, which nobody reads any more.
    #[serde(skip)]
    pub(crate) let_go: BTreeSet<u32>,
}

/// A volume in settled history.
#[derive(Debug, Serialize)]
pub struct VolumeReport {
    /// Its number, in hex.
    pub volume: String,
    /// Bytes of its frames in settled segments in which something of it counts.
    pub settled_bytes: u64,
}

/// A stream in the journal.
#[derive(Debug, Serialize)]
pub struct StreamReport {
    /// Its number, in hex.
    pub stream: String,
    /// Its first record here.
    pub first_lsn: u64,
    /// Its last record here.
    pub last_lsn: u64,
    /// How many records.
    pub records: u64,
    /// Runs that wrote them.
    pub runs: u64,
    /// Bytes of its frames in the log that are not settled.
    pub log_bytes: u64,
}

/// The ledger of segments.
#[derive(Debug, Serialize)]
pub struct LedgerReport {
    /// The number of its last entry.
    pub entries: u64,
    /// Segments of the store that were held against it.
    pub hashed: u64,
    /// Segments that were recycled before they were hashed, as far as the file still says.
    pub unhashed: u64,
    /// Segments that were hashed with damage in them and put right since, as far as the file still says.
    pub repaired: u64,
    /// The newest entry of it that somebody else keeps.
    pub anchored: Option<AnchorReport>,
}

/// An entry of the ledger that somebody else keeps.
#[derive(Debug, Serialize)]
pub struct AnchorReport {
    /// Who.
    pub place: String,
    /// The entry's number.
    pub entry: u64,
    /// When it was made, where that is still known.
    pub at: Option<String>,
}

/// Something that is damaged.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// The segment, where it is known.
    pub segment: Option<u32>,
    /// The file's name.
    pub file: String,
    /// The first damaged byte of it.
    pub from: u64,
    /// The byte behind the last.
    pub to: u64,
    /// What is wrong and what it concerns.
    pub detail: String,
}

impl fmt::Display for LedgerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entries, hashed, anchored, .. } = self;
        write!(f, "ledger: {entries} entries, {hashed} segments held against it, ")?;
        match anchored {
            Some(AnchorReport { place, entry, at: Some(at) }) => {
                write!(f, "anchored up to entry {entry} of {at}, at {place}")
            }
            Some(AnchorReport { place, entry, at: None }) => {
                write!(f, "anchored up to entry {entry}, at {place}")
            }
            None => write!(f, "not anchored: nobody else keeps its head"),
        }
    }
}

/// Damaged places that are written out for people; scripts get them all.
const SHOWN: usize = 100;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { store, segments, frames, records, blocks, packed, bytes, .. } = self;
        writeln!(
            f,
            "store {store}: {segments} segments, {frames} frames, {records} records, {blocks} stored blocks \
             ({packed} in packs), {bytes} bytes"
        )?;
        for stream in &self.streams {
            let StreamReport { stream, first_lsn, last_lsn, records, runs, log_bytes } = stream;
            writeln!(
                f,
                "stream {stream}: {records} records in {runs} runs, lsn:{first_lsn} to lsn:{last_lsn}, {log_bytes} bytes \
                 not settled"
            )?;
        }
        for VolumeReport { volume, settled_bytes } in &self.volumes {
            writeln!(f, "volume {volume}: {settled_bytes} bytes settled")?;
        }
        match &self.ledger {
            Some(ledger) => writeln!(f, "{ledger}")?,
            None => writeln!(
                f,
                "ledger: there is none, so nothing shows whether segments were forged or taken away"
            )?,
        }
        if self.torn_tail {
            writeln!(f, "the last write was cut off by a crash; nobody was told that it was done")?;
        }
        for finding in self.damage.iter().take(SHOWN) {
            let Finding { file, from, to, detail, .. } = finding;
            writeln!(f, "damage: {file} bytes {from} to {to}: {detail}")?;
        }
        if self.damage.len() > SHOWN {
            writeln!(f, "damage: and {} places more (-o json lists all)", self.damage.len() - SHOWN)?;
        }
        if self.sound { write!(f, "sound") } else { write!(f, "damaged in {} places", self.damage.len()) }
    }
}
