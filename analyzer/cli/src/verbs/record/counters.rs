//! Sums by the second from `/proc/diskstats`: no privilege, next to no cost.

use std::time::Duration;

use analyzer_profile::cgp::Record;
use analyzer_profile::live::diskstats::{Counters, of_device};
use analyzer_profile::{At, Bin};
use tap_block::WallTime;

use super::{Target, number};
use crate::failure::{Failure, say};

const FILE: &str = "/proc/diskstats";
/// A second without traffic is told all the same so often: it says that we were there.
const PULSE: u64 = 60;

/// See the module.
pub(super) struct Counting {
    devices: Vec<Counted>,
    /// Seconds are counted from here, so that no jitter puts two samples into one.
    begun: WallTime,
    /// The second that was told last.
    told: u64,
}

struct Counted {
    target: Target,
    before: Option<Counters>,
    /// Since when it has not been there.
    gone: Option<At>,
}

impl Counting {
    pub(super) fn new(targets: Vec<Target>, now: WallTime) -> Self {
        let text = std::fs::read_to_string(FILE).unwrap_or_default();
        let counted = |target: Target| Counted { before: of_device(&text, &target.name), target, gone: None };
        Self { devices: targets.into_iter().map(counted).collect(), begun: now, told: 0 }
    }

    /// The sums of the second that has just ended. Seconds that were missed (a stopped process, a busy machine) are in it: the
    /// peak is then higher than it was, never lower.
    pub(super) fn take(&mut self, now: WallTime) -> Result<Vec<Record>, Failure> {
        let nearest = (now.since(self.begun) + Duration::from_millis(500)).as_secs();
        Ok(if nearest > self.told { self.sums(&read()?, nearest) } else { Vec::new() })
    }

    /// What came since, as a second of its own: there is no later one.
    pub(super) fn last(&mut self) -> Result<Vec<Record>, Failure> {
        Ok(self.sums(&read()?, self.told + 1))
    }

    fn sums(&mut self, text: &str, nearest: u64) -> Vec<Record> {
        let pulse = nearest / PULSE != self.told / PULSE || self.told == 0;
        self.told = nearest;
        let at = self.begun.plus(Duration::from_secs(nearest - 1));
        let mut records = Vec::new();
        for (n, device) in self.devices.iter_mut().enumerate() {
            let (bin, loss) = device.step(text, at);
            records.extend(loss);
            if pulse || bin != Bin::default() {
                records.push(Record::Counters { at, device: number(n), bin });
            }
        }
        records
    }
}

fn read() -> Result<String, Failure> {
    let failed =
        |e| Failure::new(format!("cannot read {FILE}")).because(e).fix("is this Linux with /proc mounted?");
    std::fs::read_to_string(FILE).map_err(failed)
}

impl Counted {
    /// The second's traffic, and what was not seen before it.
    fn step(&mut self, text: &str, at: At) -> (Bin, Option<Record>) {
        let Some(now) = of_device(text, &self.target.name) else {
            if self.gone.is_none() {
                say(&format!(
                    "{} has gone; recording goes on with the others, and with it when it is back",
                    self.target.name
                ));
                self.gone = Some(at);
            }
            self.before = None;
            return (Bin::default(), None);
        };
        let bin = self.before.and_then(|before| now.since(&before));
        let unseen = self.gone.take().or_else(|| (self.before.is_some() && bin.is_none()).then_some(at));
        self.before = Some(now);
        let loss = unseen.map(|from| Record::Loss { from, to: at.plus(Duration::from_secs(1)), events: 0 });
        (bin.unwrap_or_default(), loss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(writes: u64) -> String {
        format!("   8 0 sda 1 0 8 0 {writes} 0 {} 0 0 0 0\n", writes * 8)
    }

    #[test]
    fn seconds_are_told_once_and_a_device_that_comes_back_begins_anew() {
        let target = Target {
            name: "sda".into(),
            number: 0,
            size: 0,
            part: None,
            below: std::collections::BTreeSet::new(),
        };
        let begun = WallTime::from_nanos(1_700_000_000_000_000_000);
        let mut counting = Counting::new(vec![target], begun);
        counting.devices[0].before = of_device(&text(100), "sda");
        let mut sums = |text: &str, second| {
            let records = counting.sums(text, second);
            records
                .iter()
                .map(|r| match r {
                    Record::Counters { at, bin, .. } => (at.since(begun).as_secs(), u64::from(bin.writes)),
                    Record::Loss { from, to, .. } => (to.since(*from).as_secs(), 0),
                    other => panic!("{other:?}"),
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(sums(&text(110), 1), [(0, 10)]);
        assert_eq!(sums(&text(111), 2), [(1, 1)]);
        assert_eq!(sums(&text(111), 3), [], "no traffic");
        assert_eq!(sums(&text(131), 6), [(5, 20)], "late: what was missed is in it");
        assert_eq!(sums("", 7), []);
        assert_eq!(sums(&text(7), 9), [(3, 0)], "back: a loss from 6 to 9, no traffic is made up");
        assert_eq!(sums(&text(9), 10), [(9, 2)]);
    }
}
