//! A tap as a whole: its volumes, and the front through which guests use them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use cx_link::{Address, Hub};
use gateway_front::{Front, FrontHandle, IscsiLimits, ListenAddress, ListenError, Portal, Security};
use gateway_iscsi::Admission;
use tap_block::{MAX_MEMBERS, Name, StreamId};
use thiserror::Error;

use crate::exports::Disks;
use crate::group::{Barriers, Group, GroupOf};
use crate::profiling::Profiler;
use crate::protect::{Protected, Upward};
use crate::targets::{DiskTargets, LUN, target_name};
use crate::{Limits, ProfileTo, Protect, ProtectError};

/// Guests that are idle are given this long to hear the end of their connections.
const FRONT_DRAIN: Duration = Duration::from_secs(3);

/// What a tap needs to know.
pub struct TapConfig {
    /// Its directory; state lies in `tap/` below it.
    pub data: PathBuf,
    /// The disks.
    pub protect: Vec<Protect>,
    /// Where guests connect.
    pub listen: Vec<ListenAddress>,
    /// What guests may cost.
    pub nbd_limits: gateway_front::Limits,
    /// TLS of guests.
    pub security: Security,
    /// Where guests connect over iSCSI: the portals.
    pub iscsi: Vec<Portal>,
    /// Who may log in there.
    pub admission: Admission,
    /// The CX.
    pub cx: Address,
    /// The switchboard for in-memory addresses.
    pub hub: Hub,
    /// What may wait.
    pub limits: Limits,
    /// Consistency groups of the disks.
    pub groups: Vec<GroupOf>,
    /// How often a barrier is put over a group that was written to.
    pub group_interval: Duration,
    /// Where what guests do is told to the analyzer.
    pub profile: Option<ProfileTo>,
}

/// Why a tap does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A volume cannot be protected.
    #[error(transparent)]
    Protect(#[from] ProtectError),
    /// Two volumes with one name, or one disk twice.
    #[error("{0} is given twice: protect each disk once, under one name")]
    Twice(String),
    /// A consistency group that cannot be.
    #[error("the group {name} cannot be formed: {why}")]
    Group {
        /// Its name.
        name: Name,
        /// Why, and what to do.
        why: String,
    },
    /// What guests do cannot be told to the analyzer.
    #[error("no profile can be kept: {0}; give --profile another place, or leave it out")]
    Profile(std::io::Error),
    /// The tap is being stopped.
    #[error("the tap stops: protect the disk when it runs again")]
    Stopping,
    /// Nobody could connect.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

impl StartError {
    /// Is a disk somebody else's?
    #[must_use]
    pub const fn is_in_use(&self) -> bool {
        matches!(self, Self::Protect(ProtectError::Disk { source, .. }) if source.is_in_use())
    }
}

/// A running tap.
pub struct Tap {
    /// `None` once it stops.
    volumes: Mutex<Option<Vec<Protected>>>,
    disks: Arc<Disks>,
    front: Arc<FrontHandle>,
    /// The one that speaks iSCSI.
    iscsi: Option<Arc<FrontHandle>>,
    dir: PathBuf,
    limits: Limits,
    upward: Upward,
    groups: Vec<Arc<Group>>,
    profiler: Option<Profiler>,
    /// Each puts barriers over a group.
    barriers: Mutex<Vec<JoinHandle<()>>>,
}

/// A volume, for the ready file and for status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeStatus {
    /// Its name.
    pub name: Name,
    /// The disk behind it.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Where a guest opens it: over NBD, unix sockets first, then over iSCSI.
    pub uris: Vec<String>,
}

