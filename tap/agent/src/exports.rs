//! The protected disks, and the tap's NBD exports: each of them by its name.

use std::sync::{Arc, PoisonError, RwLock};

use gateway_front::{Access, ClientId, Export, ExportEntry, Exports, OpenError};
use tap_block::VolumeId;

use crate::volume::Volume;

/// Protected volumes, more of them as time goes by; with one alone, the empty name opens it too.
#[derive(Default)]
pub(crate) struct Disks(RwLock<Vec<Disk>>);

/// One of them.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) id: VolumeId,
    pub(crate) volume: Arc<Volume>,
}

impl Disks {
    pub(crate) fn add(&self, id: VolumeId, volume: &Arc<Volume>) {
        let disk = Disk { id, volume: Arc::clone(volume) };
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(disk);
    }

    pub(crate) fn all(&self) -> Vec<Disk> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Exports for Disks {
    fn list(&self, access: &Access) -> Vec<ExportEntry> {
        let entry = |v: &Volume| ExportEntry { name: v.name().to_string(), description: describe(v) };
        let all = self.all();
        let seen = all.iter().filter(|disk| access.allows(disk.volume.name().as_str()));
        seen.map(|disk| entry(&disk.volume)).collect()
    }

    fn open(&self, name: &str, _client: &ClientId) -> Result<Export, OpenError> {
        let all = self.all();
        let found = match all.as_slice() {
            [only] if name.is_empty() => Some(only),
            all => all.iter().find(|disk| disk.volume.name().as_str() == name),
        };
        let volume = &found.ok_or_else(|| unknown(name, &all))?.volume;
        volume.follow_size();
        let device = Arc::clone(volume) as Arc<dyn tap_block::BlockDevice>;
        Ok(Export { name: volume.name().to_string(), description: describe(volume), device })
    }
}

fn unknown(name: &str, all: &[Disk]) -> OpenError {
    let known: Vec<&str> = all.iter().map(|disk| disk.volume.name().as_str()).collect();
    let text = format!("this tap protects no volume {name:?}; it protects {}", known.join(", "));
    OpenError::NotFound(text)
}

pub(crate) fn describe(volume: &Volume) -> String {
    format!("{}, protected disk", volume.name())
}
