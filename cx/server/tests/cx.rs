//! The CX between a tap and its gateways, each of its rules: what is acknowledged when, what survives what.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    unreachable_pub,
    reason = "tests"
)]

mod common;

use common::{Gateway, Mode, SOON, World, ask_head, run, until};
use cx_server::{Cx, CxError};
use cx_wire::{
    AskCode, Hello, LedgerHead, Lookup, Question, RecordSeen, Refuse, RefuseCode, Reply, RunSeen, SetBack,
    TapState, Witness,
};
use tap_block::{Epoch, Extent, Lsn, RunId, WallTime};

#[test]
fn batches_pass_through_to_every_gateway_and_nothing_is_written_to_disk() {
    run(async {
        let world = World::new(2).patient();
        for gateway in &world.gateways {
            gateway.start().await;
        }
        let cx = world.cx().await;
        let mut tap = world.tap(1).await;
        tap.write(40);
        tap.end_sync();
        tap.wait_acked().await;
        tap.wait_everywhere().await;
        for gateway in &world.gateways {
            gateway.check_against(&tap.truth, tap.work.volume(), Lsn::ZERO);
            assert_eq!(gateway.stored(), tap.made.len(), "each batch once");
            assert_eq!(gateway.hellos()[0], tap.hello());
        }
        assert_eq!(world.spool_files(), [""; 0]);
        let status = cx.status();
        assert_eq!((status.streams.len(), status.problems.len()), (1, 0));
        let stream = &status.streams[0];
        assert_eq!((stream.durable, stream.everywhere, stream.queued_bytes), (tap.head(), tap.head(), 0));
        assert!(
            stream.tap_connected && stream.gateways.iter().all(|g| g.connected && g.durable == tap.head())
        );
        cx.stop().await;
    });
}

#[test]
fn the_heads_of_ledgers_are_kept_and_passed_on() {
    run(async {
        let world = World::new(2).patient();
        for gateway in &world.gateways {
            gateway.start().await;
        }
        let cx = world.cx().await;
        let mut tap = world.tap(9).await;
        tap.write(4);
        tap.end_sync();
        tap.wait_everywhere().await;
        let (one, two) = (&world.gateways[0], &world.gateways[1]);
        let says = |gateway: &Gateway, heads: &[LedgerHead]| {
            gateway.heartbeats().last().is_some_and(|beat| beat.ledgers.as_deref() == Some(heads))
        };
        until("a CX says that it keeps none yet", &one.changed, || says(one, &[])).await;
        let head = |store, entry| LedgerHead { store, entry, hash: [7; 32], at: WallTime::from_nanos(5) };
        one.link().unwrap().tell_ledger(head(1, 12));
        until("the other gateway hears of it", &two.changed, || says(two, &[head(1, 12)])).await;
        until("and the one itself", &one.changed, || says(one, &[head(1, 12)])).await;
        two.link().unwrap().tell_ledger(head(2, 3));
        one.link().unwrap().tell_ledger(head(1, 11));
        let kept = [head(1, 12), head(2, 3)];
        until("none goes back", &one.changed, || says(one, &kept)).await;
        // What one keeps of the other comes to the one whose ledger it is; no gateway anchors for another one.
        two.link().unwrap().tell_witnessed(head(1, 12));
        two.link().unwrap().tell_ledger(head(1, 13));
        let told = |gateway: &Gateway| gateway.heartbeats().last().map(|beat| beat.witnesses.clone());
        let witness = Witness { gateway: two.name.clone(), head: head(1, 12) };
        let heard = || told(one).is_some_and(|all| all == [witness.clone()]) && says(one, &kept);
        until("what another one keeps is passed on", &one.changed, heard).await;
        assert_eq!(told(two), Some(Vec::new()));
        cx.stop().await;
        let before = one.heartbeats().len();
        let cx = world.cx().await;
        let again = || one.heartbeats().len() > before && says(one, &kept);
        until("it is known over a restart", &one.changed, again).await;
        cx.stop().await;
    });
}

#[test]
fn heads_that_cannot_be_read_keep_no_cx_from_starting() {
    run(async {
        let world = World::new(1);
        std::fs::create_dir_all(world.config().data.join("HEADS/what")).unwrap();
        let cx = world.cx().await;
        assert!(cx.status().heads_lost.is_some());
        assert!(world.config().data.join("HEADS.unreadable-1/what").is_dir());
        cx.stop().await;
    });
}

