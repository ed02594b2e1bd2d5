//! House rules that no lint knows: levels, sizes, bans. Each message says the rule and what to do.

mod documents;
mod levels;
mod links;
mod source;
mod sources;
mod tracked;

use anyhow::{Result, bail};

use crate::workspace::Workspace;

/// Checks everything and prints what it found.
pub(crate) fn run() -> Result<()> {
    let report = check()?;
    println!("tidy: {}", report.summary);
    if report.problems.is_empty() {
        return Ok(());
    }
    for problem in &report.problems {
        eprintln!("{problem}");
    }
    bail!("{} breaches of the house rules (docs/architecture.md)", report.problems.len())
}

/// What a check found.
struct Report {
    problems: Vec<String>,
    summary: String,
}

fn check() -> Result<Report> {
    let workspace = Workspace::load()?;
    let files = workspace.files()?;
    let mut problems = Vec::new();
    levels::check(&workspace, &mut problems);
    links::check(&workspace, &mut problems)?;
    let summary = sources::check(&workspace, &files, &mut problems)?;
    tracked::check(&workspace, &files, &mut problems);
    documents::check(&workspace, &files, &mut problems);
    Ok(Report { problems, summary })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_tree_is_tidy() {
        let report = super::check().unwrap();
        assert!(report.problems.is_empty(), "{}\n{}", report.summary, report.problems.join("\n"));
    }
}
