//! Every package that we link must have a licence that agrees with MIT OR Apache-2.0.

use anyhow::{Result, bail};
use serde_json::Value;

use crate::workspace::{array, metadata, text};

/// Licences that ask for no more than to be named.
const ALLOWED: &[&str] = &[
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "bzip2-1.0.6",
    "0BSD",
];

/// Checks the licence expression of every package in the lock file.
pub(crate) fn run() -> Result<()> {
    let value = metadata(&["--locked"])?;
    let packages = array(&value, "packages")?;
    let mut bad = Vec::new();
    for package in packages {
        let expression = package.get("license").and_then(Value::as_str).unwrap_or("(none given)");
        if !allowed(expression) {
            bad.push(format!("{} has the licence {expression}", text(package, "name")?));
        }
    }
    if !bad.is_empty() {
        bail!("not on the list of licences in tools/xtask/src/licences.rs:\n  {}", bad.join("\n  "));
    }
    println!("licences: {} packages, all on the list", packages.len());
    Ok(())
}

/// Reads an SPDX expression (and the old `A/B` for OR): a choice needs one good licence, a sum all of them.
fn allowed(expression: &str) -> bool {
    let expression = expression.trim();
    if let Some((left, right)) = split(expression, " OR ").or_else(|| split(expression, "/")) {
        return allowed(left) || allowed(right);
    }
    if let Some((left, right)) = split(expression, " AND ") {
        return allowed(left) && allowed(right);
    }
    match expression.strip_prefix('(').and_then(|e| e.strip_suffix(')')) {
        Some(inner) => allowed(inner),
        None => ALLOWED.contains(&expression),
    }
}

/// Splits at the first operator that stands outside parentheses.
fn split<'a>(expression: &'a str, operator: &str) -> Option<(&'a str, &'a str)> {
    let outside = |at: usize| {
        let before = expression.get(..at).unwrap_or("");
        before.matches('(').count() == before.matches(')').count()
    };
    let (at, _) = expression.match_indices(operator).find(|&(at, _)| outside(at))?;
    Some((expression.get(..at)?, expression.get(at + operator.len()..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        for good in ["MIT", "GPL-3.0 OR MIT", "(MIT OR GPL-2.0) AND Unicode-3.0", "Unlicense/MIT"] {
            assert!(allowed(good), "{good}");
        }
        for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(none given)", "(GPL-2.0 OR AGPL-3.0) AND MIT"] {
            assert!(!allowed(bad), "{bad}");
        }
    }
}
