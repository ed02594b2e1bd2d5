//! `up`, `tap`, `cx` and `gateway`: their command lines, and their life until a signal ends it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use cx_api::ExitStatus;
use cx_link::Address;
use gateway_front::{ListenAddress, Portal};
use tap_agent::{GroupOf, ProfileTo, Protect};
use tap_block::Name;
use tokio::signal::unix::{SignalKind, signal};

use crate::listen::{Listen, NbdArgs};
use crate::output::{Failure, say};
use crate::site::{CxPlan, GatewayPlan, Plan, Ready, Site, TapPlan};
use crate::tap_iscsi::TapIscsi;

/// How often a group is marked unless it is said.
pub(crate) const EACH_SECOND: Duration = Duration::from_secs(1);

/// What every program takes.
#[derive(Debug, Args)]
struct Common {
    /// Where everything is kept
    #[arg(long, value_name = "DIR", default_value = "chronogate-data")]
    data: PathBuf,
    /// Written, as JSON, once everything listens
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Allow listeners that other machines can reach and where nobody has to say who he is: the API, links, and NBD without TLS and
    /// clients' certificates
    #[arg(long)]
    insecure: bool,
}

/// Of `up`.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    disks: Disks,
    #[command(flatten)]
    images: Images,
    #[command(flatten)]
    nbd: NbdArgs,
}

/// What a tap serves.
#[derive(Debug, Args)]
struct Disks {
    /// A file or block device to protect, under a name (repeatable)
    #[arg(long, value_name = "NAME=PATH", value_parser = parse_protect, required = true)]
    protect: Vec<Protect>,
    /// Where guests open the protected disks: unix:PATH or HOST:PORT, `,tls=MODE` behind it if it has its own (repeatable)
    /// [default: unix:DATA/tap.sock]
    #[arg(long, value_name = "ADDRESS", value_parser = Listen::from_str)]
    tap_nbd: Vec<Listen>,
    #[command(flatten)]
    tap_iscsi: TapIscsi,
    /// Protected disks that belong together, under a name: points of the group show all of them at one moment (repeatable)
    #[arg(long, value_name = "NAME=VOLUME,VOLUME", value_parser = parse_group)]
    group: Vec<GroupOf>,
    /// How often a group that was written to gets such a point
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_interval)]
    group_interval: Duration,
    /// Tells `chronogate-analyzer` what guests do, with samples of what they write: a file, or unix:PATH, where `record --tap`
    /// reads it. No write waits for it
    #[arg(long, value_name = "PATH")]
    profile: Option<ProfileTo>,
}

/// What a gateway serves.
#[derive(Debug, Args)]
struct Images {
    /// Where history is served over NBD: unix:PATH or HOST:PORT, `,tls=MODE` behind it if it has its own (repeatable)
    /// [default: unix:DATA/nbd.sock and 127.0.0.1:10809]
    #[arg(long, value_name = "ADDRESS", value_parser = Listen::from_str)]
    nbd: Vec<Listen>,
    /// Where history is served over iSCSI (repeatable), `,advertise=HOST:PORT` behind it if initiators are to be told of another
    /// address; those on other machines may open exports with access rules only [default: nowhere]
    #[arg(long, value_name = "HOST:PORT")]
    iscsi: Vec<Portal>,
    /// Where the HTTP API listens
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7070")]
    api: SocketAddr,
    /// Bytes the journal may take, such as 500G; at the limit policies say what happens [default: what the disk has]
    #[arg(long, value_name = "SIZE", value_parser = crate::verbs::parse_size)]
    journal_limit: Option<u64>,
    /// How much of the journal the scrub reads and checks each second; all of it is read every ten minutes at most; 0: there is none [default: 16M]
    #[arg(long, value_name = "SIZE", value_parser = crate::verbs::parse_size)]
    scrub_rate: Option<u64>,
    /// History that is so old, and that no image has read for two days, is compressed more (zstd over 64 KiB), which makes
    /// reading it slower; `never`: none is [default: 7d]
    #[arg(long, value_name = "AGE", value_parser = crate::verbs::parse_pack_after)]
    pack_after: Option<crate::verbs::PackAfter>,
    /// Where the hooks lie that policies may name [default: DATA/gateway/hooks]
    #[arg(long, value_name = "DIR")]
    hooks: Option<PathBuf>,
}

