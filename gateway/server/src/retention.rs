//! Keeping history, as the API sees it: policies, pins, holds, the timeline, and what changed between two points.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cx_api::{
    ClockView, Code, DiffView, ExtentView, ForecastView, GateView, HoldCreate, HoldView, KeptView, PinView,
    PolicySet, PolicySource, PolicyView, Problem, Retention, Size, Span, TierView, TimelineView, WhenFull,
};
use gateway_image::Point;
use gateway_image::catalogue::{BookmarkPoint, Catalogue, ClockSet, Run, Volume};
use gateway_journal::{Gate, Hold, KeptPoint, MetaRecord, RetentionPolicy, Tier};
use gateway_store::StoreError;
use tap_block::units::count;
use tap_block::{Lsn, Name, VolumeId, WallTime};

use crate::gateway::Gateway;
use crate::http::Answer;
use crate::limits::{DAY, Histories, LEAST_UPTIME, of_days, per_day};
use crate::shortages::Asked;
use crate::stretches::{SHOWN, Sums, SumsOf, last_shown};
use crate::{problems, views};

/// Of which volumes policies are to be set, and the records that do so.
pub(crate) type Sets = (Vec<Option<Arc<Volume>>>, Vec<MetaRecord>);

impl Gateway {
    /// The general policy, and every volume's.
    pub(crate) fn policy_views(&self) -> Vec<PolicyView> {
        let catalogue = self.store.catalogue();
        let mut volumes: Vec<&Arc<Volume>> = catalogue.volumes().collect();
        volumes.sort_by(|a, b| a.name().cmp(b.name()));
        let own = volumes.into_iter().map(|volume| policy_view(&catalogue, volume));
        std::iter::once(general(&catalogue)).chain(own).collect()
    }

    /// Sets a policy, durably when this returns; or says what is in force if it is only to be checked.
    pub(crate) async fn policy_change(&self, wanted: PolicySet) -> Answer<PolicyView> {
        let check = wanted.check;
        let views = self.policy_changes(vec![PolicySet { check: false, ..wanted }], check).await?;
        views.into_iter().next().ok_or_else(|| problems::internal("no policy was set"))
    }

    /// Sets policies, all or none: they count together, and are durable when this returns. Or says what is in force.
    pub(crate) async fn policy_changes(
        &self,
        wanted: Vec<PolicySet>,
        check: bool,
    ) -> Answer<Vec<PolicyView>> {
        let (known, records) = self.policy_records(&wanted)?;
        if !check {
            self.images.write_all(records).await?;
            self.store.settle_soon();
        }
        let catalogue = self.store.catalogue();
        let view = |volume: &Option<Arc<Volume>>| match volume {
            Some(volume) => policy_view(&catalogue, volume),
            None => general(&catalogue),
        };
        Ok(known.iter().map(view).collect())
    }

    /// The records that set policies, if they can be followed, and of which volumes they are.
    pub(crate) fn policy_records(&self, wanted: &[PolicySet]) -> Answer<Sets> {
        let known = wanted.iter().map(|set| set.volume.as_ref().map(|name| self.known(name)).transpose());
        let known = known.collect::<Answer<Vec<_>>>()?;
        check_list(wanted)?;
        let mut records = Vec::new();
        for (set, volume) in wanted.iter().zip(&known) {
            let policy = set.retention.as_ref().map(policy_of);
            if let Some(Err(why)) = policy.as_ref().map(RetentionPolicy::validate) {
                let whose = set.volume.as_ref().map_or_else(String::new, |name| format!(" of {name}"));
                let what = format!("the retention policy{whose} cannot be followed");
                return Err(Problem::new(Code::Invalid, what)
                    .because(why)
                    .fix("change that in the policy; nothing was set"));
            }
            self.check_hooks(policy.as_ref())?;
            records.push(MetaRecord::PolicySet { volume: volume.as_ref().map(|v| v.id()), policy });
        }
        Ok((known, records))
    }

