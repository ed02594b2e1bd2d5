//! Rules about every tracked file: nothing of one machine in it, no package from an unknown place.

use std::fs;

use crate::workspace::Workspace;

/// Folders that exist on somebody's machine only. Put together here so that this file passes its own check.
const FOLDERS: &[&str] = &["work", "root", "home", "Users"];
/// The hosts that our texts may name.
const HOSTS: &[&str] = &[
    "127.0.0.1",
    "localhost",
    "github.com",
    "docs.rs",
    "crates.io",
    "example.com",
    "www.apache.org",
    "www.rfc-editor.org",
    "datatracker.ietf.org",
    "keepachangelog.com",
    "semver.org",
];

/// Top-level domains that belong to nobody (RFC 2606), for examples and tests.
const NOBODYS: &[&str] = &[".example", ".test", ".invalid"];

/// Adds every breach to `problems`.
pub(super) fn check(workspace: &Workspace, files: &[String], problems: &mut Vec<String>) {
    for path in files {
        let Ok(text) = fs::read_to_string(workspace.root.join(path)) else { continue };
        for (no, line) in text.lines().enumerate() {
            if let Some(what) = breach(path, line) {
                problems.push(format!("{path}:{}: {what}", no + 1));
            }
        }
    }
}

fn breach(path: &str, line: &str) -> Option<String> {
    if path == "Cargo.lock" {
        let foreign =
            line.starts_with("source = ") && !line.contains("+https://github.com/rust-lang/crates.io-index");
        return foreign.then(|| "a package that does not come from crates.io".to_owned());
    }
    machine_path(line).or_else(|| unknown_host(line))
}

fn machine_path(line: &str) -> Option<String> {
    let found = FOLDERS.iter().map(|f| format!("/{f}/")).find(|folder| {
        line.match_indices(folder.as_str()).any(|(at, _)| {
            let before = line.get(..at).and_then(|b| b.chars().next_back());
            !before.is_some_and(|c| c.is_alphanumeric() || "._-$}~)".contains(c))
        })
    });
    found.map(|folder| format!("{folder} is a path of one machine: make it relative or a parameter"))
}

fn unknown_host(line: &str) -> Option<String> {
    let urls = line
        .match_indices("://")
        .filter(|(at, _)| line.get(..*at).is_some_and(|b| b.ends_with("http") || b.ends_with("https")));
    let hosts = urls.filter_map(|(at, _)| line.get(at + 3..)).map(|rest| {
        rest.split(|c: char| !(c.is_alphanumeric() || c == '.' || c == '-')).next().unwrap_or("")
    });
    let mut strange = hosts.filter(|h| !h.is_empty() && h.contains('.') && !known(h));
    strange
        .next()
        .map(|h| format!("{h} is no host that this project's texts name (tidy/tracked.rs lists them)"))
}

fn known(host: &str) -> bool {
    HOSTS.contains(&host) || NOBODYS.iter().any(|domain| host.ends_with(domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_a_machine_are_found() {
        let path = format!("cd /{}/main", FOLDERS[0]);
        assert!(breach("a.md", &path).is_some());
        assert!(breach("a.md", "see net/work/x and ./home/x").is_none());
    }

    #[test]
    fn hosts_are_known() {
        assert!(breach("a.md", "https://github.com/x and http://127.0.0.1:7070/api").is_none());
        let strange = ["https", "://registry.nowhere.net/index"].concat();
        assert!(breach("a.md", &strange).is_some());
        assert!(breach("Cargo.lock", &format!("source = \"sparse+{strange}\"")).is_some());
    }
}
