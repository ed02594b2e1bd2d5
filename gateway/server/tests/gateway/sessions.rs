//! NBD clients over their lives: what they are told, how they are listed, ended, and find everything again.

use super::images::{is_empty, written};
use super::*;

/// A client in its handshake.
pub(super) struct Haggling(UnixStream);

impl Haggling {
    pub(super) fn new(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.read_exact(&mut [0; 18]).unwrap();
        stream.write_all(&[0, 0, 0, 3]).unwrap();
        Self(stream)
    }

    fn option(&mut self, number: u32, data: &[u8]) {
        let length = u32::try_from(data.len()).unwrap().to_be_bytes();
        self.0.write_all(&[b"IHAVEOPT", &number.to_be_bytes()[..], &length, data].concat()).unwrap();
    }

    fn reply(&mut self) -> (u32, Vec<u8>) {
        let mut header = [0; 20];
        self.0.read_exact(&mut header).unwrap();
        let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        let mut data = vec![0; usize::try_from(number(16)).unwrap()];
        self.0.read_exact(&mut data).unwrap();
        (number(12), data)
    }

    /// Names with their descriptions.
    pub(super) fn list(&mut self) -> Vec<(String, String)> {
        self.option(3, &[]);
        let mut all = Vec::new();
        loop {
            let (kind, data) = self.reply();
            if kind == 1 {
                return all;
            }
            let length = usize::try_from(u32::from_be_bytes(data[..4].try_into().unwrap())).unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            all.push((text(&data[4..4 + length]), text(&data[4 + length..])));
        }
    }

    /// Size and description of an export, or what is said against it.
    fn info(&mut self, name: &str) -> Result<(u64, String), String> {
        let length = u32::try_from(name.len()).unwrap().to_be_bytes();
        self.option(6, &[&length, name.as_bytes(), &[0, 1, 0, 2]].concat());
        let (mut size, mut description) = (0, String::new());
        loop {
            match self.reply() {
                (1, _) => return Ok((size, description)),
                (3, data) if data[..2] == [0, 0] => {
                    size = u64::from_be_bytes(data[2..10].try_into().unwrap())
                }
                (3, data) => description = String::from_utf8(data[2..].to_vec()).unwrap(),
                (_, text) => return Err(String::from_utf8(text).unwrap()),
            }
        }
    }
}

