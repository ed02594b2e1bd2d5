//! A front under TLS: who gets in, what each may open, and what never passes for something said under it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod wire;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gateway_front::{
    ClientId, Clients, Front, FrontHandle, Grant, Limits, ListenAddress, Security, Tls, TlsError,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use wire::*;

/// A CA of its own, with the files of a server in a directory.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    folder: tempfile::TempDir,
}

/// What a client shows.
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "the CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca-cert.pem"), certificate.pem()).unwrap();
        let this = Self { issuer: Issuer::new(params, key), certificate: certificate.der().clone(), folder };
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let server = params.signed_by(&key, &this.issuer).unwrap();
        fs::write(this.dir().join("server-cert.pem"), server.pem()).unwrap();
        this.write_key(&key.serialize_pem(), 0o600);
        this
    }

    fn dir(&self) -> &Path {
        self.folder.path()
    }

    fn write_key(&self, text: &str, mode: u32) {
        let path = self.dir().join("server-key.pem");
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A certificate with a common name and alternative ones.
    fn client(&self, common: &str, alternative: &[&str]) -> Shown {
        let key = KeyPair::generate().unwrap();
        let alternative: Vec<String> = alternative.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(alternative).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Shown { chain: vec![certificate.der().clone()], key: key.serialize_der().into() }
    }

    fn config(&self, shown: Option<Shown>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_root_certificates(roots);
        Arc::new(match shown {
            Some(Shown { chain, key }) => {
                config.with_client_auth_cert(chain, PrivateKeyDer::Pkcs8(key)).unwrap()
            }
            None => config.with_no_client_auth(),
        })
    }

    fn front(&self, mode: Tls, clients: Clients) -> Rig {
        self.front_with(mode, clients, Limits::default())
    }

    fn front_with(&self, mode: Tls, clients: Clients, limits: Limits) -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let disks = Disks::new(&["a", "web01", "web01@b1", "web02"]);
        let addresses = [ListenAddress::Unix(folder.path().join("nbd.sock")), "127.0.0.1:0".parse().unwrap()];
        let security = Security::load(self.dir(), mode, clients).unwrap();
        let front = Front::start_secured(&addresses, disks.clone(), limits, security).unwrap();
        Rig { front, disks, _folder: folder }
    }
}

struct Rig {
    front: FrontHandle,
    disks: Arc<Disks>,
    _folder: tempfile::TempDir,
}

type Secure<S> = Client<StreamOwned<ClientConnection, S>>;

/// Starts TLS, having been greeted; the handshake happens with the first bytes.
fn secure<S: Read + Write>(mut client: Client<S>, config: &Arc<ClientConfig>) -> Secure<S> {
    client.send_option(STARTTLS, &[]);
    assert_eq!(client.option_reply(), (ACK, Vec::new()));
    let session = ClientConnection::new(Arc::clone(config), "localhost".try_into().unwrap()).unwrap();
    Client(StreamOwned::new(session, client.0))
}

fn listed() -> Clients {
    let grant = |certificate: &str, exports: &[&str]| Grant {
        certificate: certificate.into(),
        exports: exports.iter().map(|e| (*e).into()).collect(),
    };
    Clients::Listed(vec![grant("backup", &["web01", "web01@*"]), grant("*.dr.example", &["*2"])].into())
}

#[test]
fn both_kinds_of_socket_serve_disks_under_tls() {
    let authority = Authority::new();
    let rig = authority.front(Tls::Required, Clients::Anybody);
    assert!(rig.front.uris("a")[0].starts_with("nbds+unix:///a?"), "{:?}", rig.front.uris("a"));
    assert!(rig.front.uris("a")[1].starts_with("nbds://127.0.0.1:"));
    let config = authority.config(None);
    let mut local = connect_unix(&rig.front);
    local.greet();
    let mut local = secure(local, &config);
    local.choose(GO, "a").unwrap();
    let data: Vec<u8> = (0..SIZE).map(|n| (n / 4096) as u8).collect();
    local.write(0, &data);
    let mut remote = connect_tcp(&rig.front);
    remote.greet();
    let mut remote = secure(remote, &config);
    remote.choose(GO, "a").unwrap();
    assert!(remote.read(0, SIZE as u32) == data);
    for n in 0..100 {
        remote.write(n * 4096, &[n as u8; 100]);
    }
    assert_eq!(local.read(99 * 4096, 101)[98..], [99, 99, 99]);
    let session = rig.front.sessions().pop().unwrap();
    assert_eq!((session.tls.as_deref(), session.certificate), (Some("1.3"), None));
    assert_eq!((session.bytes_read, session.bytes_written, session.requests), (SIZE, 10_000, 101));
}

