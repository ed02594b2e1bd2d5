//! Where an initiator's units arrive. The data of writes lies in it until the disk has it, so that a buffer is often still used
//! when the next one is wanted; used ones are taken again, since to clear a fresh one costs about as much as to receive into it.

use std::mem;

use bytes::BytesMut;

use crate::turn::LEAST_ROOM;

/// Room at first.
pub(super) const RECEIVE: usize = 512 << 10;
/// Room for four of the longest units that are agreed on: of a unit that a buffer cuts, its beginning is moved to the next one.
const LARGE: usize = (1 << 20) + 2 * LEAST_ROOM;
/// Used ones kept at most.
const MOST_SPARE: usize = 4;

/// What has come and was not taken yet.
#[derive(Debug)]
pub(super) struct Intake {
    input: BytesMut,
    /// Used up, oldest first: free again once what lies in them has been written.
    spare: Vec<BytesMut>,
}

impl Intake {
    pub(super) fn new() -> Self {
        Self { input: BytesMut::with_capacity(RECEIVE), spare: Vec::new() }
    }

    /// What has come, to take units off its front, or to read more to its end.
    pub(super) fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.input
    }

    /// Bytes that it takes beyond what every connection has.
    pub(super) fn grown(&self) -> usize {
        self.input.capacity().saturating_sub(RECEIVE) + self.spare.len() * LARGE
    }

    /// Makes room for so much more of a unit.
    pub(super) fn make_room(&mut self, missing: usize) {
        if self.input.capacity() - self.input.len() >= missing || self.input.try_reclaim(missing) {
            return;
        }
        let usual = if missing > LEAST_ROOM { LARGE } else { RECEIVE };
        let mut next = self.another(usual.max(self.input.len() + missing));
        next.extend_from_slice(&self.input);
        let mut used = mem::replace(&mut self.input, next);
        used.clear();
        if self.spare.len() < MOST_SPARE {
            self.spare.push(used);
        }
    }

    /// A used one, if what lay in it has been written.
    fn another(&mut self, size: usize) -> BytesMut {
        let free = self.spare.iter_mut().position(|used| used.try_reclaim(size));
        free.map_or_else(|| BytesMut::with_capacity(size), |at| self.spare.remove(at))
    }

    /// Nothing is under way: what is not used is given back.
    pub(super) fn rest(&mut self) {
        self.spare.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_goes_on_in_the_next_buffer_and_used_ones_are_taken_again() {
        let mut intake = Intake::new();
        let unit = 256 << 10;
        let mut under_way = std::collections::VecDeque::new();
        for n in 0..60_u8 {
            // The beginning, then the rest, of which the length is known by now.
            intake.make_room(LEAST_ROOM);
            intake.input().extend_from_slice(&vec![n; 1000]);
            intake.make_room(unit - 1000);
            let room = intake.input.capacity();
            intake.input().extend_from_slice(&vec![n; unit - 1000]);
            assert_eq!(intake.input.capacity(), room, "it was there");
            let data = intake.input().split_to(unit).freeze();
            assert!(data.iter().all(|&b| b == n));
            under_way.push_back((n, data));
            if under_way.len() > 6 {
                let (n, data) = under_way.pop_front().unwrap();
                assert!(data.iter().all(|&b| b == n), "nothing came over what is not written yet");
            }
            assert!(intake.spare.len() <= MOST_SPARE);
        }
        assert!(intake.grown() > 0);
        drop(under_way);
        intake.rest();
        assert!(intake.grown() <= LARGE - RECEIVE && intake.spare.is_empty());
    }

    #[test]
    fn a_buffer_is_taken_again_once_nobody_reads_it() {
        let mut intake = Intake::new();
        let first = intake.bytes().as_ptr();
        intake.input().extend_from_slice(&[1; RECEIVE]);
        let held = intake.input().split_to(RECEIVE).freeze();
        intake.make_room(LEAST_ROOM);
        assert_ne!(intake.bytes().as_ptr(), first);
        intake.input().extend_from_slice(&[2; RECEIVE]);
        drop(held);
        let _held = intake.input().split_to(RECEIVE).freeze();
        intake.make_room(LEAST_ROOM);
        assert_eq!(intake.bytes().as_ptr(), first);
    }
}
