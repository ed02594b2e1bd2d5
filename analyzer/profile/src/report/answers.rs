//! The seven questions that decide about a deployment, each with a number and a sentence; how figures are written for people.

use super::{Answer, ContentFigures, Question, Report, Required};
use crate::numbers::{real, whole};

/// All seven, in order.
pub(super) fn of(report: &Report, question: &Question) -> Vec<Answer> {
    vec![
        near_zero(report),
        target(report),
        link(report, question),
        savings(report, question),
        storage(report, question),
        spread(report),
        outage(report),
    ]
}

fn near_zero(report: &Report) -> Answer {
    let required = always(report).min_by(|a, b| a.rpo_seconds.total_cmp(&b.rpo_seconds));
    bandwidth(report, "What bandwidth does a near-zero RPO take?", required)
}

/// The largest RPO that was asked for but a minute at most, as the target.
fn target(report: &Report) -> Answer {
    let asked = always(report).filter(|r| r.rpo_seconds <= 60.0);
    let required =
        asked.max_by(|a, b| a.rpo_seconds.total_cmp(&b.rpo_seconds)).or_else(|| always(report).next());
    bandwidth(report, "What bandwidth does the target RPO take?", required)
}

fn always(report: &Report) -> impl Iterator<Item = &Required> {
    report.required_bandwidth.iter().filter(|r| r.coverage >= 1.0)
}

fn bandwidth(report: &Report, question: &'static str, required: Option<&Required>) -> Answer {
    let Some(required) = required else {
        return Answer {
            question,
            number: None,
            unit: "bytes/s",
            sentence: "No RPO was asked for.".to_owned(),
        };
    };
    let rpo = required.rpo_seconds;
    let recommended = report.recommended.iter().flatten().find(|r| r.rpo_seconds.to_bits() == rpo.to_bits());
    let advice = match recommended.and_then(|r| r.bytes_per_second) {
        Some(rate) => format!("plan {} with the time that the hops take", rate_text(rate)),
        None if report.recommended.is_some() => "the hops alone take longer than that".to_owned(),
        None => "too little was seen to recommend a link".to_owned(),
    };
    let measured = rate_text(required.bytes_per_second);
    let sentence = format!("{measured} kept an RPO of {} all the time; {advice}.", time_text(rpo));
    Answer { question, number: Some(required.bytes_per_second), unit: "bytes/s", sentence }
}

fn link(report: &Report, question: &Question) -> Answer {
    let asked = "What RPO does the present link give?";
    let (number, sentence) = match &report.link {
        None => (None, "No link was given: say --link 100Mbit.".to_owned()),
        Some(link) => match link.achievable_rpo_seconds {
            None => (None, "The link never carries all of it away: no RPO.".to_owned()),
            Some(rpo) => {
                let rate = rate_text(link.mean_bytes_per_second);
                let grown = if question.growth > 0.0 { " with the growth asked for" } else { "" };
                (Some(rpo), format!("{rate} gave an RPO of {} at the worst moment{grown}.", time_text(rpo)))
            }
        },
    };
    Answer { question: asked, number, unit: "s", sentence }
}

fn savings(report: &Report, question: &Question) -> Answer {
    let asked = "What do compression and deduplication save?";
    let again = report.coalescing.map(|c| {
        let saved = percent(1.0 - c.minute);
        format!(" {saved} of what is written is written again within the minute, which thinned history does not keep.")
    });
    let again = again.unwrap_or_default();
    let measured = report.content.as_ref().and_then(measured_savings);
    let (number, sentence) = match (question.compression, measured) {
        (Some(ratio), measured) => {
            let beside = measured.map_or_else(String::new, |(_, text)| format!(" The trace says: {text}"));
            let saved = percent(1.0 - ratio);
            (Some(1.0 - ratio), format!("{saved} on the link, as assumed with --compression.{beside}{again}"))
        }
        (None, Some((saved, text))) => (Some(saved), format!("{text}{again}")),
        (None, None) => {
            let why = if report.content.is_some() {
                "too few blocks with content were seen"
            } else {
                "the trace has no content (record --tap has)"
            };
            (None, format!("Not known: {why}; assume a ratio with --compression 0.5.{again}"))
        }
    };
    Answer { question: asked, number, unit: "share", sentence }
}

/// What was measured, with how sure that is.
fn measured_savings(content: &ContentFigures) -> Option<(f64, String)> {
    let saved = 1.0 - content.stored_share?;
    let mut text = format!(
        "{} on the link, measured on {} blocks drawn from {} written through the tap ({}).",
        percent(saved),
        content.sampled_blocks,
        content.blocks,
        interval(content.stored_share_interval),
    );
    if let Some(repeated) = content.repeated_share {
        let sure = interval(content.repeated_share_interval.map(|(low, high)| (1.0 - high, 1.0 - low)));
        text.push_str(&format!(
            " {} of the blocks had been written with the same content before ({sure}): deduplication would save that, but \
             history keeps each.",
            percent(repeated)
        ));
    }
    Some((saved, text))
}