#[test]
fn without_tls_nothing_is_told_or_given() {
    let authority = Authority::new();
    let rig = authority.front(Tls::Required, Clients::Certified);
    let mut client = connect_tcp(&rig.front);
    client.greet();
    assert_eq!(client.choose(GO, "a").unwrap_err().0, ERR_TLS_REQD);
    client.send_option(LIST, &[]);
    assert_eq!(client.option_reply().0, ERR_TLS_REQD);
    client.send_option(1, b"a");
    client.assert_closed();
    assert!(rig.disks.opened_by.lock().unwrap().is_empty());
}

#[test]
fn what_was_slipped_in_before_tls_is_never_used() {
    let authority = Authority::new();
    let rig = authority.front(Tls::Optional, Clients::Anybody);
    let go = [&0_u32.to_be_bytes()[..], &[0, 0]].concat();
    // In one piece with the request, and behind it.
    let mut client = connect_tcp(&rig.front);
    client.greet();
    let option = |number: u32, data: &[u8]| {
        [b"IHAVEOPT", &number.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), data].concat()
    };
    client.0.write_all(&[option(STARTTLS, &[]), option(GO, &go)].concat()).unwrap();
    client.assert_closed();
    let mut client = connect_tcp(&rig.front);
    client.greet();
    client.send_option(STARTTLS, &[]);
    client.option_reply();
    client.0.write_all(&option(GO, &go)).unwrap();
    client.assert_closed();
    assert!(rig.disks.opened_by.lock().unwrap().is_empty());
}

#[test]
fn what_was_looked_up_in_the_open_is_looked_up_again_under_tls() {
    let authority = Authority::new();
    let rig = authority.front(Tls::Optional, Clients::Certified);
    let mut client = connect_tcp(&rig.front);
    client.greet();
    client.choose(INFO, "a").unwrap();
    let mut client = secure(client, &authority.config(Some(authority.client("backup", &[]))));
    client.choose(GO, "a").unwrap();
    let openers = rig.disks.opened_by.lock().unwrap().clone();
    let local = ClientId::Tcp("127.0.0.1".parse().unwrap());
    assert_eq!(openers, [local, ClientId::Certificate("backup".to_owned())]);
}

#[test]
fn a_client_without_a_certificate_of_ours_is_not_let_in() {
    let authority = Authority::new();
    let rig = authority.front(Tls::Required, Clients::Certified);
    let stranger = Authority::new().client("backup", &[]);
    for shown in [None, Some(stranger)] {
        let mut client = connect_tcp(&rig.front);
        client.greet();
        let mut client = secure(client, &authority.config(shown));
        let asked = [&b"IHAVEOPT\0\0\0\x03\0\0\0\0"[..]].concat();
        let _ = client.0.write_all(&asked).and_then(|()| client.0.flush());
        let mut answer = [0; 20];
        assert!(client.0.read_exact(&mut answer).is_err());
    }
    let mut client = connect_tcp(&rig.front);
    client.greet();
    let mut client = secure(client, &authority.config(Some(authority.client("anybody", &[]))));
    assert_eq!(client.list().len(), 4);
    wait_until("the others' end", || rig.front.connections() == 1);
}

#[test]
fn a_certificate_opens_what_the_list_says_and_shows_nothing_else() {
    let authority = Authority::new();
    let rig = authority.front(Tls::Required, listed());
    for (common, alternative, seen) in [
        ("backup", &[][..], &["web01", "web01@b1"][..]),
        ("x", &["host.dr.example"], &["web02"]),
        ("backup", &["a.dr.example"], &["web01", "web01@b1", "web02"]),
        ("nobody", &["backup.example"], &[]),
    ] {
        let mut client = connect_tcp(&rig.front);
        client.greet();
        let shown = authority.client(common, alternative);
        let mut client = secure(client, &authority.config(Some(shown)));
        assert_eq!(client.list(), seen, "{common}");
        let (error, text) = client.choose(INFO, "a").unwrap_err();
        assert_eq!(error, ERR_POLICY);
        assert!(text.starts_with(&format!("the certificate of {common} may not open a here")), "{text}");
        // Whether there is such an export is none of its business either; nor does the empty name lead around.
        assert_eq!(client.choose(GO, "none").unwrap_err().0, ERR_POLICY);
        assert_eq!(client.choose(GO, "").unwrap_err().0, ERR_POLICY);
        if let Some(name) = seen.first() {
            client.choose(GO, name).unwrap();
            let session = rig.front.sessions().pop().unwrap();
            assert_eq!(session.certificate.as_deref(), Some(common));
            assert_eq!(session.export.as_deref(), Some(*name));
        }
    }
}

