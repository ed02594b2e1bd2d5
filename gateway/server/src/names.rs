//! Names that are about to be given away: who is first has them, and everybody else is told who.
//!
//! What the catalogue knows has its name there. Before that there is a while in which an image is being made, an image is being
//! committed (which takes as long as its copy), or a disk waits for its tap to be heard of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tap_block::{Name, StreamId, VolumeId};

use crate::http::Answer;
use crate::problems;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Names(Mutex<BTreeMap<Name, Holder>>);

/// What a name is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// An image that is being made.
    Image,
    /// A disk that an image is being committed to.
    Commit,
    /// A disk that an image was committed to, and the stream that its tap protects it under, once that is known.
    Disk(Option<StreamId>),
}

/// A name that is held until this goes.
#[derive(Debug)]
pub(crate) struct Reserved {
    names: Arc<Names>,
    name: Name,
}

/// Of each volume, the names of bookmarks that are being made.
#[derive(Debug, Default)]
pub(crate) struct BookmarkNames(Mutex<BTreeSet<(VolumeId, Name)>>);

/// One of them, until this goes.
#[derive(Debug)]
pub(crate) struct BookmarkName {
    names: Arc<BookmarkNames>,
    key: (VolumeId, Name),
}

impl BookmarkName {
    /// `None` when somebody else has it.
    pub(crate) fn reserve(names: &Arc<BookmarkNames>, key: (VolumeId, Name)) -> Option<Self> {
        let fresh = names.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        fresh.then(|| Self { names: Arc::clone(names), key })
    }
}

impl Drop for BookmarkName {
    fn drop(&mut self) {
        self.names.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl Holder {
    const fn text(self) -> &'static str {
        match self {
            Self::Image => "an image that is being made",
            Self::Commit => "a disk that an image is being committed to",
            Self::Disk(_) => "a disk that an image was committed to",
        }
    }
}

impl Names {
    /// Holds a name, if nobody does and `free` says that it is; nobody else gets it between the two.
    ///
    /// # Errors
    /// When it is held, and what `free` says.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        name: &Name,
        holder: Holder,
        free: impl FnOnce() -> Answer<()>,
    ) -> Answer<Reserved> {
        let mut held = self.lock();
        if let Some(other) = held.get(name) {
            return Err(problems::name_taken(name, other.text()));
        }
        free()?;
        held.insert(name.clone(), holder);
        Ok(Reserved { names: Arc::clone(self), name: name.clone() })
    }

    /// The name is that of a disk from here on, which `stream` may announce.
    pub(crate) fn hold_disk(&self, name: &Name, stream: Option<StreamId>) {
        self.lock().insert(name.clone(), Holder::Disk(stream));
    }

    /// A tap announces a name: does it as `take` says, unless the name is held for something else, which is told.
    pub(crate) fn admit<T>(
        &self,
        name: &Name,
        stream: StreamId,
        take: impl FnOnce() -> T,
    ) -> Result<T, &'static str> {
        let held = self.lock();
        match held.get(name) {
            // An image and a volume are told apart by what asks for them.
            None | Some(Holder::Image) => Ok(take()),
            Some(Holder::Disk(own)) if *own == Some(stream) => Ok(take()),
            Some(other) => Err(other.text()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Holder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reserved {
    /// The name.
    pub(crate) const fn name(&self) -> &Name {
        &self.name
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut held = self.names.lock();
        // What has become a disk stays one.
        if !matches!(held.get(&self.name), Some(Holder::Disk(_))) {
            held.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use cx_api::Code;

    use super::*;

    #[test]
    fn a_bookmark_that_is_asked_for_twice_at_once_is_made_once() {
        let names = Arc::default();
        let key = |volume| (VolumeId::new(volume), "gold".parse::<Name>().unwrap());
        let first = BookmarkName::reserve(&names, key(1)).unwrap();
        assert!(BookmarkName::reserve(&names, key(1)).is_none());
        assert!(BookmarkName::reserve(&names, key(2)).is_some(), "another volume has its own");
        drop(first);
        assert!(BookmarkName::reserve(&names, key(1)).is_some());
    }

    #[test]
    fn who_is_first_has_a_name_and_everybody_else_is_refused() {
        let names = Arc::new(Names::default());
        let (name, own, other) = ("web02".parse().unwrap(), StreamId::new(1), StreamId::new(2));
        let commit = names.reserve(&name, Holder::Commit, || Ok(())).unwrap();
        for holder in [Holder::Commit, Holder::Image] {
            let refused = names.reserve(&name, holder, || panic!("it is held")).unwrap_err();
            assert_eq!(refused.code, Code::Conflict);
        }
        assert!(names.admit(&name, own, || ()).is_err());
        drop(commit);
        let refused = names.reserve(&name, Holder::Commit, || Err(problems::name_taken(&name, "a volume")));
        assert!(refused.is_err() && names.admit(&name, other, || ()).is_ok(), "what is not free is not held");
        let commit = names.reserve(&name, Holder::Commit, || Ok(())).unwrap();
        names.hold_disk(&name, None);
        drop(commit);
        assert!(names.admit(&name, own, || ()).is_err(), "nobody protects it yet");
        names.hold_disk(&name, Some(own));
        assert!(names.admit(&name, own, || ()).is_ok() && names.admit(&name, other, || ()).is_err());
        assert!(names.reserve(&name, Holder::Image, || Ok(())).is_err());
    }
}
