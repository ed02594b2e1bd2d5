//! The programs of a site, in whatever combination one process runs them: `up` is tap, CX and gateway joined by the
//! in-memory transport, and nothing else differs from three processes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cx_api::ExitStatus;
use cx_link::{Address, Hub};
use cx_server::{Cx, CxConfig, CxHandle};
use gateway_front::{ListenAddress, Portal};
use gateway_server::http::{ApiConfig, Control as _};
use gateway_server::{Cold, Gateway, GatewayConfig, GatewayHandle, ProtectDisk};
use serde::Serialize;
use tap_agent::{GroupOf, Limits, ProfileTo, Protect, Tap, TapConfig};
use tap_disk::{DirLock, LockError};

use crate::listen::{Door, DoorPlan, Listen, NbdArgs};
use crate::output::{self, Failure};
use crate::tap_iscsi::TapIscsi;
use crate::verbs::PackAfter;

/// A stop takes less than 20 s in all.
const TAP_STOP: Duration = Duration::from_secs(10);
const GATEWAY_STOP: Duration = Duration::from_secs(5);

/// How long a start waits for the gateway to know every volume, looking this often.
const KNOWN_WITHIN: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What to run. A part that is `None` runs elsewhere, or not at all.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) data: PathBuf,
    pub(crate) gateway: Option<GatewayPlan>,
    pub(crate) cx: Option<CxPlan>,
    pub(crate) tap: Option<TapPlan>,
    pub(crate) ready_file: Option<PathBuf>,
    /// How NBD clients are let in.
    pub(crate) nbd: NbdArgs,
    /// Listeners beyond loopback are allowed.
    pub(crate) insecure: bool,
}

pub(crate) struct GatewayPlan {
    pub(crate) links: Vec<Address>,
    pub(crate) nbd: Vec<Listen>,
    pub(crate) iscsi: Vec<Portal>,
    pub(crate) api: Option<SocketAddr>,
    /// Bytes the journal may take; `None`: what the file system has.
    pub(crate) journal_limit: Option<u64>,
    /// Bytes that the scrub reads each second; `None`: what is usual.
    pub(crate) scrub_rate: Option<u64>,
    /// When history is packed; `None`: when that is usual.
    pub(crate) pack_after: Option<PackAfter>,
    /// Where the hooks of policies lie; `None`: with its data.
    pub(crate) hooks: Option<PathBuf>,
}

pub(crate) struct CxPlan {
    pub(crate) listen: Vec<Address>,
    /// Name and address.
    pub(crate) gateways: Vec<(String, Address)>,
}

pub(crate) struct TapPlan {
    pub(crate) cx: Address,
    pub(crate) nbd: Vec<Listen>,
    pub(crate) iscsi: TapIscsi,
    pub(crate) protect: Vec<Protect>,
    pub(crate) groups: Vec<GroupOf>,
    pub(crate) group_interval: Duration,
    pub(crate) profile: Option<ProfileTo>,
}

/// What runs.
pub(crate) struct Site {
    tap: Option<Arc<Tap>>,
    cx: Option<CxHandle>,
    gateway: Option<GatewayHandle>,
    doors: DoorPlan,
    /// The in-memory transport lives as long as anybody may use it.
    _hub: Hub,
    _lock: DirLock,
}

/// The content of the ready file. Field names are a contract with scripts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Ready {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api: Option<String>,
    pub(crate) volumes: BTreeMap<String, ReadyVolume>,
    /// The gateway's NBD listeners, without an export name.
    pub(crate) nbd: Vec<String>,
    /// The gateway's iSCSI portals.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) iscsi: Vec<String>,
    /// Where the part above connects: the tap to a CX, the CX to a gateway.
    pub(crate) links: Vec<String>,
    pub(crate) pid: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ReadyVolume {
    /// Where the guest opens the protected disk.
    pub(crate) tap: String,
    /// Where it opens it over iSCSI.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) iscsi: Vec<String>,
}

impl ReadyVolume {
    /// Its URIs, those over NBD first.
    fn new(uris: Vec<String>) -> Self {
        let (iscsi, nbd): (Vec<_>, Vec<_>) = uris.into_iter().partition(|uri| uri.starts_with("iscsi://"));
        Self { tap: nbd.into_iter().next().unwrap_or_default(), iscsi }
    }
}

