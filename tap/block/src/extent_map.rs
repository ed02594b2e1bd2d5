//! What is known about which stretch of a volume: a map from extents to values, and a set of extents.

use std::collections::BTreeMap;

use crate::extent::Extent;

/// A map from extents to values. Later insertions replace earlier ones where they overlap; neighbours with
/// equal values are merged, so a map that is written sequentially stays one entry long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtentMap<V> {
    /// start → (end, value); entries are not empty, do not overlap, and equal neighbours never touch.
    entries: BTreeMap<u64, (u64, V)>,
}

impl<V> Default for ExtentMap<V> {
    fn default() -> Self {
        Self { entries: BTreeMap::new() }
    }
}

impl<V: Clone + PartialEq> ExtentMap<V> {
    /// An empty map.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets every byte of `extent` to `value`.
    pub fn insert(&mut self, extent: Extent, value: V) {
        if extent.is_empty() {
            return;
        }
        self.remove(extent);
        let mut merged = extent;
        if let Some((&start, (end, v))) = self.entries.range(..extent.offset()).next_back()
            && *end == extent.offset()
            && *v == value
        {
            merged = Extent::between(start, merged.end());
        }
        if let Some((end, v)) = self.entries.get(&extent.end())
            && *v == value
        {
            merged = Extent::between(merged.offset(), *end);
            self.entries.remove(&extent.end());
        }
        self.entries.insert(merged.offset(), (merged.end(), value));
    }

    /// Forgets every byte of `extent`.
    pub fn remove(&mut self, extent: Extent) {
        if extent.is_empty() {
            return;
        }
        let touched: Vec<u64> = self.touching(extent).map(|(e, _)| e.offset()).collect();
        for start in touched {
            let Some((end, value)) = self.entries.remove(&start) else { continue };
            if start < extent.offset() {
                self.entries.insert(start, (extent.offset(), value.clone()));
            }
            if end > extent.end() {
                self.entries.insert(extent.end(), (end, value));
            }
        }
    }

    /// The entries that share a byte with `extent`, whole, in order.
    pub fn touching(&self, extent: Extent) -> impl Iterator<Item = (Extent, &V)> {
        let first = self
            .entries
            .range(..=extent.offset())
            .next_back()
            .filter(|(_, (end, _))| *end > extent.offset())
            .map_or(extent.offset(), |(&start, _)| start);
        self.entries
            .range(first..extent.end().max(first))
            .map(|(&start, (end, v))| (Extent::between(start, *end), v))
            .filter(move |_| !extent.is_empty())
    }

    /// The entries within `extent`, cut to it, in order.
    pub fn within(&self, extent: Extent) -> impl Iterator<Item = (Extent, &V)> {
        self.touching(extent).filter_map(move |(e, v)| Some((e.intersection(extent)?, v)))
    }

    /// Does any entry share a byte with `extent`?
    #[must_use]
    pub fn overlaps(&self, extent: Extent) -> bool {
        self.touching(extent).next().is_some()
    }

    /// Every entry, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Extent, &V)> {
        self.entries.iter().map(|(&start, (end, v))| (Extent::between(start, *end), v))
    }

    /// Nothing in it?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many entries (not bytes) it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many bytes its entries cover.
    #[must_use]
    pub fn covered(&self) -> u64 {
        self.iter().map(|(e, _)| e.length()).sum()
    }
}

/// A set of bytes of a volume, kept as extents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExtentSet(ExtentMap<()>);

impl ExtentSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds every byte of `extent`.
    pub fn insert(&mut self, extent: Extent) {
        self.0.insert(extent, ());
    }

    /// Takes every byte of `extent` out.
    pub fn remove(&mut self, extent: Extent) {
        self.0.remove(extent);
    }

    /// Does it share a byte with `extent`?
    #[must_use]
    pub fn overlaps(&self, extent: Extent) -> bool {
        self.0.overlaps(extent)
    }

    /// Its parts within `extent`, in order.
    pub fn within(&self, extent: Extent) -> impl Iterator<Item = Extent> {
        self.0.within(extent).map(|(e, ())| e)
    }

    /// Its parts, in order.
    pub fn iter(&self) -> impl Iterator<Item = Extent> {
        self.0.iter().map(|(e, ())| e)
    }

    /// Its first part.
    #[must_use]
    pub fn first(&self) -> Option<Extent> {
        self.iter().next()
    }

    /// No bytes?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many separate parts.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// How many bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.covered()
    }
}

impl FromIterator<Extent> for ExtentSet {
    fn from_iter<I: IntoIterator<Item = Extent>>(extents: I) -> Self {
        let mut set = Self::new();
        extents.into_iter().for_each(|e| set.insert(e));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn e(offset: u64, length: u64) -> Extent {
        Extent::new(offset, length).unwrap()
    }

    #[test]
    fn later_wins_and_equal_neighbours_merge() {
        let mut map = ExtentMap::new();
        map.insert(e(0, 10), 'a');
        map.insert(e(4, 2), 'b');
        assert_eq!(map.iter().collect::<Vec<_>>(), [(e(0, 4), &'a'), (e(4, 2), &'b'), (e(6, 4), &'a')]);
        map.insert(e(4, 2), 'a');
        assert_eq!(map.iter().collect::<Vec<_>>(), [(e(0, 10), &'a')]);
    }

    #[test]
    fn an_empty_extent_touches_nothing() {
        let mut map = ExtentMap::new();
        map.insert(e(0, 10), 'a');
        assert!(!map.overlaps(e(5, 0)));
        map.remove(e(5, 0));
        map.insert(e(5, 0), 'b');
        assert_eq!(map.len(), 1);
    }
}
