//! NBD clients as the API sees them: who is there, ending one, and taking an image away from all of them.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cx_api::{Code, Problem, SessionView};
use gateway_front::{FrontHandle, SessionInfo};
use tap_block::Name;

use crate::gateway::{Fronts, Gateway};
use crate::http::{Answer, ImageKey};
use crate::problems;

/// How long clients may take to be gone from an image that is taken away from them.
const GONE_WITHIN: Duration = Duration::from_secs(5);
/// A client that was opening the image is gone when that has come to its end; how often to look.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl Gateway {
    /// The clients of these fronts are listed, and ended, with the gateway's own: those of a tap in the same process, each by
    /// the name that the API has for it.
    pub fn list_clients_of<'a>(
        &self,
        fronts: impl IntoIterator<Item = (&'static str, &'a Arc<FrontHandle>)>,
    ) {
        let fronts = fronts.into_iter().map(|(name, front)| (name, Arc::downgrade(front)));
        *self.tap_fronts.lock().unwrap_or_else(PoisonError::into_inner) = fronts.collect();
    }

    pub(crate) fn session_views(&self) -> Vec<SessionView> {
        let now = self.clock.wall();
        let view = |at: &str, info: SessionInfo| SessionView {
            id: info.id,
            at: at.to_owned(),
            client: info.peer,
            certificate: info.certificate,
            tls: info.tls,
            export: info.export,
            since: now.minus(info.age),
            bytes_read: info.bytes_read,
            bytes_written: info.bytes_written,
            requests: info.requests,
            in_flight: info.in_flight,
        };
        let doors = self.doors().into_iter();
        let all = doors.flat_map(|(at, front)| front.sessions().into_iter().map(move |info| (at, info)));
        let mut views: Vec<_> = all.map(|(at, info)| view(at, info)).collect();
        views.sort_by_key(|view| view.id);
        views
    }

    pub(crate) async fn end_session(&self, id: u64) -> Answer<()> {
        let there = |(_, front): &(&str, Arc<FrontHandle>)| front.sessions().iter().any(|info| info.id == id);
        let Some((_, front)) = self.doors().into_iter().find(there) else {
            return Err(Problem::new(Code::NotFound, format!("there is no session {id}"))
                .because("it has ended, or never was")
                .fix("list the sessions: chronogate session ls"));
        };
        match end(front, vec![id]).await? {
            0 => Ok(()),
            _ => Err(Problem::new(Code::TimedOut, format!("session {id} was told to end, and has not yet"))
                .because("it waits for its disk")
                .fix("look again: chronogate session ls")),
        }
    }

    /// Removes an image; with `force` it is taken away from who has it open, and one that is gone already is as it should be.
    pub(crate) async fn remove_image(&self, which: &ImageKey, force: bool) -> Answer<()> {
        let _one_at_a_time = self.removing.lock().await;
        let record = match self.images.find(which) {
            Err(problem) if force && problem.code == Code::NotFound => return Ok(()),
            found => found?,
        };
        if force {
            let frozen = self.images.freeze_in_use(&record).await?;
            self.clear_of_clients(&record.name, || frozen.users() == 0).await?;
            self.images.retire(frozen, || Ok(())).await?;
        } else {
            self.check_unused(&record.name)?;
            self.images.remove(which).await?;
        }
        // What a commit of it left half done is nothing any more.
        self.committed.forget_unfinished(record.id).map_err(problems::internal)
    }

    /// Ends every session at an export that cannot be opened any more, until `is_unused`.
    async fn clear_of_clients(&self, export: &Name, is_unused: impl Fn() -> bool) -> Answer<()> {
        let deadline = tokio::time::Instant::now() + GONE_WITHIN;
        while !is_unused() {
            if tokio::time::Instant::now() >= deadline {
                return Err(Problem::new(Code::Conflict, format!("image {export} is still open"))
                    .because("its clients were told to end, and wait for their disk")
                    .fix("try again, or see who is left: chronogate session ls"));
            }
            if let Some(front) = self.front() {
                let ids = users_of(&front, export).into_iter().map(|info| info.id).collect();
                end(front, ids).await?;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    fn check_unused(&self, export: &Name) -> Answer<()> {
        let users = self.front().map(|front| users_of(&front, export)).unwrap_or_default();
        if users.is_empty() {
            return Ok(());
        }
        let named = |info: &SessionInfo| match &info.certificate {
            Some(name) => format!("session {} ({name} at {})", info.id, info.peer),
            None => format!("session {} ({})", info.id, info.peer),
        };
        let mut all: Vec<String> = users.iter().take(8).map(named).collect();
        if users.len() > all.len() {
            all.push(format!("{} more", users.len() - all.len()));
        }
        Err(Problem::new(Code::Conflict, format!("image {export} is open"))
            .because(format!("it is used by {}", all.join(", ")))
            .fix(format!(
                "close what uses it, or take it away from them: chronogate image rm --force {export}"
            )))
    }

    /// Where clients connect, by the name that the API has for it.
    fn doors(&self) -> Vec<(&'static str, Arc<FrontHandle>)> {
        let tap = self.tap_fronts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let tap = tap.into_iter().map(|(name, front)| (name, front.upgrade()));
        let Fronts { nbd, iscsi } = self.fronts();
        let named = [("gateway", nbd), ("iscsi", iscsi)].into_iter().chain(tap);
        named.filter_map(|(name, front)| Some((name, front?))).collect()
    }
}

fn users_of(front: &FrontHandle, export: &Name) -> Vec<SessionInfo> {
    let mut users = front.sessions();
    users.retain(|info| info.export.as_deref() == Some(export.as_str()));
    users
}

/// How many of them have not ended.
async fn end(front: Arc<FrontHandle>, ids: Vec<u64>) -> Answer<usize> {
    tokio::task::spawn_blocking(move || front.end_sessions(&ids)).await.map_err(problems::internal)
}
