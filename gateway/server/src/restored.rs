//! A tap whose state is an old copy, and that is refused for that: an administrator says that its disk is the one to go on with.
//!
//! Who refused it is told: this gateway, or the CX, which knows what every gateway has.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cx_api::AcceptedView;
use cx_wire::{Accepted, AskError, Copies, Hello, Question, Refuse, Reply, Standing};
use tap_block::{Lsn, Name, StreamId, WallTime};

use crate::gateway::Gateway;
use crate::http::Answer;
use crate::problems;

/// How long the CX may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

impl Gateway {
    /// Has the tap of this volume that was refused last go on all the same.
    pub(crate) async fn accept_copy(&self, name: Name) -> Answer<AcceptedView> {
        let volume = self.known(&name)?;
        let accepted = match self.streams.accept_here(volume.stream()) {
            Some(here) => here.map_err(|e| problems::asked(&name, &e))?,
            None => self.ask_to_accept(&name, volume.stream()).await?,
        };
        let knows = accepted.first_lsn.previous();
        let points = self.points.clone();
        let time = tokio::task::spawn_blocking(move || points.time_at(&volume, knows)).await;
        Ok(AcceptedView {
            volume: name,
            tap: accepted.sender,
            refused_since: accepted.since,
            knows_lsn: knows,
            knows_time: time.map_err(problems::internal)?,
            history_lsn: accepted.known,
            epoch: accepted.epoch.get(),
        })
    }

    async fn ask_to_accept(&self, name: &Name, stream: StreamId) -> Answer<Accepted> {
        let source = self.streams.get(stream).ok_or_else(|| problems::unreachable(name))?;
        match source.ask(Question::AcceptRestored, LIMIT).await {
            Ok(Reply::Accepted(accepted)) => Ok(accepted),
            Ok(_) => Err(problems::internal("the CX did not say what it accepted")),
            Err(e) => Err(problems::asked(name, &e)),
        }
    }
}

/// Streams whose taps were turned away here, and not taken since.
const MOST: usize = 64;

/// The copies of taps that this gateway turned away.
#[derive(Debug, Default)]
pub(crate) struct TurnedAway(Mutex<BTreeMap<StreamId, Copies>>);

impl TurnedAway {
    /// May the tap go on, as far as its copy is concerned? `known`: how far its stream is here.
    pub(crate) fn check(&self, hello: &Hello, known: Lsn) -> Result<(), Refuse> {
        self.lock().get(&hello.stream).map_or(Ok(()), |copies| copies.check(hello, known))
    }

    /// It was turned away, or taken (`None`).
    pub(crate) fn note(&self, hello: &Hello, refused: Option<&Refuse>, now: WallTime) {
        let mut all = self.lock();
        let Some(refuse) = refused else {
            all.remove(&hello.stream);
            return;
        };
        if all.len() >= MOST && !all.contains_key(&hello.stream) {
            all.pop_first();
        }
        all.entry(hello.stream).or_default().refused(hello, refuse, now);
    }

    /// The one of this stream that was turned away last is to go on after all; `None`: none was.
    pub(crate) fn accept(
        &self,
        id: StreamId,
        stream: Standing,
        now: WallTime,
    ) -> Option<Result<Accepted, AskError>> {
        self.lock().get_mut(&id).map(|copies| copies.accept(stream, now))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<StreamId, Copies>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
