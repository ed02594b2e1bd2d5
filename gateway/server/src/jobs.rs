//! Long work: what runs, how far it is, and how it ended.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use cx_api::{Code, JobId, JobKind, JobState, JobView, Problem};
use tap_block::{Lsn, Name, WallTime};

/// Jobs that run at once; more are refused.
const RUNNING: usize = 8;
/// Jobs remembered; the oldest that has ended is forgotten for a new one.
const REMEMBERED: usize = 1000;

/// The jobs of one life of the gateway.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Jobs that are being started, of which a volume has one at a time.
    starting: Vec<(JobKind, Name)>,
    last: u64,
    jobs: BTreeMap<JobId, Arc<Job>>,
}

/// What a job is to do.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) kind: JobKind,
    pub(crate) volume: Name,
    pub(crate) lsn: Lsn,
    /// What it writes; empty when it writes nothing.
    pub(crate) path: PathBuf,
    pub(crate) total: u64,
}

/// Nobody has cancelled it.
const GOING: u8 = 0;
/// It is to end soon.
const CANCELLED: u8 = 1;
/// It is past the point from which on it cannot be cancelled.
const SWITCHED: u8 = 2;

/// One job. Its worker reports into it, everybody else looks.
#[derive(Debug)]
pub(crate) struct Job {
    id: JobId,
    task: Task,
    started: WallTime,
    done: AtomicU64,
    total: AtomicU64,
    /// [`GOING`], [`CANCELLED`] or [`SWITCHED`].
    stage: AtomicU8,
    interrupted: AtomicBool,
    uris: OnceLock<Vec<String>>,
    end: Mutex<Option<End>>,
    ended: Condvar,
}

#[derive(Debug, Clone)]
struct End {
    state: JobState,
    at: WallTime,
    error: Option<Problem>,
}

impl Jobs {
    /// Registers a job.
    ///
    /// # Errors
    /// When too many run, or one works on the same path.
    pub(crate) fn add(&self, task: Task, now: WallTime) -> Result<Arc<Job>, Problem> {
        let mut table = self.table();
        let running: Vec<&Arc<Job>> = table.jobs.values().filter(|j| j.is_running()).collect();
        if running.len() >= RUNNING {
            return Err(Problem::new(Code::Busy, format!("{RUNNING} jobs run already"))
                .fix("wait for one to end, or cancel it"));
        }
        let writes = !task.path.as_os_str().is_empty();
        if let Some(other) = running.iter().find(|j| writes && j.task.path == task.path) {
            let path = task.path.display();
            return Err(Problem::new(Code::Conflict, format!("job {} writes {path} already", other.id))
                .fix("wait for it, or cancel it"));
        }
        table.make_room();
        table.last += 1;
        let job = Arc::new(Job::new(JobId::new(table.last), task, now));
        table.jobs.insert(job.id, Arc::clone(&job));
        Ok(job)
    }