impl Tap {
    /// Starts protecting and serving. Blocks while disks are opened; must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When a disk cannot be protected or an address cannot be listened on; nothing is left running then.
    pub fn start(config: TapConfig) -> Result<Self, StartError> {
        refuse_doubles(&config.protect)?;
        check_groups(&config.groups, &config.protect)?;
        let upward = Upward { cx: config.cx, hub: config.hub, sender: format!("tap {}", std::process::id()) };
        let (dir, limits) = (config.data.join("tap"), config.limits);
        let (mut begun, disks) = (Begun::default(), Arc::new(Disks::default()));
        let profiler =
            config.profile.as_ref().map(Profiler::start).transpose().map_err(StartError::Profile)?;
        for what in &config.protect {
            let protected = Protected::start(what, &dir, limits, &upward, &|_| ())?;
            observe(profiler.as_ref(), &protected);
            disks.add(protected.id, &protected.volume);
            begun.0.push(protected);
        }
        let exports = Arc::clone(&disks) as _;
        let iscsi_limits = (!config.iscsi.is_empty()).then(IscsiLimits::default);
        let memory = config.nbd_limits.memory_with(iscsi_limits.as_ref());
        let (limits_of_nbd, security) = (config.nbd_limits, config.security);
        let front = Front::start_sharing(&config.listen, exports, limits_of_nbd, security, &memory)?;
        let iscsi = iscsi_limits.map(|limits| {
            let targets = DiskTargets::new(Arc::clone(&disks), dir.clone(), config.admission);
            Front::start_iscsi_sharing(&config.iscsi, Arc::new(targets), limits, &memory).map(Arc::new)
        });
        let iscsi = iscsi.transpose()?;
        let groups: Vec<Arc<Group>> =
            config.groups.iter().map(|group| form(group, &begun.0, config.group_interval)).collect();
        let barriers = put_barriers(&groups)?;
        let (volumes, front) = (Mutex::new(Some(std::mem::take(&mut begun.0))), Arc::new(front));
        let barriers = Mutex::new(barriers);
        Ok(Self { volumes, disks, front, iscsi, dir, limits, upward, groups, profiler, barriers })
    }

    /// Protects another disk, which can be used at once. Blocks while it is opened; must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When it is protected already, or cannot be.
    pub fn protect(&self, what: &Protect) -> Result<VolumeStatus, StartError> {
        self.protect_as(what, &|_| ())
    }

    /// The same; `told` hears which stream it is before anybody else does.
    ///
    /// # Errors
    /// As [`Tap::protect`].
    pub fn protect_as(&self, what: &Protect, told: &dyn Fn(StreamId)) -> Result<VolumeStatus, StartError> {
        let mut volumes = self.lock();
        let volumes = volumes.as_mut().ok_or(StartError::Stopping)?;
        let there = volumes.iter().map(|v| Protect { name: v.volume.name().clone(), path: v.path.clone() });
        refuse_doubles(&there.chain([what.clone()]).collect::<Vec<_>>())?;
        let protected = Protected::start(what, &self.dir, self.limits, &self.upward, told)?;
        observe(self.profiler.as_ref(), &protected);
        self.disks.add(protected.id, &protected.volume);
        let status = self.status(&protected);
        volumes.push(protected);
        Ok(status)
    }

    /// Where guests connect.
    #[must_use]
    pub const fn front(&self) -> &Arc<FrontHandle> {
        &self.front
    }

    /// Where they connect over iSCSI, if they can.
    #[must_use]
    pub const fn iscsi(&self) -> Option<&Arc<FrontHandle>> {
        self.iscsi.as_ref()
    }

    /// The iSCSI portals, as discovery takes them.
    #[must_use]
    pub fn iscsi_portals(&self) -> Vec<String> {
        self.iscsi.iter().flat_map(|front| front.addresses()).map(|address| address.to_string()).collect()
    }

