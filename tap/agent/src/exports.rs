//! The tap's NBD exports: the protected disks, by name.

use std::sync::Arc;

use gateway_front::{ClientId, Export, ExportEntry, Exports, OpenError};

use crate::volume::Volume;

/// Protected volumes; with one alone, the empty name opens it too.
pub(crate) struct Disks(pub(crate) Vec<Arc<Volume>>);

impl Disks {
    fn find(&self, name: &str) -> Option<&Arc<Volume>> {
        match self.0.as_slice() {
            [only] if name.is_empty() => Some(only),
            all => all.iter().find(|v| v.name().as_str() == name),
        }
    }
}

impl Exports for Disks {
    fn list(&self) -> Vec<ExportEntry> {
        self.0.iter().map(|v| ExportEntry { name: v.name().to_string(), description: describe(v) }).collect()
    }

    fn open(&self, name: &str, _client: &ClientId) -> Result<Export, OpenError> {
        let volume = self.find(name).ok_or_else(|| {
            let known: Vec<&str> = self.0.iter().map(|v| v.name().as_str()).collect();
            OpenError::NotFound(format!(
                "this tap protects no volume {name:?}; it protects {}",
                known.join(", ")
            ))
        })?;
        let device = Arc::clone(volume) as Arc<dyn tap_block::BlockDevice>;
        Ok(Export { name: volume.name().to_string(), description: describe(volume), device })
    }
}

fn describe(volume: &Volume) -> String {
    format!("{}, protected disk", volume.name())
}
