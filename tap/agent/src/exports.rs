//! The tap's NBD exports: the protected disks, by name.

use std::sync::{Arc, PoisonError, RwLock};

use gateway_front::{Access, ClientId, Export, ExportEntry, Exports, OpenError};

use crate::volume::Volume;

/// Protected volumes, more of them as time goes by; with one alone, the empty name opens it too.
#[derive(Default)]
pub(crate) struct Disks(RwLock<Vec<Arc<Volume>>>);

impl Disks {
    pub(crate) fn add(&self, volume: Arc<Volume>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(volume);
    }

    fn all(&self) -> Vec<Arc<Volume>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Exports for Disks {
    fn list(&self, access: &Access) -> Vec<ExportEntry> {
        let entry = |v: &Arc<Volume>| ExportEntry { name: v.name().to_string(), description: describe(v) };
        self.all().iter().filter(|v| access.allows(v.name().as_str())).map(entry).collect()
    }

    fn open(&self, name: &str, _client: &ClientId) -> Result<Export, OpenError> {
        let all = self.all();
        let found = match all.as_slice() {
            [only] if name.is_empty() => Some(only),
            all => all.iter().find(|v| v.name().as_str() == name),
        };
        let volume = found.ok_or_else(|| unknown(name, &all))?;
        let device = Arc::clone(volume) as Arc<dyn tap_block::BlockDevice>;
        Ok(Export { name: volume.name().to_string(), description: describe(volume), device })
    }
}

fn unknown(name: &str, all: &[Arc<Volume>]) -> OpenError {
    let known: Vec<&str> = all.iter().map(|v| v.name().as_str()).collect();
    let text = format!("this tap protects no volume {name:?}; it protects {}", known.join(", "));
    OpenError::NotFound(text)
}

fn describe(volume: &Volume) -> String {
    format!("{}, protected disk", volume.name())
}
