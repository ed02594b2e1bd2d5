//! The exports on disk: one small JSON file, replaced whole. Its form is held by a golden file.

use std::io;
use std::path::Path;

use gateway_journal::ImageId;
use serde::{Deserialize, Serialize};
use tap_block::WallTime;
use tap_disk::{ensure_dir, small_file};

use super::rules::{ImageKeyOfStore, Login, Rules};
use super::seal::Key;

/// The file.
const FILE: &str = "exports.json";
/// Its form.
const VERSION: u32 = 1;
/// The same with exports that share a target: who does not know of that would serve them without access rules.
const SHARED: u32 = 2;

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    exports: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    image: u64,
    /// When the image was made, in nanoseconds: its number is of one store.
    image_created: u64,
    lun: u16,
    acl: Vec<String>,
    chap: Option<Sealed>,
    mutual_chap: Option<Sealed>,
    as_original: bool,
    /// When it was exported, in nanoseconds.
    created: u64,
    /// The export whose target it shares, as of version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    beside: Option<Beside>,
}

#[derive(Serialize, Deserialize)]
struct Beside {
    image: u64,
    image_created: u64,
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    user: String,
    secret: String,
}

/// Reads the exports with their key. Secrets that the key does not open are left sealed.
///
/// # Errors
/// When a file cannot be read or is damaged.
pub(super) fn load(dir: &Path) -> io::Result<(Vec<Rules>, Option<Key>)> {
    let key = Key::load(dir)?;
    let path = dir.join(FILE);
    let Some(bytes) = small_file::read(&path)? else { return Ok((Vec::new(), key)) };
    let damaged =
        |what: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", path.display()));
    let file: File = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
    if file.version != VERSION && file.version != SHARED {
        return Err(damaged(format!("version {} is none that this program knows", file.version)));
    }
    let rules = file.exports.into_iter().map(|line| line.into_rules(key.as_ref())).collect();
    Ok((rules, key))
}

/// Replaces what is on disk.
///
/// # Errors
/// When it cannot be written: what was there is there still.
pub(super) fn save<'a>(dir: &Path, rules: impl Iterator<Item = &'a Rules>) -> io::Result<()> {
    let exports: Vec<Line> = rules.map(Line::of).collect();
    let version = if exports.iter().any(|line| line.beside.is_some()) { SHARED } else { VERSION };
    let file = File { version, exports };
    let bytes = serde_json::to_vec_pretty(&file).map_err(io::Error::other)?;
    ensure_dir(dir)?;
    small_file::write_private(&dir.join(FILE), &bytes)
}

impl Line {
    fn of(rules: &Rules) -> Self {
        let sealed = |login: &Login| Sealed { user: login.user.clone(), secret: login.sealed.clone() };
        Self {
            image: rules.image.get(),
            image_created: rules.image_created.nanos(),
            lun: rules.lun,
            acl: rules.acl.clone(),
            chap: rules.chap.as_ref().map(sealed),
            mutual_chap: rules.mutual.as_ref().map(sealed),
            as_original: rules.as_original,
            created: rules.created.nanos(),
            beside: rules
                .beside
                .map(|other| Beside { image: other.image.get(), image_created: other.created.nanos() }),
        }
    }

    fn into_rules(self, key: Option<&Key>) -> Rules {
        let mut rules = Rules {
            image: ImageId::new(self.image),
            image_created: WallTime::from_nanos(self.image_created),
            lun: self.lun,
            acl: self.acl,
            chap: None,
            mutual: None,
            as_original: self.as_original,
            created: WallTime::from_nanos(self.created),
            beside: self.beside.map(|other| ImageKeyOfStore {
                image: ImageId::new(other.image),
                created: WallTime::from_nanos(other.image_created),
            }),
        };
        let open = |sealed: Sealed, way: &str, rules: &Rules| {
            let Sealed { user, secret: sealed } = sealed;
            let secret = key.and_then(|key| key.open(&sealed, &rules.place(way, &user)));
            Login { user, secret, sealed }
        };
        rules.chap = self.chap.map(|sealed| open(sealed, Rules::CHAP, &rules));
        rules.mutual = self.mutual_chap.map(|sealed| open(sealed, Rules::MUTUAL, &rules));
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = include_str!("golden/exports.json");
    const GOLDEN_2: &str = include_str!("golden/exports-2.json");

    #[test]
    fn what_was_written_once_is_read_for_ever() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join(FILE), GOLDEN).unwrap();
        small_file::write_private(&tmp.path().join("secrets.key"), &[1; 32]).unwrap();
        let (rules, key) = load(tmp.path()).unwrap();
        assert!(key.is_some() && rules.len() == 2);
        let chap = rules[0].chap.as_ref().unwrap();
        assert_eq!((chap.user.as_str(), chap.secret.as_deref()), ("esx", Some(&b"twelve-chars"[..])));
        assert_eq!(rules[0].mutual.as_ref().unwrap().secret.as_deref(), Some(&b"other-twelve"[..]));
        assert_eq!((rules[0].lun, rules[1].lun), (7, 1));
        assert!(rules[1].as_original && rules[1].acl == ["iqn.2026-01.example:one"]);
        save(tmp.path(), rules.iter()).unwrap();
        assert_eq!(std::fs::read_to_string(tmp.path().join(FILE)).unwrap(), GOLDEN.trim_end());
    }

    #[test]
    fn exports_that_share_a_target_are_in_a_form_of_their_own() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join(FILE), GOLDEN_2).unwrap();
        let (mut rules, _) = load(tmp.path()).unwrap();
        assert_eq!(rules[1].beside, Some(rules[0].key()));
        save(tmp.path(), rules.iter()).unwrap();
        assert_eq!(std::fs::read_to_string(tmp.path().join(FILE)).unwrap(), GOLDEN_2.trim_end());
        rules.truncate(1);
        save(tmp.path(), rules.iter()).unwrap();
        assert!(std::fs::read_to_string(tmp.path().join(FILE)).unwrap().contains("\"version\": 1"));
    }

    #[test]
    fn secrets_without_their_key_stay_sealed_and_damage_is_an_error() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join(FILE);
        assert!(load(tmp.path()).unwrap().0.is_empty());
        std::fs::write(&path, GOLDEN).unwrap();
        let (rules, _) = load(tmp.path()).unwrap();
        assert!(rules[0].is_locked() && rules[0].is_guarded() && !rules[1].is_locked());
        save(tmp.path(), rules.iter()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), GOLDEN.trim_end(), "nothing is lost by that");
        for bad in ["", "{}", "[]", &GOLDEN.replace("\"version\": 1", "\"version\": 3"), &GOLDEN[..80]] {
            std::fs::write(&path, bad).unwrap();
            assert!(load(tmp.path()).is_err(), "{bad}");
        }
    }
}
