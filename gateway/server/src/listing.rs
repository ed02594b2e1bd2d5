//! What clients read of exports before they open one: a list that stays short however many bookmarks there are,
//! and for each name which moment it means, how old that is, and what it promises.

use std::sync::Arc;
use std::time::Duration;

use cx_api::json::Text as _;
use gateway_front::{Access, ExportEntry};
use gateway_image::Catalogue;
use gateway_image::catalogue::{BookmarkPoint, Volume};
use gateway_journal::ImageRecord;
use tap_block::{Consistency, Lsn, Name, WallTime};

use crate::points::Points;

/// Bookmarks in a list, all volumes together, but for one of each.
const BOOKMARKS: usize = 1000;
/// Bookmarks of one volume in a list: its newest.
const OF_A_VOLUME: usize = 100;
/// So many more of a volume are counted.
const COUNTED: usize = 10_000;
/// And no more of it are looked at, for a client that may see few.
const LOOKED_AT: usize = 100_000;

/// Every head, every image, and the newest bookmarks of each volume, as far as a client may see them.
pub(crate) fn entries(points: &Points, access: &Access) -> Vec<ExportEntry> {
    let catalogue = points.store.catalogue();
    let mut volumes: Vec<&Arc<Volume>> = catalogue.volumes().collect();
    volumes.sort_by_key(|v| v.name());
    let share = BOOKMARKS.checked_div(volumes.len()).unwrap_or(0).clamp(1, OF_A_VOLUME);
    let (mut heads, mut bookmarks) = (Vec::new(), Vec::new());
    for volume in volumes {
        let Newest { first, more } = newest_of(volume, access, share);
        let now = points.source_now(volume.name());
        heads.push(head(points, volume, &more));
        bookmarks.extend(first.into_iter().map(|(name, at)| ExportEntry {
            name: format!("{}@{name}", volume.name()),
            description: bookmark(volume.name(), name, at, now),
        }));
    }
    let images = catalogue.images().map(|record| ExportEntry {
        name: record.name.to_string(),
        description: image(points, &catalogue, record),
    });
    let mut all = heads;
    all.extend(images);
    all.retain(|entry| access.allows(&entry.name));
    // Those were looked through already.
    all.extend(bookmarks);
    all
}

/// The first of a list, and what is said of the others.
struct Newest<T> {
    first: Vec<T>,
    more: String,
}

/// The newest bookmarks of those that can be opened, the newest first.
fn newest_of<'v>(volume: &'v Volume, access: &Access, share: usize) -> Newest<(&'v Name, &'v BookmarkPoint)> {
    let wanted = |(name, at): &(&Name, &BookmarkPoint)| {
        volume.selectable(at.at.lsn).is_ok() && access.allows(&format!("{}@{name}", volume.name()))
    };
    newest(volume.bookmarks_before(Lsn::ZERO.plus(Lsn::LIMIT)), wanted, share)
}

/// There may be a million: no more are looked at than a list needs.
fn newest<T>(all: impl Iterator<Item = T>, wanted: impl FnMut(&T) -> bool, share: usize) -> Newest<T> {
    let mut all = all.take(LOOKED_AT).filter(wanted);
    let first: Vec<T> = all.by_ref().take(share).collect();
    let more = match all.take(COUNTED + 1).count() {
        0 => String::new(),
        more if more > COUNTED => format!("; more than {COUNTED} more bookmarks"),
        more => format!("; {more} more bookmarks"),
    };
    Newest { first, more }
}

fn head(points: &Points, volume: &Volume, more: &str) -> ExportEntry {
    let name = volume.name();
    let durable = points.store.durable(volume.stream());
    let newest = durable.and_then(|durable| volume.sound_at_or_before(durable.lsn));
    let newest = newest.map_or_else(
        || "nothing of it can be opened yet".to_owned(),
        |lsn| moment(points, volume, lsn, points.time_at(volume, lsn)),
    );
    let description = format!(
        "{name} at its newest durable point ({newest}), read-only{more}; \
         any moment opens as {name}@POINT: a bookmark, -10m, an RFC 3339 time, lsn:N"
    );
    ExportEntry { name: name.to_string(), description }
}

