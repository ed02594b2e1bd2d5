//! A made-up trace has known answers; splitting, merging and the form of the file change none of them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "tests"
)]

use std::time::Duration;

use analyzer_profile::cgp::{Clock, Mode, Record, Source};
use analyzer_profile::model::confidence::Confidence;
use analyzer_profile::report::{self, LinkSource, Question, Report, bytes_text, rate_text, time_text};
use analyzer_profile::synth::Plan;
use analyzer_profile::{At, Bin, DeviceNo, Event, Profile, Sampler};

fn profile(events: impl Iterator<Item = Event>) -> Profile {
    let mut profile = Profile::new(&Question::default().rpos);
    events.for_each(|event| profile.event(&event));
    profile
}

/// 5 s of 1000 writes of 4 KiB a second each minute, 10 a second between.
fn plan(minutes: u64) -> Plan {
    let a_minute = 5 * 1000 + 55 * 10;
    Plan { count: minutes * a_minute, base: 10, burst: 1000, ..Plan::default() }
}

#[test]
fn the_answers_of_a_made_up_trace() {
    let report = Report::of(&mut profile(plan(60).events()), &Question::default());
    assert_eq!(report.writes.count, 60 * 5550);
    assert_eq!(report.writes.bytes, 60 * 5550 * 4096);
    assert_eq!(report.writes.peak_1s_bytes_per_second, 1000 * 4096);
    assert!((report.duration_seconds - 3599.9).abs() < 0.01, "{}", report.duration_seconds);
    let required = |rpo: f64| {
        report.required_bandwidth.iter().find(|r| r.coverage >= 1.0 && r.rpo_seconds == rpo).copied().unwrap()
    };
    // One burst of 5 bins in 4 s and the RPO, or, at 60 s, 60 of them at once.
    assert!((required(1.0).bytes_per_second - 4_096_000.0).abs() < 1e-6);
    assert!((required(15.0).bytes_per_second - 5.0 * 4_096_000.0 / 19.0).abs() < 1e-6);
    // Event by event it is the burst and the write that follows it at 5.0 s.
    let exact = required(15.0).bytes_per_second_exact.unwrap();
    assert!((exact - 5001.0 * 4096.0 / 20.0).abs() < 1e-6, "{exact}");
    assert_eq!(report.confidence, Confidence::NoDailyCycle);
    assert_eq!(report.answers.len(), 7);
    assert!(report.recommended.is_some() && report.week.is_none() && report.trend.is_none());
}

#[test]
fn under_half_an_hour_nothing_is_recommended() {
    let report = Report::of(&mut profile(plan(29).events()), &Question::default());
    assert_eq!((report.confidence, report.recommended), (Confidence::TooShort, None));
    let asked = &report.answers[0].sentence;
    assert!(asked.contains("too little was seen"), "{asked}");
}

#[test]
fn an_empty_trace_is_no_trouble() {
    let report = Report::of(&mut Profile::new(&[]), &Question::default());
    assert_eq!((report.writes.count, report.duration_seconds), (0, 0.0));
    assert_eq!(report.answers.len(), 7);
}

#[test]
fn a_link_is_judged_with_growth_and_compression() {
    let of = |growth: f64, compression: Option<f64>, link: f64| {
        let question = Question { link: Some([link; 168]), growth, compression, ..Question::default() };
        Report::of(&mut profile(plan(60).events()), &question).link.unwrap()
    };
    let plain = of(0.0, None, 2e6);
    assert_eq!(of(1.0, Some(0.5), 2e6), plain);
    let doubled = of(1.0, None, 4e6);
    assert_eq!(doubled.achievable_rpo_seconds, plain.achievable_rpo_seconds);
    // Each minute 20.48 MB in 5 s; 2 MB/s leave 12.48 MB behind the last lump: 6.24 s.
    assert!((plain.achievable_rpo_seconds.unwrap() - 6.24).abs() < 1e-6, "{plain:?}");
    assert_eq!(plain.kept[0].violations, 60);
    assert_eq!(of(0.0, None, 0.0).achievable_rpo_seconds, None);
}