/// On a thread where it may block.
pub(super) async fn there<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_with_ten_thousand_bookmarks_is_short_and_says_how_to_name_the_others() {
    let site = Site::new().await;
    let (tap, _link) = connected(&site, 51).await;
    tap.play(|w| (0..10_000).map(|n| w.bookmark(&name(&format!("b{n}")))).collect::<Vec<_>>());
    site.settled("web01").await;
    let image = site.image("b17", true, Some("test")).await;
    let socket = site.path("nbd.sock");
    let listed = there(move || Haggling::new(&socket).list()).await;
    assert_eq!(listed.len(), 2 + 100);
    let (head, text) = &listed[0];
    assert_eq!(head, "web01");
    assert!(text.contains("more bookmarks; any moment opens as web01@POINT"), "{text}");
    let hidden: usize = text.split(" more").next().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    let all = site.gateway().bookmarks(name("web01"), None, 100_000).await.unwrap();
    assert_eq!(hidden, all.iter().filter(|b| b.selectable).count() - 100);
    let (name, text) = &listed[1];
    assert_eq!(name, "test");
    assert!(text.starts_with(&format!("image of web01 (lsn:{} of ", image.lsn.get())), "{text}");
    assert!(text.ends_with("crash-consistent), read/write"), "{text}");
    let newest: Vec<String> = (9_900..10_000).rev().map(|n| format!("web01@b{n}")).collect();
    assert!(listed[2..].iter().map(|(name, _)| name).eq(&newest));
    assert!(listed[2].1.starts_with("web01 at b9999 (lsn:"), "{}", listed[2].1);
    // One that is not listed opens all the same.
    let socket = site.path("nbd.sock");
    let (_, text) = there(move || Haggling::new(&socket).info("web01@b3")).await.unwrap();
    assert!(
        text.starts_with("web01 (lsn:") && text.ends_with(" old, crash-consistent), read-only"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_means_no_moment_is_refused_with_those_beside_it() {
    let site = Site::new().await;
    let (tap, _link) = connected(&site, 52).await;
    tap.play(|w| vec![w.bookmark(&name("before-upgrade")), w.restart(5, Some(SyncCause::UncleanStop))]);
    tap.play(|w| vec![w.batch(3), w.end_sync(), w.batch(2)]);
    site.settled("web01").await;
    let oracle = tap.oracle();
    let mut gone = None;
    for lsn in oracle.lsns() {
        if site.gateway().resolve(name("web01"), Point::Lsn(lsn)).await.is_err() {
            gone = Some(lsn);
        }
    }
    let (socket, gone) = (site.path("nbd.sock"), gone.unwrap().get());
    there(move || {
        let mut client = Haggling::new(&socket);
        let mut said = |name: &str| client.info(name).unwrap_err();
        let text = said("web01@upgrade");
        assert!(text.contains("no bookmark upgrade; did you mean before-upgrade"), "{text}");
        let text = said(&format!("web01@lsn:{gone}"));
        assert!(text.contains("choose lsn:"), "{text}");
        let text = said("web01@1999-01-01T00:00:00Z");
        let offered =
            text.split("the oldest point that opens is ").nth(1).unwrap_or_else(|| panic!("{text}"));
        let offered = offered.split(' ').next().unwrap();
        let mut other = Haggling::new(&socket);
        assert!(other.info(&format!("web01@{offered}")).is_ok(), "{offered} is offered, and refused");
        let text = said("web01@no point");
        assert!(text.contains("-10m") && text.contains("lsn:NUMBER"), "{text}");
        let text = said("web02");
        assert!(text.contains("there is no volume web02"), "{text}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_listed_with_what_it_does_and_ended_by_hand() {
    let site = Site::new().await;
    let (_tap, _link) = connected(&site, 53).await;
    site.settled("web01").await;
    site.image("now", true, Some("test")).await;
    let mut client = written(&site, vec![(0, vec![7; 9000])]).await;
    let socket = site.path("nbd.sock");
    let other = there(move || open(&socket, "test").unwrap()).await;
    let sessions = site.gateway().sessions().await.unwrap();
    assert_eq!(sessions.len(), 2);
    let session = &sessions[0];
    let (written, requests) = (session.bytes_written, session.requests);
    assert_eq!((session.at.as_str(), session.export.as_deref()), ("gateway", Some("test")));
    assert!(session.client.starts_with(&format!("process {}", std::process::id())), "{session:?}");
    assert_eq!((written, session.bytes_read, session.in_flight), (9000, 0, 0));
    assert!(requests >= 2 && session.tls.is_none() && session.certificate.is_none());
    let id = session.id;
    site.gateway().session_end(id).await.unwrap();
    assert_eq!(site.gateway().session_end(id).await.unwrap_err().code, Code::NotFound);
    there(move || assert!(client.read_exact(&mut [0; 512]).is_err())).await;
    let left = site.gateway().sessions().await.unwrap();
    assert_eq!(left.iter().map(|s| s.id).collect::<Vec<_>>(), [sessions[1].id]);
    drop(other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_taken_away_from_its_clients_and_as_often_as_one_likes() {
    let site = Site::new().await;
    let (_tap, _link) = connected(&site, 54).await;
    site.settled("web01").await;
    let image = site.image("now", true, Some("test")).await;
    let which = || ImageKey::Name(name("test"));
    let mut clients = Vec::new();
    for _ in 0..10 {
        let socket = site.path("nbd.sock");
        clients.push(there(move || open(&socket, "test").unwrap().0).await);
    }
    let socket = site.path("nbd.sock");
    let mut bystander = there(move || open(&socket, "web01").unwrap().0).await;
    let refused = site.gateway().image_remove(which(), false).await.unwrap_err();
    assert_eq!(refused.code, Code::Conflict);
    let first = site.gateway().sessions().await.unwrap()[0].id;
    assert!(refused.cause.contains(&format!("session {first} (process ")), "{refused:?}");
    assert!(refused.cause.ends_with("2 more") && refused.correction.contains("--force"), "{refused:?}");
    let both = tokio::join!(
        site.gateway().image_remove(which(), true),
        site.gateway().image_remove(ImageKey::Id(image.id), true)
    );
    assert_eq!(both, (Ok(()), Ok(())));
    assert_eq!(site.gateway().image_remove(which(), true).await, Ok(()));
    assert_eq!(site.gateway().image_remove(which(), false).await.unwrap_err().code, Code::NotFound);
    let socket = site.path("nbd.sock");
    there(move || {
        for mut client in clients {
            assert!(client.read_exact(&mut [0; 512]).is_err());
        }
        assert!(open(&socket, "test").is_err());
        bystander.read_exact(&mut [0; 512]).unwrap();
    })
    .await;
    assert!(is_empty(&site.path("data/overlays")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_taken_away_while_clients_come_and_go() {
    let site = Site::new().await;
    let (_tap, _link) = connected(&site, 55).await;
    site.settled("web01").await;
    for _ in 0..5 {
        site.image("now", true, Some("test")).await;
        let (stop, stopped) = (Arc::new(std::sync::atomic::AtomicBool::new(false)), site.path("nbd.sock"));
        let go_on = Arc::clone(&stop);
        let coming = std::thread::spawn(move || {
            let mut opened = 0;
            while !go_on.load(std::sync::atomic::Ordering::SeqCst) {
                if let Ok((mut client, _)) = open(&stopped, "test") {
                    opened += 1;
                    let _ = client.read_exact(&mut [0; 4096]);
                }
            }
            opened
        });
        site.until("web01", |_| true).await;
        site.gateway().image_remove(ImageKey::Name(name("test")), true).await.unwrap();
        assert!(site.gateway().images().await.unwrap().is_empty());
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        there(move || coming.join().unwrap()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_grew_is_that_large_for_new_clients_and_a_moment_stays_what_it_was() {
    let site = Site::new().await;
    let (tap, link) = connected(&site, 56).await;
    let before = site.settled("web01").await;
    let image = site.image("now", false, Some("test")).await;
    let at = format!("web01@lsn:{}", before.durable_lsn.get());
    tap.play(|w| vec![w.grow(16), w.batch(5)]);
    let after = site.settled("web01").await;
    assert_eq!(after.size, before.size + 16 * 4096);
    let socket = site.path("nbd.sock");
    let (old, new) = (before.size, after.size);
    let sizes = move || {
        let mut client = Haggling::new(&socket);
        let mut size = |name: &str| client.info(name).unwrap().0;
        (size(&at), size("test"), size("web01"))
    };
    assert_eq!(there(sizes.clone()).await, (old, old, new));
    // All the same for those that come back after a restart, and before the tap has.
    link.stop().await;
    let site = site.restarted().await;
    assert_eq!(there(sizes).await, (old, old, new));
    assert_eq!(site.gateway().image(ImageKey::Id(image.id)).await.unwrap().size, old);
}
