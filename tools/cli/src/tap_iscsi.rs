//! Where guests open protected disks over iSCSI, and who may: one list for all of a tap's disks. Its secrets are read when it starts,
//! and kept nowhere.

use std::path::PathBuf;

use clap::Args;
use cx_api::export::{MAX_CHAP, MIN_CHAP_SECRET};
use gateway_front::Portal;
use gateway_iscsi::{Access, Admission, Credentials};

use crate::output::Failure;
use crate::secret::secret;

/// See the module.
#[derive(Debug, Default, Clone, Args)]
#[command(next_help_heading = "The protected disks over iSCSI")]
pub(crate) struct TapIscsi {
    /// Where guests open the protected disks over iSCSI (repeatable), `,advertise=HOST:PORT` behind it if they are to be told of
    /// another address; beyond loopback only with --tap-acl or --tap-chap [default: nowhere]
    #[arg(long = "tap-iscsi", value_name = "HOST:PORT")]
    pub(crate) portals: Vec<Portal>,
    /// The name of an initiator that may log in there (repeatable) [default: any]
    #[arg(long = "tap-acl", value_name = "IQN", requires = "portals")]
    acl: Vec<String>,
    /// Initiators have to log in there by CHAP with this name, and with the secret in --tap-chap-secret-file, else in the variable
    /// CHRONOGATE_TAP_CHAP_SECRET
    #[arg(long = "tap-chap", value_name = "USER", requires = "portals")]
    chap: Option<String>,
    /// A file that holds that secret, 12 to 255 characters
    #[arg(long = "tap-chap-secret-file", value_name = "FILE", requires = "chap")]
    chap_secret_file: Option<PathBuf>,
    /// The disks prove to initiators that want it who they are, with this name, and with the secret in
    /// --tap-mutual-chap-secret-file, else in the variable CHRONOGATE_TAP_MUTUAL_CHAP_SECRET
    #[arg(long = "tap-mutual-chap", value_name = "USER", requires = "chap")]
    mutual_chap: Option<String>,
    /// A file that holds that secret
    #[arg(long = "tap-mutual-chap-secret-file", value_name = "FILE", requires = "mutual_chap")]
    mutual_chap_secret_file: Option<PathBuf>,
}

impl TapIscsi {
    /// Has anybody to be on a list, or to know a secret?
    pub(crate) fn is_guarded(&self) -> bool {
        !self.acl.is_empty() || self.chap.is_some()
    }

    /// Who may log in.
    ///
    /// # Errors
    /// When a secret cannot be read, or is none.
    pub(crate) fn admission(&self) -> Result<Admission, Failure> {
        let login = |user: &Option<String>, file: &Option<PathBuf>, variable: &str, option: &str| {
            let Some(user) = user else { return Ok(None) };
            let secret = secret(file.as_deref(), variable, option)?;
            checked(user, &secret, option)?;
            Ok::<_, Failure>(Some(Credentials { name: user.clone(), secret: secret.into_bytes() }))
        };
        let chap = login(
            &self.chap,
            &self.chap_secret_file,
            "CHRONOGATE_TAP_CHAP_SECRET",
            "--tap-chap-secret-file",
        )?;
        let target = login(
            &self.mutual_chap,
            &self.mutual_chap_secret_file,
            "CHRONOGATE_TAP_MUTUAL_CHAP_SECRET",
            "--tap-mutual-chap-secret-file",
        )?;
        let access = match chap {
            Some(initiator) if target.as_ref().is_some_and(|target| target.secret == initiator.secret) => {
                return Err(Failure::usage("both directions of CHAP have the same secret")
                    .because("whoever knows one could then pass for the other (RFC 7143 section 9.2.1)")
                    .fix("choose two secrets"));
            }
            Some(initiator) => Access::Chap { initiator, target },
            None => Access::Open,
        };
        Ok(Admission { access, initiators: Some(self.acl.clone()).filter(|acl| !acl.is_empty()) })
    }
}

/// The secret is in no message.
fn checked(user: &str, secret: &str, option: &str) -> Result<(), Failure> {
    let is_plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    if (MIN_CHAP_SECRET..=MAX_CHAP).contains(&secret.len()) && is_plain(secret) && is_plain(user) {
        return Ok(());
    }
    Err(Failure::usage(format!("the CHAP secret of {user} has {} characters", secret.len()))
        .because("one of fewer than 12 is found by trying; more than 255, and others than visible ASCII characters, are not taken everywhere")
        .fix(format!("put another one into the file that {option} names")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_come_from_files_and_both_directions_differ() {
        let tmp = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = tmp.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        let mut rules = TapIscsi { chap: Some("esx".into()), ..TapIscsi::default() };
        rules.chap_secret_file = file("a", "twelve-chars\n");
        assert!(rules.is_guarded());
        let admission = rules.admission().unwrap();
        assert!(
            matches!(&admission.access, Access::Chap { initiator, target: None } if initiator.secret == b"twelve-chars")
        );
        rules.mutual_chap = Some("tap".into());
        rules.mutual_chap_secret_file = file("b", "twelve-chars");
        assert!(rules.admission().unwrap_err().what.contains("same secret"));
        rules.mutual_chap_secret_file = file("b", "another-secret");
        rules.acl = vec!["iqn.2026-01.example:a".into()];
        assert!(rules.admission().unwrap().admits("IQN.2026-01.example:a"));
        rules.chap_secret_file = file("a", "short");
        assert!(rules.admission().is_err());
        assert!(!TapIscsi::default().is_guarded());
    }
}
