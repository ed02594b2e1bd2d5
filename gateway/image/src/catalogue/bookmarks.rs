//! The bookmarks of a volume, by name and in the order of their records. There may be a year of them, a million: a catalogue is copied
//! with each marker it takes in, and a page of them is asked for from any place.

use tap_block::{Consistency, Lsn, Name};

use super::Passed;
use super::shared_map::{Difference, SharedMap, differences};

/// Where a bookmark stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookmarkPoint {
    /// Its record.
    pub at: Passed,
    /// What it promises.
    pub consistency: Consistency,
    /// Free text of its maker.
    pub note: String,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bookmarks {
    by_name: SharedMap<Name, BookmarkPoint>,
    /// A record makes one.
    names: SharedMap<Lsn, Name>,
}

impl Bookmarks {
    pub(super) const fn len(&self) -> usize {
        self.by_name.len()
    }

    /// By name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, &BookmarkPoint)> {
        self.by_name.iter()
    }

    /// In the order of their records, those behind this one.
    pub(super) fn behind(&self, lsn: Lsn) -> impl Iterator<Item = (&Name, &BookmarkPoint)> {
        let names = self.names.iter_from(&lsn.next());
        names.filter_map(|(_, name)| Some((name, self.by_name.get(name)?)))
    }

    /// The newest first, those before this record.
    pub(super) fn before(&self, lsn: Lsn) -> impl Iterator<Item = (&Name, &BookmarkPoint)> {
        let names = self.names.iter_back_from(&lsn);
        names.filter_map(|(_, name)| Some((name, self.by_name.get(name)?)))
    }

    /// How they differ from what they were, by name.
    pub(super) fn since<'a>(
        &'a self,
        before: &'a Self,
    ) -> impl Iterator<Item = Difference<'a, Name, BookmarkPoint>> {
        differences(&before.by_name, &self.by_name)
    }

    /// Their records, ascending.
    pub(super) fn lsns(&self) -> impl Iterator<Item = Lsn> {
        self.names.iter().map(|(lsn, _)| *lsn)
    }

    pub(super) fn get(&self, name: &Name) -> Option<&BookmarkPoint> {
        self.by_name.get(name)
    }

    /// The one at this record.
    pub(super) fn at(&self, lsn: Lsn) -> Option<(&Name, &BookmarkPoint)> {
        let name = self.names.get(&lsn)?;
        Some((name, self.by_name.get(name)?))
    }

    /// One of the same name goes.
    pub(super) fn insert(&mut self, name: Name, point: BookmarkPoint) {
        self.remove(&name);
        self.names.insert(point.at.lsn, name.clone());
        self.by_name.insert(name, point);
    }

    pub(super) fn remove(&mut self, name: &Name) -> Option<BookmarkPoint> {
        let removed = self.by_name.remove(name)?;
        // Another one's record stays: bytes that somebody made up may name two at one.
        if self.names.get(&removed.at.lsn) == Some(name) {
            self.names.remove(&removed.at.lsn);
        }
        Some(removed)
    }

    #[cfg(test)]
    pub(super) fn is_shared_with(&self, other: &Self) -> bool {
        self.by_name.is_shared_with(&other.by_name) && self.names.is_shared_with(&other.names)
    }
}

impl FromIterator<(Name, BookmarkPoint)> for Bookmarks {
    fn from_iter<T: IntoIterator<Item = (Name, BookmarkPoint)>>(all: T) -> Self {
        let mut made = Self::default();
        all.into_iter().for_each(|(name, point)| made.insert(name, point));
        made
    }
}
