//! The SCSI disk: every command, its limits, and what several initiators see of one another.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::sync::Arc;

use common::*;
use gateway_iscsi::{Access, BlockLength, LogicalUnit};
use tap_block::faulty::{Fault, FaultyDevice};
use tap_block::memory::MemoryDevice;
use tap_block::{BlockDevice, DeviceError, Extent, Geometry, Op, Ticket};

fn ready() -> (Arc<MemoryDevice>, Rig) {
    let (device, _, target) = disk();
    (device, Rig::ready(&target, 1))
}

fn failed(done: &Done) -> (u8, u16) {
    assert_eq!(done.status, CHECK, "{done:?}");
    done.sense.unwrap()
}

const OUT_OF_RANGE: (u8, u16) = (5, 0x2100);
const INVALID: (u8, u16) = (5, 0x2400);

#[test]
fn inquiry_and_every_page_say_who_it_is() {
    let (_, mut rig) = ready();
    let standard = rig.reading(&[0x12, 0, 0, 0, 96, 0], 96).data;
    assert_eq!(
        (standard.len(), standard[0], standard[2], &standard[8..20]),
        (96, 0, 6, &b"CHRONOGTTEST"[..])
    );
    let mut page = |code: u8| {
        let data = rig.reading(&[0x12, 1, code, 1, 0, 0], 256).data;
        assert_eq!((data[1], usize::from(u16::from_be_bytes([data[2], data[3]]))), (code, data.len() - 4));
        data[4..].to_vec()
    };
    let pages = page(0);
    assert_eq!(pages, [0x00, 0x80, 0x83, 0x86, 0x8f, 0xb0, 0xb1, 0xb2]);
    for code in &pages {
        page(*code);
    }
    assert_eq!(page(0x80), b"serial-1");
    let names = page(0x83);
    let naa = 0x6123_4567_89ab_cdef_0123_4567_89ab_cdef_u128.to_be_bytes();
    assert_eq!((&names[..4], &names[4..20]), (&[1, 3, 0, 16][..], &naa[..]));
    let limits = page(0xb0);
    assert_eq!((limits[1], &limits[2..4]), (255, &[0, 8][..]));
    assert_eq!(page(0xb2), [0, 0xe4, 2, 0]);
    assert_eq!(page(0x86)[1], 0x07, "simple, ordered, head of queue");
    for cdb in [[0x12, 1, 0xc7, 0, 96, 0], [0x12, 0, 0x80, 0, 96, 0]] {
        assert_eq!(failed(&rig.reading(&cdb, 96)), INVALID);
    }
}

