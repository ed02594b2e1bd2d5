//! Copying a protected disk anew because somebody asks for it: the tap reads all of it, and points after that copy owe nothing to what
//! came before it.

use std::sync::Arc;
use std::time::Duration;

use cx_api::{Code, JobKind, JobView, Problem};
use cx_wire::{Question, Reply};
use gateway_image::catalogue::{SyncSpan, Volume};
use gateway_store::Store;
use tap_block::{Lsn, Name, SyncCause, VolumeId};

use crate::gateway::Gateway;
use crate::http::Answer;
use crate::jobs::{Job, Task};
use crate::problems;
use crate::streams::{Stream, Streams};

/// How long the tap may take to answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two looks when nothing is heard.
const LOOK: Duration = Duration::from_secs(1);

impl Gateway {
    /// Asks the tap to copy the whole disk again, and follows that as a job. A whole copy that is under way is followed as it is.
    pub(crate) async fn start_resync(&self, name: Name) -> Answer<JobView> {
        let volume = self.known(&name)?;
        // The tap is asked before there is a job: a second one must not slip in meanwhile.
        let _alone = self.jobs.start_alone(JobKind::Resync, &name)?;
        let source = self.streams.get(volume.stream()).ok_or_else(|| problems::unreachable(&name))?;
        let asked = |e| problems::asked(&name, &e);
        let Reply::Head { lsn: head, .. } = source.ask(Question::Head, LIMIT).await.map_err(asked)? else {
            return Err(problems::internal("the tap did not say where it stands"));
        };
        match volume.open_sync() {
            Some(sync) if sync.cause == SyncCause::Baseline => return Err(first_copy(&name)),
            Some(sync) if sync.is_whole() => {}
            _ => {
                let from = self.store.durable(volume.stream()).map_or(Lsn::ZERO, |d| d.lsn);
                let question = Question::Resync { from, whole: true };
                source.ask(question, LIMIT).await.map_err(asked)?;
            }
        }
        let (kind, total) = (JobKind::Resync, volume.size());
        let task = Task { kind, volume: name, lsn: head, path: Default::default(), total };
        let job = self.jobs.add(task, self.clock.wall())?;
        // The tap copies until it is done: nobody can call it back.
        job.switch();
        let copying = Copying {
            store: Arc::clone(&self.store),
            streams: Arc::clone(&self.streams),
            source,
            volume: volume.id(),
            after: head,
        };
        let (clock, worker) = (Arc::clone(&self.clock), Arc::clone(&job));
        tokio::spawn(async move {
            let ended = copying.follow(&worker).await;
            worker.finish(ended, clock.wall());
        });
        Ok(job.view())
    }
}

fn first_copy(name: &Name) -> Problem {
    Problem::new(Code::Conflict, format!("the first copy of {name} is under way"))
        .because("it copies the whole disk")
        .fix(format!("wait for its end: `chronogate volume show {name}` says how far it is"))
}

/// A copy that the tap was asked for.
struct Copying {
    store: Arc<Store>,
    streams: Arc<Streams>,
    source: Arc<Stream>,
    volume: VolumeId,
    /// The tap's last record before it was asked.
    after: Lsn,
}

impl Copying {
    /// Returns when the copy's end has arrived here, or it is known that it never will.
    async fn follow(&self, job: &Job) -> Answer<()> {
        let mut progress = self.streams.progress();
        loop {
            if let Some(sync) = self.source.status().and_then(|status| status.sync) {
                job.progress_of(sync.done.min(sync.total), sync.total);
            }
            let volume = self.store.catalogue().volume(self.volume).cloned();
            let Some(volume) = volume else { return Err(problems::internal("the volume is gone")) };
            match stands(&volume, self.after) {
                Stand::Whole => {
                    job.progress_of(volume.size(), volume.size());
                    return Ok(());
                }
                Stand::CutShort => return Err(cut_short(volume.name())),
                Stand::UnderWay if job.is_interrupted() => return Err(left(volume.name())),
                Stand::UnderWay => {
                    let _ = tokio::time::timeout(LOOK, progress.changed()).await;
                }
            }
        }
    }
}

fn cut_short(name: &Name) -> Problem {
    Problem::new(Code::Conflict, format!("the copy of {name} was cut short"))
        .because("its tap was restarted meanwhile; what it goes on with need not be the whole disk")
        .fix(format!("start it again: chronogate volume resync {name}"))
}

fn left(name: &Name) -> Problem {
    Problem::new(Code::Unreachable, "the gateway stops")
        .because("the tap goes on with the copy when it is back")
        .fix(format!("`chronogate volume show {name}` says how far it is then"))
}

/// How far a copy is that the tap was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    UnderWay,
    Whole,
    CutShort,
}

/// `after`: the tap's last record before it was asked.
fn stands(volume: &Volume, after: Lsn) -> Stand {
    let ours = |s: &&SyncSpan| s.cause == SyncCause::HopLost && s.end.is_none_or(|end| end.lsn > after);
    match volume.syncs().iter().rfind(ours) {
        Some(sync) if sync.end.is_none() => Stand::UnderWay,
        Some(sync) if sync.is_whole() => Stand::Whole,
        Some(_) => Stand::CutShort,
        // What a tap was asked for goes with it when it is killed before it began.
        None if volume.runs().last().is_some_and(|run| run.first.lsn > after) => Stand::CutShort,
        None => Stand::UnderWay,
    }
}
