//! A command under way: a small state machine that is given its data and the outcomes of its operations, and
//! says what comes next. One operation at a time is under way for a command.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tap_block::units::{count, index};
use tap_block::{Answer, Answered, BlockDevice, DeviceError, Extent, Op, Stretch};

use crate::field::{be16, be32, be64};
use crate::scsi::blocks::Disk;
use crate::scsi::copy::{self, Copy, Errand, MAX_LIST};
use crate::scsi::inquiry::MAX_UNMAP_DESCRIPTORS;
use crate::scsi::mode;
use crate::scsi::party::Party;
use crate::scsi::reservation::Out;
use crate::scsi::segments::Named;
use crate::scsi::sense::{Reply, Sense};
use crate::scsi::status::Question;
use crate::scsi::unit::Nexus;

/// What is read or written at a time by commands that move nothing to the initiator.
const PIECE: u64 = 1 << 20;

/// What a verification compares with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// Nothing: the blocks have to be readable.
    Readable,
    /// As many bytes as there are blocks.
    Whole,
    /// One block of this many bytes, again and again.
    Repeated(u64),
}

/// What comes next.
pub(crate) enum Step {
    /// This operation; then [`Work::go_on`].
    Submit(Op),
    /// The same for a disk that may be another unit's.
    Errand(Arc<dyn BlockDevice>, Op),
    /// The driver has to keep these reservations; then [`Work::go_on`].
    Keep(Bytes),
    /// The answer.
    Done(Reply),
}

/// A command that needs data, operations, or both.
#[derive(Debug)]
pub(crate) struct Work {
    kind: Kind,
    extent: Extent,
    /// Data-Out that the CDB speaks of.
    wanted: u64,
    data: Bytes,
}

#[derive(Debug)]
enum Kind {
    Nothing,
    Read,
    Write { fua: bool },
    Flush,
    WriteAndVerify { written: bool },
    Verify { check: Check, done: u64 },
    CompareAndWrite { fua: bool, compared: bool },
    OrWrite { fua: bool, read: bool },
    WriteSame { unmap: bool, done: u64 },
    Unmap { disk: Disk, left: Option<VecDeque<Extent>> },
    Copy(Option<Copy>),
    Status(Question),
    ModeSelect { cdb: [u8; 16] },
    Reserve { cdb: [u8; 16] },
}

impl Work {
    fn new(kind: Kind, extent: Extent, wanted: u64) -> Self {
        Self { kind, extent, wanted, data: Bytes::new() }
    }

    pub(crate) fn nothing() -> Self {
        Self::new(Kind::Nothing, Extent::between(0, 0), 0)
    }

    pub(crate) fn read(extent: Extent) -> Self {
        Self::new(Kind::Read, extent, 0)
    }

    pub(crate) fn write(extent: Extent, fua: bool) -> Self {
        Self::new(Kind::Write { fua }, extent, extent.length())
    }

    pub(crate) fn flush() -> Self {
        Self::new(Kind::Flush, Extent::between(0, 0), 0)
    }

    pub(crate) fn write_and_verify(extent: Extent) -> Self {
        Self::new(Kind::WriteAndVerify { written: false }, extent, extent.length())
    }

    pub(crate) fn verify(extent: Extent, check: Check) -> Self {
        let wanted = match check {
            Check::Readable => 0,
            Check::Whole => extent.length(),
            Check::Repeated(block) => block.min(extent.length()),
        };
        Self::new(Kind::Verify { check, done: 0 }, extent, wanted)
    }

    pub(crate) fn compare_and_write(extent: Extent, fua: bool) -> Self {
        Self::new(Kind::CompareAndWrite { fua, compared: false }, extent, 2 * extent.length())
    }

    pub(crate) fn or_write(extent: Extent, fua: bool) -> Self {
        Self::new(Kind::OrWrite { fua, read: false }, extent, extent.length())
    }

    /// `block` bytes of data, none for zeroes.
    pub(crate) fn write_same(extent: Extent, block: u64, unmap: bool) -> Self {
        Self::new(Kind::WriteSame { unmap, done: 0 }, extent, block)
    }

    pub(crate) fn unmap(disk: Disk, list: u16) -> Self {
        Self::new(Kind::Unmap { disk, left: None }, Extent::between(0, 0), u64::from(list))
    }

    pub(crate) fn status(question: Question) -> Self {
        Self::new(Kind::Status(question), Extent::between(0, 0), 0)
    }

    pub(crate) fn mode_select(cdb: [u8; 16]) -> Self {
        let list = if cdb[0] == 0x55 { u64::from(be16(&cdb, 7)) } else { u64::from(cdb[4]) };
        Self::new(Kind::ModeSelect { cdb }, Extent::between(0, 0), list)
    }