#[test]
fn nothing_is_acknowledged_before_it_is_durable_at_every_gateway_or_in_the_spool() {
    run(async {
        let world = World::new(2).patient();
        for gateway in &world.gateways {
            gateway.start().await;
        }
        world.gateways[1].set_mode(Mode::Hold);
        let cx = world.cx().await;
        let mut tap = world.tap(2).await;
        tap.write(20);
        let (ready, slow) = (&world.gateways[0], &world.gateways[1]);
        ready.wait_durable(tap.head()).await;
        until("held", &slow.changed, || slow.held() == tap.made.len()).await;
        assert_eq!((tap.durable(), tap.everywhere()), (Lsn::ZERO, Lsn::ZERO));
        slow.set_mode(Mode::Store);
        tap.wait_acked().await;
        tap.wait_everywhere().await;
        assert_eq!(world.spool_files(), [""; 0]);
        cx.stop().await;
    });
}

#[test]
fn a_slow_gateway_sends_records_to_the_spool_which_is_durable_but_not_everywhere() {
    run(async {
        let world = World::new(2);
        for gateway in &world.gateways {
            gateway.start().await;
        }
        let slow = &world.gateways[1];
        slow.set_mode(Mode::Hold);
        let cx = world.cx().await;
        let mut tap = world.tap(3).await;
        tap.write(30);
        tap.wait_acked().await;
        assert!(tap.everywhere() < tap.head() && slow.durable() == Lsn::ZERO);
        assert!(!world.spool_files().is_empty() && cx.status().streams[0].spooled_bytes > 0);
        slow.set_mode(Mode::Store);
        tap.wait_everywhere().await;
        tap.write(10);
        tap.wait_everywhere().await;
        for gateway in &world.gateways {
            gateway.check_against(&tap.truth, tap.work.volume(), Lsn::ZERO);
        }
        assert_eq!(cx.status().streams[0].spooled_bytes, 0);
        cx.stop().await;
    });
}

#[test]
fn the_spool_survives_a_clean_stop_and_is_drained_without_the_tap() {
    run(async {
        let world = World::new(1);
        let gateway = &world.gateways[0];
        let cx = world.cx().await;
        let mut tap = world.tap(4).await;
        tap.write(30);
        tap.end_sync();
        tap.wait_acked().await;
        tap.disconnect().await;
        cx.stop().await;
        let cx = world.cx().await;
        let stream = &cx.status().streams[0];
        assert_eq!((stream.received, stream.durable), (tap.head(), tap.head()));
        assert!(!stream.tap_connected && !stream.gateways[0].connected && stream.gateways[0].lag_bytes > 0);
        gateway.start().await;
        gateway.wait_durable(tap.head()).await;
        gateway.check_against(&tap.truth, tap.work.volume(), Lsn::ZERO);
        assert_eq!(gateway.hellos()[0], tap.hello(), "the greeting is remembered");
        cx.stop().await;
    });
}

#[test]
fn what_was_acknowledged_survives_a_kill_and_the_tap_goes_on() {
    run(async {
        let world = World::new(1);
        let gateway = &world.gateways[0];
        let cx = world.doomed_cx();
        let mut tap = world.tap(5).await;
        tap.write(30);
        tap.wait_acked().await;
        tap.write(10);
        cx.kill().await;
        tap.write(10);
        gateway.start().await;
        let cx = world.doomed_cx();
        tap.wait_everywhere().await;
        gateway.check_against(&tap.truth, tap.work.volume(), Lsn::ZERO);
        assert_eq!(tap.asked(), []);
        assert!(cx.status().streams[0].gateways[0].broken_after.is_none());
        cx.kill().await;
    });
}

#[test]
fn killed_again_and_again_it_loses_nothing() {
    run(async {
        let world = World::new(2);
        for gateway in &world.gateways {
            gateway.start().await;
        }
        let mut tap = world.tap(6).await;
        for round in 0..6 {
            let cx = world.doomed_cx();
            let slow = &world.gateways[round % 2];
            slow.set_mode(Mode::Hold);
            tap.write(15);
            if round % 3 == 0 {
                tap.wait_acked().await;
            }
            cx.kill().await;
            slow.stop().await;
            slow.set_mode(Mode::Store);
            slow.start().await;
        }
        let cx = world.doomed_cx();
        tap.end_sync();
        tap.wait_everywhere().await;
        for gateway in &world.gateways {
            gateway.check_against(&tap.truth, tap.work.volume(), Lsn::ZERO);
        }
        assert_eq!(tap.asked(), [], "no resync for a kill");
        cx.kill().await;
    });
}

