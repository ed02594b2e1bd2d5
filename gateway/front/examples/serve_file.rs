//! Serves files over NBD, each under its own file name, until its standard input ends.
//!
//! `cargo run --release -p gateway-front --example serve_file -- unix:/tmp/s.sock disk.img [ro:other.img]`

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gateway_front::{Access, ClientId, Export, ExportEntry, Exports, Front, Limits, OpenError};
use tap_disk::{FileDevice, FileOptions};

struct Files(BTreeMap<String, Arc<FileDevice>>);

impl Exports for Files {
    fn list(&self, access: &Access) -> Vec<ExportEntry> {
        let names = self.0.keys().filter(|name| access.allows(name)).cloned();
        names.map(|name| ExportEntry { name, description: "a file".to_owned() }).collect()
    }

    fn open(&self, name: &str, _: &ClientId) -> Result<Export, OpenError> {
        let found = match name {
            "" => self.0.first_key_value(),
            name => self.0.get_key_value(name),
        };
        let (name, device) =
            found.ok_or_else(|| OpenError::NotFound(format!("no file named {name} is served")))?;
        Ok(Export { name: name.clone(), description: "a file".to_owned(), device: device.clone() })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().ok_or("usage: serve_file ADDRESS FILE...")?.parse()?;
    let mut files = BTreeMap::new();
    for argument in arguments {
        let (path, read_only) = match argument.strip_prefix("ro:") {
            Some(path) => (path, true),
            None => (argument.as_str(), false),
        };
        let name = Path::new(path).file_name().ok_or("a file name")?.to_string_lossy().into_owned();
        let options = FileOptions { read_only, ..FileOptions::default() };
        files.insert(name, FileDevice::open(Path::new(path), options)?);
    }
    let front = Front::start(&[address], Arc::new(Files(files)), Limits::default())?;
    for uri in front.uris("") {
        println!("{uri}");
    }
    std::io::stdin().read_to_end(&mut Vec::new())?;
    front.drain_and_stop(Duration::from_secs(5));
    Ok(())
}
