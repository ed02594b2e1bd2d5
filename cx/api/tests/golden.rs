//! The JSON that scripts rely on, held by files: a change of a field name or form fails here first.
//!
//! A field may be added (write the new golden file by hand and read it); none may be renamed or change form.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use cx_api::{
    AcceptedView, AnchorView, AtGateView, BookmarkCreate, BookmarkView, ChapLogin, ClientLinesView,
    ClockView, Code, ConnectView, DiffView, ElapsedConfirm, ElapsedView, ExportCreate, ExportProtocol,
    ExportView, ExtentView, FindingKind, FindingView, ForecastView, GapView, GateOutcome, GateState,
    GateView, GroupPointView, GroupView, Health, HealthView, HistoryView, HoldView, ImageCreate, ImageView,
    JobId, JobKind, JobState, JobView, JournalView, KeptView, LimitState, LimitView, MemberPointView,
    OtherStoreView, Page, PinView, PointView, PoliciesApply, PolicyPreview, PolicySet, PolicySource,
    PolicyView, Problem, ProofView, RestoreCreate, Retention, SessionView, ShortOf, ShortageView, Size, Span,
    StatusView, StoreGone, StoresView, StretchView, SyncView, TierView, TimelineView, VerificationView,
    VolumeState, VolumeView, WentShort, WhenFull,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tap_block::{Consistency, Lsn, Name, SyncCause, VolumeId, WallTime};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn lsn(n: u64) -> Lsn {
    Lsn::new(n).unwrap()
}

fn at(text: &str) -> WallTime {
    WallTime::parse_rfc3339(text).unwrap()
}

#[track_caller]
fn golden<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T, file: &str) {
    let written = serde_json::to_string_pretty(value).unwrap();
    assert_eq!(written, file.trim_end(), "the JSON form of a contract type changed");
    assert_eq!(&serde_json::from_str::<T>(file).unwrap(), value);
}

fn volume() -> VolumeView {
    VolumeView {
        id: VolumeId::new(0x2a),
        name: name("web01"),
        size: 68_719_476_736,
        state: VolumeState::Resync,
        head_lsn: Some(lsn(9_007_199_254_740_991)),
        durable_lsn: lsn(1_041_376),
        durable_time: Some(at("2026-11-22T12:00:00.25Z")),
        lag_seconds: Some(0.75),
        clock_offset_seconds: Some(-0.25),
        lag_bytes: Some(16384),
        baseline_count: 1,
        resynced_bytes: 1_048_576,
        sync: Some(SyncView { cause: SyncCause::Overflow, done_bytes: 4096, total_bytes: 8192 }),
        gaps: vec![
            GapView {
                from_lsn: lsn(100),
                to_lsn: Some(lsn(140)),
                from: Some(at("2026-11-22T10:00:00Z")),
                to: Some(at("2026-11-22T10:00:05Z")),
                cause: SyncCause::UncleanStop,
                bytes: 65536,
            },
            GapView {
                from_lsn: lsn(1_041_376),
                to_lsn: None,
                from: None,
                to: None,
                cause: SyncCause::Overflow,
                bytes: 0,
            },
        ],
        verified: Some(proof()),
        damaged: 2,
        history_bytes: 3 << 30,
        history_limit: Some(LimitView { bytes: 4 << 30, state: LimitState::Fits }),
    }
}

fn proof() -> ProofView {
    let (checked, time) = (at("2026-11-22T11:00:00Z"), at("2026-11-22T10:59:59Z"));
    ProofView { checked, lsn: lsn(1_041_000), time }
}

fn unheard() -> VolumeView {
    VolumeView {
        state: VolumeState::Unknown,
        head_lsn: None,
        durable_lsn: Lsn::ZERO,
        durable_time: None,
        lag_seconds: None,
        clock_offset_seconds: None,
        lag_bytes: None,
        sync: None,
        gaps: Vec::new(),
        verified: None,
        damaged: 0,
        history_limit: None,
        ..volume()
    }
}

fn problem() -> Problem {
    Problem::new(Code::NotSelectable, "lsn:120 of web01 cannot be opened")
        .because("the tap ended uncleanly and the disk was copied again from lsn:100 to lsn:140")
        .fix("open lsn:100 (before) or lsn:140 (after)")
}

#[test]
fn volumes() {
    golden(&volume(), include_str!("golden/volume.json"));
    golden(&unheard(), include_str!("golden/volume-unknown.json"));
}