/// Of `tap`.
#[derive(Debug, Args)]
pub(crate) struct TapArgs {
    #[command(flatten)]
    common: Common,
    /// The CX to send to
    #[arg(long, value_name = "HOST:PORT", value_parser = Address::from_str)]
    cx: Address,
    #[command(flatten)]
    disks: Disks,
    #[command(flatten)]
    nbd: NbdArgs,
}

/// Of `cx`.
#[derive(Debug, Args)]
pub(crate) struct CxArgs {
    #[command(flatten)]
    common: Common,
    /// Where taps connect (repeatable)
    #[arg(long, value_name = "HOST:PORT", value_parser = Address::from_str, default_value = "127.0.0.1:7071")]
    listen: Vec<Address>,
    /// A gateway to forward to, optionally with a name (repeatable)
    #[arg(long, value_name = "[NAME=]HOST:PORT", value_parser = parse_gateway, required = true)]
    gateway: Vec<(String, Address)>,
}

/// Of `gateway`.
#[derive(Debug, Args)]
pub(crate) struct GatewayArgs {
    #[command(flatten)]
    common: Common,
    /// Where CXs connect (repeatable)
    #[arg(long, value_name = "HOST:PORT", value_parser = Address::from_str, default_value = "127.0.0.1:7072")]
    listen: Vec<Address>,
    /// Where volumes that images were committed to are used: unix:PATH or HOST:PORT (repeatable) [default: unix:DATA/tap.sock]
    #[arg(long, value_name = "ADDRESS", value_parser = Listen::from_str)]
    tap_nbd: Vec<Listen>,
    #[command(flatten)]
    tap_iscsi: TapIscsi,
    #[command(flatten)]
    images: Images,
    #[command(flatten)]
    nbd: NbdArgs,
}

impl UpArgs {
    pub(crate) fn into_plan(self) -> Plan {
        let (to_cx, to_gateway) = (Address::Memory("cx".to_owned()), Address::Memory("gateway".to_owned()));
        let data = &self.common.data;
        let cx =
            CxPlan { listen: vec![to_cx.clone()], gateways: vec![("local".to_owned(), to_gateway.clone())] };
        Plan {
            gateway: Some(self.images.into_plan(data, vec![to_gateway])),
            cx: Some(cx),
            tap: Some(self.disks.into_plan(data, to_cx)),
            nbd: self.nbd,
            ..self.common.into_plan()
        }
    }
}

impl TapArgs {
    pub(crate) fn into_plan(self) -> Plan {
        let tap = Some(self.disks.into_plan(&self.common.data, self.cx));
        Plan { tap, nbd: self.nbd, ..self.common.into_plan() }
    }
}

impl CxArgs {
    pub(crate) fn into_plan(self) -> Plan {
        let cx = CxPlan { listen: self.listen, gateways: self.gateway };
        Plan { cx: Some(cx), ..self.common.into_plan() }
    }
}

impl GatewayArgs {
    pub(crate) fn into_plan(self) -> Plan {
        // Its own tap sends to it without a way round.
        let own = Address::Memory("gateway".to_owned());
        let data = &self.common.data;
        let links = self.listen.into_iter().chain([own.clone()]).collect();
        let (protect, group, group_interval) = (Vec::new(), Vec::new(), EACH_SECOND);
        let Self { tap_nbd, tap_iscsi, .. } = self;
        let disks = Disks { protect, tap_nbd, tap_iscsi, group, group_interval, profile: None };
        Plan {
            gateway: Some(self.images.into_plan(data, links)),
            tap: Some(disks.into_plan(data, own)),
            nbd: self.nbd,
            ..self.common.into_plan()
        }
    }
}