    /// The volumes, in the order in which they were given.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeStatus> {
        self.lock().iter().flatten().map(|protected| self.status(protected)).collect()
    }

    /// The consistency groups, and what came of their barriers.
    pub fn groups(&self) -> impl Iterator<Item = (&Name, Barriers)> {
        self.groups.iter().map(|group| (group.name(), group.barriers()))
    }

    fn status(&self, protected: &Protected) -> VolumeStatus {
        let name = protected.volume.name().clone();
        let mut uris = self.front.uris(name.as_str());
        uris.extend(self.iscsi.iter().flat_map(|front| front.iscsi_uris(&target_name(&name), LUN)));
        VolumeStatus { path: protected.path.clone(), size: protected.size(), uris, name }
    }

    /// Stops: guests are drained, everything captured is sent or spooled. Takes about `limit` at most; says whether every
    /// volume stopped cleanly (one that did not copies its marked regions at the next start).
    pub async fn stop(&self, limit: Duration) -> bool {
        self.groups.iter().for_each(|group| group.stop());
        let fronts: Vec<_> = self.iscsi.iter().chain([&self.front]).cloned().collect();
        let volumes = self.lock().take().unwrap_or_default();
        let barriers = std::mem::take(&mut *self.barriers.lock().unwrap_or_else(PoisonError::into_inner));
        let stopped = tokio::task::spawn_blocking(move || {
            let barred = barriers.into_iter().all(|thread| thread.join().is_ok());
            drain(&fronts);
            let share = limit.saturating_sub(FRONT_DRAIN);
            let stops: Vec<_> =
                volumes.into_iter().map(|v| std::thread::spawn(move || v.stop(share))).collect();
            stops.into_iter().all(|s| s.join().unwrap_or(false)) && barred
        });
        let stopped = stopped.await.unwrap_or(false);
        if let Some(profiler) = &self.profiler {
            profiler.stop();
        }
        stopped
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<Protected>>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Volumes of a tap that is being started. If that fails, they are stopped, and their disks free again.
#[derive(Default)]
struct Begun(Vec<Protected>);

impl Drop for Begun {
    fn drop(&mut self) {
        for volume in self.0.drain(..) {
            volume.stop(Duration::ZERO);
        }
    }
}

/// Before guests can use it: no write of theirs is missed.
fn observe(profiler: Option<&Profiler>, protected: &Protected) {
    if let Some(profiler) = profiler {
        protected.volume.observe(profiler.probe(protected.volume.name()));
    }
}

/// Ends them all at the same time.
fn drain(fronts: &[Arc<FrontHandle>]) {
    std::thread::scope(|scope| {
        for front in fronts {
            scope.spawn(move || front.drain_and_stop(FRONT_DRAIN));
        }
    });
}

/// Every member has to be protected here, and in one group alone.
fn check_groups(groups: &[GroupOf], protect: &[Protect]) -> Result<(), StartError> {
    for (i, group) in groups.iter().enumerate() {
        let refuse = |why: String| Err(StartError::Group { name: group.name.clone(), why });
        let (before, members) = (groups.get(..i).unwrap_or_default(), &group.members);
        if before.iter().any(|other| other.name == group.name) {
            return refuse("it is given twice: give each group once, with all its members".to_owned());
        }
        if !(2..=MAX_MEMBERS).contains(&members.len()) {
            return refuse(format!("it has {} members: give 2 to {MAX_MEMBERS}", members.len()));
        }
        for (at, member) in members.iter().enumerate() {
            if !protect.iter().any(|p| p.name == *member) {
                return refuse(format!(
                    "this tap does not protect {member}: a group is made of volumes of one tap, each given with --protect"
                ));
            }
            let here = members.get(..at).unwrap_or_default().iter();
            if here.chain(before.iter().flat_map(|g| &g.members)).any(|other| other == member) {
                return refuse(format!("{member} is in a group already: a volume is in one group, once"));
            }
        }
    }
    Ok(())
}

fn form(of: &GroupOf, volumes: &[Protected], interval: Duration) -> Arc<Group> {
    let members = volumes.iter().filter(|p| of.members.contains(p.volume.name()));
    let members = members.map(|p| (p.id, Arc::clone(&p.volume))).collect();
    Group::new(of.name.clone(), members, interval)
}

/// A thread for each group, or for none.
fn put_barriers(groups: &[Arc<Group>]) -> Result<Vec<JoinHandle<()>>, StartError> {
    let mut threads = Vec::with_capacity(groups.len());
    for group in groups {
        match group.spawn() {
            Ok(thread) => threads.push(thread),
            Err(e) => {
                groups.iter().for_each(|group| group.stop());
                threads.into_iter().for_each(|thread: JoinHandle<()>| drop(thread.join()));
                return Err(StartError::Group { name: group.name().clone(), why: e.to_string() });
            }
        }
    }
    Ok(threads)
}

fn refuse_doubles(protect: &[Protect]) -> Result<(), StartError> {
    for (i, what) in protect.iter().enumerate() {
        let same = |other: &Protect| other.name == what.name || same_file(other, what);
        if protect.iter().skip(i + 1).any(same) {
            return Err(StartError::Twice(format!("{}={}", what.name, what.path.display())));
        }
    }
    Ok(())
}

fn same_file(a: &Protect, b: &Protect) -> bool {
    let real = |p: &Protect| p.path.canonicalize().unwrap_or_else(|_| p.path.clone());
    real(a) == real(b)
}
