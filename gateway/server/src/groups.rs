//! Consistency groups, as the API sees them: what they are, the points that all members share, and bookmarks of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use cx_api::{BookmarkCreate, GroupPointView, GroupView, MemberPointView, Problem};
use cx_wire::{Question, Reply};
use gateway_image::catalogue::{Catalogue, Volume};
use gateway_image::group::TimeRange;
use gateway_image::{Group, GroupPoint, Point};
use gateway_store::KeptPoints;
use tap_block::units::count;
use tap_block::{Lsn, MarkId, Name, VolumeId, WallTime};

use crate::control::BOOKMARK_GRACE;
use crate::freshness;
use crate::gateway::Gateway;
use crate::http::Answer;
use crate::points::{LOOK_AGAIN, PATIENCE};
use crate::problems;
use crate::skew::Offset;

impl Gateway {
    pub(crate) fn group_views(&self) -> Vec<GroupView> {
        let catalogue = self.store.catalogue();
        Group::all(&catalogue).iter().map(|group| self.group_view(&catalogue, group)).collect()
    }

    pub(crate) fn group_view_of(&self, name: &Name) -> Answer<GroupView> {
        let catalogue = self.store.catalogue();
        Ok(self.group_view(&catalogue, &known(&catalogue, name)?))
    }

    /// The newest point of a group in a stretch of time.
    pub(crate) fn group_point_view(
        &self,
        name: &Name,
        after: Option<&Point>,
        before: Option<&Point>,
    ) -> Answer<GroupPointView> {
        let catalogue = self.store.catalogue();
        let group = known(&catalogue, name)?;
        let time = |point: Option<&Point>| point.map(|p| self.time_meant(&catalogue, &group, p)).transpose();
        let range = TimeRange { after: time(after)?, before: time(before)? };
        let kept = self.kept_of(&catalogue, &group);
        let held = |volume, lsn| kept.get(&volume).is_none_or(|kept| kept.holds(lsn));
        if let Some(point) = group.points(&catalogue, &held, range).next() {
            return Ok(point_view(&catalogue, &group.name, &point));
        }
        let mut all = group.points(&catalogue, &held, TimeRange::default()).map(|p| p.at);
        let newest = all.next();
        Err(problems::no_group_point(name, all.last().or(newest), newest))
    }

    /// Waits until all that members wrote up to `before` is here, as for a volume's point: until then there may be a newer point
    /// than what is found. Returns the time that is meant. `now` stands for whatever is the newest.
    pub(crate) async fn known_up_to(&self, name: &Name, before: Point) -> Answer<Point> {
        let group = known(&self.store.catalogue(), name)?;
        if before == Point::Now {
            return Ok(before);
        }
        let wanted = self.time_meant(&self.store.catalogue(), &group, &before)?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut progress = self.streams.progress();
        loop {
            progress.mark_unchanged();
            let proven = self.proven_of(&group);
            if proven.is_none_or(|proven| wanted <= proven) {
                return Ok(Point::Time(wanted));
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(problems::group_not_yet(name, &before, proven));
            }
            let until = deadline.min(tokio::time::Instant::now() + LOOK_AGAIN);
            // Either way it is time to look again.
            let _ = tokio::time::timeout_at(until, progress.changed()).await;
        }
    }

    /// The time up to which all of every member is here. A member that is being copied has no points behind it that could come.
    fn proven_of(&self, group: &Group) -> Option<WallTime> {
        let catalogue = self.store.catalogue();
        let proven = |id: &VolumeId| {
            let stream = catalogue.volume(*id)?.stream();
            let heard = self.streams.get(stream).and_then(|stream| stream.proven());
            heard.or_else(|| self.store.durable(stream).map(|durable| durable.at))
        };
        group.members.iter().filter_map(proven).min()
    }

