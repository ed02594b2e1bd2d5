//! What a connection that has ended still has under way: its reads as well as its writes hold memory until they are over, and that
//! counts as long.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tap_block::{Answered, CompletionQueue};

use crate::budget::Share;
use crate::mailbox::Mailbox;

/// The heir of a connection: it hears of what was under way.
pub(crate) struct Remains {
    /// `None` once all of it is over.
    left: Mutex<Option<Left>>,
}

struct Left {
    share: Share,
    /// What each holds, by its tag.
    under_way: HashMap<u64, u64>,
}

impl Remains {
    /// The connection of `mailbox` ends, and has this under way, by tags, with the bytes that each holds.
    pub(crate) fn leave(mut share: Share, under_way: impl Iterator<Item = (u64, u64)>, mailbox: &Mailbox) {
        let under_way: HashMap<u64, u64> = under_way.collect();
        share.retire(under_way.values().sum());
        if under_way.is_empty() {
            return mailbox.close(None);
        }
        let left = Mutex::new(Some(Left { share, under_way }));
        mailbox.close(Some(Arc::new(Self { left })));
    }
}

impl CompletionQueue for Remains {
    fn complete(&self, tag: u64, answered: Answered) {
        drop(answered);
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Left { share, under_way }) = left.as_mut() else { return };
        if under_way.remove(&tag).is_some() {
            share.retire(under_way.values().sum());
        }
        if under_way.is_empty() {
            // The share knows the mailbox, which knows who its heir is.
            *left = None;
        }
    }
}
