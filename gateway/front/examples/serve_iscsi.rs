//! Serves a file as an iSCSI disk, until its standard input ends.
//!
//! `cargo run --release -p gateway-front --example serve_iscsi -- 127.0.0.1:3260 disk.img [OPTION...]`
//!
//! Options: `ro`, `4k`, `512e`, `keep=FILE` (reservations that survive a restart), `chap=USER:SECRET`,
//! `mutual=USER:SECRET`, `acl=IQN`, `beside=FILE` (another one as LUN 2).

use std::error::Error;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gateway_front::{ClientId, Front, IscsiLimits, Targets};
use gateway_iscsi::{
    Access, Admission, BlockLength, Credentials, Identity, LogicalUnit, Refusal, Target, TargetConfig,
};
use tap_disk::{FileDevice, FileOptions};

const NAME: &str = "iqn.2026-01.example.chronogate:file";

struct One {
    target: Arc<Target>,
    kept: Option<PathBuf>,
}

impl Targets for One {
    fn list(&self, _: &str, _: &ClientId) -> Vec<String> {
        vec![self.target.name().to_owned()]
    }

    fn open(&self, name: &str, _: &str, _: &ClientId) -> Result<Arc<Target>, Refusal> {
        if name == self.target.name() { Ok(self.target.clone()) } else { Err(Refusal::Unknown) }
    }

    fn keep(&self, _: &str, lun: u16, reservations: &[u8]) -> Result<(), String> {
        let Some(path) = self.kept.as_ref().filter(|_| lun == 1) else { return Ok(()) };
        std::fs::write(path, reservations).map_err(|e| format!("{}: {e}", path.display()))
    }

    fn discovery(&self) -> Access {
        self.target.admission().access.clone()
    }
}

#[derive(Default)]
struct Options {
    read_only: bool,
    long: bool,
    emulated: bool,
    kept: Option<PathBuf>,
    chap: Option<Credentials>,
    mutual: Option<Credentials>,
    initiators: Option<Vec<String>>,
    beside: Option<PathBuf>,
}

fn options(arguments: impl Iterator<Item = String>) -> Result<Options, Box<dyn Error>> {
    let mut options = Options::default();
    for argument in arguments {
        match argument.split_once('=').unwrap_or((&argument, "")) {
            ("ro", _) => options.read_only = true,
            ("4k", _) => options.long = true,
            ("512e", _) => options.emulated = true,
            ("keep", path) => options.kept = Some(path.into()),
            ("chap", text) => options.chap = Some(credentials(text)?),
            ("mutual", text) => options.mutual = Some(credentials(text)?),
            ("beside", path) => options.beside = Some(path.into()),
            ("acl", name) => options.initiators.get_or_insert_default().push(name.to_owned()),
            _ => return Err(format!("unknown option {argument}").into()),
        }
    }
    Ok(options)
}

fn credentials(text: &str) -> Result<Credentials, Box<dyn Error>> {
    let (name, secret) = text.split_once(':').ok_or("USER:SECRET")?;
    Ok(Credentials { name: name.to_owned(), secret: secret.into() })
}

fn unit(path: &Path, lun: u16, options: &Options) -> Result<Arc<LogicalUnit>, Box<dyn Error>> {
    let file = FileOptions { read_only: options.read_only, ..FileOptions::default() };
    let device = FileDevice::open(path, file)?;
    let identity = Identity {
        vendor: "CHRONOGT".to_owned(),
        product: "FILE".to_owned(),
        revision: "0001".to_owned(),
        serial: format!("serve-iscsi-{lun}"),
        naa: 0x6000_0000_0000_0000_0000_0000_0000_0000 | u128::from(lun),
        block: if options.long { BlockLength::Long } else { BlockLength::Short },
        emulated: options.emulated,
    };
    let kept = options
        .kept
        .as_ref()
        .filter(|_| lun == 1)
        .and_then(|path| std::fs::read(path).ok())
        .unwrap_or_default();
    Ok(LogicalUnit::new(identity, device, &kept).ok_or("the kept reservations are damaged")?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().ok_or("usage: serve_iscsi HOST:PORT FILE [OPTION...]")?.parse()?;
    let path = arguments.next().ok_or("usage: serve_iscsi HOST:PORT FILE [OPTION...]")?;
    let options = options(arguments)?;
    let mut units = vec![(1, unit(Path::new(&path), 1, &options)?)];
    if let Some(path) = &options.beside {
        units.push((2, unit(path, 2, &options)?));
    }
    let access = match options.chap {
        None => Access::Open,
        Some(initiator) => Access::Chap { initiator, target: options.mutual },
    };
    let target = Target::new(TargetConfig {
        name: NAME.to_owned(),
        alias: "a file".to_owned(),
        admission: Admission { access, initiators: options.initiators },
        units,
    });
    let targets = Arc::new(One { target, kept: options.kept });
    let front = Front::start_iscsi(&[address], targets, IscsiLimits::default())?;
    for uri in front.iscsi_uris(NAME, 1) {
        println!("{uri}");
    }
    std::io::stdin().read_to_end(&mut Vec::new())?;
    front.drain_and_stop(Duration::from_secs(5));
    Ok(())
}