#[test]
fn after_a_restart_the_gateways_tell_what_is_durable() {
    run(async {
        let world = World::new(1).patient();
        world.gateways[0].start().await;
        let cx = world.doomed_cx();
        let mut tap = world.tap(7).await;
        tap.write(20);
        tap.wait_everywhere().await;
        cx.kill().await;
        let cx = world.doomed_cx();
        tap.write(20);
        tap.wait_everywhere().await;
        assert_eq!(world.gateways[0].stored(), tap.made.len(), "each batch once");
        assert_eq!(cx.status().streams[0].durable, tap.head());
        cx.kill().await;
    });
}

#[test]
fn a_gateway_that_comes_back_is_sent_what_it_misses() {
    run(async {
        let world = World::new(2);
        let (always, sometimes) = (&world.gateways[0], &world.gateways[1]);
        always.start().await;
        sometimes.start().await;
        let cx = world.cx().await;
        let mut tap = world.tap(8).await;
        for _ in 0..4 {
            tap.write(10);
            tap.wait_everywhere().await;
            sometimes.stop().await;
            tap.write(10);
            tap.wait_acked().await;
            always.wait_durable(tap.head()).await;
            sometimes.start().await;
        }
        tap.end_sync();
        tap.wait_everywhere().await;
        sometimes.check_against(&tap.truth, tap.work.volume(), Lsn::ZERO);
        cx.stop().await;
    });
}

#[test]
fn questions_go_up_and_answers_come_down() {
    run(async {
        let world = World::new(2);
        for gateway in &world.gateways {
            gateway.start().await;
        }
        let cx = world.cx().await;
        let mut tap = world.tap(9).await;
        tap.wait_everywhere().await;
        for gateway in &world.gateways {
            match ask_head(gateway).await.unwrap() {
                Reply::Head { lsn, .. } => assert_eq!(lsn, tap.head()),
                other => panic!("{other:?}"),
            }
        }
        tap.disconnect().await;
        let answer = ask_head(&world.gateways[0]).await.unwrap_err();
        assert_eq!(answer.code, AskCode::NotReachable);
        assert!(answer.detail.contains("check that"), "{answer}");
        cx.stop().await;
    });
}

#[test]
fn heartbeats_go_down_and_a_tap_that_is_away_is_not_called_protected() {
    run(async {
        let world = World::new(1);
        let gateway = &world.gateways[0];
        gateway.start().await;
        let cx = world.cx().await;
        let mut tap = world.tap(10).await;
        tap.write(5);
        tap.wait_everywhere().await;
        let told = |state| {
            let last = gateway.heartbeats().last().cloned();
            last.is_some_and(|b| b.head == tap.head() && b.status.state == state && b.at == tap.work.now())
        };
        until("a heartbeat", &gateway.changed, || told(TapState::Protected)).await;
        let (head, at) = (tap.head(), tap.work.now());
        tap.disconnect().await;
        until("a heartbeat of a tap that is away", &gateway.changed, || {
            let last = gateway.heartbeats().last().cloned();
            last.is_some_and(|b| b.head == head && b.status.state == TapState::Stopped && b.at == at)
        })
        .await;
        cx.stop().await;
    });
}

async fn wait_resync_asked(tap: &common::Tap, from: Lsn) {
    let wanted = Question::Resync { from, whole: true };
    until("a resync asked for", &tap.shared.changed, || tap.asked().contains(&wanted)).await;
}

