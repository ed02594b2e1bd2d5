//! The same operations by a simple, a structured and an extended client, each against a device that answers in whatever
//! pieces it likes: all three agree with a plain model of the disk, byte for byte and zero for zero.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use bytes::{Buf, Bytes};
use common::*;
use gateway_nbd::Limits;
use proptest::prelude::*;
use tap_block::memory::MemoryDevice;
use tap_block::{Answer, BlockDevice, Geometry, Op, Part};

const SPAN: u64 = 96 << 10;

#[derive(Debug, Clone)]
struct Step {
    command: u16,
    flags: u16,
    offset: u64,
    length: u64,
    fill: u8,
    /// Where the device cuts what it reads.
    cuts: Vec<usize>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let command = prop_oneof![
        5 => Just((READ, 0)),
        1 => Just((READ, DF)),
        4 => Just((WRITE, 0)),
        2 => Just((WRITE_ZEROES, FAST_ZERO)),
        1 => Just((TRIM, FUA)),
        3 => Just((BLOCK_STATUS, 0)),
        1 => Just((BLOCK_STATUS, REQ_ONE)),
    ];
    let place = (0..SPAN + 600, 0..30_000_u64).prop_map(|(offset, length)| match offset % 3 {
        0 => (offset / 4096 * 4096, length / 4096 * 4096),
        _ => (offset, length),
    });
    let one = (command, place, any::<u8>(), prop::collection::vec(1..20_000_usize, 0..5));
    prop::collection::vec(
        one.prop_map(|((command, flags), (offset, length), fill, cuts)| Step {
            command,
            flags,
            offset,
            length,
            fill,
            cuts,
        }),
        1..40,
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Simple,
    Structured,
    Extended,
}

struct Client {
    form: Form,
    rig: Rig,
    disk: MemoryDevice,
}

/// What a client gets to know.
#[derive(Debug, PartialEq, Eq)]
enum Got {
    Done,
    Error(u32),
    Content(Vec<u8>),
    /// Length, and are they known to be zeroes?
    Status(Vec<(u64, bool)>),
}

impl Client {
    fn new(form: Form) -> Self {
        let rig = Rig::with(Limits::default(), Geometry { size: SPAN, read_only: false });
        let rig = match form {
            Form::Simple => rig.ready(),
            Form::Structured => rig.structured(&["base:allocation"]),
            Form::Extended => rig.extended(&["base:allocation"]),
        };
        Self { form, rig, disk: MemoryDevice::new(SPAN) }
    }

    fn run(&mut self, step: &Step) -> Got {
        let data = vec![step.fill; if step.command == WRITE { step.length as usize } else { 0 }];
        let flags = if self.form == Form::Simple { step.flags & !DF } else { step.flags };
        let mut bytes = match (self.form, step.command) {
            (Form::Extended, WRITE) => extended_write(flags, 7, step.offset, &data),
            (Form::Extended, _) => extended_request(flags, step.command, 7, step.offset, step.length),
            _ => request(flags, step.command, 7, step.offset, step.length as u32),
        };
        if self.form != Form::Extended {
            bytes.extend(&data);
        }
        self.rig.send(&bytes);
        if !self.rig.ops.is_empty() {
            let (tag, op) = self.rig.ops.remove(0);
            let is_read = matches!(op, Op::Read { .. });
            let answer = tap_block::device::ask(&self.disk, op).unwrap();
            let answer = if is_read { cut(&answer.into_bytes(), &step.cuts) } else { answer };
            self.rig.server.handle_completion(tag, Ok(answer));
            self.rig.pump();
        }
        let got = match self.form {
            Form::Simple => self.simple(step),
            _ if !self.rig.received.starts_with(&[0x67]) => self.chunks(step),
            _ => self.simple(step),
        };
        assert!(self.rig.received.is_empty() && self.rig.closed.is_none());
        got
    }

    fn simple(&mut self, step: &Step) -> Got {
        assert!(self.form != Form::Extended);
        match self.rig.reply() {
            (OK, 7) if step.command == READ && self.form == Form::Simple => {
                Got::Content(self.rig.received.split_to(step.length as usize).to_vec())
            }
            (OK, 7) if step.command != READ => Got::Done,
            (error, 7) if self.form == Form::Simple => Got::Error(error),
            other => panic!("{other:?}"),
        }
    }

