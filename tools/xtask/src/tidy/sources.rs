//! Rules about single source files.

use std::fs;

use anyhow::{Context, Result};

use super::source::{self, Function};
use crate::workspace::Workspace;

/// The longest function body, in lines (clippy's `too_many_lines` counts alike; this one names all at once).
const MAX_FUNCTION: usize = 70;
/// The longest file, in lines, tests apart.
const MAX_FILE: usize = 800;
/// Half of all functions are at most this long.
const MAX_MEDIAN: usize = 10;
/// L0 to L2 are pure.
const PURE: u64 = 2;

const IMPURE: &[&str] =
    &["std::fs", "std::net", "std::thread", "tokio", "Instant::now", "SystemTime::now", "getrandom", "rand"];
const STD_MODULES: &[&str] = &["fs", "net", "thread"];
const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "dbg!"];
const SYNCS: &[&str] = &["sync_all", "sync_data", "fsync", "fdatasync", "syncfs", "sync_file_range"];

/// Adds every breach to `problems`; returns what was measured.
pub(super) fn check(ws: &Workspace, files: &[String], problems: &mut Vec<String>) -> Result<String> {
    let mut lengths = Vec::new();
    let mut count = 0;
    for path in files.iter().filter(|p| p.ends_with(".rs")) {
        let text = fs::read_to_string(ws.root.join(path)).with_context(|| path.clone())?;
        let owner = ws.owner(path);
        let file =
            File { path, text: &text, layer: owner.and_then(|p| p.layer), owner: owner.map(|p| &*p.name) };
        file.check(problems, &mut lengths);
        count += 1;
    }
    lengths.sort_unstable();
    let median = lengths.get(lengths.len() / 2).copied().unwrap_or(0);
    if median > MAX_MEDIAN {
        problems.push(format!("the median function has {median} lines; at most {MAX_MEDIAN} is the rule"));
    }
    let longest = lengths.last().copied().unwrap_or(0);
    Ok(format!("{count} files, {} functions, median {median} lines, longest {longest}", lengths.len()))
}

struct File<'a> {
    path: &'a str,
    text: &'a str,
    layer: Option<u64>,
    owner: Option<&'a str>,
}

impl File<'_> {
    fn check(&self, problems: &mut Vec<String>, lengths: &mut Vec<usize>) {
        let mut add = |line: usize, what: String| problems.push(format!("{}:{line}: {what}", self.path));
        if !self.text.starts_with("//!") {
            add(1, "a file opens with //! that says what lives here and why".to_owned());
        }
        for (line, word) in find_words(&source::blank(self.text), UNFINISHED) {
            add(line, format!("{word} is not finished work"));
        }
        if self.is_test() {
            return;
        }
        let code = source::code(self.text);
        let size = self.lines_without_tests(&code);
        if size > MAX_FILE {
            add(1, format!("{size} lines without tests; a file has at most {MAX_FILE}: split it by subject"));
        }
        if self.owner != Some("tap-disk") {
            for (line, word) in find_words(&code, SYNCS) {
                add(line, format!("{word}: tap-disk alone makes bytes durable; use it"));
            }
        }
        if self.layer.is_some_and(|l| l <= PURE) {
            for (line, word) in impurities(&code) {
                add(line, format!("{word}: layers 0 to {PURE} do no I/O, read no clock, draw no numbers"));
            }
        }
        for Function { name, line, length } in source::functions(&code) {
            lengths.push(length);
            if length > MAX_FUNCTION {
                add(line, format!("{name} has {length} lines; a function has at most {MAX_FUNCTION}"));
            }
        }
    }

    /// Lines of the file but for those that only tests see.
    fn lines_without_tests(&self, code: &str) -> usize {
        let whole = source::blank(self.text);
        let in_tests = whole.lines().zip(code.lines()).filter(|(w, c)| w.trim() != c.trim()).count();
        self.text.lines().count() - in_tests
    }

    fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.ends_with("/tests.rs")
    }
}

/// Whole words in `code`, with their lines.
fn find_words<'w>(code: &str, words: &[&'w str]) -> Vec<(usize, &'w str)> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for &word in words {
        for (at, _) in code.match_indices(word) {
            let before = code.get(..at).and_then(|t| t.chars().next_back());
            let after = code.get(at + word.len()..).and_then(|t| t.chars().next());
            let joined = before.is_some_and(part) || (after.is_some_and(part) && word.ends_with(part));
            if !joined {
                found.push((1 + code.get(..at).unwrap_or("").matches('\n').count(), word));
            }
        }
    }
    found
}

/// What pure code must not name, also inside `use std::{…}`.
fn impurities(code: &str) -> Vec<(usize, &'static str)> {
    let mut found = find_words(code, IMPURE);
    for (at, _) in code.match_indices("std::{") {
        let group = code.get(at..).and_then(|t| t.split(';').next()).unwrap_or("");
        let line = 1 + code.get(..at).unwrap_or("").matches('\n').count();
        found.extend(find_words(group, STD_MODULES).into_iter().map(|(_, word)| (line, word)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_whole() {
        assert_eq!(find_words("a.fdatasync(); fdatasyncs()", &["fdatasync"]), [(1, "fdatasync")]);
        assert_eq!(find_words("\nmy_todo!(); todo!()", &["todo!"]), [(2, "todo!")]);
    }

    #[test]
    fn grouped_imports_hide_nothing() {
        assert_eq!(impurities("use std::{fmt, fs};"), [(1, "fs")]);
        assert_eq!(impurities("let t = Instant::now();"), [(1, "Instant::now")]);
        assert!(impurities("use std::{fmt, collections::BTreeMap};").is_empty());
    }
}