#[test]
fn a_gateway_that_lost_its_disk_is_healed_by_a_resync_and_the_other_is_not_disturbed() {
    for same_run in [false, true] {
        run(async {
            let world = World::new(2);
            let (sound, poor) = (&world.gateways[0], &world.gateways[1]);
            sound.start().await;
            poor.start().await;
            let cx = world.cx().await;
            let mut tap = world.tap(11).await;
            tap.write(20);
            tap.end_sync();
            tap.wait_everywhere().await;
            poor.stop().await;
            poor.roll_back(7);
            let kept = poor.durable();
            poor.start().await;
            wait_resync_asked(&tap, kept).await;
            tap.write(3);
            sound.wait_durable(tap.head()).await;
            tap.wait_acked().await;
            assert_eq!(poor.durable(), kept, "nothing after a hole without a sync");
            let healed = tap.resync(same_run);
            poor.wait_durable(healed).await;
            sound.wait_durable(healed).await;
            tap.write(10);
            tap.wait_everywhere().await;
            sound.check_against(&tap.truth, tap.work.volume(), Lsn::ZERO);
            poor.check_against(&tap.truth, tap.work.volume(), healed.previous());
            assert!(poor.lsns().contains(&tap.head()));
            assert!(cx.status().streams[0].gateways.iter().all(|g| g.broken_after.is_none()));
            cx.stop().await;
        });
    }
}

#[test]
fn a_gateway_that_was_put_back_is_told_so_and_what_is_gone_is_asked_for_over_a_restart_as_well() {
    for restarted in [false, true] {
        run(async {
            let world = World::new(2);
            let (sound, poor) = (&world.gateways[0], &world.gateways[1]);
            for (gateway, store) in [(sound, 71), (poor, 72)] {
                gateway.has_store(store);
                gateway.start().await;
            }
            let mut running = Some(world.cx().await);
            let mut tap = world.tap(14).await;
            tap.write(20);
            tap.end_sync();
            tap.wait_everywhere().await;
            let had = tap.head();
            let sound_all = running.as_ref().unwrap().status().streams.remove(0);
            assert!(sound_all.gateways.iter().all(|g| g.set_back.is_none()));
            if restarted {
                running.take().unwrap().stop().await;
            }
            poor.stop().await;
            poor.roll_back(7);
            let has = poor.durable();
            poor.start().await;
            let cx = match running {
                Some(cx) => cx,
                None => world.cx().await,
            };
            let told = |gateway: &Gateway| gateway.heartbeats().last().and_then(|beat| beat.set_back);
            until("told", &poor.changed, || told(poor) == Some(SetBack { had, has })).await;
            wait_resync_asked(&tap, has).await;
            let gateways = cx.status().streams.remove(0).gateways;
            let said = gateways[1].set_back.as_ref().unwrap();
            assert!(
                said.contains(&format!("lsn:{}", had.get())) && said.contains("put back to an older state")
            );
            assert_eq!((&gateways[0].set_back, told(sound)), (&None, None));
            let healed = tap.resync(false);
            poor.wait_durable(healed).await;
            // Another store is no older state of this one.
            poor.stop().await;
            poor.roll_back(0);
            poor.has_store(73);
            poor.start().await;
            let beats = poor.heartbeats().len();
            until("a heartbeat", &poor.changed, || poor.heartbeats().len() > beats).await;
            assert_eq!(told(poor), None);
            cx.stop().await;
        });
    }
}

#[test]
fn a_gateway_that_is_new_in_the_middle_of_a_stream_is_healed_too() {
    for same_run in [false, true] {
        run(async {
            let mut world = World::new(1);
            world.gateways[0].start().await;
            let cx = world.cx().await;
            let mut tap = world.tap(12).await;
            tap.write(20);
            tap.end_sync();
            tap.wait_everywhere().await;
            cx.stop().await;
            let newcomer = Gateway::new(&world.hub, 1);
            newcomer.start().await;
            world.gateways.push(newcomer.clone());
            let cx = world.cx().await;
            tap.write(1);
            wait_resync_asked(&tap, Lsn::ZERO).await;
            let healed = tap.resync(same_run);
            newcomer.wait_durable(healed).await;
            tap.write(5);
            tap.wait_everywhere().await;
            newcomer.check_against(&tap.truth, tap.work.volume(), healed.previous());
            world.gateways[0].check_against(&tap.truth, tap.work.volume(), Lsn::ZERO);
            cx.stop().await;
        });
    }
}