    pub(crate) fn reserve(cdb: [u8; 16]) -> Result<Self, Sense> {
        let list = listed(be32(&cdb, 5))?;
        Ok(Self::new(Kind::Reserve { cdb }, Extent::between(0, 0), list))
    }

    pub(crate) fn copy(cdb: &[u8; 16]) -> Result<Self, Sense> {
        let list = listed(be32(cdb, 10))?;
        Ok(Self::new(Kind::Copy(None), Extent::between(0, 0), list))
    }

    /// The bytes of Data-Out that the CDB speaks of.
    pub(crate) fn wanted(&self) -> u64 {
        self.wanted
    }

    /// The bytes that it holds while it is under way, beside those that the initiator sends.
    pub(crate) fn holds(&self) -> u64 {
        match self.kind {
            Kind::Read => self.extent.length(),
            Kind::Copy(_) => copy::PIECE,
            _ => 0,
        }
    }

    /// Where it begins, if it is a write and nothing but that: one that need not be on the disk for good when it is answered.
    pub(crate) fn plain_write(&self) -> Option<u64> {
        matches!(self.kind, Kind::Write { fua: false }).then(|| self.extent.offset())
    }

    /// Would less or more data than it wants make it something else?
    pub(crate) fn is_exact(&self) -> bool {
        matches!(
            self.kind,
            Kind::CompareAndWrite { .. }
                | Kind::OrWrite { .. }
                | Kind::WriteSame { .. }
                | Kind::Reserve { .. }
                | Kind::Copy(_)
        )
    }

    /// The stretch to claim before it starts, and whether nobody else may write there meanwhile. Known once
    /// [`give`](Self::give) has been called.
    pub(crate) fn claims(&self) -> Option<(Extent, bool)> {
        match &self.kind {
            Kind::Write { .. } | Kind::WriteSame { .. } => Some((self.extent, false)),
            Kind::WriteAndVerify { .. } | Kind::CompareAndWrite { .. } | Kind::OrWrite { .. } => {
                Some((self.extent, true))
            }
            Kind::Unmap { left: Some(left), .. } => {
                let start = left.iter().map(|e| e.offset()).min()?;
                let end = left.iter().map(|e| e.end()).max()?;
                Some((Extent::between(start, end), false))
            }
            _ => None,
        }
    }

    /// The stretches that a copy claims, of whatever units, in the order in which it has to.
    pub(crate) fn claims_of_copy(&self) -> &[(Party, Extent)] {
        if let Kind::Copy(Some(copy)) = &self.kind { copy.claims() } else { &[] }
    }

