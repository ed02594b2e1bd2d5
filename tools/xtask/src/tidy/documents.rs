//! Rules about documents: the code map names every crate, and every test that a document cites exists.

use std::fs;

use crate::workspace::Workspace;

const MAP: &str = "docs/architecture.md";

/// Adds every breach to `problems`.
pub(super) fn check(workspace: &Workspace, files: &[String], problems: &mut Vec<String>) {
    let map = fs::read_to_string(workspace.root.join(MAP)).unwrap_or_default();
    for package in &workspace.packages {
        if !map.contains(&format!("`{}`", package.folder)) {
            problems.push(format!("{MAP}: the code map does not name `{}`", package.folder));
        }
    }
    for path in files.iter().filter(|p| p.ends_with(".md")) {
        let Ok(text) = fs::read_to_string(workspace.root.join(path)) else { continue };
        for cited in citations(&text).filter(|c| !exists(workspace, c)) {
            problems.push(format!("{path}: there is no test {}::{}", cited.file, cited.test));
        }
    }
}

/// A test named as `` `path/to/file.rs::test` ``.
struct Citation<'a> {
    file: &'a str,
    test: &'a str,
}

fn citations(text: &str) -> impl Iterator<Item = Citation<'_>> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter_map(|q| q.split_once(".rs::").map(|(_, test)| (q, test))).map(|(q, test)| Citation {
        file: q.strip_suffix(test).and_then(|f| f.strip_suffix("::")).unwrap_or(q),
        test,
    })
}

fn exists(workspace: &Workspace, cited: &Citation<'_>) -> bool {
    let text = fs::read_to_string(workspace.root.join(cited.file)).unwrap_or_default();
    text.contains(&format!("fn {}(", cited.test))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn citations_are_found() {
        let found: Vec<_> = citations("shown by `a/b.rs::c_d`, in `x` and `e.rs`").collect();
        assert_eq!(found.iter().map(|c| (c.file, c.test)).collect::<Vec<_>>(), [("a/b.rs", "c_d")]);
    }
}
