//! The parameter list of EXTENDED COPY (SPC-4 section 6.4): the units that it names (CSCD descriptors) and the segments to copy
//! between them, all of it checked.

use std::collections::VecDeque;

use tap_block::{BLOCK_SIZE, Extent};

use crate::field::{be16, be24, be32, be64, byte};
use crate::scsi::inquiry::t10_designator;
use crate::scsi::party::Party;
use crate::scsi::sense::Sense;
use crate::scsi::unit::Identity;

/// Of one list.
pub(crate) const MAX_TARGETS: usize = 8;
pub(crate) const MAX_SEGMENTS: usize = 64;
const TARGET: usize = 32;
const HEADER: usize = 16;
/// The longest lists of descriptors.
pub(crate) const MAX_DESCRIPTORS: usize = MAX_TARGETS * TARGET + MAX_SEGMENTS * 32;
/// Bytes of one segment.
pub(crate) const MAX_SEGMENT: u32 = 256 << 20;

/// Descriptor types.
pub(crate) const IDENTIFICATION: u8 = 0xe4;
pub(crate) const BLOCKS: u8 = 0x02;
pub(crate) const BYTES: u8 = 0x0a;

const TOO_MANY_TARGETS: Sense = Sense::new(5, 0x2606);
const TOO_MANY_SEGMENTS: Sense = Sense::new(5, 0x2608);
/// The bit of a descriptor that names no device (section 6.4.5.1).
const NULL_DEVICE: u8 = 0x20;
const UNSUPPORTED_TARGET: Sense = Sense::new(5, 0x2607);
const UNSUPPORTED_SEGMENT: Sense = Sense::new(5, 0x2609);
/// COPY ABORTED: a descriptor that names no unit we can reach.
const UNREACHABLE: Sense = Sense::new(0xa, 0x0804);
/// COPY ABORTED: the blocks are not there.
const ABORTED: Sense = Sense::new(0xa, 0x0000);
/// COPY ABORTED: a segment ends within a block where it goes to, or comes from.
const INEXACT: Sense = Sense::new(0xa, 0x260a);
/// COPY ABORTED: the unit is no disk, or has blocks of another length than it is said to have.
const OTHER_DEVICE: Sense = Sense::new(0xa, 0x0d03);

/// What a descriptor names a unit by (section 6.4.5.2, table 145: a designator of VPD 83).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named<'a> {
    code_set: u8,
    kind: u8,
    designator: &'a [u8],
}

/// Bytes of a unit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Which of the units.
    pub(crate) party: usize,
    pub(crate) extent: Extent,
}

/// What is copied where; both of one length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) from: Place,
    pub(crate) to: Place,
}

/// By the descriptors' numbers, which of the units each is.
type Ids = Vec<Option<usize>>;

impl Named<'_> {
    /// Is it this unit?
    pub(crate) fn is(&self, identity: &Identity) -> bool {
        match (self.kind, self.code_set) {
            (0x03, 0x01) => self.designator == identity.naa.to_be_bytes(),
            (0x01, 0x02) => self.designator == t10_designator(identity),
            _ => false,
        }
    }
}

impl Place {
    fn part(self, at: u64, length: u64) -> Self {
        let start = self.extent.offset() + at;
        Self { extent: Extent::between(start, start + length), ..self }
    }
}

impl Segment {
    pub(crate) fn length(&self) -> u64 {
        self.from.extent.length()
    }

    pub(crate) fn is_within_one(&self) -> bool {
        self.from.party == self.to.party
    }

    /// Might what is written further on be read later?
    pub(crate) fn is_onto_itself(&self) -> bool {
        self.is_within_one() && self.to.extent.offset() > self.from.extent.offset()
    }

    /// Do its two places lie alike within blocks of the disks?
    pub(crate) fn is_cut_alike(&self) -> bool {
        self.from.extent.offset().abs_diff(self.to.extent.offset()).is_multiple_of(BLOCK_SIZE)
    }

    pub(crate) fn part(&self, at: u64, length: u64) -> Self {
        Self { from: self.from.part(at, length), to: self.to.part(at, length) }
    }
}