    /// Hands over its data. A copy is between the unit that it was sent to, and those that are found by their names.
    ///
    /// # Errors
    /// The answer, when the data makes no sense.
    pub(crate) fn give(
        &mut self,
        nexus: &Nexus,
        (own, reach): (impl Fn() -> Party, impl Fn(&Named<'_>) -> Option<Party>),
        data: Bytes,
    ) -> Result<(), Sense> {
        self.data = data;
        if matches!(self.kind, Kind::Write { .. } | Kind::WriteAndVerify { .. }) {
            // An initiator may have less than its CDB speaks of, but in whole blocks: of a part of one it would be told, in the
            // residual, that it was written.
            if !count(self.data.len()).is_multiple_of(nexus.disk().block) {
                return Err(Sense::INVALID_INFORMATION_UNIT);
            }
        }
        if let Kind::Copy(copy) = &mut self.kind {
            *copy = Some(Copy::parse(&self.data, own(), reach)?);
        }
        if let Kind::Unmap { disk, left } = &mut self.kind {
            *left = Some(unmap_list(*disk, &self.data)?);
        }
        Ok(())
    }

    /// The first step.
    pub(crate) fn start(&mut self, nexus: &Nexus) -> Step {
        if let Kind::ModeSelect { cdb } = &self.kind {
            return mode_select(nexus, cdb, &self.data);
        }
        if let Kind::Reserve { cdb } = &self.kind {
            return reserve(nexus, cdb, &self.data);
        }
        let step = self.next();
        self.noted(nexus, step)
    }

    /// The step after an operation.
    pub(crate) fn go_on(&mut self, nexus: &Nexus, answered: Answered) -> Step {
        let step = match (answered, &mut self.kind) {
            (answered, Kind::Copy(Some(copy))) => copied(copy.took(answered).and_then(|()| copy.next())),
            (Ok(answer), Kind::Status(question)) => Step::Done(question.answer(&stretches(answer))),
            (Err(DeviceError::Unsupported(_)), Kind::Status(question)) => Step::Done(question.answer(&[])),
            (Ok(answer), _) => self.took(answer.into_bytes()),
            (Err(error), _) => Step::Done(failure(&error, self.writes()).into()),
        };
        self.noted(nexus, step)
    }

    /// How a copy ended can be asked for later.
    fn noted(&self, nexus: &Nexus, step: Step) -> Step {
        if let (Kind::Copy(Some(copy)), Step::Done(_)) = (&self.kind, &step) {
            copy.result().into_iter().for_each(|copied| nexus.note_copy(copied));
        }
        step
    }

    fn writes(&self) -> bool {
        !matches!(self.kind, Kind::Read | Kind::Verify { .. } | Kind::Status(_))
    }

    /// The next operation, the results of the ones before noted in `self`.
    fn next(&mut self) -> Step {
        let extent = self.extent;
        match &mut self.kind {
            Kind::Nothing | Kind::ModeSelect { .. } | Kind::Reserve { .. } => Step::Done(Reply::good()),
            Kind::Flush => Step::Submit(Op::Flush),
            Kind::Status(question) => Step::Submit(question.op()),
            Kind::Unmap { left, .. } => match left.as_mut().and_then(VecDeque::pop_front) {
                Some(extent) => Step::Submit(Op::Zero { extent, fua: false, may_trim: true, fast: false }),
                None => Step::Done(Reply::good()),
            },
            Kind::Copy(copy) => copied(copy.as_ref().map_or(Ok(None), Copy::next)),
            _ if extent.is_empty() => Step::Done(Reply::good()),
            Kind::Read
            | Kind::OrWrite { read: false, .. }
            | Kind::CompareAndWrite { compared: false, .. } => Step::Submit(Op::Read { extent }),
            Kind::Write { fua } => write(extent, self.data.clone(), *fua),
            Kind::WriteAndVerify { written: false } => write(extent, self.data.clone(), true),
            Kind::WriteAndVerify { .. } => Step::Submit(Op::Read { extent }),
            Kind::OrWrite { fua, .. } | Kind::CompareAndWrite { fua, .. } => {
                write(extent, self.data.clone(), *fua)
            }
            Kind::Verify { done, .. } => match piece(extent, *done) {
                Some(extent) => Step::Submit(Op::Read { extent }),
                None => Step::Done(Reply::good()),
            },
            Kind::WriteSame { unmap, done } => write_same(extent, &self.data, *unmap, *done),
        }
    }

    /// An operation succeeded with this data.
    fn took(&mut self, data: Bytes) -> Step {
        let whole = index(self.extent.length());
        match &mut self.kind {
            Kind::Read if data.len() != whole => Step::Done(Sense::INTERNAL.into()),
            Kind::Read => Step::Done(Reply { data, ..Reply::good() }),
            Kind::WriteAndVerify { written: written @ false } => {
                *written = true;
                self.next()
            }
            Kind::WriteAndVerify { .. } => {
                let there = data.get(..self.data.len()).unwrap_or_default();
                Step::Done(compare(there, &self.data, 0).map_or_else(Reply::good, Reply::failed))
            }
            Kind::CompareAndWrite { compared: compared @ false, .. } => {
                *compared = true;
                let expected = self.data.split_to(whole.min(self.data.len()));
                match compare(&data, &expected, 0) {
                    Some(sense) => Step::Done(sense.into()),
                    None => self.next(),
                }
            }
            Kind::OrWrite { read: read @ false, .. } => {
                *read = true;
                self.data = data.iter().zip(&self.data).map(|(a, b)| a | b).collect();
                self.next()
            }
            Kind::Verify { check, done } => {
                let at = *done;
                *done += count(data.len()).max(1);
                match checked(*check, at, &data, &self.data) {
                    Some(sense) => Step::Done(sense.into()),
                    None => self.next(),
                }
            }
            Kind::WriteSame { done, .. } => {
                *done += same_piece(self.extent, &self.data, *done).map_or(1, Extent::length);
                self.next()
            }
            Kind::Unmap { .. } => self.next(),
            _ => Step::Done(Reply::good()),
        }
    }
}

/// What comes next of a copy.
fn copied(next: Result<Option<Errand>, Sense>) -> Step {
    match next {
        Ok(Some((device, op))) => Step::Errand(device, op),
        Ok(None) => Step::Done(Reply::good()),
        Err(sense) => Step::Done(sense.into()),
    }
}

/// Of the one map that was asked for.
fn stretches(answer: Answer) -> Vec<Stretch> {
    match answer {
        Answer::Status(maps) => maps.into_iter().next().unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// The length of a parameter list, which is no transfer of data.
fn listed(length: u32) -> Result<u64, Sense> {
    if length > MAX_LIST { Err(Sense::PARAMETER_LENGTH) } else { Ok(u64::from(length)) }
}

fn write(extent: Extent, data: Bytes, fua: bool) -> Step {
    Step::Submit(Op::Write { offset: extent.offset(), data, fua })
}

/// What comes behind the first `done` bytes.
fn piece(extent: Extent, done: u64) -> Option<Extent> {
    let start = extent.offset() + done;
    (start < extent.end()).then(|| Extent::between(start, extent.end().min(start + PIECE)))
}

/// Zeroes go in one operation.
fn same_piece(extent: Extent, pattern: &[u8], done: u64) -> Option<Extent> {
    if is_zero(pattern) { (done == 0).then_some(extent) } else { piece(extent, done) }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&b| b == 0)
}

/// WRITE SAME (SBC-3 section 5.44): a block that unmapped blocks would not read as is written in any case.
fn write_same(extent: Extent, pattern: &Bytes, unmap: bool, done: u64) -> Step {
    let Some(extent) = same_piece(extent, pattern, done) else { return Step::Done(Reply::good()) };
    if is_zero(pattern) {
        return Step::Submit(Op::Zero { extent, fua: false, may_trim: unmap, fast: false });
    }
    let mut data = BytesMut::with_capacity(index(extent.length()));
    while data.len() < index(extent.length()) {
        data.extend_from_slice(pattern);
    }
    write(extent, data.freeze(), false)
}

/// The first difference, as the information field gives it (SBC-3 section 4.16.1).
fn compare(there: &[u8], expected: &[u8], at: u64) -> Option<Sense> {
    if there == expected {
        return None;
    }
    let same = there.iter().zip(expected).take_while(|(a, b)| a == b).count();
    Some(Sense::MISCOMPARE.with_information(at + count(same)))
}

fn checked(check: Check, at: u64, there: &[u8], data: &[u8]) -> Option<Sense> {
    match check {
        Check::Readable => None,
        Check::Whole => {
            let expected = data.get(index(at)..).unwrap_or_default();
            let length = there.len().min(expected.len());
            compare(there.get(..length).unwrap_or_default(), expected.get(..length).unwrap_or_default(), at)
        }
        Check::Repeated(block) => {
            let blocks = there.chunks(index(block)).zip(0_u64..);
            blocks.filter_map(|(there, n)| compare(there, data, at + n * block)).next()
        }
    }
}

/// UNMAP's parameter list (SBC-3 section 5.28.2).
fn unmap_list(disk: Disk, list: &[u8]) -> Result<VecDeque<Extent>, Sense> {
    if list.is_empty() {
        return Ok(VecDeque::new());
    }
    let descriptors = list.get(8..).ok_or(Sense::PARAMETER_LENGTH)?;
    let length = usize::from(be16(list, 2)).min(descriptors.len());
    let descriptors = descriptors.get(..length).unwrap_or_default().as_chunks::<16>().0;
    if descriptors.len() > usize::try_from(MAX_UNMAP_DESCRIPTORS).unwrap_or(0) {
        return Err(Sense::invalid_parameter(2));
    }
    let extents = descriptors.iter().map(|d| disk.listed(be64(d, 0), u64::from(be32(d, 8))));
    let extents: Result<VecDeque<Extent>, Sense> = extents.collect();
    Ok(extents?.into_iter().filter(|extent| !extent.is_empty()).collect())
}

fn mode_select(nexus: &Nexus, cdb: &[u8; 16], list: &[u8]) -> Step {
    // PF set, SP not: pages as the standard has them, none of them saved.
    if cdb[1] & 0x01 != 0 {
        return Step::Done(Sense::invalid_field(1).into());
    }
    Step::Done(match mode::select(nexus.modes(), cdb, list) {
        Ok(modes) => {
            nexus.set_modes(modes);
            Reply::good()
        }
        Err(sense) => sense.into(),
    })
}

fn reserve(nexus: &Nexus, cdb: &[u8; 16], list: &[u8]) -> Step {
    match nexus.change_reservations(&Out { action: cdb[1] & 0x1f, scope_type: cdb[2], list }) {
        Ok(Some(kept)) => Step::Keep(kept),
        Ok(None) => Step::Done(Reply::good()),
        Err(reply) => Step::Done(reply),
    }
}

/// What an initiator is told of a disk's failure.
pub(crate) fn failure(error: &DeviceError, writes: bool) -> Sense {
    match error {
        DeviceError::ReadOnly => Sense::WRITE_PROTECTED,
        DeviceError::OutOfRange { .. } => Sense::OUT_OF_RANGE,
        DeviceError::NoSpace(_) => Sense::NO_SPACE,
        // Nothing is asked for here that a disk may do without.
        DeviceError::Damaged { .. } | DeviceError::Io(_) | DeviceError::Unsupported(_) if writes => {
            Sense::WRITE_ERROR
        }
        DeviceError::Damaged { .. } | DeviceError::Io(_) | DeviceError::Unsupported(_) => Sense::READ_ERROR,
        DeviceError::Stopped => Sense::NOT_READY,
    }
}
