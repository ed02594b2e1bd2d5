//! The gateway put together: what it is made of, how it starts, how it ends.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use cx_link::{Address, Downlink, Hub, Listener};
use gateway_front::{Front, FrontHandle, IscsiLimits, Limits, ListenAddress, ListenError, Portal, Security};
use gateway_image::catalogue::Volume;
use gateway_store::{Store, StoreConfig, StoreError};
use tap_block::{Clock, Name, WallTime};
use tap_disk::{DirLock, LockError, Pool, RealClock, ensure_dir, free_space};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::committed::{Committed, ProtectDisk};
use crate::device::flat::FlatDir;
use crate::device::overlay::OverlayDir;
use crate::device::room::{Room, RoomLeft};
use crate::exports::GatewayExports;
use crate::gates::{self, Gates};
use crate::http;
use crate::http::Answer;
use crate::images::Images;
use crate::jobs::Jobs;
use crate::lease_file::LeaseFile;
use crate::names::{BookmarkNames, Names};
use crate::points::Points;
use crate::problems;
use crate::restore::Forbidden;
use crate::stores::Stores;
use crate::streams::Streams;
use crate::stretches::LastSums;
use crate::targets::{GatewayTargets, TargetTable};

/// Threads for reads that the page cache cannot answer.
const READERS: usize = 16;
/// Reads that wait for one; above it the connection that asks reads by itself.
const READ_QUEUE: usize = 512;
/// What a read/write image may take unless it is said: 16 GiB of changed blocks.
const OVERLAY_QUOTA: u64 = 16 << 30;

/// What flat copies of images leave free for test images, beyond what the journal needs.
const FLAT_RESERVE: u64 = 1 << 30;

/// How a gateway is set up.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Its directory; one gateway at a time.
    pub data: PathBuf,
    /// Where the CX connects to.
    pub links: Vec<Address>,
    /// Where NBD clients connect to.
    pub nbd: Vec<ListenAddress>,
    /// What NBD clients may cost.
    pub nbd_limits: Limits,
    /// TLS of NBD clients.
    pub security: Security,
    /// Where iSCSI initiators connect to: the portals.
    pub iscsi: Vec<Portal>,
    /// Initiators on other machines may open what has no access rules: the network is trusted.
    pub open_portals: bool,
    /// Where the HTTP API is.
    pub api: Option<http::ApiConfig>,
    /// The switchboard of links within the process.
    pub hub: Hub,
    /// Files that a restore must never touch.
    pub protected: Vec<PathBuf>,
    /// What a read/write image may take unless its maker says otherwise, in bytes.
    pub overlay_quota: u64,
    /// Where the hooks of tiers lie; no other program is ever run.
    pub hooks: PathBuf,
    /// The journal and its limits.
    pub store: StoreConfig,
}

impl GatewayConfig {
    /// A gateway in `data` that listens nowhere yet.
    #[must_use]
    pub fn new(data: PathBuf) -> Self {
        Self {
            store: StoreConfig::new(data.join("store")),
            hooks: data.join("hooks"),
            data,
            links: Vec::new(),
            nbd: Vec::new(),
            nbd_limits: Limits::default(),
            security: Security::default(),
            iscsi: Vec::new(),
            open_portals: false,
            api: None,
            hub: Hub::new(),
            protected: Vec::new(),
            overlay_quota: OVERLAY_QUOTA,
        }
    }
}