impl Common {
    fn into_plan(self) -> Plan {
        Plan { data: self.data, ready_file: self.ready_file, insecure: self.insecure, ..Plan::default() }
    }
}

impl Disks {
    fn into_plan(self, data: &std::path::Path, cx: Address) -> TapPlan {
        let nbd = match self.tap_nbd.is_empty() {
            true => vec![ListenAddress::Unix(data.join("tap.sock")).into()],
            false => self.tap_nbd,
        };
        let Self { tap_iscsi: iscsi, protect, group: groups, group_interval, profile, .. } = self;
        TapPlan { cx, nbd, iscsi, protect, groups, group_interval, profile }
    }
}

impl Images {
    fn into_plan(self, data: &std::path::Path, links: Vec<Address>) -> GatewayPlan {
        let nbd = match self.nbd.is_empty() {
            true => vec![
                ListenAddress::Unix(data.join("nbd.sock")).into(),
                ListenAddress::Tcp("127.0.0.1:10809".to_owned()).into(),
            ],
            false => self.nbd,
        };
        let Self { iscsi, journal_limit, scrub_rate, pack_after, hooks, .. } = self;
        GatewayPlan { links, nbd, iscsi, api: Some(self.api), journal_limit, scrub_rate, pack_after, hooks }
    }
}

/// Runs what the plan says until SIGTERM or SIGINT, then drains. A second signal ends at once.
pub(crate) fn run(plan: Plan) -> Result<(), Failure> {
    log_to_stderr();
    raise_open_files();
    runtime()?.block_on(async {
        let mut signals = Signals::new()?;
        let mut hangups = Hangups::new(&plan.nbd)?;
        let ready_file = plan.ready_file.clone();
        let (site, ready) = Site::start(plan).await?;
        if let Some(path) = &ready_file
            && let Err(failure) = announce(path, &ready)
        {
            site.stop().await;
            return Err(failure);
        }
        say(&described(&ready));
        tokio::select! {
            () = hangups.each(|| site.secure_anew()) => {}
            () = signals.next() => {}
        }
        signals.stop(site.stop()).await
    })
}

/// Each NBD connection takes a few open files, and what a shell allows at first is less than the connections that we do.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "no more files can be opened than {:?}", limit.current);
    }
}

/// The runtime of a program with parts in it.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::internal(format!("no runtime can be started: {e}")))
}

/// Log lines for people, on standard error; `CHRONOGATE_LOG` chooses which (default: info).
pub(crate) fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("CHRONOGATE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // A second call (never made) would only mean that somebody logs already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A line that cannot be written, for want of room, would be reported with a panic of whoever logs.
        .log_internal_errors(false)
        .with_target(false)
        .try_init();
}

/// The two signals that ask for a stop.
pub(crate) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// From now on they no longer end the process.
    pub(crate) fn new() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|e| Failure::internal(format!("signals cannot be caught: {e}")));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Waits for one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for one, then stops; another one meanwhile ends the process at once, which loses nothing acknowledged.
    pub(crate) async fn stop_at_next(&mut self, stop: impl Future<Output = ()>) -> Result<(), Failure> {
        self.next().await;
        self.stop(stop).await
    }

    async fn stop(&mut self, stop: impl Future<Output = ()>) -> Result<(), Failure> {
        say("stopping: draining what is under way; once more to end at once\n");
        tokio::select! {
            () = stop => Ok(()),
            () = self.next() => Err(Failure::new(ExitStatus::Error, "ended before everything was drained")
                .because("a second signal came")
                .fix("the next start copies what was under way again")),
        }
    }
}

/// SIGHUP, which says that certificates have changed; where there are none it ends the process as ever.
struct Hangups(Option<tokio::signal::unix::Signal>);

impl Hangups {
    fn new(nbd: &NbdArgs) -> Result<Self, Failure> {
        let listen = || signal(SignalKind::hangup());
        let caught = nbd.has_files().then(listen).transpose();
        caught.map(Self).map_err(|e| Failure::internal(format!("signals cannot be caught: {e}")))
    }

