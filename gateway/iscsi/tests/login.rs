//! The login phase, discovery and text, unit by unit.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use common::*;
use gateway_iscsi::{Access, Admission, CloseReason, Credentials, Limits, LoginStatus, TargetConfig};
use md5::Digest;

fn credentials(name: &str, secret: &str) -> Credentials {
    Credentials { name: name.to_owned(), secret: secret.into() }
}

fn chap_access() -> Access {
    Access::Chap {
        initiator: credentials("me", "a secret of ours"),
        target: Some(credentials("you", "another secret")),
    }
}

#[test]
fn one_request_is_enough_and_every_key_is_answered() {
    let (_, _, target) = disk();
    let mut rig = Rig::new(&target);
    let answer = rig.log_in(
        1,
        &[
            "HeaderDigest=None,CRC32C",
            "MaxConnections=4",
            "InitialR2T=No",
            "X-org.example=1",
            "IFMarkInt=1~2",
        ],
    );
    assert_eq!((answer.login_status(), answer.header[1]), ([0, 0], 0x87));
    assert_ne!(&answer.header[14..16], &[0, 0], "a session gets a number");
    let text = answer.text();
    for expected in [
        "HeaderDigest=None",
        "MaxConnections=1",
        "InitialR2T=No",
        "X-org.example=NotUnderstood",
        "IFMarkInt=Reject",
        "TargetPortalGroupTag=1",
        "TargetAlias=a disk",
        "MaxRecvDataSegmentLength=262144",
    ] {
        assert!(text.iter().any(|pair| pair == expected), "{expected} in {text:?}");
    }
    assert_eq!(target.sessions().len(), 1);
}

#[test]
fn stages_one_after_another_and_text_in_pieces() {
    let (_, _, target) = disk();
    let mut rig = Rig::new(&target);
    let name = format!("InitiatorName={US}");
    let wanted = format!("TargetName={NAME}");
    rig.login_request(1, 0x81, &[&name, &wanted, "AuthMethod=CHAP,None"]);
    let answer = rig.answer();
    assert_eq!((answer.login_status(), answer.header[1]), ([0, 0], 0x81));
    assert!(answer.text().contains(&"AuthMethod=None".to_owned()));
    // The continue bit: an empty answer, then all at once.
    rig.login_request(1, 0x44, &["MaxBurstLength=4096"]);
    let empty = rig.answer();
    assert_eq!((empty.login_status(), empty.header[1], empty.data.len()), ([0, 0], 0x04, 0));
    rig.login_request(1, 0x04, &["FirstBurstLength=4096"]);
    let both = rig.answer().text();
    assert!(
        both.contains(&"MaxBurstLength=4096".to_owned())
            && both.contains(&"FirstBurstLength=4096".to_owned())
    );
    // The same offer again gets the same answer; another one is an error.
    rig.login_request(1, 0x04, &["MaxBurstLength=4096"]);
    assert_eq!(rig.answer().text(), ["MaxBurstLength=4096"]);
    rig.login_request(1, 0x87, &["MaxBurstLength=8192"]);
    assert_eq!(rig.answer().login_status(), [2, 0]);
    assert_eq!(rig.closed, Some(CloseReason::LoginFailed(LoginStatus::InitiatorError)));
}

#[test]
fn logins_that_cannot_be_say_why() {
    let (_, unit, target) = disk();
    let name = format!("InitiatorName={US}");
    let wanted = format!("TargetName={NAME}");
    for (flags, keys, status) in [
        (0x87, vec![wanted.as_str()], [2, 7]),
        (0x87, vec![name.as_str()], [2, 7]),
        (0x87, vec![&name, "TargetName=iqn.2026-01.example:other"], [2, 3]),
        (0x87, vec![&name, &wanted, "SessionType=Odd"], [2, 9]),
        (0x87, vec![&name, &wanted, "no pair at all"], [2, 0]),
        (0x85, vec![&name, &wanted], [2, 0]),
        (0x8b, vec![&name, &wanted], [2, 0]),
        (0xc7, vec![&name, &wanted], [2, 0]),
    ] {
        let mut rig = Rig::new(&target);
        rig.login_request(1, flags, &keys);
        assert_eq!(rig.answer().login_status(), status, "{keys:?}");
        assert!(rig.closed.is_some() && rig.connection.output().is_empty());
    }
    let closed_to_us = gateway_iscsi::Target::new(TargetConfig {
        name: NAME.to_owned(),
        alias: String::new(),
        admission: Admission {
            access: Access::Open,
            initiators: Some(vec!["iqn.2026-01.example:another".to_owned()]),
        },
        units: vec![(1, unit)],
    });
    assert_eq!(Rig::new(&closed_to_us).log_in(1, &[]).login_status(), [2, 2]);
    let mut rig = Rig::new(&target);
    let mut header = [0; 48];
    header[0] = 0x01;
    rig.send_unit(header, b"");
    assert_eq!(rig.closed, Some(CloseReason::LoginFailed(LoginStatus::InvalidRequest)));
}

