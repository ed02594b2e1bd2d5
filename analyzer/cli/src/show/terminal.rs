//! The report as text: the seven answers first, then the figures behind them.

use std::fmt::Write as _;

use analyzer_profile::report::{
    Report, bytes_text, hour_text, initial_text, rate_text, recovery_text, time_text,
};

/// All of it.
pub(crate) fn terminal(report: &Report) -> String {
    let mut text = String::new();
    head(report, &mut text);
    answers(report, &mut text);
    bandwidth(report, &mut text);
    link(report, &mut text);
    outages(report, &mut text);
    deployment(report, &mut text);
    week(report, &mut text);
    text
}

fn line(text: &mut String, what: impl AsRef<str>) {
    text.push_str(what.as_ref());
    text.push('\n');
}

fn head(r: &Report, text: &mut String) {
    let begins = r.begins.as_ref().map_or_else(String::new, |b| format!(" from {b}"));
    line(text, format!("{} of writes{begins}: {}", time_text(r.duration_seconds), r.confidence_note));
    let w = &r.writes;
    line(
        text,
        format!(
            "{} writes, {}; mean {}, busiest second {}; {} reads, {} flushes, {} discards",
            w.count,
            bytes_text(w.bytes as f64),
            rate_text(w.mean_bytes_per_second),
            bytes_text(w.peak_1s_bytes_per_second as f64),
            r.others.reads,
            r.others.flushes,
            r.others.discards,
        ),
    );
    let q = &r.quality;
    if q.rejected + q.backwards + q.lost_events > 0 || q.lost_seconds > 0.0 {
        line(
            text,
            format!(
                "not all is sound: {} lines rejected, {} I/Os out of order, {} lost, {} not recorded",
                q.rejected,
                q.backwards,
                q.lost_events,
                time_text(q.lost_seconds)
            ),
        );
    }
}

fn answers(r: &Report, text: &mut String) {
    for (n, answer) in r.answers.iter().enumerate() {
        line(text, format!("\n{}. {}\n   {}", n + 1, answer.question, answer.sentence));
    }
}

fn bandwidth(r: &Report, text: &mut String) {
    line(text, "\nSmallest link that keeps an RPO (of what was seen; exact: I/O by I/O, not by the second)");
    let mut rows = vec![["RPO", "COVERAGE", "LINK", "EXACT"].map(str::to_owned)];
    rows.extend(r.required_bandwidth.iter().map(|q| {
        [
            time_text(q.rpo_seconds),
            format!("{} %", (q.coverage * 1e5).round() / 1e3),
            rate_text(q.bytes_per_second),
            q.bytes_per_second_exact.map_or_else(|| "-".to_owned(), rate_text),
        ]
    }));
    table(&rows, text);
}

fn link(r: &Report, text: &mut String) {
    let Some(link) = &r.link else { return };
    let rpo = link.achievable_rpo_seconds.map_or_else(|| "none: it never catches up".to_owned(), time_text);
    let likely = link.likely.map_or_else(String::new, |l| {
        format!(" (likely {}, {})", time_text(l.rpo_seconds), bytes_text(l.peak_backlog_bytes))
    });
    line(
        text,
        format!("\nThe given link: RPO {rpo}; at most {} wait{likely}", bytes_text(link.peak_backlog_bytes)),
    );
    let mut rows = vec![["RPO", "BROKEN", "FOR", "LONGEST", "AT"].map(str::to_owned)];
    rows.extend(link.kept.iter().map(|k| {
        let longest = k.longest.first();
        [
            time_text(k.rpo_seconds),
            format!("{} times", k.violations),
            time_text(k.broken_seconds as f64),
            longest.map_or_else(|| "-".to_owned(), |v| time_text(v.seconds as f64)),
            longest.map_or_else(|| "-".to_owned(), |v| format!("+{}", time_text(v.start_seconds as f64))),
        ]
    }));
    table(&rows, text);
}

fn outages(r: &Report, text: &mut String) {
    line(text, "\nOutages, at the worst moment");
    let mut rows = vec![["OUTAGE", "SPOOL", "BEGINS", "CAUGHT UP IN"].map(str::to_owned)];
    rows.extend(r.outages.iter().map(|o| {
        [
            time_text(o.seconds as f64),
            bytes_text(o.spool_bytes as f64),
            format!("+{}", time_text(o.worst_begins_seconds as f64)),
            o.catch_up_seconds.map_or_else(|| "-".to_owned(), time_text),
        ]
    }));
    table(&rows, text);
}

