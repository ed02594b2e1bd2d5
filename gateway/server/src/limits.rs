//! What each volume's history takes, against the limit of its policy: for views, forecasts and alerts.

use std::collections::BTreeMap;
use std::time::Duration;

use cx_api::{HistoryView, LimitState, LimitView, VolumeView};
use gateway_image::catalogue::Volume;
use gateway_journal::{Hold, RetentionPolicy};
use gateway_store::{HeldUp, HeldWhat, Store, VolumeBytes, VolumeLimit};
use tap_block::{Name, VolumeId, WallTime};

use crate::gateway::Gateway;

/// Less than this of uptime says nothing about a day.
pub(crate) const LEAST_UPTIME: Duration = Duration::from_secs(60);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// What every volume takes, looked up once.
#[derive(Debug, Clone)]
pub(crate) struct Histories {
    usage: BTreeMap<VolumeId, VolumeBytes>,
    limits: BTreeMap<VolumeId, VolumeLimit>,
}

impl Histories {
    pub(crate) fn of(store: &Store) -> Self {
        Self { usage: store.usage(), limits: store.limits() }
    }

    /// The view with what the volume's history takes.
    pub(crate) fn complete(&self, view: VolumeView) -> VolumeView {
        VolumeView { history_bytes: self.bytes(view.id).total(), history_limit: self.limit(view.id), ..view }
    }

    fn bytes(&self, volume: VolumeId) -> VolumeBytes {
        self.usage.get(&volume).copied().unwrap_or_default()
    }

    fn limit(&self, volume: VolumeId) -> Option<LimitView> {
        let state = |limit: &VolumeLimit| match limit.state {
            gateway_store::LimitState::Fits => LimitState::Fits,
            gateway_store::LimitState::Thinning => LimitState::Thinning,
            gateway_store::LimitState::Purging => LimitState::Purging,
            gateway_store::LimitState::Stuck => LimitState::Stuck,
            gateway_store::LimitState::Stopped => LimitState::Stopped,
        };
        self.limits.get(&volume).map(|limit| LimitView { bytes: limit.limit, state: state(limit) })
    }
}

impl Gateway {
    /// What a volume's history takes, and how it grows.
    pub(crate) fn history_view(
        &self,
        histories: &Histories,
        volume: &Volume,
        policy: &RetentionPolicy,
    ) -> HistoryView {
        let (now, bytes) = (self.clock.wall(), histories.bytes(volume.id()));
        let written = self.store.written(volume.stream());
        let rate = per_day(written, now.since(self.started));
        let limit = histories.limit(volume.id());
        let is_full = limit.is_some_and(|l| matches!(l.state, LimitState::Stopped | LimitState::Stuck));
        let full_at = match is_full {
            true => Some(now),
            false => policy.limit.zip(rate).and_then(|(limit, rate)| {
                full_at(now, bytes, limit, rate, self.kept_whole(volume.id(), policy))
            }),
        };
        HistoryView {
            log_bytes: bytes.log,
            settled_bytes: bytes.settled,
            limit,
            bytes_per_day: rate,
            full_at,
        }
    }

    /// What is to be said of volumes that are full, or will be within a day.
    pub(crate) fn limit_alerts(&self, histories: &Histories) -> Vec<String> {
        let (catalogue, now) = (self.store.catalogue(), self.clock.wall());
        let of = |volume: &std::sync::Arc<Volume>| {
            let policy = catalogue.rules().policy_of(volume.id());
            policy.limit?;
            let text = alert(volume.name(), &self.history_view(histories, volume, &policy), &policy, now)?;
            let holds = catalogue.rules().holds_of(volume.id(), self.store.age());
            Some(holds.fold(text, |text, hold| format!("{text}; {}", held(volume.name(), hold))))
        };
        catalogue.volumes().filter_map(of).collect()
    }

    /// What is to be said of holds of which not every point can be listed, or that keep a full store from making room.
    pub(crate) fn held_alerts(&self) -> Vec<String> {
        let catalogue = self.store.catalogue();
        let of = |up: HeldUp| Some(held_up(catalogue.volume(up.hold.volume)?.name(), &up));
        self.store.held_up().into_iter().filter_map(of).collect()
    }

    /// For how long all that is written to a volume from now on stays: as its policy says, or as a hold says.
    pub(crate) fn kept_whole(&self, volume: VolumeId, policy: &RetentionPolicy) -> Duration {
        let (catalogue, age) = (self.store.catalogue(), self.store.age());
        let begun = |hold: &&Hold| hold.from <= age;
        let held =
            catalogue.rules().holds_of(volume, age).filter(begun).map(|h| h.to.min(h.until).since(age));
        held.fold(policy.every_write, Duration::max)
    }
}

/// Bytes a day, when enough of one has gone by to say.
pub(crate) fn per_day(bytes: u64, up: Duration) -> Option<u64> {
    (up >= LEAST_UPTIME).then(|| bytes.saturating_mul(DAY.as_secs()) / up.as_secs())
}

/// Bytes that are written in so long a time.
pub(crate) const fn of_days(rate: u64, time: Duration) -> u128 {
    (rate as u128).saturating_mul(time.as_nanos()) / DAY.as_nanos()
}

/// When a volume reaches its limit; `None` when what is kept whole of it fits: the rest is thinned out.
fn full_at(now: WallTime, bytes: VolumeBytes, limit: u64, rate: u64, whole: Duration) -> Option<WallTime> {
    let whole = of_days(rate, whole);
    if rate == 0 || whole + u128::from(bytes.settled) <= u128::from(limit) {
        return None;
    }
    let room = limit.saturating_sub(bytes.total());
    let seconds = u128::from(room) * u128::from(DAY.as_secs()) / u128::from(rate);
    Some(now.plus(Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX))))
}