/// Why a gateway does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Another one uses the directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The journal cannot be used.
    #[error("the journal in {}: {source}", path.display())]
    Store {
        /// The journal's directory.
        path: PathBuf,
        /// Why.
        source: StoreError,
    },
    /// The directory cannot be used.
    #[error("the gateway's directory {}: {source}; check its permissions and its disk", path.display())]
    Data {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A link address cannot be had.
    #[error("cannot listen for the CX on {address}: {source}; choose another address or stop what uses it")]
    Link {
        /// The address.
        address: Address,
        /// Why.
        source: io::Error,
    },
    /// An NBD or iSCSI address cannot be had.
    #[error(transparent)]
    Nbd(#[from] ListenError),
    /// Images that anybody could open from elsewhere.
    #[error(
        "the iSCSI portal {portal} can be reached from other machines, and exports have no access rules: {images}; \
         listen on 127.0.0.1, start with that and give them some (chronogate export rm IMAGE, then export create \
         IMAGE --iscsi with --acl or --chap), or say --insecure if the network is yours alone"
    )]
    OpenExports {
        /// The first such portal.
        portal: String,
        /// The images' names.
        images: String,
    },
    /// The API cannot listen.
    #[error(transparent)]
    Api(#[from] http::StartError),
    /// A thread of the start failed.
    #[error("the gateway's start was cut short: {0}")]
    CutShort(#[from] tokio::task::JoinError),
}

/// A gateway.
pub struct Gateway {
    pub(crate) store: Arc<Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) streams: Arc<Streams>,
    /// Those that were here before the one in use.
    pub(crate) stores: Arc<Stores>,
    pub(crate) points: Points,
    pub(crate) images: Arc<Images>,
    pub(crate) committed: Arc<Committed>,
    pub(crate) names: Arc<Names>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) gates: Gates,
    pub(crate) forbidden: Forbidden,
    leases: Arc<LeaseFile>,
    /// Exports over iSCSI.
    pub(crate) targets: Arc<TargetTable>,
    pub(crate) started: WallTime,
    fronts: Mutex<Fronts>,
    /// Those of a tap in the same process.
    pub(crate) tap_fronts: Mutex<Vec<(&'static str, Weak<FrontHandle>)>>,
    /// Of bookmarks that are being made.
    pub(crate) bookmark_names: Arc<BookmarkNames>,
    /// Of timelines.
    pub(crate) sums: LastSums,
    /// One image is taken out of use at a time, so that of two who take it away both are right.
    pub(crate) removing: tokio::sync::Mutex<()>,
    pub(crate) me: Weak<Self>,
}

/// What listens for clients, while it does.
#[derive(Clone, Default)]
pub(crate) struct Fronts {
    pub(crate) nbd: Option<Arc<FrontHandle>>,
    /// There when there are portals.
    pub(crate) iscsi: Option<Arc<FrontHandle>>,
}

/// A gateway at work.
pub struct GatewayHandle {
    gateway: Arc<Gateway>,
    api: Option<http::ApiHandle>,
    downlink: Downlink,
    links: Vec<Address>,
    fronts: Fronts,
    gates: JoinHandle<()>,
    end_gates: watch::Sender<bool>,
    /// Given back when everything else has ended.
    lock: DirLock,
}

impl Gateway {
    /// Opens the journal and listens everywhere. Runs within a tokio runtime of several threads.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left listening then.
    pub async fn start(config: GatewayConfig) -> Result<GatewayHandle, StartError> {
        let setup = config.clone();
        let (gateway, lock) = tokio::task::spawn_blocking(move || Self::open(&setup)).await??;
        gateway.check_portals(&config.iscsi)?;
        gateway.go_on_materializing();
        let fronts = gateway.start_fronts(&config).await?;
        let downlink = Downlink::new(Arc::clone(&gateway.streams) as _);
        let links = listen(&downlink, &config.links, &config.hub).await?;
        let api = match &config.api {
            Some(api) => Some(http::start(Arc::clone(&gateway), api).await?),
            None => None,
        };
        let (end_gates, ended) = watch::channel(false);
        let gates = tokio::spawn(gates::follow(Arc::clone(&gateway), ended));
        Ok(GatewayHandle { gateway, api, downlink, links, fronts, gates, end_gates, lock })
    }

