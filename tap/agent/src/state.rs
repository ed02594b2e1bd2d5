//! What a tap remembers of a volume over restarts, as readable `key value` lines in a [`SlottedFile`].
//!
//! ```text
//!   DATA/tap/NAME/state   who it is, the LSN reservation, how the last run ended      synced
//!   DATA/tap/NAME/marks   the activity log, one bit a region                          synced
//!   DATA/tap/NAME/alive   when the tap last watched the disk                          not synced
//!   DATA/tap/NAME/spool/  records that waited when memory was full
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::str::FromStr;

use tap_block::{Epoch, Lsn, RunId, StreamId, SyncCause, VolumeId, WallTime};
use tap_disk::FileIdentity;
use thiserror::Error;

use crate::proof::{self, Unproven};

/// The format's number; a tap refuses one it does not know.
const VERSION: u64 = 1;

/// What is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) stream: StreamId,
    pub(crate) volume: VolumeId,
    pub(crate) epoch: Epoch,
    /// The latest run.
    pub(crate) run: RunId,
    /// LSNs below this one may have been used.
    pub(crate) bound: Lsn,
    /// Every record up to here was durable at every gateway.
    pub(crate) everywhere: Lsn,
    /// Set by a clean stop only.
    pub(crate) clean: Option<CleanStop>,
    /// The sync that was open.
    pub(crate) sync: Option<SyncCause>,
    pub(crate) baselines: u32,
    pub(crate) resynced: u64,
    /// The disk, as it was when the run began.
    pub(crate) disk: Disk,
    /// The first record of the latest run; zero when an older program began it.
    pub(crate) first: Lsn,
    /// Runs that ended, as long as nobody below has shown that they are remembered to their ends.
    pub(crate) unproven: Vec<Unproven>,
    /// The last runs before the latest, oldest first.
    pub(crate) lineage: Vec<RunId>,
}

/// How a clean stop left things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CleanStop {
    /// The next LSN.
    pub(crate) next: Lsn,
    /// When the disk was last changed, by its own account (nanoseconds).
    pub(crate) changed_ns: i64,
}

/// What a disk is recognised by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) size: u64,
    pub(crate) inode: u64,
    pub(crate) device: u64,
}

impl From<FileIdentity> for Disk {
    fn from(id: FileIdentity) -> Self {
        Self { size: id.size, inode: id.inode, device: id.device }
    }
}

/// The note that the tap watches.
///
/// ```text
///   0 when u64   8 the disk's last change by its own account i64   16 which activity log was there u64   little endian
/// ```
///
/// Notes of older programs end before one of the last two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Alive {
    pub(crate) at: WallTime,
    /// When the disk was last changed then, by its own account (nanoseconds).
    pub(crate) changed_ns: Option<i64>,
    /// The generation of the activity log that was on the disk then: one that is older now was put there by somebody.
    pub(crate) log: Option<u64>,
}

impl Alive {
    pub(crate) fn encode(self) -> Vec<u8> {
        let changed = self.changed_ns.map(i64::to_le_bytes);
        let log = self.log.filter(|_| changed.is_some()).map(u64::to_le_bytes);
        [self.at.nanos().to_le_bytes()].into_iter().chain(changed).chain(log).flatten().collect()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (at, rest) = bytes.split_first_chunk()?;
        let at = WallTime::from_nanos(u64::from_le_bytes(*at));
        let changed_ns = rest.first_chunk().map(|ns| i64::from_le_bytes(*ns));
        let log = rest.get(8..).and_then(<[u8]>::first_chunk).map(|log| u64::from_le_bytes(*log));
        Some(Self { at, changed_ns, log })
    }
}

/// Why a state cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum StateError {
    #[error(
        "it has format {0}, this program knows format {VERSION}: use the program that wrote it, or a newer one"
    )]
    Version(u64),
    #[error(
        "`{0}` is missing or not understood: the file is damaged; move the tap's directory away to protect the disk anew"
    )]
    Field(&'static str),
}

impl State {
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        let mut put = |key: &str, value: u64| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{key} {value}");
        };
        put("version", VERSION);
        put("stream", self.stream.get());
        put("volume", self.volume.get());
        put("epoch", u64::from(self.epoch.get()));
        put("run", self.run.get());
        put("bound", self.bound.get());
        put("everywhere", self.everywhere.get());
        put("sync", self.sync.map_or(0, code_of));
        put("baselines", u64::from(self.baselines));
        put("resynced", self.resynced);
        put("size", self.disk.size);
        put("inode", self.disk.inode);
        put("device", self.disk.device);
        put("first", self.first.get());
        if let Some(clean) = self.clean {
            put("next", clean.next.get());
            let _ = writeln!(text, "changed {}", clean.changed_ns);
        }
        if !self.unproven.is_empty() {
            let _ = writeln!(text, "unproven {}", proof::encode(&self.unproven));
        }
        if !self.lineage.is_empty() {
            let runs: Vec<String> = self.lineage.iter().map(|run| run.get().to_string()).collect();
            let _ = writeln!(text, "lineage {}", runs.join(" "));
        }
        text
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let text = std::str::from_utf8(bytes).map_err(|_| StateError::Field("text"))?;
        let fields = Fields(text.lines().filter_map(|l| l.split_once(' ')).collect());
        let version = fields.number("version")?;
        if version != VERSION {
            return Err(StateError::Version(version));
        }
        let disk = Disk {
            size: fields.number("size")?,
            inode: fields.number("inode")?,
            device: fields.number("device")?,
        };
        let clean = match fields.0.contains_key("next") {
            true => Some(CleanStop { next: fields.lsn("next")?, changed_ns: fields.number("changed")? }),
            false => None,
        };
        Ok(Self {
            stream: StreamId::new(fields.number("stream")?),
            volume: VolumeId::new(fields.number("volume")?),
            epoch: Epoch::new(fields.number("epoch")?),
            run: RunId::new(fields.number("run")?),
            bound: fields.lsn("bound")?,
            everywhere: fields.lsn("everywhere")?,
            clean,
            sync: cause_of(fields.number("sync")?)?,
            baselines: fields.number("baselines")?,
            resynced: fields.number("resynced")?,
            disk,
            first: if fields.0.contains_key("first") { fields.lsn("first")? } else { Lsn::ZERO },
            unproven: proof::decode(fields.0.get("unproven").unwrap_or(&""))
                .ok_or(StateError::Field("unproven"))?,
            lineage: fields.runs("lineage")?,
        })
    }
}

