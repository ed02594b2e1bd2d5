//! Small for every day, full for a demonstration; and what happens when a client is missing.

use std::io::Write;

/// Is this a run at full size?
#[must_use]
pub fn full() -> bool {
    std::env::var("CHRONOGATE_E2E").is_ok_and(|v| v == "full")
}

/// `smoke` normally, `large` at full size.
pub fn pick<T>(smoke: T, large: T) -> T {
    if full() { large } else { smoke }
}

/// The seed of a random scenario: `CHRONOGATE_SEED` when set, else `usual`. What a failure prints repeats it.
#[must_use]
pub fn seed(usual: u64) -> u64 {
    let chosen = std::env::var("CHRONOGATE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    eprintln!("CHRONOGATE_SEED={chosen}"); // shown when the test fails
    chosen
}

/// Says loudly that a test did not run; in CI (`CI=true`) that is a failure.
///
/// # Errors
/// In CI, with the reason.
pub fn skipped(test: &str, why: &str) -> anyhow::Result<()> {
    let message = format!("SKIPPED {test}: {why}");
    // Not eprintln: the test harness swallows that of a test which passes.
    writeln!(std::io::stderr(), "\n{message}\n")?;
    if std::env::var("CI").is_ok_and(|v| v == "true" || v == "1") {
        anyhow::bail!("{message} (and CI skips nothing)");
    }
    Ok(())
}

/// A line of progress, shown even while the test harness captures.
pub fn say(text: &str) {
    if full() {
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}
