//! A guest that writes what a seed decides and remembers what it may expect to find.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Result, ensure};
use testbed_model::Random;

use crate::nbd::{Client, Request};

const SECTOR: u64 = 512;

/// Many writes in flight over one connection.
pub struct Writer {
    client: Client,
    random: Random,
    /// What the disk must hold, but for what is in flight.
    model: Vec<u8>,
    flying: BTreeMap<u64, Request>,
    /// Requests answered.
    done: u64,
}

impl Writer {
    /// A writer to the disk behind `uri`, which holds `content` now.
    ///
    /// # Errors
    /// When the disk cannot be opened or has another size.
    pub fn open(uri: &str, content: Vec<u8>, seed: u64) -> Result<Self> {
        let client = Client::connect(uri)?;
        ensure!(client.size() == u64::try_from(content.len())?, "{uri} has {} bytes", client.size());
        Ok(Self { client, random: Random::new(seed), model: content, flying: BTreeMap::new(), done: 0 })
    }

    /// What the disk must hold when nothing is in flight.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.model
    }

    /// How many requests were answered.
    #[must_use]
    pub const fn answered(&self) -> u64 {
        self.done
    }

    /// `count` requests, at most `depth` at once, all answered at the end.
    ///
    /// # Errors
    /// When the connection breaks or a request fails; [`Writer::uncertain`] then says what was in flight.
    pub fn burst(&mut self, count: usize, depth: usize) -> Result<()> {
        for _ in 0..count {
            let request = self.draw();
            // Requests in flight that overlap have no order, so what they leave could not be known.
            while self.flying.len() >= depth || self.flying.values().any(|f| overlap(f, &request)) {
                self.receive()?;
            }
            // What cannot be sent may still have arrived in part: it is in flight from here on.
            self.flying.insert(self.next_cookie(), request.clone());
            self.client.send(&request)?;
        }
        while !self.flying.is_empty() {
            self.receive()?;
        }
        Ok(())
    }

    /// The bytes that may hold old or new content after the connection broke.
    #[must_use]
    pub fn uncertain(&self) -> Vec<Range<usize>> {
        self.flying.values().map(range).collect()
    }

    /// Checks what the disk holds against what was answered; what was in flight may be anything.
    ///
    /// # Errors
    /// Names the first byte that is wrong.
    pub fn check(&self, disk: &[u8]) -> Result<()> {
        ensure!(disk.len() == self.model.len(), "the disk has {} bytes now", disk.len());
        let mut expected = self.model.clone();
        for bytes in self.uncertain() {
            if let (Some(to), Some(from)) = (expected.get_mut(bytes.clone()), disk.get(bytes)) {
                to.copy_from_slice(from);
            }
        }
        let wrong = expected.iter().zip(disk).position(|(e, d)| e != d);
        ensure!(wrong.is_none(), "an acknowledged write is missing at byte {}", wrong.unwrap_or(0));
        Ok(())
    }

    fn next_cookie(&self) -> u64 {
        self.done + u64::try_from(self.flying.len()).unwrap_or(0) + 1
    }

    fn receive(&mut self) -> Result<()> {
        let (cookie, outcome) = self.client.receive()?;
        let request = self.flying.remove(&cookie);
        if let Err(error) = outcome {
            anyhow::bail!("the server answered {request:?} with error {error}");
        }
        self.done += 1;
        let Some(request) = request else { anyhow::bail!("an answer to a request never sent") };
        let Some(bytes) = self.model.get_mut(range(&request)) else { return Ok(()) };
        match &request {
            Request::Write(_, data) => bytes.copy_from_slice(data),
            Request::Zero(..) => bytes.fill(0),
            Request::Read(..) | Request::Trim(..) | Request::Flush => {}
        }
        Ok(())
    }

    /// The next request: mostly 4 KiB writes, some of odd sectors, some long, zeroes, and flushes.
    fn draw(&mut self) -> Request {
        let size = u64::try_from(self.model.len()).unwrap_or(0);
        let sectors = match self.random.below(10) {
            0 => 1 + self.random.below(20),
            1 => 8 * (1 + self.random.below(16)),
            _ => 8,
        };
        let aligned = if sectors.is_multiple_of(8) { 8 } else { 1 };
        let places = (size / SECTOR).saturating_sub(sectors) / aligned + 1;
        let offset = self.random.below(places) * aligned * SECTOR;
        let length = (sectors * SECTOR).min(size - offset);
        match self.random.below(16) {
            0 => Request::Flush,
            1 => Request::Zero(offset, u32::try_from(length).unwrap_or(0)),
            _ => Request::Write(offset, self.data(usize::try_from(length).unwrap_or(0))),
        }
    }

    /// Noise, or something that shrinks.
    fn data(&mut self, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        if self.random.one_in(2) {
            self.random.fill(&mut data);
        } else {
            let word = self.random.next().to_le_bytes();
            data.iter_mut().zip(word.iter().cycle()).for_each(|(to, from)| *to = *from);
        }
        data
    }
}

fn range(request: &Request) -> Range<usize> {
    let (offset, length) = match request {
        Request::Write(offset, data) => (*offset, data.len()),
        Request::Read(offset, n) | Request::Zero(offset, n) | Request::Trim(offset, n) => {
            (*offset, usize::try_from(*n).unwrap_or(0))
        }
        Request::Flush => (0, 0),
    };
    let start = usize::try_from(offset).unwrap_or(0);
    start..start + length
}

fn overlap(left: &Request, right: &Request) -> bool {
    let (left, right) = (range(left), range(right));
    left.start < right.end && right.start < left.end
}