fn bookmark(volume: &Name, name: &Name, at: &BookmarkPoint, now: WallTime) -> String {
    let note = if at.note.is_empty() { String::new() } else { format!(": {}", at.note) };
    let moment = worded(at.at.lsn, Some(at.at.at), now, at.consistency);
    format!("{volume} at {name} ({moment}), read-only{note}")
}

/// An image and the moment it began with.
pub(crate) fn image(points: &Points, catalogue: &Catalogue, record: &ImageRecord) -> String {
    let way = if record.writable { "read/write" } else { "read-only" };
    let Some(volume) = catalogue.volume(record.volume) else {
        return format!("image at lsn:{}, {way}", record.point.get());
    };
    let moment = moment(points, volume, record.point, Some(record.at));
    format!("image of {} ({moment}), {way}", volume.name())
}

/// A volume at a point, as it is opened.
pub(crate) fn point(points: &Points, volume: &Volume, lsn: Lsn) -> String {
    let moment = moment(points, volume, lsn, points.time_at(volume, lsn));
    format!("{} ({moment}), read-only", volume.name())
}

fn moment(points: &Points, volume: &Volume, lsn: Lsn, time: Option<WallTime>) -> String {
    let bookmark = volume.bookmark_at(lsn);
    let promised = bookmark.map_or(Consistency::Crash, |(_, at)| at.consistency);
    worded(lsn, time, points.source_now(volume.name()), promised)
}

fn worded(lsn: Lsn, time: Option<WallTime>, now: WallTime, promised: Consistency) -> String {
    let (lsn, promised) = (lsn.get(), promised.to_text());
    // The moment before the first record has no time.
    let time = time.filter(|time| *time != WallTime::EPOCH);
    let when = time.map_or_else(String::new, |at| format!(" of {at}, {} old", age(now.since(at))));
    format!("lsn:{lsn}{when}, {promised}-consistent")
}

/// In the largest unit that leaves two or more, or the smallest.
fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let units = [(86_400, "d"), (3600, "h"), (60, "min")];
    let fits = units.iter().find(|(unit, _)| seconds >= 2 * unit);
    fits.map_or_else(|| format!("{seconds} s"), |(unit, word)| format!("{} {word}", seconds / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_looks_at_no_more_than_it_needs() {
        let looked = std::cell::Cell::new(0);
        let list = |all: usize, each: usize| {
            looked.set(0);
            let found = newest((0..all).inspect(|_| looked.set(looked.get() + 1)), |n| n % each == 0, 100);
            (found.first.len(), found.more, looked.get())
        };
        assert_eq!(list(100, 1), (100, String::new(), 100));
        assert_eq!(list(107, 1), (100, "; 7 more bookmarks".to_owned(), 107));
        assert_eq!(list(1_000_000, 1), (100, "; more than 10000 more bookmarks".to_owned(), 10_101));
        assert_eq!(list(1_000_000, 2000), (50, String::new(), LOOKED_AT));
    }

    #[test]
    fn a_moment_says_where_when_how_old_and_what_it_promises() {
        let at = WallTime::parse_rfc3339("2026-11-22T12:00:00Z").unwrap();
        let (lsn, later) = (Lsn::new(8).unwrap(), |seconds| at.plus(Duration::from_secs(seconds)));
        let said = worded(lsn, Some(at), later(7200), Consistency::Application);
        assert_eq!(said, "lsn:8 of 2026-11-22T12:00:00Z, 2 h old, application-consistent");
        assert_eq!(worded(lsn, None, later(0), Consistency::Crash), "lsn:8, crash-consistent");
        for (seconds, text) in
            [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (172_800, "2 d")]
        {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }
}
