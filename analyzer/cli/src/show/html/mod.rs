//! The report as one HTML file: no script, no network. Drawings are SVG with their numbers in tables beside them; the
//! two colours are Okabe and Ito's blue and vermilion, told apart by every kind of sight, and by form as well; it prints on paper.

mod chart;
mod svg;

use std::fmt::Write as _;

use analyzer_profile::report::{Report, bytes_text, initial_text, rate_text, recovery_text, time_text};

const STYLE: &str = "
:root{color-scheme:light}
body{font:16px/1.5 system-ui,sans-serif;color:#1a1a1a;background:#fff;max-width:62rem;margin:0 auto;padding:1.5rem}
h1{font-size:1.6rem;line-height:1.2;margin:0 0 .3rem}h2{font-size:1.15rem;margin:2.2rem 0 .4rem}
nav{margin:.8rem 0 1.2rem}nav a{margin-right:1rem}a{color:#0072b2}a:focus-visible,summary:focus-visible{outline:3px solid #d55e00;outline-offset:2px}
.note{border-left:4px solid #d55e00;padding:.3rem .8rem;background:#faf3ee}
ol.answers{list-style:none;padding:0;display:grid;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr));gap:.8rem}
ol.answers li{border:1px solid #ccc;border-radius:6px;padding:.7rem .9rem;break-inside:avoid}
ol.answers h3{font-size:.85rem;font-weight:600;color:#555;margin:0}ol.answers strong{display:block;font-size:1.35rem;margin:.1rem 0;color:#0072b2}
ol.answers p{margin:0;font-size:.9rem}
figure{margin:.4rem 0;break-inside:avoid}figcaption{font-size:.85rem;color:#555}svg{width:100%;height:auto}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}th,td{text-align:right;padding:.2rem .8rem;border-bottom:1px solid #ddd}
th:first-child,td:first-child{text-align:left}summary{cursor:pointer;color:#0072b2}
footer{margin-top:2.5rem;font-size:.85rem;color:#555}
@media print{body{padding:0;max-width:none;font-size:11pt}nav{display:none}details{display:block}}
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

/// The number of an answer, short.
fn figure(number: f64, unit: &str) -> String {
    match unit {
        "bytes/s" => rate_text(number).split(" (").next().unwrap_or("").to_owned(),
        "bytes" => bytes_text(number),
        "s" => time_text(number),
        _ => format!("{:.1} %", number * 100.0),
    }
}

fn curve(r: &Report, page: &mut String) {
    add(page, "<section id=\"bandwidth\"><h2>The smallest link for an RPO</h2><figure>");
    add(page, &chart::curve(r));
    add(
        page,
        "<figcaption>Every byte written was at the other side within the RPO with this link, and was not with a link 1 % smaller. Both axes are logarithmic.</figcaption></figure>",
    );
    add(
        page,
        "<details open><summary>As numbers</summary><table><thead><tr><th scope=\"col\">RPO</th><th scope=\"col\">Of the time</th><th scope=\"col\">Link</th><th scope=\"col\">I/O by I/O</th></tr></thead><tbody>",
    );
    for q in &r.required_bandwidth {
        let exact = q.bytes_per_second_exact.map_or_else(|| "–".to_owned(), rate_text);
        let share = (q.coverage * 1e5).round() / 1e3;
        add(
            page,
            &format!(
                "<tr><td>{}</td><td>{share} %</td><td>{}</td><td>{exact}</td></tr>",
                time_text(q.rpo_seconds),
                rate_text(q.bytes_per_second)
            ),
        );
    }
    add(page, "</tbody></table></details></section>");
}

fn timeline(r: &Report, page: &mut String) {
    add(page, "<section id=\"time\"><h2>Writes over time</h2><figure>");
    add(page, &chart::writes(r));
    add(
        page,
        "<figcaption>Blue, filled: the mean of each stretch. Vermilion, the line above: its busiest second. The rates are logarithmic.</figcaption></figure>",
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
        add(page, &chart::lag(r, link));
        add(page, "<figcaption>The longest lag of each stretch.</figcaption></figure>");
    }
    add(page, "</section>");
}

fn week(r: &Report, page: &mut String) {
    if let Some(week) = &r.week {
        add(page, "<section><h2>Day and week</h2><figure>");
        add(page, &chart::heat(week));
        add(
            page,
            "<figcaption>Bytes written by hour of the week, UTC; darker is more, white is nothing.</figcaption></figure></section>",
        );
    }
}

fn sizes(r: &Report, page: &mut String) {
    add(page, "<section id=\"sizes\"><h2>Sizes of writes</h2><figure>");
    add(page, &chart::bars(&r.write_sizes, "Writes by size", &|v| bytes_power(v)));
    add(
        page,
        &format!(
            "<figcaption>By powers of two. {:.1} % went on where the write before ended.</figcaption></figure>",
            r.writes.sequential_share * 100.0
        ),
    );
    if !r.latency_nanos.is_empty() {
        add(page, "<h2>Latencies</h2><figure>");
        add(page, &chart::bars(&r.latency_nanos, "I/Os by latency", &|v| time_power(v)));
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

fn outages(r: &Report, page: &mut String) {
    add(
        page,
        "<section id=\"outages\"><h2>When the link is away</h2><table><thead><tr><th scope=\"col\">Outage</th><th scope=\"col\">Spool at its worst</th><th scope=\"col\">Begins at</th><th scope=\"col\">Caught up in</th></tr></thead><tbody>",
    );
    for o in &r.outages {
        let back = o.catch_up_seconds.map_or_else(|| "–".to_owned(), time_text);
        let mut row = String::new();
        let _ = write!(
            row,
            "<tr><td>{}</td><td>{}</td><td>+{}</td><td>{back}</td></tr>",
            time_text(o.seconds as f64),
            bytes_text(o.spool_bytes as f64),
            time_text(o.worst_begins_seconds as f64)
        );
        add(page, &row);
    }
    add(page, "</tbody></table></section>");
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
