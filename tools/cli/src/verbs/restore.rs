//! `chronogate restore`: a job at the gateway, watched until it ends.

use std::path::PathBuf;

use clap::Args;
use cx_api::{ExitStatus, JobState, JobView, RestoreCreate, paths};

use super::job::{follow, interrupts};
use super::parse::VolumePoint;
use super::{Context, Globals, Result};
use crate::output::{self, Failure, print, print_json};

/// Of `restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The volume and the moment, for example web01@before-upgrade
    #[arg(value_name = "VOLUME@POINT")]
    what: VolumePoint,
    /// The file or device to write, on the gateway's machine; an interrupted restore goes on
    #[arg(long, value_name = "PATH")]
    to: PathBuf,
    #[command(flatten)]
    globals: Globals,
}

pub(super) async fn run(args: RestoreArgs) -> Result<()> {
    let context = Context::new(&args.globals)?;
    let path = absolute(&args.to)?;
    let VolumePoint { volume, point } = args.what;
    let mut interrupts = interrupts()?;
    let body = RestoreCreate { volume, at: point, path };
    let job: JobView = context.client.post(paths::RESTORES, &body).await?;
    let title = format!("restoring {}@lsn:{}", job.volume, job.lsn.get());
    let ended = follow(&context, job, title, &mut interrupts).await?;
    conclude(&context, &ended)
}

fn conclude(context: &Context, job: &JobView) -> Result<()> {
    if context.json() {
        print_json(job)?;
    }
    match job.state {
        JobState::Done if context.json() => Ok(()),
        JobState::Done => print(&format!(
            "restored {}@lsn:{} to {} ({})\n",
            job.volume,
            job.lsn.get(),
            output::printable(&job.path),
            output::size(job.total_bytes)
        )),
        JobState::Cancelled => Err(Failure::new(ExitStatus::Error, progress_made("was cancelled", job))
            .fix(format!("go on where it ended: {}", again(job)))),
        JobState::Failed | JobState::Running | JobState::Cancelling => Err(failed(job)),
    }
}

fn failed(job: &JobView) -> Failure {
    let what = progress_made("failed", job);
    let Some(problem) = job.error.clone() else { return Failure::new(ExitStatus::Error, what) };
    let why = [problem.detail, problem.cause].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>();
    let fix = if problem.correction.is_empty() {
        again(job)
    } else {
        format!("{}; then: {}", problem.correction, again(job))
    };
    Failure::new(problem.code.exit_status(), what).because(why.join(": ")).fix(fix)
}

fn progress_made(how: &str, job: &JobView) -> String {
    let (done, total) = (output::size(job.done_bytes), output::size(job.total_bytes));
    format!("the restore to {} {how} after {done} of {total}", job.path)
}

/// The command that goes on: the moment by its LSN, since `now` has moved.
fn again(job: &JobView) -> String {
    format!("chronogate restore {}@lsn:{} --to {}", job.volume, job.lsn.get(), quoted(&job.path))
}

/// For a shell, when it needs that.
fn quoted(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+,:@%".contains(&b);
    if path.bytes().all(plain) { path.to_owned() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

/// The gateway's working directory is its own, so the path goes there whole.
fn absolute(path: &std::path::Path) -> Result<String> {
    let whole = std::path::absolute(path)
        .map_err(|e| Failure::usage(format!("--to {} cannot be made absolute: {e}", path.display())))?;
    whole.into_os_string().into_string().map_err(|raw| {
        Failure::usage(format!("--to {} is not UTF-8", raw.display())).fix("choose a path that is")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden() -> JobView {
        serde_json::from_str(include_str!("../../../../cx/api/tests/golden/job.json")).unwrap()
    }

    #[test]
    fn a_failure_says_how_to_go_on() {
        let failure = failed(&golden());
        assert_eq!(failure.exit, ExitStatus::Error);
        assert_eq!(failure.what, "the restore to /srv/web01.img failed after 4 KiB of 8 KiB");
        assert_eq!(failure.why, "no space left on /srv");
        assert_eq!(
            failure.fix,
            "free 4 KiB and repeat; then: chronogate restore web01@lsn:8 --to /srv/web01.img"
        );
    }

    #[test]
    fn a_path_is_quoted_when_a_shell_would_split_it() {
        assert_eq!(quoted("/srv/web01.img"), "/srv/web01.img");
        assert_eq!(quoted("/srv/it's here"), r"'/srv/it'\''s here'");
    }

    #[test]
    fn a_relative_path_is_made_whole() {
        assert!(absolute(std::path::Path::new("x/y")).unwrap().starts_with('/'));
        assert_eq!(absolute(std::path::Path::new("/x")).unwrap(), "/x");
    }
}
