//! The bookmarks of a volume, by name and in the order of their records. There may be a year of them, a million: a catalogue is copied
//! with each marker it takes in, and a page of them is asked for from any place. Each is there once, in however many catalogues it is.

use std::sync::Arc;

use tap_block::{Consistency, Lsn, Name};

use super::Passed;
use super::shared_map::{Keyed, SharedMap, differences};

/// Where a bookmark stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookmarkPoint {
    /// Its record.
    pub at: Passed,
    /// What it promises.
    pub consistency: Consistency,
    /// Free text of its maker.
    pub note: Box<str>,
}

#[derive(Debug, PartialEq, Eq)]
struct Bookmark {
    name: Name,
    point: BookmarkPoint,
}

/// A bookmark found by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ByName(Arc<Bookmark>);

impl Keyed for ByName {
    type Key = Name;

    fn key(&self) -> &Name {
        &self.0.name
    }
}

/// The same found by its record, which makes no other.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ByRecord(Arc<Bookmark>);

impl Keyed for ByRecord {
    type Key = Lsn;

    fn key(&self) -> &Lsn {
        &self.0.point.at.lsn
    }
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bookmarks {
    by_name: SharedMap<ByName>,
    by_record: SharedMap<ByRecord>,
}

/// What a name stood for, and what it stands for.
pub(super) type Change<'a> = (&'a Name, Option<&'a BookmarkPoint>, Option<&'a BookmarkPoint>);

impl Bookmarks {
    pub(super) const fn len(&self) -> usize {
        self.by_name.len()
    }

    /// By name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, &BookmarkPoint)> {
        self.by_name.iter().map(|ByName(one)| parts(one))
    }

    /// In the order of their records, those behind this one.
    pub(super) fn behind(&self, lsn: Lsn) -> impl Iterator<Item = (&Name, &BookmarkPoint)> {
        self.by_record.iter_from(&lsn.next()).map(|ByRecord(one)| parts(one))
    }

    /// The newest first, those before this record.
    pub(super) fn before(&self, lsn: Lsn) -> impl Iterator<Item = (&Name, &BookmarkPoint)> {
        self.by_record.iter_back_from(&lsn).map(|ByRecord(one)| parts(one))
    }

    /// How they differ from what they were, by name.
    pub(super) fn since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = Change<'a>> {
        differences(&before.by_name, &self.by_name).filter_map(|(was, is)| {
            let ByName(one) = is.or(was)?;
            let point = |of: Option<&'a ByName>| of.map(|ByName(one)| &one.point);
            Some((&one.name, point(was), point(is)))
        })
    }

    /// Their records, ascending.
    pub(super) fn lsns(&self) -> impl Iterator<Item = Lsn> {
        self.by_record.iter().map(|one| *one.key())
    }

    pub(super) fn get(&self, name: &Name) -> Option<&BookmarkPoint> {
        self.by_name.get(name).map(|ByName(one)| &one.point)
    }

    /// The one at this record.
    pub(super) fn at(&self, lsn: Lsn) -> Option<(&Name, &BookmarkPoint)> {
        self.by_record.get(&lsn).map(|ByRecord(one)| parts(one))
    }

    /// One of the same name goes.
    pub(super) fn insert(&mut self, name: Name, point: BookmarkPoint) {
        self.put(Arc::new(Bookmark { name, point }));
    }

    fn put(&mut self, one: Arc<Bookmark>) {
        self.remove(&one.name);
        self.by_record.insert(ByRecord(Arc::clone(&one)));
        self.by_name.insert(ByName(one));
    }

    /// The same; what `others` have just so is shared with them.
    pub(super) fn insert_as_in(&mut self, others: &Self, name: Name, point: BookmarkPoint) {
        let there = others.by_name.get(&name).filter(|ByName(there)| there.point == point);
        match there {
            Some(ByName(there)) => self.put(Arc::clone(there)),
            None => self.insert(name, point),
        }
    }

    /// Those behind this record that `others` have just so are shared with them.
    pub(super) fn share_with(&mut self, others: &Self, behind: Lsn) {
        let there = |ByRecord(own): &ByRecord| {
            let ByName(there) = others.by_name.get(&own.name)?;
            (!Arc::ptr_eq(own, there) && own == there).then(|| Arc::clone(there))
        };
        let shared: Vec<_> = self.by_record.iter_from(&behind.next()).filter_map(there).collect();
        for one in shared {
            self.by_record.insert(ByRecord(Arc::clone(&one)));
            self.by_name.insert(ByName(one));
        }
    }

    /// Where it stood.
    pub(super) fn remove(&mut self, name: &Name) -> Option<Passed> {
        let ByName(removed) = self.by_name.remove(name)?;
        let at = removed.point.at;
        // Another one's record stays: bytes that somebody made up may name two at one.
        if self.by_record.get(&at.lsn).is_some_and(|ByRecord(there)| there.name == *name) {
            self.by_record.remove(&at.lsn);
        }
        Some(at)
    }

    #[cfg(test)]
    pub(super) fn is_shared_with(&self, other: &Self) -> bool {
        self.by_name.is_shared_with(&other.by_name) && self.by_record.is_shared_with(&other.by_record)
    }
}

