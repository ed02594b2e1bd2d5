//! What every connection does, whatever its protocol: turn by turn, until it is over.
//!
//! Each turn takes all completions there are, starts a batch of requests, writes all replies in one go and
//! reads whatever has arrived; only when none of this got anywhere does the thread sleep.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tap_block::Output;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::busy_poll::BusyPoll;
use crate::ended::Ended;
use crate::mailbox::{Mailbox, Stop};

/// A read with less room than this is not worth its system call.
pub(crate) const LEAST_ROOM: usize = 32 << 10;
/// Requests started before replies are written: enough to save system calls, few enough that the client
/// gets to work on the first replies.
const BATCH: usize = 8;
/// The same for large requests: payload beyond this ends a batch.
const BATCH_BYTES: u64 = 256 << 10;
/// Pieces to one vectored write.
const SLICES: usize = 64;
/// How long a client has to hang up after the last reply, so that closing does not cut the reply off.
const LINGER: Duration = Duration::from_millis(500);

/// A connection, as its turns see it.
pub(crate) trait Turns {
    fn mailbox(&self) -> &Mailbox;

    fn busy_poll(&mut self) -> &mut BusyPoll;

    /// Is there nothing that it waits for but its client?
    fn awaits_client(&self) -> bool;

    /// What it has been told of stopping, as far as it has looked.
    fn stop(&self) -> Stop;

    /// Does whatever can be done; was there anything?
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended>;

    /// Nothing to do: is the connection over, or too slow?
    fn rest(&mut self, cx: &mut Context<'_>) -> Option<Ended>;

    /// Turn by turn, until it sleeps or is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.mailbox().awake();
        self.busy_poll().wake();
        loop {
            match self.turn(cx) {
                Ok(_) if self.stop() == Stop::Abort => return Poll::Ready(Ended::Stopped),
                Ok(true) => self.busy_poll().note_work(),
                Ok(false) => match self.rest(cx) {
                    Some(ended) => return Poll::Ready(ended),
                    None if self.awaits_client() && self.busy_poll().look_again(cx) => return Poll::Pending,
                    None if self.mailbox().sleep(self.stop(), cx.waker()) => {
                        self.busy_poll().sleep();
                        return Poll::Pending;
                    }
                    None => {}
                },
                Err(ended) => return Poll::Ready(ended),
            }
        }
    }
}

/// Starts requests until the batch is full or `start` finds none; each is of so much payload. Was there any?
pub(crate) fn batch(mut start: impl FnMut() -> Option<u64>) -> bool {
    let (mut started, mut bytes) = (0, 0);
    while started < BATCH && bytes < BATCH_BYTES {
        let Some(payload) = start() else { break };
        bytes += payload;
        started += 1;
    }
    started > 0
}

/// Writes as much as goes in one go of what waits, of which there is some; how much that was.
pub(crate) fn poll_write(
    stream: &mut (impl AsyncWrite + Unpin),
    output: &mut Output,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut slices = [IoSlice::new(&[]); SLICES];
    let used = output.slices(&mut slices);
    let pieces = slices.get(..used).unwrap_or_default();
    Pin::new(stream).poll_write_vectored(cx, pieces).map(|written| match written? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        n => {
            output.advance(n);
            Ok(n)
        }
    })
}

/// Tells the other end that nothing more comes and waits a little for it to hang up, so that closing does not cut off the last of
/// what was sent.
pub(crate) async fn linger(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), input: &mut BytesMut) {
    let goodbye = async {
        stream.shutdown().await?;
        while stream.read_buf(input).await? > 0 {
            input.clear();
        }
        io::Result::Ok(())
    };
    // One that lingers on, or has gone already, has got its answers or never will.
    let _ = tokio::time::timeout(LINGER, goodbye).await;
}