/// Of a saving, from what is left.
fn interval(left: Option<(f64, f64)>) -> String {
    let (low, high) = left.unwrap_or((0.0, 1.0));
    format!("{} to {} with 95 % confidence", percent(1.0 - high), percent(1.0 - low))
}

fn storage(report: &Report, question: &Question) -> Answer {
    let asked = "What storage does the wanted retention take at the gateway?";
    let said: Vec<String> = report.retention.iter().map(retention_text).collect();
    let note = if question.growth > 0.0 { " Growth is in it." } else { "" };
    let sentence = if said.is_empty() {
        "No retention was asked for.".to_owned()
    } else {
        format!("{}.{note}", said.join("; "))
    };
    Answer { question: asked, number: report.retention.first().map(|r| r.bytes), unit: "bytes", sentence }
}

fn retention_text(r: &super::RetentionFigures) -> String {
    let how = if r.extrapolated { " (the trace is shorter: its mean, prolonged)" } else { "" };
    let tiers = r.tiered_bytes.filter(|&t| t < r.bytes * 0.995);
    let tiers = tiers.map_or_else(String::new, |t| format!(", {} thinned by tiers", bytes_text(t)));
    format!("{} for every write of {}{tiers}{how}", bytes_text(r.bytes), time_text(real(r.seconds)))
}

fn spread(report: &Report) -> Answer {
    let asked = "How does change spread over day and week?";
    let burst = format!("The busiest second writes {} times the mean", whole(report.writes.burstiness));
    let Some(week) = report.week.as_ref().filter(|_| report.duration_seconds >= 86400.0) else {
        let why = if report.week.is_none() { "the trace has no wall clock" } else { report.confidence_note };
        return Answer { question: asked, number: None, unit: "share", sentence: format!("{burst}; {why}.") };
    };
    let total: f64 = week.iter().sum();
    let (hour, most) =
        week.iter().enumerate().fold((0, 0.0), |best, (h, &b)| if b > best.1 { (h, b) } else { best });
    let share = if total > 0.0 { most / total } else { 0.0 };
    let sentence = format!(
        "{burst}; the busiest hour of the week is {} with {} of all.",
        hour_text(hour),
        percent(share)
    );
    Answer { question: asked, number: Some(share), unit: "share", sentence }
}

fn outage(report: &Report) -> Answer {
    let asked = "What outage is survived without a gap?";
    let spool = bytes_text(real(report.spool_bytes));
    let (number, sentence) = match report.outage_survived_seconds {
        Some(seconds) => (
            Some(real(seconds)),
            format!("{} with a spool of {spool}, wherever it falls.", time_text(real(seconds))),
        ),
        None => (
            Some(report.duration_seconds),
            format!(
                "At least one as long as the whole trace ({}): a spool of {spool} holds all of it.",
                time_text(report.duration_seconds)
            ),
        ),
    };
    Answer { question: asked, number, unit: "s", sentence }
}

/// `Tue 02:00 UTC`, from the hour of the week.
pub fn hour_text(hour: usize) -> String {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    format!("{} {:02}:00 UTC", DAYS.get(hour / 24 % 7).unwrap_or(&"Mon"), hour % 24)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Bits per second as links are sold, and bytes behind.
pub fn rate_text(bytes_per_second: f64) -> String {
    let bits = scaled(bytes_per_second * 8.0, 1000.0, &["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"]);
    format!("{bits} ({}/s)", bytes_text(bytes_per_second))
}

/// Decimal, as links and disks are sold.
pub fn bytes_text(bytes: f64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

fn scaled(value: f64, step: f64, units: &[&str]) -> String {
    let (mut value, mut units) = (value, units.iter());
    let mut unit = units.next().copied().unwrap_or("");
    while value >= step * 0.9995 {
        let Some(next) = units.next() else { break };
        value /= step;
        unit = next;
    }
    let digits = if value >= 100.0 || value.fract() == 0.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {unit}")
}

/// The two units that matter, rounded up: a lag is never shown better than it is.
pub fn time_text(seconds: f64) -> String {
    if seconds <= 0.0 {
        return "0 s".to_owned();
    }
    if seconds < 1.0 {
        return format!("{} ms", crate::numbers::whole_up(seconds * 1000.0));
    }
    if seconds < 120.0 {
        let tenths = crate::numbers::whole_up(seconds * 10.0 - 1e-6);
        return if tenths.is_multiple_of(10) {
            format!("{} s", tenths / 10)
        } else {
            format!("{}.{} s", tenths / 10, tenths % 10)
        };
    }
    let whole = crate::numbers::whole_up(seconds);
    let two = |(big, its): (u64, &str), (small, theirs): (u64, &str)| {
        let rest = whole % big / small;
        let head = format!("{} {its}", whole / big);
        if rest == 0 { head } else { format!("{head} {rest} {theirs}") }
    };
    match whole {
        0..7200 => two((60, "min"), (1, "s")),
        7200..172_800 => two((3600, "h"), (60, "min")),
        _ => two((86400, "d"), (3600, "h")),
    }
}
