//! An ordered map whose copies share all that is the same in them: a B-tree of counted nodes. A change copies the nodes on the way to it
//! and no more, so a snapshot costs nothing, and a change after it next to nothing, however much the map holds.

use std::cmp::Ordering;
use std::slice;
use std::sync::Arc;

/// Entries of a node, at most.
const FULL: usize = 64;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct SharedMap<K, V> {
    root: Arc<Node<K, V>>,
    len: usize,
}

#[derive(Debug, Clone)]
enum Node<K, V> {
    Leaf(Vec<(K, V)>),
    /// Nodes below, each with a key that none of its own is less than; the first one's says nothing.
    Inner(Vec<(K, Arc<Self>)>),
}

/// A node below another, and a key that none of its own is less than.
type Below<K, V> = (K, Arc<Node<K, V>>);

/// What became too long for a node: its upper half, and the first key in it.
type Split<K, V> = Option<Below<K, V>>;

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { root: Arc::new(Node::Leaf(Vec::new())), len: 0 }
    }
}

impl<K: PartialEq + Ord, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.root, &other.root) || (self.len == other.len && self.iter().eq(other.iter()))
    }
}

impl<K: Ord, V: Eq> Eq for SharedMap<K, V> {}

impl<K: Ord, V> SharedMap<K, V> {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(entries) => {
                    let n = entries.binary_search_by(|(k, _)| k.cmp(key)).ok()?;
                    return entries.get(n).map(|(_, value)| value);
                }
                Node::Inner(below) => node = &below.get(place(below, key))?.1,
            }
        }
    }

    /// In the order of the keys.
    pub(super) fn iter(&self) -> Iter<'_, K, V> {
        let mut all = Iter { above: Vec::new(), leaf: [].iter() };
        all.enter(&self.root);
        all
    }

    /// The same from this key on.
    pub(super) fn iter_from(&self, key: &K) -> Iter<'_, K, V> {
        let mut rest = Iter { above: Vec::new(), leaf: [].iter() };
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(entries) => {
                    let before = entries.partition_point(|(k, _)| k < key);
                    rest.leaf = entries.get(before..).unwrap_or_default().iter();
                    return rest;
                }
                Node::Inner(below) => {
                    let mut here = below.get(place(below, key)..).unwrap_or_default().iter();
                    let Some((_, first)) = here.next() else { return rest };
                    rest.above.push(here);
                    node = first;
                }
            }
        }
    }

    /// The other way round, those before this key.
    pub(super) fn iter_back_from(&self, key: &K) -> Back<'_, K, V> {
        let mut rest = Back { above: Vec::new(), leaf: [].iter() };
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(entries) => {
                    let before = entries.partition_point(|(k, _)| k < key);
                    rest.leaf = entries.get(..before).unwrap_or_default().iter();
                    return rest;
                }
                Node::Inner(below) => {
                    let mut here = below.get(..=place(below, key)).unwrap_or_default().iter();
                    let Some((_, last)) = here.next_back() else { return rest };
                    rest.above.push(here);
                    node = last;
                }
            }
        }
    }

    /// Is it the same copy?
    #[cfg(test)]
    pub(super) fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.root, &other.root)
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    pub(super) fn insert(&mut self, key: K, value: V) {
        let (is_new, split) = Arc::make_mut(&mut self.root).insert(key, value);
        self.len += usize::from(is_new);
        if let Some((key, upper)) = split {
            let lower = Arc::clone(&self.root);
            self.root = Arc::new(Node::Inner(vec![(key.clone(), lower), (key, upper)]));
        }
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        // What is not there copies nothing.
        self.get(key)?;
        let removed = Arc::make_mut(&mut self.root).remove(key)?;
        self.len -= 1;
        while let Node::Inner(below) = &*self.root
            && let [(_, only)] = below.as_slice()
        {
            self.root = Arc::clone(only);
        }
        if self.len == 0 {
            *self = Self::default();
        }
        Some(removed)
    }
}

