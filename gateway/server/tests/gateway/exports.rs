//! Images over iSCSI with rules: who may log in, what stays over a restart, and how it ends.

use std::net::TcpStream;

use cx_api::{ChapLogin, ExportAccess, ExportCreate, ExportProtocol, ExportView};

use super::*;

const ONE: &str = "iqn.2026-01.example:one";
const TWO: &str = "iqn.2026-01.example:two";
const SECRET: &str = "twelve-chars";
/// How a login ends (RFC 7143 section 11.13.5).
const IN: [u8; 2] = [0, 0];
const NOT_PROVED: [u8; 2] = [2, 1];
const NOT_ON_THE_LIST: [u8; 2] = [2, 2];
const NO_SUCH_TARGET: [u8; 2] = [2, 3];
const UNAVAILABLE: [u8; 2] = [3, 1];

fn at_portal(portal: &str, dir: &Path, hub: &Hub) -> GatewayConfig {
    GatewayConfig { iscsi: vec![portal.parse().unwrap()], ..config(dir, hub) }
}

async fn site_at(portal: &str) -> Site {
    let tmp = tempfile::tempdir().unwrap();
    let hub = Hub::new();
    let handle = Gateway::start(at_portal(portal, tmp.path(), &hub)).await.unwrap();
    Site { tmp, hub, handle }
}

async fn restarted_at(portal: &str, site: Site) -> (Site, Result<(), StartError>) {
    site.handle.stop(GRACE).await;
    let wanted = at_portal(portal, site.tmp.path(), &site.hub);
    let (handle, told) = match Gateway::start(wanted.clone()).await {
        Ok(handle) => (handle, Ok(())),
        Err(error) => {
            let trusted = GatewayConfig { open_portals: true, ..wanted };
            (Gateway::start(trusted).await.unwrap(), Err(error))
        }
    };
    (Site { handle, ..site }, told)
}

fn key(called: &str) -> ImageKey {
    ImageKey::Name(name(called))
}

fn plain() -> ExportCreate {
    ExportCreate {
        image: String::new(),
        protocol: ExportProtocol::Iscsi,
        lun: None,
        acl: Vec::new(),
        chap: None,
        mutual_chap: None,
        as_original: false,
        beside: None,
    }
}

fn for_one() -> ExportCreate {
    ExportCreate { acl: vec![ONE.to_owned()], ..plain() }
}

fn with_chap() -> ExportCreate {
    let chap = ChapLogin { user: "esx".to_owned(), secret: SECRET.to_owned() };
    ExportCreate { chap: Some(chap), ..plain() }
}

impl Site {
    async fn export(&self, called: &str, wanted: ExportCreate) -> Result<ExportView, cx_api::Problem> {
        self.gateway().export_create(key(called), wanted).await
    }

    /// Logs in without a word of CHAP; how that ended, and the connection.
    async fn log_in(&self, called: &str, initiator: &str) -> ([u8; 2], TcpStream) {
        let port = self.handle.iscsi_portals()[0].rsplit_once(':').unwrap().1.to_owned();
        let target = format!("iqn.2026-01.example.chronogate:{called}");
        let text = format!("InitiatorName={initiator}\0TargetName={target}\0SessionType=Normal\0");
        let work = move || {
            let mut socket = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            let mut unit = vec![0; 48];
            (unit[0], unit[1], unit[8], unit[7]) = (0x43, 0x87, 0x80, u8::try_from(text.len()).unwrap());
            unit.extend(text.as_bytes());
            unit.resize(unit.len().next_multiple_of(4), 0);
            socket.write_all(&unit).unwrap();
            let mut header = [0; 48];
            socket.read_exact(&mut header).unwrap();
            ([header[36], header[37]], socket)
        };
        tokio::task::spawn_blocking(work).await.unwrap()
    }