#[test]
fn points_and_bookmarks() {
    let point =
        PointView { volume: name("web01"), name: None, lsn: lsn(7), time: Some(at("2026-11-22T12:00:00Z")) };
    golden(&point, include_str!("golden/point.json"));
    let bookmark = BookmarkView {
        volume: name("web01"),
        name: name("before-upgrade"),
        lsn: lsn(8),
        time: at("2026-11-22T12:00:00.000000001Z"),
        consistency: Consistency::FileSystem,
        note: "apt full-upgrade".into(),
        selectable: true,
    };
    golden(&Page { items: vec![bookmark], next: Some("8".into()) }, include_str!("golden/bookmarks.json"));
}

#[test]
fn an_old_copy_that_was_accepted() {
    let accepted = AcceptedView {
        volume: name("web01"),
        tap: "tap 4711".into(),
        refused_since: at("2026-11-22T12:00:00Z"),
        knows_lsn: lsn(15),
        knows_time: Some(at("2026-11-20T03:00:00.5Z")),
        history_lsn: lsn(75),
        epoch: 2,
    };
    golden(&accepted, include_str!("golden/accepted.json"));
}

#[test]
fn time_that_was_not_counted() {
    let elapsed = ElapsedView {
        age: at("2026-11-22T12:00:00Z"),
        machine: at("2027-02-13T12:00:00Z"),
        went_seconds: Some(7_776_000),
        uncounted_seconds: 7_171_200,
        creditable_seconds: 7_171_200,
        holds_ending: vec!["web01 until 2026-12-01T00:00:00Z".into()],
    };
    golden(&elapsed, include_str!("golden/elapsed.json"));
    let confirm: ElapsedConfirm = serde_json::from_str(r#"{"seconds": 7}"#).unwrap();
    assert_eq!(confirm, ElapsedConfirm { seconds: 7 });
    assert!(serde_json::from_str::<ElapsedConfirm>(r#"{"seconds": 7, "yes": true}"#).is_err());
}

#[test]
fn stores_that_were_here() {
    let stores = StoresView {
        store: "0f3c9d2e11223344".into(),
        others: vec![OtherStoreView {
            store: "000000000000000a".into(),
            known_by: "cx".into(),
            last: at("2026-11-22T12:00:00Z"),
            confirmed_gone: false,
        }],
    };
    golden(&stores, include_str!("golden/stores.json"));
    assert!(serde_json::from_str::<StoreGone>(r#"{"store": "a", "yes": true}"#).is_err());
}

#[test]
fn images() {
    let image = ImageView {
        id: 3,
        name: name("web01-test"),
        volume: name("web01"),
        lsn: lsn(8),
        time: None,
        size: 4096,
        writable: true,
        quota_bytes: Some(1 << 30),
        used_bytes: Some(0),
        materialized_bytes: Some(2048),
        created: at("2026-11-22T12:00:00Z"),
        parent_id: Some(2),
        parent: Some("web01-2".parse().unwrap()),
        uri: "nbd+unix:///web01-test?socket=/run/gw.sock".into(),
        uris: vec![
            "nbd+unix:///web01-test?socket=/run/gw.sock".into(),
            "nbd://127.0.0.1:10809/web01-test".into(),
        ],
    };
    golden(&image, include_str!("golden/image.json"));
}

#[test]
fn jobs() {
    let job = JobView {
        id: JobId::new(5),
        kind: JobKind::Restore,
        state: JobState::Failed,
        volume: name("web01"),
        lsn: lsn(8),
        path: "/srv/web01.img".into(),
        uris: Vec::new(),
        done_bytes: 4096,
        total_bytes: 8192,
        started: at("2026-11-22T12:00:00Z"),
        ended: Some(at("2026-11-22T12:00:01Z")),
        error: Some(Problem::new(Code::NoSpace, "no space left on /srv").fix("free 4 KiB and repeat")),
    };
    golden(&job, include_str!("golden/job.json"));
}

#[test]
fn sessions() {
    let session = SessionView {
        id: 7,
        at: "gateway".into(),
        client: "10.0.0.7:51112".into(),
        certificate: Some("backup.example".into()),
        tls: Some("1.3".into()),
        export: Some("web01@-10m".into()),
        target: None,
        initiator: None,
        since: at("2026-11-22T12:00:00Z"),
        bytes_read: 8192,
        bytes_written: 0,
        requests: 3,
        in_flight: 1,
    };
    golden(&session, include_str!("golden/session.json"));
    let session = SessionView {
        id: 8,
        at: "iscsi".into(),
        client: "10.0.0.8:51113".into(),
        certificate: None,
        tls: None,
        export: Some("web01-test".into()),
        target: Some("iqn.2026-01.example.chronogate:web01-test".into()),
        initiator: Some("iqn.1998-01.com.vmware:esx1".into()),
        bytes_written: 4096,
        ..session
    };
    golden(&session, include_str!("golden/session-iscsi.json"));
}

#[test]
fn exports() {
    let uri = "iscsi://10.0.0.5:3260/iqn.2026-01.example.chronogate:web01-test/7";
    let export = ExportView {
        image: 3,
        name: name("web01-test"),
        volume: name("web01"),
        protocol: ExportProtocol::Iscsi,
        target: "iqn.2026-01.example.chronogate:web01-test".into(),
        lun: 7,
        writable: true,
        acl: vec!["iqn.1998-01.com.vmware:esx1".into(), "iqn.1998-01.com.vmware:esx2".into()],
        chap_user: Some("esx".into()),
        mutual_chap_user: Some("gateway".into()),
        as_original: false,
        naa: "602c09c8f271edfd7c0a066b87421e93".into(),
        serial: "f271edfd7c0a066b87421e93".into(),
        problem: None,
        sessions: 1,
        created: at("2026-11-22T12:00:00Z"),
        uri: uri.into(),
        uris: vec![uri.into()],
    };
    golden(&export, include_str!("golden/export.json"));
    let line = "iscsiadm -m node -T iqn.2026-01.example.chronogate:web01-test -p 10.0.0.5:3260 --login";
    let connect = ConnectView {
        export: name("web01-test"),
        portal: "10.0.0.5:3260".into(),
        clients: vec![ClientLinesView {
            client: "open-iscsi".into(),
            tried: false,
            lines: vec![line.into()],
            notes: vec!["the initiator's name is in /etc/iscsi/initiatorname.iscsi".into()],
        }],
    };
    golden(&connect, include_str!("golden/connect.json"));
}

#[test]
fn an_export_needs_no_more_than_its_image_and_never_shows_a_secret() {
    let plain = r#"{"image": "3", "protocol": "iscsi"}"#;
    let plain: ExportCreate = serde_json::from_str(plain).unwrap();
    assert!(plain.lun.is_none() && plain.acl.is_empty() && plain.chap.is_none() && !plain.as_original);
    let login = ChapLogin { user: "esx".into(), secret: "twelve-chars".into() };
    let text = format!("{:?}", ExportCreate { chap: Some(login.clone()), mutual_chap: Some(login), ..plain });
    assert!(text.contains("esx") && !text.contains("twelve"), "{text}");
    assert!(serde_json::from_str::<ExportCreate>(r#"{"image": "3", "protocol": "nfs"}"#).is_err());
}

#[test]
fn status_and_health() {
    let status = StatusView {
        version: "0.1.0".into(),
        started: at("2026-11-22T11:00:00Z"),
        now: at("2026-11-22T12:00:00Z"),
        health: Health::Degraded,
        reasons: vec!["web01: a resync is running; wait for its end".into()],
        volumes: vec![unheard()],
        images: 1,
        jobs_running: 0,
        nbd_connections: 2,
        nbd: vec!["nbd://127.0.0.1:10809/".into()],
        journal: JournalView {
            segments: 2,
            bytes: 134_217_728,
            free_bytes: None,
            records: 77,
            damaged: 0,
            refused: 0,
        },
    };
    golden(&status, include_str!("golden/status.json"));
    golden(&HealthView::from(&status), include_str!("golden/health.json"));
}

#[test]
fn problems() {
    golden(&problem(), include_str!("golden/problem.json"));
}

#[test]
fn request_bodies_need_only_what_has_no_default() {
    let bookmark: BookmarkCreate = serde_json::from_str(r#"{"name": "b1"}"#).unwrap();
    assert_eq!((bookmark.consistency, bookmark.wait_seconds), (Consistency::Crash, 60));
    let image: ImageCreate = serde_json::from_str(r#"{"volume": "web01", "at": "-10m"}"#).unwrap();
    assert_eq!((image.writable, image.name, image.quota_bytes), (false, None, None));
    let restore = r#"{"volume": "web01", "at": "now", "path": "/x"}"#;
    assert_eq!(serde_json::from_str::<RestoreCreate>(restore).unwrap().path, "/x");
}

#[test]
fn a_misspelt_or_bad_field_is_named() {
    for (body, word) in [
        (r#"{"name": "b1", "wiat_seconds": 5}"#, "wiat_seconds"),
        (r#"{"name": "now"}"#, "means something else"),
        (r#"{"name": "b1", "consistency": "eventual"}"#, "crash, filesystem, application"),
        (r#"{"name": 5}"#, "string"),
        (r"{}", "name"),
        ("", "empty"),
    ] {
        let error = cx_api::json::parse::<BookmarkCreate>(body.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(word), "{body}: {error}");
    }
}

#[test]
fn a_lag_is_never_written_smaller_than_it_is() {
    for (lag, written) in [(1.643_042_529_000_000_1, 1.644), (0.0, 0.0), (1e-9, 0.001), (2.0, 2.0)] {
        let view = VolumeView { lag_seconds: Some(lag), ..volume() };
        assert_eq!(serde_json::to_value(view).unwrap()["lag_seconds"], written);
    }
}

#[test]
fn an_lsn_out_of_range_is_refused() {
    let mut json = serde_json::to_value(volume()).unwrap();
    for bad in [serde_json::json!(1u64 << 53), serde_json::json!(-1), serde_json::json!("7")] {
        json.as_object_mut().unwrap().insert("durable_lsn".into(), bad);
        assert!(serde_json::from_value::<VolumeView>(json.clone()).is_err());
    }
}

fn policy() -> PolicyView {
    let span = |seconds| Span(std::time::Duration::from_secs(seconds));
    PolicyView {
        volume: Some(name("web01")),
        source: PolicySource::Own,
        retention: Retention {
            every_write: span(172_800),
            tiers: vec![TierView {
                each: span(60),
                keep: span(604_800),
                before_drop: Some(GateView { hook: "archive.sh".into(), deadline: span(21_600) }),
            }],
            bookmarks: span(31_536_000),
            when_full: WhenFull::Thin,
            limit: Some(Size(4 << 30)),
        },
    }
}

#[test]
fn policies() {
    golden(&policy(), include_str!("golden/policy.json"));
}

#[test]
fn policies_to_apply() {
    let of = |volume, retention| PolicySet { volume, retention, check: false };
    let policies = vec![of(None, Some(Retention::built_in())), of(Some(name("web01")), None)];
    golden(&PoliciesApply { policies, check: true }, include_str!("golden/policies-apply.json"));
}

fn shortage() -> ShortageView {
    ShortageView {
        went: WentShort::Bookmarks,
        of: ShortOf::Journal,
        first_lsn: lsn(3),
        last_lsn: lsn(5),
        points: 2,
        since: at("2026-11-21T08:00:00Z"),
        until: at("2026-11-21T08:30:00Z"),
        said: "the journal was full".into(),
    }
}

#[test]
fn timelines() {
    let kept = |n, time| KeptView { lsn: lsn(n), time: at(time) };
    let hold = HoldView {
        from: at("2026-11-01T00:00:00Z"),
        to: at("2026-12-01T00:00:00Z"),
        until: at("2027-12-01T00:00:00Z"),
        note: "audit".into(),
    };
    let view = TimelineView {
        volume: name("web01"),
        policy: policy(),
        oldest: Some(kept(7, "2026-11-20T12:00:00Z")),
        newest: Some(kept(900, "2026-11-22T12:00:00Z")),
        every_write_after: lsn(500),
        points: vec![kept(7, "2026-11-20T12:00:00Z"), kept(500, "2026-11-20T13:00:00Z")],
        stretches: vec![StretchView {
            first: kept(7, "2026-11-20T12:00:00Z"),
            last: kept(500, "2026-11-20T13:00:00Z"),
            points: 2,
            every_write: false,
        }],
        point_count: 2,
        bookmark_count: 1,
        pins: vec![PinView { lsn: lsn(7), note: "quarter".into() }],
        holds: vec![hold],
        gaps: vec![volume().gaps[0].clone()],
        clocks: vec![ClockView {
            lsn: lsn(700),
            from: at("2026-11-22T10:00:00Z"),
            to: at("2026-11-22T11:00:00Z"),
            ahead: false,
        }],
        forecast: ForecastView {
            used_bytes: 1 << 30,
            settled_bytes: 1 << 29,
            free_bytes: Some(1 << 31),
            bytes_per_day: Some(1 << 28),
            full_at: None,
        },
        history: HistoryView {
            log_bytes: 1 << 30,
            settled_bytes: 2 << 30,
            limit: Some(LimitView { bytes: 4 << 30, state: LimitState::Fits }),
            bytes_per_day: Some(1 << 27),
            full_at: Some(at("2026-11-30T12:00:00Z")),
        },
        gates: vec![AtGateView {
            keep: Span(std::time::Duration::from_secs(604_800)),
            hook: "archive.sh".into(),
            state: GateState::Failing,
            waiting: 1,
            first: Some(kept(7, "2026-11-20T12:00:00Z")),
            last: Some(kept(7, "2026-11-20T12:00:00Z")),
            deadline: Some(at("2026-11-22T18:00:00Z")),
            failures: 2,
            error: Some("the hook ended with exit status: 1; it said: no tape".into()),
            last_outcome: Some(GateOutcome::Passed),
            last_at: Some(at("2026-11-22T08:00:00Z")),
        }],
        held_up: vec!["a hold keeps what was written to db01".into()],
        shortages: vec![shortage()],
    };
    golden(&view, include_str!("golden/timeline.json"));
}

#[test]
fn previews() {
    let kept = |n, time| Some(KeptView { lsn: lsn(n), time: at(time) });
    let hour = Span(std::time::Duration::from_secs(3600));
    let view = PolicyPreview {
        volume: name("web01"),
        retention: Retention { every_write: hour, tiers: Vec::new(), limit: None, ..Retention::built_in() },
        point_count: 900,
        goes: 820,
        first: kept(7, "2026-11-20T12:00:00Z"),
        last: kept(500, "2026-11-20T13:00:00Z"),
        freed_bytes: 1 << 30,
        is_estimate: false,
        log_bytes: 2 << 30,
        over_limit_bytes: 0,
    };
    golden(&view, include_str!("golden/preview.json"));
}

#[test]
fn verifications() {
    let block = FindingView {
        kind: FindingKind::Block,
        extent: Some(ExtentView { offset: 4096, length: 4096 }),
        version: Some(84),
        from_lsn: Some(lsn(42)),
        to_lsn: Some(lsn(77)),
        from: Some(at("2026-11-22T10:00:00Z")),
        to: Some(at("2026-11-22T10:00:05Z")),
        segment: 3,
        from_byte: 8192,
        to_byte: 12300,
        detail: "the checksum of the stored block does not match".into(),
        found: at("2026-11-22T11:00:00Z"),
        over: None,
    };
    let header = FindingView {
        kind: FindingKind::Header,
        extent: None,
        version: None,
        from_lsn: None,
        to_lsn: None,
        from: None,
        to: None,
        segment: 5,
        from_byte: 0,
        to_byte: 4096,
        detail: "no segment header of format version 1 here".into(),
        found: at("2026-11-21T11:00:00Z"),
        over: Some(at("2026-11-22T11:00:00Z")),
    };
    let (open, over) = (1, 1);
    let findings = vec![block, header];
    let (time, place) = (at("2026-11-22T10:58:00Z"), "cx".to_owned());
    let anchored = Some(AnchorView { entry: 812, time, place });
    let (volume, verified) = (name("web01"), Some(proof()));
    let view = VerificationView { volume, verified, anchored, open, over, findings };
    golden(&view, include_str!("golden/verification.json"));
}

#[test]
fn groups() {
    let point = |mark: &str, lsns: [u64; 2], time, bookmark: Option<&str>| {
        let member = |volume: &str, n| MemberPointView {
            volume: name(volume),
            lsn: lsn(n),
            export: format!("{volume}@mark:{mark}"),
        };
        GroupPointView {
            group: name("db"),
            point: format!("mark:{mark}"),
            time: at(time),
            bookmark: bookmark.map(name),
            members: vec![member("data01", lsns[0]), member("log01", lsns[1])],
        }
    };
    let view = GroupView {
        name: name("db"),
        volumes: vec!["data01".into(), "log01".into()],
        point_count: 2,
        oldest: Some(point(
            "1795341600250000000",
            [40, 41],
            "2026-11-22T10:00:00.25Z",
            Some("before-upgrade"),
        )),
        newest: Some(point("1795341601250000000", [50, 51], "2026-11-22T10:00:01.25Z", None)),
        age_seconds: Some(0.5),
        one_policy: true,
    };
    golden(&view, include_str!("golden/group.json"));
}

#[test]
fn diffs() {
    let view = DiffView {
        volume: name("web01"),
        from_lsn: lsn(7),
        to_lsn: lsn(9),
        bytes: 8192,
        extents: vec![ExtentView { offset: 4096, length: 4096 }],
        next: Some("8192".into()),
    };
    golden(&view, include_str!("golden/diff.json"));
}
