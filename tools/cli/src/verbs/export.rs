//! `chronogate export`, and what `mount --iscsi` has of it.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use cx_api::export::MAX_LUN;
use cx_api::{ChapLogin, ConnectView, ExportAccess, ExportCreate, ExportProtocol, ExportView, paths};
use serde_json::json;

use super::{Context, Globals, Result};
use crate::output::{self, Failure, or_dash, print, print_json, say};
use crate::secret::secret;

/// Of `export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: ExportCommand,
}

#[derive(Debug, Subcommand)]
enum ExportCommand {
    /// Exports an image over iSCSI, with rules of who may log in
    Create {
        /// Its id or name
        image: String,
        /// Over iSCSI
        #[arg(long, required = true)]
        iscsi: bool,
        #[command(flatten)]
        rules: RuleArgs,
    },
    /// Lists every export
    Ls,
    /// Shows one
    Show {
        /// Its image's id or name
        image: String,
    },
    /// Changes who may log in. Initiators that are not on the list any more are logged out at once; a new secret is asked for at
    /// the next login
    Set {
        /// Its image's id or name
        image: String,
        #[command(flatten)]
        access: AccessArgs,
    },
    /// Prints what to type at open-iscsi, ESXi, Windows, XCP-ng and QEMU to open it
    Connect {
        /// Its image's id or name
        image: String,
        /// How clients reach the gateway: HOST or HOST:PORT [default: its first portal]
        #[arg(long, value_name = "HOST:PORT")]
        portal: Option<String>,
    },
    /// Takes an export back; the image stays
    Rm {
        /// Its image's id or name
        image: String,
        /// End the sessions at it as well; an image that is gone already is no error then
        #[arg(long)]
        force: bool,
    },
}

/// The rules of an export.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "iSCSI")]
pub(super) struct RuleArgs {
    /// The number of its disk, the same for ever [default: 1]
    #[arg(long, value_name = "N", requires = "iscsi", value_parser = clap::value_parser!(u16).range(..=i64::from(MAX_LUN)))]
    lun: Option<u16>,
    /// The name of an initiator that may log in, for example iqn.1998-01.com.vmware:esx1 (repeatable) [default: any]
    #[arg(long, value_name = "IQN", requires = "iscsi")]
    acl: Vec<String>,
    /// Initiators have to log in by CHAP with this name, and with the secret in --chap-secret-file, else in the variable
    /// CHRONOGATE_CHAP_SECRET, else on standard input
    #[arg(long, value_name = "USER", requires = "iscsi")]
    chap: Option<String>,
    /// A file that holds the CHAP secret, 12 to 255 characters; `-`: a line of standard input
    #[arg(long, value_name = "FILE", requires = "chap")]
    chap_secret_file: Option<PathBuf>,
    /// The target proves to initiators that want it who it is, with this name, and with the secret in --mutual-chap-secret-file,
    /// else in the variable CHRONOGATE_MUTUAL_CHAP_SECRET, else on (the next line of) standard input
    #[arg(long, value_name = "USER", requires = "chap")]
    mutual_chap: Option<String>,
    /// A file that holds that secret; `-`: a line of standard input
    #[arg(long, value_name = "FILE", requires = "mutual_chap")]
    mutual_chap_secret_file: Option<PathBuf>,
    /// The disk has the identity of the original, to stand in for it; the original must not be seen by the same machine
    #[arg(long, requires = "iscsi")]
    as_original: bool,
    /// It becomes a further disk of the target of this export, and is reached by that one's rules
    #[arg(long, value_name = "EXPORT", requires = "iscsi", conflicts_with_all = ["acl", "chap"])]
    beside: Option<String>,
}

/// What is to be changed of who may log in.
#[derive(Debug, Default, Args)]
struct AccessArgs {
    /// The name of an initiator that may log in, in place of those that could so far (repeatable)
    #[arg(long, value_name = "IQN")]
    acl: Vec<String>,
    /// Any initiator may, whatever its name
    #[arg(long, conflicts_with = "acl")]
    any_initiator: bool,
    /// Initiators have to log in by CHAP with this name, and with the secret in --chap-secret-file, else in the variable
    /// CHRONOGATE_CHAP_SECRET, else on standard input
    #[arg(long, value_name = "USER")]
    chap: Option<String>,
    /// A file that holds the CHAP secret, 12 to 255 characters; `-`: a line of standard input
    #[arg(long, value_name = "FILE", requires = "chap")]
    chap_secret_file: Option<PathBuf>,
    /// They need to know no secret any more
    #[arg(long, conflicts_with_all = ["chap", "mutual_chap"])]
    no_chap: bool,
    /// The target proves to initiators that want it who it is, with this name, and with the secret in --mutual-chap-secret-file,
    /// else in the variable CHRONOGATE_MUTUAL_CHAP_SECRET, else on (the next line of) standard input
    #[arg(long, value_name = "USER")]
    mutual_chap: Option<String>,
    /// A file that holds that secret; `-`: a line of standard input
    #[arg(long, value_name = "FILE", requires = "mutual_chap")]
    mutual_chap_secret_file: Option<PathBuf>,
    /// It proves that no more
    #[arg(long, conflicts_with = "mutual_chap")]
    no_mutual_chap: bool,
}

