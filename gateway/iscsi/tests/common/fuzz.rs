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
