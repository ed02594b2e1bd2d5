//! The main job on a sample disk, step by step: protect it, write to it, damage it, turn the dial back, read the old
//! moment over NBD. Reads and writes with the `nbd` crate's client, which shares no code with our server.

use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use cx_api::{BookmarkCreate, BookmarkView, ExitStatus, VolumeView, paths};
use cx_link::Address;
use gateway_front::ListenAddress;
use tap_agent::Protect;
use tap_block::{Consistency, Name};

use crate::client::Client;
use crate::listen::NbdArgs;
use crate::output::{Failure, print};
use crate::programs::{Signals, log_to_stderr, runtime};
use crate::site::{CxPlan, GatewayPlan, Plan, Ready, Site, TapPlan};

const VOLUME: &str = "web01";
const DISK_BYTES: u64 = 64 << 20;
/// Where the demonstration writes: a block somewhere in the middle.
const SPOT: u64 = 20 << 20;
const SECTOR: usize = 4096;
const GOOD: &str = "Ledger, page 1: every account balances.";
const BAD: &str = "ALL YOUR FILES ARE ENCRYPTED";

/// Of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Where to keep the sample disk and its history [default: a new directory for temporary files, removed at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// End after the last step instead of staying up
    #[arg(long)]
    once: bool,
}

/// Runs it until a signal comes.
pub(crate) fn run(args: DemoArgs) -> Result<(), Failure> {
    if std::env::var_os("CHRONOGATE_LOG").is_some() {
        log_to_stderr();
    }
    let temporary = args.data.is_none();
    let dir = args
        .data
        .unwrap_or_else(|| std::env::temp_dir().join(format!("chronogate-demo-{}", std::process::id())));
    let done = runtime()?.block_on(perform(&dir, args.once));
    if temporary && let Err(e) = std::fs::remove_dir_all(&dir) {
        tracing::warn!("cannot remove {}: {e}", dir.display());
    }
    done
}

async fn perform(dir: &Path, once: bool) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    tap_disk::ensure_dir(dir).map_err(|e| broken("making the demo's directory", &e))?;
    let dir = dir.canonicalize().map_err(|e| broken("finding the demo's directory", &e))?;
    let disk = sample_disk(&dir)?;
    step(1, &format!("A sample disk of 64 MiB: {}", disk.display()))?;
    let (site, ready) = Site::start(plan(&dir, disk)?).await?;
    let shown = tokio::select! {
        shown = show(&dir, &ready) => shown,
        () = signals.next() => Err(Failure::new(ExitStatus::Error, "the demonstration was interrupted")),
    };
    if shown.is_err() || once {
        site.stop().await;
        return shown;
    }
    print(&stays_up(&ready))?;
    signals.stop_at_next(site.stop()).await
}

async fn show(dir: &Path, ready: &Ready) -> Result<(), Failure> {
    let (tap, gateway) = (dir.join("tap.sock"), dir.join("nbd.sock"));
    let client = Client::new(ready.api.as_deref().unwrap_or_default())?;
    let mut volume: VolumeView = client.get(&paths::volume(VOLUME)).await?;
    while volume.state != cx_api::VolumeState::Protected {
        tokio::time::sleep(Duration::from_millis(50)).await;
        volume = client.get(&paths::volume(VOLUME)).await?;
    }
    step(2, "Protected: its guest uses it through the tap, and every write goes to history as well")?;
    put(&tap, GOOD).await?;
    step(3, &format!("The guest writes:  {GOOD:?}"))?;
    let before = bookmark(&client, "before-the-attack").await?;
    step(4, &format!("A bookmark, {:?}, at {} ({})", before.name, before.time, lsn(&before)))?;
    put(&tap, BAD).await?;
    let after = bookmark(&client, "after-the-attack").await?;
    step(5, &format!("The disk is damaged: {:?}", get(&tap, VOLUME).await?))?;
    expect(&get(&gateway, &format!("{VOLUME}@after-the-attack")).await?, BAD)?;
    let old = get(&gateway, &format!("{VOLUME}@before-the-attack")).await?;
    expect(&old, GOOD)?;
    step(6, &format!("The dial turned back to the bookmark, read over NBD: {old:?}"))?;
    let one_earlier = format!("{VOLUME}@lsn:{}", after.lsn.get().saturating_sub(2));
    let old = get(&gateway, &one_earlier).await?;
    expect(&old, GOOD)?;
    step(7, &format!("No bookmark is needed. The write before the damage, {one_earlier}: {old:?}"))
}

