//! `chronogate job`.

use clap::{Args, Subcommand};
use cx_api::{JobId, JobKind, JobView, paths};

use super::{Context, Globals, Result};
use crate::output::{self, print, print_json};

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

fn list(jobs: &[JobView]) -> String {
    let rows: Vec<_> = jobs
        .iter()
        .map(|j| {
            [
                j.id.to_string(),
                kind(j).to_owned(),
                j.state.as_str().to_owned(),
                done(j),
                format!("{}@lsn:{}", j.volume, j.lsn.get()),
                j.path.clone(),
                j.started.to_string(),
            ]
        })
        .collect();
    output::table(["ID", "KIND", "STATE", "DONE", "OF", "TO", "STARTED"], &rows)
}

fn details(job: &JobView) -> String {
    let mut pairs = vec![
        ("id", job.id.to_string()),
        ("kind", kind(job).to_owned()),
        ("state", job.state.as_str().to_owned()),
        ("of", format!("{}@lsn:{}", job.volume, job.lsn.get())),
        ("to", job.path.clone()),
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

fn kind(job: &JobView) -> &'static str {
    match job.kind {
        JobKind::Restore => "restore",
    }
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
