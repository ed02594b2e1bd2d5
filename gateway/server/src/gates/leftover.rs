//! Hooks that run although their gateway was killed: the next one ends them before it runs any, so that no hook works on points
//! beside an earlier run of itself.
//!
//! A hook carries its store's name in its environment, and so does all that it starts: nothing has to be noted durably before a
//! hook begins, and no number of a process can have been given to another one meanwhile. (A signal at the parent's death would
//! be one at the death of the thread that started it, and would reach none of the hook's own children.) As when a hook is ended
//! in order, its process group goes: what has begun a session of its own was meant to stay.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use gateway_journal::StoreId;
use rustix::process::{Pid, Signal, getpgrp, kill_process_group};
use tracing::warn;

/// What names the store in a hook's environment.
pub(super) const STORE: &str = "CHRONOGATE_STORE";

/// One that is killed runs nothing more, and is soon gone, unless a disk keeps it.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The value of it.
pub(super) fn name(store: StoreId) -> String {
    format!("{:016x}", store.get())
}

/// Ends hooks of this store that nobody waits for.
pub(super) async fn end(store: StoreId) {
    if tokio::time::timeout(PATIENCE, end_all(store)).await.is_err() {
        warn!("hooks of before are killed, and not gone yet");
    }
}

async fn end_all(store: StoreId) {
    let mut told = BTreeSet::new();
    loop {
        let groups = tokio::task::spawn_blocking(move || groups_of(store)).await.unwrap_or_default();
        if groups.is_empty() {
            return;
        }
        for group in groups {
            if told.insert(group) {
                warn!(
                    group,
                    "a hook that the gateway left running when it was killed is ended, and run again"
                );
            }
            if let Some(group) = Pid::from_raw(group) {
                // It may be gone.
                let _ = kill_process_group(group, Signal::KILL);
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Their process groups.
fn groups_of(store: StoreId) -> BTreeSet<i32> {
    let (mark, own) = (format!("{STORE}={}", name(store)), getpgrp().as_raw_nonzero().get());
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let groups = processes.filter_map(|process| group_of(&process.path(), mark.as_bytes()));
    // A gateway may itself have been started by a hook.
    groups.filter(|group| *group != own).collect()
}

/// Of a process that is marked so.
fn group_of(process: &Path, mark: &[u8]) -> Option<i32> {
    // What is no process has none, and that of other users' is not for us.
    let environment = fs::read(process.join("environ")).ok()?;
    if !environment.split(|byte| *byte == 0).any(|variable| variable == mark) {
        return None;
    }
    group_in(&String::from_utf8_lossy(&fs::read(process.join("stat")).ok()?))
}

/// A process reads `4711 (its name) S 1 4710 4000 ...`: behind the name its state, parent, group and session.
fn group_in(stat: &str) -> Option<i32> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(2);
    let (group, session) = (fields.next()?, fields.next()?);
    if group == session { None } else { group.parse().ok() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
    use std::process::{Child, Command};

    use super::*;

    fn sleeper(program: &[&str], store: StoreId) -> Command {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).env(STORE, name(store));
        command
    }

    #[tokio::test]
    async fn what_carries_the_stores_name_is_ended_and_nothing_else() {
        let number = 0x1eff_0000_0000_0000 | u64::from(std::process::id());
        let (ours, other) = (StoreId::new(number), StoreId::new(number ^ 1 << 40));
        let mut hook = sleeper(&["sh", "-c", "sleep 1000 & wait"], ours).process_group(0).spawn().unwrap();
        let mut stranger = sleeper(&["sleep", "1000"], other).process_group(0).spawn().unwrap();
        let mut left = sleeper(&["setsid", "sleep", "1000"], ours).spawn().unwrap();
        // Each has to be what it is to be before it can be told from others.
        let begun = |child: &Child, what: &str| {
            let said = fs::read_to_string(format!("/proc/{}/cmdline", child.id())).unwrap_or_default();
            said.starts_with(what)
        };
        while !(begun(&hook, "sh") && begun(&stranger, "sleep") && begun(&left, "sleep")) {
            tokio::task::yield_now().await;
        }
        end(ours).await;
        assert_eq!(hook.wait().unwrap().signal(), Some(Signal::KILL.as_raw()));
        assert!(groups_of(ours).is_empty(), "and what it had started");
        for child in [&mut stranger, &mut left] {
            assert!(child.try_wait().unwrap().is_none(), "it runs on");
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn the_group_stands_behind_a_name_that_may_be_anything() {
        assert_eq!(group_in("12 (a) 9 9 (b) S 1 10 11 0 -1"), Some(10));
        assert_eq!(group_in("12 (setsid) S 1 12 12 0 -1"), None, "it leads a session");
        assert_eq!(group_in("12 (x) S 1"), None);
    }
}
