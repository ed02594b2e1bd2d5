//! `chronogate job`.

use std::time::Duration;

use clap::{Args, Subcommand};
use cx_api::{ExitStatus, JobId, JobView, paths};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Context, Globals, Result};
use crate::output::{self, Failure, Progress, or_dash, print, print_json, say};

/// How often a job is looked at.
const GLANCE: Duration = Duration::from_millis(250);

/// Of `job`.
#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: JobCommand,
}

#[derive(Debug, Subcommand)]
enum JobCommand {
    /// Lists the jobs, oldest first
    Ls,
    /// Shows one
    Show {
        /// Its number
        id: JobId,
    },
    /// Asks one to end; a cancelled restore can go on later
    Cancel {
        /// Its number
        id: JobId,
    },
}

pub(super) async fn run(args: JobArgs) -> Result<()> {
    let context = Context::new(&args.globals)?;
    let job: JobView = match args.command {
        JobCommand::Ls => {
            let jobs: Vec<JobView> = context.all(paths::JOBS).await?;
            return if context.json() { print_json(&jobs) } else { print(&list(&jobs)) };
        }
        JobCommand::Show { id } => context.client.get(&paths::job(id)).await?,
        JobCommand::Cancel { id } => context.client.post(&paths::job_cancel(id), &()).await?,
    };
    if context.json() { print_json(&job) } else { print(&details(&job)) }
}

/// One listener from before a job begins: a Ctrl-C during a request is not lost.
pub(super) fn interrupts() -> Result<Signal> {
    signal(SignalKind::interrupt())
        .map_err(|e| Failure::internal(format!("Ctrl-C cannot be listened for: {e}")))
}

/// Looks at a job until it ends. The first Ctrl-C cancels it, the second leaves at once.
pub(super) async fn follow(
    context: &Context,
    mut job: JobView,
    title: String,
    interrupts: &mut Signal,
) -> Result<JobView> {
    let mut progress = Progress::new(title);
    let mut asked_to_end = false;
    while !job.state.is_final() {
        // How much there is to do may not be known yet.
        if job.total_bytes > 0 {
            progress.at(job.done_bytes, job.total_bytes);
        }
        let stop = tokio::select! {
            pressed = interrupts.recv() => pressed.is_some(),
            () = tokio::time::sleep(GLANCE) => false,
        };
        if stop && asked_to_end {
            progress.clear();
            return Err(left_alone(&job));
        }
        if stop {
            asked_to_end = true;
            progress.clear();
            say("cancelling; once more Ctrl-C leaves at once\n");
            job = cancel(context, job.id).await?;
        } else {
            job = context.client.get(&paths::job(job.id)).await?;
        }
    }
    progress.clear();
    Ok(job)
}

/// Asks the job to end. It may have ended meanwhile, which is as good.
async fn cancel(context: &Context, id: JobId) -> Result<JobView> {
    match context.client.post(&paths::job_cancel(id), &()).await {
        Err(failure) if failure.exit == ExitStatus::Conflict => context.client.get(&paths::job(id)).await,
        answered => answered,
    }
}

fn left_alone(job: &JobView) -> Failure {
    Failure::new(ExitStatus::Error, format!("job {} goes on without this command", job.id))
        .fix(format!("chronogate job show {0}, chronogate job cancel {0}", job.id))
}

fn list(jobs: &[JobView]) -> String {
    let rows: Vec<_> = jobs
        .iter()
        .map(|j| {
            [
                j.id.to_string(),
                j.kind.as_str().to_owned(),
                j.state.as_str().to_owned(),
                done(j),
                format!("{}@lsn:{}", j.volume, j.lsn.get()),
                or_dash(Some(&j.path).filter(|p| !p.is_empty())),
                j.started.to_string(),
            ]
        })
        .collect();
    output::table(["ID", "KIND", "STATE", "DONE", "OF", "TO", "STARTED"], &rows)
}

fn details(job: &JobView) -> String {
    let mut pairs = vec![
        ("id", job.id.to_string()),
        ("kind", job.kind.as_str().to_owned()),
        ("state", job.state.as_str().to_owned()),
        ("of", format!("{}@lsn:{}", job.volume, job.lsn.get())),
        ("to", or_dash(Some(&job.path).filter(|p| !p.is_empty()))),
        ("done", done(job)),
        ("started", job.started.to_string()),
        ("ended", output::time(job.ended)),
    ];
    if let Some(problem) = &job.error {
        let parts = [("error", &problem.detail), ("why", &problem.cause), ("fix", &problem.correction)];
        pairs.extend(parts.into_iter().filter(|(_, s)| !s.is_empty()).map(|(n, s)| (n, s.clone())));
    }
    output::fields(&pairs)
}

fn done(job: &JobView) -> String {
    format!("{} of {}", output::size(job.done_bytes), output::size(job.total_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_shown_with_what_went_wrong() {
        let job: JobView =
            serde_json::from_str(include_str!("../../../../cx/api/tests/golden/job.json")).unwrap();
        let text = details(&job);
        for line in ["state    failed", "error    no space left on /srv", "fix      free 4 KiB and repeat"] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert_eq!(list(&[job]).lines().count(), 2);
    }
}