    pub(crate) async fn pin_point(&self, name: Name, point: Point, note: String) -> Answer<PinView> {
        let at = self.points.resolve(&name, &point).await?;
        // From here until it is on record nothing may thin it out.
        let _held = self.images.image(at.volume, at.lsn)?;
        let before = self.pin_note(at.volume, at.lsn);
        let note = if note.is_empty() { before.clone().unwrap_or_default() } else { note };
        if before.as_ref() != Some(&note) {
            let record = MetaRecord::Pinned { volume: at.volume, point: at.lsn, note: note.clone() };
            self.images.write(record).await?;
        }
        Ok(PinView { lsn: at.lsn, note })
    }

    /// What a point was pinned for; `None` when it is not.
    fn pin_note(&self, volume: VolumeId, point: Lsn) -> Option<String> {
        let catalogue = self.store.catalogue();
        catalogue.rules().pins_of(volume).find(|(lsn, _)| *lsn == point).map(|(_, note)| note.to_owned())
    }

    pub(crate) async fn unpin_point(&self, name: Name, point: Point) -> Answer<()> {
        let at = self.points.resolve(&name, &point).await?;
        if !self.store.catalogue().rules().pinned(at.volume).contains(&at.lsn) {
            let text = format!("lsn:{} of {name} is not pinned", at.lsn.get());
            return Err(Problem::new(Code::NotFound, text)
                .fix(format!("`chronogate volume timeline {name}` lists the pins")));
        }
        self.images.write(MetaRecord::Unpinned { volume: at.volume, point: at.lsn }).await
    }

    pub(crate) async fn remove_bookmark(&self, volume: &Name, name: &Name) -> Answer<()> {
        let known = self.known(volume)?;
        let there = known.bookmark_named(name).ok_or_else(|| self.points.no_bookmark(&known, name))?;
        if let Some(group) = self.shared_with(&known, name, there) {
            let text = format!("the bookmark {name} of {volume} is one of the group {group}");
            return Err(Problem::new(Code::Conflict, text)
                .because("every member of the group has it, at one moment")
                .fix(format!("remove it in all: chronogate bookmark rm --group {group} {name}")));
        }
        self.check_not_held(&known, name, there.at.lsn)?;
        self.forget_bookmark(&known, name, there.at.lsn).await
    }

    /// The group of which another member has the bookmark, too.
    fn shared_with(&self, volume: &Volume, name: &Name, there: &BookmarkPoint) -> Option<Name> {
        let catalogue = self.store.catalogue();
        volume.marks().iter().rev().find(|mark| mark.at == there.at)?;
        let membership = volume.marks().membership_at(there.at.lsn)?;
        let others = membership.members.iter().filter(|id| **id != volume.id());
        let mut others = others.filter_map(|id| catalogue.volume(*id)?.bookmark_named(name));
        others.any(|other| other.at.at == there.at.at).then(|| membership.group.clone())
    }

    /// Durably when this returns.
    pub(crate) async fn forget_bookmark(&self, volume: &Volume, name: &Name, point: Lsn) -> Answer<()> {
        let record = MetaRecord::BookmarkRemoved { volume: volume.id(), point, name: name.clone() };
        self.images.write(record).await
    }

    /// What a hold keeps stays whole, its names included.
    pub(crate) fn check_not_held(&self, volume: &Volume, name: &Name, point: Lsn) -> Answer<()> {
        let looked = tokio::task::block_in_place(|| self.store.hold_on(volume.id(), point));
        let Some(hold) = looked.map_err(|e| problems::stored(&e))? else { return Ok(()) };
        let text = format!("the bookmark {name} of {} lies in a stretch that is held", volume.name());
        let why = if hold.note.is_empty() { String::new() } else { format!(" ({})", hold.note) };
        Err(Problem::new(Code::Forbidden, text)
            .because(format!("a hold until {}{why} lets nobody remove anything of it", hold.until))
            .fix(format!("wait until then; `chronogate volume timeline {}` lists the holds", volume.name())))
    }