    /// A bookmark in every member, at one barrier.
    pub(crate) async fn bookmark_group(&self, name: Name, request: BookmarkCreate) -> Answer<GroupPointView> {
        let catalogue = self.store.catalogue();
        let group = known(&catalogue, &name)?;
        let members = members(&catalogue, &group.members);
        let reserved = members.iter().map(|member| self.reserve_bookmark(member, &request.name));
        let _reserved = reserved.collect::<Answer<Vec<_>>>()?;
        let asked = members.first().ok_or_else(|| problems::no_group(&name))?;
        let stream = self.streams.get(asked.stream()).ok_or_else(|| problems::unreachable(asked.name()))?;
        let wait = Duration::from_secs(u64::from(request.wait_seconds));
        let question = Question::Bookmark {
            name: request.name.clone(),
            consistency: request.consistency,
            note: request.note.clone(),
            wait,
            group: Some(name.clone()),
        };
        let reply = stream.ask(question, wait + BOOKMARK_GRACE).await;
        match reply.map_err(|e| problems::asked(asked.name(), &e))? {
            Reply::Bookmarked { at, .. } => self.everywhere(&group, MarkId::new(at.nanos())).await,
            other => Err(problems::internal(format!("the tap answered {other:?} to a bookmark"))),
        }
    }

