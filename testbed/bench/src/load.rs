//! The load generator: connections of one thread each that keep so many requests in flight.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tap_block::units::{count, index};
use testbed_model::Random;

use crate::payload::{Mix, Payload};
use crate::socket::Stream;

/// Room for the largest unit of any protocol.
const LEAST_INPUT: usize = 1 << 20;
/// No protocol has more before the data of one answer.
const ANSWER_HEAD: usize = 64;

/// Requests that a connection keeps in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Depth(pub(crate) usize);

/// Read or write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Read.
    Read,
    /// Write half-compressible, stamped blocks.
    Write,
    /// The same, each durable before it is answered.
    DurableWrite,
}

/// In which order blocks are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Uniformly random, until the time is over.
    Random,
    /// One after the other, once from the first to the last, if there is time for all.
    Sequential,
}

/// What to do. Offsets are multiples of `block` below `span`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) kind: Kind,
    pub(crate) order: Order,
    pub(crate) block: usize,
    pub(crate) depth: Depth,
    pub(crate) connections: u32,
    pub(crate) span: u64,
    pub(crate) time: Duration,
    pub(crate) seed: u64,
}

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) ops: u64,
    /// From the first request to the last reply.
    pub(crate) elapsed: Duration,
    pub(crate) waits: Vec<Duration>,
}

/// A disk that a load can be put on.
pub(crate) trait Served: Sync {
    /// A new connection.
    fn connect(&self) -> Result<Box<dyn Wire>>;
}

/// A connection, as the load sees it: a protocol's requests and answers.
pub(crate) trait Wire: Send {
    fn stream(&mut self) -> &mut Stream;
    /// Bytes of the disk.
    fn size(&self) -> u64;
    /// Adds a request to `out`.
    fn ask(&mut self, out: &mut Vec<u8>, request: &Request, content: &mut Payload) -> Result<()>;
    /// Takes one unit off the front of `input`, if it is whole; what has to be said to it goes to `out`.
    fn take(&mut self, input: &[u8], out: &mut Vec<u8>, content: &mut Payload) -> Result<Option<Taken>>;
    /// Says goodbye.
    fn close(self: Box<Self>) -> Result<()>;
}

/// A request of a load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) kind: Kind,
    /// Its answer has the same.
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) length: usize,
}

/// A unit that was taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    pub(crate) length: usize,
    /// The request that it ends.
    pub(crate) done: Option<u64>,
}

impl Load {
    /// In words.
    pub(crate) fn describe(&self) -> String {
        let kind = match self.kind {
            Kind::Read => "reads",
            Kind::Write => "writes",
            Kind::DurableWrite => "durable writes (FUA)",
        };
        let order = if self.order == Order::Random { "random" } else { "sequential" };
        format!(
            "{order} {kind} of {} KiB, depth {} on {} connection(s), {:.1} s over {} MiB",
            self.block >> 10,
            self.depth.0,
            self.connections,
            self.time.as_secs_f64(),
            self.span >> 20
        )
    }

    /// Does it.
    pub(crate) fn run(&self, disk: &dyn Served) -> Result<Done> {
        let clients: Vec<Box<dyn Wire>> =
            (0..self.connections).map(|_| disk.connect()).collect::<Result<_>>()?;
        let begun = Instant::now();
        let parts: Vec<Result<Vec<Duration>>> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0u64..).zip(clients).map(|(n, c)| scope.spawn(move || self.drive(c, n))).collect();
            threads.into_iter().map(|t| t.join().unwrap_or_else(|_| bail!("a load thread died"))).collect()
        });
        let elapsed = begun.elapsed();
        let waits: Vec<Duration> = parts.into_iter().collect::<Result<Vec<_>>>()?.concat();
        Ok(Done { ops: count(waits.len()), elapsed, waits })
    }

    fn drive(&self, client: Box<dyn Wire>, number: u64) -> Result<Vec<Duration>> {
        let room = client.size() / count(self.block);
        let blocks = (self.span / count(self.block)).min(room);
        ensure!(blocks > 0, "the export is smaller than a block");
        Connection {
            load: *self,
            client,
            blocks,
            next: 0,
            random: Random::new(self.seed.wrapping_add(number).wrapping_mul(7919)),
            payload: Payload::new(Mix::Half, self.seed ^ number),
            slots: vec![None; self.depth.0],
            out: Vec::new(),
            input: vec![0; LEAST_INPUT.max((self.block + ANSWER_HEAD) * self.depth.0.max(2))],
            filled: 0,
            waits: Vec::new(),
        }
        .run()
    }
}

