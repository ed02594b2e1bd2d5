//! Sense data (SPC-4 section 4.5) and the answer to a command as a whole.

use bytes::Bytes;

use crate::field::{len8, put};

/// SAM-5 section 5.3.1.
pub(crate) mod status {
    pub(crate) const GOOD: u8 = 0x00;
    pub(crate) const CHECK_CONDITION: u8 = 0x02;
    pub(crate) const RESERVATION_CONFLICT: u8 = 0x18;
}

/// Why a command failed, or what a unit attention says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sense {
    key: u8,
    /// The additional sense code and its qualifier.
    code: u16,
    /// The information field: the offset of a miscompare, the block of a medium error.
    information: Option<u64>,
    /// The first byte that is wrong; in the CDB when `true`, else in the parameter list.
    pointer: Option<(bool, u16)>,
}

/// What a command ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u8,
    pub(crate) sense: Option<Sense>,
    /// Data-In.
    pub(crate) data: Bytes,
}

impl Sense {
    pub(crate) const NONE: Self = Self::new(0, 0);
    pub(crate) const INVALID_OPCODE: Self = Self::new(5, 0x2000);
    pub(crate) const OUT_OF_RANGE: Self = Self::new(5, 0x2100);
    pub(crate) const NO_SUCH_UNIT: Self = Self::new(5, 0x2500);
    pub(crate) const PARAMETER_LENGTH: Self = Self::new(5, 0x1a00);
    pub(crate) const INVALID_RELEASE: Self = Self::new(5, 0x2604);
    pub(crate) const INVALID_FIELD_IN_LIST: Self = Self::new(5, 0x2600);
    pub(crate) const SAVING_UNSUPPORTED: Self = Self::new(5, 0x3900);
    pub(crate) const NO_REGISTRATION_RESOURCES: Self = Self::new(5, 0x5504);
    pub(crate) const WRITE_PROTECTED: Self = Self::new(7, 0x2700);
    pub(crate) const NO_SPACE: Self = Self::new(7, 0x2707);
    pub(crate) const READ_ERROR: Self = Self::new(3, 0x1100);
    pub(crate) const WRITE_ERROR: Self = Self::new(3, 0x0c00);
    pub(crate) const INTERNAL: Self = Self::new(4, 0x4400);
    pub(crate) const NOT_READY: Self = Self::new(2, 0x0400);
    pub(crate) const SHORT_DATA: Self = Self::new(0xb, 0x4b00);
    pub(crate) const MISCOMPARE: Self = Self::new(0xe, 0x1d00);
    pub(crate) const POWER_ON: Self = Self::new(6, 0x2900);
    pub(crate) const INVALID_INFORMATION_UNIT: Self = Self::new(5, 0x0e03);
    pub(crate) const UNIT_RESET: Self = Self::new(6, 0x2903);
    pub(crate) const NEXUS_LOST: Self = Self::new(6, 0x2907);
    pub(crate) const MODE_CHANGED: Self = Self::new(6, 0x2a01);
    pub(crate) const RESERVATIONS_PREEMPTED: Self = Self::new(6, 0x2a03);
    pub(crate) const RESERVATIONS_RELEASED: Self = Self::new(6, 0x2a04);
    pub(crate) const REGISTRATIONS_PREEMPTED: Self = Self::new(6, 0x2a05);
    pub(crate) const CAPACITY_CHANGED: Self = Self::new(6, 0x2a09);

    pub(crate) const fn new(key: u8, code: u16) -> Self {
        Self { key, code, information: None, pointer: None }
    }

    /// INVALID FIELD IN CDB, pointing at the byte.
    pub(crate) const fn invalid_field(at: u16) -> Self {
        Self { pointer: Some((true, at)), ..Self::new(5, 0x2400) }
    }

    /// INVALID FIELD IN PARAMETER LIST, pointing at the byte.
    pub(crate) const fn invalid_parameter(at: u16) -> Self {
        Self { pointer: Some((false, at)), ..Self::INVALID_FIELD_IN_LIST }
    }

    #[must_use]
    pub(crate) const fn with_information(self, information: u64) -> Self {
        Self { information: Some(information), ..self }
    }

    /// In one of the two formats: descriptors (section 4.5.2) or fixed (4.5.3).
    pub(crate) fn encode(self, descriptors: bool) -> Vec<u8> {
        if descriptors { self.encode_descriptors() } else { self.encode_fixed() }
    }

    fn encode_fixed(self) -> Vec<u8> {
        let mut bytes = vec![0; 18];
        let information = self.information.and_then(|i| u32::try_from(i).ok());
        let valid = if information.is_some() { 0x80 } else { 0 };
        put(&mut bytes, 0, &[0x70 | valid, 0, self.key]);
        put(&mut bytes, 3, &information.unwrap_or(0).to_be_bytes());
        put(&mut bytes, 7, &[10]);
        put(&mut bytes, 12, &self.code.to_be_bytes());
        put(&mut bytes, 15, &self.key_specific());
        bytes
    }

    fn encode_descriptors(self) -> Vec<u8> {
        let [asc, ascq] = self.code.to_be_bytes();
        let mut bytes = vec![0x72, self.key, asc, ascq, 0, 0, 0, 0];
        if let Some(information) = self.information {
            bytes.extend_from_slice(&[0, 10, 0x80, 0]);
            bytes.extend_from_slice(&information.to_be_bytes());
        }
        if self.pointer.is_some() {
            let [a, b, c] = self.key_specific();
            bytes.extend_from_slice(&[2, 6, 0, 0, a, b, c, 0]);
        }
        let more = len8(bytes.len().saturating_sub(8));
        put(&mut bytes, 7, &[more]);
        bytes
    }

    /// Section 4.5.2.4.2: the field pointer.
    fn key_specific(self) -> [u8; 3] {
        match self.pointer {
            None => [0; 3],
            Some((in_cdb, at)) => {
                let [high, low] = at.to_be_bytes();
                [0x80 | if in_cdb { 0x40 } else { 0 }, high, low]
            }
        }
    }
}

impl Reply {
    pub(crate) const fn good() -> Self {
        Self { status: status::GOOD, sense: None, data: Bytes::new() }
    }

    /// Data, cut to what the initiator allots.
    pub(crate) fn data(mut data: Vec<u8>, allotted: usize) -> Self {
        data.truncate(allotted);
        Self { data: data.into(), ..Self::good() }
    }

    pub(crate) const fn failed(sense: Sense) -> Self {
        Self { status: status::CHECK_CONDITION, sense: Some(sense), data: Bytes::new() }
    }

    pub(crate) const fn conflict() -> Self {
        Self { status: status::RESERVATION_CONFLICT, sense: None, data: Bytes::new() }
    }
}

impl From<Sense> for Reply {
    fn from(sense: Sense) -> Self {
        Self::failed(sense)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats() {
        let sense = Sense::MISCOMPARE.with_information(0x0102);
        let fixed = sense.encode(false);
        assert_eq!(fixed, [0xf0, 0, 0xe, 0, 0, 1, 2, 10, 0, 0, 0, 0, 0x1d, 0, 0, 0, 0, 0]);
        let descriptors = sense.encode(true);
        assert_eq!(descriptors, [0x72, 0xe, 0x1d, 0, 0, 0, 0, 12, 0, 10, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(Sense::invalid_field(7).encode(false)[15..], [0xc0, 0, 7]);
        assert_eq!(Sense::invalid_parameter(7).encode(true)[8..], [2, 6, 0, 0, 0x80, 0, 7, 0]);
    }
}