impl Site {
    /// Starts everything the plan names, from the bottom up; must be called inside a multi-thread runtime.
    pub(crate) async fn start(plan: Plan) -> Result<(Self, Ready), Failure> {
        let door_plan = plan.door_plan();
        let doors = door_plan.doors()?;
        plan.refuse_open_listeners(&doors)?;
        if let Some(path) = &plan.ready_file {
            remove_stale(path)?;
        }
        let lock = lock(&plan.data)?;
        let hub = Hub::new();
        let protected = plan.tap.iter().flat_map(|t| t.protect.iter().map(|p| p.path.clone())).collect();
        let mut site =
            Self { tap: None, cx: None, gateway: None, doors: door_plan, _hub: hub.clone(), _lock: lock };
        let mut links = Vec::new();
        if let Err(failure) = site.start_parts(plan, doors, &hub, protected, &mut links).await {
            site.stop().await;
            return Err(failure);
        }
        let ready = site.ready(links);
        Ok((site, ready))
    }

    async fn start_parts(
        &mut self,
        plan: Plan,
        (of_gateway, of_tap): (Door, Door),
        hub: &Hub,
        protected: Vec<PathBuf>,
        links: &mut Vec<String>,
    ) -> Result<(), Failure> {
        if let Some(gateway) = plan.gateway {
            let usual = GatewayConfig::new(plan.data.join("gateway"));
            let mut store = usual.store.clone();
            if let Some(bytes) = gateway.journal_limit {
                check_limit(bytes, store.least_limit())?;
                store = store.limited(bytes);
            }
            store.scrub_rate = gateway.scrub_rate.or(store.scrub_rate);
            if let Some(PackAfter(after)) = gateway.pack_after {
                store.cold = after.map(Cold::after);
            }
            let config = GatewayConfig {
                store,
                hooks: gateway.hooks.unwrap_or(usual.hooks),
                links: gateway.links,
                nbd: addresses(gateway.nbd),
                nbd_limits: of_gateway.limits,
                security: of_gateway.security,
                iscsi: gateway.iscsi,
                open_portals: plan.insecure,
                api: gateway.api.map(|listen| ApiConfig { listen, insecure: plan.insecure }),
                hub: hub.clone(),
                protected,
                ..usual
            };
            let handle = Gateway::start(config).await.map_err(|e| cannot_start("the gateway", &e))?;
            links.extend(handle.links().iter().map(ToString::to_string));
            self.gateway = Some(handle);
        }
        if let Some(cx) = plan.cx {
            let config = CxConfig {
                data: plan.data.join("cx"),
                listen: cx.listen,
                gateways: cx.gateways,
                hub: hub.clone(),
                limits: cx_server::Limits::default(),
            };
            let handle = Cx::start(config).await.map_err(|e| cannot_start("the CX", &e))?;
            links.extend(handle.addresses().iter().map(ToString::to_string));
            self.cx = Some(handle);
        }
        if let Some(tap) = plan.tap {
            self.start_tap(tap, of_tap, plan.data, hub)?;
        }
        links.retain(|l| !l.starts_with("mem:"));
        self.wait_until_known().await;
        Ok(())
    }

    /// Beside a gateway the tap also protects the disks that images were committed to, and those that will be.
    fn start_tap(&mut self, plan: TapPlan, door: Door, data: PathBuf, hub: &Hub) -> Result<(), Failure> {
        let TapPlan { cx, nbd: listen, iscsi, protect, groups, group_interval, profile } = plan;
        let (hub, limits, listen) = (hub.clone(), Limits::default(), addresses(listen));
        let admission = iscsi.admission()?;
        let Door { limits: nbd_limits, security } = door;
        let config = TapConfig {
            data,
            protect,
            listen,
            nbd_limits,
            security,
            iscsi: iscsi.portals,
            admission,
            cx,
            hub,
            limits,
            groups,
            group_interval,
            profile,
        };
        let started = tokio::task::block_in_place(|| Tap::start(config));
        let tap = Arc::new(started.map_err(|e| tap_does_not_start(&e))?);
        if let Some(gateway) = &self.gateway {
            let fronts = [Some(("tap", tap.front())), tap.iscsi().map(|front| ("tap-iscsi", front))];
            gateway.gateway().list_clients_of(fronts.into_iter().flatten());
            gateway.gateway().protect_with(protector(&tap));
            let protected = tokio::task::block_in_place(|| gateway.gateway().protect_committed());
            protected.map_err(|e| cannot_start("the tap", &e))?;
        }
        self.tap = Some(tap);
        Ok(())
    }

