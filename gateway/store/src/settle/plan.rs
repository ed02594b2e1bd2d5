//! What a pass takes on.

use gateway_image::retention::{Special, Thinner};
use gateway_journal::{Generation, RetentionPolicy, SegmentId};
use tap_block::WallTime;
use tap_block::units::count;

use super::Pressure;
use crate::store::Shared;
use crate::sync::read;
use crate::tail::{GroupInfo, Published};

/// More generations than this make reads of settled history dear.
const MOST_GENERATIONS: usize = 12;
/// So many generations of about one size become one.
const ALIKE: usize = 4;
/// Points that have to go before a pass is made for their sake alone: this many, and a quarter of all.
const WORTH_A_PASS: usize = 32;

/// See the module.
pub(super) struct Plan {
    /// Groups of the log, the oldest that are not settled.
    pub(super) groups: Vec<GroupInfo>,
    /// The youngest generations, rewritten with them; oldest first.
    pub(super) merged: Vec<Generation>,
    /// The generations that stay as they are; oldest first.
    pub(super) untouched: Vec<Generation>,
}

impl Plan {
    /// The next pass; `None` when none is worth it.
    pub(super) fn choose(shared: &Shared, now: WallTime, pressure: Pressure) -> Option<Self> {
        let published = read(&shared.published);
        let groups = old_groups(&published, now, pressure, shared.config.settle_versions);
        let (mut untouched, mut merged) = (published.layout.generations.clone(), Vec::new());
        if groups.is_empty() {
            let worth = pressure == Pressure::Purge || expired(&published, now);
            if untouched.is_empty() || !worth || !published.layout.lost.is_empty() {
                return None;
            }
            std::mem::swap(&mut untouched, &mut merged);
            return Some(Self { groups, merged, untouched });
        }
        let segment = u64::from(shared.config.segment_len);
        let end = groups.last().map_or(SegmentId::new(0), |g| g.through.0);
        let mut fresh = segment * count(shared.segments.count_to(end));
        if !published.layout.lost.is_empty() {
            // What is missing there would be missing for good, and nobody would know.
            return Some(Self { groups, merged, untouched });
        }
        while let Some(n) = alike(&untouched, fresh) {
            let young = untouched.split_off(untouched.len() - n);
            fresh += young.iter().map(|g| g.bytes).sum::<u64>();
            merged.splice(0..0, young);
        }
        while untouched.len() >= MOST_GENERATIONS
            && let Some(last) = untouched.pop()
        {
            merged.insert(0, last);
        }
        Some(Self { groups, merged, untouched })
    }
}

/// How many of the youngest generations are rewritten with `fresh` bytes: those of up to twice the size, once there are
/// enough of them. So each byte is written again only when there is [`ALIKE`] times as much beside it.
fn alike(generations: &[Generation], fresh: u64) -> Option<usize> {
    let young = generations.iter().rev().take_while(|g| g.bytes <= fresh.saturating_mul(2)).count();
    (young + 1 >= ALIKE).then_some(young)
}

/// The oldest groups of which every record is older than all that policies keep whole.
fn old_groups(
    published: &Published,
    now: WallTime,
    pressure: Pressure,
    most_versions: u64,
) -> Vec<GroupInfo> {
    let rules = published.catalogue.rules();
    let held = rules.held_from(now);
    let mut groups = Vec::new();
    let mut versions = 0u64;
    for group in &published.ingested {
        let whole = group.mins.iter().map(|(v, _)| rules.policy_of(*v).every_write).max();
        let whole = whole.unwrap_or_else(|| RetentionPolicy::default().every_write);
        let old = pressure > Pressure::None || now.since(group.received_at) > whole;
        let free = held.is_none_or(|from| group.received_at < from);
        versions = versions.saturating_add(group.versions);
        if !old || !free || (versions > most_versions && !groups.is_empty()) {
            break;
        }
        groups.push(group.clone());
    }
    groups
}

/// Have so many kept points outlived their tier that rewriting what is settled pays?
fn expired(published: &Published, now: WallTime) -> bool {
    let rules = published.catalogue.rules();
    let (mut all, mut old) = (0usize, 0usize);
    for (volume, kept) in &published.layout.kept {
        let policy = rules.policy_of(*volume);
        let special = Special::default();
        let mut thinner = Thinner::new(&policy, &special, now, None);
        kept.points.iter().for_each(|p| thinner.offer(*p));
        all += kept.points.len();
        let named = rules.pins_of(*volume).count()
            + published.catalogue.volume(*volume).map_or(0, |v| v.bookmarks().count());
        old += kept.points.len().saturating_sub(thinner.finish().len()).saturating_sub(named);
    }
    old >= WORTH_A_PASS && old >= all / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_rewritten_once_for_each_time_history_grows_fourfold() {
        let (mut generations, mut written): (Vec<Generation>, u64) = (Vec::new(), 0);
        for settle in 1..=256 {
            let mut bytes = 1;
            while let Some(n) = alike(&generations, bytes) {
                bytes += generations.drain(generations.len() - n..).map(|g| g.bytes).sum::<u64>();
            }
            generations.push(Generation { settle, segments: Vec::new(), bytes, versions: 0 });
            written += bytes;
            assert!(generations.len() <= MOST_GENERATIONS, "{generations:?}");
        }
        assert!(written <= 256 * 5, "{written} for 256");
    }
}
