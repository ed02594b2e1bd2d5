//! An ordered map whose copies share all that is the same in them: a B-tree of counted nodes. A change copies the nodes on the way to it
//! and no more, so a snapshot costs nothing, and a change after it next to nothing, however much the map holds.

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
                    before = Some((shared.clone(), plain.clone()));
                }
            }
            for (shared, plain) in before.into_iter().chain([(shared, plain)]) {
                prop_assert!(shared.iter().eq(plain.iter()));
                for key in (0..3000).step_by(7) {
                    prop_assert_eq!(shared.get(&key), plain.get(&key));
                    prop_assert!(shared.iter_from(&key).eq(plain.range(key..)));
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
}