    /// Where tap and gateway are one process, "ready" means that the gateway has heard of every protected volume: a
    /// script's first command finds it.
    async fn wait_until_known(&self) {
        let (Some(tap), Some(gateway)) = (&self.tap, &self.gateway) else { return };
        let names: Vec<_> = tap.volumes().into_iter().map(|v| v.name).collect();
        let known = async {
            for name in names {
                while gateway.gateway().volume(name.clone()).await.is_err() {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
        };
        if tokio::time::timeout(KNOWN_WITHIN, known).await.is_err() {
            tracing::warn!(
                "the gateway has not taken every protected volume yet; see `chronogate volume ls`"
            );
        }
    }

    fn ready(&self, links: Vec<String>) -> Ready {
        let volumes = self.tap.iter().flat_map(|tap| tap.volumes());
        Ready {
            api: self.gateway.as_ref().and_then(GatewayHandle::api).map(|a| format!("http://{a}")),
            volumes: volumes.map(|v| (v.name.to_string(), ReadyVolume::new(v.uris))).collect(),
            nbd: self.gateway.as_ref().map(GatewayHandle::nbd_uris).unwrap_or_default(),
            iscsi: self.gateway.as_ref().map(GatewayHandle::iscsi_portals).unwrap_or_default(),
            links,
            pid: std::process::id(),
        }
    }

    /// Reads certificates and the list of NBD clients again, for whoever connects from here on. When they cannot be used, those
    /// that were read before stay.
    pub(crate) fn secure_anew(&self) {
        match self.doors.doors() {
            Ok((of_gateway, of_tap)) => {
                if let Some(gateway) = &self.gateway {
                    gateway.secure_anew(of_gateway.security);
                }
                if let Some(tap) = &self.tap {
                    tap.front().secure_anew(of_tap.security);
                }
                tracing::info!("certificates and the list of NBD clients are read anew");
            }
            Err(failure) => {
                tracing::error!("what was read before stays in force: {}: {}", failure.what, failure.why);
            }
        }
    }

    /// Stops everything, from the top down, so that what was captured still gets through.
    pub(crate) async fn stop(self) {
        let Self { tap, cx, gateway, doors: _, _hub, _lock } = self;
        if let Some(tap) = tap
            && !tap.stop(TAP_STOP).await
        {
            tracing::warn!(
                "a volume did not stop cleanly; what was under way is copied again at the next start"
            );
        }
        if let Some(cx) = cx {
            cx.stop().await;
        }
        if let Some(gateway) = gateway {
            gateway.stop(GATEWAY_STOP).await;
        }
    }
}

impl Plan {
    fn door_plan(&self) -> DoorPlan {
        let gateway = self.gateway.as_ref().map_or_else(Vec::new, |g| g.nbd.clone());
        let tap = self.tap.as_ref().map_or_else(Vec::new, |t| t.nbd.clone());
        DoorPlan { args: self.nbd.clone(), gateway, tap }
    }

    /// Where nobody has to show a certificate, whoever reaches a listener can read and write everything.
    fn refuse_open_listeners(&self, (gateway, tap): &(Door, Door)) -> Result<(), Failure> {
        if self.insecure {
            return Ok(());
        }
        let tcp = |listen: &Listen, door: &Door| match &listen.address {
            ListenAddress::Tcp(text) if !door.security.is_guarded(&listen.address) => Some(text.clone()),
            _ => None,
        };
        let link = |a: &Address| match a {
            Address::Tcp(text) => Some(text.clone()),
            Address::Memory(_) => None,
        };
        let mut open: Vec<String> = Vec::new();
        if let Some(g) = &self.gateway {
            let nbd = g.nbd.iter().filter_map(|listen| tcp(listen, gateway));
            // The gateway itself keeps what has no access rules from initiators elsewhere.
            open.extend(nbd.chain(g.links.iter().filter_map(link)));
            open.extend(g.api.map(|a| a.to_string()));
        }
        open.extend(self.cx.iter().flat_map(|c| c.listen.iter().filter_map(link)));
        open.extend(self.tap.iter().flat_map(|t| t.nbd.iter().filter_map(|listen| tcp(listen, tap))));
        let unguarded = self.tap.iter().filter(|t| !t.iscsi.is_guarded());
        open.extend(unguarded.flat_map(|t| t.iscsi.portals.iter().map(|portal| portal.listen.to_string())));
        match open.iter().find(|a| !is_loopback(a)) {
            None => Ok(()),
            Some(address) => Err(Failure::usage(format!("{address} can be reached from other machines"))
                .because("there nobody has to say who he is, so anybody could read and write your disks")
                .fix("listen on 127.0.0.1 or a unix socket, require TLS of NBD clients (--nbd-tls-dir), say which initiators may log in (--tap-acl, --tap-chap), or say --insecure if the network is yours alone")),
        }
    }
}

/// What protects the disks that images are committed to. Called on threads outside the runtime.
fn protector(tap: &Arc<Tap>) -> ProtectDisk {
    let (tap, runtime) = (Arc::downgrade(tap), tokio::runtime::Handle::current());
    Box::new(move |name, path, told| {
        let _inside = runtime.enter();
        let tap = tap.upgrade().ok_or("the tap has stopped")?;
        let what = Protect { name: name.clone(), path: path.to_owned() };
        tap.protect_as(&what, told).map(|volume| volume.uris).map_err(|e| e.to_string())
    })
}

fn addresses(listen: Vec<Listen>) -> Vec<ListenAddress> {
    listen.into_iter().map(|listen| listen.address).collect()
}

fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A script that waits for the file must not find an old one.
fn remove_stale(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Failure::new(
            ExitStatus::Error,
            format!("cannot remove the old ready file {}", path.display()),
        )
        .because(e.to_string())),
        _ => Ok(()),
    }
}

