//! What a device tells about its blocks without reading them: maps, and the stretches they are told in.

use crate::extent::Extent;
use crate::name::Name;
use crate::units::BLOCK_SIZE;

/// What can be asked of a stretch of a device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Map {
    /// Does it hold data, or is it zeroes that take no room? Answered by [`State::Data`] and [`State::Zeroes`].
    Allocation,
    /// Which layer is it read from? Answered by [`State::Layer`].
    Depth,
    /// Was it written since the bookmark, whatever with? In whole blocks; answered by [`State::Changed`] and
    /// [`State::Same`]. Only for a bookmark that the device [has](crate::BlockDevice::has_bookmark).
    ChangedSince(Name),
}

/// What a map says of a stretch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Data, or nobody knows: always a true answer.
    Data,
    /// Zeroes that take no room.
    Zeroes,
    /// The layer that has it: 1 is the device's own, 2 what lies below; 0 when none has it, and it reads as zeroes.
    Layer(u32),
    /// Written since then, or nobody knows: always a true answer.
    Changed,
    /// Not written since then.
    Same,
}

/// A stretch of one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Bytes; not zero.
    pub length: u64,
    /// What the map says of it.
    pub state: State,
}

/// Stretches being gathered from a start on: neighbours of one state are one, and there are no more than so many.
#[derive(Debug)]
pub struct Stretches {
    list: Vec<Stretch>,
    most: usize,
}

impl Map {
    /// What it says where nothing better is known.
    #[must_use]
    pub const fn unknown(&self) -> State {
        match self {
            Self::Allocation => State::Data,
            Self::Depth => State::Layer(1),
            Self::ChangedSince(_) => State::Changed,
        }
    }

    /// What it says of a device without layers that holds data there, or zeroes that take no room.
    #[must_use]
    pub const fn plain(&self, data: bool) -> State {
        match (self, data) {
            (Self::Allocation, false) => State::Zeroes,
            (Self::Depth, false) => State::Layer(0),
            _ => self.unknown(),
        }
    }
}

impl Stretches {
    /// None yet; at most `most`, and at least one.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { list: Vec::new(), most: most.max(1) }
    }

    /// Adds what follows; false when there is no room for it, and for nothing more.
    pub fn push(&mut self, length: u64, state: State) -> bool {
        let is_full = self.list.len() >= self.most;
        match self.list.last_mut() {
            _ if length == 0 => {}
            Some(last) if last.state == state => last.length = last.length.saturating_add(length),
            _ if is_full => return false,
            _ => self.list.push(Stretch { length, state }),
        }
        true
    }

    /// None?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them.
    #[must_use]
    pub fn into_list(self) -> Vec<Stretch> {
        self.list
    }
}

/// What every map says of `content`, which lies at `extent`, by a look at it: for devices in memory.
pub(crate) fn of_content(extent: Extent, content: &[u8], maps: &[Map], most: usize) -> Vec<Vec<Stretch>> {
    let of = |map: &Map| {
        let mut stretches = Stretches::new(most);
        let mut rest = content;
        for piece in extent.split_at_multiples(BLOCK_SIZE) {
            let (block, later) = rest.split_at(crate::units::index(piece.length()).min(rest.len()));
            rest = later;
            if !stretches.push(piece.length(), map.plain(!crate::stored::is_zero(block))) {
                break;
            }
        }
        stretches.into_list()
    };
    maps.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_merge_and_there_is_an_end() {
        let mut stretches = Stretches::new(2);
        assert!(stretches.push(5, State::Data) && stretches.push(3, State::Data));
        assert!(stretches.push(0, State::Zeroes) && stretches.push(1, State::Zeroes));
        assert!(!stretches.push(1, State::Data) && stretches.push(9, State::Zeroes));
        let lengths: Vec<u64> = stretches.into_list().iter().map(|s| s.length).collect();
        assert_eq!(lengths, [8, 10]);
        assert!(Stretches::new(0).push(1, State::Same), "progress is always possible");
    }
}
