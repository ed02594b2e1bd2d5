//! Moving names, held still: `NAME` and `NAME@-10m` mean one moment for each client, however many connections
//! it opens, until ten minutes after the last of them is closed. Four connections of one copy never see four
//! disks.

use std::collections::HashMap;
use std::time::Duration;

use tap_block::{Lsn, Monotonic, VolumeId};

/// How long a name stays still after the last connection.
const KEPT: Duration = Duration::from_secs(600);
/// Names held still at once. At the limit the one longest closed is let go; when all are open, the newcomer
/// is not held: each of its connections resolves the name anew.
const LIMIT: usize = 10_000;

/// A client and the name it opened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct LeaseKey {
    /// Who; made of what the front knows of the peer.
    pub(crate) client: String,
    /// What.
    pub(crate) name: String,
}

/// The moment that a name means for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frozen {
    pub(crate) volume: VolumeId,
    pub(crate) point: Lsn,
}

/// Who sees which moment under which name.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    held: HashMap<LeaseKey, Lease>,
}

#[derive(Debug)]
struct Lease {
    frozen: Frozen,
    open: usize,
    closed_at: Monotonic,
}

impl Leases {
    /// What the name meant for the client when it was first opened.
    pub(crate) fn get(&self, key: &LeaseKey, now: Monotonic) -> Option<Frozen> {
        self.held.get(key).filter(|lease| !lease.is_over(now)).map(|lease| lease.frozen)
    }

    /// What was held in an earlier life of the gateway: its clients have ten minutes to come back.
    pub(crate) fn restored(held: impl IntoIterator<Item = (LeaseKey, Frozen)>, now: Monotonic) -> Self {
        let lease = |(key, frozen)| (key, Lease { frozen, open: 0, closed_at: now });
        Self { held: held.into_iter().take(LIMIT).map(lease).collect() }
    }

    /// Everything held.
    pub(crate) fn held(&self) -> impl Iterator<Item = (&LeaseKey, Frozen)> {
        self.held.iter().map(|(key, lease)| (key, lease.frozen))
    }

    /// The client opened a connection by this name; the first to say what it means is right.
    pub(crate) fn open(&mut self, key: LeaseKey, frozen: Frozen, now: Monotonic) -> Frozen {
        self.expire(now);
        if !self.held.contains_key(&key) && !self.make_room() {
            return frozen;
        }
        let lease = self.held.entry(key).or_insert(Lease { frozen, open: 0, closed_at: now });
        lease.open += 1;
        lease.frozen
    }

    /// One of the client's connections by this name is closed.
    pub(crate) fn close(&mut self, key: &LeaseKey, now: Monotonic) {
        if let Some(lease) = self.held.get_mut(key) {
            lease.open = lease.open.saturating_sub(1);
            lease.closed_at = now;
        }
    }

    fn expire(&mut self, now: Monotonic) {
        self.held.retain(|_, lease| !lease.is_over(now));
    }

    fn make_room(&mut self) -> bool {
        if self.held.len() < LIMIT {
            return true;
        }
        let closed = self.held.iter().filter(|(_, lease)| lease.open == 0);
        let oldest = closed.min_by_key(|(_, lease)| lease.closed_at).map(|(key, _)| key.clone());
        oldest.is_some_and(|key| self.held.remove(&key).is_some())
    }
}

impl Lease {
    fn is_over(&self, now: Monotonic) -> bool {
        self.open == 0 && now.since(self.closed_at) >= KEPT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(client: &str) -> LeaseKey {
        LeaseKey { client: client.to_owned(), name: "web01".to_owned() }
    }

    fn frozen(point: u64) -> Frozen {
        Frozen { volume: VolumeId::new(1), point: Lsn::new(point).unwrap() }
    }

    fn at(seconds: u64) -> Monotonic {
        Monotonic::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_client_sees_one_moment_until_ten_minutes_after_it_left() {
        let mut leases = Leases::default();
        assert_eq!(leases.open(key("a"), frozen(1), at(0)), frozen(1));
        assert_eq!(leases.open(key("a"), frozen(2), at(5)), frozen(1));
        assert_eq!(leases.open(key("b"), frozen(2), at(5)), frozen(2));
        leases.close(&key("a"), at(10));
        leases.close(&key("a"), at(2000));
        assert_eq!(leases.get(&key("a"), at(2599)), Some(frozen(1)));
        assert_eq!(leases.get(&key("a"), at(2600)), None);
        assert_eq!(leases.open(key("a"), frozen(9), at(2600)), frozen(9));
        assert_eq!(leases.get(&key("b"), at(9000)), Some(frozen(2)), "still open");
    }

    #[test]
    fn a_client_that_comes_back_after_a_restart_sees_the_same_moment() {
        let mut before = Leases::default();
        before.open(key("a"), frozen(1), at(0));
        let held: Vec<_> = before.held().map(|(key, frozen)| (key.clone(), frozen)).collect();
        let mut after = Leases::restored(held, at(100));
        assert_eq!(after.open(key("a"), frozen(5), at(600)), frozen(1));
        assert_eq!(Leases::restored([(key("a"), frozen(1))], at(0)).get(&key("a"), at(600)), None);
    }

    #[test]
    fn a_full_table_lets_the_longest_closed_go() {
        let mut leases = Leases::default();
        for n in 0..LIMIT {
            leases.open(key(&n.to_string()), frozen(1), at(0));
        }
        assert_eq!(leases.open(key("late"), frozen(3), at(1)), frozen(3));
        assert_eq!(leases.get(&key("late"), at(1)), None, "all are open: not held");
        leases.close(&key("7"), at(2));
        leases.close(&key("8"), at(1));
        leases.open(key("late"), frozen(4), at(3));
        assert_eq!(leases.get(&key("late"), at(3)), Some(frozen(4)));
        assert_eq!((leases.get(&key("8"), at(3)), leases.get(&key("7"), at(3))), (None, Some(frozen(1))));
    }
}