#[test]
fn a_lost_spool_is_noticed_though_the_tap_is_idle() {
    run(async {
        let world = World::new(1);
        let gateway = &world.gateways[0];
        let cx = world.cx().await;
        let mut tap = world.tap(13).await;
        tap.write(10);
        tap.end_sync();
        tap.wait_acked().await;
        cx.stop().await;
        std::fs::remove_dir_all(world.data.path().join("cx/streams")).unwrap();
        gateway.start().await;
        let cx = world.cx().await;
        wait_resync_asked(&tap, Lsn::ZERO).await;
        let healed = tap.resync(false);
        gateway.wait_durable(healed).await;
        tap.wait_everywhere().await;
        gateway.check_against(&tap.truth, tap.work.volume(), healed.previous());
        cx.stop().await;
    });
}

#[test]
fn at_the_spools_limit_the_tap_waits_and_nothing_is_lost() {
    run(async {
        let mut world = World::new(1);
        world.limits.spool_limit = 256 << 10;
        world.limits.credit = 256 << 10;
        let gateway = &world.gateways[0];
        let cx = world.cx().await;
        let mut tap = world.tap(14).await;
        for _ in 0..60 {
            tap.write(10);
        }
        let full = || cx.status().streams.first().is_some_and(|s| s.spool_full);
        until("a full spool", &tap.shared.changed, full).await;
        assert!(!tap.is_drained() && tap.durable() < tap.head());
        gateway.start().await;
        tap.end_sync();
        tap.wait_everywhere().await;
        gateway.check_against(&tap.truth, tap.work.volume(), Lsn::ZERO);
        cx.stop().await;
    });
}

#[test]
fn a_gateways_refusal_reaches_the_tap_and_its_end_too() {
    run(async {
        let world = World::new(1);
        let gateway = &world.gateways[0];
        let detail = "another stream has the name web01: choose another".to_owned();
        gateway.set_refuse(Some(Refuse { code: RefuseCode::NameTaken, detail: detail.clone() }));
        gateway.start().await;
        let cx = world.cx().await;
        let mut tap = world.tap(15).await;
        until("refused", &tap.shared.changed, || tap.refused().is_some_and(|r| r.detail == detail)).await;
        assert_eq!(cx.status().streams[0].gateways[0].problem.as_deref(), Some(detail.as_str()));
        gateway.set_refuse(None);
        tap.write(5);
        tap.wait_everywhere().await;
        cx.stop().await;
    });
}

/// As when a server is restored from a backup, and the CX and the gateway are not: what the tap has would be taken for records
/// that are here already.
#[test]
fn a_tap_whose_state_was_set_back_is_turned_away_at_once_and_the_gateway_hears_why() {
    run(async {
        let world = World::new(1);
        let gateway = &world.gateways[0];
        gateway.start().await;
        let cx = world.cx().await;
        let mut tap = world.tap(15).await;
        tap.write(30);
        tap.wait_everywhere().await;
        tap.disconnect().await;
        let mut old = world.tap_set_back(15).await;
        old.write(2);
        until("refused", &old.shared.changed, || old.refused().is_some()).await;
        assert_eq!(old.refused().unwrap().code, RefuseCode::SplitHistory);
        let told = || gateway.heartbeats().last().and_then(|beat| beat.refused.clone());
        until("told", &gateway.changed, || told().is_some_and(|why| why.contains("old copy"))).await;
        assert!(old.everywhere() == Lsn::ZERO, "nothing of it is taken for kept");
        old.disconnect().await;
        // The right one goes on, and nothing is said any more.
        tap.connect(&world);
        tap.write(5);
        tap.wait_everywhere().await;
        until("no more", &gateway.changed, || told().is_none()).await;
        gateway.check_against(&tap.truth, tap.work.volume(), Lsn::ZERO);
        cx.stop().await;
    });
}

/// What is in memory alone counts as well: a tap that was set back would give its places to other records, which would be taken for
/// repetitions.
#[test]
fn a_tap_that_greets_is_told_of_the_last_record_that_was_taken_in() {
    run(async {
        let world = World::new(1).patient();
        world.gateways[0].start().await;
        world.gateways[0].set_mode(Mode::Hold);
        let cx = world.cx().await;
        let mut tap = world.tap(21).await;
        tap.write(30);
        let taken = || cx.status().streams.first().is_some_and(|stream| stream.received == tap.head());
        until("taken in", &world.gateways[0].changed, taken).await;
        tap.disconnect().await;
        let before = tap.welcome();
        tap.connect(&world);
        until("welcomed", &tap.shared.changed, || tap.welcome() != before).await;
        let welcome = tap.welcome().unwrap();
        let at = tap.made.iter().rev().find_map(|batch| batch.last_record()).unwrap().captured_at;
        assert!(welcome.durable < tap.head(), "the gateway has not said that it has it");
        assert_eq!(welcome.last, Some(RecordSeen { run: tap.work.run(), lsn: tap.head(), at }));
        world.gateways[0].set_mode(Mode::Store);
        tap.wait_everywhere().await;
        tap.disconnect().await;
        cx.stop().await;
        std::fs::remove_dir_all(world.data.path().join("cx")).unwrap();
        let (cx, before) = (world.cx().await, tap.welcome());
        tap.connect(&world);
        until("welcomed", &tap.shared.changed, || tap.welcome() != before).await;
        assert_eq!(tap.welcome().unwrap().last, welcome.last, "the gateway tells it");
        cx.stop().await;
    });
}

