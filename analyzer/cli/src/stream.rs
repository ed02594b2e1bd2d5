//! Several files as one stream of records in order of time: processors of one blktrace, hosts of one profile, hours of one
//! trace.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use analyzer_profile::cgp::{Clock, EVENTS_PER_FRAME, Found, Mode, Reader, Record, Source};
use analyzer_profile::import::{Action, Completion, Format, Importer, Latencies, PREFIX};
use analyzer_profile::{At, DeviceNo, Event};
use tap_block::units::count;

use crate::failure::{Failure, say};
use crate::input;

/// How much is read at once.
const PIECE: usize = 1 << 20;

/// How long the end of an I/O is looked for.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a file has next.
enum Piece {
    Record(Record),
    /// Ends of I/Os, which may have begun in another file.
    Ends(Vec<Completion>),
}

/// One file.
pub(crate) struct Stream {
    path: PathBuf,
    input: Box<dyn Read>,
    /// Bytes that were read to tell the format.
    prefix: Vec<u8>,
    parser: Parser,
    ready: VecDeque<Piece>,
    ended: bool,
    /// Are the devices of an import told already?
    told: usize,
}

enum Parser {
    Import(Box<Importer>),
    Profile(Reader),
}

impl Stream {
    /// Opens a trace or a profile; the format is told by its content unless it is given.
    ///
    /// # Errors
    /// It cannot be read, or is neither.
    pub(crate) fn open(path: &Path, format: Option<Format>) -> Result<Self, Failure> {
        let mut input = input::open(path)?;
        let mut prefix = Vec::new();
        let read = (&mut input).take(count(PREFIX)).read_to_end(&mut prefix);
        // An archive that was cut off is worth its beginning; reading on meets the same end and says so.
        read.map(drop).or_else(|e| if prefix.is_empty() { Err(unreadable(path, &e)) } else { Ok(()) })?;
        let mut ready = VecDeque::new();
        let parser = if prefix.starts_with(b"cgpf") {
            Parser::Profile(Reader::default())
        } else {
            let importer = match format {
                Some(format) => Importer::of(format, &prefix),
                None => Importer::detect(&prefix).map_err(|why| {
                    Failure::new(format!("{} is not imported", path.display()))
                        .because(why)
                        .fix("give --format if it is one of these all the same")
                })?,
            };
            ready.push_back(Piece::Record(Record::Source(Source {
                clock: importer.format().clock(),
                mode: Mode::Import,
                host: String::new(),
                origin: importer.format().name().to_owned(),
            })));
            Parser::Import(Box::new(importer))
        };
        Ok(Self { path: path.to_owned(), input, prefix, parser, ready, ended: false, told: 0 })
    }

    /// What comes next; `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read on.
    fn next(&mut self) -> Result<Option<Piece>, Failure> {
        while self.ready.is_empty() && !self.ended {
            let bytes = self.piece()?;
            self.ended = bytes.is_empty();
            self.parse(&bytes)?;
        }
        Ok(self.ready.pop_front())
    }

    fn piece(&mut self) -> Result<Vec<u8>, Failure> {
        if !self.prefix.is_empty() {
            return Ok(std::mem::take(&mut self.prefix));
        }
        let mut bytes = vec![0; PIECE];
        let read = self.input.read(&mut bytes);
        match read {
            Ok(n) => bytes.truncate(n),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => return self.piece(),
            // What was read so far is good; a cut archive is worth its beginning.
            Err(e) => {
                say(&format!(
                    "warning: {} cannot be read to its end: {e}; what came before is used",
                    self.path.display()
                ));
                bytes.clear();
            }
        }
        Ok(bytes)
    }