    fn open(config: &GatewayConfig) -> Result<(Arc<Self>, DirLock), StartError> {
        let failed = |source| StartError::Data { path: config.data.clone(), source };
        ensure_dir(&config.data).map_err(failed)?;
        let lock = DirLock::acquire(&config.data)?;
        let clock: Arc<dyn Clock> = Arc::new(RealClock);
        let store = Store::open(config.store.clone(), Arc::clone(&clock))
            .map_err(|source| StartError::Store { path: config.store.dir.clone(), source })?;
        let stores = Stores::open(&config.data, &store, &config.store.dir, clock.wall());
        let stores = Arc::new(stores.map_err(failed)?);
        let pool = Arc::new(Pool::new("image-read", READERS, READ_QUEUE));
        let overlays = config.data.join("overlays");
        ensure_dir(&overlays).map_err(failed)?;
        let left = room_left(&config.store, &overlays, &store).map_err(failed)?;
        let overlays = OverlayDir::new(overlays, Arc::new(Room::new(left, Arc::clone(&clock))));
        let flats = flat_copies(config, &store).map_err(failed)?;
        let dirs = (overlays, flats);
        let names: Arc<Names> = Arc::default();
        let rules = (Arc::clone(&names), config.overlay_quota);
        let images =
            Images::new(Arc::clone(&store), Arc::clone(&clock), pool, dirs, rules).map_err(failed)?;
        let disks = std::path::absolute(config.data.join("volumes")).map_err(failed)?;
        let committed = Committed::open(disks, Arc::clone(&names), &store.catalogue()).map_err(failed)?;
        let streams =
            Streams::new(Arc::clone(&store), Arc::clone(&stores), Arc::clone(&clock), Arc::clone(&names));
        let streams = Arc::new(streams);
        let gateway = Arc::new_cyclic(|me| Self {
            points: Points {
                store: Arc::clone(&store),
                streams: Arc::clone(&streams),
                clock: Arc::clone(&clock),
            },
            images: Arc::new(images),
            committed: Arc::new(committed),
            names,
            jobs: Arc::default(),
            gates: Gates::new(config.hooks.clone()),
            forbidden: Forbidden { files: config.protected.clone(), data: config.data.clone() },
            leases: Arc::new(LeaseFile::open(config.data.join("leases.json"), store.id(), &*clock)),
            targets: Arc::new(TargetTable::open(config.data.join("iscsi"), config.open_portals)),
            started: clock.wall(),
            fronts: Mutex::default(),
            tap_fronts: Mutex::default(),
            bookmark_names: Arc::default(),
            sums: LastSums::default(),
            removing: tokio::sync::Mutex::default(),
            me: Weak::clone(me),
            store,
            clock,
            streams,
            stores,
        });
        Ok((gateway, lock))
    }

    async fn start_fronts(&self, config: &GatewayConfig) -> Result<Fronts, StartError> {
        let exports = Arc::new(GatewayExports {
            store: Arc::clone(&self.store),
            points: self.points.clone(),
            images: Arc::clone(&self.images),
            clock: Arc::clone(&self.clock),
            leases: Arc::clone(&self.leases),
            runtime: Handle::current(),
        });
        let targets = Arc::new(GatewayTargets::new(Arc::clone(&exports), Arc::clone(&self.targets)));
        let GatewayConfig { nbd, nbd_limits, security, iscsi: portals, .. } = config.clone();
        let start = move || {
            let iscsi_limits = (!portals.is_empty()).then(IscsiLimits::default);
            let memory = nbd_limits.memory_with(iscsi_limits.as_ref());
            let nbd = Front::start_sharing(&nbd, exports, nbd_limits, security, &memory)?;
            let iscsi =
                iscsi_limits.map(|limits| Front::start_iscsi_sharing(&portals, targets, limits, &memory));
            let iscsi = iscsi.transpose()?;
            Ok::<_, ListenError>(Fronts { nbd: Some(Arc::new(nbd)), iscsi: iscsi.map(Arc::new) })
        };
        let fronts = tokio::task::spawn_blocking(start).await??;
        *self.fronts.lock().unwrap_or_else(PoisonError::into_inner) = fronts.clone();
        Ok(fronts)
    }

    /// The NBD front, while there is one.
    pub(crate) fn front(&self) -> Option<Arc<FrontHandle>> {
        self.fronts().nbd
    }