/// One that only goes away says nothing of what it has; a tap that was set back would take that for proof.
#[test]
fn a_gateway_that_is_stopping_has_not_said_what_it_has() {
    run(async {
        let world = World::new(1);
        let gateway = &world.gateways[0];
        let detail = "it is stopping".to_owned();
        gateway.set_refuse(Some(Refuse { code: RefuseCode::Stopping, detail }));
        gateway.start().await;
        let cx = world.cx().await;
        let mut tap = world.tap(18).await;
        until("welcomed", &tap.shared.changed, || tap.welcome().is_some()).await;
        assert!(!gateway.hellos().is_empty() && !tap.welcome().unwrap().known);
        gateway.set_refuse(None);
        tap.write(5);
        tap.wait_everywhere().await;
        cx.stop().await;
    });
}

/// As when the machine of both is set back to a snapshot with its memory: the connection between them stands, and that to the
/// gateway is dead.
#[test]
fn what_a_gateway_has_of_a_future_that_tap_and_cx_were_set_back_from_is_told_to_the_tap() {
    run(async {
        let world = World::new(1);
        let gateway = &world.gateways[0];
        gateway.start().await;
        let cx = world.cx().await;
        let mut tap = world.tap(23).await;
        tap.write(10);
        tap.wait_everywhere().await;
        gateway.stop().await;
        let future = gateway.take_future(3);
        gateway.start().await;
        let told = || tap.welcome().is_some_and(|welcome| welcome.last == Some(future));
        until("told", &tap.shared.changed, told).await;
        cx.stop().await;
    });
}

/// The same, and both went on before they heard of the gateway again.
#[test]
fn what_a_tap_and_a_cx_that_were_set_back_did_meanwhile_does_not_go_on_from_what_the_gateway_has() {
    for records in [1, 2] {
        run(async {
            let world = World::new(1);
            let gateway = &world.gateways[0];
            gateway.start().await;
            let cx = world.cx().await;
            let mut tap = world.tap(24).await;
            tap.write(10);
            tap.wait_everywhere().await;
            gateway.stop().await;
            let future = gateway.take_future(records);
            while tap.head() <= future.lsn.plus(5) {
                tap.write(1);
            }
            tap.wait_acked().await;
            gateway.start().await;
            let asked = || tap.asked().iter().any(|q| matches!(q, Question::Resync { whole: true, .. }));
            until("asked for everything", &tap.shared.changed, asked).await;
            let healed = tap.resync(true);
            tap.wait_everywhere().await;
            gateway.check_against(&tap.truth, tap.work.volume(), healed.previous());
            cx.stop().await;
        });
    }
}

/// A tap that waits to hear from all of them is not left waiting, whatever the last one that answers has to say.
#[test]
fn a_tap_that_was_welcomed_before_all_gateways_had_answered_greets_again_when_they_have() {
    for is_refused in [false, true] {
        run(async {
            let world = World::new(2);
            let (one, other) = (&world.gateways[0], &world.gateways[1]);
            one.start().await;
            let cx = world.cx().await;
            let mut tap = world.tap(22).await;
            tap.write(30);
            tap.wait_acked().await;
            tap.disconnect().await;
            let before = tap.welcome();
            let next = Hello { run: RunId::new(99), first_lsn: tap.head().plus(1 << 20), ..tap.hello() };
            tap.connect_as(&world, next);
            until("welcomed", &tap.shared.changed, || tap.welcome() != before).await;
            let early = tap.welcome().unwrap();
            assert!(!early.known && !early.past.unwrap().is_empty(), "one is away, and something is known");
            if is_refused {
                let detail = "another stream has the name".to_owned();
                other.set_refuse(Some(Refuse { code: RefuseCode::NameTaken, detail }));
            }
            other.start().await;
            until("told of all", &tap.shared.changed, || tap.welcome().unwrap().known).await;
            cx.stop().await;
        });
    }
}

