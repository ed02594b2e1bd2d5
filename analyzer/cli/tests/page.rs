//! The HTML report in a real browser, where there is one: nothing on its console, nothing asked of the network.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests"
)]

use std::path::Path;
use std::process::Command;

const PROGRAM: &str = env!("CARGO_BIN_EXE_chronogate-analyzer");
const TRACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/windows-mssql.load.gz");

/// The page as the browser has it, and what it wrote on its console; `None` where there is no browser.
fn open(page: &Path) -> Option<(String, Vec<String>)> {
    let mut browser = Command::new("timeout");
    browser.args([
        "120",
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
    ]);
    browser.arg(format!("--user-data-dir={}", page.parent().unwrap().join("browser").display()));
    let done = browser.arg("--dump-dom").arg(format!("file://{}", page.display())).output().unwrap();
    if done.status.code() == Some(127) {
        println!("SKIPPED: chromium is not installed");
        return None;
    }
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    let console = said.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect();
    Some((String::from_utf8_lossy(&done.stdout).into_owned(), console))
}

#[test]
fn a_browser_shows_the_report_and_its_console_stays_empty() {
    let tmp = tempfile::tempdir().unwrap();
    let page = tmp.path().join("report.html");
    let report = ["report", TRACE, "--link", "20Mbit", "--html"];
    assert!(Command::new(PROGRAM).args(report).arg(&page).output().unwrap().status.success());
    let Some((shown, console)) = open(&page) else { return };
    assert_eq!(console, Vec::<String>::new());
    assert!(shown.contains("6 min 33 s") && shown.matches("<svg").count() >= 4, "{shown}");
    assert!(shown.contains("tabindex=\"0\" role=\"region\""), "what scrolls is reached by keyboard");
    // A page that does complain is heard.
    let text = std::fs::read_to_string(&page).unwrap();
    std::fs::write(&page, text.replace("</main>", "<script>console.error('x')</script></main>")).unwrap();
    assert_eq!(open(&page).unwrap().1.len(), 1);
}
