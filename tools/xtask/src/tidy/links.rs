//! What a production server must not carry: the tap links no HTTP server and no LSM store, the analyzer nothing of CX and
//! gateway either.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::workspace::Workspace;

/// The packages that run on production servers, and what each must not link.
const RULES: [(&str, &[&str]); 2] = [
    ("tap-agent", &["warp", "hyper", "fjall", "lsm-tree", "gateway-store"]),
    (
        "analyzer-cli",
        &["warp", "hyper", "fjall", "lsm-tree", "cx-wire", "cx-link", "cx-api", "gateway-journal", "rustls"],
    ),
];

/// Checks the whole dependency tree of each, as it is linked.
pub(super) fn check(workspace: &Workspace, problems: &mut Vec<String>) -> Result<()> {
    RULES.iter().try_for_each(|(package, bans)| check_one(workspace, package, bans, problems))
}

fn check_one(workspace: &Workspace, package: &str, bans: &[&str], problems: &mut Vec<String>) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(cargo)
        .args(["tree", "--package", package, "--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .current_dir(&workspace.root)
        .output()
        .context("cargo tree is needed to see what is linked")?;
    ensure!(out.status.success(), "cargo tree: {}", String::from_utf8_lossy(&out.stderr));
    let tree = String::from_utf8_lossy(&out.stdout);
    ensure!(tree.contains(package), "cargo tree does not know {package}");
    problems.extend(banned(&tree, bans).map(|name| {
        format!("{package} links {name}: it runs on production servers and stays light; find which crate brought it with `cargo tree -p {package} -i {name}`")
    }));
    Ok(())
}

fn banned<'a>(tree: &str, bans: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    let linked: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    bans.iter().copied().filter(move |name| linked.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_banned_package_is_found_by_its_whole_name() {
        let tree = "tap-agent v0.1.0\nhyper v1.12.0\nwarped v1.0.0\n";
        assert_eq!(banned(tree, &["warp", "hyper"]).collect::<Vec<_>>(), ["hyper"]);
    }
}
