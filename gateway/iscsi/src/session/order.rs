//! Whose turn it is (SAM-5 section 8): SIMPLE, ORDERED and HEAD OF QUEUE commands of one task set.
//!
//! Each session has a task set of its own for each unit (the control mode page says TST 001b), so that no session ever
//! waits for what another one sends.

use std::collections::VecDeque;

const ORDERED: u8 = 2;
const HEAD_OF_QUEUE: u8 = 3;

/// The commands of a session to a unit that have not ended.
#[derive(Debug, Default)]
pub(super) struct TaskSet {
    /// Oldest first: an ordered command is alone in its group, simple ones that came between two such share one.
    groups: VecDeque<Group>,
    /// The number of the first.
    first: u64,
    /// Commands at the head of the queue.
    heads: usize,
}

#[derive(Debug)]
struct Group {
    ordered: bool,
    /// Its commands that have not ended.
    left: usize,
}

/// A command's place in its task set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Before all that has not begun.
    Head,
    /// When all that have to go before this group have ended.
    Group(u64),
}

impl TaskSet {
    /// A command comes, with its attribute (RFC 7143 section 11.3.1); untagged ones are simple.
    pub(super) fn enter(&mut self, attribute: u8) -> Turn {
        match (attribute, self.groups.back_mut()) {
            (HEAD_OF_QUEUE, _) => {
                self.heads += 1;
                return Turn::Head;
            }
            (ORDERED, _) => self.groups.push_back(Group { ordered: true, left: 1 }),
            (_, Some(group)) if !group.ordered => group.left += 1,
            _ => self.groups.push_back(Group { ordered: false, left: 1 }),
        }
        Turn::Group(self.first + tap_block::units::count(self.groups.len()) - 1)
    }

    /// May it begin?
    pub(super) fn has_come(&self, turn: Turn) -> bool {
        match turn {
            Turn::Head => true,
            Turn::Group(number) => {
                let ordered = self.groups.get(self.place(number)).is_some_and(|group| group.ordered);
                let mut before = self.groups.iter().take(self.place(number));
                self.heads == 0 && before.all(|group| group.left == 0 || !ordered && !group.ordered)
            }
        }
    }

    /// A command has ended; may others begin for that?
    pub(super) fn leave(&mut self, turn: Turn) -> bool {
        let emptied = match turn {
            Turn::Head => {
                self.heads -= 1;
                self.heads == 0
            }
            Turn::Group(number) => {
                let at = self.place(number);
                self.groups.get_mut(at).is_some_and(|group| {
                    group.left -= 1;
                    group.left == 0
                })
            }
        };
        while self.groups.front().is_some_and(|group| group.left == 0) {
            self.groups.pop_front();
            self.first += 1;
        }
        emptied
    }

    /// Where a group is among those that are left.
    fn place(&self, number: u64) -> usize {
        usize::try_from(number.wrapping_sub(self.first)).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIMPLE: u8 = 1;

    #[test]
    fn simple_ones_go_together_and_ordered_ones_alone() {
        let mut set = TaskSet::default();
        let all: Vec<Turn> =
            [0, SIMPLE, ORDERED, ORDERED, SIMPLE, SIMPLE].iter().map(|&a| set.enter(a)).collect();
        let free = |set: &TaskSet| all.iter().map(|&t| set.has_come(t)).collect::<Vec<_>>();
        assert_eq!(free(&set), [true, true, false, false, false, false]);
        assert!(!set.leave(all[1]));
        assert!(set.leave(all[0]));
        assert_eq!(free(&set)[2..], [true, false, false, false]);
        // Aborted before its turn.
        assert!(set.leave(all[3]));
        assert_eq!(free(&set)[4..], [false, false]);
        assert!(set.leave(all[2]));
        assert_eq!(free(&set)[4..], [true, true]);
        let late = set.enter(SIMPLE);
        assert!(set.has_come(late));
        assert!(!set.leave(all[4]) && !set.leave(late) && set.leave(all[5]));
        let next = set.enter(ORDERED);
        assert!(set.has_come(next));
    }

    #[test]
    fn the_head_of_the_queue_goes_before_all_that_has_not_begun() {
        let mut set = TaskSet::default();
        let (first, ordered) = (set.enter(SIMPLE), set.enter(ORDERED));
        let heads = [set.enter(HEAD_OF_QUEUE), set.enter(HEAD_OF_QUEUE)];
        assert!(heads.iter().all(|&head| set.has_come(head)));
        assert!(set.leave(first));
        assert!(!set.has_come(ordered), "it is its turn, but for those before it");
        assert!(!set.leave(heads[1]) && !set.has_come(ordered));
        assert!(set.leave(heads[0]) && set.has_come(ordered));
    }
}
