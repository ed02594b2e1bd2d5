//! Exports as the API sees them: images as iSCSI targets with rules of who may log in.

use std::net::SocketAddr;
use std::sync::Arc;

use cx_api::{Code, ConnectView, ExportAccess, ExportCreate, ExportProtocol, ExportView, Problem};
use gateway_front::{FrontHandle, Portal};
use gateway_journal::ImageRecord;
use tap_block::units::count;

use crate::connect::{self, Wanted};
use crate::gateway::{Gateway, StartError};
use crate::http::{Answer, ImageKey, image_key};
use crate::problems;
use crate::sessions::{Door, ISCSI, OpenedAs, users_of, users_text};
use crate::targets::{LUN, Rules, identity_of, target_name};

impl Gateway {
    /// What has no access rules is for this machine alone: exports without them keep a portal for others from opening.
    pub(crate) fn check_portals(&self, portals: &[Portal]) -> Result<(), StartError> {
        let Some(portal) = portals.iter().map(|portal| portal.listen.to_string()).find(|p| !is_loopback(p))
        else {
            return Ok(());
        };
        // Without the list no target is served at all.
        let exports = self.targets.all(&self.store.catalogue()).unwrap_or_default();
        let open = exports.iter().filter(|(rules, _)| !self.targets.entry_rules(rules).is_guarded());
        let images: Vec<&str> = open.map(|(_, image)| image.name.as_str()).collect();
        if self.targets.open_to_all || images.is_empty() {
            return Ok(());
        }
        Err(StartError::OpenExports { portal, images: images.join(", ") })
    }

    /// Where an image is opened.
    pub(crate) fn uris(&self, image: &ImageRecord) -> Vec<String> {
        let nbd = self.front().map(|front| front.uris(image.name.as_str())).unwrap_or_default();
        let rules = self.targets.rules(image).ok().flatten();
        nbd.into_iter().chain(self.iscsi_uris(image, rules.as_ref())).collect()
    }

    /// At which portals initiators find it: at those of this machine alone when it has no access rules.
    fn iscsi_uris(&self, image: &ImageRecord, rules: Option<&Rules>) -> Vec<String> {
        let Some(front) = self.fronts().iscsi else { return Vec::new() };
        let lun = rules.map_or(LUN, |rules| rules.lun);
        let mut uris = front.iscsi_uris(&target_name(self.served_by(image).name.as_str()), lun);
        let is_guarded = rules.is_some_and(|rules| self.targets.entry_rules(rules).is_guarded());
        if !is_guarded && !self.targets.open_to_all {
            uris.retain(|uri| authority(uri).is_some_and(is_loopback));
        }
        uris
    }

    pub(crate) fn export_views(&self) -> Answer<Vec<ExportView>> {
        let all = self.targets.all(&self.store.catalogue())?;
        all.iter().map(|(rules, image)| self.view_of_export(image, rules)).collect()
    }

    pub(crate) fn export_view(&self, which: &ImageKey) -> Answer<ExportView> {
        let image = self.images.find(which)?;
        let rules = self.targets.rules(&image)?.ok_or_else(|| not_exported(&image))?;
        self.view_of_export(&image, &rules)
    }

    fn view_of_export(&self, image: &ImageRecord, rules: &Rules) -> Answer<ExportView> {
        let catalogue = self.store.catalogue();
        let volume = catalogue.volume(image.volume);
        let volume = volume.ok_or_else(|| problems::internal("the image's volume is gone"))?;
        let (identity, uris) = (identity_of(image, rules), self.iscsi_uris(image, Some(rules)));
        let (served, entry) = (self.served_by(image).name, self.targets.entry_rules(rules));
        let sessions = self.initiators().map_or(0, |door| users_of(&door, served.as_str()).len());
        Ok(ExportView {
            image: image.id.get(),
            name: image.name.clone(),
            volume: volume.name().clone(),
            protocol: ExportProtocol::Iscsi,
            target: target_name(served.as_str()),
            lun: rules.lun,
            writable: image.writable,
            acl: entry.acl.clone(),
            chap_user: entry.chap.as_ref().map(|login| login.user.clone()),
            mutual_chap_user: entry.mutual.as_ref().map(|login| login.user.clone()),
            as_original: rules.as_original,
            naa: format!("{:032x}", identity.naa),
            serial: identity.serial,
            problem: entry.is_locked().then(|| locked(served.as_str())),
            sessions: count(sessions),
            created: rules.created,
            uri: uris.first().cloned().unwrap_or_default(),
            uris,
        })
    }