impl<K: Ord + Clone, V: Clone> Node<K, V> {
    /// Is the key a new one?
    fn insert(&mut self, key: K, value: V) -> (bool, Split<K, V>) {
        match self {
            Self::Leaf(entries) => match entries.binary_search_by(|(k, _)| k.cmp(&key)) {
                Ok(n) => {
                    entries.get_mut(n).into_iter().for_each(|entry| entry.1 = value.clone());
                    (false, None)
                }
                Err(n) => {
                    entries.insert(n, (key, value));
                    (true, split(entries).map(|(first, upper)| (first, Arc::new(Self::Leaf(upper)))))
                }
            },
            Self::Inner(below) => {
                let n = place(below, &key);
                let Some((_, node)) = below.get_mut(n) else { return (false, None) };
                let (is_new, upper) = Arc::make_mut(node).insert(key, value);
                upper.into_iter().for_each(|upper| below.insert(n + 1, upper));
                (is_new, split(below).map(|(first, upper)| (first, Arc::new(Self::Inner(upper)))))
            }
        }
    }

    fn remove(&mut self, key: &K) -> Option<V> {
        match self {
            Self::Leaf(entries) => {
                let n = entries.binary_search_by(|(k, _)| k.cmp(key)).ok()?;
                Some(entries.remove(n).1)
            }
            Self::Inner(below) => {
                let n = place(below, key);
                let node = Arc::make_mut(&mut below.get_mut(n)?.1);
                let removed = node.remove(key)?;
                if node.is_empty() {
                    below.remove(n);
                }
                Some(removed)
            }
        }
    }

    const fn is_empty(&self) -> bool {
        match self {
            Self::Leaf(entries) => entries.is_empty(),
            Self::Inner(below) => below.is_empty(),
        }
    }
}

/// Which of the nodes below holds the key, if any does.
fn place<K: Ord, V>(below: &[Below<K, V>], key: &K) -> usize {
    below.partition_point(|(first, _)| first <= key).saturating_sub(1)
}

/// The upper half of what is too long, and its first key.
fn split<K: Clone, T>(of: &mut Vec<(K, T)>) -> Option<(K, Vec<(K, T)>)> {
    if of.len() <= FULL {
        return None;
    }
    let upper = of.split_off(of.len() / 2);
    Some((upper.first()?.0.clone(), upper))
}

/// Entries in the order of their keys.
pub(super) struct Iter<'a, K, V> {
    above: Vec<slice::Iter<'a, Below<K, V>>>,
    leaf: slice::Iter<'a, (K, V)>,
}

impl<'a, K, V> Iter<'a, K, V> {
    fn enter(&mut self, node: &'a Node<K, V>) {
        match node {
            Node::Leaf(entries) => self.leaf = entries.iter(),
            Node::Inner(below) => self.above.push(below.iter()),
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.leaf.next() {
                return Some((key, value));
            }
            match self.above.last_mut()?.next() {
                Some((_, node)) => self.enter(node),
                None => drop(self.above.pop()),
            }
        }
    }
}

/// The same, the other way round.
pub(super) struct Back<'a, K, V> {
    above: Vec<slice::Iter<'a, Below<K, V>>>,
    leaf: slice::Iter<'a, (K, V)>,
}

impl<'a, K, V> Iterator for Back<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.leaf.next_back() {
                return Some((key, value));
            }
            match self.above.last_mut()?.next_back().map(|(_, node)| &**node) {
                Some(Node::Leaf(entries)) => self.leaf = entries.iter(),
                Some(Node::Inner(below)) => self.above.push(below.iter()),
                None => drop(self.above.pop()),
            }
        }
    }
}

/// A key whose value differs between two maps: its value in the first and in the second.
pub(super) type Difference<'a, K, V> = (&'a K, Option<&'a V>, Option<&'a V>);

