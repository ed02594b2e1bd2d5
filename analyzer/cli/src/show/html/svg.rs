//! Axes and marks: values onto the paper of an SVG.

/// The paper, in its own units.
pub(super) const WIDTH: f64 = 900.0;
pub(super) const HEIGHT: f64 = 300.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 32.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 34.0;

/// A straight axis or a logarithmic one.
#[derive(Clone, Copy)]
pub(super) struct Axis {
    from: f64,
    to: f64,
    log: bool,
}

impl Axis {
    /// From 0 to `to`.
    pub(super) fn linear(to: f64) -> Self {
        Self { from: 0.0, to: if to > 0.0 { to } else { 1.0 }, log: false }
    }

    /// Over all values above nothing, out to whole powers of ten; four of them at most.
    pub(super) fn log(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) =
            values.filter(|v| *v > 0.0).fold((f64::MAX, 0.0_f64), |(l, h), v| (l.min(v), h.max(v)));
        let to = if high > 0.0 { 10_f64.powf(high.log10().ceil()) } else { 1.0 };
        let from = if high > 0.0 { 10_f64.powf(low.log10().floor()) } else { 0.1 };
        Self { from: from.max(to / 1e4).min(to / 10.0), to, log: true }
    }

    /// As it is, logarithmic.
    pub(super) const fn log_between(from: f64, to: f64) -> Self {
        Self { from, to, log: true }
    }

    /// 0 to 1.
    fn place(self, value: f64) -> f64 {
        let value = value.clamp(self.from, self.to);
        if self.log {
            (value / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        }
    }

    fn ticks(self) -> Vec<f64> {
        if !self.log {
            return (0..=4).map(|n| self.to * f64::from(n) / 4.0).collect();
        }
        let mut tick = self.from;
        let mut all = Vec::new();
        while tick <= self.to * 1.001 && all.len() < 12 {
            all.push(tick);
            tick *= 10.0;
        }
        all
    }
}

/// A drawing with two axes.
pub(super) struct Chart {
    body: String,
    x: Axis,
    y: Axis,
}

impl Chart {
    /// The frame: `label` says what it shows to those who do not see it.
    pub(super) fn new(label: &str, x: Axis, y: Axis) -> Self {
        let body = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{label}\" font-family=\"sans-serif\" font-size=\"12\"><title>{label}</title>"
        );
        Self { body, x, y }
    }

    pub(super) fn x(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)
    }

    pub(super) fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.place(value) * (HEIGHT - TOP - BOTTOM)
    }

    /// Lines across at the ticks of the height, with their text.
    pub(super) fn y_ticks(&mut self, text: &dyn Fn(f64) -> String) {
        self.y_ticks_at(&self.y.ticks(), text);
    }

    /// Lines across at these heights, with their text.
    pub(super) fn y_ticks_at(&mut self, at: &[f64], text: &dyn Fn(f64) -> String) {
        for &tick in at {
            let y = self.y(tick);
            self.add(&format!("<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" class=\"grid\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" class=\"tick\">{}</text>", WIDTH - RIGHT, LEFT - 6.0, y + 4.0, text(tick)));
        }
    }

    /// Texts under the width.
    pub(super) fn x_ticks(&mut self, at: &[f64], text: &dyn Fn(f64) -> String) {
        for &tick in at {
            let x = self.x(tick);
            let y = HEIGHT - BOTTOM;
            self.add(&format!("<line x1=\"{x:.1}\" y1=\"{y}\" x2=\"{x:.1}\" y2=\"{}\" class=\"mark\"/><text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" class=\"tick\">{}</text>", y + 5.0, y + 20.0, text(tick)));
        }
    }

    /// A line through points.
    pub(super) fn line(&mut self, points: &[(f64, f64)], style: &str) {
        let path = self.path(points);
        self.add(&format!("<polyline points=\"{path}\" fill=\"none\" {style}/>"));
    }

    /// The area under points.
    pub(super) fn area(&mut self, points: &[(f64, f64)], style: &str) {
        let (Some(first), Some(last)) = (points.first(), points.last()) else { return };
        let floor = HEIGHT - BOTTOM;
        let (from, to) = (self.x(first.0), self.x(last.0));
        let path = self.path(points);
        self.add(&format!("<polygon points=\"{from:.1},{floor} {path} {to:.1},{floor}\" {style}/>"));
    }

    /// A dot with what it says when pointed at.
    pub(super) fn dot(&mut self, (x, y): (f64, f64), text: &str) {
        let (x, y) = (self.x(x), self.y(y));
        self.add(&format!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" class=\"dot\"><title>{text}</title></circle>"
        ));
    }

    fn path(&self, points: &[(f64, f64)]) -> String {
        points
            .iter()
            .map(|&(x, y)| format!("{:.1},{:.1}", self.x(x), self.y(y)))
            .collect::<Vec<_>>()
            .join(" ")
    }

    pub(super) fn add(&mut self, what: &str) {
        self.body.push_str(what);
        self.body.push('\n');
    }

    pub(super) fn done(mut self) -> String {
        self.body.push_str("</svg>");
        self.body
    }
}