    fn parse(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match &mut self.parser {
            Parser::Profile(reader) => {
                reader.push(bytes);
                let newer = |e| Failure::new(format!("{} cannot be read", self.path.display())).because(e);
                while let Some(found) = reader.next(self.ended).map_err(newer)? {
                    match found {
                        Found::Record(record) => self.ready.push_back(Piece::Record(record)),
                        Found::Lost(lost) => say(&format!(
                            "warning: {lost} bytes of {} are damaged or cut off; the rest is used",
                            self.path.display()
                        )),
                        Found::Unknown(kind) => say(&format!(
                            "warning: {} has frames of kind {kind}, which a newer analyzer knows; they are left out",
                            self.path.display()
                        )),
                    }
                }
            }
            Parser::Import(_) => self.import(bytes),
        }
        Ok(())
    }

    fn import(&mut self, bytes: &[u8]) {
        let Parser::Import(importer) = &mut self.parser else { return };
        let mut events = Vec::with_capacity(EVENTS_PER_FRAME);
        if self.ended {
            importer.finish(&mut events);
        } else {
            importer.push(bytes, &mut events);
        }
        for (number, name) in importer.devices().iter().enumerate().skip(self.told) {
            let device = DeviceNo::new(u32::try_from(number).unwrap_or(u32::MAX));
            self.ready.push_back(Piece::Record(Record::Device { device, name: name.clone() }));
        }
        self.told = importer.devices().len();
        if !events.is_empty() {
            self.ready.push_back(Piece::Record(Record::Events(events)));
        }
        let ends = importer.completions();
        if !ends.is_empty() {
            self.ready.push_back(Piece::Ends(ends));
        }
        if self.ended {
            self.ready.push_back(Piece::Record(Record::Tally(importer.tally())));
            warn_of_rejected(&self.path, importer);
        }
    }
}

fn unreadable(path: &Path, e: &std::io::Error) -> Failure {
    Failure::new(format!("cannot read {}", path.display())).because(e).fix("is it damaged, or cut off?")
}

fn warn_of_rejected(path: &Path, importer: &Importer) {
    let tally = importer.tally();
    if tally.rejected == 0 {
        return;
    }
    let binary = importer.format().is_binary();
    let place = |place: u64| if binary { format!("byte {place}") } else { format!("line {place}") };
    let first: Vec<String> =
        importer.rejected().iter().map(|r| format!("{}: {}", place(r.place), r.why)).collect();
    let mixed = if tally.rejected > tally.accepted {
        "; most of it: is it another format, or a mixture?"
    } else {
        ""
    };
    say(&format!(
        "warning: {}: {} of {} rejected as {}{mixed} ({})",
        path.display(),
        tally.rejected,
        tally.rejected + tally.accepted,
        importer.format().name(),
        first.join("; "),
    ));
}

/// Several streams as one.
pub(crate) struct Merged {
    streams: Vec<Stream>,
    /// What each stream has next that has a time; reversed, so that the earliest is on top.
    heads: BinaryHeap<Reverse<(At, usize)>>,
    timed: Vec<Timed>,
    devices: Devices,
    ready: VecDeque<Record>,
    clocks: Vec<Clock>,
    /// I/Os that wait for their ends, where the files tell these.
    latencies: Option<Latencies>,
}

/// The processor that completes an I/O need not be the one that submitted it: all files of a blktrace count the same stage.
/// Are ends of I/Os told apart from it?
fn agree_on_a_stage(streams: &mut [Stream]) -> bool {
    let importers =
        || streams.iter().filter_map(|s| if let Parser::Import(i) = &s.parser { Some(i) } else { None });
    let Some(stage) = importers().filter_map(|i| i.counted()).min() else { return false };
    let ends = stage != Action::Complete && importers().any(|i| i.has_completions());
    for stream in streams {
        if let Parser::Import(importer) = &mut stream.parser {
            importer.count(stage);
            if ends {
                importer.keep_completions();
            }
        }
    }
    ends
}

/// What has a time, of one stream.
enum Timed {
    Events(std::vec::IntoIter<Event>),
    Ends(std::vec::IntoIter<Completion>),
    Counters(Record),
    Ended,
}

