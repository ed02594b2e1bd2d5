//! What the fuzzer does with any bytes, and the tests with those that it found worth keeping.

use super::*;

/// Small, so that the limits are met by short streams.
const LIMITS: Limits = Limits { max_payload: 32 << 10, in_flight: 96 << 10 };
/// No message that is not refused needs more at once.
const MOST_WANTED: usize = 64 << 10;

/// A function of this module by its name, which is that of its file of findings.
pub(crate) fn by_name(name: &str) -> fn(&[u8]) {
    match name {
        "handshake" => handshake,
        "transmission" => transmission,
        _ => panic!("nothing is called {name}"),
    }
}

/// A client's first bytes; the very first says whether there is TLS.
pub(crate) fn handshake(bytes: &[u8]) {
    let Some((mode, stream)) = bytes.split_first() else { return };
    match mode % 3 {
        0 => same_however_cut(stream, |limits| Rig::with(limits, GEOMETRY)),
        mode => {
            let tls = if mode == 1 { Tls::Optional } else { Tls::Required };
            let server = Server::with_tls(LIMITS, tls);
            let mut rig = Rig { server, inline: Some(device()), ..Rig::with(LIMITS, GEOMETRY) };
            for piece in stream.chunks(64) {
                feed(&mut rig, piece);
                assert!(tls == Tls::Optional || rig.done.is_empty(), "served in the open");
                if std::mem::take(&mut rig.starting_tls) && rig.closed.is_none() {
                    rig.server.handle_tls_started();
                    if tls == Tls::Required {
                        return;
                    }
                }
            }
        }
    }
}

/// Requests; the first byte says what was agreed on before.
pub(crate) fn transmission(bytes: &[u8]) {
    let Some((mode, stream)) = bytes.split_first() else { return };
    let contexts = ["base:allocation", "qemu:allocation-depth"];
    same_however_cut(stream, |limits| {
        let rig = Rig::with(limits, Geometry { size: DISK, read_only: mode % 8 >= 4 });
        match mode % 4 {
            0 => rig.ready(),
            1 => rig.structured(&[]),
            2 => rig.structured(&contexts),
            _ => rig.extended(&contexts),
        }
    });
}

/// Small: each stream gets a new one.
const DISK: u64 = 128 << 10;
const GEOMETRY: Geometry = Geometry { size: DISK, read_only: false };

/// Whatever comes of a stream, comes of it in pieces of any length.
fn same_however_cut(stream: &[u8], rig: impl Fn(Limits) -> Rig) {
    let run = |piece: usize| {
        let mut rig = Rig { inline: Some(MemoryDevice::new(DISK)), ..rig(LIMITS) };
        stream.chunks(piece).for_each(|piece| feed(&mut rig, piece));
        (rig.done, rig.received, rig.closed)
    };
    let whole = run(usize::MAX);
    assert!(whole == run(7), "pieces of 7 come to something else");
    assert!(whole == run(28), "pieces of 28 come to something else");
}

/// Until nothing more comes of it.
fn feed(rig: &mut Rig, piece: &[u8]) {
    rig.send(piece);
    loop {
        let before = (rig.received.len(), rig.done.len(), rig.input.len());
        rig.pump();
        if before == (rig.received.len(), rig.done.len(), rig.input.len()) {
            break;
        }
    }
    if let Wants::Input(wanted) = rig.server.wants(&rig.input) {
        assert!(wanted <= MOST_WANTED, "asks for {wanted} bytes");
    }
}
