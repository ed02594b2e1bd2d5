//! An ordered map whose copies share all that is the same in them: a B-tree of counted nodes. A change copies the nodes on the way to it
//! and no more, so a snapshot costs nothing, and a change after it next to nothing, however much the map holds. What it holds has its key
//! in itself, and nodes are no larger than what is in them: of many small entries these are most of what they take.

use std::cmp::Ordering;
use std::fmt::Debug;
use std::slice;
use std::sync::Arc;

/// Entries of a node, at most.
const FULL: usize = 64;

/// What a map holds.
pub(super) trait Keyed: Clone + Debug {
    /// By which it is found.
    type Key: Ord + Clone + Debug;

    fn key(&self) -> &Self::Key;
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct SharedMap<E: Keyed> {
    root: Arc<Node<E>>,
    len: usize,
}

#[derive(Debug, Clone)]
enum Node<E: Keyed> {
    Leaf(Vec<E>),
    /// Nodes below, each with a key that none of its own is less than; the first one's says nothing.
    Inner(Vec<Below<E>>),
}

/// A node below another, and a key that none of its own is less than.
type Below<E> = (<E as Keyed>::Key, Arc<Node<E>>);

/// What became too long for a node: its upper half, and the first key in it.
type Split<E> = Option<Below<E>>;

impl<E: Keyed> Default for SharedMap<E> {
    fn default() -> Self {
        Self { root: Arc::new(Node::Leaf(Vec::new())), len: 0 }
    }
}

impl<E: Keyed + PartialEq> PartialEq for SharedMap<E> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.root, &other.root) || (self.len == other.len && self.iter().eq(other.iter()))
    }
}

impl<E: Keyed + Eq> Eq for SharedMap<E> {}

impl<E: Keyed> SharedMap<E> {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, key: &E::Key) -> Option<&E> {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(entries) => {
                    let n = entries.binary_search_by(|entry| entry.key().cmp(key)).ok()?;
                    return entries.get(n);
                }
                Node::Inner(below) => node = &below.get(place(below, key))?.1,
            }
        }
    }

    /// In the order of the keys.
    pub(super) fn iter(&self) -> Iter<'_, E> {
        let mut all = Iter { above: Vec::new(), leaf: [].iter() };
        all.enter(&self.root);
        all
    }

    /// The same from this key on.
    pub(super) fn iter_from(&self, key: &E::Key) -> Iter<'_, E> {
        let mut rest = Iter { above: Vec::new(), leaf: [].iter() };
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(entries) => {
                    let before = entries.partition_point(|entry| entry.key() < key);
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
    pub(super) fn iter_back_from(&self, key: &E::Key) -> Back<'_, E> {
        let mut rest = Back { above: Vec::new(), leaf: [].iter() };
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(entries) => {
                    let before = entries.partition_point(|entry| entry.key() < key);
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

    /// Entries that there is memory for.
    #[cfg(test)]
    pub(super) fn slots(&self) -> usize {
        fn of<E: Keyed>(node: &Node<E>) -> usize {
            match node {
                Node::Leaf(entries) => entries.capacity(),
                Node::Inner(below) => below.iter().map(|(_, node)| of(node)).sum(),
            }
        }
        of(&self.root)
    }

    /// Is it the same copy?
    #[cfg(test)]
    pub(super) fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.root, &other.root)
    }

    /// One with the same key goes.
    pub(super) fn insert(&mut self, entry: E) {
        let (is_new, split) = Arc::make_mut(&mut self.root).insert(entry);
        self.len += usize::from(is_new);
        if let Some((key, upper)) = split {
            let lower = Arc::clone(&self.root);
            self.root = Arc::new(Node::Inner(vec![(key.clone(), lower), (key, upper)]));
        }
    }

    pub(super) fn remove(&mut self, key: &E::Key) -> Option<E> {
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

impl<E: Keyed> Node<E> {
    /// Is the key a new one?
    fn insert(&mut self, entry: E) -> (bool, Split<E>) {
        match self {
            Self::Leaf(entries) => match entries.binary_search_by(|there| there.key().cmp(entry.key())) {
                Ok(n) => {
                    entries.get_mut(n).into_iter().for_each(|there| *there = entry.clone());
                    (false, None)
                }
                Err(n) => (true, put(entries, n, entry).and_then(Self::leaf)),
            },
            Self::Inner(below) => {
                let n = place(below, entry.key());
                let Some((_, node)) = below.get_mut(n) else { return (false, None) };
                let (is_new, upper) = Arc::make_mut(node).insert(entry);
                let split = upper.and_then(|upper| put(below, n + 1, upper)).and_then(Self::inner);
                (is_new, split)
            }
        }
    }

    fn leaf(entries: Vec<E>) -> Split<E> {
        Some((entries.first()?.key().clone(), Arc::new(Self::Leaf(entries))))
    }

    fn inner(below: Vec<Below<E>>) -> Split<E> {
        Some((below.first()?.0.clone(), Arc::new(Self::Inner(below))))
    }

    fn remove(&mut self, key: &E::Key) -> Option<E> {
        match self {
            Self::Leaf(entries) => {
                let n = entries.binary_search_by(|entry| entry.key().cmp(key)).ok()?;
                let removed = entries.remove(n);
                if entries.len() * 2 < entries.capacity() {
                    entries.shrink_to_fit();
                }
                Some(removed)
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
fn place<K: Ord, N>(below: &[(K, N)], key: &K) -> usize {
    below.partition_point(|(first, _)| first <= key).saturating_sub(1)
}

/// One more at this place; the upper half where that would be too many. There is never much more room than is used.
fn put<T>(into: &mut Vec<T>, n: usize, what: T) -> Option<Vec<T>> {
    if into.len() < FULL {
        if into.len() == into.capacity() {
            into.reserve_exact((into.len() / 4).max(2).min(FULL - into.len()));
        }
        into.insert(n, what);
        return None;
    }
    let mut upper = into.split_off(FULL / 2);
    into.shrink_to_fit();
    match n.checked_sub(into.len()).filter(|n| *n > 0) {
        Some(n) => upper.insert(n, what),
        None => into.insert(n, what),
    }
    Some(upper)
}

/// Entries in the order of their keys.
pub(super) struct Iter<'a, E: Keyed> {
    above: Vec<slice::Iter<'a, Below<E>>>,
    leaf: slice::Iter<'a, E>,
}

impl<'a, E: Keyed> Iter<'a, E> {
    fn enter(&mut self, node: &'a Node<E>) {
        match node {
            Node::Leaf(entries) => self.leaf = entries.iter(),
            Node::Inner(below) => self.above.push(below.iter()),
        }
    }
}

impl<'a, E: Keyed> Iterator for Iter<'a, E> {
    type Item = &'a E;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.leaf.next() {
                return Some(entry);
            }
            match self.above.last_mut()?.next() {
                Some((_, node)) => self.enter(node),
                None => drop(self.above.pop()),
            }
        }
    }
}

/// The same, the other way round.
pub(super) struct Back<'a, E: Keyed> {
    above: Vec<slice::Iter<'a, Below<E>>>,
    leaf: slice::Iter<'a, E>,
}

