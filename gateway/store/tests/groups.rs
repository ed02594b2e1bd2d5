//! What is kept of a group: the same barrier marks in each member, whatever each is written to and however far each is
//! settled; and the members at one of them show one moment.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use common::lab::{Lab, cut, policy};
use common::{append, image};
use gateway_image::Group;
use gateway_image::group::TimeRange;
use gateway_journal::{MetaRecord, RetentionPolicy, WhenFull};
use gateway_store::{MemoryIndex, Store};
use tap_block::{BarrierMark, Batch, Lsn, MarkId, VolumeId};
use testbed_model::Random;

/// Every write 60 s; then one each 40 ms of the source's time for 1000 s, one each 400 ms for 3000 s: a month in minutes.
fn tiers() -> RetentionPolicy {
    policy(60, &[(40, 1000), (400, 3000)], 5000)
}

/// Where a mark stands in a member's stream, and what the member's disk was then.
struct Place {
    lsn: Lsn,
    disk: Vec<u8>,
}

/// Three volumes of a group, whose streams reach the store at times of their own.
struct Site {
    lab: Lab,
    random: Random,
    /// Records of each member that are on their way.
    waiting: Vec<Vec<Batch>>,
    marks: BTreeMap<MarkId, Vec<Place>>,
}

impl Site {
    fn new(seed: u64, policy: RetentionPolicy) -> Self {
        let mut lab = Lab::new(seed, policy);
        for batch in lab.workload.history(30) {
            lab.append(&batch);
        }
        Self { lab, random: Random::new(seed), waiting: vec![Vec::new(); 3], marks: BTreeMap::new() }
    }

    fn members(&self) -> Vec<VolumeId> {
        let others = self.lab.others.iter().map(|(workload, _)| workload.volume());
        std::iter::once(self.lab.volume()).chain(others).collect()
    }

    /// Writes to some members, a barrier over all, and arrivals in any order.
    fn go_on(&mut self, barriers: usize) {
        for _ in 0..barriers {
            for member in 0..3 {
                for _ in 0..self.random.below(3) {
                    let records = 1 + self.random.below(6) as usize;
                    let batch = self.workload(member).batch(records);
                    self.waiting[member].push(batch);
                }
            }
            self.barrier();
            for member in 0..3 {
                if self.random.below(3) > 0 {
                    self.arrive(member);
                }
                self.lab.clock.advance(Duration::from_millis(self.random.below(1500)));
            }
        }
    }

    fn workload(&mut self, member: usize) -> &mut testbed_model::Workload {
        match member.checked_sub(1) {
            None => &mut self.lab.workload,
            Some(other) => &mut self.lab.others[other].0,
        }
    }

    fn barrier(&mut self) {
        let mut members = self.members();
        members.sort();
        let latest = (0..3).map(|member| self.workload(member).now()).max().unwrap();
        let id = MarkId::new(latest.nanos() + 1 + self.random.below(12_000_000));
        let mut places = Vec::new();
        for member in 0..3 {
            let (group, members) = ("db".parse().unwrap(), members.clone());
            let workload = self.workload(member);
            let (lsn, disk) = (workload.next_lsn(), workload.disk().to_vec());
            let batch = workload.barrier(BarrierMark { id, group, members, bookmark: None });
            self.waiting[member].push(batch);
            places.push(Place { lsn, disk });
        }
        self.marks.insert(id, places);
    }

    fn arrive(&mut self, member: usize) {
        for batch in std::mem::take(&mut self.waiting[member]) {
            append(self.lab.store(), &batch).unwrap();
            let oracle = match member.checked_sub(1) {
                None => &mut self.lab.oracle,
                Some(other) => &mut self.lab.others[other].1,
            };
            oracle.apply(&batch).unwrap();
        }
    }