/// How a map differs from what it was, in the order of the keys. What the two share is passed over without being looked at.
pub(super) fn differences<'a, K: Ord, V: PartialEq>(
    before: &'a SharedMap<K, V>,
    now: &'a SharedMap<K, V>,
) -> impl Iterator<Item = Difference<'a, K, V>> {
    let (mut old, mut new) = (Rest::of(before), Rest::of(now));
    std::iter::from_fn(move || {
        loop {
            if !align(&mut old, &mut new) {
                continue;
            }
            match next_of(&mut old, &mut new)? {
                (_, Some(one), Some(other)) if one == other => {}
                found => return Some(found),
            }
        }
    })
}

/// What of a map is still to be looked at, the next last.
struct Rest<'a, K, V>(Vec<Piece<'a, K, V>>);

enum Piece<'a, K, V> {
    /// A node, and how many levels it has.
    Node(&'a Arc<Node<K, V>>, usize),
    Entry(&'a (K, V)),
}

impl<'a, K, V> Rest<'a, K, V> {
    fn of(map: &'a SharedMap<K, V>) -> Self {
        let below = |node: &&'a Node<K, V>| match *node {
            Node::Leaf(_) => None,
            Node::Inner(below) => below.first().map(|(_, node)| &**node),
        };
        let levels = std::iter::successors(Some(&*map.root), below).count();
        Self(vec![Piece::Node(&map.root, levels)])
    }

    fn node(&self) -> Option<(&'a Arc<Node<K, V>>, usize)> {
        match self.0.last() {
            Some(Piece::Node(node, levels)) => Some((node, *levels)),
            _ => None,
        }
    }

    fn entry(&self) -> Option<&'a (K, V)> {
        match self.0.last() {
            Some(Piece::Entry(entry)) => Some(entry),
            _ => None,
        }
    }

    fn pop(&mut self) {
        self.0.pop();
    }

    /// What is in the node that is next, in its place.
    fn open(&mut self) {
        let Some((node, levels)) = self.node() else { return };
        self.pop();
        match &**node {
            Node::Leaf(entries) => self.0.extend(entries.iter().rev().map(Piece::Entry)),
            Node::Inner(below) => {
                self.0.extend(below.iter().rev().map(|(_, node)| Piece::Node(node, levels - 1)));
            }
        }
    }
}

/// Goes on to where an entry is next in both, or nothing; `false`: it is not there yet. Nodes of the same height come to stand side by
/// side, so that what is shared is seen to be.
fn align<K, V>(old: &mut Rest<'_, K, V>, new: &mut Rest<'_, K, V>) -> bool {
    match (old.node(), new.node()) {
        (None, None) => return true,
        (Some((one, _)), Some((other, _))) if Arc::ptr_eq(one, other) => {
            old.pop();
            new.pop();
        }
        (Some((_, levels)), Some((_, more))) if levels < more => new.open(),
        (Some((_, levels)), Some((_, more))) if levels > more => old.open(),
        _ => {
            old.open();
            new.open();
        }
    }
    false
}