    pub(crate) async fn create_export(&self, which: &ImageKey, wanted: ExportCreate) -> Answer<ExportView> {
        // An image that is being removed is not exported meanwhile.
        let _one_at_a_time = self.removing.lock().await;
        let image = self.images.find(which)?;
        let (_, front) = self.initiators().ok_or_else(no_portal)?;
        let beside = wanted.beside.as_deref().map(|text| self.images.find(&image_key(text)?)).transpose()?;
        let is_open = wanted.acl.is_empty() && wanted.chap.is_none() && beside.is_none();
        if is_open && !self.targets.open_to_all {
            check_local(&image, &front)?;
        }
        let (targets, catalogue) = (Arc::clone(&self.targets), self.store.catalogue());
        let (asked, now) = (image.clone(), self.clock.wall());
        let made = tokio::task::spawn_blocking(move || {
            targets.export(&asked, (wanted, beside.as_ref()), &catalogue, now)
        });
        let rules = made.await.map_err(problems::internal)??;
        self.view_of_export(&image, &rules)
    }

    /// Gives the target of an export other rules of who may log in.
    pub(crate) async fn change_access(&self, which: &ImageKey, wanted: ExportAccess) -> Answer<ExportView> {
        let _one_at_a_time = self.removing.lock().await;
        let image = self.images.find(which)?;
        let open = match self.initiators().filter(|_| !self.targets.open_to_all) {
            Some((_, front)) => check_local(&image, &front),
            None => Ok(()),
        };
        let (targets, catalogue, asked) = (Arc::clone(&self.targets), self.store.catalogue(), image.clone());
        let changed =
            tokio::task::spawn_blocking(move || targets.change_access(&asked, wanted, &catalogue, open));
        let rules = changed.await.map_err(problems::internal)??.ok_or_else(|| not_exported(&image))?;
        self.view_of_export(&image, &rules)
    }

    /// The image that the iSCSI target of this one has its name from.
    pub(crate) fn served_by(&self, image: &ImageRecord) -> ImageRecord {
        self.targets.served_by(image, &self.store.catalogue())
    }

    /// Takes an export back; with `force` from who is logged in as well. One that was taken back is as it should be.
    pub(crate) async fn remove_export(&self, which: &ImageKey, force: bool) -> Answer<()> {
        let _one_at_a_time = self.removing.lock().await;
        let image = match self.images.find(which) {
            Err(problem) if force && problem.code == Code::NotFound => return Ok(()),
            found => found?,
        };
        let served = self.served_by(&image);
        let name = served.name.as_str();
        let doors: Vec<Door> = self.initiators().into_iter().collect();
        let exported = self.targets.rules(&image)?.is_some();
        if !force
            && exported
            && let Some(users) = users_text(OpenedAs { own: name, served: name }, &doors)
        {
            let image = &image.name;
            return Err(Problem::new(Code::Conflict, format!("the export of image {image} is open"))
                .because(format!("it is used by {users}"))
                .fix(format!("log them out, or end them: chronogate export rm --force {image}")));
        }
        let closed = force.then(|| self.targets.close(name));
        let (targets, catalogue, asked) = (Arc::clone(&self.targets), self.store.catalogue(), image.clone());
        let removed = tokio::task::spawn_blocking(move || targets.unexport(&asked, &catalogue, force));
        removed.await.map_err(problems::internal)??;
        if closed.is_some() {
            let names = OpenedAs { own: name, served: name };
            self.clear_of_clients(names, &doors, || !self.targets.is_open(name)).await?;
        }
        Ok(())
    }