    /// The marks that are settled in every member: those that are left in each.
    fn left(&self) -> Vec<BTreeSet<MarkId>> {
        let store = self.lab.store();
        let members = self.members();
        let settled: Vec<Lsn> =
            members.iter().map(|&v| store.kept(v).map_or(Lsn::ZERO, |k| k.settled)).collect();
        let decided =
            |places: &[Place]| places.iter().zip(&settled).all(|(place, settled)| place.lsn < *settled);
        let all: Vec<_> = self.marks.iter().filter(|(_, places)| decided(places)).collect();
        let of = |(n, volume): (usize, &VolumeId)| {
            let there = |(id, places): &(&MarkId, &Vec<Place>)| {
                store.check_kept(*volume, places[n].lsn).is_ok().then_some(**id)
            };
            all.iter().filter_map(there).collect()
        };
        members.iter().enumerate().map(of).collect()
    }

    fn points(&self, store: &Store) -> Vec<gateway_image::GroupPoint> {
        let catalogue = store.catalogue();
        let groups = Group::all(&catalogue);
        assert_eq!(groups.len(), 1);
        let held = |v, lsn| store.check_kept(v, lsn).is_ok();
        groups[0].points(&catalogue, &held, TimeRange::default()).collect()
    }

    /// A group opened at a point of it is all its disks at that moment.
    fn check(&self, step: usize) -> usize {
        self.check_of(self.lab.store(), step)
    }

    fn check_of(&self, store: &Store, step: usize) -> usize {
        let members = self.members();
        let points = self.points(store);
        for point in points.iter().step_by(step) {
            for (n, volume) in members.iter().enumerate() {
                let place = &self.marks[&point.id][n];
                let sorted: BTreeSet<VolumeId> = members.iter().copied().collect();
                let at = sorted.iter().position(|v| v == volume).unwrap();
                assert_eq!(point.lsns[at], place.lsn);
                assert!(image(store, *volume, place.lsn) == place.disk, "{volume} at {:?}", point.id);
            }
        }
        points.len()
    }
}

#[test]
fn every_member_keeps_the_same_marks_and_each_is_one_moment_of_all() {
    for seed in 0..u64::from(common::cases(4)) {
        let mut site = Site::new(seed, tiers());
        let mut most = 0;
        for _ in 0..6 {
            site.go_on(60);
            site.lab.wait_for_index();
            site.lab.settle();
            let left = site.left();
            assert!(left.iter().all(|marks| *marks == left[0]), "seed {seed}: {left:?}");
            most = most.max(left[0].len());
            assert!(site.check(7) >= left[0].len());
        }
        (0..3).for_each(|member| site.arrive(member));
        site.lab.clock.advance(Duration::from_secs(200));
        site.lab.more(60, 1);
        site.lab.settle();
        let left = site.left();
        assert!(left.iter().all(|marks| *marks == left[0]), "seed {seed}: {left:?}");
        let cells: BTreeSet<u64> = left[0].iter().map(|id| id.get() / 40_000_000).collect();
        let (kept, all) = (left[0].len(), site.marks.len());
        assert!(kept > 10 && kept * 2 < all, "seed {seed}: {kept} of {all} are left");
        assert!(kept <= cells.len() + 1, "seed {seed}: one for each interval: {kept} in {}", cells.len());
        // Each is the last of its interval.
        let last = |id: &MarkId| {
            let cell = id.get() / 40_000_000;
            site.marks.keys().filter(|m| m.get() / 40_000_000 == cell).max() == Some(id)
        };
        let lasts = left[0].iter().filter(|id| last(id)).count();
        assert!(lasts + 1 >= kept, "seed {seed}: {lasts} of {kept} end their intervals");
        site.check(1);
        restarted(&mut site);
    }
}

/// One member's history waits in a spool for longer than the others keep every write: it finds their marks when it comes.
#[test]
fn a_member_that_comes_late_finds_the_points_of_its_group() {
    let mut site = Site::new(11, tiers());
    site.go_on(40);
    let (others, late) = ([0, 1], 2);
    for _ in 0..4 {
        for _ in 0..40 {
            for member in others {
                let batch = site.workload(member).batch(2);
                site.waiting[member].push(batch);
            }
            site.barrier();
            others.into_iter().for_each(|member| site.arrive(member));
        }
        site.lab.clock.advance(Duration::from_secs(200));
        site.lab.wait_for_index();
        site.lab.settle();
    }
    let before = site.points(site.lab.store()).len();
    site.arrive(late);
    let points = site.points(site.lab.store());
    let cells: BTreeSet<u64> = site.marks.keys().map(|id| id.get() / 40_000_000).collect();
    let found: BTreeSet<u64> = points.iter().map(|point| point.id.get() / 40_000_000).collect();
    assert!(
        found.len() + 1 >= cells.len(),
        "{before}: {} of {} intervals have a point",
        found.len(),
        cells.len()
    );
    assert!(points.len() < site.marks.len(), "nothing was thinned out");
    site.check(3);
}