#[test]
fn where_tls_is_optional_a_client_without_it_is_nobody_on_the_list() {
    let authority = Authority::new();
    let rig = authority.front(Tls::Optional, listed());
    let mut client = connect_tcp(&rig.front);
    client.greet();
    assert!(client.list().is_empty());
    assert_eq!(client.choose(GO, "web01").unwrap_err().0, ERR_POLICY);
    let rig = authority.front(Tls::Optional, Clients::Certified);
    let mut client = connect_tcp(&rig.front);
    client.greet();
    client.choose(GO, "web01").unwrap();
}

#[test]
fn a_listener_may_have_a_mode_of_its_own() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let socket = ListenAddress::Unix(folder.path().join("nbd.sock"));
    let tcp: ListenAddress = "127.0.0.1:0".parse().unwrap();
    let security = Security::load(authority.dir(), Tls::Required, listed()).unwrap();
    let security = security.except(socket.clone(), Tls::Off);
    assert!(security.is_guarded(&tcp) && !security.is_guarded(&socket));
    let addresses = [socket, tcp];
    let front = Front::start_secured(&addresses, Disks::new(&["a"]), Limits::default(), security).unwrap();
    let uris = front.uris("a");
    assert!(uris[0].starts_with("nbd+unix:") && uris[1].starts_with("nbds:"), "{uris:?}");
    let mut local = connect_unix(&front);
    local.greet();
    local.send_option(STARTTLS, &[]);
    assert_eq!(local.option_reply().0, ERR_POLICY);
    local.choose(GO, "a").unwrap();
    let mut remote = connect_tcp(&front);
    remote.greet();
    assert_eq!(remote.choose(GO, "a").unwrap_err().0, ERR_TLS_REQD);
}

#[test]
fn new_certificates_and_clients_count_for_those_that_come_later() {
    let (before, after) = (Authority::new(), Authority::new());
    let rig = before.front(Tls::Required, listed());
    let old = before.config(Some(before.client("backup", &[])));
    let mut there = connect_tcp(&rig.front);
    there.greet();
    let mut there = secure(there, &old);
    there.choose(GO, "web01").unwrap();
    let all = Grant { certificate: "new".into(), exports: vec!["*".into()] };
    let anew = Security::load(after.dir(), Tls::Required, Clients::Listed([all].into())).unwrap();
    rig.front.secure_anew(anew);
    let mut client = connect_tcp(&rig.front);
    client.greet();
    let mut client = secure(client, &after.config(Some(after.client("new", &[]))));
    assert_eq!(client.list().len(), 4);
    let mut stale = connect_tcp(&rig.front);
    stale.greet();
    let mut stale = secure(stale, &old);
    let _ = stale.0.write_all(b"IHAVEOPT\0\0\0\x03\0\0\0\0");
    assert!(stale.0.read_exact(&mut [0; 20]).is_err());
    assert_eq!(there.read(0, 512), [0; 512]);
}

#[test]
fn a_client_that_dawdles_over_tls_is_hung_up_on_and_holds_up_nobody() {
    let authority = Authority::new();
    let limits = Limits { handshake: Duration::from_millis(200), ..Limits::default() };
    let rig = authority.front_with(Tls::Required, Clients::Anybody, limits);
    let mut dawdling = connect_tcp(&rig.front);
    dawdling.greet();
    dawdling.send_option(STARTTLS, &[]);
    dawdling.option_reply();
    dawdling.assert_closed();
    assert_eq!(rig.front.drain_and_stop(Duration::from_secs(5)).cut_off, 0);
    // One that may dawdle longer holds up neither another nor the end.
    let slow = authority.front(Tls::Required, Clients::Anybody);
    let mut dawdling = connect_tcp(&slow.front);
    dawdling.greet();
    dawdling.send_option(STARTTLS, &[]);
    dawdling.option_reply();
    let mut client = connect_tcp(&slow.front);
    client.greet();
    let mut client = secure(client, &authority.config(None));
    client.choose(GO, "a").unwrap();
    assert_eq!(client.read(0, 512), [0; 512]);
    assert_eq!(slow.front.drain_and_stop(Duration::from_secs(5)).cut_off, 0);
    client.assert_closed();
}

