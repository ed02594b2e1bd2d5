//! `devices`: what there is to record.

use analyzer_profile::live::diskstats::devices;
use analyzer_profile::report::bytes_text;

use super::record::all;
use crate::failure::Failure;
use crate::show;

/// Lists the disks of this machine, what was written to each since boot, and what lies on what
#[derive(Debug, clap::Args)]
pub struct DevicesArgs {}

impl DevicesArgs {
    #[allow(clippy::unused_self, reason = "as every verb")]
    pub(super) fn run(self) -> Result<(), Failure> {
        let text = std::fs::read_to_string("/proc/diskstats").map_err(|e| {
            Failure::new("cannot read /proc/diskstats").because(e).fix("is this Linux with /proc mounted?")
        })?;
        let counters: std::collections::HashMap<_, _> = devices(&text).collect();
        let mut rows = vec![["NAME", "SIZE", "WRITTEN", "WRITES", "LIES ON"].map(str::to_owned).to_vec()];
        for target in all().into_iter().filter(|t| t.size > 0) {
            let sums = counters.get(target.name.as_str()).copied().unwrap_or_default();
            rows.push(vec![
                target.name.clone(),
                bytes_text(target.size as f64),
                bytes_text(sums.write_bytes as f64),
                sums.writes.to_string(),
                if target.below.is_empty() {
                    "-".to_owned()
                } else {
                    target.below.iter().cloned().collect::<Vec<_>>().join(" ")
                },
            ]);
        }
        show::print(&show::aligned(&rows))
    }
}
