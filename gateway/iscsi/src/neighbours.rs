//! Targets that copies may go to and fro between (SPC-4 section 5.17.3).
//!
//! A copy may go to a unit of another target if its initiator could go there itself with what it has shown already: a session of
//! the same name from the same host is logged in there, the name is on the list still, and what CHAP would have it know there it
//! proved in the login of the session that copies. Whoever merely claims a name, or is on another machine, is told that the unit
//! cannot be reached, as of one that is not there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::login::chap::Credentials;
use crate::scsi::party::Party;
use crate::scsi::reservation::InitiatorPort;
use crate::scsi::segments::Named;
use crate::target::Target;

/// The targets of one server, as long as each lasts.
#[derive(Debug, Default)]
pub struct Neighbours {
    targets: Mutex<Vec<Weak<Target>>>,
}

/// Who somebody has shown to be.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    pub(crate) port: InitiatorPort,
    /// Where from, as far as the driver can tell one place from another.
    pub(crate) host: Option<Arc<str>>,
    /// What was proved by CHAP.
    pub(crate) proved: Option<Credentials>,
}

impl Neighbours {
    pub(crate) fn add(&self, target: &Arc<Target>) {
        let mut targets = self.lock();
        targets.retain(|target| target.strong_count() > 0);
        targets.push(Arc::downgrade(target));
    }

    /// A unit of one of them that the visitor may go to.
    pub(crate) fn reach(&self, visitor: &Visitor, name: &Named<'_>) -> Option<Party> {
        // The last one to let go of a target may have to wait for its disks: not here.
        let targets: Vec<Arc<Target>> = self.lock().iter().filter_map(Weak::upgrade).collect();
        targets.iter().find_map(|target| target.let_in(visitor, name))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Target>>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Visitor {
    /// Is it the same initiator, maybe by another path?
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.port.name == other.port.name && self.host.is_some() && self.host == other.host
    }
}