    pub(crate) async fn hold_history(&self, name: Name, wanted: HoldCreate) -> Answer<HoldView> {
        let volume = self.known(&name)?;
        let (now, until) = (self.clock.wall(), wanted.until);
        let (from, to) = (wanted.from.unwrap_or(WallTime::EPOCH), wanted.to.unwrap_or(until));
        if until <= now || to <= from {
            return Err(Problem::new(Code::Invalid, "the hold would hold nothing")
                .because("it ends before it begins, or has ended already")
                .fix("give an --until in the future, and a --to after --from"));
        }
        // The store's own clock may be elsewhere: what counts is how long it is until then.
        let (end, credited) = (self.store.age().plus(until.since(now)), self.store.credited());
        let hold = Hold { volume: volume.id(), from, to, until: end, credited, note: wanted.note };
        self.images.write(MetaRecord::Held(hold.clone())).await?;
        Ok(self.hold_view(&hold))
    }

    /// A hold with the date at which it ends if the gateway runs until then.
    fn hold_view(&self, hold: &Hold) -> HoldView {
        let (age, wall) = (self.store.age(), self.clock.wall());
        let until = if hold.until < age {
            wall.minus(age.since(hold.until))
        } else {
            wall.plus(hold.until.since(age))
        };
        HoldView { from: hold.from, to: hold.to, until, note: hold.note.clone() }
    }

    /// What is left of a volume's history; its points before this one.
    pub(crate) fn timeline_view(&self, name: &Name, before: Option<Lsn>) -> Answer<TimelineView> {
        let volume = self.known(name)?;
        let (catalogue, rules_now) = (self.store.catalogue(), self.store.age());
        let (id, kept) = (volume.id(), self.store.kept(volume.id()).unwrap_or_default());
        let view = |p: &KeptPoint| KeptView { lsn: p.lsn, time: p.captured_at };
        let durable = self.store.durable(volume.stream());
        let newest = durable.as_ref().and_then(|d| volume.sound_at_or_before(d.lsn));
        let newest = newest.map(|lsn| self.kept_view(&volume, lsn)).transpose()?.flatten();
        let first = volume.first_selectable().filter(|first| *first > kept.settled);
        let oldest = match kept.points.first() {
            Some(point) => Some(view(point)),
            None => first.map(|lsn| self.kept_view(&volume, lsn)).transpose()?.flatten(),
        };
        let rules = catalogue.rules();
        let policy = rules.policy_of(id);
        let all = &kept.points;
        let end = before.map_or(all.len(), |before| all.partition_point(|p| p.lsn < before));
        let shown = all.get(end.saturating_sub(SHOWN)..end).unwrap_or_default();
        let of = SumsOf { volume: id, settle: kept.settle(), policy: policy.clone() };
        let sums = self.sums.of(of, || Arc::new(Sums::new(&kept, &policy)));
        Ok(TimelineView {
            volume: name.clone(),
            policy: policy_view(&catalogue, &volume),
            oldest,
            newest,
            every_write_after: kept.settled,
            point_count: sums.points,
            points: shown.iter().map(view).collect(),
            stretches: sums.stretches.clone(),
            bookmark_count: count(volume.bookmark_count()),
            pins: rules.pins_of(id).map(|(lsn, note)| PinView { lsn, note: note.to_owned() }).collect(),
            holds: rules.holds_of(id, rules_now).map(|hold| self.hold_view(hold)).collect(),
            gaps: volume.gaps().map(views::gap).collect(),
            clocks: last_shown(clocks(&volume)),
            forecast: self.forecast(),
            held_up: self.held_alerts(),
            shortages: self.shortage_views(&volume),
            history: self.history_view(&Histories::of(&self.store), &volume, &policy),
            gates: self.gate_views(id),
        })
    }

