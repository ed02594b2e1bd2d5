//! The journal's own numbers as OpenMetrics families, beside those that the HTTP layer makes of the status.

use std::fmt::Write as _;

use gateway_front::MemoryUse;
use gateway_store::StoreStatus;
use tap_block::units::count;

/// The families, without the closing line.
pub(crate) fn text(store: &StoreStatus, gates_overdue: u64) -> String {
    let counters = [
        ("commits", "Group commits since the start.", store.commits),
        ("batches", "Batches committed since the start.", store.batches),
        ("written_bytes", "Bytes written to segments since the start.", store.bytes_written),
        ("map_hits", "Region maps found in the cache.", store.map_hits),
        ("map_misses", "Region maps gathered.", store.map_misses),
        ("blocks_read", "Blocks read and checked.", store.blocks_read),
        ("blocks_ahead", "Blocks that the disk was told of before they were read.", store.blocks_ahead),
        ("blocks_damaged", "Blocks whose check failed.", store.blocks_damaged),
        ("gates_overdue", "Batches of points that went without their hook.", gates_overdue),
    ];
    let gauges = [
        ("queue_bytes", "Bytes that wait for their commit.", store.queue_bytes),
        ("tail_versions", "Versions not in the index yet.", store.tail_versions),
        ("index_groups", "Groups of versions in the index.", store.groups),
        ("failing", "1 while records are not taken.", u64::from(store.failing.is_some())),
    ];
    let mut out = String::new();
    for (name, help, value) in counters {
        family(&mut out, name, "counter", help, &format!("_total {value}"));
    }
    for (name, help, value) in gauges {
        family(&mut out, name, "gauge", help, &format!(" {value}"));
    }
    out
}

/// What clients hold of each front's memory for requests and replies; fronts by the names that sessions have for them.
pub(crate) fn clients(fronts: &[(&str, MemoryUse)]) -> String {
    let mut out = String::new();
    let mut tell = |name: &str, help: &str, value: fn(&MemoryUse) -> u64| {
        let name = format!("chronogate_clients_{name}");
        let _ = writeln!(out, "# TYPE {name} gauge\n# HELP {name} {help}");
        for (at, usage) in fronts {
            let _ = writeln!(out, "{name}{{at=\"{at}\"}} {}", value(usage));
        }
    };
    tell("memory_bytes", "Bytes that requests and replies of clients hold.", |usage| usage.held);
    tell("waiting_for_memory", "Clients whose next request waits for memory.", |usage| count(usage.waiting));
    out
}

fn family(out: &mut String, name: &str, kind: &str, help: &str, sample: &str) {
    let name = format!("chronogate_journal_{name}");
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# TYPE {name} {kind}\n# HELP {name} {help}\n{name}{sample}");
}