/// One connection at work.
struct Connection {
    load: Load,
    client: Box<dyn Wire>,
    blocks: u64,
    /// The next in order, of sequential ones.
    next: u64,
    random: Random,
    payload: Payload,
    /// When the request with this cookie was sent; `None` for a free one.
    slots: Vec<Option<Instant>>,
    out: Vec<u8>,
    input: Vec<u8>,
    filled: usize,
    waits: Vec<Duration>,
}

impl Connection {
    fn run(mut self) -> Result<Vec<Duration>> {
        let end = Instant::now() + self.load.time;
        loop {
            if Instant::now() < end && self.next < self.blocks {
                self.send()?;
            } else if self.slots.iter().all(Option::is_none) {
                break;
            }
            self.receive()?;
        }
        self.client.close()?;
        Ok(self.waits)
    }

    /// A request for every free slot, all in one write. Replies are short or requests are, so neither side
    /// can wait for the other for ever.
    fn send(&mut self) -> Result<()> {
        self.out.clear();
        for slot in 0..self.slots.len() {
            if self.slots.get(slot).is_some_and(Option::is_none)
                && let Some(block) = self.next_block()
            {
                self.add_request(slot, block * count(self.load.block))?;
            }
        }
        Ok(self.client.stream().write_all(&self.out)?)
    }

    fn next_block(&mut self) -> Option<u64> {
        match self.load.order {
            Order::Random => Some(self.random.below(self.blocks)),
            Order::Sequential => {
                let next = (self.next < self.blocks).then_some(self.next)?;
                self.next += 1;
                Some(next)
            }
        }
    }

    fn add_request(&mut self, slot: usize, offset: u64) -> Result<()> {
        let Load { kind, block: length, .. } = self.load;
        let request = Request { kind, cookie: count(slot), offset, length };
        self.client.ask(&mut self.out, &request, &mut self.payload)?;
        if let Some(free) = self.slots.get_mut(slot) {
            *free = Some(Instant::now());
        }
        Ok(())
    }

    /// Waits for at least some bytes and takes every whole reply.
    fn receive(&mut self) -> Result<()> {
        let room = self.input.get_mut(self.filled..).unwrap_or_default();
        let got = self.client.stream().read(room).context("waiting for a reply")?;
        ensure!(got > 0, "the server closed the connection");
        self.filled += got;
        self.out.clear();
        let mut used = 0;
        while let Some(taken) = self.take_unit(used)? {
            used += taken;
        }
        self.input.copy_within(used..self.filled, 0);
        self.filled -= used;
        if self.out.is_empty() {
            return Ok(());
        }
        Ok(self.client.stream().write_all(&self.out)?)
    }

    /// The length of the unit at `from`, when it is whole.
    fn take_unit(&mut self, from: usize) -> Result<Option<usize>> {
        let there = self.input.get(from..self.filled).unwrap_or_default();
        let Some(taken) = self.client.take(there, &mut self.out, &mut self.payload)? else { return Ok(None) };
        if let Some(cookie) = taken.done {
            let slot = self.slots.get_mut(index(cookie)).and_then(Option::take);
            self.waits.push(slot.context("a reply to nothing")?.elapsed());
        }
        Ok(Some(taken.length))
    }
}