/// The same over a restart, and with the index gone.
fn restarted(site: &mut Site) {
    let (left, points) = (site.left(), site.points(site.lab.store()));
    let known = |site: &Site| -> Vec<usize> {
        let catalogue = site.lab.store().catalogue();
        site.members().iter().map(|v| catalogue.volume(*v).unwrap().marks().iter().count()).collect()
    };
    for index_lost in [false, true] {
        site.lab.store = None;
        if index_lost {
            site.lab.disk.index = MemoryIndex::new();
        }
        site.lab.open();
        assert_eq!((site.left(), site.points(site.lab.store())), (left.clone(), points.clone()));
        site.check(5);
    }
    let lost_power = cut(&site.lab.disk, &mut site.random).open();
    assert_eq!(site.points(&lost_power), points, "after a power cut");
    site.check_of(&lost_power, 5);
    let most = known(site).into_iter().max().unwrap();
    assert!(most < site.marks.len(), "marks that are thinned out are forgotten: {most} are known");
}

/// What was settled is looked through by the thread that settles: the one that commits copies no volume for its marks when
/// none of them goes.
#[test]
fn committing_leaves_the_marks_alone_of_which_none_goes() {
    let mut site = Site::new(5, tiers());
    site.go_on(60);
    (0..3).for_each(|member| site.arrive(member));
    site.lab.clock.advance(Duration::from_secs(500));
    site.lab.settle();
    let others = site.members().split_off(1);
    let volumes = |site: &Site| {
        let catalogue = site.lab.store().catalogue();
        others.iter().map(|v| Arc::clone(catalogue.volume(*v).unwrap())).collect::<Vec<_>>()
    };
    let write = |site: &mut Site| {
        let batch = site.lab.workload.batch(40);
        site.lab.append(&batch);
        site.lab.wait_for_index();
    };
    // What that settle thinned out is forgotten with the next commits.
    let all = site.marks.len();
    (0..4).for_each(|_| write(&mut site));
    let before = volumes(&site);
    let known = before[0].marks().len();
    assert!(known > 0 && known < all, "{known} of {all} are known");
    let groups = site.lab.store().status().groups;
    (0..40).for_each(|_| write(&mut site));
    assert!(site.lab.store().status().groups >= groups + 2, "no group has ended");
    assert!(before.iter().zip(&volumes(&site)).all(|(a, b)| Arc::ptr_eq(a, b)), "a volume was copied");
}

#[test]
fn without_room_members_still_agree() {
    let mut site =
        Site::new(9, RetentionPolicy { when_full: WhenFull::Thin, ..policy(100_000, &[(100, 200_000)], 0) });
    site.go_on(200);
    (0..3).for_each(|member| site.arrive(member));
    site.lab.wait_for_index();
    site.lab.settle();
    assert_eq!(site.points(site.lab.store()).len(), 200, "every write is kept");
    // The first member is full: its history is thinned out sooner than that of the others.
    let (volume, used) = (site.lab.volume(), site.lab.store().usage()[&site.lab.volume()].total());
    let limit = RetentionPolicy { limit: Some(used / 3), ..policy(100_000, &[(100, 200_000)], 0) };
    site.lab.rule(MetaRecord::PolicySet { volume: Some(volume), policy: Some(limit) });
    site.lab.settle();
    let left = site.left();
    assert!(left[0].len() < 150 && left[0].is_subset(&left[1]) && left[1] == left[2], "{left:?}");
    let points = site.check(3);
    assert!(points >= left[0].len() && points < 200, "{points}");
}