/// What the spool holds the gateways need not have: a tap that was set back must hear of it all the same.
#[test]
fn a_run_whose_end_is_in_the_spool_alone_is_told_of_after_a_restart() {
    run(async {
        let world = World::new(1);
        let cx = world.cx().await;
        let mut tap = world.tap(17).await;
        tap.write(30);
        tap.wait_acked().await;
        tap.disconnect().await;
        cx.stop().await;
        let cx = world.cx().await;
        let (known, last) = (tap.hello(), tap.made.last().unwrap().entries.last().unwrap().captured_at);
        let before = tap.welcome();
        let next = RunId::new(known.run.get() ^ 1);
        tap.connect_as(&world, Hello { run: next, first_lsn: tap.head().plus(1 << 20), ..known.clone() });
        until("welcomed", &tap.shared.changed, || tap.welcome() != before).await;
        assert_eq!(tap.welcome().unwrap().past, Some(vec![RunSeen { run: known.run, at: last }]));
        cx.stop().await;
    });
}

#[test]
fn a_second_cx_on_the_same_directory_is_refused_by_name() {
    run(async {
        let world = World::new(1);
        let cx = world.cx().await;
        let error = Cx::start(world.config()).await.unwrap_err();
        assert!(matches!(error, CxError::Lock(_)), "{error}");
        assert!(error.to_string().contains(world.data.path().to_str().unwrap()), "{error}");
        cx.stop().await;
        world.cx().await.stop().await;
    });
}

#[test]
fn an_address_in_use_is_refused_by_name() {
    run(async {
        let world = World::new(0);
        let cx = world.cx().await;
        let mut config = world.config();
        config.data = world.data.path().join("other");
        let error = Cx::start(config).await.unwrap_err();
        assert!(error.to_string().contains("mem:cx"), "{error}");
        cx.stop().await;
    });
}

#[test]
fn over_tcp_it_is_the_same() {
    run(async {
        let mut world = World::new(1);
        world.over_tcp().await;
        let cx = world.cx().await;
        world.listen_at(cx.addresses()[0].clone());
        let mut tap = world.tap(16).await;
        tap.write(40);
        tap.end_sync();
        tokio::time::timeout(SOON, tap.wait_everywhere()).await.unwrap();
        world.gateways[0].check_against(&tap.truth, tap.work.volume(), Lsn::ZERO);
        cx.stop().await;
    });
}

#[test]
fn a_query_is_answered_with_what_all_gateways_agree_on() {
    run(async {
        let world = World::new(2);
        for gateway in &world.gateways {
            gateway.start().await;
        }
        let cx = world.cx().await;
        let mut tap = world.tap(17).await;
        tap.write(10);
        tap.end_sync();
        tap.wait_everywhere().await;
        let extent = Extent::between(0, tap.work.size()).to_blocks();
        let lookup = Lookup { volume: tap.work.volume(), extent, after: tap.head(), seed: 5 };
        let found = tap.querier().query(lookup, SOON).await.unwrap();
        let same = cx_delta::differing(5, extent, tap.work.disk(), &found.hashes).unwrap();
        assert_eq!((found.at, same.is_empty()), (tap.head(), true));
        world.gateways[1].set_mode(Mode::Hold);
        tap.write(10);
        world.gateways[0].wait_durable(tap.head()).await;
        let found = tap.querier().query(lookup, SOON).await.unwrap();
        let differs = cx_delta::differing(5, extent, tap.work.disk(), &found.hashes).unwrap();
        assert!(!differs.is_empty() && found.at < tap.head(), "one of them is behind");
        world.gateways[1].stop().await;
        let refused = tap.querier().query(lookup, SOON).await.unwrap_err();
        assert!(refused.detail.contains("connection"), "{refused}");
        cx.stop().await;
    });
}

