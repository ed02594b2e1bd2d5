//! What is old and unread is packed while it is rewritten; what is read again is taken apart again.
//!
//! ```text
//!   units in block order, and packs from before      u u P u u
//!     warm: stays a unit, or becomes one again        │
//!     cold: gathered by up to 16 blocks of the region, ├─► a pack, if that is worth it; units otherwise
//!           no block twice in one, noise apart          │
//!     a pack of which all members stay cold: copied   ─┘
//! ```

use gateway_journal::pack::{MEMBERS, PackHead, Unpacker, pack, salvage};
use gateway_journal::{Location, Place, RegionNo, SegmentId, Version};
use tap_block::BlockNo;
use tap_block::stored::{MAX_STORED, UNIT, pack as pack_unit, unpack};
use tap_block::units::{count, index};

/// Open packs at once: a block of which more versions are kept has the rest of them in units.
const MOST_OPEN: usize = 256;

/// Versions of a region, and the bytes of their units and packs in the same order. Members of one pack follow each other.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) versions: Vec<Version>,
    pub(super) bytes: Vec<u8>,
    /// Bytes of units that may be packed another time.
    pub(super) warm: u64,
    /// Is any of it in packs?
    pub(super) packs: bool,
}

/// The places of versions, each pack's once: it is where neighbours lie.
pub(super) fn places(versions: &[Version]) -> impl Iterator<Item = Location> {
    let mut before = None;
    versions.iter().filter_map(move |version| {
        let at = location(version);
        let again = at.is_some_and(Location::is_pack) && at == before;
        before = at;
        at.filter(|_| !again)
    })
}

const fn location(version: &Version) -> Option<Location> {
    match version.place {
        Place::Unit(at) => Some(at),
        Place::Zero => None,
    }
}

fn pack_of(version: &Version) -> Option<Location> {
    location(version).filter(|at| at.is_pack())
}

/// Brings the members of each pack together; everything else keeps its order.
pub(super) fn bring_together(versions: &mut Vec<Version>) {
    if !versions.iter().any(|v| pack_of(v).is_some()) {
        return;
    }
    let mut first = std::collections::HashMap::new();
    let key = |(n, version): (usize, &Version)| match pack_of(version) {
        Some(at) => *first.entry(at).or_insert(n),
        None => n,
    };
    let keys: Vec<usize> = versions.iter().enumerate().map(key).collect();
    let mut keyed: Vec<(usize, Version)> = keys.into_iter().zip(versions.drain(..)).collect();
    keyed.sort_by_key(|(key, _)| *key);
    versions.extend(keyed.into_iter().map(|(_, version)| version));
}

/// How many of `versions` come before a place where they can be parted.
pub(super) fn first_group(versions: &[Version]) -> usize {
    let Some(pack) = versions.first().and_then(pack_of) else { return versions.len().min(1) };
    versions.iter().take_while(|v| pack_of(v) == Some(pack)).count()
}

/// What decides about a region.
pub(super) struct Judge<'a> {
    pub(super) region: RegionNo,
    /// Is it old, and has nobody read it?
    pub(super) is_cold: &'a dyn Fn(&Version) -> bool,
    /// The content of a member of a damaged pack that somebody offered.
    pub(super) offered: &'a dyn Fn(Location, BlockNo) -> Option<Vec<u8>>,
}

/// Packs and unpacks.
pub(super) fn repack(judge: &Judge<'_>, versions: Vec<Version>, bytes: Vec<u8>) -> Body {
    let plain = |v: &Version| pack_of(v).is_none() && (location(v).is_none() || !(judge.is_cold)(v));
    if versions.iter().all(plain) {
        return Body { warm: count(bytes.len()), packs: false, versions, bytes };
    }
    let mut packing =
        Packing { judge, out: Body::default(), open: Vec::new(), unpacker: Unpacker::default(), made: 0 };
    let (mut rest, mut bytes) = (versions.as_slice(), bytes.as_slice());
    while !rest.is_empty() {
        let (group, behind) = rest.split_at(first_group(rest));
        let len = places(group).map(|at| index(u64::from(at.bytes()))).sum::<usize>();
        let (stored, more) = bytes.split_at(len.min(bytes.len()));
        packing.group(group, stored);
        (rest, bytes) = (behind, more);
    }
    packing.finish()
}

struct Packing<'a> {
    judge: &'a Judge<'a>,
    out: Body,
    open: Vec<Vec<Candidate>>,
    unpacker: Unpacker,
    /// Packs made so far: places that are only given later are told apart by it.
    made: u32,
}

/// A version that goes into a pack, if that is worth it.
struct Candidate {
    version: Version,
    content: Vec<u8>,
    unit: Vec<u8>,
}

impl Candidate {
    const fn is_raw(&self) -> bool {
        self.unit.len() == MAX_STORED
    }
}

