//! Folder = component, crate = boundary: who may import whom.

use crate::workspace::{Dependency, Package, Workspace};

/// The one crate that tests of every level may use.
const ORACLE: &str = "testbed-model";

/// Adds every breach of the level rules to `problems`.
pub(super) fn check(workspace: &Workspace, problems: &mut Vec<String>) {
    for package in &workspace.packages {
        name_is_path(package, problems);
        let Some(layer) = package.layer else {
            problems.push(format!("{}: Cargo.toml has no [package.metadata] layer = N", package.name));
            continue;
        };
        for dependency in &package.dependencies {
            let theirs = workspace.package(&dependency.name).and_then(|p| p.layer);
            if let Some(theirs) = theirs
                && !allowed(layer, dependency, theirs)
            {
                problems.push(format!(
                    "{} (layer {layer}) imports {} (layer {theirs}): a crate imports strictly lower layers only{}",
                    package.name,
                    dependency.name,
                    if dependency.dev { ", and testbed-model in tests" } else { "" },
                ));
            }
        }
    }
}

fn allowed(layer: u64, dependency: &Dependency, theirs: u64) -> bool {
    theirs < layer || (dependency.dev && dependency.name == ORACLE)
}

/// The package name is the folder with a dash; programs and tools under `tools/` are called what people type.
fn name_is_path(package: &Package, problems: &mut Vec<String>) {
    let expected = package.folder.replace('/', "-");
    if package.name != expected && !package.folder.starts_with("tools/") {
        problems.push(format!("{}: the package in {} is called {expected}", package.name, package.folder));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dependency(name: &str, dev: bool) -> Dependency {
        Dependency { name: name.to_owned(), dev }
    }

    #[test]
    fn only_lower_layers_and_the_oracle_in_tests() {
        assert!(allowed(2, &dependency("tap-block", false), 0));
        assert!(!allowed(2, &dependency("tap-splitter", false), 2));
        assert!(!allowed(2, &dependency("tap-disk", true), 3), "tests keep to the levels");
        assert!(allowed(1, &dependency(ORACLE, true), 1));
        assert!(!allowed(1, &dependency(ORACLE, false), 1), "the oracle is for tests");
    }
}
