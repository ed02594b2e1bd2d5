//! A target: its units, who may log in, and the sessions there are. Shared by all connections; what changes
//! has one owner, the mutex in [`Target`].

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tap_block::Ticket;

use crate::login::chap::Access;
use crate::login::status::LoginStatus;
use crate::neighbours::{Neighbours, Visitor};
use crate::scsi::party::Party;
use crate::scsi::reservation::InitiatorPort;
use crate::scsi::segments::Named;
use crate::scsi::unit::{LogicalUnit, Nexus, SessionId};

/// Sessions of one target.
const MAX_SESSIONS: usize = 64;

/// What a target is made of.
#[derive(Debug)]
pub struct TargetConfig {
    /// Its iSCSI name.
    pub name: String,
    /// For people; may be empty.
    pub alias: String,
    /// Who may log in, until [`Target::admit`] says otherwise.
    pub admission: Admission,
    /// Its disks by LUN.
    pub units: Vec<(u16, Arc<LogicalUnit>)>,
}

/// Who may log in to a target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admission {
    /// What has to be known.
    pub access: Access,
    /// The names of the initiators that may; `None` for all.
    pub initiators: Option<Vec<String>>,
}

/// A target that can be logged in to.
pub struct Target {
    alias: String,
    units: Vec<(u16, Arc<LogicalUnit>)>,
    name: Arc<str>,
    /// A login that began by other rules than these is refused at its end.
    admission: Mutex<Arc<Admission>>,
    luns: Vec<u16>,
    sessions: Mutex<Sessions>,
    /// Held while reservations are kept.
    keeping: Mutex<()>,
    neighbours: Arc<Neighbours>,
}

#[derive(Default)]
struct Sessions {
    list: Vec<Entry>,
    next: u64,
    next_tsih: u16,
}

struct Entry {
    session: SessionId,
    tsih: u16,
    visitor: Visitor,
    /// Completed when the session has to end.
    kick: Ticket,
}

/// A session as people are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// The initiator's port.
    pub port: InitiatorPort,
    /// The target's number for it.
    pub tsih: u16,
}

/// A session's place in its target, given back when dropped.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) target: Arc<Target>,
    pub(crate) tsih: u16,
    pub(crate) nexuses: Vec<Nexus>,
    visitor: Visitor,
    session: SessionId,
}

impl Target {
    /// A target by itself.
    #[must_use]
    pub fn new(config: TargetConfig) -> Arc<Self> {
        Self::among(&Arc::default(), config)
    }

    /// A target that copies may go to and fro between and its neighbours.
    #[must_use]
    pub fn among(neighbours: &Arc<Neighbours>, config: TargetConfig) -> Arc<Self> {
        let mut luns: Vec<u16> = config.units.iter().map(|(lun, _)| *lun).collect();
        luns.sort_unstable();
        let TargetConfig { name, alias, admission, units } = config;
        let (name, admission) = (name.as_str().into(), Mutex::new(Arc::new(admission)));
        let (sessions, keeping) = (Mutex::default(), Mutex::default());
        let neighbours = neighbours.clone();
        let target = Arc::new(Self { alias, units, name, admission, luns, sessions, keeping, neighbours });
        target.neighbours.add(&target);
        target
    }

    /// A unit of this name, if the visitor may go there: see [`Neighbours`].
    pub(crate) fn let_in(self: &Arc<Self>, visitor: &Visitor, name: &Named<'_>) -> Option<Party> {
        let (_, unit) = self.units.iter().find(|(_, unit)| name.is(unit.identity()))?;
        let sessions = self.lock();
        let admission = self.admission();
        let may = admission.admits(&visitor.port.name) && admission.access.is_met_by(visitor.proved.as_ref());
        let mut own = sessions.list.iter().filter(|entry| may && entry.visitor.is_same(visitor));
        // By the same port if it is there, for reservations go by ports.
        let same = own.clone().find(|entry| entry.visitor.port == visitor.port).or_else(|| own.next())?;
        let seat = unit.seat(same.session)?;
        Some(Party::new(unit.clone(), seat, self.clone()))
    }

