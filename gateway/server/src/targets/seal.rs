//! CHAP secrets at rest: sealed (ChaCha20-Poly1305) with a key in a file beside them that nobody else may read.
//!
//! That keeps secrets out of copies of the list of exports, and a list that was tampered with from being believed. Whoever
//! can read the key file can read the secrets: the gateway itself has to.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use tap_disk::small_file;

/// The key file.
const FILE: &str = "secrets.key";
/// Bytes of a key.
const LENGTH: usize = 32;

/// What secrets are sealed with.
pub(super) struct Key(LessSafeKey);

/// A fresh nonce for each seal.
pub(super) type Draw = fn(&mut [u8]) -> io::Result<()>;

impl Key {
    /// The key in `dir`; `None` when there is none yet.
    ///
    /// # Errors
    /// When it cannot be read, others can read it, or it is none.
    pub(super) fn load(dir: &Path) -> io::Result<Option<Self>> {
        let path = dir.join(FILE);
        let Some(bytes) = small_file::read(&path)? else { return Ok(None) };
        let said = |what: &str| io::Error::other(format!("{}: {what}", path.display()));
        if path.metadata()?.mode() & 0o077 != 0 {
            return Err(said("others than its owner can read it; take that from them (chmod 600)"));
        }
        let key = <[u8; LENGTH]>::try_from(bytes.as_slice()).map_err(|_| said("it holds no key"))?;
        Self::from_bytes(&key).map(Some)
    }

    /// Makes one.
    ///
    /// # Errors
    /// When it cannot be written, or the system has no random numbers.
    pub(super) fn make(dir: &Path) -> io::Result<Self> {
        let mut bytes = [0; LENGTH];
        random(&mut bytes)?;
        small_file::write_private(&dir.join(FILE), &bytes)?;
        Self::from_bytes(&bytes)
    }

    fn from_bytes(bytes: &[u8; LENGTH]) -> io::Result<Self> {
        let key = UnboundKey::new(&CHACHA20_POLY1305, bytes).map_err(|_| io::Error::other("no key"))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// The secret, sealed for `place`: nonce, then what is sealed, in base64.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub(super) fn seal(&self, secret: &[u8], place: &str, draw: Draw) -> io::Result<String> {
        let (mut nonce, mut bytes) = ([0; NONCE_LEN], secret.to_vec());
        draw(&mut nonce)?;
        let (unique, place) = (Nonce::assume_unique_for_key(nonce), Aad::from(place));
        let sealed = self.0.seal_in_place_append_tag(unique, place, &mut bytes);
        sealed.map_err(|_| io::Error::other("a secret cannot be sealed"))?;
        Ok(STANDARD.encode([&nonce[..], &bytes].concat()))
    }

    /// The secret again; `None` when it was sealed with another key, for another place, or is damaged.
    pub(super) fn open(&self, sealed: &str, place: &str) -> Option<Vec<u8>> {
        let bytes = STANDARD.decode(sealed).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let (nonce, mut bytes) = (Nonce::assume_unique_for_key(*nonce), sealed.to_vec());
        let opened = self.0.open_in_place(nonce, Aad::from(place), &mut bytes).ok()?;
        Some(opened.to_vec())
    }
}

/// The system's random numbers.
pub(super) fn random(bytes: &mut [u8]) -> io::Result<()> {
    getrandom::fill(bytes).map_err(|e| io::Error::other(format!("the system has no random numbers: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only for a form that is held by a file; a nonce is never used twice elsewhere.
    fn sevens(bytes: &mut [u8]) -> io::Result<()> {
        bytes.fill(7);
        Ok(())
    }

    #[test]
    fn a_secret_opens_with_its_key_at_its_place_and_nowhere_else() {
        let (key, other) = (Key::from_bytes(&[1; 32]).unwrap(), Key::from_bytes(&[2; 32]).unwrap());
        let sealed = key.seal(b"twelve-chars", "here", random).unwrap();
        assert_ne!(sealed, key.seal(b"twelve-chars", "here", random).unwrap(), "a new nonce each time");
        assert_eq!(key.open(&sealed, "here").unwrap(), b"twelve-chars");
        assert!(key.open(&sealed, "there").is_none() && other.open(&sealed, "here").is_none());
        let mut bytes = STANDARD.decode(&sealed).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert!(key.open(&STANDARD.encode(&bytes), "here").is_none(), "byte {at}");
            bytes[at] ^= 1;
        }
        for none in ["", "AAAA", "no base64 at all"] {
            assert!(key.open(none, "here").is_none());
        }
    }

    #[test]
    fn the_sealed_form_stays_what_it_is() {
        let key = Key::from_bytes(&[1; 32]).unwrap();
        let sealed = "BwcHBwcHBwcHBwcH2CfSqxuqqPRdqyy8+F/TixyQUP3MM8bJfRepig==";
        assert_eq!(key.seal(b"twelve-chars", "here", sevens).unwrap(), sealed);
    }

    #[test]
    fn a_key_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let tmp = tempfile::tempdir().unwrap();
        assert!(Key::load(tmp.path()).unwrap().is_none());
        let sealed = Key::make(tmp.path()).unwrap().seal(b"twelve-chars", "here", random).unwrap();
        let path = tmp.path().join(FILE);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        let again = Key::load(tmp.path()).unwrap().unwrap();
        assert_eq!(again.open(&sealed, "here").unwrap(), b"twelve-chars");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let said = Key::load(tmp.path()).err().unwrap().to_string();
        assert!(said.contains("chmod 600"), "{said}");
        std::fs::write(&path, b"short").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Key::load(tmp.path()).is_err());
    }
}