/// What to copy. The units that the list names come to `parties`, each once; `reach` finds a unit by its name.
pub(crate) fn parse(
    list: &[u8],
    parties: &mut Vec<Party>,
    reach: impl Fn(&Named<'_>) -> Option<Party>,
) -> Result<VecDeque<Segment>, Sense> {
    if list.is_empty() {
        return Ok(VecDeque::new());
    }
    let (targets, segments) = split(list)?;
    let mut ids = Ids::new();
    for target in targets {
        let party = named(target)?.and_then(|name| reach(&name));
        party.iter().try_for_each(|party| check_device(party, target))?;
        ids.push(party.map(|party| known(parties, party)));
    }
    parse_segments(parties, &ids, segments)
}

/// Its place among the units.
fn known(parties: &mut Vec<Party>, party: Party) -> usize {
    let at = parties.iter().position(|other| other.is_same_unit(&party));
    at.unwrap_or_else(|| {
        parties.push(party);
        parties.len() - 1
    })
}

/// The two lists of descriptors (section 6.4.1).
fn split(list: &[u8]) -> Result<(&[[u8; TARGET]], &[u8]), Sense> {
    let (targets, segments) =
        (usize::from(be16(list, 2)), usize::try_from(be32(list, 8)).unwrap_or(usize::MAX));
    let descriptors = list.get(HEADER..).ok_or(Sense::PARAMETER_LENGTH)?;
    let total = targets.checked_add(segments).filter(|&total| total <= MAX_DESCRIPTORS);
    let total = total.ok_or(Sense::PARAMETER_LENGTH)?;
    let descriptors = descriptors.get(..total).ok_or(Sense::PARAMETER_LENGTH)?;
    let (targets, segments) = descriptors.split_at(targets);
    let (targets, rest) = targets.as_chunks::<TARGET>();
    if !rest.is_empty() {
        return Err(Sense::PARAMETER_LENGTH);
    }
    if targets.len() > MAX_TARGETS {
        return Err(TOO_MANY_TARGETS);
    }
    Ok((targets, segments))
}

/// What names the unit; `None` for a designator that is not a unit's, and for a null device, which is as one that is not reachable
/// (section 6.4.5.1). Names by LUN and by port are not taken: they are those of one path, and say nothing of who may go there.
fn named(target: &[u8; TARGET]) -> Result<Option<Named<'_>>, Sense> {
    if target[0] != IDENTIFICATION {
        return Err(UNSUPPORTED_TARGET);
    }
    // LU ID TYPE is for the types of descriptors that have a LUN.
    if target[1] & NULL_DEVICE != 0 {
        return Ok(None);
    }
    let designator = target.get(8..8 + usize::from(target[7]).min(20)).unwrap_or_default();
    let (code_set, of_unit, kind) = (target[4] & 0x0f, target[5] & 0x30 == 0, target[5] & 0x0f);
    Ok(of_unit.then_some(Named { code_set, kind, designator }))
}

/// What else the descriptor says of it (section 6.4.5.1): its type, the length of its blocks.
fn check_device(party: &Party, target: &[u8; TARGET]) -> Result<(), Sense> {
    let block = u64::from(be24(target, 29));
    let fits = target[1] & 0x1f == 0 && (block == 0 || block == party.disk().block);
    if fits { Ok(()) } else { Err(OTHER_DEVICE) }
}

fn parse_segments(parties: &[Party], ids: &Ids, mut list: &[u8]) -> Result<VecDeque<Segment>, Sense> {
    let mut segments = VecDeque::new();
    while !list.is_empty() {
        let kind = byte(list, 0);
        if kind != BLOCKS && kind != BYTES {
            return Err(UNSUPPORTED_SEGMENT);
        }
        let length = 4 + usize::from(be16(list, 2));
        if length != if kind == BLOCKS { 28 } else { 32 } {
            return Err(Sense::INVALID_FIELD_IN_LIST);
        }
        let descriptor = list.get(..length).ok_or(Sense::PARAMETER_LENGTH)?;
        if segments.len() >= MAX_SEGMENTS {
            return Err(TOO_MANY_SEGMENTS);
        }
        segments.push_back((kind, descriptor));
        list = list.get(length..).unwrap_or_default();
    }
    let parsed = segments.into_iter().map(|(kind, descriptor)| segment(parties, ids, kind, descriptor));
    let parsed: VecDeque<Segment> = parsed.collect::<Result<_, _>>()?;
    Ok(parsed.into_iter().filter(|segment| segment.length() > 0).collect())
}

/// Sections 6.4.6.3 and 6.4.6.9.
fn segment(parties: &[Party], ids: &Ids, kind: u8, descriptor: &[u8]) -> Result<Segment, Sense> {
    let party = |at: usize| {
        let party = ids.get(usize::from(be16(descriptor, at))).copied().flatten();
        let there = party.and_then(|at| parties.get(at));
        party.zip(there.map(Party::disk)).ok_or(UNREACHABLE)
    };
    let ((from_party, from), (to_party, to)) = (party(4)?, party(6)?);
    let (length, offsets) = if kind == BLOCKS {
        // DC: counted in the destination's blocks.
        let block = if byte(descriptor, 1) & 0x02 == 0 { from.block } else { to.block };
        (u64::from(be16(descriptor, 10)) * block, (0, 0))
    } else {
        (u64::from(be32(descriptor, 8)), (be16(descriptor, 28), be16(descriptor, 30)))
    };
    // Neither is a rest kept for the next segment (CAT) nor filled up (PAD): there is none (section 6.4.6.2).
    if kind == BLOCKS && !(length.is_multiple_of(from.block) && length.is_multiple_of(to.block)) {
        return Err(INEXACT);
    }
    if length > u64::from(MAX_SEGMENT) {
        return Err(Sense::INVALID_FIELD_IN_LIST);
    }
    let from = from.stretch(be64(descriptor, 12), u64::from(offsets.0), length).ok_or(ABORTED)?;
    let to = to.stretch(be64(descriptor, 20), u64::from(offsets.1), length).ok_or(ABORTED)?;
    let from = Place { party: from_party, extent: from };
    Ok(Segment { from, to: Place { party: to_party, extent: to } })
}
