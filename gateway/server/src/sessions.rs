//! NBD clients and iSCSI initiators as the API sees them: who is there, ending one, and taking an image away from all of them.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cx_api::{Code, Problem, SessionView};
use gateway_front::{FrontHandle, SessionInfo};
use gateway_journal::ImageRecord;

use crate::gateway::{Fronts, Gateway};
use crate::http::{Answer, ImageKey};
use crate::problems;
use crate::targets::{export_of, target_name};

/// How long clients may take to be gone from an image that is taken away from them.
const GONE_WITHIN: Duration = Duration::from_secs(5);
/// A client that was opening the image is gone when that has come to its end; how often to look.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// What the API calls the iSCSI front.
pub(crate) const ISCSI: &str = "iscsi";

/// Where clients connect, with the name that the API has for it.
pub(crate) type Door = (&'static str, Arc<FrontHandle>);

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
            target: info.export.clone().filter(|_| at == ISCSI),
            export: match at {
                ISCSI => info.export.as_deref().and_then(export_of).map(ToOwned::to_owned),
                _ => info.export,
            },
            initiator: info.initiator,
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
        let there = |(_, front): &Door| front.sessions().iter().any(|info| info.id == id);
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
        let served = self.served_by(&record);
        let names = OpenedAs { own: record.name.as_str(), served: served.name.as_str() };
        if force {
            let _closed = self.targets.close(names.served);
            let frozen = self.images.freeze_in_use(&record).await?;
            self.clear_of_clients(names, &self.doors_to_images(), || frozen.users() == 0).await?;
            self.images.retire(frozen, || Ok(())).await?;
        } else {
            self.check_unused(names)?;
            self.images.remove(which).await?;
        }
        self.forget_export(record.clone()).await;
        // What a commit of it left half done is nothing any more.
        self.committed.forget_unfinished(record.id).map_err(problems::internal)
    }

    /// Who has an image open, for people; `None`: nobody.
    pub(crate) fn users_of_image(&self, record: &ImageRecord) -> Option<String> {
        let served = self.served_by(record);
        let names = OpenedAs { own: record.name.as_str(), served: served.name.as_str() };
        users_text(names, &self.doors_to_images())
    }

    /// Ends every session at an export that cannot be opened any more, until `is_unused`.
    pub(crate) async fn clear_of_clients(
        &self,
        names: OpenedAs<'_>,
        doors: &[Door],
        is_unused: impl Fn() -> bool,
    ) -> Answer<()> {
        let deadline = tokio::time::Instant::now() + GONE_WITHIN;
        while !is_unused() {
            if tokio::time::Instant::now() >= deadline {
                return Err(Problem::new(Code::Conflict, format!("image {} is still open", names.own))
                    .because("its clients were told to end, and wait for their disk")
                    .fix("try again, or see who is left: chronogate session ls"));
            }
            for door in doors {
                let ids = users_of(door, names.at(door)).into_iter().map(|info| info.id).collect();
                end(Arc::clone(&door.1), ids).await?;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    fn check_unused(&self, names: OpenedAs<'_>) -> Answer<()> {
        let export = names.own;
        match users_text(names, &self.doors_to_images()) {
            None => Ok(()),
            Some(users) => Err(Problem::new(Code::Conflict, format!("image {export} is open"))
                .because(format!("it is used by {users}"))
                .fix(format!(
                    "close what uses it, or take it away from them: chronogate image rm --force {export}"
                ))),
        }
    }

    /// What clients hold, as OpenMetrics families.
    pub(crate) fn client_metrics(&self) -> String {
        let doors = self.doors();
        let usage: Vec<_> = doors.iter().map(|(at, front)| (*at, front.memory())).collect();
        crate::metrics::clients(&usage)
    }

    /// Where clients connect, by the name that the API has for it.
    fn doors(&self) -> Vec<Door> {
        let tap = self.tap_fronts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let tap = tap.into_iter().filter_map(|(name, front)| Some((name, front.upgrade()?)));
        self.doors_to_images().into_iter().chain(tap).collect()
    }

    /// Those of them where images are opened.
    pub(crate) fn doors_to_images(&self) -> Vec<Door> {
        let Fronts { nbd, iscsi } = self.fronts();
        let named = [("gateway", nbd), (ISCSI, iscsi)];
        named.into_iter().filter_map(|(name, front)| Some((name, front?))).collect()
    }
}

/// What an image is opened by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenedAs<'a> {
    /// Its name.
    pub(crate) own: &'a str,
    /// The name of the export whose iSCSI target it is a disk of.
    pub(crate) served: &'a str,
}

impl<'a> OpenedAs<'a> {
    fn at(self, (at, _): &Door) -> &'a str {
        if *at == ISCSI { self.served } else { self.own }
    }
}

/// Who has an export open, for people; `None`: nobody.
pub(crate) fn users_text(names: OpenedAs<'_>, doors: &[Door]) -> Option<String> {
    let users: Vec<SessionInfo> = doors.iter().flat_map(|door| users_of(door, names.at(door))).collect();
    let named = |info: &SessionInfo| match info.certificate.as_ref().or(info.initiator.as_ref()) {
        Some(name) => format!("session {} ({name} at {})", info.id, info.peer),
        None => format!("session {} ({})", info.id, info.peer),
    };
    let mut all: Vec<String> = users.iter().take(8).map(named).collect();
    if users.len() > all.len() {
        all.push(format!("{} more", users.len() - all.len()));
    }
    (!all.is_empty()).then(|| all.join(", "))
}

pub(crate) fn users_of((at, front): &Door, export: &str) -> Vec<SessionInfo> {
    let opened = if *at == ISCSI { target_name(export) } else { export.to_owned() };
    let mut users = front.sessions();
    users.retain(|info| info.export.as_deref() == Some(opened.as_str()));
    users
}

/// How many of them have not ended.
async fn end(front: Arc<FrontHandle>, ids: Vec<u64>) -> Answer<usize> {
    tokio::task::spawn_blocking(move || front.end_sessions(&ids)).await.map_err(problems::internal)
}