/// What is to be asked of the gateway, with its secrets; for an image that there may not be yet.
pub(super) struct Asked(ExportCreate);

impl RuleArgs {
    /// Was any said?
    pub(super) fn is_any(&self) -> bool {
        self.lun.is_some()
            || !self.acl.is_empty()
            || self.chap.is_some()
            || self.as_original
            || self.beside.is_some()
    }

    /// Reads the secrets.
    ///
    /// # Errors
    /// When one cannot be read.
    pub(super) fn read(self) -> Result<Asked> {
        let (chap, mutual_chap) =
            logins((self.chap, self.chap_secret_file), (self.mutual_chap, self.mutual_chap_secret_file))?;
        Ok(Asked(ExportCreate {
            image: String::new(),
            protocol: ExportProtocol::Iscsi,
            lun: self.lun,
            acl: self.acl,
            chap,
            mutual_chap,
            as_original: self.as_original,
            beside: self.beside,
        }))
    }
}

impl AccessArgs {
    fn read(self) -> Result<ExportAccess> {
        let (chap, mutual_chap) =
            logins((self.chap, self.chap_secret_file), (self.mutual_chap, self.mutual_chap_secret_file))?;
        let acl = (self.any_initiator || !self.acl.is_empty()).then_some(self.acl);
        let Self { no_chap, no_mutual_chap, .. } = self;
        Ok(ExportAccess { acl, chap, mutual_chap, no_chap, no_mutual_chap })
    }
}

/// A CHAP name and the file with its secret.
type Named = (Option<String>, Option<PathBuf>);

/// Reads the secrets, that of the initiator first.
fn logins(chap: Named, mutual: Named) -> Result<(Option<ChapLogin>, Option<ChapLogin>)> {
    let login = |(user, file): Named, variable: &str, option: &str| {
        let Some(user) = user else { return Ok(None) };
        let secret = secret(file.as_deref(), variable, option)?;
        Ok::<_, Failure>(Some(ChapLogin { user, secret }))
    };
    let chap = login(chap, "CHRONOGATE_CHAP_SECRET", "--chap-secret-file")?;
    Ok((chap, login(mutual, "CHRONOGATE_MUTUAL_CHAP_SECRET", "--mutual-chap-secret-file")?))
}

/// Exports an image.
///
/// # Errors
/// What the gateway has against it.
pub(super) async fn create(context: &Context, image: &str, Asked(asked): Asked) -> Result<ExportView> {
    let export: ExportView =
        context.client.post(paths::EXPORTS, &ExportCreate { image: image.to_owned(), ..asked }).await?;
    if export.as_original && io::stderr().is_terminal() {
        say("it passes for the original: no machine may see both at the same time\n");
    }
    Ok(export)
}

pub(super) async fn run(args: ExportArgs) -> Result<()> {
    let context = Context::new(&args.globals)?;
    match args.command {
        ExportCommand::Create { image, rules, .. } => {
            let export = create(&context, &image, rules.read()?).await?;
            if context.json() { print_json(&export) } else { print(&details(&export)) }
        }
        ExportCommand::Ls => {
            let exports: Vec<ExportView> = context.all(paths::EXPORTS).await?;
            if context.json() { print_json(&exports) } else { print(&list(&exports)) }
        }
        ExportCommand::Show { image } => {
            let export: ExportView = context.client.get(&paths::export(&image)).await?;
            if context.json() { print_json(&export) } else { print(&details(&export)) }
        }
        ExportCommand::Set { image, access } => {
            let path = paths::export_access(&image);
            let export: ExportView = context.client.post(&path, &access.read()?).await?;
            if context.json() { print_json(&export) } else { print(&details(&export)) }
        }
        ExportCommand::Connect { image, portal } => {
            let path = paths::export_connect(&image, portal.as_deref());
            let view: ConnectView = context.client.get(&path).await?;
            if context.json() { print_json(&view) } else { print(&connect(&view)) }
        }
        ExportCommand::Rm { image, force } => {
            let path = if force { paths::export_forced(&image) } else { paths::export(&image) };
            context.client.delete(&path).await?;
            if context.json() {
                return print_json(&json!({ "removed": image }));
            }
            print(&format!("{} is not exported any more\n", output::printable(&image)))
        }
    }
}