    /// Waits until every member has the mark.
    async fn everywhere(&self, group: &Group, id: MarkId) -> Answer<GroupPointView> {
        let mut progress = self.streams.progress();
        let here = async {
            loop {
                progress.mark_unchanged();
                let catalogue = self.store.catalogue();
                let at = WallTime::from_nanos(id.get());
                let range = TimeRange { after: Some(at), before: Some(at) };
                let held = |volume, lsn| self.store.check_kept(volume, lsn).is_ok();
                if let Some(point) = group.points(&catalogue, &held, range).find(|point| point.id == id) {
                    return point_view(&catalogue, &group.name, &point);
                }
                if progress.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(PATIENCE, here).await.map_err(|_| problems::mark_not_here(&group.name, id))
    }

    /// Which points of the members are kept, and of those that were members.
    fn kept_of(&self, catalogue: &Catalogue, group: &Group) -> HashMap<VolumeId, KeptPoints> {
        let ever = group.ever_members(catalogue);
        ever.into_iter().filter_map(|id| Some((id, self.store.kept(id)?))).collect()
    }

    fn group_view(&self, catalogue: &Arc<Catalogue>, group: &Group) -> GroupView {
        let kept = self.kept_of(catalogue, group);
        let held = |volume, lsn| kept.get(&volume).is_none_or(|kept| kept.holds(lsn));
        let (mut point_count, mut newest, mut oldest) = (0usize, None, None);
        for point in group.points(catalogue, &held, TimeRange::default()) {
            point_count += 1;
            newest.get_or_insert_with(|| point.clone());
            oldest = Some(point);
        }
        let view = |point: Option<&GroupPoint>| point.map(|p| point_view(catalogue, &group.name, p));
        let age = |at| freshness::age(self.offsets(catalogue, group), self.clock.wall(), at);
        let policies: BTreeSet<String> =
            group.members.iter().map(|v| format!("{:?}", catalogue.rules().policy_of(*v))).collect();
        GroupView {
            name: group.name.clone(),
            volumes: names(catalogue, group),
            point_count: count(point_count),
            oldest: view(oldest.as_ref()),
            newest: view(newest.as_ref()),
            age_seconds: newest.as_ref().and_then(|p| age(p.at)).map(|age| age.as_secs_f64()),
            one_policy: policies.len() == 1,
        }
    }

    /// What the clock of the group's tap shows now, as far as that was measured.
    fn time_of_group(&self, catalogue: &Catalogue, group: &Group) -> WallTime {
        let now = self.clock.wall();
        self.offsets(catalogue, group).next().map_or(now, |offset| offset.tap_time(now))
    }

    /// How far the clock of the group's tap is from ours, as measured in each member's stream.
    fn offsets(&self, catalogue: &Catalogue, group: &Group) -> impl Iterator<Item = Offset> {
        let stream = |id: &VolumeId| self.streams.get(catalogue.volume(*id)?.stream());
        group.members.iter().filter_map(move |id| stream(id)?.offset())
    }

    /// What is to be said of groups that get no points.
    pub(crate) fn group_alerts(&self, catalogue: &Catalogue) -> Vec<String> {
        let durable = |stream| self.store.durable(stream).map(|durable| durable.at);
        Group::all(catalogue)
            .iter()
            .filter_map(|group| freshness::stalled(catalogue, group, durable))
            .collect()
    }

    /// Removes the bookmark of a barrier in every member that has it; again after it was done in some only does the rest.
    pub(crate) async fn remove_group_bookmark(&self, group: &Name, name: &Name) -> Answer<()> {
        let catalogue = self.store.catalogue();
        let ever = known(&catalogue, group)?.ever_members(&catalogue);
        let volumes: Vec<&Arc<Volume>> = ever.iter().filter_map(|id| catalogue.volume(*id)).collect();
        let placed = |volume: &&Arc<Volume>| {
            let there = volume.bookmark_named(name)?.at;
            volume.marks().iter().rev().any(|mark| mark.at == there).then_some(there.at)
        };
        let at = volumes.iter().find_map(placed);
        let at = at.ok_or_else(|| self.no_group_bookmark(group, volumes.iter().copied(), name))?;
        let here = |volume: &Volume| volume.bookmark_named(name).map(|b| b.at).filter(|p| p.at == at);
        let meant: Vec<_> = volumes.into_iter().filter_map(|v| Some((v, here(v)?.lsn))).collect();
        for (volume, lsn) in &meant {
            self.check_not_held(volume, name, *lsn)?;
        }
        for (volume, lsn) in meant {
            self.forget_bookmark(volume, name, lsn).await?;
        }
        Ok(())
    }

    fn time_meant(&self, catalogue: &Catalogue, group: &Group, point: &Point) -> Answer<WallTime> {
        let now = || self.time_of_group(catalogue, group);
        match point {
            Point::Now => Ok(now()),
            Point::Ago(ago) => Ok(now().minus(*ago)),
            Point::Time(time) => Ok(*time),
            Point::Mark(id) => Ok(WallTime::from_nanos(id.get())),
            Point::Bookmark(name) => {
                // A bookmark of one member alone is no point of the group.
                let marked = |volume: &Arc<Volume>| {
                    let at = volume.bookmark_named(name)?.at;
                    volume.marks().iter().rev().any(|mark| mark.at == at).then_some(at.at)
                };
                let volumes = members(catalogue, &group.members);
                let at = volumes.iter().find_map(marked);
                at.ok_or_else(|| self.no_group_bookmark(&group.name, volumes.iter(), name))
            }
            Point::Lsn(_) => Err(problems::no_time_of_group(point)),
        }
    }

    /// A member may still know what became of one.
    fn no_group_bookmark<'a>(
        &self,
        group: &Name,
        mut volumes: impl Iterator<Item = &'a Arc<Volume>>,
        name: &Name,
    ) -> Problem {
        match volumes.find(|volume| volume.gone_bookmark(name).is_some()) {
            Some(volume) => self.points.no_bookmark(volume, name),
            None => problems::no_group_bookmark(group, name),
        }
    }
}

fn known(catalogue: &Catalogue, name: &Name) -> Answer<Group> {
    let mut found = Group::named(catalogue, name).into_iter();
    match (found.next(), found.next()) {
        (Some(group), None) => Ok(group),
        (None, _) => Err(problems::no_group(name)),
        (Some(one), Some(other)) => {
            let of = |group: &Group| names(catalogue, group).join(", ");
            Err(problems::two_groups(name, &of(&one), &of(&other)))
        }
    }
}

fn members(catalogue: &Catalogue, members: &[VolumeId]) -> Vec<Arc<Volume>> {
    members.iter().filter_map(|id| catalogue.volume(*id).cloned()).collect()
}

/// The members' names, sorted.
fn names(catalogue: &Catalogue, group: &Group) -> Vec<String> {
    let name = |id: &VolumeId| catalogue.volume(*id).map_or_else(|| id.to_string(), |v| v.name().to_string());
    let names: BTreeSet<String> = group.members.iter().map(name).collect();
    names.into_iter().collect()
}

/// With those sorted by name that were members then.
fn point_view(catalogue: &Catalogue, group: &Name, point: &GroupPoint) -> GroupPointView {
    let volumes = members(catalogue, &point.members);
    let first = volumes.first().zip(point.lsns.first());
    let bookmark = first.and_then(|(volume, lsn)| volume.bookmark_at(*lsn));
    let member = |(volume, &lsn): (&Arc<Volume>, &Lsn)| MemberPointView {
        volume: volume.name().clone(),
        lsn,
        export: format!("{}@{}", volume.name(), point.id),
    };
    let mut members: Vec<MemberPointView> = volumes.iter().zip(&point.lsns).map(member).collect();
    members.sort_by(|a, b| a.volume.cmp(&b.volume));
    GroupPointView {
        group: group.clone(),
        point: point.id.to_string(),
        time: point.at,
        bookmark: bookmark.map(|(name, _)| name.clone()),
        members,
    }
}
