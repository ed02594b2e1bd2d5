//! The drawings of the report.

use analyzer_profile::report::{LinkFigures, Report, bytes_text, rate_text, time_text};

use super::svg::{Axis, Chart, WIDTH};

const BLUE: &str = "class=\"line\" stroke-width=\"2\"";
const VERMILION: &str = "class=\"other\" stroke-width=\"1.5\" stroke-dasharray=\"5 3\"";

/// A rate in bits, as the axes have it, so that their decades are round.
fn rate(bits_per_second: f64) -> String {
    rate_text(bits_per_second / 8.0).split(" (").next().unwrap_or("").to_owned()
}

/// Round times, five to ten of them.
fn time_ticks(end: f64) -> Vec<f64> {
    const STEPS: [f64; 16] = [
        1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 10_800.0, 21_600.0, 43_200.0,
        86_400.0, 172_800.0, 604_800.0,
    ];
    let step = STEPS.into_iter().find(|step| end / step <= 8.0).unwrap_or_else(|| (end / 8.0).ceil());
    (0..9).map(|n| f64::from(n) * step).take_while(|&tick| tick <= end).collect()
}

/// C*(R).
pub(super) fn curve(r: &Report) -> String {
    let points: Vec<_> = r.curve.iter().map(|p| (p.rpo_seconds, p.bytes_per_second * 8.0)).collect();
    let y = Axis::log(points.iter().map(|p| p.1));
    let mut chart = Chart::new("The smallest link over the RPO", Axis::log_between(1.0, 3600.0), y);
    chart.y_ticks(&rate);
    chart.x_ticks(&[1.0, 5.0, 15.0, 60.0, 300.0, 1200.0, 3600.0], &time_text);
    chart.line(&points, BLUE);
    for &point in &points {
        chart.dot(point, &format!("RPO {}: {}", time_text(point.0), rate_text(point.1 / 8.0)));
    }
    if let Some(link) = &r.link {
        let given = link.mean_bytes_per_second * 8.0;
        chart.line(&[(1.0, given), (3600.0, given)], VERMILION);
        let (x, y) = (chart.x(3600.0) - 4.0, chart.y(given) - 5.0);
        chart.add(&format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"end\" class=\"given\">the given link, {}</text>",
            rate(given)
        ));
    }
    chart.done()
}

/// Mean and busiest second of each stretch.
pub(super) fn writes(r: &Report) -> String {
    let peaks: Vec<_> =
        r.timeline.iter().map(|s| (s.start_seconds as f64, s.peak_bytes_per_second as f64 * 8.0)).collect();
    let means: Vec<_> =
        r.timeline.iter().map(|s| (s.start_seconds as f64, s.mean_bytes_per_second * 8.0)).collect();
    let mut chart = over_time(
        "Bytes written per second over time",
        r,
        Axis::log(peaks.iter().chain(&means).map(|p| p.1)),
    );
    chart.y_ticks(&rate);
    chart.area(&means, "class=\"area\"");
    chart.line(&peaks, "class=\"other\" stroke-width=\"1\"");
    chart.done()
}

/// The longest lag of each stretch; one that never ends is drawn at the top.
pub(super) fn lag(r: &Report, link: &LinkFigures) -> String {
    let worst = link.lag_timeline.iter().flatten().copied().fold(0.0, f64::max);
    let lags = link.lag_timeline.iter().map(|lag| lag.unwrap_or(worst));
    let points: Vec<_> = r.timeline.iter().map(|s| s.start_seconds as f64).zip(lags).collect();
    let mut chart = over_time("Lag over time", r, Axis::linear(worst));
    chart.y_ticks_at(&time_ticks(worst), &time_text);
    chart.area(&points, "class=\"area\"");
    chart.done()
}

fn over_time(label: &str, r: &Report, y: Axis) -> Chart {
    let end = r.timeline.last().map_or(1.0, |s| s.start_seconds as f64).max(1.0);
    let mut chart = Chart::new(label, Axis::linear(end), y);
    chart.x_ticks(&time_ticks(end), &|s| if s > 0.0 { format!("+{}", time_text(s)) } else { "0".to_owned() });
    chart
}

/// Hours by weekdays.
pub(super) fn heat(week: &[f64]) -> String {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let most = week.iter().copied().fold(0.0, f64::max);
    let (cell, high) = ((WIDTH - 60.0) / 24.0, 26.0);
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} 215\" role=\"img\" aria-label=\"Bytes written by hour of the week\" font-family=\"sans-serif\" font-size=\"12\">"
    );
    for (day, (hours, name)) in week.chunks(24).zip(DAYS).enumerate() {
        let y = day as f64 * high;
        out.push_str(&format!("<text x=\"0\" y=\"{:.1}\" class=\"tick\">{name}</text>", y + 17.0));
        for (hour, &bytes) in hours.iter().enumerate() {
            // The root makes small differences among quiet hours visible.
            let share = if most > 0.0 { (bytes / most).sqrt() } else { 0.0 };
            out.push_str(&format!(
                "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" class=\"heat\" fill-opacity=\"{share:.3}\"><title>{name} {hour:02}:00: {}</title></rect>\n",
                40.0 + hour as f64 * cell, cell - 2.0, high - 2.0, bytes_text(bytes)
            ));
        }
    }
    for hour in [0, 6, 12, 18] {
        out.push_str(&format!(
            "<text x=\"{:.1}\" y=\"202\" class=\"tick\">{hour:02}:00</text>",
            40.0 + f64::from(hour) * cell
        ));
    }
    out + "</svg>"
}

/// A bar for each power of two.
pub(super) fn bars(buckets: &[(u64, u64)], label: &str, text: &dyn Fn(u64) -> String) -> String {
    let most = buckets.iter().map(|b| b.1).max().unwrap_or(1) as f64;
    let high = 24.0;
    let all = buckets.iter().map(|b| b.1).sum::<u64>().max(1) as f64;
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"{label}\" font-family=\"sans-serif\" font-size=\"12\">",
        (buckets.len() as f64 * high).max(high)
    );
    for (n, &(from, count)) in buckets.iter().enumerate() {
        let y = n as f64 * high;
        let width = count as f64 / most * (WIDTH - 260.0);
        out.push_str(&format!(
            "<text x=\"82\" y=\"{:.1}\" text-anchor=\"end\" class=\"tick\">{}</text><rect x=\"90\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\" class=\"bar\"/><text x=\"{:.1}\" y=\"{:.1}\" class=\"tick\">{count} ({:.1} %)</text>\n",
            y + 16.0, text(from), y + 4.0, high - 8.0, 96.0 + width, y + 16.0, count as f64 / all * 100.0
        ));
    }
    out + "</svg>"
}