struct Fields<'a>(BTreeMap<&'a str, &'a str>);

impl Fields<'_> {
    fn number<T: FromStr>(&self, key: &'static str) -> Result<T, StateError> {
        self.0.get(key).and_then(|v| v.parse().ok()).ok_or(StateError::Field(key))
    }

    fn runs(&self, key: &'static str) -> Result<Vec<RunId>, StateError> {
        let runs = self.0.get(key).into_iter().flat_map(|text| text.split_whitespace());
        runs.map(|run| run.parse().map(RunId::new).map_err(|_| StateError::Field(key))).collect()
    }

    fn lsn(&self, key: &'static str) -> Result<Lsn, StateError> {
        Lsn::new(self.number(key)?).ok_or(StateError::Field(key))
    }
}

/// 0 is "no sync"; numbers are never reused.
const CAUSES: [(SyncCause, u64); 6] = [
    (SyncCause::Baseline, 1),
    (SyncCause::UncleanStop, 2),
    (SyncCause::Overflow, 3),
    (SyncCause::HopLost, 4),
    (SyncCause::ChangedUnwatched, 5),
    (SyncCause::FailedWrite, 6),
];

fn code_of(cause: SyncCause) -> u64 {
    CAUSES.iter().find(|(c, _)| *c == cause).map_or(0, |(_, code)| *code)
}

fn cause_of(code: u64) -> Result<Option<SyncCause>, StateError> {
    match CAUSES.iter().find(|(_, c)| *c == code) {
        Some((cause, _)) => Ok(Some(*cause)),
        None if code == 0 => Ok(None),
        None => Err(StateError::Field("sync")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            stream: StreamId::new(u64::MAX),
            volume: VolumeId::new(2),
            epoch: Epoch::new(1),
            run: RunId::new(3),
            bound: Lsn::ZERO.plus(1 << 20),
            everywhere: Lsn::ZERO.plus(77),
            clean: Some(CleanStop { next: Lsn::ZERO.plus(78), changed_ns: -5 }),
            sync: Some(SyncCause::FailedWrite),
            baselines: 1,
            resynced: 4096,
            disk: Disk { size: 1 << 30, inode: 12, device: 8 },
            first: Lsn::ZERO.plus(70),
            unproven: Vec::new(),
            lineage: Vec::new(),
        }
    }

    #[test]
    fn a_state_comes_back() {
        let killed = Unproven {
            run: RunId::new(5),
            first: Lsn::ZERO.plus(3),
            alive: WallTime::from_nanos(7),
            ended: WallTime::from_nanos(7),
        };
        let stopped = Unproven { alive: WallTime::from_nanos(u64::MAX), ..killed };
        let lineage = vec![RunId::new(5), RunId::new(6)];
        let unproven = State { unproven: vec![killed, stopped], lineage, ..state() };
        for state in [state(), unproven, State { clean: None, sync: None, ..state() }] {
            assert_eq!(State::decode(state.encode().as_bytes()), Ok(state));
        }
    }

    #[test]
    fn a_state_of_an_older_program_is_read() {
        let text = state().encode().replace("first 70\n", "");
        assert_eq!(State::decode(text.as_bytes()), Ok(State { first: Lsn::ZERO, ..state() }));
    }

    #[test]
    fn a_note_comes_back_and_that_of_an_older_program_is_read() {
        for (changed_ns, log) in [(Some(-7), Some(5)), (Some(-7), None), (None, None)] {
            let alive = Alive { at: WallTime::from_nanos(9), changed_ns, log };
            assert_eq!(Alive::decode(&alive.encode()), Some(alive));
        }
        assert_eq!(Alive::decode(&[9, 0, 0, 0, 0, 0, 0, 0]).map(|a| a.at), Some(WallTime::from_nanos(9)));
        assert_eq!(Alive::decode(&[9; 7]), None);
    }

    #[test]
    fn a_newer_or_broken_state_is_refused_with_the_reason() {
        let text = state().encode();
        assert_eq!(
            State::decode(text.replace("version 1", "version 2").as_bytes()),
            Err(StateError::Version(2))
        );
        let bad = text.replace("bound ", "bund ");
        assert_eq!(State::decode(bad.as_bytes()), Err(StateError::Field("bound")));
        assert!(State::decode(b"\xff\xfe").is_err());
    }
}