#[test]
fn a_client_under_tls_that_reads_no_reply_is_hung_up_on() {
    let authority = Authority::new();
    let limits = Limits { stall: Duration::from_millis(800), ..Limits::default() };
    let rig = authority.front_with(Tls::Required, Clients::Anybody, limits);
    let mut client = connect_tcp(&rig.front);
    client.greet();
    let mut client = secure(client, &authority.config(None));
    client.choose(GO, "a").unwrap();
    for cookie in 0..8 {
        client.request(0, cookie, 0, &[], SIZE as u32).unwrap();
    }
    wait_until("the end of it", || rig.front.connections() == 0);
}

#[test]
fn a_certificate_that_was_taken_back_is_none() {
    let authority = Authority::new();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "backup");
    params.serial_number = Some(77_u64.into());
    let certificate = params.signed_by(&key, &authority.issuer).unwrap();
    let day = |n| rcgen::date_time_ymd(2020 + n, 1, 1);
    let revoked = rcgen::RevokedCertParams {
        serial_number: 77_u64.into(),
        revocation_time: day(0),
        reason_code: None,
        invalidity_date: None,
    };
    let list = rcgen::CertificateRevocationListParams {
        this_update: day(0),
        next_update: day(60),
        crl_number: 1_u64.into(),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&authority.issuer).unwrap();
    fs::write(authority.dir().join("ca-crl.pem"), list.pem().unwrap()).unwrap();
    let rig = authority.front(Tls::Required, Clients::Certified);
    let shown = Shown { chain: vec![certificate.der().clone()], key: key.serialize_der().into() };
    let mut client = connect_tcp(&rig.front);
    client.greet();
    let mut client = secure(client, &authority.config(Some(shown)));
    let _ = client.0.write_all(b"IHAVEOPT\0\0\0\x03\0\0\0\0");
    assert!(client.0.read_exact(&mut [0; 20]).is_err());
    let mut client = connect_tcp(&rig.front);
    client.greet();
    let mut client = secure(client, &authority.config(Some(authority.client("backup", &[]))));
    assert_eq!(client.list().len(), 4);
}

#[test]
fn files_that_are_not_right_are_named_with_what_to_do() {
    let load = |authority: &Authority| Security::load(authority.dir(), Tls::Required, Clients::Certified);
    let said = |authority: &Authority| load(authority).unwrap_err().to_string();
    let authority = Authority::new();
    load(&authority).unwrap();
    let key = fs::read_to_string(authority.dir().join("server-key.pem")).unwrap();
    authority.write_key(&key, 0o644);
    assert!(matches!(load(&authority), Err(TlsError::KeyOpen { mode: 0o644, .. })));
    assert!(said(&authority).contains("chmod 600"), "{}", said(&authority));
    authority.write_key(&key, 0o640);
    load(&authority).unwrap();
    authority.write_key("no key", 0o600);
    assert!(matches!(load(&authority), Err(TlsError::Malformed { .. })), "{}", said(&authority));
    let other = KeyPair::generate().unwrap().serialize_pem();
    authority.write_key(&other, 0o600);
    assert!(matches!(load(&authority), Err(TlsError::Unusable { .. })), "{}", said(&authority));
    authority.write_key(&key, 0o600);
    fs::write(authority.dir().join("ca-cert.pem"), "").unwrap();
    assert!(matches!(load(&authority), Err(TlsError::Malformed { .. })), "{}", said(&authority));
    fs::remove_file(authority.dir().join("ca-cert.pem")).unwrap();
    assert!(said(&authority).contains("ca-cert.pem"), "{}", said(&authority));
    // Nobody is asked for a certificate, so nobody needs the CA.
    Security::load(authority.dir(), Tls::Required, Clients::Anybody).unwrap();
    assert!(CertificateDer::from_pem_file(authority.dir().join("server-cert.pem")).is_ok());
}
