//! What of a catalogue there may be a million of, as rows that are kept one by one: what changes of them costs no more than itself.
//!
//! | row | key (big endian) | value |
//! |---|---|---|
//! | a bookmark | 1 u8 · volume u64 · its name | the bookmark as a catalogue has it, without the name |
//! | barrier marks in a row | 2 u8 · volume u64 · LSN u64 of the first | their lists as a catalogue has them |
//!
//! All else is in [`Catalogue::encode_beside_rows`].

use std::collections::BTreeSet;
use std::sync::Arc;

use prost::Message;
use tap_block::{Name, VolumeId};

use super::bookmarks::Bookmarks;
use super::codec::{PBookmark, PMarks, bookmark_in, bookmark_out, malformed, mark_points, marks_of};
use super::mark_codec::Lists;
use super::{BookmarkPoint, Catalogue, CatalogueError, Marks, Volume};

const BOOKMARK: u8 = 1;
const MARKS: u8 = 2;

/// A row that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowChange {
    /// Its key.
    pub key: Vec<u8>,
    /// What it held; `None`: it was not there.
    pub before: Option<Vec<u8>>,
    /// What it holds; `None`: it goes.
    pub now: Option<Vec<u8>>,
}

impl Catalogue {
    /// The rows that differ from those of what it was, in time proportional to them.
    #[must_use]
    pub fn rows_since(&self, before: &Self) -> Vec<RowChange> {
        let mut rows = Vec::new();
        let volumes: BTreeSet<&VolumeId> = before.volumes.keys().chain(self.volumes.keys()).collect();
        for id in volumes {
            match (before.volumes.get(id), self.volumes.get(id)) {
                (Some(was), Some(is)) if Arc::ptr_eq(was, is) => {}
                (was, is) => volume_rows(*id, was, is, &mut rows),
            }
        }
        rows
    }

    /// Takes in a row of a catalogue whose other part this is. They come in the order of their keys. Bookmarks that `like` has just so
    /// are shared with it.
    ///
    /// # Errors
    /// [`CatalogueError`] when it is none of its rows.
    pub fn take_row(&mut self, key: &[u8], value: &[u8], like: &Self) -> Result<(), CatalogueError> {
        let (kind, rest) = key.split_first().ok_or_else(|| malformed("a row without a key"))?;
        let (id, rest) = rest.split_first_chunk::<8>().ok_or_else(|| malformed("a row of no volume"))?;
        let id = VolumeId::new(u64::from_be_bytes(*id));
        let volume = self.volumes.get_mut(&id);
        let volume = Arc::make_mut(volume.ok_or_else(|| malformed("a row of a volume that is not there"))?);
        match *kind {
            BOOKMARK => volume.take_bookmark(rest, value, like.volume(id).map(|like| &like.bookmarks)),
            MARKS => volume.take_marks(rest, value),
            other => Err(malformed(format!("a row of the kind {other}"))),
        }
    }
}

impl Volume {
    fn take_bookmark(
        &mut self,
        name: &[u8],
        value: &[u8],
        like: Option<&Bookmarks>,
    ) -> Result<(), CatalogueError> {
        let name = str::from_utf8(name).map_err(malformed)?;
        let twin = PBookmark::decode(value).map_err(malformed)?;
        let (name, point) = bookmark_in(PBookmark { name: name.to_owned(), ..twin })?;
        match like {
            Some(like) => self.bookmarks.insert_as_in(like, name, point),
            None => self.bookmarks.insert(name, point),
        }
        Ok(())
    }

    fn take_marks(&mut self, first: &[u8], value: &[u8]) -> Result<(), CatalogueError> {
        let twin = PMarks::decode(value).map_err(malformed)?;
        let marks = mark_points([&twin.lsns, &twin.ats, &twin.ids, &twin.received])?;
        let begins = marks.first().map(|mark| mark.at.lsn.get().to_be_bytes());
        if begins.is_none_or(|begins| begins != first) || !self.marks.push_chunk(marks) {
            return Err(malformed("marks that do not follow one another"));
        }
        Ok(())
    }
}

fn volume_rows(id: VolumeId, was: Option<&Arc<Volume>>, is: Option<&Arc<Volume>>, rows: &mut Vec<RowChange>) {
    let (no_bookmarks, no_marks) = (Bookmarks::default(), Marks::default());
    let [old_bookmarks, new_bookmarks] = [was, is].map(|v| v.map_or(&no_bookmarks, |v| &v.bookmarks));
    let [old_marks, new_marks] = [was, is].map(|v| v.map_or(&no_marks, |v| &v.marks));
    let value = |name: &Name, point: Option<&BookmarkPoint>| point.map(|point| bookmark(name, point));
    rows.extend(new_bookmarks.since(old_bookmarks).map(|(name, was, is)| RowChange {
        key: key(BOOKMARK, id, name.as_str().as_bytes()),
        before: value(name, was),
        now: value(name, is),
    }));
    rows.extend(new_marks.since(old_marks).into_iter().map(|(first, was, is)| RowChange {
        key: key(MARKS, id, &first.get().to_be_bytes()),
        before: was.map(marks),
        now: is.map(marks),
    }));
}

fn key(kind: u8, volume: VolumeId, rest: &[u8]) -> Vec<u8> {
    [&[kind], &volume.get().to_be_bytes()[..], rest].concat()
}

fn bookmark(name: &Name, point: &BookmarkPoint) -> Vec<u8> {
    PBookmark { name: String::new(), ..bookmark_out((name, point)) }.encode_to_vec()
}

fn marks(lists: Lists) -> Vec<u8> {
    marks_of(&[], lists).encode_to_vec()
}
