//! OpenMetrics text. What is unknown has no sample: a missing line alarms, an invented number does not.

use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};

use cx_api::{StatusView, VolumeState, VolumeView};

/// The media type.
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Requests answered, by class of status.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    success: AtomicU64,
    client: AtomicU64,
    server: AtomicU64,
}

impl Requests {
    pub(crate) fn count(&self, status: u16) {
        let counter = match status {
            ..400 => &self.success,
            400..500 => &self.client,
            _ => &self.server,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn samples(&self) -> [(&'static str, u64); 3] {
        [("2xx", &self.success), ("4xx", &self.client), ("5xx", &self.server)]
            .map(|(class, counter)| (class, counter.load(Ordering::Relaxed)))
    }
}

const STATES: [VolumeState; 8] = [
    VolumeState::Baseline,
    VolumeState::Protected,
    VolumeState::Spooling,
    VolumeState::Bitmap,
    VolumeState::Resync,
    VolumeState::Stopped,
    VolumeState::Fenced,
    VolumeState::Unknown,
];

/// The whole page. `more` holds families of the gateway's own, without `# EOF`.
pub(crate) fn render(status: &StatusView, requests: &Requests, more: &str) -> String {
    let mut page = Page(String::with_capacity(4096));
    volumes(&mut page, &status.volumes);
    page.single("chronogate_images", "gauge", "Images that exist.", status.images);
    page.single("chronogate_jobs_running", "gauge", "Jobs at work.", status.jobs_running);
    page.single("chronogate_nbd_connections", "gauge", "Open NBD connections.", status.nbd_connections);
    let journal = &status.journal;
    page.single("chronogate_journal_segments", "gauge", "Segment files in use.", journal.segments);
    page.single("chronogate_journal_bytes", "gauge", "Bytes that segments take.", journal.bytes);
    page.single("chronogate_journal_damaged", "gauge", "Places found damaged.", journal.damaged);
    if let Some(free) = journal.free_bytes {
        page.single("chronogate_journal_free_bytes", "gauge", "Bytes free beside the segments.", free);
    }
    page.family("chronogate_journal_records", "counter", "Records made durable.");
    page.line("chronogate_journal_records_total", "", journal.records);
    page.family("chronogate_http_requests", "counter", "HTTP requests answered.");
    for (class, n) in requests.samples() {
        page.line("chronogate_http_requests_total", &format!("{{class=\"{class}\"}}"), n);
    }
    page.0.push_str(more);
    page.0.push_str("# EOF\n");
    page.0
}

fn volumes(page: &mut Page, volumes: &[VolumeView]) {
    page.per_volume("chronogate_volume_bytes", "Size.", volumes, |v| Some(v.size));
    let behind = "Age of the newest point that is durable here.";
    page.per_volume("chronogate_volume_lag_seconds", behind, volumes, |v| v.lag_seconds);
    page.per_volume("chronogate_volume_lag_bytes", "Bytes not durable here yet.", volumes, |v| v.lag_bytes);
    let taken = "Bytes that its history takes in the journal.";
    page.per_volume("chronogate_volume_history_bytes", taken, volumes, |v| Some(v.history_bytes));
    let limit = "Bytes that its history may take.";
    page.per_volume("chronogate_volume_history_limit_bytes", limit, volumes, |v| {
        v.history_limit.map(|limit| limit.bytes)
    });
    let durable = "The last LSN durable here.";
    page.per_volume("chronogate_volume_durable_lsn", durable, volumes, |v| Some(v.durable_lsn.get()));
    page.per_volume("chronogate_volume_gaps", "Stretches of history lost.", volumes, |v| Some(v.gaps.len()));
    page.family("chronogate_volume_resynced_bytes", "counter", "Bytes copied again by resyncs.");
    for v in volumes {
        page.line("chronogate_volume_resynced_bytes_total", &label(v), v.resynced_bytes);
    }
    page.family("chronogate_volume_state", "stateset", "What the tap is doing.");
    for v in volumes {
        for state in STATES {
            let labels = format!("{{volume=\"{}\",chronogate_volume_state=\"{}\"}}", v.name, state.as_str());
            page.line("chronogate_volume_state", &labels, u8::from(v.state == state));
        }
    }
}

/// Names need no escaping: their alphabet has neither quotes, backslashes nor line ends.
fn label(volume: &VolumeView) -> String {
    format!("{{volume=\"{}\"}}", volume.name)
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.0.push_str(&format!("# TYPE {name} {kind}\n# HELP {name} {help}\n"));
    }

    fn line(&mut self, name: &str, labels: &str, value: impl Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.family(name, kind, help);
        self.line(name, "", value);
    }

    fn per_volume<T: Display>(
        &mut self,
        name: &str,
        help: &str,
        volumes: &[VolumeView],
        value: impl Fn(&VolumeView) -> Option<T>,
    ) {
        self.family(name, "gauge", help);
        for (volume, value) in volumes.iter().filter_map(|v| Some((v, value(v)?))) {
            self.line(name, &label(volume), value);
        }
    }
}
