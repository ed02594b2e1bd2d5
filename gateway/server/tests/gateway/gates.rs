//! Gates with hooks that are real programs: they succeed, fail, hang, and are cut off by a restart.

use std::os::unix::fs::PermissionsExt;

use cx_api::{AtGateView, GateOutcome, GateState, GateView, PolicySet, Retention, Span, TierView, WhenFull};
use gateway_store::StoreConfig;
use testbed_model::Workload;

use super::*;

/// A site whose gateway settles often, with the hook `hook.sh` in its directory of hooks.
async fn site(script: &str) -> Site {
    let tmp = tempfile::tempdir().unwrap();
    let hub = Hub::new();
    std::fs::create_dir_all(tmp.path().join("data/hooks")).unwrap();
    hook(tmp.path(), "hook.sh", script);
    let handle = Gateway::start(often(tmp.path(), &hub)).await.unwrap();
    Site { tmp, hub, handle }
}

fn hook(dir: &Path, called: &str, script: &str) {
    let hook = dir.join("data/hooks").join(called);
    std::fs::write(&hook, format!("#!/bin/sh\ncd {}\n{script}\n", dir.display())).unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
}

pub(super) fn often(dir: &Path, hub: &Hub) -> GatewayConfig {
    let plain = config(dir, hub);
    let settle_each = Some(Duration::from_millis(50));
    GatewayConfig { store: StoreConfig { settle_each, ..plain.store }, ..plain }
}

async fn restarted(site: Site) -> Site {
    site.handle.stop(GRACE).await;
    let handle = Gateway::start(often(site.tmp.path(), &site.hub)).await.unwrap();
    Site { handle, ..site }
}

/// Every point for 200 ms, through a gate with `deadline`; then one an hour.
fn retention(hook: &str, deadline: Duration) -> Retention {
    let span = |ms| Span(Duration::from_millis(ms));
    let gate = GateView { hook: hook.to_owned(), deadline: Span(deadline) };
    Retention {
        every_write: span(50),
        tiers: vec![
            TierView { each: span(1), keep: span(200), before_drop: Some(gate) },
            TierView { each: span(3_600_000), keep: span(7_200_000), before_drop: None },
        ],
        bookmarks: span(0),
        when_full: WhenFull::Thin,
        limit: None,
    }
}

async fn policy(site: &Site, deadline: Duration) {
    let wanted = PolicySet { volume: None, retention: Some(retention("hook.sh", deadline)), check: false };
    site.gateway().policy_set(wanted).await.unwrap();
}

/// Waits until the gate is as wanted.
async fn gate(site: &Site, wanted: impl Fn(&AtGateView) -> bool) -> AtGateView {
    let start = Instant::now();
    loop {
        let timeline = site.gateway().timeline(name("web01"), None).await.unwrap();
        match timeline.gates.first() {
            Some(view) if wanted(view) => return view.clone(),
            other if start.elapsed() > LIMIT => panic!("not in time: {other:?}"),
            _ => tokio::task::yield_now().await,
        }
    }
}

async fn file(site: &Site, called: &str) -> String {
    let start = Instant::now();
    loop {
        match std::fs::read_to_string(site.path(called)) {
            Ok(text) if text.ends_with('\n') => return text,
            _ if start.elapsed() > LIMIT => panic!("{called} is not written"),
            _ => tokio::task::yield_now().await,
        }
    }
}

const LONG: Duration = Duration::from_secs(3600);

