//! What the fuzzer does with any bytes, and the tests with those that it found worth keeping.

use gateway_iscsi::Wants;

use super::*;

/// A unit of the largest kind.
const MOST_WANTED: usize = (256 << 10) + 48 + 1020 + 8;

/// Small: each stream gets a new one.
fn small_disk() -> Arc<Target> {
    target(&unit(Arc::new(MemoryDevice::new(256 << 10))), Access::Open)
}

/// A function of this module by its name, which is that of its file of findings.
pub(crate) fn by_name(name: &str) -> fn(&[u8]) {
    match name {
        "login" => login,
        "session" => session,
        "commands" => commands,
        "copies" => copies,
        _ => panic!("nothing is called {name}"),
    }
}

/// An initiator's first bytes: whatever comes of them, comes of them in pieces of any length.
pub(crate) fn login(bytes: &[u8]) {
    let whole = run(bytes, usize::MAX, Rig::new);
    assert!(whole == run(bytes, 7, Rig::new), "pieces of 7 come to something else");
    assert!(whole == run(bytes, 48, Rig::new), "pieces of 48 come to something else");
}

/// What comes after a login. How many commands are under way at once, and so which are too many, depends on the pieces.
pub(crate) fn session(bytes: &[u8]) {
    for piece in [usize::MAX, 7, 48] {
        run(bytes, piece, |target| Rig::ready(target, 1));
    }
}

/// SCSI commands: of each the direction, the length that is expected, the CDB, and the data that comes with it.
pub(crate) fn commands(bytes: &[u8]) {
    let target = small_disk();
    let (mut rig, mut rest) = (Rig::ready(&target, 1), bytes);
    while let Some((head, tail)) = rest.split_first_chunk::<22>()
        && rig.closed.is_none()
    {
        let (flags, expected) =
            (head[0] & (READ | WRITE), u32::from_be_bytes(head[1..5].try_into().unwrap()));
        let (data, later) = tail.split_at(usize::from(head[21]).min(tail.len()));
        rest = later;
        rig.start(&head[5..21], flags, expected % (1 << 20), if flags & WRITE == 0 { b"" } else { data });
        // Whatever comes is a unit with its digests.
        while rig.try_answer().is_some() {}
    }
}

/// EXTENDED COPY: of each the unit that it is sent to, the length of its parameter list, and the list. Three disks: of short blocks,
/// of long ones, and one that cannot be written.
pub(crate) fn copies(bytes: &[u8]) {
    let disk =
        |no: u8| MemoryDevice::with_content((0..64_u32 << 10).map(|at| (at >> 8) as u8 ^ no).collect());
    let disks = [disk(1), disk(2), disk(3).into_read_only()].map(Arc::new);
    let blocks = [BlockLength::Short, BlockLength::Long, BlockLength::Short];
    let target = serve(&disks.iter().cloned().zip(blocks).collect::<Vec<_>>());
    let content = || disks.iter().map(|disk| disk.content()).collect::<Vec<_>>();
    let (mut rig, mut rest, mut before) = (Rig::ready(&target, 1), bytes, content());
    for lun in 2..=3 {
        rig.lun = lun;
        assert_eq!(rig.command(&[0; 6], 0, 0, b"").status, CHECK, "it is told of the login");
    }
    while let Some((head, tail)) = rest.split_first_chunk::<3>() {
        rig.lun = 1 + head[0] % 3;
        let length = usize::from(u16::from_be_bytes([head[1], head[2]])).min(tail.len());
        let (list, later) = tail.split_at(length);
        rest = later;
        let done = rig.writing(&cdb16(0x83, 0, 0, length as u32), list);
        let after = content();
        assert!(done.status == GOOD || done.sense.is_some(), "{done:?}");
        assert!(after[2] == before[2], "it cannot be written");
        // A list that makes no sense is refused before the first of it is done.
        assert!(after == before || done.sense.is_none_or(|(key, _)| key != 5), "{done:?}");
        before = after;
        let id = u64::from(list.first().copied().unwrap_or_default()) << 56;
        let told = rig.reading(&cdb16(0x84, 0, id, 12), 12);
        assert!(told.status == GOOD || told.sense.is_some(), "{told:?}");
    }
}

/// What comes of a stream in pieces of this length.
fn run(stream: &[u8], piece: usize, rig: impl Fn(&Arc<Target>) -> Rig) -> (BytesMut, Option<CloseReason>) {
    let target = small_disk();
    let mut rig = rig(&target);
    for piece in stream.chunks(piece) {
        rig.send(piece);
        if let Wants::Input(wanted) = rig.connection.wants(&rig.input) {
            assert!(wanted <= MOST_WANTED, "asks for {wanted} bytes");
        }
    }
    (rig.received, rig.closed)
}