fn lock(data: &Path) -> Result<DirLock, Failure> {
    tap_disk::ensure_dir(data).map_err(|e| {
        Failure::new(ExitStatus::Error, format!("cannot use {} as data directory", data.display()))
            .because(e.to_string())
            .fix("name a directory that you may write to with --data")
    })?;
    DirLock::acquire(data).map_err(|e| match e {
        LockError::Held { .. } => Failure::new(ExitStatus::Conflict, e.to_string()),
        LockError::Io { .. } => Failure::new(ExitStatus::Error, e.to_string()),
    })
}

fn cannot_start(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(ExitStatus::Error, format!("{what} does not start")).because(error.to_string())
}

fn tap_does_not_start(error: &tap_agent::StartError) -> Failure {
    let exit = if error.is_in_use() { ExitStatus::Conflict } else { ExitStatus::Error };
    Failure { exit, ..cannot_start("the tap", error) }
}

/// A limit that is too small to be kept to is not taken as a larger one.
fn check_limit(wanted: u64, least: u64) -> Result<(), Failure> {
    if wanted >= least {
        return Ok(());
    }
    let what = format!("a journal of {} is too small", output::size(wanted));
    let why = format!(
        "the least possible is {}: the log, and what settling old history needs",
        output::size(least)
    );
    Err(Failure::usage(what)
        .because(why)
        .fix("give a larger --journal-limit, or none: then it takes what the disk has"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_loopback() {
        for yes in ["127.0.0.1:1", "[::1]:1", "localhost:1", "127.9.9.9:1"] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in ["0.0.0.0:1", "[::]:1", "example.org:1", "192.168.1.1:1", ":1"] {
            assert!(!is_loopback(no), "{no}");
        }
    }

    #[test]
    fn a_volume_is_ready_over_nbd_and_where_it_is_served_over_iscsi() {
        let uris =
            ["nbd+unix:///a?socket=/s", "nbd://h:1/a", "iscsi://h:2/t:a/1"].map(str::to_owned).to_vec();
        let volume = ReadyVolume::new(uris);
        assert_eq!(
            (volume.tap.as_str(), volume.iscsi.as_slice()),
            ("nbd+unix:///a?socket=/s", &["iscsi://h:2/t:a/1".to_owned()][..])
        );
        let nbd = serde_json::to_value(ReadyVolume::new(vec!["nbd://h:1/a".to_owned()])).unwrap();
        assert_eq!(nbd, serde_json::json!({ "tap": "nbd://h:1/a" }), "as it was before");
    }

    #[test]
    fn a_journal_limit_that_cannot_be_kept_is_refused() {
        let least = gateway_server::GatewayConfig::new("/nowhere".into()).store.least_limit();
        assert_eq!(least, 1 << 30);
        let failure = check_limit(least - 1, least).unwrap_err();
        assert!(failure.exit == ExitStatus::Usage && failure.why.contains("1 GiB"), "{failure:?}");
        assert_eq!(check_limit(least, least), Ok(()));
    }
}
