//! `compare`: several profiles beside each other.

use std::path::PathBuf;

use analyzer_profile::report::Report;

use super::report::{QuestionArgs, TraceArgs};
use crate::failure::Failure;
use crate::show;

/// Puts the figures of several profiles beside each other
#[derive(Debug, clap::Args)]
pub struct CompareArgs {
    /// The profiles or traces, each for itself
    #[arg(required = true, num_args = 2..)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    question: QuestionArgs,
    /// Writes all of them as JSON, `-` for standard output instead of the text
    #[arg(long)]
    json: Option<PathBuf>,
}

impl CompareArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let question = self.question.question()?;
        let report = |file: &PathBuf| {
            let mut profile = TraceArgs::whole(file.clone()).profile(&question.rpos)?;
            Ok(Report::of(&mut profile, &question))
        };
        let reports = self.files.iter().map(report).collect::<Result<Vec<_>, Failure>>()?;
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
