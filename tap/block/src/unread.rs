//! Replies that the client has not taken whole: what they hold in memory.
//!
//! Payloads go out by reference, so that a buffer is held until its last byte is written; and several payloads may be
//! pieces of one buffer. So a reply counts in full until all of it is gone.

use std::collections::VecDeque;

use crate::output::Output;
use crate::units::count;

/// Small replies are counted together up to so much.
const TOGETHER: u64 = 16 << 10;

/// See the module.
#[derive(Debug, Default)]
pub struct Unread {
    replies: VecDeque<Reply>,
    bytes: u64,
    /// How far the output has been looked at.
    noted: u64,
}

#[derive(Debug)]
struct Reply {
    /// Where in the output it ends.
    end: u64,
    bytes: u64,
}

impl Unread {
    /// What `output` was given since the last time is one reply.
    pub fn note(&mut self, output: &Output) {
        let end = output.written() + count(output.len());
        let bytes = end.saturating_sub(self.noted);
        if bytes == 0 {
            return;
        }
        (self.noted, self.bytes) = (end, self.bytes + bytes);
        match self.replies.back_mut() {
            Some(last) if last.bytes + bytes <= TOGETHER => {
                *last = Reply { end, bytes: last.bytes + bytes };
            }
            _ => self.replies.push_back(Reply { end, bytes }),
        }
    }

    /// What those hold that are not written whole.
    pub fn held(&mut self, output: &Output) -> u64 {
        while self.replies.front().is_some_and(|reply| reply.end <= output.written()) {
            self.bytes -= self.replies.pop_front().map_or(0, |reply| reply.bytes);
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_counts_in_full_until_its_last_byte_is_written() {
        let (mut output, mut unread) = (Output::default(), Unread::default());
        output.push(&[0; 100]);
        output.push_payload(vec![1; 100_000].into());
        unread.note(&output);
        output.push(&[2; 200]);
        unread.note(&output);
        assert_eq!(unread.held(&output), 100_300);
        output.advance(100_099);
        assert_eq!(unread.held(&output), 100_300);
        output.advance(1);
        assert_eq!(unread.held(&output), 200);
        output.advance(200);
        assert_eq!(unread.held(&output), 0);
        unread.note(&output);
        assert_eq!(unread.held(&output), 0);
    }

    #[test]
    fn small_replies_are_counted_together() {
        let (mut output, mut unread) = (Output::default(), Unread::default());
        for _ in 0..10_000 {
            output.push(&[0; 16]);
            unread.note(&output);
        }
        assert_eq!(unread.held(&output), 160_000);
        assert!(unread.replies.len() < 20, "{}", unread.replies.len());
        output.advance(160_000);
        assert_eq!(unread.held(&output), 0);
    }
}