/// The entry with the least key of those that are next, with what both have there.
fn next_of<'a, K: Ord, V>(
    old: &mut Rest<'a, K, V>,
    new: &mut Rest<'a, K, V>,
) -> Option<Difference<'a, K, V>> {
    let first = match (old.entry(), new.entry()) {
        (None, None) => return None,
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (Some((one, _)), Some((other, _))) => one.cmp(other),
    };
    let was = old.entry().filter(|_| first.is_le());
    let is = new.entry().filter(|_| first.is_ge());
    was.into_iter().for_each(|_| old.pop());
    is.into_iter().for_each(|_| new.pop());
    let (key, _) = was.or(is)?;
    Some((key, was.map(|(_, value)| value), is.map(|(_, value)| value)))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_a_plain_map_holds_and_copies_stay_what_they_were(
            steps in prop::collection::vec((0u16..3000, any::<bool>(), any::<u8>()), 1..3000),
            spread in 1u16..1000,
        ) {
            let (mut shared, mut plain) = (SharedMap::default(), BTreeMap::new());
            let mut before = None;
            let differ = |(a, was): &(SharedMap<u16, u8>, BTreeMap<u16, u8>), (b, is): &(_, BTreeMap<_, _>)| {
                let keys: BTreeSet<&u16> = was.keys().chain(is.keys()).collect();
                let all = keys.into_iter().map(|key| (key, was.get(key), is.get(key)));
                differences(a, b).eq(all.filter(|(_, was, is)| was != is))
            };
            for (n, (key, remove, value)) in steps.into_iter().enumerate() {
                let key = key / spread;
                if remove {
                    prop_assert_eq!(shared.remove(&key), plain.remove(&key));
                } else {
                    shared.insert(key, value);
                    plain.insert(key, value);
                }
                prop_assert_eq!(shared.len(), plain.len());
                if n % 500 == 250 {
                    let here = (shared.clone(), plain.clone());
                    let before = before.replace(here.clone()).unwrap_or_default();
                    prop_assert!(differ(&before, &here) && differ(&here, &before) && differ(&here, &here));
                }
            }
            let last = (shared.clone(), plain.clone());
            prop_assert!(before.iter().all(|before| differ(before, &last)));
            prop_assert!(differ(&Default::default(), &last) && differ(&last, &Default::default()));
            for (shared, plain) in before.into_iter().chain([(shared, plain)]) {
                prop_assert!(shared.iter().eq(plain.iter()));
                for key in (0..3000).step_by(7) {
                    prop_assert_eq!(shared.get(&key), plain.get(&key));
                    prop_assert!(shared.iter_from(&key).eq(plain.range(key..)));
                    prop_assert!(shared.iter_back_from(&key).eq(plain.range(..key).rev()));
                }
            }
        }
    }

    #[test]
    fn a_change_copies_only_what_lies_on_the_way_to_it() {
        let mut map = SharedMap::default();
        (0..100_000u64).for_each(|n| map.insert(n.wrapping_mul(0x9E37_79B9_7F4A_7C15), ()));
        let before = map.clone();
        assert!(map == before && map.is_shared_with(&before));
        map.insert(5, ());
        assert!(map != before && (map.len(), before.len()) == (100_001, 100_000));
        let (Node::Inner(now), Node::Inner(then)) = (&*map.root, &*before.root) else { panic!("a leaf") };
        let same = now.iter().filter(|(_, node)| then.iter().any(|(_, other)| Arc::ptr_eq(node, other)));
        assert_eq!(same.count() + 1, now.len());
        (0..100_000u64).for_each(|n| assert!(map.remove(&n.wrapping_mul(0x9E37_79B9_7F4A_7C15)).is_some()));
        assert!(map.iter().eq([(&5, &())]));
    }

    thread_local!(static COMPARED: Cell<usize> = const { Cell::new(0) });

    /// A key that counts how often it was compared.
    #[derive(Clone, PartialEq, Eq, Debug)]
    struct Counted(u64);

    impl PartialOrd for Counted {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl Ord for Counted {
        fn cmp(&self, other: &Self) -> Ordering {
            COMPARED.set(COMPARED.get() + 1);
            self.0.cmp(&other.0)
        }
    }

    #[test]
    fn what_two_maps_share_is_passed_over() {
        let mut map: SharedMap<Counted, u64> = SharedMap::default();
        (0..200_000).for_each(|n| map.insert(Counted(n * 2), n));
        let before = map.clone();
        // At the end, as most are; here and there; and a stretch of them.
        (200_000..200_010).for_each(|n| map.insert(Counted(n * 2), n));
        [1, 70_001, 140_001].into_iter().for_each(|n| map.insert(Counted(n), n));
        (50_000..51_000).for_each(|n| assert!(map.remove(&Counted(n * 2)).is_some()));
        COMPARED.set(0);
        let found = differences(&before, &map).count();
        let compared = COMPARED.get();
        assert_eq!(found, 10 + 3 + 1000);
        assert!(compared < 4000, "{compared} comparisons for {found} differences");
        COMPARED.set(0);
        assert_eq!((differences(&map, &map.clone()).count(), COMPARED.get()), (0, 0));
    }
}
