//! Images over their life: written on, cloned, copied, committed, removed.

use super::*;

/// Writes on the image `test` as a foreign client does, and flushes; the client, which has it open still.
pub(super) async fn written(site: &Site, writes: Vec<(u64, Vec<u8>)>) -> NbdClient<UnixStream> {
    let socket = site.path("nbd.sock");
    let write = move || {
        let (mut client, _) = open(&socket, "test").unwrap();
        for (at, data) in writes {
            client.seek(SeekFrom::Start(at)).unwrap();
            client.write_all(&data).unwrap();
        }
        client.flush().unwrap();
        client
    };
    tokio::task::spawn_blocking(write).await.unwrap()
}

/// Is nothing of any image in it?
pub(super) fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().all(|entry| entry.unwrap().file_name() == "STORE")
}

/// Removes the image once nobody has it open any more.
async fn removed(site: &Site, key: ImageKey) {
    let start = Instant::now();
    while let Err(e) = site.gateway().image_remove(key.clone(), false).await {
        assert!(e.code == Code::Conflict && start.elapsed() < LIMIT, "{e:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writable_image_keeps_its_writes_over_a_restart() {
    let site = Site::new().await;
    let (tap, _link) = connected(&site, 8).await;
    site.settled("web01").await;
    let image = site.image("now", true, Some("test")).await;
    assert!(image.uri.starts_with("nbd+unix:///test?socket=/"), "{}", image.uri);
    drop(written(&site, vec![(5000, vec![7; 9000])]).await);
    let mut expected = tap.oracle().image_at(tap.volume(), image.lsn);
    expected[5000..14000].fill(7);
    assert!(read(site.path("nbd.sock"), "test".to_owned()).await.unwrap() == expected);
    let site = site.restarted().await;
    assert!(read(site.path("nbd.sock"), "test".to_owned()).await.unwrap() == expected);
    let listed = site.gateway().images().await.unwrap();
    assert_eq!((listed.len(), listed[0].id, listed[0].used_bytes), (1, image.id, Some(3 * 4096)));
    let same_name = site.gateway().image_create(wish("now", false, Some("test")), Point::Now).await;
    assert_eq!(same_name.unwrap_err().code, Code::Conflict);
}

/// Who looks at the status sees which image it is, and what to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_of_an_image_is_named_in_the_status() {
    let site = Site::new().await;
    let (_tap, _link) = connected(&site, 8).await;
    site.settled("web01").await;
    let image = site.image("now", true, Some("test")).await;
    drop(written(&site, vec![(0, vec![7; 8192])]).await);
    let reasons = |site: &Site| {
        let gateway = Arc::clone(site.gateway());
        async move { gateway.status().await.unwrap().reasons.join("; ") }
    };
    assert!(!reasons(&site).await.contains("image test"), "{}", reasons(&site).await);
    let file = |site: &Site, name: &str| site.path(&format!("data/overlays/{}/{name}", image.id));
    let spoil = |path: PathBuf, at: u64| {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0x55], at).unwrap();
    };
    spoil(file(&site, "data"), 77);
    assert!(read(site.path("nbd.sock"), "test".to_owned()).await.is_err());
    let said = reasons(&site).await;
    assert!(said.contains("image test") && said.contains("rotted") && said.contains("byte 0"), "{said}");
    let maps = std::fs::read_dir(file(&site, "")).unwrap().map(|entry| entry.unwrap().path());
    let map = maps.filter(|path| path.to_str().unwrap().contains("map-")).max().unwrap();
    let site = site.restarted().await;
    spoil(map, 9);
    assert_eq!(site.gateway().images().await.unwrap()[0].used_bytes, None);
    let said = reasons(&site).await;
    assert!(said.contains("image test cannot be opened") && said.contains("mapping log"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_of_an_image_survives_its_parent_and_a_restart() {
    let site = Site::new().await;
    let (tap, _link) = connected(&site, 8).await;
    site.settled("web01").await;
    let image = site.image("now", true, Some("test")).await;
    drop(written(&site, vec![(0, vec![7; 9000])]).await);
    let mut expected = tap.oracle().image_at(tap.volume(), image.lsn);
    expected[..9000].fill(7);
    let key = || ImageKey::Id(image.id);
    for (called, writable) in [("fixed", false), ("branch", true)] {
        let wanted = ImageClone { writable, name: Some(name(called)), quota_bytes: None };
        let made = site.gateway().image_clone(key(), wanted).await.unwrap();
        assert_eq!((made.parent_id, made.parent.as_ref()), (Some(image.id), Some(&image.name)));
        assert_eq!(
            (made.lsn, made.writable, made.used_bytes),
            (image.lsn, writable, writable.then_some(3 * 4096))
        );
    }
    let taken = ImageClone { writable: false, name: Some(name("fixed")), quota_bytes: None };
    assert_eq!(site.gateway().image_clone(key(), taken).await.unwrap_err().code, Code::Conflict);
    let small = ImageClone { writable: true, name: None, quota_bytes: Some(4096) };
    assert_eq!(site.gateway().image_clone(key(), small).await.unwrap_err().code, Code::NoSpace);
    // More than a file may hold here is no fault of the gateway's, where it is more.
    for quota in [1 << 45, 1 << 56] {
        let large = ImageCreate { quota_bytes: Some(quota), ..wish("now", true, None) };
        let point = large.at.parse().unwrap();
        match site.gateway().image_create(large, point).await {
            Ok(made) => assert_eq!(made.quota_bytes, Some(quota)),
            Err(refused) => assert_eq!(refused.code, Code::Invalid, "{refused:?}"),
        }
    }
    removed(&site, key()).await;
    let site = site.restarted().await;
    for called in ["fixed", "branch"] {
        assert!(read(site.path("nbd.sock"), called.to_owned()).await.unwrap() == expected, "{called}");
    }
}

/// Materializes the image, which must go well.
async fn materialized(site: &Site, key: ImageKey) {
    let job = site.gateway().image_materialize(key).await.unwrap();
    let ended = site.job_done(job).await;
    assert_eq!((ended.state, ended.done_bytes), (JobState::Done, ended.total_bytes), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_materialized_while_it_is_in_use() {
    let site = Site::new().await;
    let (tap, _link) = connected(&site, 8).await;
    site.settled("web01").await;
    let image = site.image("now", true, Some("test")).await;
    let client = written(&site, vec![(5000, vec![7; 9000])]).await;
    let key = || ImageKey::Id(image.id);
    assert_eq!(site.gateway().image(key()).await.unwrap().materialized_bytes, None);
    materialized(&site, key()).await;
    let (mut client, socket) = (client, site.path("nbd.sock"));
    let size = usize::try_from(image.size).unwrap();
    let seen = tokio::task::spawn_blocking(move || {
        let mut all = vec![0; size];
        client.seek(SeekFrom::Start(0)).unwrap();
        client.read_exact(&mut all).unwrap();
        all
    });
    let below = tap.oracle().image_at(tap.volume(), image.lsn);
    let mut expected = below.clone();
    expected[5000..14000].fill(7);
    assert!(seen.await.unwrap() == expected, "who has it open sees no change");
    assert!(read(socket, "test".to_owned()).await.unwrap() == expected);
    let content = std::fs::read(site.path(&format!("data/flats/{}/content", image.id))).unwrap();
    assert!(content[..size] == below, "the copy is a plain disk image of the moment");
    assert_eq!(site.gateway().image(key()).await.unwrap().materialized_bytes, Some(image.size));
    let again = site.gateway().image_materialize(key()).await.unwrap_err();
    assert_eq!(again.code, Code::Conflict, "{again:?}");
    removed(&site, key()).await;
    assert!(is_empty(&site.path("data/flats")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_a_stop_interrupted_goes_on_by_itself() {
    let site = Site::new().await;
    let (tap, _link) = connected(&site, 8).await;
    site.settled("web01").await;
    let image = site.image("now", false, Some("test")).await;
    let key = || ImageKey::Id(image.id);
    materialized(&site, key()).await;
    let dir = site.path(&format!("data/flats/{}", image.id));
    // As a crash leaves it that comes before the last note: the content is anything.
    let Site { tmp, hub, handle } = site;
    handle.stop(GRACE).await;
    let note = std::fs::read_to_string(dir.join("note")).unwrap();
    let done = format!("\"done\":{}", image.size);
    assert!(note.contains(&done), "{note}");
    std::fs::write(dir.join("note"), note.replace(&done, "\"done\":4096")).unwrap();
    let mut content = std::fs::read(dir.join("content")).unwrap();
    content[4096..].fill(0xee);
    std::fs::write(dir.join("content"), content).unwrap();
    // A copy of an image that is gone.
    std::fs::create_dir(tmp.path().join("data/flats/99")).unwrap();
    let handle = Gateway::start(config(tmp.path(), &hub)).await.unwrap();
    let site = Site { tmp, hub, handle };
    let start = Instant::now();
    while site.gateway().image(key()).await.unwrap().materialized_bytes != Some(image.size) {
        assert!(start.elapsed() < LIMIT, "it does not go on");
        tokio::task::yield_now().await;
    }
    let expected = tap.oracle().image_at(tap.volume(), image.lsn);
    assert!(read(site.path("nbd.sock"), "test".to_owned()).await.unwrap() == expected);
    assert!(!site.path("data/flats/99").exists());
}

/// A tap as far as commits see one.
fn protected(site: &Site, refuse: bool) -> Arc<std::sync::Mutex<Vec<String>>> {
    let seen: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
    let told = Arc::clone(&seen);
    site.gateway().protect_with(Box::new(move |name, disk, _| {
        told.lock().unwrap().push(format!("{name} {}", disk.display()));
        if refuse { Err("no socket".to_owned()) } else { Ok(vec![format!("nbd://tap/{name}")]) }
    }));
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_committed_image_is_a_protected_disk_with_all_that_was_written() {
    let site = Site::new().await;
    let (tap, _link) = connected(&site, 8).await;
    site.settled("web01").await;
    let image = site.image("now", true, Some("test")).await;
    let key = || ImageKey::Id(image.id);
    let wish = |called: &str| ImageCommit { name: name(called) };
    let alone = site.gateway().image_commit(key(), wish("web02")).await.unwrap_err();
    assert!(alone.detail.contains("nobody here protects disks"), "{alone:?}");
    let seen = protected(&site, false);
    let taken = site.gateway().image_commit(key(), wish("web01")).await.unwrap_err();
    assert_eq!(taken.code, Code::Conflict);
    let size = usize::try_from(image.size).unwrap();
    let writes = vec![(5000, vec![7; 9000]), (image.size - 100, vec![8; 100]), (20_480, vec![0; 8192])];
    let client = written(&site, writes).await;
    let busy = site.gateway().image_commit(key(), wish("web02")).await.unwrap();
    let busy = site.job_done(busy).await;
    assert_eq!(busy.state, JobState::Failed);
    assert!(busy.error.unwrap().detail.contains("is open"), "it waits for nobody");
    assert_eq!(site.gateway().image(key()).await.unwrap().materialized_bytes, Some(image.size));
    // What rots in the copy meanwhile does not become production.
    let content = site.path(&format!("data/flats/{}/content", image.id));
    let mut bytes = std::fs::read(&content).unwrap();
    bytes[0] ^= 1;
    let below = tap.oracle().image_at(tap.volume(), image.lsn);
    let zero = below.chunks_exact(4096).position(|block| block.iter().all(|b| *b == 0)).unwrap();
    bytes[zero * 4096..][..4096].fill(0xee);
    std::fs::write(&content, bytes).unwrap();
    drop(client);
    let start = Instant::now();
    let done = loop {
        let job = site.gateway().image_commit(key(), wish("web02")).await.unwrap();
        let job = site.job_done(job).await;
        if job.state == JobState::Done {
            break job;
        }
        assert!(start.elapsed() < LIMIT, "{job:?}");
    };
    assert_eq!(done.uris, ["nbd://tap/web02"]);
    assert_eq!(*seen.lock().unwrap(), [format!("web02 {}", done.path)]);
    let mut expected = tap.oracle().image_at(tap.volume(), image.lsn);
    expected[5000..14_000].fill(7);
    expected[size - 100..].fill(8);
    expected[20_480..28_672].fill(0);
    assert!(std::fs::read(&done.path).unwrap() == expected);
    assert_eq!(site.gateway().image(key()).await.unwrap_err().code, Code::NotFound);
    for dir in ["data/flats", "data/overlays"] {
        assert!(is_empty(&site.path(dir)), "{dir}");
    }
    let again = site.image("now", false, None).await;
    let again = site.gateway().image_commit(ImageKey::Id(again.id), wish("web02")).await.unwrap_err();
    assert_eq!(again.code, Code::Conflict);
    let site = site.restarted().await;
    let disks = site.gateway().committed_disks().unwrap();
    assert_eq!(disks, [(name("web02"), PathBuf::from(&done.path))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_a_crash_cut_short_leaves_the_image() {
    let site = Site::new().await;
    let (tap, _link) = connected(&site, 8).await;
    site.settled("web01").await;
    let image = site.image("now", true, Some("test")).await;
    materialized(&site, ImageKey::Id(image.id)).await;
    let Site { tmp, hub, handle } = site;
    handle.stop(GRACE).await;
    // The note was durable and the copy was moved; the image was not gone yet.
    let dir = tmp.path().join("data/volumes/web02");
    std::fs::create_dir_all(&dir).unwrap();
    let content = tmp.path().join(format!("data/flats/{}/content", image.id));
    std::fs::rename(content, dir.join("disk")).unwrap();
    std::fs::write(dir.join("note"), format!(r#"{{"chronogate_disk":1,"image":{},"whole":true}}"#, image.id))
        .unwrap();
    let handle = Gateway::start(config(tmp.path(), &hub)).await.unwrap();
    let site = Site { tmp, hub, handle };
    assert!(!dir.exists(), "the image still is one");
    let expected = tap.oracle().image_at(tap.volume(), image.lsn);
    assert!(read(site.path("nbd.sock"), "test".to_owned()).await.unwrap() == expected);
    // Now it works, and a disk that cannot be protected is not lost.
    protected(&site, true);
    let start = Instant::now();
    let failed = loop {
        let job = site.gateway().image_commit(ImageKey::Id(image.id), ImageCommit { name: name("web02") });
        let error = site.job_done(job.await.unwrap()).await.error.unwrap();
        if !error.detail.contains("is open") {
            break error;
        }
        assert!(start.elapsed() < LIMIT, "{error:?}");
    };
    assert_eq!(failed.cause, "no socket", "{failed:?}");
    assert!(std::fs::read(dir.join("disk")).unwrap() == expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_in_use_is_not_removed() {
    let site = Site::new().await;
    let (_tap, _link) = connected(&site, 9).await;
    site.settled("web01").await;
    let image = site.image("now", true, None).await;
    let socket = site.path("nbd.sock");
    let opened = image.name.to_string();
    let client = tokio::task::spawn_blocking(move || open(&socket, &opened).unwrap()).await.unwrap();
    let which = ImageKey::Name(image.name.clone());
    assert_eq!(site.gateway().image_remove(which.clone(), false).await.unwrap_err().code, Code::Conflict);
    drop(client);
    removed(&site, which.clone()).await;
    assert_eq!(site.gateway().image(ImageKey::Id(image.id)).await.unwrap_err().code, Code::NotFound);
    assert!(is_empty(&site.path("data/overlays")));
    let next = site.image("now", false, None).await;
    assert!(next.id > image.id);
}

/// The record of the image is lost with the frame that it lay in, and with the index, which knew it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_on_an_image_that_the_journal_has_lost_stays_on_the_disk() {
    let site = Site::new().await;
    let (_tap, link) = connected(&site, 8).await;
    site.settled("web01").await;
    let image = site.image("now", true, Some("test")).await;
    drop(written(&site, vec![(0, vec![7; 9000])]).await);
    link.stop().await;
    let Site { tmp, hub, handle } = site;
    handle.stop(GRACE).await;
    let segments = std::fs::read_dir(tmp.path().join("data/store/seg")).unwrap();
    let mut segments: Vec<PathBuf> = segments.map(|e| e.unwrap().path()).collect();
    segments.sort();
    let mut bytes = std::fs::read(&segments[0]).unwrap();
    // The image was recorded last.
    let last = bytes.iter().rposition(|&b| b != 0).unwrap();
    bytes[last] ^= 1;
    std::fs::write(&segments[0], bytes).unwrap();
    std::fs::remove_dir_all(tmp.path().join("data/store/fjall")).unwrap();
    let handle = Gateway::start(config(tmp.path(), &hub)).await.unwrap();
    let site = Site { tmp, hub, handle };
    assert!(site.gateway().images().await.unwrap().is_empty());
    let aside = site.path(&format!("data/overlays/{}.unreadable-1", image.id));
    assert!(aside.join("data").is_file(), "{}", aside.display());
    let found = site.gateway().verification(name("web01"), Points::default()).await.unwrap();
    let told = found.findings.iter().any(|f| f.detail.contains("images made then are gone"));
    assert!(told, "{found:?}");
    site.image("now", true, Some("test")).await;
    assert!(aside.join("data").is_file());
}
