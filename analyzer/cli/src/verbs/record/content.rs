//! What a tap tells of its guests: each I/O, and samples of what they write. The only source that sees the content of writes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use analyzer_profile::At;
use analyzer_profile::cgp::{Found, Reader, Record};
use tap_block::Clock as _;
use tap_disk::RealClock;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

use super::{Recording, last_time};
use crate::failure::{Failure, say};

/// A tap that is away is looked for this often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Listening {
    path: PathBuf,
    stream: Option<UnixStream>,
    reader: Reader,
    buffer: Vec<u8>,
    /// The last time that was told, and whether the tap has gone since.
    last: Option<At>,
    gone: bool,
    /// It has told anything since it was connected to.
    heard: bool,
}

/// `unix:PATH`, or the path alone.
pub(super) fn socket(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("unix:").unwrap_or(text) {
        "" => Err("give the socket that the tap was started with: unix:PATH".to_owned()),
        path => Ok(path.into()),
    }
}

impl Listening {
    /// Connects.
    ///
    /// # Errors
    /// No tap tells anything there.
    pub(super) async fn start(path: &Path) -> Result<Self, Failure> {
        let stream = UnixStream::connect(path).await.map_err(|e| {
            Failure::new(format!("no tap tells its profile at {}", path.display()))
                .because(e)
                .fix(format!("start it with --profile unix:{}", path.display()))
        })?;
        let (reader, buffer) = (Reader::default(), vec![0; 1 << 18]);
        let path = path.to_owned();
        Ok(Self { path, stream: Some(stream), reader, buffer, last: None, gone: false, heard: false })
    }

    /// Takes what comes next into the recording. May be given up at any moment: nothing is lost by that.
    ///
    /// # Errors
    /// The tap is a newer one, or serves somebody else.
    pub(super) async fn take(&mut self, recording: &mut Recording) -> Result<(), Failure> {
        let Some(stream) = &mut self.stream else {
            tokio::time::sleep(LOOK_AGAIN).await;
            self.stream = UnixStream::connect(&self.path).await.ok();
            return Ok(());
        };
        match stream.read(&mut self.buffer).await {
            Ok(n) if n > 0 => self.push(n, recording),
            _ if !self.heard => {
                Err(Failure::new(format!("the tap at {} tells nothing", self.path.display()))
                    .because("it ended the connection at once")
                    .fix("is another `record --tap` at work? It serves one at a time"))
            }
            _ => {
                say("the tap has gone; recording goes on when it is back");
                (self.stream, self.gone, self.heard) = (None, true, false);
                self.reader = Reader::default();
                Ok(())
            }
        }
    }

    fn push(&mut self, n: usize, recording: &mut Recording) -> Result<(), Failure> {
        self.heard = true;
        self.reader.push(self.buffer.get(..n).unwrap_or(&[]));
        let newer = |e| Failure::new("this tap cannot be listened to").because(e);
        while let Some(found) = self.reader.next(false).map_err(newer)? {
            self.last = self.last.max(last_time(&found));
            match found {
                Found::Record(record) => self.record(record, recording)?,
                Found::Lost(bytes) => {
                    say(&format!("warning: {bytes} bytes from the tap are no profile; left out"))
                }
                Found::Unknown(kind) => {
                    say(&format!(
                        "warning: the tap tells frames of kind {kind}, which a newer analyzer knows"
                    ));
                }
            }
        }
        Ok(())
    }

    fn record(&mut self, record: Record, recording: &mut Recording) -> Result<(), Failure> {
        let source = matches!(record, Record::Source(_));
        recording.add(&[record])?;
        // What a tap that was away did not tell.
        if let Some(from) = self.last.filter(|_| source && std::mem::take(&mut self.gone)) {
            recording.add(&[Record::Loss { from, to: RealClock.wall(), events: 0 }])?;
        }
        Ok(())
    }
}