fn list(exports: &[ExportView]) -> String {
    let rows: Vec<_> = exports
        .iter()
        .map(|e| {
            [
                e.image.to_string(),
                e.name.to_string(),
                e.lun.to_string(),
                mode(e).to_owned(),
                initiators(e),
                or_dash(e.chap_user.clone()),
                identity(e).to_owned(),
                e.sessions.to_string(),
                if e.problem.is_some() { "nobody can log in".to_owned() } else { uri(e) },
            ]
        })
        .collect();
    output::table(["ID", "NAME", "LUN", "MODE", "INITIATORS", "CHAP", "IDENTITY", "SESSIONS", "URI"], &rows)
}

fn details(export: &ExportView) -> String {
    let mut rows = vec![
        ("image", format!("{} ({})", export.name, export.image)),
        ("volume", export.volume.to_string()),
        ("target", export.target.clone()),
        ("lun", export.lun.to_string()),
        ("mode", mode(export).to_owned()),
        ("initiators", initiators(export)),
        ("chap", or_dash(export.chap_user.clone())),
        ("mutual chap", or_dash(export.mutual_chap_user.clone())),
        ("identity", identity(export).to_owned()),
        ("naa", export.naa.clone()),
        ("serial", export.serial.clone()),
        ("sessions", export.sessions.to_string()),
        ("uri", uri(export)),
    ];
    rows.extend(export.problem.clone().map(|problem| ("problem", problem)));
    output::fields(&rows)
}

fn connect(view: &ConnectView) -> String {
    let mut text = String::new();
    for client in &view.clients {
        let tried = if client.tried { "" } else { " (not tried: written after the vendor's documentation)" };
        text += &format!("# {}{tried}\n", output::printable(&client.client));
        text.extend(client.lines.iter().map(|line| format!("{}\n", output::printable(line))));
        text.extend(client.notes.iter().map(|note| format!("#   {}\n", output::printable(note))));
        text.push('\n');
    }
    if view.portal.starts_with("127.") || view.portal.starts_with("[::1]") {
        text += "# these lines are for the gateway's own machine; for others say how they reach it: --portal HOST\n";
    }
    text
}

fn initiators(export: &ExportView) -> String {
    if export.acl.is_empty() { "any".to_owned() } else { export.acl.join(", ") }
}

fn identity(export: &ExportView) -> &'static str {
    if export.as_original { "original" } else { "own" }
}

fn mode(export: &ExportView) -> &'static str {
    if export.writable { "rw" } else { "ro" }
}

fn uri(export: &ExportView) -> String {
    if export.uri.is_empty() { "-".to_owned() } else { export.uri.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_listed_and_detailed() {
        let golden = include_str!("../../../../cx/api/tests/golden/export.json");
        let export: ExportView = serde_json::from_str(golden).unwrap();
        let text = list(std::slice::from_ref(&export));
        assert!(text.contains("web01-test  7    rw    iqn.1998-01.com.vmware:esx1, iqn."), "{text}");
        assert!(text.contains("esx   own       1"), "{text}");
        assert!(details(&export).contains("mutual chap  gateway\n"), "{}", details(&export));
        let locked = ExportView { problem: Some("the key is gone".into()), ..export };
        assert!(list(std::slice::from_ref(&locked)).contains("nobody can log in"));
        assert!(details(&locked).contains("the key is gone"));
    }

    #[test]
    fn what_was_not_tried_says_so_and_commands_no_terminal() {
        let golden = include_str!("../../../../cx/api/tests/golden/connect.json");
        let mut view: ConnectView = serde_json::from_str(golden).unwrap();
        view.clients[0].lines.push("a\u{1b}[31m".to_owned());
        let text = connect(&view);
        assert!(text.starts_with("# open-iscsi (not tried"), "{text}");
        assert!(!text.contains("--portal HOST"), "{text}");
        view.portal = "127.0.0.1:3260".to_owned();
        assert!(connect(&view).contains("--portal HOST"));
        assert!(text.contains("\niscsiadm -m node") && !text.contains('\u{1b}'), "{text}");
    }
}