/// The server was restored from a backup, and somebody says so: its copy of the tap's state goes on, and no other one does.
#[test]
fn an_old_copy_that_is_accepted_is_told_how_to_begin_anew_and_every_other_one_is_fenced() {
    run(async {
        let world = World::new(1);
        let gateway = &world.gateways[0];
        gateway.start().await;
        let cx = world.cx().await;
        let mut tap = world.tap(15).await;
        tap.write(30);
        tap.wait_everywhere().await;
        let accept = || async { gateway.link().unwrap().ask(Question::AcceptRestored, SOON).await };
        assert_eq!(accept().await.unwrap_err().code, AskCode::Conflict, "nothing is refused");
        tap.disconnect().await;
        let mut old = world.tap_set_back(15).await;
        until("refused", &old.shared.changed, || old.refused().is_some()).await;
        let told = || gateway.heartbeats().last().and_then(|beat| beat.refused.clone());
        let verb = "chronogate volume accept-restored web01";
        until("the verb is named", &gateway.changed, || told().is_some_and(|why| why.contains(verb))).await;
        let Ok(Reply::Accepted(accepted)) = accept().await else { panic!("not accepted") };
        assert_eq!((accepted.run, accepted.known), (old.work.run(), tap.head()));
        assert_eq!((accepted.sender.as_str(), accepted.epoch), ("a test", Epoch::new(1)));
        assert_eq!(accept().await, Ok(Reply::Accepted(accepted)), "said again");
        let anew = RefuseCode::BeginAnew { above: tap.head(), epoch: Epoch::new(1) };
        until("told", &old.shared.changed, || old.refused().is_some_and(|r| r.code == anew)).await;
        old.disconnect().await;
        tap.connect(&world);
        let fenced = || tap.refused().is_some_and(|r| r.code == RefuseCode::Fenced);
        until("the newest copy is fenced", &tap.shared.changed, fenced).await;
        cx.stop().await;
    });
}

/// One of two gateways has what a newer copy wrote, and somebody accepts the old one there. The other one takes the tap all the while.
#[test]
fn what_one_gateway_accepts_is_told_to_the_tap_and_counts_for_all() {
    run(async {
        let world = World::new(2);
        for gateway in &world.gateways {
            gateway.start().await;
        }
        let cx = world.cx().await;
        let mut tap = world.tap(19).await;
        tap.write(30);
        tap.wait_everywhere().await;
        let (above, epoch) = (Lsn::ZERO.plus(7), Epoch::new(3));
        let accepted =
            Refuse { code: RefuseCode::BeginAnew { above, epoch }, detail: "it begins anew".to_owned() };
        world.gateways[1].set_refuse(Some(accepted));
        world.gateways[1].link().unwrap().close("greet again");
        // The other gateway has more, above which it has to begin as well.
        let told = RefuseCode::BeginAnew { above: tap.head(), epoch };
        until("told", &tap.shared.changed, || tap.refused().is_some_and(|r| r.code == told)).await;
        tap.disconnect().await;
        let before = tap.welcome();
        let anew = Hello { epoch, run: RunId::new(99), first_lsn: tap.head().next(), ..tap.hello() };
        tap.connect_as(&world, anew);
        until("taken", &tap.shared.changed, || tap.welcome() != before).await;
        cx.stop().await;
    });
}

/// An old copy wrote into a CX that had lost what it knew, while the gateway was away, which has more of a newer copy.
#[test]
fn records_that_a_gateway_can_never_take_are_left_out_and_everything_is_copied() {
    run(async {
        let world = World::new(1);
        let gateway = &world.gateways[0];
        gateway.start().await;
        let cx = world.cx().await;
        let mut newest = world.tap(20).await;
        newest.write(10);
        newest.wait_everywhere().await;
        newest.disconnect().await;
        cx.stop().await;
        gateway.stop().await;
        std::fs::remove_dir_all(world.data.path().join("cx")).unwrap();
        let cx = world.cx().await;
        let mut old = world.tap_set_back(20).await;
        while old.head() <= newest.head().plus(20) {
            old.write(1);
        }
        old.wait_acked().await;
        gateway.start().await;
        let asked = || old.asked().iter().any(|q| matches!(q, Question::Resync { whole: true, .. }));
        until("asked for everything", &old.shared.changed, asked).await;
        let healed = old.resync(true);
        old.wait_everywhere().await;
        gateway.check_against(&old.truth, old.work.volume(), healed.previous());
        cx.stop().await;
    });
}
