//! What went for want of room, though policies would have kept it, in words: for whoever asks for it, for the timeline, and for health.

use std::sync::Arc;
use std::time::Duration;

use cx_api::{ShortOf as Of, ShortageView, WentShort};
use gateway_image::catalogue::Volume;
use gateway_journal::{ShortOf, Shortage, Went};
use gateway_store::Store;
use tap_block::{Clock, Lsn, Name, WallTime};

use crate::gateway::Gateway;
use crate::limits::DAY;
use crate::points::Points;

/// Why a point is not kept, and what to do so that others are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) said: String,
    pub(crate) remedy: String,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Point,
    Bookmark,
}

impl Points {
    /// Did what stood there go for want of room?
    pub(crate) fn shortage(&self, volume: &Volume, lsn: Lsn, asked: Asked) -> Option<Told> {
        let bookmark = asked == Asked::Bookmark;
        let is_it = |s: &&Shortage| s.covers(lsn) && (s.went == Went::Bookmarks) == bookmark;
        let all = self.store.shortages(volume.id());
        let found = all.iter().filter(is_it).max_by_key(|s| s.until)?;
        Some(told(volume.name(), &view(volume.name(), found, &self.store, &self.clock)))
    }
}

impl Gateway {
    /// Oldest first.
    pub(crate) fn shortage_views(&self, volume: &Volume) -> Vec<ShortageView> {
        let all = self.store.shortages(volume.id());
        all.iter().map(|s| view(volume.name(), s, &self.store, &self.clock)).collect()
    }

    /// What is to be said of what went for want of room, until none has for a day.
    pub(crate) fn shortage_alerts(&self) -> Vec<String> {
        let (catalogue, now) = (self.store.catalogue(), self.store.age());
        let of = |volume: &Arc<Volume>| {
            let mut lately: Vec<Shortage> = Vec::new();
            for shortage in self.store.shortages(volume.id()) {
                match lately.iter_mut().find_map(|known| Some((known.joined(&shortage)?, known))) {
                    _ if now.since(shortage.until) >= DAY => {}
                    Some((joined, known)) => *known = joined,
                    None => lately.push(shortage),
                }
            }
            let alert = |s: &Shortage| {
                let name = volume.name();
                let Told { said, remedy } = told(name, &view(name, s, &self.store, &self.clock));
                format!("{said}; `chronogate volume timeline {name}` shows what is left; {remedy}")
            };
            lately.iter().map(alert).collect::<Vec<_>>()
        };
        catalogue.volumes().flat_map(of).collect()
    }
}

fn told(volume: &Name, view: &ShortageView) -> Told {
    let remedy = match view.of {
        Of::Journal => {
            "so that no more goes, raise the journal's limit (--journal-limit), give its disk more room, or keep less \
             (`chronogate policy apply`)"
                .to_owned()
        }
        Of::Limit => {
            format!(
                "so that no more goes, raise `limit` in the policy of {volume}, or keep less (`chronogate policy apply`)"
            )
        }
    };
    Told { said: view.said.clone(), remedy }
}

fn view(volume: &Name, shortage: &Shortage, store: &Store, clock: &Arc<dyn Clock>) -> ShortageView {
    let (age, wall) = (store.age(), clock.wall());
    let (since, until) = (on_wall(shortage.since, age, wall), on_wall(shortage.until, age, wall));
    ShortageView {
        went: match shortage.went {
            Went::Thinned => WentShort::Thinned,
            Went::Oldest => WentShort::Oldest,
            Went::Bookmarks => WentShort::Bookmarks,
        },
        of: match shortage.of {
            ShortOf::Journal => Of::Journal,
            ShortOf::Limit => Of::Limit,
        },
        first_lsn: shortage.first,
        last_lsn: shortage.last,
        points: shortage.points,
        since,
        until,
        said: said(volume, shortage, since, until),
    }
}

/// The store's own clock never jumps: how long ago it was is known, not what the machine's clock showed then.
fn on_wall(at: WallTime, age: WallTime, wall: WallTime) -> WallTime {
    wall.minus(age.since(at))
}

fn said(volume: &Name, shortage: &Shortage, since: WallTime, until: WallTime) -> String {
    let when = match until.since(since) < Duration::from_secs(1) {
        true => format!("at {since}"),
        false => format!("from {since} to {until}"),
    };
    let full = match shortage.of {
        ShortOf::Journal => format!("the journal was full {when}"),
        ShortOf::Limit => format!("the history of {volume} pressed against the limit of its policy {when}"),
    };
    let (n, first, last) = (shortage.points, shortage.first.get(), shortage.last.get());
    let places = if first == last { format!("lsn:{first}") } else { format!("lsn:{first} to lsn:{last}") };
    let them = |one: &str, many: &str| if n == 1 { format!("1 {one}") } else { format!("{n} {many}") };
    match shortage.went {
        Went::Bookmarks => format!(
            "{full}: {} of {volume} ({places}) went for want of room, before the time that its policy keeps bookmarks was over",
            them("bookmark", "bookmarks")
        ),
        Went::Oldest => format!(
            "{full}: the oldest history of {volume} ({places}, {}) went for want of room, sooner than its policy says",
            them("point", "points")
        ),
        Went::Thinned => format!(
            "{full}: the history of {volume} was thinned out for want of room ({} of {places}), sooner than its policy says",
            them("point", "points")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_is_told_with_its_number_its_places_and_its_time() {
        let (volume, at) = ("web01".parse().unwrap(), |s: u64| WallTime::from_nanos(s * 1_000_000_000));
        let lsn = |n| Lsn::new(n).unwrap();
        let of = ShortOf::Journal;
        let (went, first, last, points) = (Went::Bookmarks, lsn(7), lsn(7), 1);
        let one = Shortage { went, of, first, last, points, since: at(9), until: at(9) };
        let text = said(&volume, &one, at(9), at(9));
        assert!(text.starts_with("the journal was full at 1970-01-01T00:00:09"), "{text}");
        assert!(text.contains("1 bookmark of web01 (lsn:7) went for want of room"), "{text}");
        let (went, of, last, points) = (Went::Oldest, ShortOf::Limit, lsn(90), 40);
        let text = said(&volume, &Shortage { went, of, last, points, ..one }, at(9), at(3600));
        assert!(
            text.contains("limit of its policy from 1970-01-01T00:00:09")
                && text.contains("to 1970-01-01T01")
        );
        assert!(text.contains("(lsn:7 to lsn:90, 40 points)"), "{text}");
    }
}