#[test]
fn weeks_have_hours_and_days_a_trend() {
    let monday = At::from_nanos(1_704_067_200_000_000_000); // 2024-01-01, a Monday
    let mut profile = Profile::new(&[]);
    let origin = String::new();
    let source = Source { clock: Clock::Wall, mode: Mode::Counters, host: String::new(), origin };
    profile.take(Record::Source(source));
    for hour in 0..20 * 24_u64 {
        let at = monday.plus(Duration::from_secs(hour * 3600));
        // Each day writes a megabyte more, at three in the morning; else a little.
        let write_bytes = if hour % 24 == 3 { (hour / 24 + 1) * 1_000_000 } else { 10 };
        profile.take(Record::Counters {
            at,
            device: DeviceNo::new(0),
            bin: Bin { write_bytes, writes: 1, ..Bin::default() },
        });
    }
    let report = Report::of(&mut profile, &Question::default());
    let trend = report.trend.unwrap();
    assert!((trend.growth_per_day - 1e6).abs() < 1.0, "{trend:?}");
    let week = report.week.unwrap();
    assert_eq!(week.iter().filter(|&&b| b > 1e6).count(), 7);
    assert!(week[3] > 1e6 && week[4] < 1e6);
    // Monday at three was seen three times: days 1, 8 and 15.
    assert!((week[3] - 8e6).abs() < 1.0, "{}", week[3]);
    assert_eq!(report.begins.as_deref(), Some("2024-01-01T00:00:00Z"));
    assert!(
        report.required_bandwidth.iter().all(|r| r.bytes_per_second_exact.is_none()),
        "sums are not events"
    );
}

#[test]
fn blocks_written_again_are_told() {
    // The same 1000 blocks each minute, once a minute.
    let again = (0..60 * 1000).map(|n| Event {
        at: At::from_nanos(n * 60_000_000),
        device: DeviceNo::new(0),
        kind: analyzer_profile::Kind::Write,
        offset: n % 1000 * 4096,
        length: 4096,
        latency: None,
    });
    let found = Report::of(&mut profile(again), &Question::default()).coalescing.unwrap();
    assert_eq!((found.second, found.minute), (1.0, 1.0));
    assert!((found.hour - 1.0 / 60.0).abs() < 1e-9, "{found:?}");
    assert!((found.working_set_bytes / 4_096_000.0 - 1.0).abs() < 0.35, "{found:?}");
}

/// Every third block all zeroes; of the others half noise, half of one byte; every content is written twice.
fn sampled(blocks: u64) -> Profile {
    let (mut sampler, mut profile) = (Sampler::new(DeviceNo::new(0), 42), Profile::new(&[]));
    for n in 0..blocks {
        let mut block = vec![0_u8; 4096];
        let content = n / 3 / 2;
        match (n % 3, content % 2) {
            (0, _) => {}
            (_, 0) => {
                let mut x = content * 2 + n % 3;
                block.iter_mut().for_each(|b| {
                    x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    *b = (x >> 56) as u8;
                });
            }
            _ => block.chunks_mut(8).for_each(|c| c.copy_from_slice(&(content * 3 + n % 3).to_le_bytes())),
        }
        let at = At::from_nanos(n * 1_000_000);
        let event = Event {
            at,
            device: DeviceNo::new(0),
            kind: analyzer_profile::Kind::Write,
            offset: n * 4096,
            length: 4096,
            latency: None,
        };
        profile.event(&event);
        sampler.write(at, n * 4096, &block);
        if sampler.is_full() || n + 1 == blocks {
            profile.take(Record::Content(sampler.take().unwrap()));
        }
    }
    profile
}

#[test]
fn what_compression_and_deduplication_save_is_measured_with_its_error() {
    let mut profile = sampled(60_000);
    let report = Report::of(&mut profile, &Question::default());
    let content = report.content.unwrap();
    assert_eq!((content.blocks, content.zero_share), (60_000, 1.0 / 3.0));
    // Of the two thirds half is kept raw with 12 bytes before it, half shrinks to some tens of bytes.
    let truth = 1.0 / 3.0 * (4108.0 + 40.0) / 4096.0;
    let (low, high) = content.stored_share_interval.unwrap();
    assert!(low < truth && truth < high && high - low < 0.05, "{content:?}");
    let (low, high) = content.repeated_share_interval.unwrap();
    assert!(low < 0.5 && 0.5 < high && high - low < 0.15, "{content:?}");
    let answer = &report.answers[3];
    assert_eq!(answer.number, content.stored_share.map(|s| 1.0 - s));
    assert!(
        answer.sentence.contains("measured on") && answer.sentence.contains("95 %"),
        "{}",
        answer.sentence
    );
    assert_eq!(report.on_the_link.source, LinkSource::Measured);
    // It goes into what a link is judged by, unless something else is assumed.
    let rpo = |compression| {
        let question = Question { link: Some([1e6; 168]), compression, ..Question::default() };
        Report::of(&mut profile.clone(), &question).link.unwrap().achievable_rpo_seconds
    };
    assert_eq!(rpo(None), rpo(content.stored_share));
    assert!(rpo(None) < rpo(Some(1.0)));
}