    /// Until nobody is connected any more.
    async fn alone(&self) {
        let start = Instant::now();
        while !self.gateway().sessions().await.unwrap().is_empty() {
            assert!(start.elapsed() < LIMIT, "not in time");
            tokio::task::yield_now().await;
        }
    }
}

/// The gateway hangs up.
async fn is_ended(mut socket: TcpStream) {
    let work = move || socket.read_to_end(&mut Vec::new());
    // A reset is as good an end.
    let _ = tokio::task::spawn_blocking(work).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_count_for_everybody_from_the_first_login_to_a_forced_end() {
    let site = site_at("127.0.0.1:0").await;
    let (_tap, _link) = connected(&site, 61).await;
    site.settled("web01").await;
    site.image("now", true, Some("test")).await;
    let gateway = site.gateway();

    // Without rules it is open here, and whoever is in goes on by that: so there are no rules meanwhile.
    let (status, socket) = site.log_in("test", TWO).await;
    assert_eq!(status, IN);
    assert_eq!(site.export("test", for_one()).await.unwrap_err().code, Code::Conflict);
    drop(socket);
    site.alone().await;

    let export = site.export("test", for_one()).await.unwrap();
    assert_eq!((export.lun, export.acl.as_slice()), (1, &[ONE.to_owned()][..]));
    assert_eq!(site.export("test", for_one()).await.unwrap_err().code, Code::Conflict);
    assert_eq!(site.log_in("test", TWO).await.0, NOT_ON_THE_LIST);
    let (status, kicked) = site.log_in("test", ONE).await;
    assert_eq!(status, IN);
    site.alone_but(1).await;
    let session = gateway.sessions().await.unwrap().remove(0);
    assert_eq!((session.at.as_str(), session.export.as_deref()), ("iscsi", Some("test")));
    assert_eq!(session.initiator.as_deref(), Some(ONE));
    assert_eq!(session.target.as_deref(), Some(export.target.as_str()));
    gateway.session_end(session.id).await.unwrap();
    is_ended(kicked).await;

    let (status, held) = site.log_in("test", ONE).await;
    assert_eq!(status, IN);
    let refused = gateway.export_remove(key("test"), false).await.unwrap_err();
    assert_eq!(refused.code, Code::Conflict);
    assert!(refused.cause.contains(ONE), "{refused:?}");
    assert!(gateway.image_remove(key("test"), false).await.is_err());
    for _ in 0..2 {
        gateway.export_remove(key("test"), true).await.unwrap();
    }
    is_ended(held).await;
    gateway.export_remove(key("test"), false).await.unwrap();
    assert_eq!(gateway.export(key("test")).await.unwrap_err().code, Code::NotFound);
    assert!(gateway.exports().await.unwrap().is_empty());
    assert_eq!(site.log_in("test", TWO).await.0, IN, "it is open again");

    assert_eq!(gateway.export_remove(key("none"), false).await.unwrap_err().code, Code::NotFound);
    gateway.export_remove(key("none"), true).await.unwrap();
}

impl Site {
    /// Until so many are connected.
    async fn alone_but(&self, sessions: usize) {
        let start = Instant::now();
        loop {
            let all = self.gateway().sessions().await.unwrap();
            if all.len() == sessions && all.iter().all(|session| session.initiator.is_some()) {
                return;
            }
            assert!(start.elapsed() < LIMIT, "not in time: {all:?}");
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_is_after_a_restart_what_it_was_and_only_one_passes_for_the_original() {
    let site = site_at("127.0.0.1:0").await;
    let (tap, link) = connected(&site, 62).await;
    site.settled("web01").await;
    for called in ["own", "stand-in", "other"] {
        site.image("now", true, Some(called)).await;
    }
    let own = site.export("own", ExportCreate { lun: Some(7), ..with_chap() }).await.unwrap();
    let wanted = ExportCreate { as_original: true, ..for_one() };
    let stand_in = site.export("stand-in", wanted.clone()).await.unwrap();
    let refused = site.export("other", wanted.clone()).await.unwrap_err();
    assert!(refused.code == Code::Conflict && refused.detail.contains("stand-in"), "{refused:?}");
    let original = gateway_iscsi::Identity::of_volume(tap.volume());
    assert_eq!(stand_in.naa, format!("{:032x}", original.naa));
    assert_ne!(own.naa, stand_in.naa);
    assert_eq!(site.log_in("own", ONE).await.0, NOT_PROVED, "the security stage cannot be left out");
    drop(link);
    site.alone().await;

    let (site, told) = restarted_at("127.0.0.1:0", site).await;
    told.unwrap();
    let exports = site.gateway().exports().await.unwrap();
    let kept = |export: &ExportView| (export.lun, export.naa.clone(), export.created, export.problem.clone());
    assert_eq!(exports.iter().map(kept).collect::<Vec<_>>(), [kept(&own), kept(&stand_in)]);
    assert!(exports[0].uri.ends_with(":own/7"), "{}", exports[0].uri);
    assert_eq!(exports[0].chap_user.as_deref(), Some("esx"));
    assert_eq!(site.log_in("own", ONE).await.0, NOT_PROVED);
    let image = site.gateway().image(key("own")).await.unwrap();
    assert!(image.uris.contains(&exports[0].uri), "{image:?}");

    // An image takes its rules with it, secrets included.
    site.alone().await;
    let file = site.path("data/iscsi/exports.json");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("esx") && !text.contains(SECRET), "{text}");
    site.gateway().image_remove(key("own"), false).await.unwrap();
    assert!(!std::fs::read_to_string(&file).unwrap().contains("esx"));
    site.gateway().export_remove(key("stand-in"), false).await.unwrap();
    site.export("other", wanted).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_rules_is_never_for_other_machines() {
    let site = site_at("127.0.0.1:0").await;
    let (_tap, link) = connected(&site, 63).await;
    site.settled("web01").await;
    site.image("now", false, Some("open")).await;
    site.image("now", false, Some("closed")).await;
    site.export("open", plain()).await.unwrap();
    drop(link);

    let (site, told) = restarted_at("0.0.0.0:0", site).await;
    let told = told.unwrap_err().to_string();
    assert!(told.contains("0.0.0.0:0") && told.contains("access rules: open;"), "{told}");
    site.gateway().export_remove(key("open"), false).await.unwrap();

    let (site, told) = restarted_at("0.0.0.0:0", site).await;
    told.unwrap();
    let refused = site.export("open", plain()).await.unwrap_err();
    assert!(refused.code == Code::Invalid && refused.correction.contains("--acl"), "{refused:?}");
    site.export("closed", for_one()).await.unwrap();
    assert_eq!(site.log_in("open", TWO).await.0, IN, "this machine is no other one");

    // Without a portal there is nothing to export to.
    site.handle.stop(GRACE).await;
    let handle = Gateway::start(config(site.tmp.path(), &site.hub)).await.unwrap();
    let site = Site { handle, ..site };
    assert_eq!(site.export("open", for_one()).await.unwrap_err().code, Code::Conflict);
    assert_eq!(site.gateway().exports().await.unwrap()[0].uri, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_key_or_its_list_nobody_logs_in_and_all_else_is_served() {
    let site = site_at("127.0.0.1:0").await;
    let (_tap, link) = connected(&site, 64).await;
    site.settled("web01").await;
    site.image("now", false, Some("secret")).await;
    site.export("secret", with_chap()).await.unwrap();
    drop(link);

    let (secrets, aside) = (site.path("data/iscsi/secrets.key"), site.path("aside"));
    std::fs::rename(&secrets, &aside).unwrap();
    let (site, _) = restarted_at("127.0.0.1:0", site).await;
    let export = site.gateway().export(key("secret")).await.unwrap();
    assert!(export.problem.unwrap().contains("secrets.key"));
    assert_eq!(site.log_in("secret", ONE).await.0, UNAVAILABLE);
    site.image("now", false, Some("next")).await;
    assert_eq!(site.export("next", with_chap()).await.unwrap_err().code, Code::Internal);
    assert!(!secrets.exists(), "a second key would lock what the first has sealed");

    std::fs::rename(&aside, &secrets).unwrap();
    let (site, _) = restarted_at("127.0.0.1:0", site).await;
    assert_eq!(site.log_in("secret", ONE).await.0, NOT_PROVED, "it can be proved again");

    std::fs::write(site.path("data/iscsi/exports.json"), b"{\"version\": 1, \"exp").unwrap();
    let (site, told) = restarted_at("127.0.0.1:0", site).await;
    told.unwrap();
    let problem = site.gateway().exports().await.unwrap_err();
    assert!(problem.cause.contains("exports.json"), "{problem:?}");
    assert_eq!(site.log_in("secret", ONE).await.0, UNAVAILABLE);
    assert!(!read(site.path("nbd.sock"), "secret".to_owned()).await.unwrap().is_empty());
    assert!(site.export("next", for_one()).await.is_err());
    let kept = std::fs::read(site.path("data/iscsi/exports.json")).unwrap();
    assert_eq!(kept, b"{\"version\": 1, \"exp", "what is damaged is left for people to look at");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_log_in_can_be_changed_and_who_may_not_any_more_is_logged_out() {
    let site = site_at("127.0.0.1:0").await;
    let (_tap, link) = connected(&site, 65).await;
    site.settled("web01").await;
    site.image("now", true, Some("test")).await;
    let gateway = site.gateway();
    let set = |access: ExportAccess| gateway.export_access(key("test"), access);
    let list = |names: &[&str]| ExportAccess {
        acl: Some(names.iter().map(|name| (*name).to_owned()).collect()),
        ..ExportAccess::default()
    };
    assert_eq!(set(list(&[ONE])).await.unwrap_err().code, Code::NotFound);
    let made = site.export("test", for_one()).await.unwrap();
    let (status, one) = site.log_in("test", ONE).await;
    assert_eq!(status, IN);

    // Who stays on the list stays.
    let export = set(list(&[TWO, ONE])).await.unwrap();
    assert_eq!((export.acl.len(), &export.naa, export.created), (2, &made.naa, made.created));
    let (status, two) = site.log_in("test", TWO).await;
    assert_eq!(status, IN);
    site.alone_but(2).await;
    set(list(&[TWO])).await.unwrap();
    is_ended(one).await;
    assert_eq!(site.log_in("test", ONE).await.0, NOT_ON_THE_LIST);
    site.alone_but(1).await;

    // A secret is asked for from now on, and not on the old list any more.
    let chap = ChapLogin { user: "esx".to_owned(), secret: SECRET.to_owned() };
    let mutual = ExportAccess { mutual_chap: Some(chap.clone()), ..ExportAccess::default() };
    assert_eq!(set(mutual.clone()).await.unwrap_err().code, Code::Invalid, "without a secret of their own");
    let wanted = ExportAccess { chap: Some(chap), ..list(&[]) };
    assert_eq!(set(wanted).await.unwrap().chap_user.as_deref(), Some("esx"));
    assert_eq!(site.log_in("test", TWO).await.0, NOT_PROVED);
    assert_eq!(set(mutual).await.unwrap_err().code, Code::Invalid, "one secret in both directions");
    // Who is in proved what there was to prove.
    site.alone_but(1).await;
    drop((two, link));
    site.alone().await;

    let (site, told) = restarted_at("127.0.0.1:0", site).await;
    told.unwrap();
    assert_eq!(site.log_in("test", ONE).await.0, NOT_PROVED);
    let open = ExportAccess { no_chap: true, ..ExportAccess::default() };
    site.gateway().export_access(key("test"), open.clone()).await.unwrap();
    let (status, _one) = site.log_in("test", ONE).await;
    assert_eq!(status, IN);
    site.gateway().export_access(key("test"), list(&[ONE])).await.unwrap();
    site.alone_but(1).await;

    // Open to all it may not be where all can come.
    let (site, told) = restarted_at("0.0.0.0:0", site).await;
    told.unwrap();
    let refused = site.gateway().export_access(key("test"), list(&[])).await.unwrap_err();
    assert!(refused.code == Code::Invalid && refused.correction.contains("--acl"), "{refused:?}");
    assert_eq!(site.gateway().export(key("test")).await.unwrap().acl, [ONE]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_target_has_the_disks_of_several_exports_and_one_set_of_rules() {
    let site = site_at("127.0.0.1:0").await;
    let (_tap, link) = connected(&site, 66).await;
    site.settled("web01").await;
    for called in ["main", "more", "third"] {
        site.image("now", true, Some(called)).await;
    }
    let beside = |lun| ExportCreate { beside: Some("main".to_owned()), lun: Some(lun), ..plain() };
    assert_eq!(site.export("more", beside(2)).await.unwrap_err().code, Code::NotFound);
    let main = site.export("main", for_one()).await.unwrap();
    assert_eq!(site.export("more", beside(1)).await.unwrap_err().code, Code::Conflict, "the number is taken");
    let more = site.export("more", beside(2)).await.unwrap();
    assert_eq!((&more.target, more.lun, &more.acl), (&main.target, 2, &main.acl));
    assert!(more.uri.ends_with(":main/2") && more.naa != main.naa, "{more:?}");
    let chained = ExportCreate { beside: Some("more".to_owned()), ..beside(3) };
    assert_eq!(site.export("third", chained).await.unwrap_err().code, Code::Invalid);
    let access = ExportAccess { acl: Some(Vec::new()), ..ExportAccess::default() };
    assert_eq!(site.gateway().export_access(key("more"), access).await.unwrap_err().code, Code::Invalid);

    // Only one name leads to each disk.
    assert_eq!(site.log_in("more", ONE).await.0, NO_SUCH_TARGET);
    drop(link);
    let (site, told) = restarted_at("127.0.0.1:0", site).await;
    told.unwrap();
    assert_eq!(site.log_in("main", TWO).await.0, NOT_ON_THE_LIST);
    let (status, held) = site.log_in("main", ONE).await;
    assert_eq!(status, IN);
    site.alone_but(1).await;
    let exports = site.gateway().exports().await.unwrap();
    assert_eq!(exports.iter().map(|export| export.sessions).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(site.export("third", beside(3)).await.unwrap_err().code, Code::Conflict, "somebody is in");
    assert_eq!(site.gateway().export_remove(key("more"), false).await.unwrap_err().code, Code::Conflict);
    assert!(site.gateway().image_remove(key("more"), false).await.is_err());
    site.gateway().image_remove(key("more"), true).await.unwrap();
    is_ended(held).await;
    assert_eq!(site.gateway().exports().await.unwrap().len(), 1);

    site.export("third", beside(3)).await.unwrap();
    let refused = site.gateway().export_remove(key("main"), false).await.unwrap_err();
    assert!(refused.detail.contains("third"), "{refused:?}");
    site.gateway().export_remove(key("main"), true).await.unwrap();
    assert!(site.gateway().exports().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn initiators_are_told_of_the_address_that_is_advertised() {
    let site = site_at("127.0.0.1:0,advertise=192.0.2.7:3260").await;
    let (_tap, _link) = connected(&site, 67).await;
    site.settled("web01").await;
    site.image("now", false, Some("test")).await;
    let export = site.export("test", for_one()).await.unwrap();
    assert_eq!(export.uri, "iscsi://192.0.2.7:3260/iqn.2026-01.example.chronogate:test/1");
    let lines = site.gateway().export_connect(key("test"), None).await.unwrap();
    assert_eq!(lines.portal, "192.0.2.7:3260");
}
