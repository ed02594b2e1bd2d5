//! An iSCSI target in memory, in this process, that asks who comes: for what the program has no options for.

use std::sync::Arc;

use anyhow::Result;
use gateway_front::{ClientId, Front, FrontHandle, IscsiLimits, Targets};
use gateway_iscsi::{
    Access, Admission, BlockLength, Credentials, Identity, LogicalUnit, Refusal, Target, TargetConfig,
};
use tap_block::memory::MemoryDevice;

const NAME: &str = "iqn.2026-01.example.chronogate:guarded";
const SIZE: u64 = 1 << 20;

struct One(Arc<Target>);

impl Targets for One {
    fn list(&self, _: &str, _: &ClientId) -> Vec<String> {
        vec![NAME.to_owned()]
    }

    fn open(&self, name: &str, _: &str, _: &ClientId) -> Result<Arc<Target>, Refusal> {
        if name == NAME { Ok(self.0.clone()) } else { Err(Refusal::Unknown) }
    }

    fn keep(&self, _: &str, _: u16, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

/// A name and a secret.
#[must_use]
pub fn credentials(name: &str, secret: &str) -> Credentials {
    Credentials { name: name.to_owned(), secret: secret.into() }
}

/// Serves it at `port` until what is returned goes: an initiator has to prove that it is `initiator`, and is shown `target`.
///
/// # Errors
/// When the port cannot be had.
pub fn serve(port: u16, initiator: Credentials, target: Credentials) -> Result<FrontHandle> {
    let identity = Identity {
        vendor: "CHRONOGT".to_owned(),
        product: "MEMORY".to_owned(),
        revision: "0001".to_owned(),
        serial: "guarded".to_owned(),
        naa: 0x6000_0000_0000_0000_0000_0000_0000_0002,
        block: BlockLength::Short,
        emulated: false,
    };
    let unit = LogicalUnit::new(identity, Arc::new(MemoryDevice::new(SIZE)), &[]);
    let target = Target::new(TargetConfig {
        name: NAME.to_owned(),
        alias: String::new(),
        admission: Admission { access: Access::Chap { initiator, target: Some(target) }, initiators: None },
        units: unit.map(|unit| (1, unit)).into_iter().collect(),
    });
    let address = format!("127.0.0.1:{port}").parse()?;
    Ok(Front::start_iscsi(&[address], Arc::new(One(target)), IscsiLimits::default())?)
}
