//! Images as block devices: read-only over the store, and read/write with an overlay on top.

mod ahead;
mod buffers;
pub(crate) mod flat;
mod guarded;
pub(crate) mod image;
pub(crate) mod overlay;
mod overlay_copy;
mod overlay_fold;
mod overlay_log;
mod overlay_recover;
mod overlay_together;
mod overlay_write;
mod recent;
pub(crate) mod room;
mod status;
#[cfg(test)]
mod tests;
mod workers;

pub(crate) use guarded::Guarded;
pub(crate) use image::{Image, ImageDevice, read_blocking};
pub(crate) use overlay::OverlayDevice;
pub(crate) use workers::Workers;
