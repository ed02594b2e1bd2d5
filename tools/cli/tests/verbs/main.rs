//! The verbs as scripts and people meet them: the real program against the real HTTP layer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "../../../../gateway/server/tests/http/examples.rs"]
mod examples;
mod gateway;

use std::io::Write as _;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use gateway::{BOOKMARKS, Server};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// No test waits longer for anything.
const LIMIT: Duration = Duration::from_secs(30);

fn program(api: &str, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chronogate"));
    command.args(words).env("CHRONOGATE_API", api).stdin(Stdio::null());
    command
}

fn run(api: &str, words: &[&str]) -> Output {
    finish(&mut program(api, words))
}

/// Runs it to its end; kills it when that takes too long.
fn finish(command: &mut Command) -> Output {
    output_of(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

fn output_of(child: Child) -> Output {
    let pid = pid(&child);
    let (sender, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let output = ended.recv_timeout(LIMIT);
    output
        .unwrap_or_else(|_| {
            kill_process(pid, Signal::KILL).unwrap();
            panic!("it did not end within {LIMIT:?}")
        })
        .unwrap()
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// What a verb prints for scripts.
#[track_caller]
fn json(server: &Server, words: &[&str]) -> Value {
    let output = run(&server.url(), &[words, &["-o", "json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{words:?}: {}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{words:?}: {e}: {}", stdout(&output)))
}

/// What a verb prints for people.
#[track_caller]
fn text(server: &Server, words: &[&str]) -> String {
    let output = run(&server.url(), words);
    assert_eq!(output.status.code(), Some(0), "{words:?}: {}", stderr(&output));
    stdout(&output)
}

/// The exit code of a verb that fails, and what it says.
fn failure(api: &str, words: &[&str]) -> (Option<i32>, String) {
    let output = run(api, words);
    assert_eq!(stdout(&output), "", "{words:?} fails and prints a result");
    (output.status.code(), stderr(&output))
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_get_the_fields_they_rely_on() {
    let server = Server::new().await;
    for words in [
        &["bookmark", "create", "web01", "b"][..],
        &["point", "resolve", "web01", "--at", "-10m"],
        &["point", "resolve", "web01", "--at", "b"],
    ] {
        let value = json(&server, words);
        assert!(value["lsn"].is_u64() && value.get("name").is_some(), "{value}");
        assert_eq!(value["time"], "2026-11-22T12:00:00.5Z");
    }
    for words in [
        &["image", "create", "web01", "--at", "now"][..],
        &["mount", "web01@lsn:8"],
        &["mount", "web01@-1h", "--rw"],
    ] {
        let value = json(&server, words);
        assert!(value["id"].is_u64() && value["lsn"].is_u64(), "{value}");
        assert_eq!(value["volume"], "web01");
        assert!(value["uri"].as_str().unwrap().starts_with("nbd+unix:///"), "{value}");
    }
    let volume = json(&server, &["volume", "show", "web01"]);
    for field in
        ["size", "lag_seconds", "lag_bytes", "head_lsn", "durable_lsn", "baseline_count", "resynced_bytes"]
    {
        assert!(volume[field].is_number(), "{field} of {volume}");
    }
    assert_eq!((&volume["state"], &volume["gaps"]), (&"protected".into(), &Value::Array(Vec::new())));
    assert_eq!(json(&server, &["volume", "ls"])[0], volume);
    assert_eq!(json(&server, &["image", "ls"]), Value::Array(Vec::new()));
    assert_eq!(json(&server, &["image", "rm", "1"])["removed"], "1");
    assert_eq!(json(&server, &["image", "rm", "2", "--force"])["removed"], "2");
    assert_eq!(json(&server, &["session", "ls"])[0]["certificate"], "backup.example");
    assert!(text(&server, &["session", "ls"]).contains("web01@-10m"));
    assert_eq!(json(&server, &["session", "kick", "7"])["ended"], 7);
    assert_eq!(json(&server, &["status"])["health"], "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_get_tables_and_a_mount_prints_its_uri_alone() {
    let server = Server::new().await;
    let uri = "nbd+unix:///test?socket=/run/gw.sock\n";
    assert_eq!(text(&server, &["mount", "web01@now", "--name", "test"]), uri);
    let target = "iscsi://127.0.0.1:3260/iqn.2026-01.example.chronogate:test/1";
    let words = ["mount", "web01@now", "--name", "test", "--iscsi"];
    assert_eq!(text(&server, &words), format!("{target}\n"));
    assert_eq!(json(&server, &words)["uri"], target);
    assert!(text(&server, &["volume", "ls"]).starts_with("NAME   STATE      SIZE "));
    assert!(text(&server, &["volume", "show", "web01"]).contains("head lsn      8\n"));
    assert!(text(&server, &["status"]).starts_with("gateway  ok, version 0.1.0"));
    assert_eq!(
        text(&server, &["bookmark", "create", "web01", "b"]),
        "web01@b  lsn:9  2026-11-22T12:00:00.5Z\n"
    );
    let list = text(&server, &["bookmark", "ls", "web01"]);
    assert_eq!(list.lines().count(), usize::try_from(BOOKMARKS).unwrap() + 1, "every page is shown");
    assert!(!list.contains('\u{1b}'), "a note commands the terminal");
    let listed = json(&server, &["bookmark", "ls", "web01"]);
    assert_eq!(listed.as_array().unwrap().len(), usize::try_from(BOOKMARKS).unwrap());
}

/// A script that goes on after it would count on what may be lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_bookmark_that_no_gateway_has_yet_is_told_and_not_taken_for_made() {
    let server = Server::new().await;
    for format in ["table", "json"] {
        let words = ["bookmark", "create", "web01", "b", "--note", "under way", "-o", format];
        let done = run(&server.url(), &words);
        assert_eq!(done.status.code(), Some(5));
        assert!(stdout(&done).contains("web01"), "where it lies is told all the same");
        let said = stderr(&done);
        assert!(
            said.starts_with(
                "error: web01@b is made, and cannot be opened yet\n  why: the gateway is behind"
            ),
            "{said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn options_reach_the_gateway() {
    let server = Server::new().await;
    text(&server, &["bookmark", "create", "web01", "b", "--wait", "1500ms", "--note", "a b"]);
    text(&server, &["image", "create", "web01", "--at", "-90s", "--rw", "--quota", "1GiB"]);
    text(&server, &["point", "resolve", "web01", "--at", "2026-11-22T13:00:00+01:00"]);
    assert_eq!(
        *server.gateway.asked.lock().unwrap(),
        [
            "bookmark b wait 2 a b",
            "image -90s rw true quota Some(1073741824)",
            "resolve 2026-11-22T12:00:00Z"
        ]
    );
}

/// With this on standard input.
fn fed(server: &Server, words: &[&str], input: &str) -> Output {
    let mut command = program(&server.url(), words);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    output_of(child)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_has_its_secrets_from_a_file_the_environment_or_standard_input() {
    let server = Server::new().await;
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("secret").display().to_string();
    std::fs::write(&file, "of-the-file-1\n").unwrap();
    let create = ["export", "create", "3", "--iscsi", "--lun", "7", "--acl", "iqn.x:a", "--acl", "iqn.x:b"];
    let shown = text(&server, &[&create[..], &["--chap", "esx", "--chap-secret-file", &file]].concat());
    assert!(
        shown.contains("lun          7\n") && shown.contains("initiators   iqn.x:a, iqn.x:b\n"),
        "{shown}"
    );
    let both = ["mount", "web01@now", "--iscsi", "--chap", "esx", "--mutual-chap", "array", "--as-original"];
    let mounted = fed(&server, &both, "of-the-line-1\r\nof-the-line-2\n");
    assert_eq!(stdout(&mounted), "iscsi://127.0.0.1:3260/iqn.2026-01.example.chronogate:web01-test/1\n");
    let mut command = program(&server.url(), &["export", "create", "3", "--iscsi", "--chap", "esx"]);
    let output = finish(command.env("CHRONOGATE_CHAP_SECRET", "of-the-environment"));
    assert!(output.status.success() && !stdout(&output).contains("of-the"), "{}", stderr(&output));
    let asked = server.gateway.asked.lock().unwrap().clone();
    let of = |text: &str| asked.iter().filter(|asked| asked.contains(text)).count();
    assert_eq!(of(r#""chap":{"user":"esx","secret":"of-the-file-1"}"#), 1, "{asked:?}");
    assert_eq!(
        of(r#""mutual_chap":{"user":"array","secret":"of-the-line-2"},"as_original":true"#),
        1,
        "{asked:?}"
    );
    assert_eq!(of(r#""secret":"of-the-line-1""#) + of(r#""secret":"of-the-environment""#), 2, "{asked:?}");
    let missing = fed(&server, &["export", "create", "3", "--iscsi", "--chap", "esx"], "");
    assert_eq!(missing.status.code(), Some(2), "{}", stderr(&missing));
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_are_listed_shown_connected_to_and_taken_back() {
    let server = Server::new().await;
    assert_eq!(json(&server, &["export", "ls"])[0]["target"], "iqn.2026-01.example.chronogate:web01-test");
    assert_eq!(json(&server, &["export", "show", "web01-test"])["lun"], 7);
    let lines = text(&server, &["export", "connect", "3", "--portal", "10.0.0.9"]);
    assert!(lines.starts_with("# open-iscsi (not tried"), "{lines}");
    assert_eq!(json(&server, &["export", "connect", "3", "--portal", "10.0.0.9"])["portal"], "10.0.0.9:3260");
    assert_eq!(failure(&server.url(), &["export", "rm", "3"]).0, Some(5));
    assert_eq!(failure(&server.url(), &["export", "rm", "none"]).0, Some(3));
    assert_eq!(failure(&server.url(), &["export", "connect", "3", "--portal", "a b"]).0, Some(2));
    assert_eq!(json(&server, &["export", "rm", "none", "--force"])["removed"], "none");
    // What the gateway has against an export leaves no image behind.
    let words = ["mount", "web01@now", "--iscsi", "--acl", "esx1"];
    let (exit, said) = failure(&server.url(), &words);
    assert_eq!(exit, Some(2));
    assert!(said.starts_with("error: \"esx1\" is no name"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_has_its_exit_code_and_says_what_to_do() {
    let server = Server::new().await;
    let url = server.url();
    for (code, words) in [
        (2, &["point", "resolve", "web01", "--at", "no such form"][..]),
        (2, &["image", "create", "web01", "--at", "now", "--name", "7"]),
        (3, &["volume", "show", "db"]),
        (3, &["job", "show", "4"]),
        (5, &["point", "resolve", "web01", "--at", "lsn:9"]),
        (5, &["image", "rm", "2"]),
        (3, &["session", "kick", "8"]),
        (6, &["bookmark", "create", "away", "b"]),
    ] {
        let (exit, said) = failure(&url, words);
        assert_eq!(exit, Some(code), "{words:?}: {said}");
        assert!(said.starts_with("error: "), "{said}");
    }
    let (_, said) = failure(&url, &["volume", "show", "db"]);
    assert_eq!(
        said,
        "error: there is no volume db\n  why: nothing protects a disk of that name\n  fix: list the volumes: chronogate volume ls\n"
    );
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    for words in [
        &["volume"][..],
        &["volume", "show"],
        &["volume", "show", "a b"],
        &["bookmark", "create", "web01", "now"],
        &["bookmark", "create", "web01", "b", "--wait", "soon"],
        &["mount", "web01"],
        &["mount", "web01@"],
        &["mount", "web01@now", "--lun", "7"],
        &["mount", "web01@now", "--iscsi", "--mutual-chap", "x"],
        &["export", "create", "3"],
        &["export", "create", "3", "--iscsi", "--lun", "256"],
        &["export", "create", "3", "--iscsi", "--chap-secret-file", "x"],
        &["image", "create", "web01"],
        &["image", "create", "web01", "--at", "now", "--quota", "1G"],
        &["restore", "web01@now"],
        &["job", "show", "x"],
        &["status", "-o", "yaml"],
        &["status", "--api", "https://127.0.0.1:7070"],
        &["no-such-verb"],
    ] {
        let (exit, said) = failure("http://127.0.0.1:1", words);
        assert_eq!(exit, Some(2), "{words:?}: {said}");
        assert!(!said.is_empty());
    }
}

#[test]
fn an_api_that_cannot_be_reached_is_named() {
    let (exit, said) = failure("http://127.0.0.1:1", &["status"]);
    assert_eq!(exit, Some(6), "{said}");
    for word in ["http://127.0.0.1:1", "refused", "chronogate up", "CHRONOGATE_API"] {
        assert!(said.contains(word), "{word} is missing: {said}");
    }
}

#[test]
fn what_is_not_our_api_is_told_from_it() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n<html",
        "HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\n<html",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    ] {
        let (exit, said) = failure(&strange(answer), &["status"]);
        assert_eq!(exit, Some(1), "{answer:?}: {said}");
        assert!(said.contains("does not speak this API"), "{said}");
    }
    for broken in ["", "SSH-2.0-OpenSSH_9.2\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{"] {
        let (exit, said) = failure(&strange(broken), &["status"]);
        assert_eq!(exit, Some(6), "{broken:?}: {said}");
    }
}

/// Something that answers one connection with these bytes.
fn strange(answer: &'static str) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = std::io::Read::read(&mut stream, &mut request);
        let _ = stream.write_all(answer.as_bytes());
    });
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_listed_shown_searched_bookmarked_and_kept_alike() {
    let server = Server::new().await;
    assert!(text(&server, &["group", "ls"]).starts_with("GROUP  VOLUMES       POINTS  NEWEST "));
    assert!(text(&server, &["group", "show", "db"]).contains("volumes   data01, log01\n"));
    let newest = text(&server, &["group", "point", "db", "--after", "-1h"]);
    assert!(
        newest.starts_with("db@mark:1795341601250000000  ") && newest.contains("log01@mark:"),
        "{newest}"
    );
    let oldest = json(&server, &["group", "point", "db", "--before", "2026-11-22T10:00:01Z"]);
    assert_eq!(oldest["members"][1]["export"], "log01@mark:1795341600250000000");
    let named = text(&server, &["bookmark", "create", "--group", "db", "monday", "--wait", "5s"]);
    assert!(named.contains("  monday\n  data01@mark:"), "{named}");
    let file = tempfile::NamedTempFile::new().unwrap();
    let policies = "[group.db]\nevery_write = \"1h\"\n[volume.log01]\nevery_write = \"2h\"\n";
    std::fs::write(file.path(), policies).unwrap();
    let set = json(&server, &["policy", "apply", "-f", file.path().to_str().unwrap()]);
    let every: Vec<_> = (0..2).map(|n| (&set[n]["volume"], &set[n]["retention"]["every_write"])).collect();
    assert_eq!(every, [(&"data01".into(), &"1h".into()), (&"log01".into(), &"2h".into())]);
    let asked = server.gateway.asked.lock().unwrap().clone();
    assert!(asked.contains(&"policies 2".to_owned()), "in one request: {asked:?}");
    let policies = "[general]\nevery_write = \"1h\"\n[volume.log01]\nevery_write = \"2h\"\n[volume.zzz]\nevery_write = \"2h\"\n";
    std::fs::write(file.path(), policies).unwrap();
    let before = server.gateway.asked.lock().unwrap().len();
    let apply = ["policy", "apply", "-f", file.path().to_str().unwrap()];
    let (exit, said) = failure(&server.url(), &apply);
    assert!(exit == Some(3) && said.contains("there is no volume zzz"), "{said}");
    assert_eq!(server.gateway.asked.lock().unwrap().len(), before, "nothing is set");
    let (exit, said) = failure(&server.url(), &["policy", "reset"]);
    assert!(exit == Some(2) && said.contains("--general"), "{said}");
    assert_eq!(failure(&server.url(), &["policy", "reset", "log01", "--general"]).0, Some(2));
    assert_eq!(server.gateway.asked.lock().unwrap().len(), before, "nothing is reset");
    let general = run(&server.url(), &["policy", "reset", "--general"]);
    assert!(general.status.success() && stdout(&general).contains("(general)"), "{}", stderr(&general));
    let own = run(&server.url(), &["policy", "reset", "log01"]);
    assert!(own.status.success() && stderr(&own).contains("the policy of log01"), "{}", stderr(&own));
    let pinned = text(&server, &["point", "pin", "--group", "db", "--at", "-1h", "--note", "why"]);
    assert!(pinned.starts_with("pinned in every member: db@mark:1795341600250000000 "), "{pinned}");
    for at in ["before-upgrade", "mark:1795341600250000000"] {
        let unpinned = text(&server, &["point", "unpin", "--group", "db", "--at", at]);
        assert!(unpinned.starts_with("pinned no more in every member: db@mark:1795341600250"), "{unpinned}");
    }
    let (exit, said) = failure(&server.url(), &["point", "unpin", "--group", "db", "--at", "-1h"]);
    assert!(exit == Some(2) && said.contains("the one before it is mark:1795341600250000000"), "{said}");
    let until = ["hold", "create", "--group", "db", "--until", "2027-12-31T00:00:00Z", "--all"];
    let held = text(&server, &until);
    assert!(held.contains("data01 is held from ") && held.contains("log01 is held from "), "{held}");
    assert_eq!(json(&server, &until).as_array().unwrap().len(), 2);
    let asked = server.gateway.asked.lock().unwrap().clone();
    let pins = asked.iter().filter(|asked| *asked == "pin mark:1795341600250000000 why");
    assert_eq!(pins.count(), 2, "one for each member: {asked:?}");
    let unpins = asked.iter().filter(|asked| *asked == "unpin mark:1795341600250000000");
    assert_eq!(unpins.count(), 4, "one for each member and time: {asked:?}");
    assert!(asked.contains(&"group bookmark monday 5".to_owned()), "{asked:?}");
    assert_eq!(text(&server, &["bookmark", "rm", "web01", "b7"]), "web01@b7 is removed\n");
    assert_eq!(json(&server, &["bookmark", "rm", "--group", "db", "monday"])["removed"], "monday");
    let asked = server.gateway.asked.lock().unwrap().clone();
    assert!(asked.ends_with(&["bookmark rm web01 b7".into(), "group bookmark rm db monday".into()]));
    for (exit, words) in [
        (2, &["bookmark", "create", "monday"][..]),
        (2, &["bookmark", "create", "web01", "monday", "--group", "db"]),
        (2, &["bookmark", "rm", "monday"]),
        (2, &["group", "point"]),
        (2, &["point", "pin", "--at", "now"]),
        (2, &["point", "unpin", "--at", "now"]),
        (2, &["hold", "create", "--until", "2027-12-31T00:00:00Z"]),
        (2, &["hold", "create", "web01", "--until", "2027-12-31T00:00:00Z"]),
    ] {
        assert_eq!(failure(&server.url(), words).0, Some(exit), "{words:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn time_that_was_not_counted_is_confirmed_only_when_it_is_said() {
    let server = Server::new().await;
    let shown = text(&server, &["store", "confirm-time"]);
    assert!(shown.contains("this hold would be over: web01 until") && shown.contains("--yes"), "{shown}");
    let asked = || server.gateway.asked.lock().unwrap().clone();
    assert!(!asked().iter().any(|asked| asked.starts_with("confirm")));
    let done = text(&server, &["store", "confirm-time", "--yes"]);
    assert!(done.ends_with(" are counted now\n"), "{done}");
    assert!(asked().contains(&"confirm 7171200".to_owned()), "{:?}", asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_here_is_listed_until_it_is_said_to_be_gone() {
    let server = Server::new().await;
    let shown = text(&server, &["store", "ls"]);
    assert!(
        shown.contains("000000000000000b  in use") && shown.contains("000000000000000a  MISSED"),
        "{shown}"
    );
    let done = text(&server, &["store", "confirm-gone", "000000000000000a"]);
    assert!(done.contains("000000000000000a  confirmed gone"), "{done}");
    let (exit, said) = failure(&server.url(), &["store", "confirm-gone", "1"]);
    assert_eq!(exit, Some(3), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bookmark_shows_the_baseline_it_waits_for() {
    let server = Server::new().await;
    server.gateway.baseline.store(true, Ordering::SeqCst);
    let (exit, said) = failure(&server.url(), &["bookmark", "create", "web01", "b", "--wait", "0"]);
    assert_eq!(exit, Some(5), "{said}");
    let output = run(&server.url(), &["bookmark", "create", "web01", "b"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).starts_with("web01@b  lsn:9"));
    let said = stderr(&output);
    assert!(said.contains("waiting for the baseline of web01: 50% of 1 MiB"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_is_followed_to_its_end() {
    let server = Server::new().await;
    let folder = tempfile::tempdir().unwrap();
    let mut command = program(&server.url(), &["restore", "web01@-1h", "--to", "disk.img"]);
    let output = finish(command.current_dir(folder.path()));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let path = folder.path().canonicalize().unwrap().join("disk.img");
    let path = path.display();
    assert_eq!(stdout(&output), format!("restored web01@lsn:8 to {path} (1 MiB)\n"));
    assert_eq!(*server.gateway.asked.lock().unwrap(), [format!("restore -1h {path}")]);
    assert!(stderr(&output).contains("restoring web01@lsn:8: 0% of 1 MiB"), "{}", stderr(&output));
    assert_eq!(json(&server, &["job", "show", "4"])["state"], "done");
    assert_eq!(json(&server, &["restore", "web01@now", "--to", "/x"])["state"], "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_cancels_a_restore_and_says_how_to_go_on() {
    let server = Server::new().await;
    server.gateway.endless.store(true, Ordering::SeqCst);
    let mut command = program(&server.url(), &["restore", "web01@now", "--to", "/srv/my disk"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    tokio::time::timeout(LIMIT, server.gateway.wait_for_looks(1)).await.expect("it did not begin");
    kill_process(pid(&child), Signal::INT).unwrap();
    let output = output_of(child);
    let said = stderr(&output);
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), String::new()), "{said}");
    assert!(said.contains("was cancelled after 256 KiB of 1 MiB"), "{said}");
    assert!(said.contains("chronogate restore web01@lsn:8 --to '/srv/my disk'"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_materialized_in_the_background_or_watched() {
    let server = Server::new().await;
    let output = run(&server.url(), &["image", "create", "web01", "--at", "now", "--materialize"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("chronogate job show 4"), "{}", stderr(&output));
    let asked = std::mem::take(&mut *server.gateway.asked.lock().unwrap());
    assert!(asked.iter().any(|a| a == "materialize Id(1)"), "{asked:?}");

    let output = run(&server.url(), &["image", "materialize", "look"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), "materialized look (1 MiB): /data/flats/3/content\n");
    assert!(stderr(&output).contains("materializing look: 0% of 1 MiB"), "{}", stderr(&output));

    let server = Server::new().await;
    server.gateway.endless.store(true, Ordering::SeqCst);
    let mut command = program(&server.url(), &["image", "materialize", "look"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    tokio::time::timeout(LIMIT, server.gateway.wait_for_looks(1)).await.expect("it did not begin");
    kill_process(pid(&child), Signal::INT).unwrap();
    let output = output_of(child);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("what was copied is thrown away"), "{}", stderr(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_says_where_the_volume_is_used() {
    let server = Server::new().await;
    let output = run(&server.url(), &["image", "commit", "look", "--name", "web02"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = "look is the volume web02 now; use it at nbd+unix:///web02?socket=/run/tap.sock\n";
    assert_eq!(stdout(&output), said);
    assert!(stderr(&output).contains("committing look: 0% of 1 MiB"), "{}", stderr(&output));
    assert_eq!(json(&server, &["image", "commit", "look", "--name", "web02"])["kind"], "commit");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_policies_would_let_go_is_told_and_nothing_is_set() {
    let server = Server::new().await;
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("retention.toml");
    std::fs::write(&file, "[general]\nevery_write = \"1h\"\n").unwrap();
    let file = file.to_str().unwrap();
    for words in [&["policy", "preview", "-f", file][..], &["policy", "apply", "--dry-run", "-f", file]] {
        server.gateway.asked.lock().unwrap().clear();
        let output = run(&server.url(), words);
        assert!(stderr(&output).contains("sooner than now"), "{}", stderr(&output));
        let said = stdout(&output);
        assert!(said.contains("web01   900     820") && said.contains("1 GiB"), "{said}");
        let asked = server.gateway.asked.lock().unwrap().clone();
        assert_eq!(asked.iter().filter(|a| *a == "preview 1").count(), 1, "{asked:?}");
        assert!(!asked.iter().any(|a| a.starts_with("policies")), "{asked:?}");
    }
    assert_eq!(json(&server, &["policy", "preview", "-f", file])[0]["goes"], 820);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_is_copied_anew_on_demand() {
    let server = Server::new().await;
    let said = text(&server, &["volume", "resync", "web01"]);
    assert!(said.starts_with("copied web01 anew ("), "{said}");
    assert_eq!(*server.gateway.asked.lock().unwrap(), ["resync"]);
    let job = json(&server, &["volume", "resync", "web01"]);
    assert_eq!((&job["kind"], &job["state"]), (&"resync".into(), &"done".into()));
    assert_eq!(failure(&server.url(), &["volume", "resync", "away"]).0, Some(6));
    assert_eq!(failure(&server.url(), &["volume", "resync", "db"]).0, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_of_a_tap_is_accepted_and_who_it_is_is_said() {
    let server = Server::new().await;
    let said = text(&server, &["volume", "accept-restored", "web01"]);
    let parts =
        ["tap 4711", "lsn:15 of 2026-11-20T03:00:00.5Z", "lsn:75", "epoch 2", "chronogate volume show web01"];
    assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    assert_eq!(*server.gateway.asked.lock().unwrap(), ["accept-restored"]);
    assert_eq!(json(&server, &["volume", "accept-restored", "web01"])["knows_lsn"], 15);
    assert_eq!(failure(&server.url(), &["volume", "accept-restored", "db"]).0, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_ends_with_one_only_for_damage() {
    let server = Server::new().await;
    let url = server.url();
    let output = run(&url, &["verify", "web01", "--from", "b7", "--to", "lsn:8"]);
    let (said, listed) = (stderr(&output), stdout(&output));
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(listed.contains("block   4096..8192"), "{listed}");
    assert!(said.contains("web01 is damaged: 1 finding\n"), "{said}");
    let asked = std::mem::take(&mut *server.gateway.asked.lock().unwrap());
    let looked = "verification Some(lsn:7) Some(lsn:8)";
    assert_eq!(asked, ["resolve b7", "resolve lsn:8", "verify to Some(\"lsn:8\")", looked]);

    server.gateway.sound.store(true, Ordering::SeqCst);
    let output = run(&url, &["verify", "web01", "--acknowledge"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).ends_with("sound\n"));
    assert!(server.gateway.asked.lock().unwrap().contains(&"acknowledge".to_owned()));
    server.gateway.asked.lock().unwrap().clear();
    run(&url, &["verify", "web01", "--from", "b7", "--to", "lsn:8", "--acknowledge"]);
    let asked = server.gateway.asked.lock().unwrap().clone();
    assert!(asked.ends_with(&["acknowledge".to_owned(), looked.to_owned()]), "what was listed: {asked:?}");

    assert_eq!(failure(&url, &["verify", "db"]).0, Some(3));
    assert_eq!(failure("http://127.0.0.1:1", &["verify", "web01"]).0, Some(6));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_carries_blocks_from_one_gateway_to_another() {
    let (server, other) = (Server::new().await, Server::new().await);
    let output = run(&server.url(), &["verify", "web01", "--repair-from", &other.url()]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let asked = server.gateway.asked.lock().unwrap().clone();
    let repairs = asked.iter().filter(|a| *a == "repair 4096 84 10000054").count();
    assert_eq!(repairs, 1, "{asked:?}");
    assert_eq!(*other.gateway.asked.lock().unwrap(), ["units 1"]);
    // Another gateway is looked at before anything else, also when nothing is to be put right.
    server.gateway.sound.store(true, Ordering::SeqCst);
    server.gateway.asked.lock().unwrap().clear();
    for (wrong, exit) in [("foo", 6), ("http://127.0.0.1:1", 6), ("ftp://a", 2)] {
        let (code, said) = failure(&server.url(), &["verify", "web01", "--repair-from", wrong]);
        assert_eq!(code, Some(exit), "{wrong}: {said}");
    }
    assert_eq!(*server.gateway.asked.lock().unwrap(), Vec::<String>::new());
    assert_eq!(
        run(&server.url(), &["verify", "web01", "--repair-from", &other.url()]).status.code(),
        Some(0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_an_image_is_asked_for_by_its_name() {
    let server = Server::new().await;
    let image = json(&server, &["image", "clone", "test", "--rw", "--name", "branch"]);
    assert_eq!((&image["name"], &image["writable"]), (&"branch".into(), &true.into()));
    assert!(server.gateway.asked.lock().unwrap()[0].starts_with("clone Name("), "by name");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_early_is_no_error() {
    let server = Server::new().await;
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = program(&server.url(), &["bookmark", "ls", "web01"]);
    let child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let output = output_of(child);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
}