impl<'a, E: Keyed> Iterator for Back<'a, E> {
    type Item = &'a E;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.leaf.next_back() {
                return Some(entry);
            }
            match self.above.last_mut()?.next_back().map(|(_, node)| &**node) {
                Some(Node::Leaf(entries)) => self.leaf = entries.iter(),
                Some(Node::Inner(below)) => self.above.push(below.iter()),
                None => drop(self.above.pop()),
            }
        }
    }
}

/// What two maps hold under a key and is not the same: in the first and in the second.
pub(super) type Difference<'a, E> = (Option<&'a E>, Option<&'a E>);

/// How a map differs from what it was, in the order of the keys. What the two share is passed over without being looked at.
pub(super) fn differences<'a, E: Keyed + PartialEq>(
    before: &'a SharedMap<E>,
    now: &'a SharedMap<E>,
) -> impl Iterator<Item = Difference<'a, E>> {
    let (mut old, mut new) = (Rest::of(before), Rest::of(now));
    std::iter::from_fn(move || {
        loop {
            if !align(&mut old, &mut new) {
                continue;
            }
            match next_of(&mut old, &mut new)? {
                (Some(one), Some(other)) if one == other => {}
                found => return Some(found),
            }
        }
    })
}

/// What of a map is still to be looked at, the next last.
struct Rest<'a, E: Keyed>(Vec<Piece<'a, E>>);