    /// An image that is gone needs no rules. Should they not be written anew, the next change of them leaves them out.
    pub(crate) async fn forget_export(&self, image: ImageRecord) {
        let (targets, catalogue) = (Arc::clone(&self.targets), self.store.catalogue());
        let name = image.name.clone();
        let forgotten = tokio::task::spawn_blocking(move || targets.unexport(&image, &catalogue, true));
        if let Ok(Err(problem)) = forgotten.await {
            tracing::warn!(%name, problem = problem.detail, "the export of an image that is gone is still written down");
        }
    }

    /// What to type at clients, at this portal or the first.
    pub(crate) fn connect_view(&self, which: &ImageKey, portal: Option<String>) -> Answer<ConnectView> {
        let export = self.export_view(which)?;
        let portal = match portal {
            Some(portal) => portal,
            None => authority(&export.uri).ok_or_else(no_portal)?.to_owned(),
        };
        Ok(connect::view(&Wanted { export: &export, portal: &portal }))
    }

    fn initiators(&self) -> Option<Door> {
        Some((ISCSI, self.fronts().iscsi?))
    }
}

/// `HOST:PORT` of an `iscsi://` URI.
fn authority(uri: &str) -> Option<&str> {
    uri.strip_prefix("iscsi://")?.split('/').next()
}

/// A name that is looked up may be anybody's.
fn is_loopback(portal: &str) -> bool {
    match portal.parse::<SocketAddr>() {
        Ok(address) => address.ip().to_canonical().is_loopback(),
        Err(_) => portal.rsplit_once(':').is_some_and(|(host, _)| host == "localhost"),
    }
}

/// Without access rules an image is for this machine alone.
fn check_local(image: &ImageRecord, front: &FrontHandle) -> Answer<()> {
    let portals = front.addresses();
    let Some(portal) = portals.iter().map(ToString::to_string).find(|p| !is_loopback(p)) else {
        return Ok(());
    };
    let text = format!("image {} is not exported to everybody", image.name);
    Err(Problem::new(Code::Invalid, text)
        .because(format!(
            "the portal {portal} can be reached from other machines, and nobody would have to say who he is"
        ))
        .fix(
            "say which initiators may log in (--acl IQN), or that they have to know a secret (--chap USER); \
              or listen on 127.0.0.1 only",
        ))
}

fn no_portal() -> Problem {
    Problem::new(Code::Conflict, "nothing is served over iSCSI")
        .because("the gateway has no iSCSI portal")
        .fix("start it with --iscsi HOST:PORT")
}

fn not_exported(image: &ImageRecord) -> Problem {
    let name = &image.name;
    Problem::new(Code::NotFound, format!("image {name} is not exported"))
        .fix(format!("export it: chronogate export create {name} --iscsi"))
}

fn locked(name: &str) -> String {
    format!(
        "nobody can log in: its CHAP secret cannot be opened, because the file secrets.key is not the one that it was \
         sealed with; put that back and start the gateway again, or export the image anew (chronogate export rm {name})"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portal_is_this_machines_own_or_not() {
        for own in ["127.0.0.1:3260", "127.9.9.9:1", "[::1]:3260", "[::ffff:127.0.0.1]:1", "localhost:3260"] {
            assert!(is_loopback(own), "{own}");
        }
        for other in
            ["0.0.0.0:3260", "[::]:3260", "10.0.0.1:3260", "gateway.example:3260", "localhost.example:1"]
        {
            assert!(!is_loopback(other), "{other}");
        }
        assert_eq!(authority("iscsi://[::1]:3260/iqn.x/1"), Some("[::1]:3260"));
        assert_eq!(authority(""), None);
    }
}
