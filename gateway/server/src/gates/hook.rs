//! Running a hook: a program of the operator's that hands points on before they go.
//!
//! It gets `VOLUME FROM_LSN TO_LSN` as arguments, the same and more in its environment, and every point as a line
//! `LSN TIME EXPORT` on its standard input. Exit 0 means that all of them were handed on. It may be run again for the same
//! points (after a restart, or when it failed half way), so it has to be idempotent.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cx_api::Span;
use cx_api::json::Text as _;
use gateway_journal::{KeptPoint, StoreId, Tier};
use rustix::process::{Pid, Signal, kill_process_group};
use tap_block::Name;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tracing::info;

use super::leftover;

/// Bytes of a hook's output that are kept, for the log and for whoever asks why it failed.
const MOST_OUTPUT: usize = 4096;
/// What is said after a hook has ended is waited for so long: others may hold its output open.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The program of a hook: a file in the directory of hooks, whatever links lie on the way.
///
/// # Errors
/// Why it is none, for whoever set it.
pub(crate) fn find(hooks: &Path, hook: &str) -> Result<PathBuf, String> {
    let wrong = |why: String| format!("{hook} is no hook: {why}; put the program into {}", hooks.display());
    let dir = hooks.canonicalize().map_err(|e| wrong(format!("{}: {e}", hooks.display())))?;
    let program = dir.join(hook).canonicalize().map_err(|e| wrong(e.to_string()))?;
    if !program.starts_with(&dir) || !program.is_file() {
        return Err(wrong("it is not a file in that directory".to_owned()));
    }
    let mode = program.metadata().map_err(|e| wrong(e.to_string()))?.permissions().mode();
    if mode & 0o111 == 0 {
        return Err(wrong("it is not executable (chmod +x)".to_owned()));
    }
    Ok(program)
}

/// What a hook is run for.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) volume: Name,
    pub(super) points: Vec<KeptPoint>,
    store: StoreId,
    first: KeptPoint,
    last: KeptPoint,
    tier: String,
    uri: String,
}

impl Call {
    /// `None` when there are no points.
    pub(super) fn new(
        store: StoreId,
        volume: Name,
        tier: &Tier,
        points: Vec<KeptPoint>,
        uris: &dyn Fn(&str) -> Vec<String>,
    ) -> Option<Self> {
        let (first, last) = (*points.first()?, *points.last()?);
        let tier = format!("{} for {}", Span(tier.each).to_text(), Span(tier.keep).to_text());
        let uri = uris(&export(&volume, &last)).into_iter().next().unwrap_or_default();
        Some(Self { volume, points, store, first, last, tier, uri })
    }