fn deployment(r: &Report, text: &mut String) {
    if let Some(initial) = initial_text(r) {
        line(text, format!("\nThe first copy\n  {initial}"));
    }
    line(text, format!("\nRecovery (RTO)\n  {}", recovery_text(r)));
}

/// Four hours to a cell, darker for more.
fn week(r: &Report, text: &mut String) {
    let Some(week) = &r.week else { return };
    line(text, "\nWrites by hour of the week (UTC), an hour to a sign");
    let most = week.iter().copied().fold(0.0, f64::max);
    for (day, hours) in week.chunks(24).enumerate() {
        let name = hour_text(day * 24);
        let cells: String = hours.iter().map(|&b| shade(b, most)).collect();
        line(text, format!("  {}  {cells}", name.get(..3).unwrap_or("")));
    }
}

fn shade(value: f64, most: f64) -> char {
    const SHADES: [(f64, char); 4] = [(0.5, '█'), (0.2, '▓'), (0.05, '▒'), (0.0, '░')];
    SHADES.iter().find(|(from, _)| value > from * most).map_or('·', |&(_, shade)| shade)
}

/// Rows with aligned columns, the first as the head.
fn table<const N: usize>(rows: &[[String; N]], text: &mut String) {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in rows {
        let mut one = String::from("  ");
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(one, "{cell:width$}  ");
        }
        line(text, one.trim_end());
    }
}

/// Several reports, a column each.
pub(crate) fn side_by_side(names: &[String], reports: &[Report]) -> String {
    let mut rows: Vec<Vec<String>> =
        vec![std::iter::once(String::new()).chain(names.iter().cloned()).collect()];
    let mut row = |name: &str, cell: &dyn Fn(&Report) -> String| {
        rows.push(std::iter::once(name.to_owned()).chain(reports.iter().map(cell)).collect());
    };
    row("length", &|r| time_text(r.duration_seconds));
    row("writes", &|r| format!("{} ({})", r.writes.count, bytes_text(r.writes.bytes as f64)));
    row("mean", &|r| rate_text(r.writes.mean_bytes_per_second));
    row("busiest second", &|r| rate_text(r.writes.peak_1s_bytes_per_second as f64));
    let rpos = reports.first().map_or(&[][..], |r| &r.required_bandwidth);
    for (n, q) in rpos.iter().enumerate().filter(|(_, q)| q.coverage >= 1.0) {
        let cell = |r: &Report| {
            r.required_bandwidth.get(n).map_or_else(String::new, |q| rate_text(q.bytes_per_second))
        };
        row(&format!("link for {}", time_text(q.rpo_seconds)), &cell);
    }
    row("plan for the target", &|r| {
        let last = r.recommended.as_ref().and_then(|all| all.iter().rfind(|a| a.rpo_seconds <= 60.0));
        last.and_then(|a| a.bytes_per_second).map_or_else(|| "-".to_owned(), rate_text)
    });
    row("RPO of the link", &|r| {
        let link = r.link.as_ref();
        link.map_or_else(
            || "-".to_owned(),
            |l| l.achievable_rpo_seconds.map_or_else(|| "never".to_owned(), time_text),
        )
    });
    for (n, o) in reports.first().map_or(&[][..], |r| &r.outages).iter().enumerate() {
        let cell = |r: &Report| {
            let Some(o) = r.outages.get(n) else { return String::new() };
            let back =
                o.catch_up_seconds.map_or_else(String::new, |s| format!(", caught up in {}", time_text(s)));
            format!("{}{back}", bytes_text(o.spool_bytes as f64))
        };
        row(&format!("spool for {}", time_text(o.seconds as f64)), &cell);
    }
    for (n, k) in reports.first().map_or(&[][..], |r| &r.retention).iter().enumerate() {
        let cell = |r: &Report| r.retention.get(n).map_or_else(String::new, |k| bytes_text(k.bytes));
        row(&format!("journal for {}", time_text(k.seconds as f64)), &cell);
    }
    aligned(&rows)
}

/// Rows with aligned columns.
pub(crate) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |n: usize| rows.iter().filter_map(|r| r.get(n)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    rows.iter().fold(String::new(), |mut text, row| {
        let mut one = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(one, "{cell:width$}  ");
        }
        line(&mut text, one.trim_end());
        text
    })
}