impl Timed {
    fn at(&self) -> Option<At> {
        match self {
            Self::Events(events) => events.as_slice().first().map(|e| e.at),
            Self::Ends(ends) => ends.as_slice().first().map(|e| e.at),
            Self::Counters(Record::Counters { at, .. }) => Some(*at),
            Self::Counters(_) | Self::Ended => None,
        }
    }
}

/// Numbers for devices over all streams: those of one name in one clock's world are still two when they come from two
/// profiles, but one when they come from two files of an import (processors, hours).
#[derive(Default)]
struct Devices {
    numbers: HashMap<(usize, DeviceNo), DeviceNo>,
    by_name: HashMap<(Option<usize>, String), DeviceNo>,
}

impl Devices {
    fn declare(&mut self, stream: usize, imported: bool, device: DeviceNo, name: &str) -> (DeviceNo, bool) {
        let next = DeviceNo::new(u32::try_from(self.by_name.len()).unwrap_or(u32::MAX));
        let key = ((!imported).then_some(stream), name.to_owned());
        let new = !self.by_name.contains_key(&key);
        let number = *self.by_name.entry(key).or_insert(next);
        self.numbers.insert((stream, device), number);
        (number, new)
    }

    fn number(&self, stream: usize, device: DeviceNo) -> DeviceNo {
        self.numbers.get(&(stream, device)).copied().unwrap_or(device)
    }
}

impl Merged {
    /// Opens all of them.
    ///
    /// # Errors
    /// One cannot be read, or their clocks have nothing to do with each other.
    pub(crate) fn open(paths: &[PathBuf], format: Option<Format>) -> Result<Self, Failure> {
        let mut streams =
            paths.iter().map(|path| Stream::open(path, format)).collect::<Result<Vec<_>, _>>()?;
        let latencies = agree_on_a_stage(&mut streams).then(|| Latencies::new(PATIENCE));
        let timed = streams.iter().map(|_| Timed::Ended).collect();
        let (devices, ready) = (Devices::default(), VecDeque::new());
        let mut merged =
            Self { timed, streams, heads: BinaryHeap::new(), devices, ready, clocks: Vec::new(), latencies };
        for stream in 0..paths.len() {
            merged.refill(stream)?;
        }
        if merged.clocks.iter().any(|c| Some(c) != merged.clocks.first()) {
            return Err(Failure::new("these files cannot be joined")
                .because("some count time from 1970, others from a start of their own")
                .fix("import the others with --start TIME"));
        }
        Ok(merged)
    }