enum Piece<'a, E: Keyed> {
    /// A node, and how many levels it has.
    Node(&'a Arc<Node<E>>, usize),
    Entry(&'a E),
}

impl<'a, E: Keyed> Rest<'a, E> {
    fn of(map: &'a SharedMap<E>) -> Self {
        let below = |node: &&'a Node<E>| match *node {
            Node::Leaf(_) => None,
            Node::Inner(below) => below.first().map(|(_, node)| &**node),
        };
        let levels = std::iter::successors(Some(&*map.root), below).count();
        Self(vec![Piece::Node(&map.root, levels)])
    }

    fn node(&self) -> Option<(&'a Arc<Node<E>>, usize)> {
        match self.0.last() {
            Some(Piece::Node(node, levels)) => Some((node, *levels)),
            _ => None,
        }
    }

    fn entry(&self) -> Option<&'a E> {
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
fn align<E: Keyed>(old: &mut Rest<'_, E>, new: &mut Rest<'_, E>) -> bool {
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
fn next_of<'a, E: Keyed>(old: &mut Rest<'a, E>, new: &mut Rest<'a, E>) -> Option<Difference<'a, E>> {
    let first = match (old.entry(), new.entry()) {
        (None, None) => return None,
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (Some(one), Some(other)) => one.key().cmp(other.key()),
    };
    let was = old.entry().filter(|_| first.is_le());
    let is = new.entry().filter(|_| first.is_ge());
    was.into_iter().for_each(|_| old.pop());
    is.into_iter().for_each(|_| new.pop());
    Some((was, is))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    impl<K: Ord + Clone + Debug, V: Clone + Debug> Keyed for (K, V) {
        type Key = K;

        fn key(&self) -> &K {
            &self.0
        }
    }

    /// Of a plain map.
    fn pairs<K: Copy, V: Copy>((key, value): (&K, &V)) -> (K, V) {
        (*key, *value)
    }

    proptest! {
        #[test]
        fn it_holds_what_a_plain_map_holds_and_copies_stay_what_they_were(
            steps in prop::collection::vec((0u16..3000, any::<bool>(), any::<u8>()), 1..3000),
            spread in 1u16..1000,
        ) {
            let (mut shared, mut plain) = (SharedMap::default(), BTreeMap::new());
            let mut before = None;
            let differ = |(a, was): &(SharedMap<(u16, u8)>, BTreeMap<u16, u8>), (b, is): &(_, BTreeMap<_, _>)| {
                let keys: BTreeSet<u16> = was.keys().chain(is.keys()).copied().collect();
                let of = |map: &BTreeMap<u16, u8>, key: u16| map.get(&key).map(|value| (key, *value));
                let all = keys.into_iter().map(|key| (of(was, key), of(is, key)));
                let found = differences(a, b).map(|(was, is)| (was.copied(), is.copied()));
                found.eq(all.filter(|(was, is)| was != is))
            };
            for (n, (key, remove, value)) in steps.into_iter().enumerate() {
                let key = key / spread;
                if remove {
                    prop_assert_eq!(shared.remove(&key), plain.remove(&key).map(|value| (key, value)));
                } else {
                    shared.insert((key, value));
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
                prop_assert!(shared.iter().copied().eq(plain.iter().map(pairs)));
                for key in (0..3000).step_by(7) {
                    prop_assert_eq!(shared.get(&key).map(|(_, value)| value), plain.get(&key));
                    prop_assert!(shared.iter_from(&key).copied().eq(plain.range(key..).map(pairs)));
                    prop_assert!(shared.iter_back_from(&key).copied().eq(plain.range(..key).rev().map(pairs)));
                }
            }
        }
    }

    #[test]
    fn a_change_copies_only_what_lies_on_the_way_to_it() {
        let mut map = SharedMap::default();
        (0..100_000u64).for_each(|n| map.insert((n.wrapping_mul(0x9E37_79B9_7F4A_7C15), ())));
        let before = map.clone();
        assert!(map == before && map.is_shared_with(&before));
        map.insert((5, ()));
        assert!(map != before && (map.len(), before.len()) == (100_001, 100_000));
        let (Node::Inner(now), Node::Inner(then)) = (&*map.root, &*before.root) else { panic!("a leaf") };
        let same = now.iter().filter(|(_, node)| then.iter().any(|(_, other)| Arc::ptr_eq(node, other)));
        assert_eq!(same.count() + 1, now.len());
        (0..100_000u64).for_each(|n| assert!(map.remove(&n.wrapping_mul(0x9E37_79B9_7F4A_7C15)).is_some()));
        assert!(map.iter().eq([&(5, ())]));
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
        let mut map: SharedMap<(Counted, u64)> = SharedMap::default();
        (0..200_000).for_each(|n| map.insert((Counted(n * 2), n)));
        let before = map.clone();
        // At the end, as most are; here and there; and a stretch of them.
        (200_000..200_010).for_each(|n| map.insert((Counted(n * 2), n)));
        [1, 70_001, 140_001].into_iter().for_each(|n| map.insert((Counted(n), n)));
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