    /// Its iSCSI name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The sessions there are.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let sessions = self.lock();
        let all = sessions.list.iter();
        all.map(|entry| SessionInfo { port: entry.visitor.port.clone(), tsih: entry.tsih }).collect()
    }

    /// Ends all sessions.
    pub fn kick(&self) {
        let ended = std::mem::take(&mut self.lock().list);
        self.end(ended);
    }

    /// Has `write` keep the reservations of a unit as they are when its turn comes: one after the other, so that what is kept last is
    /// newest, in whatever order [`crate::Action::Keep`] is done by several sessions. `None`: there is no such unit.
    pub fn keep<R>(&self, lun: u16, write: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let _one = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, unit) = self.units.iter().find(|(no, _)| *no == lun)?;
        Some(write(&unit.kept()))
    }

    pub(crate) fn alias(&self) -> &str {
        &self.alias
    }

    /// Who may log in now.
    #[must_use]
    pub fn admission(&self) -> Arc<Admission> {
        Arc::clone(&self.admission.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From here on these may log in. Sessions of initiators that are not on the list end; all others go on, whatever they
    /// would have to know by now.
    pub fn admit(&self, admission: Admission) {
        let admission = Arc::new(admission);
        let mut sessions = self.lock();
        *self.admission.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&admission);
        let all = std::mem::take(&mut sessions.list);
        let (stay, ended) = all.into_iter().partition(|entry| admission.admits(&entry.visitor.port.name));
        sessions.list = stay;
        drop(sessions);
        let ended: Vec<Entry> = ended;
        self.end(ended);
    }

    pub(crate) fn luns(&self) -> &[u16] {
        &self.luns
    }

    /// A session begins (RFC 7143 section 6.3.5): one of the same port before it ends.
    pub(crate) fn enter(
        self: &Arc<Self>,
        (visitor, admission): (Visitor, &Arc<Admission>),
        tsih: u16,
        kick: Ticket,
    ) -> Result<Membership, LoginStatus> {
        let port = &visitor.port;
        let mut sessions = self.lock();
        // Under the same lock as a change of the rules: who came in by the old ones is on the list that is gone through then.
        if !Arc::ptr_eq(admission, &self.admission()) {
            return Err(LoginStatus::NotAuthorized);
        }
        let at = sessions.list.iter().position(|entry| entry.visitor.port == *port);
        let before = at.and_then(|at| sessions.list.get(at));
        if tsih != 0 && before.is_none_or(|entry| entry.tsih != tsih) {
            return Err(LoginStatus::NoSuchSession);
        }
        if at.is_none() && sessions.list.len() >= MAX_SESSIONS {
            return Err(LoginStatus::OutOfResources);
        }
        let before = at.map(|at| sessions.list.remove(at));
        let (session, tsih) = sessions.add(&visitor, kick);
        drop(sessions);
        self.end(before);
        let join = |(lun, unit): &(u16, Arc<LogicalUnit>)| unit.join(*lun, self.name.clone(), session, port);
        let nexuses = self.units.iter().map(join).collect();
        Ok(Membership { target: self.clone(), tsih, nexuses, visitor, session })
    }

    /// What they held is given up here, so that whoever comes next need not wait for their threads.
    fn end(&self, sessions: impl IntoIterator<Item = Entry>) {
        for entry in sessions {
            self.units.iter().for_each(|(_, unit)| unit.part(entry.session));
            entry.kick.complete(Ok(Bytes::new()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Membership {
    /// What a copy that is sent to one of its units is to that.
    pub(crate) fn party(&self, nexus: &Nexus) -> Party {
        Party::new(nexus.unit.clone(), nexus.seat(), self.target.clone())
    }

    /// A unit that the initiator may go to: of this session rather than of another target.
    pub(crate) fn reach(&self, name: &Named<'_>) -> Option<Party> {
        let own = self.nexuses.iter().find(|nexus| name.is(nexus.unit.identity()));
        let own = own.map(|nexus| self.party(nexus));
        own.or_else(|| self.target.neighbours.reach(&self.visitor, name))
    }
}

impl Admission {
    /// Is this initiator on the list?
    #[must_use]
    pub fn admits(&self, initiator: &str) -> bool {
        let names = self.initiators.as_ref();
        names.is_none_or(|names| names.iter().any(|name| name.eq_ignore_ascii_case(initiator)))
    }
}

impl Sessions {
    fn add(&mut self, visitor: &Visitor, kick: Ticket) -> (SessionId, u16) {
        let session = SessionId(self.next);
        self.next += 1;
        loop {
            self.next_tsih = self.next_tsih.wrapping_add(1).max(1);
            if self.list.iter().all(|entry| entry.tsih != self.next_tsih) {
                break;
            }
        }
        self.list.push(Entry { session, tsih: self.next_tsih, visitor: visitor.clone(), kick });
        (session, self.next_tsih)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut sessions = self.target.lock();
        let gone = sessions.list.iter().position(|entry| entry.session == self.session);
        let gone = gone.map(|at| sessions.list.remove(at));
        drop(sessions);
        // Its ticket completes a tag that nobody waits for any more.
        drop(gone);
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("name", &self.name).field("units", &self.units).finish_non_exhaustive()
    }
}
