//! What cargo and git know about this workspace.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The workspace as `cargo metadata` describes it.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) packages: Vec<Package>,
}

/// One of our packages.
pub(crate) struct Package {
    pub(crate) name: String,
    /// Its folder, relative to the root.
    pub(crate) folder: String,
    pub(crate) layer: Option<u64>,
    pub(crate) dependencies: Vec<Dependency>,
}

/// What a package imports, ours and others'.
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) dev: bool,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn load() -> Result<Self> {
        let value = metadata(&["--no-deps"])?;
        let root = PathBuf::from(text(&value, "workspace_root")?);
        let packages = array(&value, "packages")?.iter().map(|p| Package::read(p, &root));
        Ok(Self {
            target: PathBuf::from(text(&value, "target_directory")?),
            packages: packages.collect::<Result<_>>()?,
            root,
        })
    }

    /// Our package of this name.
    pub(crate) fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|p| p.name == name)
    }

    /// The package that a tracked file belongs to.
    pub(crate) fn owner(&self, path: &str) -> Option<&Package> {
        self.packages.iter().find(|p| path.strip_prefix(&p.folder).is_some_and(|r| r.starts_with('/')))
    }

    /// Every file that git tracks or would add, relative to the root.
    pub(crate) fn files(&self) -> Result<Vec<String>> {
        let out = Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"])
            .current_dir(&self.root)
            .output()
            .context("git is needed to list the files of the project")?;
        ensure!(out.status.success(), "git ls-files: {}", String::from_utf8_lossy(&out.stderr));
        let all = String::from_utf8(out.stdout).context("a file name that is not UTF-8")?;
        Ok(all.lines().filter(|f| self.root.join(f).is_file()).map(str::to_owned).collect())
    }
}

impl Package {
    fn read(value: &Value, root: &Path) -> Result<Self> {
        let manifest = PathBuf::from(text(value, "manifest_path")?);
        let folder = manifest.parent().and_then(|p| p.strip_prefix(root).ok());
        let dependencies = array(value, "dependencies")?.iter().map(|d| {
            let dev = d.get("kind").and_then(Value::as_str) == Some("dev");
            Ok(Dependency { name: text(d, "name")?.to_owned(), dev })
        });
        Ok(Self {
            name: text(value, "name")?.to_owned(),
            folder: folder.and_then(Path::to_str).context("a package outside the root")?.to_owned(),
            layer: value.pointer("/metadata/layer").and_then(Value::as_u64),
            dependencies: dependencies.collect::<Result<_>>()?,
        })
    }
}

/// `cargo metadata`, with these extra arguments.
pub(crate) fn metadata(extra: &[&str]) -> Result<Value> {
    let out = Command::new(cargo())
        .args(["metadata", "--format-version", "1"])
        .args(extra)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .context("cargo metadata")?;
    ensure!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).context("cargo metadata's answer")
}

/// The cargo that runs us, else the one on the path.
pub(crate) fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// A text member.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value.get(key).and_then(Value::as_str).with_context(|| format!("cargo metadata without {key}"))
}

/// An array member.
pub(crate) fn array<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    value.get(key).and_then(Value::as_array).with_context(|| format!("cargo metadata without {key}"))
}