#[test]
fn a_lun_that_is_not_there_says_so() {
    let (_, mut rig) = ready();
    let to_lun = |rig: &mut Rig, lun: [u8; 2], cdb: &[u8]| {
        let mut header = rig.command_header(cdb, READ | FINAL, 96);
        header[8..10].copy_from_slice(&lun);
        rig.send_unit(header, b"");
        let itt = rig.itt;
        rig.done(itt)
    };
    for lun in [[0, 0], [0, 2], [0x40, 5], [0xc1, 1], [1, 1]] {
        assert_eq!(to_lun(&mut rig, lun, &[0x12, 0, 0, 0, 96, 0]).data[0], 0x7f, "{lun:?}");
        assert_eq!(failed(&to_lun(&mut rig, lun, &[0; 6])), (5, 0x2500));
    }
    let luns = to_lun(&mut rig, [0, 0], &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 96, 0, 0]).data;
    assert_eq!(luns, [0, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(to_lun(&mut rig, [0x40, 1], &[0; 6]).status, GOOD, "the flat form names the same unit");
}

#[test]
fn capacity_of_both_block_lengths_and_a_change_of_it() {
    for (block, last, exponent) in
        [(BlockLength::Short, SIZE / 512 - 1, 3), (BlockLength::Long, SIZE / 4096 - 1, 0)]
    {
        let device = Arc::new(MemoryDevice::new(SIZE));
        let target = target(&LogicalUnit::new(identity(block), device, &[]).unwrap(), Access::Open);
        let mut rig = Rig::ready(&target, 1);
        let long = rig.reading(&cdb16(0x9e, 0x10, 0, 32), 32).data;
        assert_eq!((long[..8].to_vec(), long[13], long[14]), (last.to_be_bytes().to_vec(), exponent, 0xc0));
        let short = rig.reading(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8).data;
        assert_eq!(short[..4], (last as u32).to_be_bytes());
        assert_eq!(u64::from(u32::from_be_bytes(short[4..8].try_into().unwrap())), block.bytes());
    }
    let growing = Arc::new(Growing(std::sync::atomic::AtomicU64::new(4096)));
    let target = target(&unit(growing.clone()), Access::Open);
    let mut rig = Rig::ready(&target, 1);
    assert_eq!(rig.command(&[0; 6], 0, 0, b"").status, GOOD);
    growing.0.store(8192, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(failed(&rig.command(&[0; 6], 0, 0, b"")), (6, 0x2a09));
    assert_eq!(rig.reading(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8).data[3], 15);
}

struct Growing(std::sync::atomic::AtomicU64);

impl BlockDevice for Growing {
    fn geometry(&self) -> Geometry {
        Geometry { size: self.0.load(std::sync::atomic::Ordering::Relaxed), read_only: false }
    }

    fn submit(&self, _: Op, ticket: Ticket) {
        ticket.complete(Err(DeviceError::Stopped));
    }
}

#[test]
fn reads_and_writes_of_every_length() {
    let (device, mut rig) = ready();
    let blocks = (SIZE / 512) as u32;
    for (write, read) in [(0x0a, 0x08), (0x2a, 0x28), (0x8a, 0x88), (0xaa, 0xa8), (0x8e, 0x28), (0x2e, 0x28)]
    {
        let cdb = |opcode: u8, lba: u32, count: u16| match opcode >> 5 {
            0 => vec![opcode, 0, (lba >> 8) as u8, lba as u8, count as u8, 0],
            1 => cdb10(opcode, 0, lba, count).to_vec(),
            4 => cdb16(opcode, 0, u64::from(lba), u32::from(count)).to_vec(),
            _ => [&[opcode, 0][..], &lba.to_be_bytes(), &u32::from(count).to_be_bytes(), &[0, 0]].concat(),
        };
        let data = vec![write; 1024];
        assert_eq!(rig.writing(&cdb(write, blocks - 2, 2), &data), good(b""), "{write:#x}");
        assert_eq!(device.content()[SIZE as usize - 1024..], data);
        assert_eq!(rig.reading(&cdb(read, blocks - 2, 2), 1024), good(&data), "{read:#x}");
        assert_eq!(failed(&rig.writing(&cdb(write, blocks - 1, 2), &data)), OUT_OF_RANGE);
        assert_eq!(failed(&rig.reading(&cdb(read, blocks - 1, 2), 1024)), OUT_OF_RANGE);
        if write != 0x0a {
            assert_eq!(rig.writing(&cdb(write, blocks, 0), b""), good(b""), "nothing at the end is fine");
        }
    }
    assert_eq!(rig.reading(&[8, 0, 0, 0, 0, 0], 256 * 512).data.len(), 256 * 512, "zero stands for 256");
    assert_eq!(failed(&rig.reading(&cdb16(0x88, 0, u64::MAX, 2), 1024)), OUT_OF_RANGE);
    assert_eq!(failed(&rig.reading(&cdb10(0x28, 0x20, 0, 1), 512)), INVALID, "no protection information");
    assert_eq!(failed(&rig.writing(&cdb10(0x2a, 0xe0, 0, 1), &[0; 512])), INVALID);
    assert_eq!(failed(&rig.command(&[0xee, 0, 0, 0, 0, 0], 0, 0, b"")), (5, 0x2000));
}

#[test]
fn force_unit_access_and_synchronize_reach_the_disk() {
    let (_, mut rig) = ready();
    rig.held = true;
    rig.start(&cdb10(0x2a, 0x08, 0, 1), WRITE, 512, &[1; 512]);
    rig.start(&cdb10(0x2a, 0, 0, 1), WRITE, 512, &[1; 512]);
    rig.start(&cdb10(0x35, 0, 0, 0), 0, 0, b"");
    let ops: Vec<&Op> = rig.ops.iter().map(|(_, op, _)| op).collect();
    assert!(
        matches!(ops[..], [Op::Write { fua: true, .. }, Op::Write { fua: false, .. }, Op::Flush]),
        "{ops:?}"
    );
}

#[test]
fn verify_compares_and_says_where_it_differs() {
    let (_, mut rig) = ready();
    let mut data = vec![7; 4 * 512];
    rig.writing(&cdb10(0x2a, 0, 0, 4), &data);
    assert_eq!(rig.writing(&cdb10(0x2f, 0x02, 0, 4), &data), good(b""));
    assert_eq!(rig.writing(&cdb10(0x2f, 0x06, 0, 4), &data[..512]), good(b""), "one block for all");
    assert_eq!(rig.command(&cdb10(0x2f, 0, 0, 4), 0, 0, b""), good(b""));
    data[1500] = 8;
    let differs = rig.writing(&cdb10(0x2f, 0x02, 0, 4), &data);
    assert_eq!((failed(&differs), &differs.sense_data[3..7]), ((0xe, 0x1d00), &1500_u32.to_be_bytes()[..]));
    rig.writing(&cdb10(0x2a, 0, 0, 4), &data);
    let differs = rig.writing(&cdb10(0x2f, 0x06, 0, 4), &[7; 512]);
    assert_eq!(differs.sense_data[3..7], 1500_u32.to_be_bytes());
    assert_eq!(failed(&rig.writing(&cdb10(0x2f, 0x04, 0, 4), &data)), INVALID);
    // Far more than is compared at a time.
    let last = (SIZE / 512) as u32 - 1;
    rig.writing(&cdb10(0x2a, 0, last, 1), &[9; 512]);
    let all = cdb16(0x8f, 0x06, 4, last - 3);
    let differs = rig.writing(&all, &[0; 512]);
    assert_eq!(differs.sense_data[3..7], ((last - 4) * 512).to_be_bytes());
}

#[test]
fn compare_and_write_is_one_step_for_everybody() {
    let (device, _, target) = disk();
    let mut one = Rig::ready(&target, 1);
    let mut two = Rig::ready(&target, 2);
    let swap = |from: u8, to: u8| [vec![from; 512], vec![to; 512]].concat();
    let cdb = |blocks: u8| {
        let mut cdb = cdb16(0x89, 0, 0, 0);
        cdb[13] = blocks;
        cdb
    };
    assert_eq!(one.writing(&cdb(1), &swap(0, 1)), good(b""));
    let lost = two.writing(&cdb(1), &swap(0, 2));
    assert_eq!((failed(&lost), &lost.sense_data[3..7]), ((0xe, 0x1d00), &[0; 4][..]));
    assert_eq!(one.writing(&cdb(0), b""), good(b""));
    assert_eq!(failed(&one.writing(&cdb(1), &[0; 512])), INVALID, "half of what it takes");
    // Both at once, and a plain write: whoever came first is through before the next begins.
    (one.held, two.held) = (true, true);
    let first = one.start(&cdb(1), WRITE, 1024, &swap(1, 5));
    let second = two.start(&cdb(1), WRITE, 1024, &swap(1, 6));
    let third = two.start(&cdb10(0x2a, 0, 0, 1), WRITE, 512, &[7; 512]);
    let elsewhere = two.start(&cdb10(0x2a, 0, 8, 1), WRITE, 512, &[8; 512]);
    assert_eq!((one.ops.len(), two.ops.len()), (1, 1), "only what is elsewhere goes on");
    two.release(0);
    assert_eq!(two.done(elsewhere).status, GOOD);
    one.release(0);
    two.pump();
    assert!(two.ops.is_empty(), "the first has read but not written yet");
    one.release(0);
    assert_eq!(one.done(first).status, GOOD);
    two.pump();
    two.release(0);
    assert_eq!(failed(&two.done(second)), (0xe, 0x1d00));
    two.pump();
    two.release(0);
    assert_eq!((two.done(third).status, device.content()[0]), (GOOD, 7));
}

#[test]
fn or_write_adds_bits() {
    let (device, mut rig) = ready();
    rig.writing(&cdb10(0x2a, 0, 3, 1), &[0x0f; 512]);
    assert_eq!(rig.writing(&cdb16(0x8b, 0, 3, 2), &[0xa0; 1024]), good(b""));
    let content = device.content();
    assert_eq!((content[3 * 512], content[4 * 512]), (0xaf, 0xa0));
}

#[test]
fn write_same_with_a_block_zeroes_or_none() {
    let (device, mut rig) = ready();
    assert_eq!(rig.writing(&cdb16(0x93, 0, 8, 5000), &[3; 512]), good(b""));
    let content = device.content();
    assert!(content[4096..4096 + 5000 * 512].iter().all(|&b| b == 3) && content[4096 + 5000 * 512] == 0);
    assert_eq!(rig.writing(&cdb10(0x41, 0x08, 8, 10), &[0; 512]), good(b""));
    assert_eq!(rig.command(&cdb16(0x93, 0x01, 100, 10), 0, 0, b""), good(b""), "no data: zeroes");
    // Unmapped blocks read as zeroes, so a block that is none has to be written.
    assert_eq!(rig.writing(&cdb10(0x41, 0x08, 200, 2), &[9; 512]), good(b""));
    let content = device.content();
    assert_eq!((content[4096], content[100 * 512], content[200 * 512]), (0, 0, 9));
    let last = SIZE / 512 - 3;
    assert_eq!(
        rig.writing(&cdb16(0x93, 0, last, 0), &[4; 512]),
        good(b""),
        "none stands for all that is left"
    );
    assert_eq!(device.content()[SIZE as usize - 1], 4);
    assert_eq!(failed(&rig.writing(&cdb10(0x41, 0x10, 0, 1), &[0; 512])), INVALID, "no anchors");
    assert_eq!(failed(&rig.writing(&cdb10(0x41, 0, 0, 1), &[0; 1024])), INVALID);
}

fn unmap_list(extents: &[(u64, u32)]) -> Vec<u8> {
    let mut list = vec![0; 8];
    for (lba, count) in extents {
        list.extend_from_slice(&lba.to_be_bytes());
        list.extend_from_slice(&count.to_be_bytes());
        list.extend_from_slice(&[0; 4]);
    }
    let length = list.len() as u16;
    list[..2].copy_from_slice(&(length - 2).to_be_bytes());
    list[2..4].copy_from_slice(&(length - 8).to_be_bytes());
    list
}

#[test]
fn unmapped_blocks_read_as_zeroes() {
    let (device, mut rig) = ready();
    rig.writing(&cdb16(0x93, 0, 0, 100), &[3; 512]);
    let unmap = |rig: &mut Rig, list: &[u8]| {
        let [a, b] = (list.len() as u16).to_be_bytes();
        rig.writing(&[0x42, 0, 0, 0, 0, 0, 0, a, b, 0], list)
    };
    assert_eq!(unmap(&mut rig, &unmap_list(&[(0, 8), (50, 1), (60, 0)])), good(b""));
    let content = device.content();
    assert_eq!([0, 7, 8, 49, 50, 51, 60].map(|block| content[block * 512]), [0, 0, 3, 3, 0, 3, 3]);
    assert_eq!(unmap(&mut rig, b""), good(b""));
    assert_eq!(failed(&unmap(&mut rig, &[0; 4])), (5, 0x1a00));
    assert_eq!(failed(&unmap(&mut rig, &unmap_list(&[(0, 8), (SIZE / 512, 1)]))), OUT_OF_RANGE);
    assert_eq!(device.content(), content, "all or nothing");
    assert_eq!(failed(&unmap(&mut rig, &unmap_list(&[(0, 1); 257]))).1, 0x2600);
}

#[test]
fn the_status_of_blocks_is_what_the_map_says() {
    let (_, mut rig) = ready();
    let status = |rig: &mut Rig, lba: u64, descriptors: u32| {
        let allotted = 8 + 16 * descriptors;
        let data = rig.reading(&cdb16(0x9e, 0x12, lba, allotted), allotted).data;
        let descriptor = |d: &[u8]| (d[7], u32::from_be_bytes(d[8..12].try_into().unwrap()), d[12]);
        data[8..].chunks(16).map(descriptor).collect::<Vec<_>>()
    };
    let all = (SIZE / 512) as u32;
    assert_eq!(status(&mut rig, 0, 1), [(0, all, 1)], "nothing was written");
    rig.writing(&cdb16(0x93, 0, 16, 64), &[3; 512]);
    assert_eq!(status(&mut rig, 0, 9), [(0, 16, 1), (16, 64, 0), (80, all - 80, 1)]);
    assert_eq!(status(&mut rig, 20, 1), [(20, 60, 0)], "from where it was asked for");
    let list = unmap_list(&[(32, 8)]);
    rig.writing(&[0x42, 0, 0, 0, 0, 0, 0, 0, list.len() as u8, 0], &list);
    assert_eq!(status(&mut rig, 16, 2), [(16, 16, 0), (32, 8, 1)]);
    assert_eq!(failed(&rig.reading(&cdb16(0x9e, 0x12, SIZE / 512, 24), 24)), OUT_OF_RANGE);
}

/// An EXTENDED COPY list: the designator, and segments of (blocks, from, to).
fn copy_list(naa: u128, segments: &[(u16, u64, u64)]) -> Vec<u8> {
    let mut list = vec![0; 16 + 32];
    list[0] = 77;
    list[3] = 32;
    list[16] = 0xe4;
    list[20..24].copy_from_slice(&[1, 3, 0, 16]);
    list[24..40].copy_from_slice(&naa.to_be_bytes());
    for (blocks, from, to) in segments {
        let mut segment = vec![2, 0, 0, 24, 0, 0, 0, 0, 0, 0];
        segment.extend_from_slice(&blocks.to_be_bytes());
        segment.extend_from_slice(&from.to_be_bytes());
        segment.extend_from_slice(&to.to_be_bytes());
        list.extend_from_slice(&segment);
    }
    let length = (list.len() - 48) as u32;
    list[8..12].copy_from_slice(&length.to_be_bytes());
    list
}

#[test]
fn copies_within_the_disk() {
    let content: Vec<u8> = (0..SIZE).map(|n| (n / 512 * 7 + n) as u8).collect();
    let device = Arc::new(MemoryDevice::with_content(content.clone()));
    let target = target(&unit(device.clone()), Access::Open);
    let mut rig = Rig::ready(&target, 1);
    let copy = |rig: &mut Rig, list: &[u8]| rig.writing(&cdb16(0x83, 0, 0, list.len() as u32), list);
    let status = cdb16(0x84, 0, 77 << 56, 12);
    assert_eq!(failed(&rig.reading(&status, 12)), INVALID, "no such copy");
    let naa = identity(BlockLength::Short).naa;
    // The second overlaps itself by almost all.
    assert_eq!(copy(&mut rig, &copy_list(naa, &[(10, 0, 100), (5000, 1000, 1001)])), good(b""));
    let mut expected = content;
    expected.copy_within(0..5120, 51200);
    expected.copy_within(1000 * 512..6000 * 512, 1001 * 512);
    assert!(device.content() == expected);
    let done = rig.reading(&status, 12).data;
    assert_eq!((done[4], &done[5..7], &done[8..]), (1, &[0, 2][..], &(5010 * 512_u32).to_be_bytes()[..]));
    assert_eq!(failed(&rig.reading(&status, 12)), INVALID, "told once");
    assert_eq!(failed(&copy(&mut rig, &copy_list(naa + 1, &[(1, 0, 1)]))), (0xa, 0x0804));
    assert_eq!(failed(&copy(&mut rig, &copy_list(naa, &[(1, 5, 9), (2, 0, SIZE / 512 - 1)]))), (0xa, 0));
    assert_eq!(failed(&copy(&mut rig, &copy_list(naa, &[(1, 0, 1); 65]))), (5, 0x2608));
    assert_eq!(failed(&copy(&mut rig, &copy_list(naa, &[])[..40])), (5, 0x1a00));
    assert!(device.content() == expected, "nothing is copied of a list that is wrong");
    assert_eq!(copy(&mut rig, b""), good(b""));
}

/// Shows content at two places, where it is whole kibibytes.
struct Sharing(MemoryDevice, std::sync::Mutex<Vec<Op>>);

impl BlockDevice for Sharing {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn submit(&self, op: Op, ticket: Ticket) {
        self.1.lock().unwrap().push(op.clone());
        match op {
            Op::Copy { from, to } if (from.offset() | from.length() | to) % 1024 == 0 => {
                let data = tap_block::device::run(&self.0, Op::Read { extent: from }).unwrap();
                self.0.submit(Op::Write { offset: to, data, fua: false }, ticket);
            }
            op => self.0.submit(op, ticket),
        }
    }
}

#[test]
fn what_a_disk_can_share_is_not_moved_and_the_rest_is() {
    let content: Vec<u8> = (0..SIZE).map(|n| (n / 512 * 7 + n) as u8).collect();
    let device = Arc::new(Sharing(MemoryDevice::with_content(content.clone()), Default::default()));
    let target = target(&unit(device.clone()), Access::Open);
    let mut rig = Rig::ready(&target, 1);
    let list = copy_list(identity(BlockLength::Short).naa, &[(4000, 0, 8000), (3, 0, 101), (2, 2, 6000)]);
    assert_eq!(rig.writing(&cdb16(0x83, 0, 0, list.len() as u32), &list), good(b""));
    let mut expected = content;
    for (blocks, from, to) in [(4000, 0, 8000), (3, 0, 101), (2, 2, 6000)] {
        expected.copy_within(from * 512..(from + blocks) * 512, to * 512);
    }
    assert!(device.0.content() == expected);
    let done = rig.reading(&cdb16(0x84, 0, 77 << 56, 12), 12).data;
    assert_eq!((done[4], &done[5..7], &done[8..]), (1, &[0, 3][..], &(4005 * 512_u32).to_be_bytes()[..]));
    let ops = device.1.lock().unwrap();
    let kinds = ops.iter().map(|op| match op {
        Op::Copy { .. } => 'c',
        Op::Read { .. } => 'r',
        Op::Write { .. } => 'w',
        _ => '?',
    });
    assert_eq!(kinds.collect::<String>(), "ccrwc", "one at a time, and bytes for one that cannot be shared");
}

#[test]
fn a_copy_of_zeroes_is_zeroes_that_take_no_room() {
    let (_, mut rig) = ready();
    rig.held = true;
    let list = copy_list(identity(BlockLength::Short).naa, &[(16, 0, 100)]);
    rig.start(&cdb16(0x83, 0, 0, list.len() as u32), WRITE, list.len() as u32, &list);
    let (_, op, ticket) = rig.ops.remove(0);
    assert_eq!(op, Op::Copy { from: Extent::between(0, 8192), to: 51_200 });
    ticket.answer(Err(DeviceError::Unsupported(String::new())));
    rig.pump();
    let (_, op, ticket) = rig.ops.remove(0);
    assert_eq!(op, Op::Read { extent: Extent::between(0, 8192) });
    ticket.answer(Ok(tap_block::Answer::Zeroes(8192)));
    rig.pump();
    let extent = Extent::between(51_200, 59_392);
    assert_eq!(rig.ops[0].1, Op::Zero { extent, fua: false, may_trim: true, fast: false });
}

#[test]
fn mode_pages_and_what_can_be_changed() {
    let (_, _, target) = disk();
    let mut one = Rig::ready(&target, 1);
    let mut two = Rig::ready(&target, 2);
    let all = one.reading(&[0x1a, 0x08, 0x3f, 0, 255, 0], 255).data;
    assert_eq!((all.len(), all[0], all[2], all[4], all[6]), (4 + 20 + 12 + 12, 47, 0x10, 0x08, 0x04));
    let long = one.reading(&cdb10(0x5a, 0, 0x3f00_0000, 255), 255).data;
    assert_eq!((long.len(), long[7]), (8 + 8 + 44, 8));
    assert_eq!(failed(&one.reading(&[0x1a, 0, 0xc8, 0, 255, 0], 255)), (5, 0x3900), "nothing is saved");
    let control = one.reading(&[0x1a, 0x08, 0x0a, 0, 255, 0], 255).data;
    assert_eq!(
        (control[6], control[7]),
        (0x20, 0x10),
        "a task set for each nexus; commands may be reordered"
    );
    let mut list = [&[0, 0, 0, 0][..], &control[4..]].concat();
    // D_SENSE and SWP.
    list[6] |= 0x04;
    list[8] |= 0x08;
    assert_eq!(one.writing(&[0x15, 0x10, 0, 0, 16, 0], &list), good(b""));
    assert_eq!(failed(&two.command(&[0; 6], 0, 0, b"")), (6, 0x2a01), "the others are told");
    let refused = two.writing(&cdb10(0x2a, 0, 0, 1), &[1; 512]);
    assert_eq!((failed(&refused), refused.sense_data[0]), ((7, 0x2700), 0x72));
    assert_eq!(two.reading(&[0x1a, 0, 0x0a, 0, 255, 0], 255).data[2], 0x90);
    list[8] &= !0x08;
    list[5 + 4] = 1;
    let wrong = one.writing(&[0x15, 0x10, 0, 0, 16, 0], &list);
    assert_eq!(failed(&wrong), (5, 0x2600), "what cannot be changed");
    assert_eq!(failed(&one.writing(&[0x15, 0x10, 0, 0, 9, 0], &list[..9])), (5, 0x1a00));
}

#[test]
fn a_read_only_disk_refuses_every_write() {
    let device = Arc::new(MemoryDevice::new(SIZE).into_read_only());
    let target = target(&unit(device), Access::Open);
    let mut rig = Rig::ready(&target, 1);
    let mut compare = cdb16(0x89, 0, 0, 0);
    compare[13] = 1;
    for (cdb, length) in [
        (cdb10(0x2a, 0, 0, 1).to_vec(), 512),
        (vec![0x0a, 0, 0, 0, 1, 0], 512),
        (cdb10(0x2e, 0, 0, 1).to_vec(), 512),
        (cdb10(0x41, 0, 0, 1).to_vec(), 512),
        (cdb16(0x8a, 0, 0, 1).to_vec(), 512),
        (cdb16(0x8b, 0, 0, 1).to_vec(), 512),
        (cdb16(0x93, 0, 0, 1).to_vec(), 512),
        (vec![0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], 24),
        (cdb16(0x83, 0, 0, 0).to_vec(), 0),
        (compare.to_vec(), 1024),
    ] {
        assert_eq!(failed(&rig.writing(&cdb, &vec![0; length])), (7, 0x2700), "{:#x}", cdb[0]);
    }
    assert_eq!(rig.reading(&[0x1a, 0, 0x08, 0, 255, 0], 255).data[2] & 0x80, 0x80);
    assert_eq!(rig.command(&cdb10(0x35, 0, 0, 0), 0, 0, b"").status, GOOD);
    assert_eq!(rig.reading(&cdb10(0x28, 0, 0, 1), 512).status, GOOD);
}

#[test]
fn a_disk_that_fails_is_told_in_sense() {
    for (error, read, write) in [
        (DeviceError::Io("gone".to_owned()), (3, 0x1100), (3, 0x0c00)),
        (DeviceError::NoSpace("quota".to_owned()), (7, 0x2707), (7, 0x2707)),
        (DeviceError::Stopped, (2, 0x0400), (2, 0x0400)),
        (
            DeviceError::Damaged { extent: Extent::between(0, 512), detail: "rot".to_owned() },
            (3, 0x1100),
            (3, 0x0c00),
        ),
    ] {
        let broken = FaultyDevice::new(MemoryDevice::new(SIZE), move |_: &Op| Fault::Fail(error.clone()));
        let target = target(&unit(Arc::new(broken)), Access::Open);
        let mut rig = Rig::ready(&target, 1);
        assert_eq!(failed(&rig.reading(&cdb10(0x28, 0, 0, 1), 512)), read);
        assert_eq!(failed(&rig.writing(&cdb10(0x2a, 0, 0, 1), &[1; 512])), write);
    }
}

#[test]
fn what_is_supported_is_reported_and_nothing_else() {
    let (_, mut rig) = ready();
    let all = rig.reading(&[0xa3, 0x0c, 0x80, 0, 0, 0, 0, 0, 0x20, 0, 0, 0], 8192).data;
    let rows: Vec<&[u8]> = all[4..].chunks(20).collect();
    assert!(rows.len() > 45);
    for row in rows {
        let (kind, action) = if row[5] & 1 == 0 { (1, 0) } else { (2, row[3]) };
        let cdb = [0xa3, 0x0c, kind, row[0], 0, action, 0, 0, 1, 0, 0, 0];
        let one = rig.reading(&cdb, 256).data;
        assert_eq!((one[1], one[4], one.len()), (3, row[0], 4 + usize::from(row[7])));
    }
    assert_eq!(rig.reading(&[0xa3, 0x0c, 1, 0x04, 0, 0, 0, 0, 1, 0, 0, 0], 256).data, [0, 1, 0, 0]);
    assert_eq!(failed(&rig.reading(&[0xa3, 0x0c, 1, 0x5e, 0, 0, 0, 0, 1, 0, 0, 0], 256)), INVALID);
    let groups = rig.reading(&[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], 256).data;
    assert_eq!((groups.len(), groups[4]), (16, 0), "one group, active");
}

#[test]
fn reserve_keeps_the_others_out_until_released() {
    let (_, _, target) = disk();
    let mut one = Rig::ready(&target, 1);
    let mut two = Rig::ready(&target, 2);
    let (reserve, release) = ([0x16, 0, 0, 0, 0, 0], [0x17, 0, 0, 0, 0, 0]);
    assert_eq!(one.command(&reserve, 0, 0, b"").status, GOOD);
    assert_eq!(one.command(&reserve, 0, 0, b"").status, GOOD);
    assert_eq!(two.reading(&cdb10(0x28, 0, 0, 1), 512).status, CONFLICT);
    assert_eq!(two.command(&release, 0, 0, b"").status, GOOD, "which changes nothing");
    assert_eq!(two.command(&reserve, 0, 0, b"").status, CONFLICT);
    assert_eq!(two.reading(&[0x12, 0, 0, 0, 96, 0], 96).status, GOOD);
    drop(one);
    assert_eq!(two.command(&reserve, 0, 0, b"").status, GOOD, "a lost nexus holds nothing");
}
