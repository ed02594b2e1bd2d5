//! `compare`: several profiles beside each other.

use std::path::PathBuf;
use std::time::Duration;

use analyzer_profile::report::Report;
use clap::Parser as _;

use super::report::{QuestionArgs, TraceArgs};
use crate::failure::Failure;
use crate::parse;
use crate::show;

/// Puts the figures of several profiles beside each other
#[derive(Debug, clap::Args)]
pub struct CompareArgs {
    /// The profiles or traces, each for itself
    #[arg(required = true, num_args = 2..)]
    files: Vec<PathBuf>,
    /// RPOs to look at
    #[arg(long, value_delimiter = ',', value_parser = parse::duration, default_value = "1s,5s,15s,1m,5m")]
    rpo: Vec<Duration>,
    /// The link that there is
    #[arg(long)]
    link: Option<String>,
    /// Writes all of them as JSON, `-` for standard output instead of the text
    #[arg(long)]
    json: Option<PathBuf>,
}

/// The defaults of `report`, for one file.
#[derive(clap::Parser)]
struct Alone {
    #[command(flatten)]
    trace: TraceArgs,
    #[command(flatten)]
    question: QuestionArgs,
}

impl CompareArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut reports = Vec::new();
        for file in &self.files {
            let mut words = vec!["report".into(), "--".into(), file.as_os_str().to_owned()];
            if let Some(link) = &self.link {
                words.splice(1..1, [format!("--link={link}").into()]);
            }
            let alone = Alone::try_parse_from(words).map_err(|e| Failure::usage(e.to_string()))?;
            let mut question = alone.question.question()?;
            question.rpos.clone_from(&self.rpo);
            reports.push(Report::of(&mut alone.trace.profile(&question.rpos)?, &question));
        }
        if let Some(path) = &self.json {
            show::write(path, &show::json(&reports)?)?;
            if path.as_os_str() == "-" {
                return Ok(());
            }
        }
        let name = |p: &PathBuf| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let names: Vec<String> = self.files.iter().map(name).collect();
        show::print(&show::side_by_side(&names, &reports))
    }
}