    /// As long as what is returned lives nobody else starts a job of this kind on the volume.
    ///
    /// # Errors
    /// When one runs already, or is being started.
    pub(crate) fn start_alone(&self, kind: JobKind, volume: &Name) -> Result<Starting<'_>, Problem> {
        let mut table = self.table();
        let mut of_volume = table.jobs.values().filter(|j| (j.task.kind, &j.task.volume) == (kind, volume));
        if let Some(other) = of_volume.find(|j| j.is_running()) {
            let text = format!("job {} ({}) works on {volume} already", other.id, kind.as_str());
            let fix = format!("`chronogate job show {}` says how far it is", other.id);
            return Err(Problem::new(Code::Conflict, text).fix(fix));
        }
        if table.starting.iter().any(|(k, v)| (*k, v) == (kind, volume)) {
            let text = format!("somebody starts the same ({}) on {volume} at this moment", kind.as_str());
            return Err(Problem::new(Code::Conflict, text)
                .because("one copy serves all who asked for it")
                .fix("`chronogate job ls` lists it in a moment"));
        }
        table.starting.push((kind, volume.clone()));
        Ok(Starting { jobs: self, kind, volume: volume.clone() })
    }

    pub(crate) fn get(&self, id: JobId) -> Result<Arc<Job>, Problem> {
        self.table().jobs.get(&id).cloned().ok_or_else(|| {
            Problem::new(Code::NotFound, format!("there is no job {id}"))
                .because(
                    "jobs are forgotten when the gateway restarts, the oldest after a thousand newer ones",
                )
                .fix("start it again: a restore goes on where it was")
        })
    }

    /// Every job remembered, oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Job>> {
        self.table().jobs.values().cloned().collect()
    }

    pub(crate) fn running(&self) -> usize {
        self.table().jobs.values().filter(|j| j.is_running()).count()
    }

    /// Waits until none runs, at most until `deadline`.
    pub(crate) fn wait_for_all(&self, deadline: Instant) {
        for job in self.all() {
            let left = deadline.saturating_duration_since(Instant::now());
            let waited = job.ended.wait_timeout_while(job.end(), left, |end| end.is_none());
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Jobs::start_alone`].
pub(crate) struct Starting<'a> {
    jobs: &'a Jobs,
    kind: JobKind,
    volume: Name,
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        let this = |(kind, volume): &(JobKind, Name)| (*kind, volume) == (self.kind, &self.volume);
        self.jobs.table().starting.retain(|one| !this(one));
    }
}

impl Table {
    fn make_room(&mut self) {
        while self.jobs.len() >= REMEMBERED {
            let Some(id) = self.jobs.values().find(|j| !j.is_running()).map(|j| j.id) else { return };
            self.jobs.remove(&id);
        }
    }
}

impl Job {
    fn new(id: JobId, task: Task, started: WallTime) -> Self {
        let (done, total) = (AtomicU64::new(0), AtomicU64::new(task.total));
        let (stage, interrupted) = (AtomicU8::new(GOING), AtomicBool::new(false));
        let (end, ended) = (Mutex::new(None), Condvar::new());
        let uris = OnceLock::new();
        Self { id, task, started, done, total, stage, interrupted, uris, end, ended }
    }

    pub(crate) const fn id(&self) -> JobId {
        self.id
    }

    /// Bytes done so far.
    pub(crate) fn progress(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
    }

    /// The same, of a total that is known better now.
    pub(crate) fn progress_of(&self, done: u64, total: u64) {
        self.total.store(total, Ordering::Relaxed);
        self.progress(done);
    }

    /// Where what it made is used.
    pub(crate) fn set_uris(&self, uris: Vec<String>) {
        // A job makes one thing.
        let _ = self.uris.set(uris);
    }

    /// Asks it to end soon; false when it is too late for that.
    pub(crate) fn cancel(&self) -> bool {
        self.reach(CANCELLED)
    }

    /// From here on it cannot be cancelled, and ends with what really happened; false when it was cancelled before.
    pub(crate) fn switch(&self) -> bool {
        self.reach(SWITCHED)
    }

    /// Whoever comes first has it their way.
    fn reach(&self, stage: u8) -> bool {
        let reached = self.stage.compare_exchange(GOING, stage, Ordering::AcqRel, Ordering::Acquire);
        reached.is_ok() || reached == Err(stage)
    }

    /// Asks it to end soon because the gateway stops: what it has done is still wanted.
    pub(crate) fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Relaxed);
        self.cancel();
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.stage.load(Ordering::Acquire) == CANCELLED
    }

    pub(crate) fn is_running(&self) -> bool {
        self.end().is_none()
    }

    /// It is over; the first end counts.
    pub(crate) fn finish(&self, result: Result<(), Problem>, now: WallTime) {
        let (state, error) = match result {
            Ok(()) => (JobState::Done, None),
            Err(_) if self.is_cancelled() => (JobState::Cancelled, None),
            Err(e) => (JobState::Failed, Some(e)),
        };
        self.end().get_or_insert(End { state, at: now, error });
        self.ended.notify_all();
    }

    pub(crate) fn view(&self) -> JobView {
        let end = self.end().clone();
        let going = if self.is_cancelled() { JobState::Cancelling } else { JobState::Running };
        JobView {
            id: self.id,
            kind: self.task.kind,
            state: end.as_ref().map_or(going, |e| e.state),
            volume: self.task.volume.clone(),
            lsn: self.task.lsn,
            path: self.task.path.display().to_string(),
            uris: self.uris.get().cloned().unwrap_or_default(),
            done_bytes: self.done.load(Ordering::Relaxed),
            total_bytes: self.total.load(Ordering::Relaxed),
            started: self.started,
            ended: end.as_ref().map(|e| e.at),
            error: end.and_then(|e| e.error),
        }
    }

    fn end(&self) -> MutexGuard<'_, Option<End>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(path: &str) -> Task {
        let kind = JobKind::Restore;
        Task { kind, volume: "web01".parse().unwrap(), lsn: Lsn::ZERO, path: path.into(), total: 10 }
    }

    #[test]
    fn jobs_are_bounded_and_one_path_has_one() {
        let jobs = Jobs::default();
        for n in 0..RUNNING {
            jobs.add(task(&n.to_string()), WallTime::EPOCH).unwrap();
        }
        assert_eq!(jobs.add(task("x"), WallTime::EPOCH).unwrap_err().code, Code::Busy);
        let first = jobs.get(JobId::new(1)).unwrap();
        first.progress(10);
        first.finish(Ok(()), WallTime::EPOCH);
        assert_eq!(jobs.add(task("1"), WallTime::EPOCH).unwrap_err().code, Code::Conflict);
        jobs.add(task("0"), WallTime::EPOCH).unwrap();
        assert_eq!((first.view().state, first.view().done_bytes), (JobState::Done, 10));
        assert_eq!(jobs.get(JobId::new(99)).unwrap_err().code, Code::NotFound);
    }

    #[test]
    fn a_job_that_was_cancelled_too_late_ends_with_what_really_happened() {
        let jobs = Jobs::default();
        let (early, late) =
            (jobs.add(task("x"), WallTime::EPOCH).unwrap(), jobs.add(task("y"), WallTime::EPOCH).unwrap());
        assert!(early.cancel() && !early.switch(), "it was cancelled before");
        assert!(late.switch() && !late.cancel());
        assert_eq!((late.view().state, late.is_cancelled()), (JobState::Running, false));
        late.finish(Err(Problem::new(Code::Internal, "no socket")), WallTime::EPOCH);
        assert_eq!(
            (late.view().state, late.view().error.unwrap().detail.as_str()),
            (JobState::Failed, "no socket")
        );
    }

    #[test]
    fn a_cancelled_job_says_so() {
        let jobs = Jobs::default();
        let job = jobs.add(task("x"), WallTime::EPOCH).unwrap();
        job.cancel();
        assert_eq!(job.view().state, JobState::Cancelling);
        job.finish(Err(Problem::new(Code::Internal, "stopped")), WallTime::EPOCH);
        assert_eq!(job.view().state, JobState::Cancelled);
        for n in 0..REMEMBERED * 2 {
            jobs.add(task(&n.to_string()), WallTime::EPOCH).unwrap().finish(Ok(()), WallTime::EPOCH);
        }
        assert_eq!(jobs.all().len(), REMEMBERED);
    }
}