    /// The next record, in order of time.
    ///
    /// # Errors
    /// A file cannot be read on.
    pub(crate) fn next(&mut self) -> Result<Option<Record>, Failure> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Ok(Some(record));
            }
            let Some(Reverse((_, stream))) = self.heads.pop() else { return Ok(self.rest()) };
            // Up to this time the stream may go on alone.
            let until = self.heads.peek().map(|Reverse((at, _))| *at);
            let timed = self.timed.get_mut(stream).map(|t| std::mem::replace(t, Timed::Ended));
            match timed {
                Some(Timed::Events(events)) => self.run(stream, events, until)?,
                Some(Timed::Ends(ends)) => self.end(stream, ends, until)?,
                Some(Timed::Counters(record)) => {
                    self.ready.push_back(record);
                    self.refill(stream)?;
                }
                Some(Timed::Ended) | None => {}
            }
        }
    }

    /// At the end of all files: the I/Os whose end was not told.
    fn rest(&mut self) -> Option<Record> {
        let mut rest = Vec::new();
        self.latencies.take()?.release_all(&mut rest);
        (!rest.is_empty()).then_some(Record::Events(rest))
    }

    /// Passes on the events of a stream up to a time, one frame of them at most.
    fn run(
        &mut self,
        stream: usize,
        mut events: std::vec::IntoIter<Event>,
        until: Option<At>,
    ) -> Result<(), Failure> {
        let slice = events.as_slice();
        let sure = slice.iter().take(EVENTS_PER_FRAME);
        let n = sure.take_while(|e| until.is_none_or(|until| e.at <= until)).count().max(1);
        let batch: Vec<Event> = events.by_ref().take(n).collect();
        self.pass(batch);
        if events.as_slice().is_empty() {
            return self.refill(stream);
        }
        self.hold(stream, Timed::Events(events));
        Ok(())
    }

    /// On to whoever asked, or to wait for its ends.
    fn pass(&mut self, mut batch: Vec<Event>) {
        if let Some(latencies) = &mut self.latencies {
            batch.drain(..).for_each(|event| latencies.submit(event));
            latencies.release(&mut batch);
        }
        if !batch.is_empty() {
            self.ready.push_back(Record::Events(batch));
        }
    }

    /// Takes the ends of a stream up to a time.
    fn end(
        &mut self,
        stream: usize,
        mut ends: std::vec::IntoIter<Completion>,
        until: Option<At>,
    ) -> Result<(), Failure> {
        let sure = ends.as_slice().iter().take_while(|e| until.is_none_or(|until| e.at <= until));
        let n = sure.count().max(1);
        let numbered: Vec<Completion> = ends
            .by_ref()
            .take(n)
            .map(|end| Completion { device: self.devices.number(stream, end.device), ..end })
            .collect();
        if let Some(latencies) = &mut self.latencies {
            numbered.iter().for_each(|end| latencies.complete(end));
        }
        self.pass(Vec::new());
        if ends.as_slice().is_empty() {
            return self.refill(stream);
        }
        self.hold(stream, Timed::Ends(ends));
        Ok(())
    }

    /// Reads on in a stream until it has something with a time.
    fn refill(&mut self, stream: usize) -> Result<(), Failure> {
        loop {
            let Some(source) = self.streams.get_mut(stream) else { return Ok(()) };
            let imported = matches!(source.parser, Parser::Import(_));
            match source.next()? {
                None => return Ok(()),
                Some(Piece::Ends(ends)) => {
                    self.hold(stream, Timed::Ends(ends.into_iter()));
                    return Ok(());
                }
                Some(Piece::Record(record)) => {
                    if self.take(stream, imported, record) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Takes a record of a stream; `true` when it has a time, so that it waits for its turn.
    fn take(&mut self, stream: usize, imported: bool, record: Record) -> bool {
        match record {
            Record::Events(events) if events.is_empty() => {}
            Record::Events(mut events) => {
                self.renumber(stream, &mut events);
                self.hold(stream, Timed::Events(events.into_iter()));
                return true;
            }
            Record::Counters { at, device, bin } => {
                let device = self.devices.number(stream, device);
                self.hold(stream, Timed::Counters(Record::Counters { at, device, bin }));
                return true;
            }
            Record::Device { device, name } => {
                let (device, new) = self.devices.declare(stream, imported, device, &name);
                if new {
                    self.ready.push_back(Record::Device { device, name });
                }
            }
            Record::Content(mut content) => {
                content.device = self.devices.number(stream, content.device);
                self.ready.push_back(Record::Content(content));
            }
            Record::Source(source) => self.source(source),
            other => self.ready.push_back(other),
        }
        false
    }

    /// Files of one trace are one source.
    fn source(&mut self, source: Source) {
        self.clocks.push(source.clock);
        let record = Record::Source(source);
        if !self.ready.contains(&record) {
            self.ready.push_back(record);
        }
    }

    fn renumber(&self, stream: usize, events: &mut [Event]) {
        let mut last = None;
        for event in events {
            let number = match last {
                Some((device, number)) if device == event.device => number,
                _ => self.devices.number(stream, event.device),
            };
            last = Some((event.device, number));
            event.device = number;
        }
    }

    fn hold(&mut self, stream: usize, timed: Timed) {
        if let (Some(at), Some(slot)) = (timed.at(), self.timed.get_mut(stream)) {
            *slot = timed;
            self.heads.push(Reverse((at, stream)));
        }
    }
}
