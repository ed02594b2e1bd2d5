//! The gateway: takes streams into the journal, and serves any moment of them as a disk.
//!
//! ```text
//!   CX ─► cx-link ─► streams ─► gateway-store ─► images (moments, overlays) ─► exports ─► gateway-front ─► NBD, iSCSI
//!                      ▲ pulse                     ▲ points                      ▲ leases
//!                      └─ questions to the tap     └──────── http (Control) ─────┘ restore (jobs)
//! ```
//!
//! Architecture invariant: nothing is acknowledged to the link before the store says it is durable, and no
//! point is opened that is not durable and sound.

mod commit;
mod committed;
mod connect;
mod control;
mod device;
mod exports;
mod freshness;
mod gates;
mod gateway;
mod groups;
pub mod http;
mod images;
mod iscsi;
mod jobs;
mod lease_file;
mod leases;
mod limits;
mod listing;
mod lookup;
mod materialize;
mod mending;
mod metrics;
mod names;
mod nurse;
mod points;
mod preview;
mod problems;
mod pulse;
mod refusals;
mod restore;
mod restored;
mod resync;
mod retention;
mod sessions;
mod shortages;
mod skew;
mod status;
mod stores;
mod streams;
mod stretches;
mod targets;
mod verification;
mod views;

pub use committed::ProtectDisk;
pub use gateway::{Gateway, GatewayConfig, GatewayHandle, StartError};
pub use gateway_store::Cold;