fn held(name: &Name, Hold { from, to, until, .. }: &Hold) -> String {
    format!("a hold keeps what was written to {name} from {from} to {to}, until {until}")
}

fn held_up(name: &Name, up: &HeldUp) -> String {
    let held = held(name, &up.hold);
    match up.what {
        HeldWhat::Times { most, apart } => format!(
            "{held}, and that is more than the {most} points that settled history lists one by one for holds: every point of it \
             stays and can be opened (lsn:N), but a time in it is only known to {} s",
            seconds_up(apart)
        ),
        HeldWhat::Room => {
            format!("{held}: until then it makes no room; make some, or raise the journal's limit")
        }
    }
}

/// In whole seconds, no fewer than there are.
fn seconds_up(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

fn alert(name: &Name, history: &HistoryView, policy: &RetentionPolicy, now: WallTime) -> Option<String> {
    let (limit, used) = (history.limit?, history.log_bytes + history.settled_bytes);
    let taken = format!("the history of {name} takes {used} of the {} bytes of its limit", limit.bytes);
    match limit.state {
        LimitState::Stopped => Some(format!(
            "{taken}, and no more of it is taken, as its policy says: raise the limit or keep less; what is written meanwhile \
             becomes a gap"
        )),
        LimitState::Stuck => Some(format!(
            "{taken}, and nothing more of it may go: its newest state, pins, holds, bookmarks and images need the rest; raise \
             the limit, unpin points, remove images, or let bookmarks go sooner (`bookmarks` in its policy)"
        )),
        LimitState::Purging => Some(format!("{taken}: its oldest points go; raise the limit or keep less")),
        LimitState::Thinning => Some(format!(
            "{taken}: it is thinned out sooner than its policy says; raise the limit or keep less"
        )),
        LimitState::Fits => {
            let at = history.full_at.filter(|at| at.since(now) < DAY)?;
            let then = match policy.when_full {
                gateway_journal::WhenFull::Thin => "it is then thinned out sooner than its policy says",
                gateway_journal::WhenFull::Stop => "no more of it is taken then",
            };
            Some(format!(
                "the history of {name} reaches its limit at {at}; {then}: raise the limit or keep less"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn hours(n: u64) -> Duration {
        Duration::from_secs(n * 3600)
    }

    #[test]
    fn a_volume_is_full_when_what_is_kept_whole_does_not_fit() {
        let now = WallTime::from_nanos(0).plus(hours(1000));
        let whole = hours(48);
        let bytes = VolumeBytes { log: 10 * GIB, settled: 10 * GIB };
        assert_eq!(full_at(now, bytes, 50 * GIB, 20 * GIB, whole), None);
        assert_eq!(
            full_at(now, bytes, 50 * GIB, 20 * GIB, hours(50)),
            Some(now.plus(hours(36))),
            "held longer"
        );
        assert_eq!(full_at(now, bytes, 50 * GIB, 30 * GIB, whole), Some(now.plus(hours(24))));
        assert_eq!(full_at(now, bytes, 15 * GIB, 30 * GIB, whole), Some(now), "it is");
        assert_eq!(full_at(now, bytes, 15 * GIB, 0, whole), None);
        assert_eq!(per_day(GIB, hours(12)), Some(2 * GIB));
        assert_eq!(per_day(GIB, Duration::from_secs(59)), None);
    }

    #[test]
    fn a_hold_that_is_in_the_way_is_named_with_its_end() {
        let at = |n| WallTime::from_nanos(0).plus(hours(n));
        let (volume, note) = (VolumeId::new(1), String::new());
        let hold =
            Hold { volume, from: at(1000), to: at(2000), until: at(3000), credited: Duration::ZERO, note };
        let times = HeldWhat::Times { most: 777, apart: Duration::from_millis(4200) };
        for what in [times, HeldWhat::Room] {
            let text = held_up(&"web01".parse().unwrap(), &HeldUp { hold: hold.clone(), what });
            let times = [hold.from, hold.to, hold.until];
            assert!(text.contains("web01") && times.iter().all(|t| text.contains(&t.to_string())), "{text}");
            let coarse = text.contains("777 points") && text.contains("only known to 5 s");
            assert_eq!(coarse, what != HeldWhat::Room, "{text}");
        }
    }

    #[test]
    fn alerts_come_ahead_and_say_what_to_do() {
        let (now, name) = (WallTime::from_nanos(0).plus(hours(1000)), "web01".parse().unwrap());
        let policy = RetentionPolicy { limit: Some(GIB), ..RetentionPolicy::default() };
        let said = |state, full_in: Option<u64>| {
            let history = HistoryView {
                log_bytes: 5,
                settled_bytes: 6,
                limit: Some(LimitView { bytes: GIB, state }),
                bytes_per_day: None,
                full_at: full_in.map(|n| now.plus(hours(n))),
            };
            alert(&name, &history, &policy, now)
        };
        assert_eq!((said(LimitState::Fits, None), said(LimitState::Fits, Some(25))), (None, None));
        assert!(said(LimitState::Fits, Some(23)).unwrap().contains("reaches its limit at"));
        for state in [LimitState::Thinning, LimitState::Purging, LimitState::Stuck, LimitState::Stopped] {
            let text = said(state, None).unwrap();
            assert!(
                text.contains("web01 takes 11 of the 1073741824 bytes") && text.contains("raise the limit")
            );
        }
    }
}