    pub(crate) fn fronts(&self) -> Fronts {
        self.fronts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The disks that images were committed to, and where they lie: they want to be protected.
    ///
    /// # Errors
    /// When their directory cannot be read.
    pub fn committed_disks(&self) -> io::Result<Vec<(Name, PathBuf)>> {
        self.committed.disks()
    }

    /// Who protects the disks that images are committed to from here on; it begins with [`Gateway::protect_committed`].
    pub fn protect_with(&self, protect: ProtectDisk) {
        self.committed.protect_with(protect);
    }

    /// Has the disks protected that images were committed to. One that cannot be keeps nothing else from starting: a gateway is
    /// needed most when something is broken. Blocks.
    ///
    /// # Errors
    /// When their directory cannot be read.
    pub fn protect_committed(&self) -> io::Result<()> {
        self.committed.protect_all()
    }

    /// The volume of this name.
    pub(crate) fn known(&self, name: &Name) -> Answer<Arc<Volume>> {
        self.store.catalogue().volume_named(name).cloned().ok_or_else(|| problems::no_volume(name))
    }
}

impl Fronts {
    /// Ends both at the same time.
    fn drain(&self, grace: Duration) {
        std::thread::scope(|scope| {
            for front in [&self.nbd, &self.iscsi].into_iter().flatten() {
                scope.spawn(move || front.drain_and_stop(grace));
            }
        });
    }
}

/// Where flat copies of images are; whole, for people read where a copy lies.
fn flat_copies(config: &GatewayConfig, store: &Arc<Store>) -> io::Result<FlatDir> {
    let flats = std::path::absolute(config.data.join("flats"))?;
    ensure_dir(&flats)?;
    let left = room_left(&config.store, &flats, store)?;
    Ok(FlatDir::new(flats, left, FLAT_RESERVE))
}

/// What images and their copies may take: on the journal's file system not what that needs, on one of their own all but a little.
fn room_left(config: &StoreConfig, dir: &Path, store: &Arc<Store>) -> io::Result<RoomLeft> {
    let device = |path: &Path| path.metadata().map(|found| found.dev());
    if device(dir)? == device(&config.dir)? {
        let store = Arc::clone(store);
        return Ok(Box::new(move || store.room_for_others()));
    }
    let (dir, keep_free) = (dir.to_owned(), config.keep_free);
    Ok(Box::new(move || free_space(&dir).ok().map(|free| free.saturating_sub(keep_free))))
}

async fn listen(downlink: &Downlink, addresses: &[Address], hub: &Hub) -> Result<Vec<Address>, StartError> {
    let mut bound = Vec::new();
    for address in addresses {
        let failed = |source| StartError::Link { address: address.clone(), source };
        let listener = Listener::bind(address, hub).await.map_err(failed)?;
        bound.push(listener.address().clone());
        downlink.listen(listener);
    }
    Ok(bound)
}

impl GatewayHandle {
    /// The gateway.
    #[must_use]
    pub const fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// Where the API listens, the port chosen included.
    #[must_use]
    pub fn api(&self) -> Option<SocketAddr> {
        self.api.as_ref().map(http::ApiHandle::address)
    }

    /// Where the CX connects to, the ports chosen included.
    #[must_use]
    pub fn links(&self) -> &[Address] {
        &self.links
    }

    /// The URIs of the NBD front itself.
    #[must_use]
    pub fn nbd_uris(&self) -> Vec<String> {
        self.fronts.nbd.as_ref().map(|front| front.uris("")).unwrap_or_default()
    }

    /// The iSCSI portals, as discovery takes them.
    #[must_use]
    pub fn iscsi_portals(&self) -> Vec<String> {
        let front = self.fronts.iscsi.as_ref();
        front.map(|front| front.addresses().iter().map(ToString::to_string).collect()).unwrap_or_default()
    }

    /// Certificates and the list of NBD clients, anew: for whoever connects from here on.
    pub fn secure_anew(&self, security: Security) {
        if let Some(nbd) = &self.fronts.nbd {
            nbd.secure_anew(security);
        }
    }

    /// Ends it in order: no new requests, connections drained for up to `grace` each, everything received made
    /// durable.
    pub async fn stop(self, grace: Duration) {
        self.gateway.streams.stop();
        if let Some(api) = self.api {
            api.stop(grace).await;
        }
        self.downlink.stop().await;
        self.end_gates.send_replace(true);
        if let Err(e) = self.gates.await {
            tracing::error!("the gates did not end in order: {e}");
        }
        let (gateway, fronts) = (self.gateway, self.fronts);
        let end = move || {
            fronts.drain(grace);
            gateway.interrupt_jobs(grace);
            gateway.images.flush_all();
            gateway.store.stop();
        };
        if let Err(e) = tokio::task::spawn_blocking(end).await {
            tracing::error!("the gateway did not end in order: {e}");
        }
        drop(self.lock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_copies_leave_the_journal_on_their_file_system_what_it_needs() {
        let tmp = tempfile::tempdir().unwrap();
        let mut config = GatewayConfig::new(tmp.path().to_owned());
        // Of so small ones many more fit, of which it needs a tenth.
        config.store.segment_len = 1 << 20;
        let store = Store::open(config.store.clone(), Arc::new(RealClock)).unwrap();
        let copies = flat_copies(&config, &store).unwrap().free_beyond_reserve().unwrap();
        let free = free_space(tmp.path()).unwrap();
        assert!(copies < free / 100 * 93, "{copies} of {free}");
    }
}
