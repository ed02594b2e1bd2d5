//! What NBD clients can open: the heads of volumes, images, and any moment by `NAME@POINT`.

use std::sync::Arc;

use cx_api::{Code, Problem};
use gateway_front::{Access, ClientId, Export, ExportEntry, Exports, OpenError};
use gateway_image::{Point, VolumePoint};
use gateway_journal::ImageId;
use gateway_store::Store;
use tap_block::{BlockDevice, Clock, Lsn, Name, VolumeId, WallTime};
use tokio::runtime::Handle;

use crate::device::Guarded;
use crate::http::Answer;
use crate::images::Images;
use crate::lease_file::LeaseFile;
use crate::leases::{Frozen, LeaseKey};
use crate::listing;
use crate::points::Points;
use crate::problems;

/// The gateway's exports.
pub(crate) struct GatewayExports {
    pub(crate) store: Arc<Store>,
    pub(crate) points: Points,
    pub(crate) images: Arc<Images>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) leases: Arc<LeaseFile>,
    pub(crate) runtime: Handle,
}

impl Exports for GatewayExports {
    fn list(&self, access: &Access) -> Vec<ExportEntry> {
        listing::entries(&self.points, access)
    }

    fn open(&self, name: &str, client: &ClientId) -> Result<Export, OpenError> {
        let opened = if name.is_empty() { self.only_volume() } else { Ok(name.to_owned()) };
        let opened = opened.and_then(|name| self.open_named(name, &client_key(client)));
        opened.map(|(export, _)| export).map_err(|problem| refusal(&problem))
    }
}

/// What an export shows, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// Its number and when it was made; numbers are of one store.
    Image(ImageId, VolumeId, WallTime),
    Moment(VolumeId, Lsn),
}

impl GatewayExports {
    /// `client` is whoever keeps seeing the same moment under a moving name.
    pub(crate) fn open_named(&self, name: String, client: &str) -> Answer<(Export, Shown)> {
        if let Some(image) =
            name.parse().ok().and_then(|n: Name| self.store.catalogue().image_named(&n).cloned())
        {
            let description = listing::image(&self.points, &self.store.catalogue(), &image);
            let export = Export { name, description, device: self.images.open(&image)? };
            return Ok((export, Shown::Image(image.id, image.volume, image.created_at)));
        }
        let wanted = if name.contains('@') {
            name.parse::<VolumePoint>().map_err(|e| Problem::new(Code::Invalid, e.to_string()))?
        } else {
            let volume =
                name.parse().map_err(|e: tap_block::NameError| Problem::new(Code::Invalid, e.to_string()))?;
            VolumePoint { volume, point: Point::Now }
        };
        let (frozen, device) = self.open_point(&wanted, &name, client)?;
        let catalogue = self.store.catalogue();
        let volume = catalogue.volume(frozen.volume).ok_or_else(|| problems::no_volume(&wanted.volume))?;
        let description = listing::point(&self.points, volume, frozen.point);
        Ok((Export { name, description, device }, Shown::Moment(frozen.volume, frozen.point)))
    }

    fn open_point(
        &self,
        wanted: &VolumePoint,
        name: &str,
        client: &str,
    ) -> Answer<(Frozen, Arc<dyn BlockDevice>)> {
        if !wanted.point.is_moving() {
            let frozen = self.resolve(wanted)?;
            return Ok((frozen, self.images.moment(frozen.volume, frozen.point)?));
        }
        let key = LeaseKey { client: client.to_owned(), name: name.to_owned() };
        let known = self.leases.lock().get(&key, self.clock.monotonic());
        let resolved = match known {
            Some(frozen) => frozen,
            None => self.resolve(wanted)?,
        };
        let frozen = self.leases.lock().open(key.clone(), resolved, self.clock.monotonic());
        if known.is_none() {
            self.leases.save();
        }
        let held = Held { key, leases: Arc::clone(&self.leases), clock: Arc::clone(&self.clock) };
        let device = self.images.moment(frozen.volume, frozen.point)?;
        Ok((frozen, Arc::new(Guarded::new(device, held))))
    }

    fn resolve(&self, wanted: &VolumePoint) -> Answer<Frozen> {
        let resolved = self.runtime.block_on(self.points.resolve(&wanted.volume, &wanted.point))?;
        Ok(Frozen { volume: resolved.volume, point: resolved.lsn })
    }

    /// The default export is the volume, where there is but one.
    fn only_volume(&self) -> Answer<String> {
        let catalogue = self.store.catalogue();
        let mut names = catalogue.volumes().map(|v| v.name().to_string());
        match (names.next(), names.next()) {
            (Some(name), None) => Ok(name),
            _ => Err(Problem::new(Code::NotFound, "there is no default export: name one")
                .fix("list them with `nbdinfo --list`")),
        }
    }
}

/// A connection's part in a lease.
struct Held {
    key: LeaseKey,
    leases: Arc<LeaseFile>,
    clock: Arc<dyn Clock>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let now = self.clock.monotonic();
        self.leases.lock().close(&self.key, now);
    }
}

/// All connections of one process are one client, all of one machine over TCP, all with the same certificate.
fn client_key(client: &ClientId) -> String {
    client.to_string()
}

fn refusal(problem: &Problem) -> OpenError {
    let parts = [&problem.detail, &problem.cause, &problem.correction];
    let said: Vec<&str> = parts.into_iter().map(String::as_str).filter(|p| !p.is_empty()).collect();
    match problem.code {
        Code::NotFound | Code::Invalid => OpenError::NotFound(said.join("; ")),
        _ => OpenError::Refused(said.join("; ")),
    }
}
