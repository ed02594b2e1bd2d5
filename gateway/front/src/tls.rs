//! TLS: certificates and keys from a directory laid out as QEMU and libnbd lay theirs out, and whom a client's
//! certificate names.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gateway_nbd::Tls;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;
use x509_cert::Certificate;
use x509_cert::der::asn1::{PrintableStringRef, TeletexStringRef, Utf8StringRef};
use x509_cert::der::oid::db::rfc4519::CN;
use x509_cert::der::{Decode as _, Tagged as _};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::access::Clients;
use crate::address::ListenAddress;

/// The CA whose certificates clients must have.
const CA: &str = "ca-cert.pem";
/// What the CA has taken back; need not be there.
const REVOKED: &str = "ca-crl.pem";
/// The front's own certificate, with those between it and the CA.
const CERTIFICATE: &str = "server-cert.pem";
/// The key to that.
const KEY: &str = "server-key.pem";
/// Permissions that nobody may have on a key: those of others, and to change it as the group.
const TOO_OPEN: u32 = 0o027;

/// How the listeners of a front are secured. By default they are not.
#[derive(Clone, Default)]
pub struct Security {
    acceptor: Option<TlsAcceptor>,
    mode: Tls,
    exceptions: Vec<(ListenAddress, Tls)>,
    pub(crate) clients: Clients,
}

/// Why TLS cannot be had.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}, which TLS needs: {source}; it must be there and readable for the user that this runs as", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could take the key.
    #[error("the key {} has the mode {mode:03o}, so others can get at it; say `chmod 600` for it, and make a new one if somebody may have", path.display())]
    KeyOpen {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file holds something else.
    #[error("{} holds nothing that TLS can use: {why}; it must be PEM, as `certtool` and `openssl` write it", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Each file is what it should be, and they do not fit.
    #[error("the certificates in {} cannot be used: {why}; server-cert.pem must be the certificate of server-key.pem", dir.display())]
    Unusable {
        /// The directory.
        dir: PathBuf,
        /// Why.
        why: String,
    },
}

impl Security {
    /// TLS with the files in `dir`: `ca-cert.pem` (for clients' certificates), `server-cert.pem`, `server-key.pem`, and
    /// `ca-crl.pem` if there is one. They are read now and not again: see [`FrontHandle::secure_anew`](crate::FrontHandle::secure_anew).
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(dir: &Path, mode: Tls, clients: Clients) -> Result<Self, TlsError> {
        let chain = certificates(&dir.join(CERTIFICATE))?;
        let key = key(&dir.join(KEY))?;
        let unusable =
            |why: &dyn std::fmt::Display| TlsError::Unusable { dir: dir.to_owned(), why: why.to_string() };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| unusable(&e))?;
        let config = match clients {
            Clients::Anybody => config.with_no_client_auth(),
            Clients::Certified | Clients::Listed(_) => config.with_client_cert_verifier(verifier(dir)?),
        };
        let config = config.with_single_cert(chain, key).map_err(|e| unusable(&e))?;
        let acceptor = Some(TlsAcceptor::from(Arc::new(config)));
        Ok(Self { acceptor, mode, exceptions: Vec::new(), clients })
    }

    /// With another mode at one listener.
    #[must_use]
    pub fn except(mut self, address: ListenAddress, mode: Tls) -> Self {
        self.exceptions.push((address, mode));
        self
    }

    /// The mode at a listener, given as it was asked for.
    #[must_use]
    pub fn mode_at(&self, address: &ListenAddress) -> Tls {
        if self.acceptor.is_none() {
            return Tls::Off;
        }
        let own = self.exceptions.iter().find(|(at, _)| at == address);
        own.map_or(self.mode, |(_, mode)| *mode)
    }

    /// Does nobody get in at this listener without a certificate?
    #[must_use]
    pub fn is_guarded(&self, address: &ListenAddress) -> bool {
        self.mode_at(address) == Tls::Required && self.clients != Clients::Anybody
    }

    pub(crate) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.acceptor.clone()
    }
}

impl std::fmt::Debug for Security {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Security")
            .field("mode", &self.mode)
            .field("exceptions", &self.exceptions)
            .field("clients", &self.clients)
            .finish_non_exhaustive()
    }
}

fn verifier(dir: &Path) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let path = dir.join(CA);
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&path)? {
        roots.add(certificate).map_err(|e| malformed(&path, &e))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .with_crls(revoked(&dir.join(REVOKED))?)
        .only_check_end_entity_revocation()
        .allow_unknown_revocation_status();
    builder.build().map(|verifier| verifier as _).map_err(|e| malformed(&path, &e))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let all = all.map_err(|e| malformed(path, &e))?;
    if all.is_empty() { Err(malformed(path, &"there is no certificate in it")) } else { Ok(all) }
}

fn revoked(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = read(path)?;
    let all: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
    let all = all.map_err(|e| malformed(path, &e))?;
    if all.is_empty() { Err(malformed(path, &"there is no list of revocations in it")) } else { Ok(all) }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read(path)?;
    let mode = std::fs::metadata(path).map_err(|source| unreadable(path, source))?.mode() & 0o777;
    if mode & TOO_OPEN != 0 {
        return Err(TlsError::KeyOpen { path: path.to_owned(), mode });
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|e| malformed(path, &e))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| unreadable(path, source))
}

fn unreadable(path: &Path, source: io::Error) -> TlsError {
    TlsError::Unreadable { path: path.to_owned(), source }
}

fn malformed(path: &Path, why: &dyn std::fmt::Display) -> TlsError {
    TlsError::Malformed { path: path.to_owned(), why: why.to_string() }
}

/// The names that a certificate, already verified, gives its holder: common names, then alternative names.
pub(crate) fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = Certificate::from_der(certificate) else { return Vec::new() };
    let certificate = certificate.tbs_certificate();
    let parts = certificate.subject().iter_rdn().flat_map(|rdn| rdn.iter());
    let common = parts.filter(|part| part.oid == CN).filter_map(|part| text(&part.value));
    let alternative = certificate.get_extension::<SubjectAltName>().ok().flatten();
    let alternative = alternative.into_iter().flat_map(|(_, names)| names.0).filter_map(|name| match name {
        GeneralName::DnsName(name) | GeneralName::Rfc822Name(name) => Some(name.to_string()),
        GeneralName::UniformResourceIdentifier(name) => Some(name.to_string()),
        _ => None,
    });
    common.chain(alternative).collect()
}

/// The text of a part of a name, in the kinds of string that are used for it.
fn text(value: &x509_cert::der::Any) -> Option<String> {
    use x509_cert::der::Tag;
    match value.tag() {
        Tag::Utf8String => value.decode_as::<Utf8StringRef<'_>>().ok().map(|s| s.to_string()),
        Tag::PrintableString => value.decode_as::<PrintableStringRef<'_>>().ok().map(|s| s.to_string()),
        Tag::TeletexString => value.decode_as::<TeletexStringRef<'_>>().ok().map(|s| s.to_string()),
        _ => None,
    }
}
