//! An overlay's mapping log on disk: one file of fixed size, replaced as a whole when it is full.
//!
//! A new file begins with all of the mapping; the old one is removed once the new one is durable. So the
//! newest file that holds a sound first group is the log, and a crash at any step leaves one.

use std::fs;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use gateway_image::overlay::{Change, LogPlace, Scan, encode_group, group_len, has_references, scan};
use tap_block::units::{count, index};
use tap_disk::SegmentFile;

/// The least a log file takes: some ten thousand changes between two replacements.
const MIN_LEN: u64 = 256 << 10;

pub(super) struct OverlayLog {
    dir: PathBuf,
    image: u64,
    generation: u64,
    file: SegmentFile,
    next_group: u64,
    end: u64,
    /// Something half written is at its end; or a place in the next file was told: until that is the log, nothing goes into this
    /// one, or what bears that place would count as newer than what comes here.
    is_left: bool,
    /// The furthest generation in which a place was told. What bears that place is older than what comes after the next flush that
    /// succeeds, so that has to be further on.
    told: u64,
    /// Programs that know of none do not read the file.
    has_references: bool,
}

impl OverlayLog {
    /// A log with nothing in it.
    pub(super) fn create(dir: &Path) -> io::Result<()> {
        SegmentFile::create_zeroed(&path_of(dir, 0), MIN_LEN).map(drop)
    }

    /// The log in `dir` and what it holds.
    pub(super) fn open(dir: &Path, image: u64) -> io::Result<(Self, Vec<Change>)> {
        let mut newest_first = generations(dir)?;
        newest_first.sort_unstable_by(|a, b| b.cmp(a));
        let oldest = newest_first.last().copied();
        for generation in newest_first {
            let file = SegmentFile::open(&path_of(dir, generation))?;
            let found = read(&file, image)?;
            let is_empty = found.next_group == 0;
            // One that never became the log.
            if is_empty && Some(generation) != oldest {
                continue;
            }
            // Each is as long as it was made, and only the very first was made without a group.
            if file.len() < length(generation, found.first) || (is_empty && generation > 0) {
                return Err(cut_off(file.len()));
            }
            // What comes next could not be told from what was torn, should it be torn as well.
            let Scan { changes, next_group, end, is_torn: is_left, has_references, .. } = found;
            let dir = dir.to_owned();
            let told = generation;
            let log = Self { dir, image, generation, file, next_group, end, is_left, told, has_references };
            // A gateway that was killed may have left it unsynced; from here on whatever it says counts as durable.
            log.file.sync()?;
            log.remove_others();
            return Ok((log, changes));
        }
        let text = "its mapping log (map-N) is missing; put it back, or remove the image and create it again";
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }

    /// Will a group of these changes fit? One with the first references does not: the file has to begin with them.
    pub(super) fn fits(&self, changes: &[Change]) -> bool {
        let is_told = self.has_references || !has_references(changes);
        !self.is_left && is_told && self.end + count(group_len(changes)) <= self.file.len()
    }

    /// How far it has come.
    pub(super) const fn place(&self) -> LogPlace {
        LogPlace { generation: self.generation, group: self.next_group }
    }

    /// How far it will have come with these changes, which are what is recorded next. Further each time.
    pub(super) fn place_with(&mut self, changes: &[Change]) -> LogPlace {
        if self.fits(changes) {
            return self.place_with_one_more();
        }
        self.is_left = true;
        self.told = self.told.max(self.generation) + 1;
        LogPlace { generation: self.told, group: 1 }
    }

    fn place_with_one_more(&self) -> LogPlace {
        LogPlace { group: self.next_group + 1, ..self.place() }
    }

    /// Whatever is recorded next has to make it stand beyond `place`.
    pub(super) fn pass(&mut self, place: LogPlace) {
        if place >= self.place_with_one_more() {
            self.is_left = true;
            self.told = self.told.max(place.generation.saturating_add(1));
        }
    }

    /// Appends `changes`, durably.
    pub(super) fn append(&mut self, changes: &[Change]) -> io::Result<()> {
        let group = encode_group(self.image, self.next_group, changes);
        // Unless all of it succeeds.
        self.is_left = true;
        self.file.write_at(self.end, &[IoSlice::new(&group)])?;
        self.file.sync()?;
        self.is_left = false;
        self.next_group += 1;
        self.end += count(group.len());
        Ok(())
    }

    /// Starts anew with `mapping`, durably.
    pub(super) fn replace(&mut self, mapping: &[Change]) -> io::Result<()> {
        let group = encode_group(self.image, 0, mapping);
        let generation = self.told.max(self.generation + 1);
        let path = path_of(&self.dir, generation);
        // Left over from a replacement that failed half way.
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = begin(&path, &group).inspect_err(|_| {
            // It would count, and the old log goes on.
            let _ = fs::remove_file(&path);
        })?;
        (self.generation, self.file, self.next_group, self.end) = (generation, file, 1, count(group.len()));
        (self.is_left, self.told) = (false, generation);
        self.has_references = has_references(mapping);
        self.remove_others();
        Ok(())
    }

    /// Older files, and newer ones that never became the log. One that stays does no harm.
    fn remove_others(&self) {
        for generation in generations(&self.dir).unwrap_or_default() {
            if generation != self.generation {
                let _ = fs::remove_file(path_of(&self.dir, generation));
            }
        }
    }
}

/// A file that begins with this group, durably.
fn begin(path: &Path, group: &[u8]) -> io::Result<SegmentFile> {
    let file = SegmentFile::create_zeroed(path, length(1, count(group.len())))?;
    file.write_at(0, &[IoSlice::new(group)])?;
    file.sync()?;
    Ok(file)
}

/// How long a file is made, by the bytes of its first group. The very first is made before there is one.
const fn length(generation: u64, first: u64) -> u64 {
    if generation == 0 || first * 2 < MIN_LEN { MIN_LEN } else { first * 2 }
}

fn cut_off(len: u64) -> io::Error {
    let text = format!(
        "its mapping log is cut off: of what was written on the image only {len} bytes of it are left to say where that lies; put \
         it back, or remove the image and create it again"
    );
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn read(file: &SegmentFile, image: u64) -> io::Result<Scan> {
    let mut bytes = vec![0; index(file.len())];
    file.read_at(0, &mut bytes)?;
    scan(image, &bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

fn path_of(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("map-{generation}"))
}

fn generations(dir: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        found.extend(name.to_str().and_then(|n| n.strip_prefix("map-")).and_then(|n| n.parse::<u64>().ok()));
    }
    Ok(found)
}