fn parts(one: &Bookmark) -> (&Name, &BookmarkPoint) {
    (&one.name, &one.point)
}

impl FromIterator<(Name, BookmarkPoint)> for Bookmarks {
    fn from_iter<T: IntoIterator<Item = (Name, BookmarkPoint)>>(all: T) -> Self {
        let mut made = Self::default();
        all.into_iter().for_each(|(name, point)| made.insert(name, point));
        made
    }
}

#[cfg(test)]
mod tests {
    use tap_block::WallTime;

    use super::*;

    fn many(n: u64) -> Bookmarks {
        let point = |n: u64| {
            let at = Passed { lsn: Lsn::new(n).unwrap(), at: WallTime::from_nanos(n) };
            BookmarkPoint { at, consistency: Consistency::Crash, note: "".into() }
        };
        // In no order, as most names are.
        let name = |n: u64| format!("job-{:016x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15)).parse().unwrap();
        (1..=n).map(|n| (name(n), point(n))).collect()
    }

    /// A name of 20 letters takes 32 bytes more; an allocation takes 8 and the two counts of an `Arc` 16.
    #[test]
    fn a_bookmark_takes_no_more_than_it_has_to() {
        assert!(size_of::<Bookmark>() <= 56, "{}", size_of::<Bookmark>());
        let all = many(50_000);
        for (what, slots) in [("names", all.by_name.slots()), ("records", all.by_record.slots())] {
            assert!(slots <= 50_000 * 3 / 2, "{slots} places for 50000 {what}");
        }
        let mut few = all.clone();
        let gone: Vec<Name> =
            all.iter().enumerate().filter(|(n, _)| n % 8 > 0).map(|(_, b)| b.0.clone()).collect();
        gone.iter().for_each(|name| assert!(few.remove(name).is_some()));
        assert_eq!(few.len(), 50_000 / 8);
        assert!(few.by_name.slots() <= few.len() * 3, "{} for {}", few.by_name.slots(), few.len());
    }

    #[test]
    fn what_two_have_just_so_is_there_once() {
        let (one, mut other) = (many(5000), many(5100));
        // The last of them says something else.
        let (name, mut point) =
            one.behind(Lsn::new(4999).unwrap()).next().map(|(n, p)| (n.clone(), p.clone())).unwrap();
        point.note = "another".into();
        other.insert(name, point);
        let before = other.clone();
        let shared = |all: &Bookmarks| {
            let is_there =
                |name: &Name| one.by_name.get(name).is_some_and(|there| std::ptr::eq(there.key(), name));
            all.iter().filter(|(name, _)| is_there(name)).count()
        };
        other.share_with(&one, Lsn::new(3000).unwrap());
        assert_eq!((shared(&before), shared(&other)), (0, 1999));
        other.share_with(&one, Lsn::ZERO);
        assert_eq!((shared(&other), &other), (4999, &before), "and it says what it said");
        assert!(other.lsns().eq((1..=5100).map(|n| Lsn::new(n).unwrap())));
    }
}