/// Its points wait; a quarter of an hour of gathering is more than a test has, so the deadline is short until it runs.
async fn running(site: &Site) -> Arc<Tap> {
    policy(site, Duration::from_millis(2000)).await;
    let (tap, link) = connected(site, 42).await;
    tap.play(|w| (0..100).map(|_| w.batch(2)).collect::<Vec<_>>());
    std::mem::forget(link);
    site.settled("web01").await;
    gate(site, |g| g.state == GateState::Running).await;
    tap
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_hands_points_on_and_then_they_go() {
    let site = site(
        "env | grep ^CHRONOGATE_ | sort > env.new; cat > points.new; echo $* > args; mv points.new points; mv env.new env\n\
         while [ ! -e go ]; do sleep 0.02; done",
    )
    .await;
    let tap = running(&site).await;
    policy(&site, LONG).await;
    let (points, args, env) =
        (file(&site, "points").await, file(&site, "args").await, file(&site, "env").await);
    let waits = gate(&site, |g| g.waiting > 0).await;
    let lsns: Vec<u64> = points.lines().map(|l| l.split(' ').next().unwrap().parse().unwrap()).collect();
    assert!(lsns.len() > 5 && lsns.is_sorted(), "{points}");
    assert_eq!(args, format!("web01 {} {}\n", lsns[0], lsns.last().unwrap()));
    assert!(env.contains(&format!("CHRONOGATE_POINTS={}\n", lsns.len())), "{env}");
    assert_eq!(waits.first.unwrap().lsn.get(), lsns[0]);
    // What it is told to open is open.
    let export = env.lines().find_map(|l| l.strip_prefix("CHRONOGATE_EXPORT=")).unwrap().to_owned();
    let uri = env.lines().find_map(|l| l.strip_prefix("CHRONOGATE_NBD_URI=")).unwrap();
    assert!(uri.starts_with("nbd+unix:///web01@lsn:"), "{uri}");
    let last = lsn(*lsns.last().unwrap());
    let image = read(site.path("nbd.sock"), export).await.unwrap();
    assert!(image == tap.oracle().image_at(tap.volume(), last));
    std::fs::write(site.path("go"), "").unwrap();
    gate(&site, |g| g.last_outcome == Some(GateOutcome::Passed)).await;
    let gone = gate(&site, |g| g.state == GateState::Idle).await;
    assert_eq!((gone.waiting, gone.failures), (0, 0));
    let start = Instant::now();
    while site.gateway().resolve(name("web01"), Point::Lsn(lsn(lsns[0]))).await.is_ok() {
        assert!(start.elapsed() < LIMIT, "they stay");
        tokio::task::yield_now().await;
    }
    site.handle.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_that_outlived_its_gateway_is_ended_before_it_is_run_again() {
    use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
    // It says so if it is not alone.
    let site = site(
        "echo $CHRONOGATE_STORE > store.new; mv store.new store\n\
         kill -0 $(cat first) 2> /dev/null && echo beside another > beside\n\
         [ -e first ] && echo again > again\n\
         while [ ! -e go ]; do sleep 0.02; done",
    )
    .await;
    let _tap = running(&site).await;
    policy(&site, LONG).await;
    let store = file(&site, "store").await;
    // As it would run on after a kill.
    let mut left = std::process::Command::new("sleep");
    let mut left = left.arg("1000").env("CHRONOGATE_STORE", store.trim()).process_group(0).spawn().unwrap();
    std::fs::write(site.path("first"), left.id().to_string()).unwrap();
    let reaper = std::thread::spawn(move || left.wait().unwrap());
    let site = restarted(site).await;
    file(&site, "again").await;
    assert!(!site.path("beside").exists());
    assert_eq!(reaper.join().unwrap().signal(), Some(9));
    std::fs::write(site.path("go"), "").unwrap();
    gate(&site, |g| g.last_outcome == Some(GateOutcome::Passed)).await;
    site.handle.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_that_fails_is_run_again_until_its_deadline_and_then_points_go_with_an_alarm() {
    let site = site("cat > /dev/null; echo no tape; exit 3").await;
    policy(&site, Duration::from_secs(2)).await;
    let (_tap, _link) = connected(&site, 42).await;
    site.settled("web01").await;
    let failing = gate(&site, |g| g.failures > 1).await;
    let error = failing.error.unwrap();
    assert!(error.contains("exit status: 3") && error.contains("no tape"), "{error}");
    let reasons = site.gateway().status().await.unwrap().reasons;
    assert!(reasons.iter().any(|r| r.contains("wait for hook.sh, which fails")), "{reasons:?}");
    gate(&site, |g| g.last_outcome == Some(GateOutcome::Overdue) && g.failures == 0).await;
    let reasons = site.gateway().status().await.unwrap().reasons;
    assert!(reasons.iter().any(|r| r.contains("went without hook.sh")), "{reasons:?}");
    assert!(site.gateway().metrics().contains("chronogate_journal_gates_overdue_total 1\n"));
    site.handle.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_that_hangs_is_ended_with_all_that_it_started() {
    let site = site("sleep 1000 & echo $! > child.new; mv child.new child; wait").await;
    let _tap = running(&site).await;
    let child = file(&site, "child").await;
    gate(&site, |g| g.last_outcome == Some(GateOutcome::Overdue)).await;
    let start = Instant::now();
    while is_alive(child.trim()) {
        assert!(start.elapsed() < LIMIT, "{child} lives");
        tokio::task::yield_now().await;
    }
    site.handle.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_whose_gate_is_taken_away_is_ended() {
    let site = site("sleep 1000 & echo $! > child.new; mv child.new child; wait").await;
    let _tap = running(&site).await;
    let child = file(&site, "child").await;
    let mut open = retention("hook.sh", LONG);
    open.tiers[0].before_drop = None;
    site.gateway().policy_set(PolicySet { volume: None, retention: Some(open), check: false }).await.unwrap();
    let start = Instant::now();
    while is_alive(child.trim()) {
        assert!(start.elapsed() < LIMIT, "{child} lives");
        tokio::task::yield_now().await;
    }
    assert_eq!(site.gateway().timeline(name("web01"), None).await.unwrap().gates, []);
    site.handle.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_hook_ends_the_one_before_and_is_run_itself() {
    let site = site("echo $$ > pid.new; mv pid.new pid; while [ ! -e go ]; do sleep 0.02; done").await;
    hook(site.tmp.path(), "other.sh", "cat > /dev/null; echo $2 $3 >> other");
    let _tap = running(&site).await;
    let pid = file(&site, "pid").await;
    let wanted = PolicySet {
        volume: None,
        retention: Some(retention("other.sh", Duration::from_secs(4))),
        check: false,
    };
    site.gateway().policy_set(wanted).await.unwrap();
    let start = Instant::now();
    while is_alive(pid.trim()) {
        assert!(start.elapsed() < LIMIT, "it lives");
        tokio::task::yield_now().await;
    }
    gate(&site, |g| g.last_outcome == Some(GateOutcome::Passed)).await;
    assert!(!file(&site, "other").await.is_empty());
    site.handle.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_that_hang_keep_no_other_from_being_run() {
    let site = site(
        "case $1 in web05) cat > /dev/null; echo ran >> ran;; *) while [ ! -e go ]; do sleep 0.1; done;; esac",
    )
    .await;
    let mut taps = Vec::new();
    for n in 1..5 {
        let called = format!("web0{n}");
        let tap = named(&site, 42 + n, &called).await;
        own(&site, &called, Duration::from_secs(2)).await;
        let start = Instant::now();
        while running_hooks(&site).await < taps.len() + 1 {
            assert!(start.elapsed() < LIMIT, "{called} does not run");
            tokio::task::yield_now().await;
        }
        own(&site, &called, LONG).await;
        taps.push(tap);
    }
    let _tap = named(&site, 60, "web05").await;
    own(&site, "web05", Duration::from_secs(4)).await;
    assert!(file(&site, "ran").await.starts_with("ran"));
    assert_eq!(running_hooks(&site).await, 4, "the others go on");
    std::fs::write(site.path("go"), "").unwrap();
    site.handle.stop(GRACE).await;
}

async fn named(site: &Site, seed: u64, called: &str) -> Arc<Tap> {
    let tap = Tap::of(Workload::new(seed).named(name(called)));
    tap.play(|w| w.history(80));
    std::mem::forget(tap.connect(&site.hub, called));
    site.settled(called).await;
    tap
}

async fn own(site: &Site, volume: &str, deadline: Duration) {
    let retention = Some(retention("hook.sh", deadline));
    site.gateway()
        .policy_set(PolicySet { volume: Some(name(volume)), retention, check: false })
        .await
        .unwrap();
}

/// How many of the four that hang run.
async fn running_hooks(site: &Site) -> usize {
    let mut running = 0;
    for n in 1..5 {
        let timeline = site.gateway().timeline(name(&format!("web0{n}")), None).await;
        let gates = timeline.map(|t| t.gates).unwrap_or_default();
        running += gates.iter().filter(|g| g.state == GateState::Running).count();
    }
    running
}

/// A zombie is not: nobody may have waited for it yet.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_that_was_cut_off_is_run_again_and_one_that_succeeded_is_not() {
    let site = site("cat > /dev/null; echo $2 $3 >> runs; while [ ! -e go ]; do sleep 0.02; done").await;
    let _tap = running(&site).await;
    policy(&site, LONG).await;
    let first = file(&site, "runs").await;
    let site = restarted(site).await;
    gate(&site, |g| g.state == GateState::Running).await;
    let start = Instant::now();
    while file(&site, "runs").await.lines().count() < 2 {
        assert!(start.elapsed() < LIMIT);
        tokio::task::yield_now().await;
    }
    assert_eq!(file(&site, "runs").await, first.repeat(2), "for the same points");
    std::fs::write(site.path("go"), "").unwrap();
    gate(&site, |g| g.last_outcome == Some(GateOutcome::Passed)).await;
    let site = restarted(site).await;
    let gone = gate(&site, |g| g.last_outcome == Some(GateOutcome::Passed)).await;
    assert!(matches!(gone.state, GateState::Idle | GateState::Waiting), "{gone:?}");
    assert_eq!(file(&site, "runs").await, first.repeat(2));
    site.handle.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_programs_in_the_directory_of_hooks_are_hooks() {
    let site = site("").await;
    std::os::unix::fs::symlink("/bin/sh", site.path("data/hooks/link")).unwrap();
    std::fs::write(site.path("data/hooks/notes.txt"), "no program").unwrap();
    for hook in ["/bin/sh", "../../bin/sh", "missing.sh", "link", "notes.txt", ".", ""] {
        let wanted = PolicySet { volume: None, retention: Some(retention(hook, LONG)), check: false };
        let refused = site.gateway().policy_set(wanted).await.unwrap_err();
        assert_eq!(refused.code, Code::Invalid, "{hook:?}: {refused:?}");
    }
    site.handle.stop(GRACE).await;
}
