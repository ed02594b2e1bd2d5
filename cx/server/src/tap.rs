//! The tap of a stream, as far as the CX knows it: its connection, its last heartbeat, what it is to be asked.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cx_link::DownlinkHandle;
use cx_link::outbox::OutboxObserver;
use cx_spool::{Hole, Reached};
use cx_wire::{
    Accepted, AskCode, AskError, Copies, Heartbeat, Hello, Question, Refuse, Reply, Standing, TapState,
    TapStatus,
};
use tap_block::{Lsn, Monotonic, WallTime};
use tokio::sync::Notify;

/// A tap that says nothing for so long is not known to be in any state.
const SILENCE: Duration = Duration::from_secs(3);

/// The upper side of a stream.
#[derive(Debug, Default)]
pub(crate) struct Tap {
    state: Mutex<State>,
    /// A consumer's history broke off, or the tap came: the nurse looks.
    pub(crate) trouble: Notify,
}

#[derive(Debug, Default)]
struct State {
    link: Option<DownlinkHandle>,
    heartbeat: Option<(Heartbeat, Monotonic)>,
    /// What the tap was told to be durable at every gateway.
    everywhere: Lsn,
    /// How many heartbeats in a row had this head and nothing waiting, while this was the last record received.
    idle: (Lsn, Lsn, u32),
    copies: Copies,
}

/// So many heartbeats in a row prove that a tap has nothing waiting. One does not: a record may just be passing from
/// one of its queues to the next.
const IDLE_BEATS: u32 = 5;

impl Tap {
    pub(crate) fn attached(&self, link: DownlinkHandle) {
        let everywhere = {
            let mut state = self.lock();
            state.link = Some(link.clone());
            state.idle = Default::default();
            state.everywhere
        };
        link.ack_everywhere(everywhere);
        self.trouble.notify_one();
    }

    /// The tap came, and was taken (`None`) or turned away.
    pub(crate) fn note_refused(&self, hello: &Hello, refused: Option<&Refuse>, now: WallTime) {
        let copies = &mut self.lock().copies;
        match refused {
            Some(refuse) => copies.refused(hello, refuse, now),
            None => copies.taken(hello.epoch),
        }
    }

    /// Is it the copy of the tap's state that the stream goes on with? `known`: how far that is.
    pub(crate) fn check_copy(&self, hello: &Hello, known: Lsn) -> Result<(), Refuse> {
        self.lock().copies.check(hello, known)
    }

    /// The one that was turned away last is to go on after all.
    pub(crate) fn accept_restored(&self, known: Lsn, now: WallTime) -> Result<Accepted, AskError> {
        let mut state = self.lock();
        let stream = Standing { known, epoch: None, is_linked: state.link.is_some() };
        state.copies.accept(stream, now)
    }

    pub(crate) fn detached(&self) {
        self.lock().link = None;
    }

    pub(crate) fn link(&self) -> Option<DownlinkHandle> {
        self.lock().link.clone()
    }

    /// The tap said where it stands; `received` is the last record that came. The head, if it is certain that nothing
    /// is on its way.
    pub(crate) fn heard(&self, heartbeat: Heartbeat, received: Lsn, now: Monotonic) -> Option<Lsn> {
        let (head, status) = (heartbeat.head, &heartbeat.status);
        let quiet =
            status.state == TapState::Protected && status.queued_bytes == 0 && status.spooled_bytes == 0;
        let mut state = self.lock();
        let (before, got, beats) = state.idle;
        let beats = if (before, got) == (head, received) { beats.saturating_add(1) } else { 1 };
        state.idle = (head, received, if quiet { beats } else { 0 });
        state.heartbeat = Some((heartbeat, now));
        (quiet && beats >= IDLE_BEATS).then_some(head)
    }

    /// What a gateway is told of the tap: its last heartbeat. When it is silent or away, the time and the head stay
    /// where they were and the state says that it does not run, as far as anybody knows.
    pub(crate) fn heartbeat(&self, head: Lsn, spooled: u64, now: Monotonic) -> Heartbeat {
        let state = self.lock();
        let (away, refused) = (state.link.is_none(), state.copies.why().map(str::to_owned));
        let Some((heartbeat, heard)) = state.heartbeat.clone() else {
            return Heartbeat {
                head,
                at: WallTime::EPOCH,
                status: unknown_status(spooled),
                ledgers: None,
                witnesses: Vec::new(),
                stores: Vec::new(),
                refused,
                set_back: None,
            };
        };
        drop(state);
        let mut beat = Heartbeat { refused, ..heartbeat };
        beat.head = beat.head.max(head);
        beat.status.spooled_bytes += spooled;
        if away && now.since(heard) >= SILENCE {
            beat.status.state = TapState::Stopped;
        } else if spooled > 0 && beat.status.state == TapState::Protected {
            beat.status.state = TapState::Spooling;
        }
        beat
    }