    fn kept_view(&self, volume: &Volume, lsn: Lsn) -> Answer<Option<KeptView>> {
        let time = self.store.time_of(volume.stream(), lsn).map_err(|e| problems::stored(&e))?;
        Ok(time.map(|time| KeptView { lsn, time }))
    }

    /// How the store fills. What is kept whole has to fit: the rest is thinned out.
    pub(crate) fn forecast(&self) -> ForecastView {
        let (status, now, catalogue) = (self.store.status(), self.clock.wall(), self.store.catalogue());
        let up = now.since(self.started);
        let volumes = catalogue.volumes().map(|volume| {
            let (policy, written) =
                (catalogue.rules().policy_of(volume.id()), self.store.written(volume.stream()));
            let whole = self.kept_whole(volume.id(), &policy);
            per_day(written, up).map(|rate| (rate, of_days(rate, whole)))
        });
        let grown = volumes.collect::<Option<Vec<(u64, u128)>>>().filter(|_| up >= LEAST_UPTIME);
        let (used, settled) = (status.segment_bytes, status.settled_bytes);
        let room = status.log_room_bytes.or(status.free_bytes);
        let full_at = match room {
            Some(0) => Some(now),
            room => room
                .zip(grown.as_deref())
                .and_then(|(room, grown)| fills_at(now, (used, settled, room), grown)),
        };
        ForecastView {
            used_bytes: used,
            settled_bytes: settled,
            free_bytes: room,
            bytes_per_day: grown.map(|grown| grown.iter().map(|(rate, _)| rate).sum()),
            full_at,
        }
    }

    /// Says so when the store is full, or will be within a day.
    pub(crate) fn full_soon(&self) -> Option<String> {
        let (catalogue, forecast) = (self.store.catalogue(), self.forecast());
        let now = self.clock.wall();
        let policies = catalogue.volumes().map(|v| catalogue.rules().policy_of(v.id()));
        let policy = policies.max_by_key(|p| p.every_write)?;
        let at = forecast.full_at.filter(|at| at.since(now) < DAY)?;
        let then = match policy.when_full {
            gateway_journal::WhenFull::Thin => "history is then thinned out sooner than its policy says",
            gateway_journal::WhenFull::Stop => "no more history is taken then",
        };
        let when = if at <= now { "is full".to_owned() } else { format!("will be full at {at}") };
        Some(format!("the journal {when}; {then}: make room, raise its limit or keep less"))
    }

    fn not_kept_any_more(&self, name: &Name, why: &StoreError) -> Problem {
        let catalogue = self.store.catalogue();
        let volume = catalogue.volume_named(name);
        let short = match why {
            StoreError::Thinned { point, .. } => {
                volume.and_then(|v| self.points.shortage(v, *point, Asked::Point))
            }
            _ => None,
        };
        problems::thinned(name, why, short)
    }

    /// A page of what changed, from the byte `after` on.
    pub(crate) async fn diff_view(
        &self,
        name: Name,
        (from, to): (Point, Point),
        after: u64,
        limit: usize,
    ) -> Answer<DiffView> {
        let (a, b) = (self.points.resolve(&name, &from).await?, self.points.resolve(&name, &to).await?);
        let (store, volume, from, to) =
            (Arc::clone(&self.store), a.volume, a.lsn.min(b.lsn), a.lsn.max(b.lsn));
        let looked = tokio::task::spawn_blocking(move || store.changed(volume, from, to)).await;
        let changed = looked.map_err(problems::internal)?.map_err(|e| self.not_kept_any_more(&name, &e))?;
        let rest: Vec<ExtentView> = changed
            .iter()
            .filter(|e| e.offset() >= after)
            .take(limit.saturating_add(1))
            .map(|e| ExtentView { offset: e.offset(), length: e.length() })
            .collect();
        let next = rest.get(limit).map(|e| e.offset.to_string());
        let extents = rest.into_iter().take(limit).collect();
        Ok(DiffView { volume: name, from_lsn: from, to_lsn: to, bytes: changed.bytes(), extents, next })
    }
}