    fn chunks(&mut self, step: &Step) -> Got {
        let mut content = vec![None; step.length as usize];
        let (mut pieces, mut status) = (0, None);
        loop {
            let mut chunk = match self.form {
                Form::Extended => self.rig.extended_chunk(step.offset),
                _ => self.rig.chunk(),
            };
            let last = chunk.last;
            match chunk.kind {
                NONE_CHUNK => assert!(last && chunk.data.is_empty()),
                DATA_CHUNK | HOLE_CHUNK => {
                    let at = (chunk.data.get_u64() - step.offset) as usize;
                    let piece = match chunk.kind {
                        DATA_CHUNK => chunk.data.to_vec(),
                        _ => vec![0; chunk.data.get_u32() as usize],
                    };
                    assert!(!piece.is_empty());
                    for (to, byte) in content[at..at + piece.len()].iter_mut().zip(piece) {
                        assert!(to.replace(byte).is_none(), "no byte comes twice");
                    }
                    pieces += 1;
                }
                STATUS_CHUNK | STATUS_EXT_CHUNK => {
                    let (context, all) = chunk.status();
                    assert_eq!(context, 0);
                    status = Some(all.into_iter().map(|(length, flags)| (length, flags == 3)).collect());
                }
                _ => {
                    assert!(last);
                    return Got::Error(chunk.error().0);
                }
            }
            if last {
                break;
            }
        }
        assert!(step.flags & DF == 0 || pieces <= 1, "don't fragment");
        match step.command {
            READ => Got::Content(content.into_iter().map(|byte| byte.expect("every byte comes")).collect()),
            BLOCK_STATUS => Got::Status(status.expect("a status")),
            _ => Got::Done,
        }
    }
}

/// The content in pieces, those that are zeroes as such.
fn cut(data: &Bytes, cuts: &[usize]) -> Answer {
    let (mut rest, mut parts) = (data.clone(), Vec::new());
    let mut cuts = cuts.iter();
    while !rest.is_empty() {
        let length = cuts.next().copied().unwrap_or(rest.len()).min(rest.len());
        let piece = rest.split_to(length);
        parts.push(match piece.iter().all(|byte| *byte == 0) {
            true => Part::Zeroes(length as u64),
            false => Part::Data(piece),
        });
    }
    match parts.pop() {
        Some(Part::Zeroes(length)) if parts.is_empty() => Answer::Zeroes(length),
        Some(Part::Data(data)) if parts.is_empty() => Answer::Data(data),
        last => {
            parts.extend(last);
            Answer::Parts(parts)
        }
    }
}

/// What must come of it, by the book.
fn expected(step: &Step, model: &mut [u8]) -> Got {
    if step.offset + step.length > SPAN {
        return Got::Error(if matches!(step.command, WRITE | WRITE_ZEROES) { ENOSPC } else { EINVAL });
    }
    let range = step.offset as usize..(step.offset + step.length) as usize;
    match step.command {
        READ => Got::Content(model[range].to_vec()),
        WRITE => {
            model[range].fill(step.fill);
            Got::Done
        }
        BLOCK_STATUS if step.length == 0 => Got::Error(EINVAL),
        BLOCK_STATUS => Got::Status(Vec::new()),
        _ => {
            model[range].fill(0);
            Got::Done
        }
    }
}

fn check_status(step: &Step, told: &[(u64, bool)], model: &[u8]) {
    let mut at = step.offset;
    for (length, zeroes) in told {
        let range = at as usize..(at + length) as usize;
        assert!(*length > 0 && (!zeroes || model[range].iter().all(|byte| *byte == 0)));
        at += length;
    }
    assert!(at <= step.offset + step.length);
    assert!(step.flags & REQ_ONE == 0 || told.len() == 1);
    assert!(step.flags & REQ_ONE != 0 || at == step.offset + step.length, "a small disk is told as a whole");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn all_forms_agree_with_the_model(steps in steps()) {
        for form in [Form::Simple, Form::Structured, Form::Extended] {
            let (mut client, mut model) = (Client::new(form), vec![0; SPAN as usize]);
            for step in steps.iter().filter(|step| form != Form::Simple || step.command != BLOCK_STATUS) {
                let expected = expected(step, &mut model);
                match (client.run(step), expected) {
                    (Got::Status(told), Got::Status(_)) => check_status(step, &told, &model),
                    (got, expected) => prop_assert_eq!(got, expected, "{:?}", step),
                }
            }
            prop_assert_eq!(client.disk.content(), model);
            prop_assert_eq!(client.disk.geometry().size, SPAN);
        }
    }
}
