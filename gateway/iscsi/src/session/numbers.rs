//! Sequence numbers (RFC 7143 section 4.2.2): the command window and the numbering of answers.

use crate::pdu::Header;

/// A session's numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers {
    stat_sn: u32,
    exp_cmd_sn: u32,
    max_cmd_sn: u32,
}

/// Where a number lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The next one.
    Next,
    /// In the window, but not the next one.
    Later,
    /// Outside the window: ignored (section 4.2.2.1).
    Outside,
}

impl Numbers {
    pub(crate) fn new(stat_sn: u32, cmd_sn: u32, window: u32) -> Self {
        let max_cmd_sn = cmd_sn.wrapping_add(window).wrapping_sub(1);
        Self { stat_sn, exp_cmd_sn: cmd_sn, max_cmd_sn }
    }

    pub(crate) fn place(&self, cmd_sn: u32) -> Place {
        let ahead = cmd_sn.wrapping_sub(self.exp_cmd_sn);
        match ahead {
            _ if ahead >= self.window() => Place::Outside,
            0 => Place::Next,
            _ => Place::Later,
        }
    }

    /// How many commands the initiator may still send.
    fn window(&self) -> u32 {
        self.max_cmd_sn.wrapping_sub(self.exp_cmd_sn).wrapping_add(1)
    }

    pub(crate) fn expected(&self) -> u32 {
        self.exp_cmd_sn
    }

    /// The expected command has come.
    pub(crate) fn took_command(&mut self) {
        self.exp_cmd_sn = self.exp_cmd_sn.wrapping_add(1);
    }

    /// Room for `free` further commands; the window never shrinks.
    pub(crate) fn open(&mut self, free: u32) {
        let wanted = self.exp_cmd_sn.wrapping_add(free).wrapping_sub(1);
        if wanted.wrapping_sub(self.max_cmd_sn) < 1 << 31 {
            self.max_cmd_sn = wanted;
        }
    }

    /// Numbers an answer that carries a status.
    pub(crate) fn status(&mut self, header: Header) -> Header {
        let numbered = self.plain(header).with_word(24, self.stat_sn);
        self.stat_sn = self.stat_sn.wrapping_add(1);
        numbered
    }

    /// Numbers a unit that carries the next StatSN without using it up.
    pub(crate) fn next_status(&self, header: Header) -> Header {
        self.plain(header).with_word(24, self.stat_sn)
    }

    /// Numbers a unit without a status.
    pub(crate) fn plain(&self, header: Header) -> Header {
        header.with_word(28, self.exp_cmd_sn).with_word(32, self.max_cmd_sn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_wraps_around_and_never_shrinks() {
        let mut numbers = Numbers::new(1, 0xffff_fffe, 4);
        assert_eq!(numbers.place(0xffff_fffe), Place::Next);
        assert_eq!(numbers.place(1), Place::Later);
        assert_eq!(numbers.place(2), Place::Outside);
        assert_eq!(numbers.place(0xffff_fffd), Place::Outside);
        for _ in 0..4 {
            numbers.took_command();
        }
        assert_eq!(numbers.place(2), Place::Outside, "the window is used up");
        numbers.open(0);
        numbers.open(2);
        assert_eq!(
            (numbers.place(2), numbers.place(3), numbers.place(4)),
            (Place::Next, Place::Later, Place::Outside)
        );
        numbers.open(1);
        assert_eq!(numbers.place(3), Place::Later);
    }
}
