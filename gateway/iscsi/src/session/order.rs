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
    next: u64,
    /// Commands at the head of the queue.
    heads: usize,
}

/// One or more commands.
#[derive(Debug)]
struct Group {
    number: u64,
    ordered: bool,
    /// Those that have not ended.
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
        if attribute == HEAD_OF_QUEUE {
            self.heads += 1;
            return Turn::Head;
        }
        let ordered = attribute == ORDERED;
        if let Some(group) = self.groups.back_mut().filter(|group| !ordered && !group.ordered) {
            group.left += 1;
            return Turn::Group(group.number);
        }
        let number = self.next;
        self.next += 1;
        self.groups.push_back(Group { number, ordered, left: 1 });
        Turn::Group(number)
    }

    /// May it begin?
    pub(super) fn has_come(&self, turn: Turn) -> bool {
        let Turn::Group(number) = turn else { return true };
        let ordered = self.place(number).and_then(|at| self.groups.get(at)).is_some_and(|g| g.ordered);
        let mut before = self.groups.iter().take_while(|group| group.number != number);
        self.heads == 0 && before.all(|group| !ordered && !group.ordered)
    }

    /// A command has ended; may others begin for that?
    pub(super) fn leave(&mut self, turn: Turn) -> bool {
        let Turn::Group(number) = turn else {
            self.heads -= 1;
            return self.heads == 0;
        };
        let Some(at) = self.place(number) else { return false };
        let Some(group) = self.groups.get_mut(at) else { return false };
        group.left -= 1;
        let is_empty = group.left == 0;
        if is_empty {
            self.groups.remove(at);
        }
        is_empty
    }

    /// Where a group is; most often in front.
    fn place(&self, number: u64) -> Option<usize> {
        self.groups.iter().position(|group| group.number == number)
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

    #[test]
    fn what_was_aborted_leaves_nothing_behind() {
        let mut set = TaskSet::default();
        let stuck = set.enter(SIMPLE);
        let mut last = set.enter(ORDERED);
        for _ in 0..1000 {
            let next = set.enter(ORDERED);
            assert!(set.leave(last));
            last = next;
        }
        assert_eq!(set.groups.len(), 2);
        assert!(!set.has_come(last) && set.leave(stuck) && set.has_come(last));
    }
}