    /// The last head the tap told.
    pub(crate) fn head(&self) -> Option<Lsn> {
        self.lock().heartbeat.as_ref().map(|(heartbeat, _)| heartbeat.head)
    }

    /// Asks the tap.
    pub(crate) async fn ask(&self, question: Question, limit: Duration) -> Result<Reply, AskError> {
        if let Some(link) = self.link() {
            return link.ask(question, limit).await;
        }
        Err(match self.lock().copies.why() {
            Some(why) => {
                AskError::new(AskCode::Conflict, format!("the CX does not take the tap's records: {why}"))
            }
            None => AskError::new(
                AskCode::NotReachable,
                "the tap of this volume is not connected to the CX: check that it runs, then try again",
            ),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn unknown_status(spooled_bytes: u64) -> TapStatus {
    TapStatus {
        state: TapState::Stopped,
        queued_bytes: 0,
        spooled_bytes,
        marked_bytes: 0,
        sync: None,
        baselines: 0,
        resynced_bytes: 0,
    }
}

impl OutboxObserver for Tap {
    fn progress(&self, _: Reached, everywhere: Lsn) {
        let link = {
            let mut state = self.lock();
            if everywhere <= state.everywhere {
                return;
            }
            state.everywhere = everywhere;
            state.link.clone()
        };
        if let Some(link) = link {
            link.ack_everywhere(everywhere);
        }
    }

    fn hole(&self, hole: Hole) {
        tracing::error!(
            gateway = hole.consumer.get(),
            after = %hole.after,
            "a gateway misses records that the CX does not have any more: the tap is asked for a resync"
        );
        self.trouble.notify_one();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use cx_wire::PROTOCOL;
    use tap_block::{Epoch, RunId, StreamId, VolumeId};

    pub(crate) fn hello(stream: u64, run: u64, first: u64) -> Hello {
        Hello {
            protocol: PROTOCOL,
            stream: StreamId::new(stream),
            volume: VolumeId::new(stream),
            name: "web01".parse().unwrap(),
            size: 1 << 30,
            epoch: Epoch::new(1),
            run: RunId::new(run),
            first_lsn: Lsn::new(first).unwrap(),
            sender: "test".to_owned(),
        }
    }

    fn second(n: u64) -> Monotonic {
        Monotonic::from_nanos(n * 1_000_000_000)
    }

    #[test]
    fn a_silent_tap_is_never_said_to_be_protected() {
        let tap = Tap::default();
        let head = Lsn::new(5).unwrap();
        let nothing = tap.heartbeat(head, 10, second(1));
        assert_eq!(
            (nothing.head, nothing.at, nothing.status.state),
            (head, WallTime::EPOCH, TapState::Stopped)
        );
        let status = TapStatus { state: TapState::Protected, ..unknown_status(0) };
        tap.heard(
            Heartbeat {
                head,
                at: WallTime::from_nanos(9),
                status,
                ledgers: None,
                witnesses: Vec::new(),
                stores: Vec::new(),
                refused: None,
                set_back: None,
            },
            head,
            second(1),
        );
        assert_eq!(tap.heartbeat(head, 0, second(2)).status.state, TapState::Protected);
        assert_eq!(tap.heartbeat(head, 1, second(2)).status.state, TapState::Spooling);
        let late = tap.heartbeat(head, 0, second(5));
        assert_eq!((late.status.state, late.at), (TapState::Stopped, WallTime::from_nanos(9)));
    }

    #[test]
    fn only_a_row_of_heartbeats_proves_that_nothing_is_on_its_way() {
        let tap = Tap::default();
        let (old, head) = (Lsn::new(4).unwrap(), Lsn::new(5).unwrap());
        let beat = |queued_bytes| Heartbeat {
            head,
            at: WallTime::EPOCH,
            status: TapStatus { state: TapState::Protected, queued_bytes, ..unknown_status(0) },
            ledgers: None,
            witnesses: Vec::new(),
            stores: Vec::new(),
            refused: None,
            set_back: None,
        };
        let told = |queued, received| tap.heard(beat(queued), received, second(1));
        assert_eq!((0..4).filter_map(|_| told(0, old)).count(), 0);
        assert_eq!(told(0, old), Some(head));
        assert_eq!(told(0, head), None, "something came");
        assert_eq!((0..9).filter_map(|_| told(1, head)).count(), 0, "something waits");
        assert_eq!(told(0, head), None);
    }
}