#[test]
fn an_interval_holds_the_truth_in_95_of_100_samples() {
    let truth = 1.0 / 3.0 * (4108.0 + 40.0) / 4096.0;
    let (mut held, all) = (0, 40);
    for seed in 0..all {
        let mut sampler = Sampler::new(DeviceNo::new(0), seed);
        let mut contents = analyzer_profile::model::content::Contents::default();
        for n in 0..3000_u64 {
            let mut block = vec![0_u8; 4096];
            let mut x = n + seed * 7919;
            match n % 3 {
                0 => {}
                1 => block.iter_mut().for_each(|b| {
                    x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    *b = (x >> 56) as u8;
                }),
                _ => block.chunks_mut(8).for_each(|c| c.copy_from_slice(&(n + 1).to_le_bytes())),
            }
            sampler.write(At::from_nanos(n), n * 4096, &block);
        }
        contents.add(&sampler.take().unwrap());
        let found = contents.stored_share().unwrap();
        held += u32::from(found.low < truth && truth < found.high);
    }
    assert!((35..=40).contains(&held), "{held} of {all}");
}

#[test]
fn whole_blocks_travel() {
    let small = (0..1000_u64).map(|n| Event {
        at: At::from_nanos(n * 1_000_000_000),
        device: DeviceNo::new(0),
        kind: analyzer_profile::Kind::Write,
        offset: n * 4096 + 1024,
        length: 512,
        latency: None,
    });
    let report = Report::of(&mut profile(small), &Question::default());
    assert_eq!((report.on_the_link.whole_blocks, report.on_the_link.share), (8.0, 8.0));
    assert_eq!(report.on_the_link.source, LinkSource::Unknown);
}

#[test]
fn the_first_copy_and_the_way_back() {
    let question = Question { link: Some([12.5e6; 168]), disk: Some(1 << 40), ..Question::default() };
    let report = Report::of(&mut profile(plan(60).events()), &question);
    let initial = report.initial_sync.unwrap();
    let left = 12.5e6 - report.writes.mean_bytes_per_second;
    assert!((initial.link_seconds.unwrap() - (1_u64 << 40) as f64 / left).abs() < 1.0, "{initial:?}");
    assert!(initial.disk_known && initial.advice == report::Advice::Link, "{initial:?}");
    assert_eq!(report.recovery.image_seconds, Some(305.0 + (1_u64 << 30) as f64 / 125e6));
    assert_eq!(report.recovery.copied_back_seconds, Some(305.0 + (1_u64 << 40) as f64 / 125e6));
    let slow = Question { link: Some([1e6; 168]), road: Duration::from_secs(86_400), ..question };
    let report = Report::of(&mut profile(plan(60).events()), &slow);
    assert_eq!(report.initial_sync.unwrap().advice, report::Advice::Carry);
    assert!(report::initial_text(&report).unwrap().contains("carried"));
    let none = Question { link: Some([1e3; 168]), disk: None, ..slow };
    let report = Report::of(&mut profile(plan(60).events()), &none);
    let initial = report.initial_sync.unwrap();
    assert!(!initial.disk_known && initial.advice == report::Advice::FasterLink, "{initial:?}");
}

#[test]
fn figures_for_people() {
    assert_eq!(bytes_text(999.0), "999 B");
    assert_eq!(bytes_text(1_500_000.0), "1.50 MB");
    assert_eq!(rate_text(12_500_000.0), "100 Mbit/s (12.5 MB/s)");
    for (seconds, text) in [
        (0.0, "0 s"),
        (0.2501, "251 ms"),
        (15.0, "15 s"),
        (15.01, "15.1 s"),
        (300.0, "5 min"),
        (5430.5, "90 min 31 s"),
        (9000.0, "2 h 30 min"),
        (1_209_600.0, "14 d"),
    ] {
        assert_eq!(time_text(seconds), text);
    }
}
