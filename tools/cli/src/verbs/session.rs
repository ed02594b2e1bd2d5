//! `chronogate session`.

use clap::{Args, Subcommand};
use cx_api::{SessionView, paths};
use serde_json::json;

use super::{Context, Globals, Result};
use crate::output::{self, or_dash, print, print_json};

/// Of `session`.
#[derive(Debug, Args)]
pub(crate) struct SessionArgs {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: SessionCommand,
}

#[derive(Debug, Subcommand)]
enum SessionCommand {
    /// Lists every NBD client and iSCSI initiator that is connected, oldest first
    Ls,
    /// Ends a client's connection at once; it may connect again
    Kick {
        /// Its id, as listed
        session: u64,
    },
}

pub(super) async fn run(args: SessionArgs) -> Result<()> {
    let context = Context::new(&args.globals)?;
    match args.command {
        SessionCommand::Ls => {
            let sessions: Vec<SessionView> = context.all(paths::SESSIONS).await?;
            if context.json() { print_json(&sessions) } else { print(&list(&sessions)) }
        }
        SessionCommand::Kick { session } => {
            context.client.delete(&paths::session(session)).await?;
            if context.json() {
                return print_json(&json!({ "ended": session }));
            }
            print(&format!("ended session {session}\n"))
        }
    }
}

fn list(sessions: &[SessionView]) -> String {
    let rows: Vec<_> = sessions
        .iter()
        .map(|s| {
            [
                s.id.to_string(),
                s.at.clone(),
                or_dash(s.target.clone().or_else(|| s.export.clone())),
                s.client.clone(),
                or_dash(s.initiator.clone()),
                or_dash(s.certificate.clone()),
                or_dash(s.tls.clone()),
                output::time(Some(s.since)),
                output::size(s.bytes_read),
                output::size(s.bytes_written),
                s.requests.to_string(),
                s.in_flight.to_string(),
            ]
        })
        .collect();
    let titles = [
        "ID",
        "AT",
        "EXPORT",
        "CLIENT",
        "INITIATOR",
        "CERTIFICATE",
        "TLS",
        "SINCE",
        "READ",
        "WRITTEN",
        "REQUESTS",
        "IN FLIGHT",
    ];
    output::table(titles, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_listed_with_what_its_client_chose_made_harmless() {
        let golden = include_str!("../../../../cx/api/tests/golden/session.json");
        let session: SessionView = serde_json::from_str(golden).unwrap();
        let strange = SessionView {
            id: 12,
            certificate: None,
            tls: None,
            export: Some("a\u{1b}[31m".into()),
            ..session.clone()
        };
        let text = list(&[session, strange]);
        assert!(text.contains("7   gateway  web01@-10m"), "{text}");
        let golden = include_str!("../../../../cx/api/tests/golden/session-iscsi.json");
        let initiator = list(&[serde_json::from_str(golden).unwrap()]);
        assert!(
            initiator.contains("iqn.2026-01.example.chronogate:web01-test  10.0.0.8:51113  iqn.1998-01.com")
        );
        assert!(text.contains("8 KiB") && !text.contains('\u{1b}'), "{text}");
    }
}
