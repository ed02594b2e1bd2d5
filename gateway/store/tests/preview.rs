//! What policies would let go is told before they are set, and is what then goes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::lab::{Lab, policy, tiers};
use gateway_journal::{MetaRecord, RetentionPolicy};
use gateway_store::Preview;

fn set(policy: &RetentionPolicy) -> MetaRecord {
    MetaRecord::PolicySet { volume: None, policy: Some(policy.clone()) }
}

#[test]
fn what_would_go_is_what_goes() {
    let mut lab = Lab::new(70, tiers());
    // Enough points that it is worth going through history for them.
    lab.write(900, 5);
    lab.settle();
    lab.more(60, 8);
    lab.settle();
    let (volume, store) = (lab.volume(), lab.store());
    assert_eq!(store.preview(&[set(&tiers())]).unwrap(), [], "nothing would change");
    let shorter = policy(100, &[], 0);
    let pinned = store.kept(volume).unwrap().points[0].lsn;
    lab.rule(MetaRecord::Pinned { volume, point: pinned, note: String::new() });
    let all = store.preview(&[set(&shorter)]).unwrap();
    assert_eq!(all.len(), 3, "every volume goes by the general policy");
    let told: &Preview = all.iter().find(|p| p.volume == volume).unwrap();
    let before = store.kept(volume).unwrap();
    assert_eq!(told.points, before.points.len() as u64);
    assert!(told.goes > 0 && told.freed > 0 && !told.is_estimate, "{told:?}");
    assert_eq!((told.log, told.over_limit), (0, 0), "the log is as young as it was");
    let (first, last) = told.between.unwrap();
    assert!(pinned < first.lsn && first.lsn <= last.lsn, "what is pinned stays");
    let taken = store.usage()[&volume].settled;
    lab.rule(set(&shorter));
    assert!(lab.settle() > 0);
    let after = lab.store().kept(volume).unwrap();
    let gone = before.points.iter().filter(|p| after.points.binary_search_by_key(&p.lsn, |q| q.lsn).is_err());
    assert_eq!(gone.count() as u64, told.goes);
    let freed = taken - lab.store().usage()[&volume].settled;
    assert!(freed >= told.freed, "{freed} bytes came free, {} were told", told.freed);
    assert_eq!(lab.store().preview(&[set(&shorter)]).unwrap(), []);
}

#[test]
fn a_log_that_is_old_enough_then_and_a_limit_are_told() {
    let mut lab = Lab::new(71, policy(10_000, &[], 0));
    lab.write(200, 5);
    let shorter = RetentionPolicy { limit: Some(1 << 10), ..policy(10, &[], 0) };
    let all = lab.store().preview(&[set(&shorter)]).unwrap();
    let told = all.iter().find(|p| p.volume == lab.volume()).unwrap();
    assert_eq!((told.points, told.goes, told.between, told.freed), (0, 0, None, 0));
    let used = lab.store().usage()[&lab.volume()].log;
    assert!(told.log > 0 && told.log <= used, "{told:?} of {used}");
    assert_eq!(told.over_limit, used - (1 << 10));
}
