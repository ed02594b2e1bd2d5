//! Taking streams from taps: known ones go on, new ones are entered in the books.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cx_link::outbox::DriverConfig;
use cx_link::{Intake, StreamIntake};
use cx_wire::{Hello, Refuse, RefuseCode, Welcome};
use tap_block::StreamId;

use crate::acknowledged::Acknowledged;
use crate::books::Books;
use crate::cx::Limits;
use crate::status::CxStatus;
use crate::stream::{Stream, Surroundings};

/// A tap is answered at once when every gateway has said what it has. One that does not answer is waited for this
/// long: without it the CX may not know what it acknowledged before a crash, and a tap would not go on then.
const GATEWAY_PATIENCE: Duration = Duration::from_secs(3);

/// The streams of a CX.
pub(crate) struct Streams {
    books: Books,
    limits: Limits,
    around: Surroundings,
    streams: Mutex<BTreeMap<StreamId, Slot>>,
    stopping: AtomicBool,
}

enum Slot {
    Open(Arc<Stream>),
    Failed(String),
}

impl Streams {
    /// Opens the streams in the books. Blocks.
    pub(crate) fn open(books: Books, limits: Limits, around: Surroundings) -> io::Result<Self> {
        let known = books.known()?;
        let streams = Mutex::default();
        let this = Self { books, limits, around, streams, stopping: AtomicBool::new(false) };
        for hello in known {
            // One stream's bad spool is no reason to let the others wait; it is shown in the status.
            let _ = this.stream(&hello);
        }
        Ok(this)
    }

    pub(crate) fn status(&self) -> CxStatus {
        let mut status = CxStatus { heads_lost: self.around.heads.lost(), ..CxStatus::default() };
        for (id, slot) in &*self.lock() {
            match slot {
                Slot::Open(stream) => status.streams.push(stream.status()),
                Slot::Failed(why) => status.problems.push((*id, why.clone())),
            }
        }
        status
    }

    pub(crate) fn acknowledged(&self) -> Arc<Acknowledged> {
        Arc::clone(&self.around.acknowledged)
    }

    /// No more streams from here on; returns those that are open.
    pub(crate) fn close(&self) -> Vec<Arc<Stream>> {
        self.stopping.store(true, Ordering::Release);
        self.lock()
            .values()
            .filter_map(|slot| match slot {
                Slot::Open(stream) => Some(Arc::clone(stream)),
                Slot::Failed(_) => None,
            })
            .collect()
    }

    /// The stream of `hello`, opened if it is not open. The link never opens one stream twice at a time.
    fn stream(&self, hello: &Hello) -> Result<Arc<Stream>, Refuse> {
        if let Some(stream) = self.find(hello.stream) {
            return Ok(stream);
        }
        match Stream::open(hello.clone(), self.driver_config(hello.stream), &self.around) {
            Ok(stream) => {
                self.lock().insert(hello.stream, Slot::Open(Arc::clone(&stream)));
                Ok(stream)
            }
            Err(e) => {
                let why = format!("the CX cannot open the spool of {}: {e}; repair or remove it", hello.name);
                tracing::error!(stream = %hello.stream, "{why}");
                self.lock().insert(hello.stream, Slot::Failed(why.clone()));
                Err(Refuse { code: RefuseCode::Other, detail: why })
            }
        }
    }

    fn driver_config(&self, stream: StreamId) -> DriverConfig {
        DriverConfig {
            dir: Some(self.books.spool(stream)),
            segment_len: self.limits.segment_len,
            consumers: self.around.gateways.len(),
            retry: Duration::from_secs(1),
            outbox: self.limits.outbox(),
        }
    }

    fn remember(&self, hello: &Hello) -> Result<(), Refuse> {
        let known = self.books.knows(hello.stream);
        let same = known && self.find(hello.stream).is_some_and(|s| s.hello() == *hello);
        if same {
            return Ok(());
        }
        self.books.remember(hello).map_err(|e| Refuse {
            code: RefuseCode::Other,
            detail: format!("the CX cannot write to its data directory: {e}; free space or repair it"),
        })
    }

    fn find(&self, stream: StreamId) -> Option<Arc<Stream>> {
        match self.lock().get(&stream)? {
            Slot::Open(stream) => Some(Arc::clone(stream)),
            Slot::Failed(_) => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<StreamId, Slot>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Streams {
    /// A stream that goes on, or begins.
    fn take(&self, hello: &Hello) -> Result<(Welcome, Arc<dyn StreamIntake>), Refuse> {
        if let Some(known) = self.find(hello.stream) {
            known.reports.wait(GATEWAY_PATIENCE);
            known.check_run(hello)?;
        }
        self.remember(hello)?;
        let stream = self.stream(hello)?;
        stream.greet(hello);
        stream.reports.wait(GATEWAY_PATIENCE);
        if let Some(refusal) = stream.reports.refusal(hello.epoch, stream.driver.furthest().lsn) {
            return Err(refusal);
        }
        let credit = self.limits.credit.min(stream.driver.room());
        if credit < self.limits.credit / 8 {
            let detail =
                "the CX's queue is full: memory and spool are at their limits until a gateway catches up";
            return Err(Refuse { code: RefuseCode::Other, detail: detail.to_owned() });
        }
        Ok((stream.welcome(credit), stream))
    }
}

impl Intake for Streams {
    fn open(&self, hello: &Hello) -> Result<(Welcome, Arc<dyn StreamIntake>), Refuse> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(Refuse { code: RefuseCode::Stopping, detail: "the CX is stopping".to_owned() });
        }
        let taken = self.take(hello);
        if let Some(stream) = self.find(hello.stream) {
            stream.tap.note_refused(hello, taken.as_ref().err(), self.around.clock.wall());
        }
        taken
    }
}
