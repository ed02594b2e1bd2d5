//! The pool: every job runs once, the limit holds, nobody is left waiting.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use super::*;

const SOON: Duration = Duration::from_secs(10);

#[test]
fn every_job_runs_once_even_those_queued_at_the_end() {
    let ran = Arc::new(AtomicUsize::new(0));
    let pool = Pool::new("test", 3, 1000);
    for _ in 0..500 {
        let ran = ran.clone();
        pool.submit(move || {
            ran.fetch_add(1, Ordering::Relaxed);
        });
    }
    drop(pool);
    assert_eq!(ran.load(Ordering::Relaxed), 500);
}

#[test]
fn at_the_limit_the_submitter_works() {
    let pool = Pool::new("test", 1, 1);
    let (release, blocked) = mpsc::channel::<()>();
    let (started, running) = mpsc::channel();
    pool.submit(move || {
        started.send(()).unwrap();
        blocked.recv().unwrap();
    });
    running.recv_timeout(SOON).unwrap();
    pool.submit(|| {});
    assert_eq!(pool.queued(), 1);
    let (told, who) = mpsc::channel();
    pool.submit(move || told.send(thread::current().id()).unwrap());
    assert_eq!(who.recv_timeout(SOON).unwrap(), thread::current().id());
    release.send(()).unwrap();
}

#[test]
fn as_many_threads_as_allowed_run_at_once() {
    let pool = Pool::new("test", 4, 16);
    let barrier = Arc::new(std::sync::Barrier::new(4));
    let (told, done) = mpsc::channel();
    for _ in 0..4 {
        let (barrier, told) = (barrier.clone(), told.clone());
        pool.submit(move || {
            barrier.wait();
            told.send(()).unwrap();
        });
    }
    for _ in 0..4 {
        done.recv_timeout(SOON).unwrap();
    }
}

#[test]
fn a_panic_costs_one_job() {
    let pool = Pool::new("test", 1, 16);
    let (told, done) = mpsc::channel();
    pool.submit(|| panic!("on purpose"));
    pool.submit(move || told.send(()).unwrap());
    done.recv_timeout(SOON).unwrap();
}

#[test]
fn the_last_owner_may_be_a_job() {
    let pool = Arc::new(Pool::new("test", 1, 16));
    let (told, done) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let own = pool.clone();
    pool.submit(move || {
        wait.recv().unwrap();
        drop(own);
        told.send(()).unwrap();
    });
    drop(pool);
    go.send(()).unwrap();
    done.recv_timeout(SOON).unwrap();
}

#[test]
fn without_threads_the_submitter_works() {
    let pool = Pool::new("test", 0, 16);
    let (told, who) = mpsc::channel();
    pool.submit(move || told.send(thread::current().id()).unwrap());
    assert_eq!(who.try_recv().unwrap(), thread::current().id());
}