    /// Does this at each, for ever.
    async fn each(&mut self, renew: impl Fn()) {
        match &mut self.0 {
            Some(hangups) => {
                while hangups.recv().await.is_some() {
                    tokio::task::block_in_place(&renew);
                }
            }
            None => std::future::pending().await,
        }
    }
}

fn announce(path: &std::path::Path, ready: &Ready) -> Result<(), Failure> {
    let text = serde_json::to_vec_pretty(ready).map_err(|e| Failure::internal(e.to_string()))?;
    tap_disk::small_file::write_atomic(path, &text).map_err(|e| {
        Failure::new(ExitStatus::Error, format!("cannot write the ready file {}", path.display()))
            .because(e.to_string())
    })
}

fn described(ready: &Ready) -> String {
    let mut text = String::from("ready\n");
    for (name, volume) in &ready.volumes {
        text += &format!("  {name} is protected; use it at  {}\n", volume.tap);
        for uri in &volume.iscsi {
            text += &format!("                           or  {uri}\n");
        }
    }
    for uri in &ready.nbd {
        text += &format!("  history is served at          {uri}\n");
    }
    for portal in &ready.iscsi {
        text += &format!("  iSCSI portal                  {portal}\n");
    }
    for link in &ready.links {
        text += &format!("  link                          {link}\n");
    }
    if let Some(api) = &ready.api {
        text += &format!("  API                           {api}\n");
    }
    text
}

fn parse_protect(text: &str) -> Result<Protect, String> {
    let (name, path) = text.split_once('=').ok_or("give NAME=PATH, for example web01=./web01.img")?;
    let name = name.parse().map_err(|e: tap_block::NameError| e.to_string())?;
    if path.is_empty() {
        return Err("the path is missing: give NAME=PATH".to_owned());
    }
    Ok(Protect { name, path: path.into() })
}

fn parse_group(text: &str) -> Result<GroupOf, String> {
    let (name, members) =
        text.split_once('=').ok_or("give NAME=VOLUME,VOLUME, for example db=data01,log01")?;
    let named = |text: &str| text.parse::<Name>().map_err(|e| e.to_string());
    let members = members.split(',').map(named).collect::<Result<_, _>>()?;
    Ok(GroupOf { name: named(name)?, members })
}

/// A barrier costs a record in each member's stream.
fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = crate::verbs::parse_duration(text)?;
    let least = Duration::from_millis(100);
    if interval < least {
        Err("give 100ms or more: each barrier costs a record in every member and a mark that gateways keep"
            .to_owned())
    } else {
        Ok(interval)
    }
}

fn parse_gateway(text: &str) -> Result<(String, Address), String> {
    let (name, address) = text.split_once('=').unwrap_or((text, text));
    Ok((name.to_owned(), address.parse().map_err(|e: cx_link::AddressError| e.to_string())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protect_needs_a_name_and_a_path() {
        let p = parse_protect("web01=./a=b.img").unwrap();
        assert_eq!((p.name.as_str(), p.path.to_str().unwrap()), ("web01", "./a=b.img"));
        for bad in ["web01", "=x", "web01=", "a b=x", "now=x"] {
            assert!(parse_protect(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_group_has_a_name_and_members() {
        let group = parse_group("db=data01,log01").unwrap();
        let members: Vec<&str> = group.members.iter().map(Name::as_str).collect();
        assert_eq!((group.name.as_str(), members), ("db", vec!["data01", "log01"]));
        for bad in ["db", "db=", "=a,b", "db=a,,b", "now=a,b", "db=a b,c"] {
            assert!(parse_group(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_interval("250ms"), Ok(Duration::from_millis(250)));
        assert!(parse_interval("99ms").is_err() && parse_interval("100ms").is_ok());
    }

    #[test]
    fn a_gateway_may_have_a_name() {
        assert_eq!(parse_gateway("dr=127.0.0.1:1").unwrap().0, "dr");
        assert_eq!(parse_gateway("127.0.0.1:1").unwrap().0, "127.0.0.1:1");
        assert!(parse_gateway("dr=").is_err());
    }
}
