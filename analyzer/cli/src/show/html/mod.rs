//! The report as one HTML file: no script, no network. Drawings are SVG with their numbers in tables beside them; the
//! two colours are Okabe and Ito's blue and vermilion, told apart by every kind of sight, and by form as well; it prints on paper.

mod chart;
mod svg;

use std::fmt::Write as _;

use analyzer_profile::report::{
    LinkFigures, Report, ViolationFigures, bytes_text, initial_text, rate_text, recovery_text, time_text,
};

const STYLE: &str = "
:root{color-scheme:light;--ink:#1a1a1a;--paper:#fff;--soft:#555;--rule:#ddd;--edge:#ccc;--blue:#0072b2;--red:#d55e00;--given:#a84400;--note:#faf3ee;--heat:#08306b}
@media screen and (prefers-color-scheme:dark){:root{color-scheme:dark;--ink:#e8e8e8;--paper:#16181b;--soft:#b5b8bd;--rule:#33373d;--edge:#4a4e55;--blue:#56b4e9;--red:#e69f00;--given:#f0b840;--note:#2a2419;--heat:#8ecbff}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:62rem;margin:0 auto;padding:1.5rem}
h1{font-size:1.6rem;line-height:1.2;margin:0 0 .3rem}h2{font-size:1.15rem;margin:2.2rem 0 .4rem}
nav{margin:.8rem 0 1.2rem}nav a{margin-right:1rem}a{color:var(--blue)}:focus-visible{outline:3px solid var(--red);outline-offset:2px}
.note{border-left:4px solid var(--red);padding:.3rem .8rem;background:var(--note)}
ol.answers{list-style:none;padding:0;display:grid;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr));gap:.8rem}
ol.answers li{border:1px solid var(--edge);border-radius:6px;padding:.7rem .9rem;break-inside:avoid}
ol.answers h3{font-size:.85rem;font-weight:600;color:var(--soft);margin:0}ol.answers strong{display:block;font-size:1.35rem;margin:.1rem 0;color:var(--blue)}
ol.answers p{margin:0;font-size:.9rem}
figure{margin:.4rem 0;break-inside:avoid}figcaption{font-size:.85rem;color:var(--soft)}.wide{overflow-x:auto}svg{width:100%;min-width:38rem;height:auto;display:block}
.tick{fill:var(--soft)}.given{fill:var(--given)}.grid{stroke:var(--rule)}.mark{stroke:var(--soft)}.line{stroke:var(--blue)}.other{stroke:var(--red)}
.dot,.bar{fill:var(--blue)}.area{fill:var(--blue);fill-opacity:.35;stroke:var(--blue)}.heat{fill:var(--heat);stroke:var(--edge)}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}th,td{text-align:right;padding:.2rem .8rem;border-bottom:1px solid var(--rule);white-space:nowrap}
th:first-child,td:first-child{text-align:left}summary{cursor:pointer;color:var(--blue)}
footer{margin-top:2.5rem;font-size:.85rem;color:var(--soft)}
@media print{body{padding:0;max-width:none;font-size:11pt}nav{display:none}h2,h2+p{break-after:avoid}.wide{break-inside:avoid}.wide{overflow:visible}svg{min-width:0}.bar,.dot,.area,.heat{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
";

/// All of it.
pub(crate) fn html(report: &Report) -> String {
    let mut page = String::new();
    head(report, &mut page);
    answers(report, &mut page);
    curve(report, &mut page);
    timeline(report, &mut page);
    week(report, &mut page);
    sizes(report, &mut page);
    outages(report, &mut page);
    deployment(report, &mut page);
    foot(report, &mut page);
    page
}

fn add(page: &mut String, what: &str) {
    page.push_str(what);
    page.push('\n');
}

/// Text of others, safe between tags and in attributes.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

fn head(r: &Report, page: &mut String) {
    let devices = if r.devices.is_empty() { "a trace".to_owned() } else { escaped(&names(&r.devices)) };
    let begins = r.begins.as_ref().map_or_else(String::new, |b| format!(", from {b}"));
    add(page, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    add(page, "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">");
    // An icon of nothing: else a browser asks the folder for one.
    add(page, "<link rel=\"icon\" href=\"data:,\">");
    add(page, &format!("<title>What recovery {devices} can have</title><style>{STYLE}</style></head><body>"));
    add(page, &format!("<h1>What recovery {devices} can have</h1>"));
    let w = &r.writes;
    add(
        page,
        &format!(
            "<p>{}{begins}: {} writes, {}; mean {}, busiest second {}.</p>",
            time_text(r.duration_seconds),
            w.count,
            bytes_text(w.bytes as f64),
            rate_text(w.mean_bytes_per_second),
            bytes_text(w.peak_1s_bytes_per_second as f64)
        ),
    );
    add(page, &format!("<p class=\"note\">How sure: {}.</p>", escaped(r.confidence_note)));
    quality(r, page);
    add(
        page,
        "<nav aria-label=\"Parts\"><a href=\"#answers\">Answers</a><a href=\"#bandwidth\">Bandwidth</a><a href=\"#time\">Over time</a><a href=\"#sizes\">Sizes</a><a href=\"#outages\">Outages</a><a href=\"#deployment\">First copy and recovery</a></nav><main>",
    );
}

/// The first few, and how many more.
fn names(devices: &[String]) -> String {
    let shown = devices.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
    if devices.len() > 4 { format!("{shown} and {} more", devices.len() - 4) } else { shown }
}

fn quality(r: &Report, page: &mut String) {
    let q = &r.quality;
    if q.rejected + q.backwards + q.lost_events > 0 || q.lost_seconds > 0.0 {
        let lost = time_text(q.lost_seconds);
        add(
            page,
            &format!(
                "<p class=\"note\">Not all is sound: {} lines rejected, {} I/Os out of order, {} lost, {lost} not recorded.</p>",
                q.rejected, q.backwards, q.lost_events
            ),
        );
    }
}

fn answers(r: &Report, page: &mut String) {
    add(page, "<section id=\"answers\"><h2>Seven questions</h2><ol class=\"answers\">");
    for (n, answer) in r.answers.iter().enumerate() {
        let number = answer.number.map_or_else(|| "–".to_owned(), |number| figure(number, answer.unit));
        add(
            page,
            &format!(
                "<li><h3>{}. {}</h3><strong>{}</strong><p>{}</p></li>",
                n + 1,
                escaped(answer.question),
                escaped(&number),
                escaped(&answer.sentence)
            ),
        );
    }
    add(page, "</ol></section>");
}

/// A rate in bits alone.
fn short_rate(bytes_per_second: f64) -> String {
    rate_text(bytes_per_second).split(" (").next().unwrap_or("").to_owned()
}

/// The number of an answer, short.
fn figure(number: f64, unit: &str) -> String {
    match unit {
        "bytes/s" => short_rate(number),
        "bytes" => bytes_text(number),
        "s" => time_text(number),
        _ => format!("{:.1} %", number * 100.0),
    }
}

/// A drawing or table that is wider than a small screen: it scrolls in itself, by keyboard too.
fn wide(page: &mut String, label: &str, what: &str) {
    add(
        page,
        &format!("<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{label}\">{what}</div>"),
    );
}

/// A table with a head.
fn table(page: &mut String, label: &str, head: &[String], rows: &[Vec<String>]) {
    let mut text = String::from("<table><thead><tr>");
    for cell in head {
        let _ = write!(text, "<th scope=\"col\">{cell}</th>");
    }
    text.push_str("</tr></thead><tbody>\n");
    for row in rows {
        text.push_str("<tr>");
        for cell in row {
            let _ = write!(text, "<td>{cell}</td>");
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</tbody></table>");
    wide(page, label, &text);
}

fn owned<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn curve(r: &Report, page: &mut String) {
    add(page, "<section id=\"bandwidth\"><h2>The smallest link for an RPO</h2><figure>");
    wide(page, "The smallest link over the RPO", &chart::curve(r));
    add(
        page,
        "<figcaption>Every byte written was at the other side within the RPO with this link, and was not with a link 1 % smaller. Both axes are logarithmic.</figcaption></figure>",
    );
    add(page, "<details open><summary>As numbers, by the share of the time</summary>");
    let shares: Vec<f64> = {
        let first = r.required_bandwidth.first().map(|q| q.rpo_seconds);
        r.required_bandwidth.iter().filter(|q| Some(q.rpo_seconds) == first).map(|q| q.coverage).collect()
    };
    let mut head = owned(["RPO"]);
    head.extend(shares.iter().map(|share| format!("{} %", (share * 1e5).round() / 1e3)));
    head.push("100 %, I/O by I/O".to_owned());
    let rows: Vec<Vec<String>> = r
        .required_bandwidth
        .chunks(shares.len().max(1))
        .map(|of_rpo| {
            let mut row: Vec<String> = of_rpo.first().map(|q| time_text(q.rpo_seconds)).into_iter().collect();
            row.extend(of_rpo.iter().map(|q| short_rate(q.bytes_per_second)));
            let exact = of_rpo.iter().find_map(|q| q.bytes_per_second_exact);
            row.push(exact.map_or_else(|| "–".to_owned(), short_rate));
            row
        })
        .collect();
    table(page, "The smallest link in numbers", &head, &rows);
    add(page, "</details></section>");
}

fn timeline(r: &Report, page: &mut String) {
    add(page, "<section id=\"time\"><h2>Writes over time</h2><figure>");
    wide(page, "Writes over time", &chart::writes(r));
    add(
        page,
        "<figcaption>Filled: the mean of each stretch. The line above: its busiest second. The rates are logarithmic.</figcaption></figure>",
    );
    if let Some(link) = &r.link {
        let rpo = link.achievable_rpo_seconds.map_or_else(
            || "no RPO: it never catches up".to_owned(),
            |s| format!("an RPO of {}", time_text(s)),
        );
        add(
            page,
            &format!(
                "<h2>How far the link would have been behind</h2><p>{} give {rpo}.</p><figure>",
                rate_text(link.mean_bytes_per_second)
            ),
        );
        wide(page, "Lag over time", &chart::lag(r, link));
        add(page, "<figcaption>The longest lag of each stretch.</figcaption></figure>");
        violations(link, page);
    }
    add(page, "</section>");
}

fn week(r: &Report, page: &mut String) {
    if let Some(week) = &r.week {
        add(page, "<section><h2>Day and week</h2><figure>");
        wide(page, "Writes by hour of the week", &chart::heat(week));
        add(
            page,
            "<figcaption>Bytes written by hour of the week, UTC; the stronger the colour, the more; an empty hour has none.</figcaption></figure></section>",
        );
    }
}

fn sizes(r: &Report, page: &mut String) {
    add(page, "<section id=\"sizes\"><h2>Sizes of writes</h2><figure>");
    wide(page, "Sizes of writes", &chart::bars(&r.write_sizes, "Writes by size", &|v| bytes_power(v)));
    add(
        page,
        &format!(
            "<figcaption>By powers of two. {:.1} % went on where the write before ended.</figcaption></figure>",
            r.writes.sequential_share * 100.0
        ),
    );
    if !r.latency_nanos.is_empty() {
        add(page, "<h2>Latencies</h2><figure>");
        wide(page, "Latencies", &chart::bars(&r.latency_nanos, "I/Os by latency", &|v| time_power(v)));
        add(page, "<figcaption>By powers of two, from the trace.</figcaption></figure>");
    }
    if let Some(c) = &r.coalescing {
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        add(
            page,
            &format!(
                "<p>Of the blocks written, one point a second keeps {}, one a minute {}, one an hour {}, one a day {}. The distinct blocks are {} or so.</p>",
                percent(c.second),
                percent(c.minute),
                percent(c.hour),
                percent(c.day),
                bytes_text(c.working_set_bytes)
            ),
        );
    }
    add(page, "</section>");
}

fn bytes_power(value: u64) -> String {
    match value {
        0..1024 => format!("{value} B"),
        1024..1_048_576 => format!("{} KiB", value >> 10),
        _ => format!("{} MiB", value >> 20),
    }
}

fn time_power(nanos: u64) -> String {
    match nanos {
        0..1000 => format!("{nanos} ns"),
        1000..1_000_000 => format!("{} µs", nanos / 1000),
        1_000_000..1_000_000_000 => format!("{} ms", nanos / 1_000_000),
        _ => format!("{} s", nanos / 1_000_000_000),
    }
}

/// How often the link breaks each RPO.
fn violations(link: &LinkFigures, page: &mut String) {
    let rows: Vec<Vec<String>> = link
        .kept
        .iter()
        .map(|kept| {
            let longest = kept.longest.first();
            let of_longest =
                |text: &dyn Fn(&ViolationFigures) -> String| longest.map_or_else(|| "–".to_owned(), text);
            vec![
                time_text(kept.rpo_seconds),
                kept.violations.to_string(),
                time_text(kept.broken_seconds as f64),
                of_longest(&|v| time_text(v.seconds as f64)),
                of_longest(&|v| format!("+{}", time_text(v.start_seconds as f64))),
                of_longest(&|v| v.peak_lag_seconds.map_or_else(|| "never caught up".to_owned(), time_text)),
            ]
        })
        .collect();
    let head = owned(["RPO", "Times broken", "In all", "Longest", "Begins at", "Lag at its worst"]);
    table(page, "How often the link breaks an RPO", &head, &rows);
}

fn outages(r: &Report, page: &mut String) {
    add(page, "<section id=\"outages\"><h2>When the link is away</h2>");
    let rows: Vec<Vec<String>> = r
        .outages
        .iter()
        .map(|o| {
            vec![
                time_text(o.seconds as f64),
                bytes_text(o.spool_bytes as f64),
                format!("+{}", time_text(o.worst_begins_seconds as f64)),
                o.catch_up_seconds.map_or_else(|| "–".to_owned(), time_text),
            ]
        })
        .collect();
    let head = owned(["Outage", "Spool at its worst", "Begins at", "Caught up in"]);
    table(page, "Outages", &head, &rows);
    add(page, "</section>");
}

fn deployment(r: &Report, page: &mut String) {
    add(page, "<section id=\"deployment\">");
    if let Some(initial) = initial_text(r) {
        add(page, &format!("<h2>The first copy</h2><p>{}</p>", escaped(&initial)));
    }
    add(page, &format!("<h2>Recovery</h2><p>{}</p></section>", escaped(&recovery_text(r))));
}

fn foot(r: &Report, page: &mut String) {
    let sources = escaped(&names(&r.sources));
    let trend = r.trend.map_or_else(
        || "No forecast: it takes 14 days.".to_owned(),
        |t| {
            let (low, high) = t.growth_per_day_interval;
            let signed = |b: f64| format!("{}{}", if b < 0.0 { "−" } else { "+" }, bytes_text(b.abs()));
            format!(
                "A day writes {}; each day {} more (the middle 80 % of the days' slopes: {} to {}).",
                bytes_text(t.bytes_per_day),
                signed(t.growth_per_day),
                signed(low),
                signed(high)
            )
        },
    );
    add(
        page,
        &format!(
            "</main><footer><p>{trend}</p><p>Recorded as: {sources}. Made by chronogate-analyzer ({}).</p></footer></body></html>",
            r.schema
        ),
    );
}

#[cfg(test)]
mod tests {
    use analyzer_profile::Profile;
    use analyzer_profile::report::Question;

    use super::*;

    #[test]
    fn names_of_others_stay_text_and_an_empty_trace_is_a_page() {
        let mut report = Report::of(&mut Profile::new(&[]), &Question::default());
        report.devices = vec!["<script>alert(1)</script>\"".to_owned()];
        let page = html(&report);
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script"), "{page}");
        assert!(!page.contains("NaN") && !page.contains("http"), "{page}");
    }
}
