//! The profile of a tap: each operation of its guests once, in order of time, with samples of what they write; into a file,
//! and to whoever connects.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use analyzer_profile::cgp::{Found, Reader, Record};
use analyzer_profile::{Kind, Profile};
use cx_link::{Address, Hub};
use gateway_front::ListenAddress;
use nbd::client::NbdClient;
use tap_agent::{Limits, ProfileTo, Protect, Tap, TapConfig};

const SIZE: u64 = 8 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

fn tap(dir: &Path, profile: ProfileTo) -> Tap {
    let disk = dir.join("disk");
    std::fs::File::create(&disk).unwrap().set_len(SIZE).unwrap();
    Tap::start(TapConfig {
        data: dir.to_owned(),
        protect: vec![Protect { name: "web01".parse().unwrap(), path: disk }],
        listen: vec![ListenAddress::Unix(dir.join("tap.sock"))],
        nbd_limits: gateway_front::Limits::default(),
        security: gateway_front::Security::default(),
        iscsi: Vec::new(),
        admission: gateway_iscsi::Admission::default(),
        // Nobody is there: a guest's write does not wait for a CX.
        cx: Address::Memory("nobody".to_owned()),
        hub: Hub::new(),
        limits: Limits::default(),
        groups: Vec::new(),
        group_interval: Duration::from_secs(1),
        profile: Some(profile),
    })
    .unwrap()
}

/// Half of the blocks shrink, half are zeroes.
fn write(dir: &Path, blocks: u64) {
    let mut stream = UnixStream::connect(dir.join("tap.sock")).unwrap();
    let export = nbd::client::handshake(&mut stream, b"web01").unwrap();
    let mut guest = NbdClient::new(stream, &export);
    for n in 0..blocks {
        guest.seek(SeekFrom::Start(n * 8192 % SIZE)).unwrap();
        let (value, other) = (1 + u8::try_from(n % 200).unwrap(), 0);
        guest.write_all(&[[value; 4096], [other; 4096]].concat()).unwrap();
    }
    guest.seek(SeekFrom::Start(0)).unwrap();
    guest.read_exact(&mut [0; 4096]).unwrap();
}

/// Reads until so many operations were told, with the samples of their content.
fn listen(stream: &mut UnixStream, operations: usize) -> Vec<Record> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut reader, mut records, mut buffer) = (Reader::default(), Vec::new(), vec![0; 65536]);
    let count = |records: &[Record]| -> usize {
        records.iter().map(|r| if let Record::Events(e) = r { e.len() } else { 0 }).sum()
    };
    // Two blocks of each write; when they are told beside which operations nobody says.
    let sampled = |records: &[Record]| {
        let mut profile = Profile::new(&[]);
        records.iter().cloned().for_each(|record| profile.take(record));
        profile.contents.blocks() >= 2 * (operations as u64 - 1)
    };
    while count(&records) < operations || !sampled(&records) {
        let n = stream.read(&mut buffer).unwrap();
        assert!(n > 0, "it ended after {records:?}");
        reader.push(&buffer[..n]);
        while let Some(found) = reader.next(false).unwrap() {
            let Found::Record(record) = found else { panic!("{found:?}") };
            records.push(record);
        }
    }
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_connects_is_told_everything_once() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("profile.sock");
    let tap = tap(dir.path(), ProfileTo::Unix(socket.clone()));
    // Written while nobody listens: told to nobody.
    write(dir.path(), 10);
    for round in 1..=2 {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let first = listen_for_source(&mut stream);
        assert!(matches!(first, Record::Source(_)), "{first:?}");
        let mut second = UnixStream::connect(&socket).unwrap();
        second.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(second.read(&mut [0; 8]).unwrap(), 0, "one at a time");
        write(dir.path(), 500);
        let records = listen(&mut stream, 501);
        let events: Vec<_> = records
            .iter()
            .filter_map(|r| if let Record::Events(e) = r { Some(e) } else { None })
            .flatten()
            .collect();
        let writes = events.iter().filter(|e| e.kind == Kind::Write);
        assert_eq!(
            (writes.clone().count(), writes.map(|e| e.length).sum()),
            (500, 500 * 8192),
            "round {round}"
        );
        assert_eq!(events.iter().filter(|e| e.kind == Kind::Read).count(), 1);
        assert!(events.is_sorted_by_key(|e| e.at));
        let mut profile = Profile::new(&[]);
        records.into_iter().for_each(|record| profile.take(record));
        assert_eq!(
            (profile.contents.blocks(), profile.contents.zeroes(), profile.losses.events),
            (1000, 500, 0)
        );
    }
    tap.stop(Duration::from_secs(5)).await;
    assert!(!socket.exists());
}

/// The frame that a reader hears first, so that the tap has noticed it.
fn listen_for_source(stream: &mut UnixStream) -> Record {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut reader, mut byte) = (Reader::default(), [0]);
    loop {
        stream.read_exact(&mut byte).unwrap();
        reader.push(&byte);
        match reader.next(false).unwrap() {
            Some(Found::Record(record)) => return record,
            Some(other) => panic!("{other:?}"),
            None => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_holds_all_of_it_over_runs() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.cgp");
    for _ in 0..2 {
        let tap = tap(dir.path(), ProfileTo::File(file.clone()));
        write(dir.path(), 300);
        tap.stop(Duration::from_secs(5)).await;
    }
    let (mut reader, mut profile) = (Reader::default(), Profile::new(&[]));
    reader.push(&std::fs::read(&file).unwrap());
    while let Some(found) = reader.next(true).unwrap() {
        let Found::Record(record) = found else { panic!("{found:?}") };
        profile.take(record);
    }
    assert_eq!((profile.writes.count, profile.reads.count, profile.sources.len()), (600, 2, 2));
    assert_eq!((profile.contents.blocks(), profile.contents.zeroes()), (1200, 600));
    assert_eq!(profile.devices.values().collect::<Vec<_>>(), ["web01"]);
}