    fn environment(&self) -> [(&'static str, String); 10] {
        let lsn = |p: &KeptPoint| p.lsn.get().to_string();
        [
            ("CHRONOGATE_VOLUME", self.volume.to_string()),
            ("CHRONOGATE_TIER", self.tier.clone()),
            ("CHRONOGATE_POINTS", self.points.len().to_string()),
            ("CHRONOGATE_FROM_LSN", lsn(&self.first)),
            ("CHRONOGATE_FROM_TIME", self.first.captured_at.to_string()),
            ("CHRONOGATE_TO_LSN", lsn(&self.last)),
            ("CHRONOGATE_TO_TIME", self.last.captured_at.to_string()),
            ("CHRONOGATE_EXPORT", export(&self.volume, &self.last)),
            ("CHRONOGATE_NBD_URI", self.uri.clone()),
            (leftover::STORE, leftover::name(self.store)),
        ]
    }

    fn lines(&self) -> String {
        let line = |p: &KeptPoint| format!("{} {} {}\n", p.lsn.get(), p.captured_at, export(&self.volume, p));
        self.points.iter().map(line).collect()
    }
}

/// The NBD name under which a point is open.
fn export(volume: &Name, point: &KeptPoint) -> String {
    format!("{volume}@lsn:{}", point.lsn.get())
}

/// Runs the hook to its end. Dropped before, it and all that it started are killed; when this whole program is killed, the next
/// one [does that](leftover).
///
/// # Errors
/// Why it did not succeed, with the last it said.
pub(super) async fn run(program: &Path, call: &Call) -> Result<(), String> {
    let (mut child, _group) =
        start(program, call).map_err(|e| format!("{} cannot be run: {e}", program.display()))?;
    let said = Output::default();
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let listening = async { tokio::join!(said.listen(out), said.listen(err)) };
    let telling = tell(child.stdin.take(), call.lines());
    tokio::pin!(listening);
    let ended = async {
        let exit = child.wait();
        tokio::pin!(exit);
        tokio::select! {
            // Something that it leaves behind may hold its input open, and never read.
            status = &mut exit => status,
            () = telling => exit.await,
        }
    };
    tokio::pin!(ended);
    let status = tokio::select! {
        status = &mut ended => {
            // Whatever else holds its output open is not waited for.
            let _ = tokio::time::timeout(LAST_WORDS, &mut listening).await;
            status
        }
        _ = &mut listening => ended.await,
    };
    let (status, said) = (status.map_err(|e| e.to_string())?, said.text());
    info!(volume = %call.volume, hook = %program.display(), "{status}; it said: {said}");
    if status.success() { Ok(()) } else { Err(format!("the hook ended with {status}; it said: {said}")) }
}

fn start(program: &Path, call: &Call) -> std::io::Result<(Child, Group)> {
    let child = Command::new(program)
        .arg(call.volume.as_str())
        .args([call.first.lsn.get().to_string(), call.last.lsn.get().to_string()])
        .envs(call.environment())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    Ok((child, group))
}

/// A hook's process group: nothing of it outlives this.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // There may be nothing left of it.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

async fn tell(stdin: Option<ChildStdin>, lines: String) {
    if let Some(mut stdin) = stdin {
        // A hook need not read what it is told.
        let _ = stdin.write_all(lines.as_bytes()).await;
    }
}

/// The first that a hook says.
#[derive(Debug, Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    async fn listen(&self, from: Option<impl AsyncRead + Unpin>) {
        let Some(mut from) = from else { return };
        let mut piece = [0; 1024];
        while let Ok(n @ 1..) = from.read(&mut piece).await {
            self.keep(piece.get(..n).unwrap_or_default());
        }
    }

    /// What goes beyond the limit is let go, so that the hook never waits for a reader.
    fn keep(&self, piece: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MOST_OUTPUT.saturating_sub(kept.len()).min(piece.len());
        kept.extend_from_slice(piece.get(..room).unwrap_or_default());
    }

    fn text(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&kept);
        let text: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if text.is_empty() { "nothing".to_owned() } else { text }
    }
}

#[cfg(test)]
mod tests {
    use tap_block::{Lsn, WallTime};

    use super::*;

    #[tokio::test]
    async fn what_a_hook_leaves_behind_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("hook.sh");
        // It holds the hook's input open, and never reads what it is told: more than a pipe takes.
        std::fs::write(&program, "#!/bin/sh\nexec 3<&0\nsleep 1000 <&3 >/dev/null 2>&1 &\nexit 0\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let at = WallTime::from_nanos;
        let point = |n| KeptPoint::new(Lsn::new(n).unwrap(), at(n), at(n));
        let (each, keep) = (Duration::from_secs(1), Duration::from_secs(2));
        let tier = Tier { each, keep, before_drop: None };
        let (store, volume) = (StoreId::new(1), "web01".parse().unwrap());
        let call = Call::new(store, volume, &tier, (0..9000).map(point).collect(), &|_| Vec::new());
        let done = tokio::time::timeout(Duration::from_secs(20), run(&program, &call.unwrap())).await;
        assert_eq!(done, Ok(Ok(())));
    }
}
