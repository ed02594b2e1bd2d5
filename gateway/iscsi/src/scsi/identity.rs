//! What initiators know a protected volume by, whoever serves it: its tap's front, or a gateway that stands in for it.

use sha2::{Digest, Sha256};
use tap_block::VolumeId;

use super::unit::{BlockLength, Identity};

/// Our vendor identification (SPC-4 section 4.3.4).
const VENDOR: &str = "CHRONOGT";
/// NAA 6 (SPC-4 section 7.8.6.6.5) with a locally administered company number: nobody else has it.
const NAA: u128 = 0x602_c09c << 100;

impl Identity {
    /// A disk of ours whose numbers come from 16 bytes that no other disk has.
    #[must_use]
    pub fn ours(product: &str, number: [u8; 16]) -> Self {
        let naa = NAA | (u128::from_be_bytes(number) >> 28);
        Self {
            vendor: VENDOR.to_owned(),
            product: product.to_owned(),
            revision: "0001".to_owned(),
            serial: format!("{:024x}", naa & ((1 << 96) - 1)),
            naa,
            block: BlockLength::Short,
            emulated: true,
        }
    }

    /// The disk of a protected volume itself: the same from its tap and from every gateway.
    #[must_use]
    pub fn of_volume(volume: VolumeId) -> Self {
        let hash = Sha256::digest(format!("volume {}", volume.get()));
        Self::ours("VOLUME", hash.first_chunk::<16>().copied().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_known_by_the_same_numbers_for_ever() {
        let disk = Identity::of_volume(VolumeId::new(7));
        assert_eq!(format!("{:032x}", disk.naa), "602c09c4beb76dc487b3be8d1d127f2e");
        assert_eq!(disk.serial, "beb76dc487b3be8d1d127f2e");
        assert_ne!(disk.naa, Identity::of_volume(VolumeId::new(8)).naa);
    }
}