/// When a store of so many bytes used, settled and free is full; `None` when what is kept whole fits. Of each volume: the bytes
/// that are written each day, and those that stay.
fn fills_at(
    now: WallTime,
    (used, settled, room): (u64, u64, u64),
    grown: &[(u64, u128)],
) -> Option<WallTime> {
    let rate: u64 = grown.iter().map(|(rate, _)| rate).sum();
    let whole = grown.iter().fold(0u128, |sum, (_, whole)| sum.saturating_add(*whole));
    let fits = whole.saturating_add(settled.into()) <= u128::from(used) + u128::from(room);
    if rate == 0 || fits {
        return None;
    }
    let seconds = u128::from(room) * u128::from(DAY.as_secs()) / u128::from(rate);
    Some(now.plus(Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX))))
}

/// Where the source's clock was set, oldest first.
pub(crate) fn clocks(volume: &Volume) -> Vec<ClockView> {
    let within = volume.clocks().iter().map(was_set);
    let mut all: Vec<ClockView> = volume.runs().iter().filter_map(set_back).chain(within).collect();
    all.sort_by_key(|clock| clock.lsn);
    all
}

fn was_set(set: &ClockSet) -> ClockView {
    let (from, to) = (set.first.at, set.before);
    ClockView { lsn: set.first.lsn, from, to, ahead: from > to }
}

/// A new run may find its source's clock set back; one that finds it ahead cannot tell that from having been away.
fn set_back(run: &Run) -> Option<ClockView> {
    let before = run.previous.filter(|before| run.first.at < before.at)?;
    Some(ClockView { lsn: run.first.lsn, from: run.first.at, to: before.at, ahead: false })
}

/// Nothing is named twice, and the list as a whole is checked or set.
fn check_list(wanted: &[PolicySet]) -> Answer<()> {
    let invalid =
        |why: String| Err(Problem::new(Code::Invalid, "the list of policies is not one").because(why));
    let mut seen = BTreeSet::new();
    if wanted.is_empty() {
        return invalid("it names no policy".to_owned());
    }
    for set in wanted {
        let whose = set.volume.as_ref().map_or("the general policy", Name::as_str);
        if set.check {
            return invalid("`check` stands beside the list, not in it".to_owned());
        }
        if !seen.insert(&set.volume) {
            return invalid(format!("it names {whose} twice"));
        }
    }
    Ok(())
}

fn general(catalogue: &Catalogue) -> PolicyView {
    let set = catalogue.rules().general_policy();
    let source = if set.is_some() { PolicySource::General } else { PolicySource::BuiltIn };
    PolicyView { volume: None, source, retention: retention_of(&set.cloned().unwrap_or_default()) }
}

fn policy_view(catalogue: &Catalogue, volume: &Volume) -> PolicyView {
    let own = catalogue.rules().own_policy(volume.id()).is_some();
    let source = if own { PolicySource::Own } else { general(catalogue).source };
    let retention = retention_of(&catalogue.rules().policy_of(volume.id()));
    PolicyView { volume: Some(volume.name().clone()), source, retention }
}

pub(crate) fn retention_of(policy: &RetentionPolicy) -> Retention {
    Retention {
        every_write: Span(policy.every_write),
        tiers: policy.tiers.iter().map(tier_view).collect(),
        bookmarks: Span(policy.bookmarks),
        when_full: match policy.when_full {
            gateway_journal::WhenFull::Thin => WhenFull::Thin,
            gateway_journal::WhenFull::Stop => WhenFull::Stop,
        },
        limit: policy.limit.map(Size),
    }
}

