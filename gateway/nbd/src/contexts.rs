//! "Metadata querying": which contexts a client asks for, and which of them there are.
//!
//! `base:allocation` is the specification's own. `qemu:allocation-depth` and `qemu:dirty-bitmap:NAME` are QEMU's
//! (its `docs/interop/nbd.txt`); here NAME is a bookmark, and dirty is what was written since.

use bytes::Buf;
use tap_block::{Map, Name};

use crate::proto::{MAX_STRING, option, reply};

/// Contexts that one connection may have at once.
pub(crate) const MAX_CONTEXTS: usize = 16;
/// Bookmarks that a list names, or that one option may ask for by their names.
pub(crate) const MAX_BOOKMARKS: usize = 100;

const ALLOCATION: &str = "base:allocation";
const DEPTH: &str = "qemu:allocation-depth";
const BITMAP: &str = "qemu:dirty-bitmap:";

/// What `NBD_OPT_LIST_META_CONTEXT` or `NBD_OPT_SET_META_CONTEXT` asks for.
#[derive(Debug)]
pub(crate) struct Inquiry {
    option: u32,
    allocation: bool,
    depth: bool,
    newest: bool,
    named: Vec<Name>,
}

/// Why an option is refused: the reply's type and its text.
pub(crate) type Refused = (u32, &'static str);

impl Inquiry {
    /// The option's data: the export's name, the number of queries, the queries.
    pub(crate) fn parse(option: u32, mut data: &[u8]) -> Result<(Self, &[u8]), Refused> {
        let name = text(&mut data)?;
        let count = data.try_get_u32().map_err(|_| SHORT)?;
        let mut inquiry = Self { option, allocation: false, depth: false, newest: false, named: Vec::new() };
        for _ in 0..count {
            let query = text(&mut data)?;
            if query.len() > MAX_STRING {
                return Err((reply::ERR_INVALID, "a query is longer than 4096 bytes"));
            }
            let query = std::str::from_utf8(query).map_err(|_| (reply::ERR_INVALID, "a query is no text"))?;
            inquiry.ask(query)?;
        }
        if !data.is_empty() {
            return Err((reply::ERR_INVALID, "the number of queries does not fit the option's length"));
        }
        // "If zero queries are sent": all there are to be listed, none to be set.
        if count == 0 && inquiry.lists() {
            (inquiry.allocation, inquiry.depth, inquiry.newest) = (true, true, true);
        }
        Ok((inquiry, name))
    }

    /// A query that finds nothing is no error. An empty leaf name is a wildcard for lists only.
    fn ask(&mut self, query: &str) -> Result<(), Refused> {
        let lists = self.lists();
        match query {
            ALLOCATION => self.allocation = true,
            DEPTH => self.depth = true,
            "base:" if lists => self.allocation = true,
            "qemu:" if lists => (self.depth, self.newest) = (true, true),
            BITMAP if lists => self.newest = true,
            other => {
                let name = other.strip_prefix(BITMAP).and_then(|name| name.parse::<Name>().ok());
                self.named.extend(name.filter(|name| !self.named.contains(name)));
                if self.named.len() > MAX_BOOKMARKS {
                    return Err((reply::ERR_TOO_BIG, "more than 100 bookmarks are asked for at once"));
                }
            }
        }
        Ok(())
    }

    pub(crate) const fn option(&self) -> u32 {
        self.option
    }

    /// Does it only list them?
    pub(crate) const fn lists(&self) -> bool {
        self.option == option::LIST_META_CONTEXT
    }

    /// The bookmarks that must be looked up: those of these names, and so many of the newest.
    pub(crate) fn bookmarks(&self) -> Option<(Vec<Name>, usize)> {
        let newest = if self.newest { MAX_BOOKMARKS } else { 0 };
        (newest > 0 || !self.named.is_empty()).then(|| (self.named.clone(), newest))
    }

    /// The contexts there are of those asked for, when `found` are the bookmarks there are.
    pub(crate) fn select(&self, found: &[Name]) -> Vec<Map> {
        let mut maps = Vec::new();
        maps.extend(self.allocation.then_some(Map::Allocation));
        maps.extend(self.depth.then_some(Map::Depth));
        let named = self.named.iter().filter(|name| found.contains(name));
        let rest = found.iter().filter(|name| self.newest && !self.named.contains(name));
        maps.extend(named.chain(rest.take(MAX_BOOKMARKS)).cloned().map(Map::ChangedSince));
        maps
    }
}

/// What a client knows the context by.
pub(crate) fn name_of(map: &Map) -> String {
    match map {
        Map::Allocation => ALLOCATION.to_owned(),
        Map::Depth => DEPTH.to_owned(),
        Map::ChangedSince(bookmark) => format!("{BITMAP}{bookmark}"),
    }
}

const SHORT: Refused = (reply::ERR_INVALID, "the option ends before its name and its queries do");

/// A string that follows its length.
fn text<'a>(data: &mut &'a [u8]) -> Result<&'a [u8], Refused> {
    let length = data.try_get_u32().map_err(|_| SHORT)? as usize;
    let (text, rest) = data.split_at_checked(length).ok_or(SHORT)?;
    *data = rest;
    Ok(text)
}