impl Packing<'_> {
    fn group(&mut self, group: &[Version], stored: &[u8]) {
        match group.first().and_then(location) {
            None => self.out.versions.extend_from_slice(group),
            Some(at) if at.is_pack() => self.pack(at, group, stored),
            Some(at) => group.iter().for_each(|version| self.unit(at, *version, stored)),
        }
    }

    /// One that is damaged is copied as it is: it stays damaged, and refused.
    fn unit(&mut self, at: Location, version: Version, stored: &[u8]) {
        if !(self.judge.is_cold)(&version) {
            self.out.warm += count(stored.len());
            return self.put(at, &[version], stored);
        }
        let mut content = vec![0; UNIT];
        match unpack(self.block(&version), stored, &mut content) {
            Ok(()) => self.take(Candidate { version, content, unit: stored.to_vec() }),
            Err(_) => self.put(at, &[version], stored),
        }
    }

    fn pack(&mut self, at: Location, group: &[Version], stored: &[u8]) {
        let members = PackHead::decode(stored).map_or(0, |head| head.members.len());
        let sound =
            group.iter().all(|v| self.unpacker.verify(at, self.judge.region.block(v.first), stored).is_ok());
        if sound && members == group.len() && group.iter().all(self.judge.is_cold) {
            return self.put(at, group, stored);
        }
        let (mut damaged, left) =
            (Vec::new(), if sound { Vec::new() } else { salvage(self.judge.region, stored) });
        for version in group {
            let salvaged = left.iter().find(|(block, _)| *block == version.first).map(|(_, c)| c.clone());
            match salvaged.or_else(|| self.content(at, version, stored, sound)) {
                Some(content) => self.member(*version, content),
                None => damaged.push(*version),
            }
        }
        if !damaged.is_empty() {
            self.put(at, &damaged, stored);
        }
    }

    fn content(&mut self, at: Location, version: &Version, stored: &[u8], sound: bool) -> Option<Vec<u8>> {
        let block = self.block(version);
        if !sound {
            return (self.judge.offered)(at, block);
        }
        let mut content = vec![0; UNIT];
        self.unpacker.unpack(at, block, stored, &mut content).ok().map(|()| content)
    }

    /// A version that comes out of a pack.
    fn member(&mut self, version: Version, content: Vec<u8>) {
        let mut unit = Vec::new();
        let len = pack_unit(self.block(&version), &content, &mut unit);
        if len == 0 {
            self.out.versions.push(Version { place: Place::Zero, ..version });
        } else if (self.judge.is_cold)(&version) {
            self.take(Candidate { version, content, unit });
        } else {
            self.out.warm += count(unit.len());
            self.put(Location { segment: SegmentId::new(0), offset: 0, len }, &[version], &unit);
        }
    }

    /// Into the first pack that does not have the block yet. What lz4 could not shrink keeps to its own kind: beside it
    /// nothing else would be worth packing.
    fn take(&mut self, candidate: Candidate) {
        let (block, raw) = (candidate.version.first, candidate.is_raw());
        let lacks =
            |pack: &Vec<Candidate>| pack.iter().all(|c| c.version.first != block && c.is_raw() == raw);
        match self.open.iter().position(lacks) {
            Some(n) => {
                let Some(pack) = self.open.get_mut(n) else { return };
                pack.push(candidate);
                if pack.len() == MEMBERS {
                    let full = self.open.remove(n);
                    self.seal(full);
                }
            }
            None if self.open.len() < MOST_OPEN => self.open.push(vec![candidate]),
            None => self.put_unit(&candidate),
        }
    }

    /// Writes a pack, or units if that takes less than an eighth more.
    fn seal(&mut self, mut members: Vec<Candidate>) {
        members.sort_unstable_by_key(|c| c.version.first);
        let contents: Vec<_> = members.iter().map(|c| (c.version.first, c.content.as_slice())).collect();
        let units: usize = members.iter().map(|c| c.unit.len()).sum();
        let packed = pack(self.judge.region, &contents).filter(|bytes| bytes.len() <= units / 8 * 7);
        let placed = packed.and_then(|bytes| {
            let at = Location::of_pack(SegmentId::new(0), self.made, u32::try_from(bytes.len()).ok()?)?;
            Some((at, bytes))
        });
        let Some((at, bytes)) = placed else {
            return members.iter().for_each(|candidate| self.put_unit(candidate));
        };
        self.made = self.made.saturating_add(1);
        let versions: Vec<Version> = members.iter().map(|c| c.version).collect();
        self.put(at, &versions, &bytes);
    }

    fn put_unit(&mut self, candidate: &Candidate) {
        let Ok(len) = u16::try_from(candidate.unit.len()) else { return };
        self.put(
            Location { segment: SegmentId::new(0), offset: 0, len },
            &[candidate.version],
            &candidate.unit,
        );
    }

    fn put(&mut self, at: Location, versions: &[Version], stored: &[u8]) {
        self.out.packs |= at.is_pack();
        self.out.versions.extend(versions.iter().map(|v| Version { place: Place::Unit(at), ..*v }));
        self.out.bytes.extend_from_slice(stored);
    }

    fn block(&self, version: &Version) -> BlockNo {
        self.judge.region.block(version.first)
    }

    fn finish(mut self) -> Body {
        for open in std::mem::take(&mut self.open) {
            self.seal(open);
        }
        self.out
    }
}

#[cfg(test)]
mod tests;
