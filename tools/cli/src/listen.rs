//! How NBD listeners are set up: their addresses, TLS, and the file that says which client may open what.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use cx_api::ExitStatus;
use gateway_front::{Clients, Grant, Limits, ListenAddress, Pattern, Security, Tls};
use serde::Deserialize;

use crate::output::Failure;

/// What every program with an NBD listener takes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "NBD clients")]
pub(crate) struct NbdArgs {
    /// Whether NBD clients speak TLS: off, optional or required [default: required with --nbd-tls-dir, else off]
    #[arg(long, value_name = "MODE", value_parser = mode)]
    nbd_tls: Option<Tls>,
    /// The folder with ca-cert.pem, server-cert.pem and server-key.pem, as QEMU and libnbd name them; ca-crl.pem if there is one
    #[arg(long, value_name = "DIR")]
    nbd_tls_dir: Option<PathBuf>,
    /// Which clients get in under TLS: `ca` (each with a certificate of the CA), `anybody` (none is asked for), or the file that
    /// lists certificates and the exports they may open
    #[arg(long, value_name = "ca|anybody|FILE", default_value = "ca", requires = "nbd_tls_dir")]
    nbd_tls_clients: String,
    /// How long an NBD client may ask for nothing before it is hung up on [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = crate::verbs::parse_duration)]
    nbd_idle: Option<Duration>,
    /// How many NBD clients may be connected at once, at the gateway and at the tap each [default: 1024]
    #[arg(long, value_name = "N", value_parser = some)]
    nbd_connections: Option<usize>,
    /// How many of them to one export [default: 512]
    #[arg(long, value_name = "N", value_parser = some)]
    nbd_export_connections: Option<usize>,
}

/// An address to listen on, `,tls=MODE` behind it when it has a mode of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listen {
    pub(crate) address: ListenAddress,
    tls: Option<Tls>,
}

/// What the doors are made of, to make them anew when the files have changed.
#[derive(Debug, Clone, Default)]
pub(crate) struct DoorPlan {
    pub(crate) args: NbdArgs,
    pub(crate) gateway: Vec<Listen>,
    pub(crate) tap: Vec<Listen>,
}

/// What a front is started with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Door {
    pub(crate) limits: Limits,
    pub(crate) security: Security,
}

/// The file of clients.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientFile {
    #[serde(default)]
    client: Vec<Client>,
}

/// Exports as patterns, `*` for any run of characters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Client {
    /// Its common name or an alternative one, a pattern too.
    certificate: String,
    /// History and images, at the gateway.
    #[serde(default)]
    gateway: Vec<String>,
    /// Protected disks, at the tap.
    #[serde(default)]
    tap: Vec<String>,
}

impl DoorPlan {
    /// The gateway's door and the tap's.
    pub(crate) fn doors(&self) -> Result<(Door, Door), Failure> {
        let (of_gateway, of_tap) = self.args.clients()?;
        Ok((self.args.door(&self.gateway, of_gateway)?, self.args.door(&self.tap, of_tap)?))
    }
}

impl NbdArgs {
    /// Are there files that may change?
    pub(crate) const fn has_files(&self) -> bool {
        self.nbd_tls_dir.is_some()
    }

    fn limits(&self) -> Limits {
        let usual = Limits::default();
        let connections = self.nbd_connections.unwrap_or(usual.connections);
        let per_export = self.nbd_export_connections.unwrap_or(usual.per_export);
        Limits { idle: self.nbd_idle, connections, per_export, ..usual }
    }

    fn door(&self, listen: &[Listen], clients: Clients) -> Result<Door, Failure> {
        let limits = self.limits();
        let own = listen.iter().filter_map(|l| l.tls.map(|tls| (l, tls)));
        let Some(dir) = &self.nbd_tls_dir else {
            let wanted = listen.iter().map(|l| (l, l.tls.or(self.nbd_tls).unwrap_or_default()));
            let mut wanted = wanted.filter(|(_, tls)| *tls != Tls::Off);
            return match wanted.next() {
                None => Ok(Door { limits, ..Door::default() }),
                Some((listen, _)) => {
                    Err(Failure::usage(format!("{} is to have TLS, without certificates", listen.address))
                        .fix("say where they are with --nbd-tls-dir"))
                }
            };
        };
        let mode = self.nbd_tls.unwrap_or(Tls::Required);
        let security = Security::load(dir, mode, clients).map_err(|e| {
            Failure::new(ExitStatus::Error, "TLS cannot be switched on").because(e.to_string())
        })?;
        let security = own.fold(security, |all, (listen, tls)| all.except(listen.address.clone(), tls));
        Ok(Door { limits, security })
    }

    fn clients(&self) -> Result<(Clients, Clients), Failure> {
        match self.nbd_tls_clients.as_str() {
            // The default of clap, and that of the demonstration, which has no command line.
            "ca" | "" => Ok((Clients::Certified, Clients::Certified)),
            "anybody" => Ok((Clients::Anybody, Clients::Anybody)),
            file => read(Path::new(file)),
        }
    }
}

