//! What clients read of exports before they open one: a list that stays short however many bookmarks there are,
//! and for each name which moment it means, how old that is, and what it promises.

use std::cmp::Reverse;
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

/// Every head, every image, and the newest bookmarks of each volume, as far as a client may see them.
pub(crate) fn entries(points: &Points, access: &Access) -> Vec<ExportEntry> {
    let catalogue = points.store.catalogue();
    let mut volumes: Vec<&Arc<Volume>> = catalogue.volumes().collect();
    volumes.sort_by_key(|v| v.name());
    let share = BOOKMARKS.checked_div(volumes.len()).unwrap_or(0).clamp(1, OF_A_VOLUME);
    let (mut heads, mut bookmarks) = (Vec::new(), Vec::new());
    for volume in volumes {
        let mut all = bookmarks_of(volume, access);
        let more = all.len().saturating_sub(share);
        all.truncate(share);
        let now = points.source_now(volume.name());
        heads.push(head(points, volume, more));
        bookmarks.extend(all.into_iter().map(|(name, at)| ExportEntry {
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

/// Those that can be opened, the newest first.
fn bookmarks_of<'v>(volume: &'v Volume, access: &Access) -> Vec<(&'v Name, &'v BookmarkPoint)> {
    let wanted = |(name, at): &(&Name, &BookmarkPoint)| {
        volume.selectable(at.at.lsn).is_ok() && access.allows(&format!("{}@{name}", volume.name()))
    };
    let mut all: Vec<_> = volume.bookmarks().filter(wanted).collect();
    all.sort_by_key(|(_, at)| Reverse(at.at.lsn));
    all
}

fn head(points: &Points, volume: &Volume, more: usize) -> ExportEntry {
    let name = volume.name();
    let durable = points.store.durable(volume.stream());
    let newest = durable.and_then(|durable| volume.sound_at_or_before(durable.lsn));
    let newest = newest.map_or_else(
        || "nothing of it can be opened yet".to_owned(),
        |lsn| moment(points, volume, lsn, points.time_at(volume, lsn)),
    );
    let hidden = if more == 0 { String::new() } else { format!("; {more} more bookmarks") };
    let description = format!(
        "{name} at its newest durable point ({newest}), read-only{hidden}; \
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
