//! What the CX remembers of the streams it has seen, so that their spools are drained after a restart though the taps
//! are away: a folder per stream with its last greeting and its spool.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cx_wire::{Hello, Message};
use tap_block::StreamId;
use tap_disk::{ensure_dir, small_file};

const STREAMS: &str = "streams";
const HELLO: &str = "hello";
const SPOOL: &str = "spool";

/// The folders.
#[derive(Debug, Clone)]
pub(crate) struct Books {
    root: PathBuf,
}

impl Books {
    /// Makes the folders under `data`.
    pub(crate) fn open(data: &Path) -> io::Result<Self> {
        let root = data.join(STREAMS);
        ensure_dir(&root)?;
        Ok(Self { root })
    }

    /// The streams remembered; those whose greeting cannot be read are left out, with a line in the log.
    pub(crate) fn known(&self) -> io::Result<Vec<Hello>> {
        let mut known = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let folder = entry?.path();
            match read_hello(&folder) {
                Ok(hello) => known.extend(hello),
                Err(e) => tracing::error!(
                    folder = %folder.display(),
                    "a stream's greeting cannot be read, so its spool waits until its tap comes back: {e}"
                ),
            }
        }
        Ok(known)
    }

    /// Was this stream ever here?
    pub(crate) fn knows(&self, stream: StreamId) -> bool {
        self.folder(stream).join(HELLO).exists()
    }

    /// Remembers a stream's last greeting.
    pub(crate) fn remember(&self, hello: &Hello) -> io::Result<()> {
        let folder = self.folder(hello.stream);
        ensure_dir(&folder)?;
        small_file::write_atomic(&folder.join(HELLO), &Message::Hello(hello.clone()).encode().concat())
    }

    /// Where a stream's spool lies.
    pub(crate) fn spool(&self, stream: StreamId) -> PathBuf {
        self.folder(stream).join(SPOOL)
    }

    fn folder(&self, stream: StreamId) -> PathBuf {
        self.root.join(format!("{:016x}", stream.get()))
    }
}

fn read_hello(folder: &Path) -> io::Result<Option<Hello>> {
    let Some(bytes) = small_file::read(&folder.join(HELLO))? else { return Ok(None) };
    let name = folder.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
    match Message::decode(Bytes::from(bytes)) {
        Ok(Message::Hello(hello)) if format!("{:016x}", hello.stream.get()) == name => Ok(Some(hello)),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "it is another stream's, or no greeting")),
        Err(e) => Err(io::Error::new(io::ErrorKind::InvalidData, e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tap::tests::hello;

    #[test]
    fn a_greeting_is_remembered_and_a_spoiled_one_reported_not_fatal() {
        let data = tempfile::tempdir().unwrap();
        let books = Books::open(data.path()).unwrap();
        let greeting = hello(7, 1, 1);
        assert!(!books.knows(greeting.stream));
        books.remember(&greeting).unwrap();
        let changed = Hello { size: 1 << 20, ..greeting };
        books.remember(&changed).unwrap();
        assert!(books.knows(changed.stream));
        assert!(books.known().unwrap().iter().eq([&changed]));
        fs::write(books.folder(changed.stream).join(HELLO), b"rubbish").unwrap();
        assert_eq!(books.known().unwrap(), []);
    }
}