fn read(path: &Path) -> Result<(Clients, Clients), Failure> {
    let failed = |why: String| {
        Failure::new(ExitStatus::Error, format!("the list of clients {} cannot be used", path.display()))
            .because(why)
            .fix("write [[client]], certificate = \"NAME\", gateway = [\"EXPORT\"] and tap = [\"EXPORT\"] for each; `*` is any run of characters")
    };
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    parse(&text).map_err(failed)
}

fn parse(text: &str) -> Result<(Clients, Clients), String> {
    let file: ClientFile = toml::from_str(text).map_err(|e| e.message().to_owned())?;
    let listed = |exports: fn(&Client) -> &Vec<String>| {
        let grant = |client: &Client| Grant {
            certificate: Pattern::from(client.certificate.as_str()),
            exports: exports(client).iter().map(|e| Pattern::from(e.as_str())).collect(),
        };
        Clients::Listed(file.client.iter().map(grant).collect())
    };
    Ok((listed(|client| &client.gateway), listed(|client| &client.tap)))
}

fn some(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "give a whole number, 1 or more".to_owned())
}

fn mode(text: &str) -> Result<Tls, String> {
    match text {
        "off" => Ok(Tls::Off),
        "optional" => Ok(Tls::Optional),
        "required" => Ok(Tls::Required),
        _ => Err("TLS is off, optional or required".to_owned()),
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, tls) = match text.rsplit_once(",tls=") {
            Some((address, word)) => (address, Some(mode(word)?)),
            None => (text, None),
        };
        let address = address.parse().map_err(|e: gateway_front::AddressError| e.to_string())?;
        Ok(Self { address, tls })
    }
}

impl From<ListenAddress> for Listen {
    fn from(address: ListenAddress) -> Self {
        Self { address, tls: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_have_a_mode_of_its_own() {
        let listen: Listen = "127.0.0.1:10809,tls=optional".parse().unwrap();
        assert_eq!(
            (listen.address.to_string().as_str(), listen.tls),
            ("127.0.0.1:10809", Some(Tls::Optional))
        );
        let listen: Listen = "unix:/run/a,b.sock".parse().unwrap();
        assert_eq!((listen.address.to_string().as_str(), listen.tls), ("unix:/run/a,b.sock", None));
        for bad in ["127.0.0.1:1,tls=", "127.0.0.1:1,tls=on", ",tls=off", "nowhere"] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_list_of_clients_says_what_each_may_open_where() {
        let text = "[[client]]\ncertificate = \"backup\"\ngateway = [\"web01\", \"web01@*\"]\n\
                    [[client]]\ncertificate = \"*.hv.example\"\ntap = [\"web01\"]\n";
        let (gateway, tap) = parse(text).unwrap();
        let grant = |certificate: &str, exports: &[&str]| Grant {
            certificate: certificate.into(),
            exports: exports.iter().map(|e| (*e).into()).collect(),
        };
        let (none, both) = (&[][..], &["web01", "web01@*"][..]);
        assert_eq!(gateway, Clients::Listed([grant("backup", both), grant("*.hv.example", none)].into()));
        assert_eq!(tap, Clients::Listed([grant("backup", none), grant("*.hv.example", &["web01"])].into()));
        assert_eq!(parse("").unwrap().0, Clients::Listed([].into()));
        for bad in ["[[client]]", "[[client]]\ncertificate = \"a\"\nexports = [\"b\"]", "clients = []", "["] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_are_what_is_usual_unless_it_is_said() {
        let usual = NbdArgs::default().limits();
        assert_eq!((usual.connections, usual.per_export, usual.idle), (1024, 512, None));
        let args =
            NbdArgs { nbd_connections: Some(7), nbd_export_connections: Some(3), ..NbdArgs::default() };
        assert_eq!((args.limits().connections, args.limits().per_export), (7, 3));
        assert!(some("0").is_err() && some("many").is_err());
    }

    #[test]
    fn tls_needs_certificates() {
        let listen: Listen = "127.0.0.1:1,tls=required".parse().unwrap();
        let none = DoorPlan { gateway: vec![listen], ..DoorPlan::default() };
        assert_eq!(none.doors().unwrap_err().exit, ExitStatus::Usage);
        for (tls, is_right) in [(Tls::Off, true), (Tls::Optional, false)] {
            let args = NbdArgs { nbd_tls: Some(tls), ..NbdArgs::default() };
            let plan = DoorPlan { args, tap: vec!["unix:/s".parse().unwrap()], ..DoorPlan::default() };
            assert_eq!(plan.doors().is_ok(), is_right, "{tls:?}");
        }
        let args = NbdArgs { nbd_tls_dir: Some("/nonexistent".into()), ..NbdArgs::default() };
        let failure = DoorPlan { args, ..DoorPlan::default() }.doors().unwrap_err();
        assert!(failure.lines().contains("/nonexistent/server-cert.pem"), "{}", failure.lines());
    }
}