fn policy_of(retention: &Retention) -> RetentionPolicy {
    RetentionPolicy {
        every_write: retention.every_write.0,
        tiers: retention.tiers.iter().map(tier_of).collect(),
        bookmarks: retention.bookmarks.0,
        when_full: match retention.when_full {
            WhenFull::Thin => gateway_journal::WhenFull::Thin,
            WhenFull::Stop => gateway_journal::WhenFull::Stop,
        },
        limit: retention.limit.map(|limit| limit.0),
    }
}

fn tier_view(tier: &Tier) -> TierView {
    let gate = |gate: &Gate| GateView { hook: gate.hook.clone(), deadline: Span(gate.deadline) };
    TierView {
        each: Span(tier.each),
        keep: Span(tier.keep),
        before_drop: tier.before_drop.as_ref().map(gate),
    }
}

fn tier_of(view: &TierView) -> Tier {
    let gate = |gate: &GateView| Gate { hook: gate.hook.clone(), deadline: gate.deadline.0 };
    Tier { each: view.each.0, keep: view.keep.0, before_drop: view.before_drop.as_ref().map(gate) }
}

#[cfg(test)]
mod tests {
    use gateway_image::Passed;
    use tap_block::{Epoch, RunId};

    use super::*;

    #[test]
    fn a_store_is_full_when_what_all_volumes_keep_whole_does_not_fit() {
        const GIB: u64 = 1 << 30;
        let (now, day) = (WallTime::from_nanos(0).plus(DAY * 1000), DAY);
        let volume = |rate: u64, days: u32| (rate * GIB, of_days(rate * GIB, day * days));
        let fills = |grown: &[(u64, u128)]| fills_at(now, (30 * GIB, 10 * GIB, 20 * GIB), grown);
        assert_eq!(fills(&[]), None);
        assert_eq!(fills(&[volume(10, 2), volume(10, 2)]), None, "10 settled and 40 whole of 50");
        assert_eq!(fills(&[volume(10, 2), volume(10, 3)]), Some(now.plus(day)), "one of them is held");
        assert_eq!(fills(&[volume(0, u32::MAX)]), None);
    }

    #[test]
    fn a_clock_that_was_set_within_a_run_is_a_segment_whichever_way() {
        let at = WallTime::from_nanos;
        let first = Passed { lsn: Lsn::new(8).unwrap(), at: at(50) };
        let back = was_set(&ClockSet { first, before: at(90) });
        assert_eq!((back.lsn.get(), back.from, back.to, back.ahead), (8, at(50), at(90), false));
        assert!(was_set(&ClockSet { first, before: at(20) }).ahead);
    }

    #[test]
    fn what_the_api_calls_built_in_is_what_a_gateway_goes_by() {
        assert_eq!(retention_of(&RetentionPolicy::default()), Retention::built_in());
    }

    #[test]
    fn a_list_names_everything_once() {
        let set = |name: Option<&str>, check| PolicySet {
            volume: name.map(|name| name.parse().unwrap()),
            retention: None,
            check,
        };
        assert!(check_list(&[set(None, false), set(Some("a"), false), set(Some("b"), false)]).is_ok());
        for bad in [vec![], vec![set(None, false); 2], vec![set(Some("a"), false); 2], vec![set(None, true)]]
        {
            assert_eq!(check_list(&bad).unwrap_err().code, Code::Invalid);
        }
    }

    #[test]
    fn a_clock_that_was_set_back_is_a_segment_and_one_that_runs_on_is_none() {
        let passed = |lsn, at| Passed { lsn: Lsn::new(lsn).unwrap(), at: WallTime::from_nanos(at) };
        let run =
            |at, previous| Run { id: RunId::new(1), epoch: Epoch::new(1), first: passed(8, at), previous };
        assert_eq!(set_back(&run(50, None)), None);
        assert_eq!(set_back(&run(50, Some(passed(7, 50)))), None);
        let found = set_back(&run(50, Some(passed(7, 90)))).unwrap();
        assert_eq!((found.lsn.get(), found.from.nanos(), found.to.nanos()), (8, 50, 90));
    }
}
