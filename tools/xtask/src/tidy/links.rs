//! What a production server must not carry: the tap links no HTTP server and no LSM store.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::workspace::Workspace;

/// The package that runs on production servers.
const TAP: &str = "tap-agent";
/// What it must not link, by package.
const BANNED: [&str; 5] = ["warp", "hyper", "fjall", "lsm-tree", "gateway-store"];

/// Checks the tap's whole dependency tree, as it is linked.
pub(super) fn check(workspace: &Workspace, problems: &mut Vec<String>) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(cargo)
        .args(["tree", "--package", TAP, "--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .current_dir(&workspace.root)
        .output()
        .context("cargo tree is needed to see what the tap links")?;
    ensure!(out.status.success(), "cargo tree: {}", String::from_utf8_lossy(&out.stderr));
    let tree = String::from_utf8_lossy(&out.stdout);
    ensure!(tree.contains(TAP), "cargo tree does not know {TAP}");
    problems.extend(banned(&tree).map(|name| {
        format!("{TAP} links {name}: a tap runs on production servers and stays light; find which crate brought it with `cargo tree -p {TAP} -i {name}`")
    }));
    Ok(())
}

fn banned(tree: &str) -> impl Iterator<Item = &'static str> {
    let linked: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    BANNED.into_iter().filter(move |name| linked.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_banned_package_is_found_by_its_whole_name() {
        assert_eq!(banned("tap-agent v0.1.0\nhyper v1.12.0\nwarped v1.0.0\n").collect::<Vec<_>>(), ["hyper"]);
    }
}