fn chap_value(text: &[String], key: &str) -> String {
    let value = text.iter().find_map(|pair| pair.strip_prefix(&format!("{key}=")));
    value.unwrap_or_else(|| panic!("{key} in {text:?}")).to_owned()
}

fn response(identifier: u8, secret: &str, challenge: &[u8]) -> Vec<u8> {
    sha2::Sha256::digest([&[identifier][..], secret.as_bytes(), challenge].concat()).to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

#[test]
fn chap_in_both_directions_then_operational_keys() {
    let (_, unit, _) = disk();
    let target = target(&unit, chap_access());
    let name = format!("InitiatorName={US}");
    let wanted = format!("TargetName={NAME}");
    for (secret, ends_well) in [("a secret of ours", true), ("a secret of theirs", false)] {
        let mut rig = Rig::new(&target);
        rig.login_request(1, 0x81, &[&name, &wanted, "AuthMethod=CHAP"]);
        let answer = rig.answer();
        assert_eq!(answer.header[1], 0, "nothing ends before the proof");
        assert!(answer.text().contains(&"AuthMethod=CHAP".to_owned()));
        rig.login_request(1, 0x00, &["CHAP_A=8888,7,5"]);
        let text = rig.answer().text();
        assert_eq!(chap_value(&text, "CHAP_A"), "7");
        assert_eq!(
            (chap_value(&text, "CHAP_I"), chap_value(&text, "CHAP_C")),
            ("7".to_owned(), hex(&[9; 32]))
        );
        let proof = format!("CHAP_R={}", hex(&response(7, secret, &[9; 32])));
        rig.login_request(1, 0x81, &["CHAP_N=me", &proof, "CHAP_I=33", "CHAP_C=0bAQIDBA=="]);
        let answer = rig.answer();
        if !ends_well {
            assert_eq!(answer.login_status(), [2, 1]);
            continue;
        }
        assert_eq!((answer.login_status(), answer.header[1]), ([0, 0], 0x81));
        assert_eq!(chap_value(&answer.text(), "CHAP_N"), "you");
        assert_eq!(chap_value(&answer.text(), "CHAP_R"), hex(&response(33, "another secret", &[1, 2, 3, 4])));
        rig.login_request(1, 0x87, &["InitialR2T=Yes"]);
        assert_eq!(rig.answer().login_status(), [0, 0]);
    }
}

#[test]
fn chap_cannot_be_walked_around() {
    let (_, unit, _) = disk();
    let target = target(&unit, chap_access());
    let name = format!("InitiatorName={US}");
    let wanted = format!("TargetName={NAME}");
    // Straight to the operational stage; no method in common; a response before the challenge.
    for (flags, keys) in [
        (0x87, vec![name.as_str(), &wanted]),
        (0x81, vec![&name, &wanted, "AuthMethod=None"]),
        (0x81, vec![&name, &wanted, "AuthMethod=CHAP", "CHAP_N=me", "CHAP_R=0x00"]),
    ] {
        let mut rig = Rig::new(&target);
        rig.login_request(1, flags, &keys);
        assert_eq!(rig.answer().login_status(), [2, 1], "{keys:?}");
    }
    // Asking for the end of the stage again and again without a proof.
    let mut rig = Rig::new(&target);
    rig.login_request(1, 0x83, &[&name, &wanted, "AuthMethod=CHAP"]);
    assert_eq!(rig.answer().header[1], 0);
    rig.login_request(1, 0x83, &[]);
    assert_eq!(rig.answer().header[1], 0);
    assert!(target.sessions().is_empty());
    let mut rig = Rig::with(&target, Limits::default(), chap_access());
    rig.login_request(1, 0x87, &[&name, "SessionType=Discovery"]);
    assert_eq!(rig.answer().login_status(), [2, 1], "the list of targets is not for everybody either");
}

#[test]
fn where_chap_is_optional_whoever_offers_it_alone_has_to_prove_something() {
    let (_, unit, _) = disk();
    let known = vec![
        (credentials("me", "a secret of ours"), None),
        (credentials("me", "a second secret"), Some(credentials("you", "another secret"))),
    ];
    let target = target(&unit, Access::Optional { known });
    let name = format!("InitiatorName={US}");
    let wanted = format!("TargetName={NAME}");
    assert_eq!(Rig::new(&target).log_in(1, &[]).login_status(), [0, 0]);
    let mut rig = Rig::new(&target);
    rig.login_request(1, 0x81, &[&name, &wanted, "AuthMethod=CHAP,None"]);
    assert!(rig.answer().text().contains(&"AuthMethod=None".to_owned()));
    for (secret, user, status) in [
        ("a secret of ours", "me", [0, 0]),
        ("a second secret", "me", [0, 0]),
        ("a second secret", "you", [2, 1]),
        ("another secret", "me", [2, 1]),
    ] {
        let mut rig = Rig::new(&target);
        rig.login_request(1, 0x81, &[&name, &wanted, "AuthMethod=CHAP"]);
        let answer = rig.answer();
        assert_eq!(answer.header[1], 0, "nothing ends before the proof");
        assert!(answer.text().contains(&"AuthMethod=CHAP".to_owned()));
        rig.login_request(1, 0x00, &["CHAP_A=7"]);
        assert_eq!(rig.answer().login_status(), [0, 0]);
        let proof = format!("CHAP_R={}", hex(&response(7, secret, &[9; 32])));
        rig.login_request(1, 0x81, &[&format!("CHAP_N={user}"), &proof]);
        assert_eq!(rig.answer().login_status(), status, "{user} with {secret}");
    }
    let mut rig = Rig::new(&target);
    rig.login_request(1, 0x81, &[&name, &wanted, "AuthMethod=CHAP"]);
    rig.answer();
    rig.login_request(1, 0x87, &["InitialR2T=Yes"]);
    assert_ne!(rig.answer().login_status(), [0, 0], "who began to prove who it is ends that");
}

#[test]
fn who_has_proved_who_it_is_stays_that() {
    let (_, _, target) = disk();
    let name = format!("InitiatorName={US}");
    let wanted = format!("TargetName={NAME}");
    for other in ["InitiatorName=iqn.2026-01.example:other", "TargetName=iqn.x", "SessionType=Discovery"] {
        let mut rig = Rig::new(&target);
        rig.login_request(1, 0x81, &[&name, &wanted, "AuthMethod=None"]);
        assert_eq!(rig.answer().login_status(), [0, 0]);
        rig.login_request(1, 0x87, &[other]);
        assert_eq!(rig.answer().login_status(), [2, 0], "{other}");
    }
    assert!(target.sessions().is_empty());
}

#[test]
fn a_new_login_of_the_same_port_ends_the_session_before() {
    let (_, _, target) = disk();
    let mut first = Rig::ready(&target, 1);
    assert_eq!(first.command(&[0x16, 0, 0, 0, 0, 0], 0, 0, b"").status, GOOD);
    let mut other = Rig::ready(&target, 2);
    assert_eq!(other.command(&[0; 6], 0, 0, b"").status, GOOD);
    assert_eq!(other.command(&[0x16, 0, 0, 0, 0, 0], 0, 0, b"").status, CONFLICT);
    let mut second = Rig::ready(&target, 1);
    assert_eq!(target.sessions().len(), 2);
    // What the first had reserved is free at once, whenever it notices.
    assert_eq!(other.command(&[0x16, 0, 0, 0, 0, 0], 0, 0, b"").status, GOOD);
    first.pump();
    assert_eq!(first.closed, Some(CloseReason::Kicked));
    drop(first);
    assert_eq!(target.sessions().len(), 2);
    assert_eq!(second.command(&[0; 6], 0, 0, b"").status, GOOD);
    let mut rig = Rig::new(&target);
    rig.login_request(9, 0x87, &[]);
    assert_eq!(rig.answer().login_status(), [2, 7]);
}

#[test]
fn discovery_lists_all_targets_in_pieces() {
    let (_, _, target) = disk();
    let mut rig = Rig::new(&target);
    rig.login_request(1, 0x87, &[&format!("InitiatorName={US}"), "SessionType=Discovery"]);
    assert_eq!(rig.answer().login_status(), [0, 0]);
    let (mut ttt, mut text, mut pieces) = (NO_TAG, Vec::new(), 0);
    loop {
        let mut header = [0; 48];
        header[0] = 0x04;
        header[1] = FINAL;
        header[16..20].copy_from_slice(&5_u32.to_be_bytes());
        header[20..24].copy_from_slice(&ttt.to_be_bytes());
        header[24..28].copy_from_slice(&rig.cmd_sn.to_be_bytes());
        rig.cmd_sn += 1;
        rig.send_unit(header, if ttt == NO_TAG { b"SendTargets=All\0" } else { b"" });
        let answer = rig.answer();
        assert_eq!(answer.opcode(), 0x24);
        assert!(answer.data.len() <= 8192, "no more than was declared");
        text.extend_from_slice(&answer.data);
        pieces += 1;
        ttt = answer.word(20);
        if answer.header[1] & FINAL != 0 {
            break;
        }
    }
    assert!(pieces > 1);
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with(&format!("TargetName={NAME}\0TargetAddress=10.0.0.1:3260,1\0")));
    assert_eq!(text.matches("TargetName=").count(), 301);
    // There is no disk in a discovery session.
    rig.start(&[0; 6], 0, 0, b"");
    assert_eq!(rig.answer().opcode(), 0x3f);
}

#[test]
fn a_normal_session_is_told_of_its_own_target_only() {
    let (_, _, target) = disk();
    let mut rig = Rig::ready(&target, 1);
    let mut header = [0; 48];
    header[0] = 0x44;
    header[1] = FINAL;
    header[20..24].copy_from_slice(&NO_TAG.to_be_bytes());
    rig.send_unit(header, b"SendTargets=\0HeaderDigest=CRC32C\0X-what=1\0");
    let text = rig.answer().text();
    assert_eq!(
        text,
        [
            "HeaderDigest=Reject".to_owned(),
            "X-what=NotUnderstood".to_owned(),
            format!("TargetName={NAME}"),
            "TargetAddress=10.0.0.1:3260,1".to_owned(),
        ]
    );
}