fn plan(dir: &Path, disk: PathBuf) -> Result<Plan, Failure> {
    let name: Name = VOLUME.parse().map_err(|e: tap_block::NameError| Failure::internal(e.to_string()))?;
    let (to_cx, to_gateway) = (Address::Memory("cx".to_owned()), Address::Memory("gateway".to_owned()));
    let unix = |file: &str| ListenAddress::Unix(dir.join(file));
    let nbd = vec![unix("nbd.sock").into(), ListenAddress::Tcp(free_or_any(10_809).to_string()).into()];
    Ok(Plan {
        data: dir.join("data"),
        gateway: Some(GatewayPlan {
            links: vec![to_gateway.clone()],
            nbd,
            iscsi: Vec::new(),
            api: Some(free_or_any(7070)),
            journal_limit: None,
            scrub_rate: None,
            pack_after: None,
            hooks: None,
        }),
        cx: Some(CxPlan { listen: vec![to_cx.clone()], gateways: vec![("local".to_owned(), to_gateway)] }),
        tap: Some(TapPlan {
            cx: to_cx,
            nbd: vec![unix("tap.sock").into()],
            iscsi: crate::tap_iscsi::TapIscsi::default(),
            protect: vec![Protect { name, path: disk }],
            groups: Vec::new(),
            group_interval: crate::programs::EACH_SECOND,
            profile: None,
        }),
        ready_file: None,
        nbd: NbdArgs::default(),
        insecure: false,
    })
}

/// The usual port if it is free, else any: the demonstration runs beside a real gateway.
fn free_or_any(port: u16) -> SocketAddr {
    let usual = SocketAddr::from(([127, 0, 0, 1], port));
    let free = TcpListener::bind(usual).is_ok();
    if free { usual } else { SocketAddr::from(([127, 0, 0, 1], 0)) }
}

fn sample_disk(dir: &Path) -> Result<PathBuf, Failure> {
    let path = dir.join("web01.img");
    let made = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let made = made.and_then(|mut file| {
        file.set_len(DISK_BYTES)?;
        file.seek(SeekFrom::Start(1 << 20))?;
        file.write_all(&b"This was on the disk before it was protected. ".repeat(1000))
    });
    made.map_err(|e| broken("making the sample disk", &e))?;
    Ok(path)
}

async fn bookmark(client: &Client, name: &str) -> Result<BookmarkView, Failure> {
    let name = name.parse().map_err(|e: tap_block::NameError| Failure::internal(e.to_string()))?;
    let body = BookmarkCreate {
        name,
        consistency: Consistency::Crash,
        note: "made by the demo".to_owned(),
        wait_seconds: 60,
    };
    client.post(&paths::bookmarks(VOLUME), &body).await
}

fn lsn(bookmark: &BookmarkView) -> String {
    format!("lsn:{}", bookmark.lsn.get())
}

/// Writes `text` to the sample disk, as its guest.
async fn put(socket: &Path, text: &str) -> Result<(), Failure> {
    let (socket, mut sector) = (socket.to_owned(), text.as_bytes().to_vec());
    sector.resize(SECTOR, 0);
    with_disk(socket, VOLUME.to_owned(), move |disk| disk.write_all(&sector).map(|()| String::new()))
        .await
        .map(drop)
}

/// Reads the text at the same spot of `export`.
async fn get(socket: &Path, export: &str) -> Result<String, Failure> {
    let read = |disk: &mut nbd::client::NbdClient<UnixStream>| {
        let mut sector = vec![0; SECTOR];
        disk.read_exact(&mut sector)?;
        let end = sector.iter().position(|&b| b == 0).unwrap_or(SECTOR);
        sector.truncate(end);
        Ok(String::from_utf8_lossy(&sector).into_owned())
    };
    with_disk(socket.to_owned(), export.to_owned(), read).await
}

/// Runs `act` on an export, at the demonstration's spot.
async fn with_disk(
    socket: PathBuf,
    export: String,
    act: impl FnOnce(&mut nbd::client::NbdClient<UnixStream>) -> std::io::Result<String> + Send + 'static,
) -> Result<String, Failure> {
    let name = export.clone();
    let done = tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(socket)?;
        let export = nbd::client::handshake(&mut stream, export.as_bytes())?;
        let mut disk = nbd::client::NbdClient::new(stream, &export);
        disk.seek(SeekFrom::Start(SPOT))?;
        act(&mut disk)
    });
    match done.await {
        Ok(done) => done.map_err(|e| broken(&format!("using {name} over NBD"), &e)),
        Err(e) => Err(Failure::internal(e.to_string())),
    }
}

fn expect(found: &str, wanted: &str) -> Result<(), Failure> {
    if found == wanted {
        return Ok(());
    }
    Err(Failure::internal(format!("the image shows {found:?} where {wanted:?} was written")))
}

fn step(no: u32, text: &str) -> Result<(), Failure> {
    print(&format!("{no}. {text}\n"))
}

fn stays_up(ready: &Ready) -> String {
    let mut text = String::from("\nEverything stays up until Ctrl-C. Try it yourself:\n");
    for volume in ready.volumes.values() {
        text += &format!("  write to the disk   {}\n", volume.tap);
    }
    for base in &ready.nbd {
        let old = match base.split_once('?') {
            Some((root, socket)) => format!("{root}{VOLUME}@before-the-attack?{socket}"),
            None => format!("{base}{VOLUME}@before-the-attack"),
        };
        text += &format!("  mount the past      {old}\n");
    }
    if let Some(api) = &ready.api {
        text += &format!("  ask the API         chronogate volume show {VOLUME} --api {api}\n");
    }
    text
}

fn broken(doing: &str, error: &std::io::Error) -> Failure {
    Failure::new(ExitStatus::Error, format!("{doing} failed")).because(error.to_string())
}
