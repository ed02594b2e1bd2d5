//! The operational keys of RFC 7143 section 13: what each may be, what we want, what comes out.

use crate::connection::Limits;
use crate::pdu::Digests;

/// What both ends agreed on. The defaults are those of section 13.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Params {
    pub(crate) digests: Digests,
    /// The longest data segment that the initiator takes.
    pub(crate) max_send: u32,
    pub(crate) max_burst: u32,
    pub(crate) first_burst: u32,
    pub(crate) initial_r2t: bool,
    pub(crate) immediate_data: bool,
    pub(crate) max_outstanding_r2t: u32,
}

/// What became of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A declaration, taken note of.
    None,
    /// The result.
    Value(String),
    /// Section 6.2: a value that is none for this key.
    Reject,
    /// Section 6.2: a key that we do not know.
    NotUnderstood,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            digests: Digests::default(),
            max_send: 8192,
            max_burst: 262_144,
            first_burst: 65_536,
            initial_r2t: true,
            immediate_data: true,
            max_outstanding_r2t: 1,
        }
    }
}

impl Params {
    /// Negotiates one operational key.
    pub(crate) fn negotiate(&mut self, key: &str, value: &str, limits: &Limits) -> Answer {
        match key {
            "HeaderDigest" => digest(value, &mut self.digests.header),
            "DataDigest" => digest(value, &mut self.digests.data),
            "MaxRecvDataSegmentLength" => match number(value, 512, 0xff_ffff) {
                Some(n) => {
                    self.max_send = n.min(limits.max_send);
                    Answer::None
                }
                None => Answer::Reject,
            },
            "MaxBurstLength" => least(value, (512, 0xff_ffff), limits.max_burst, &mut self.max_burst),
            "FirstBurstLength" => least(value, (512, 0xff_ffff), limits.first_burst, &mut self.first_burst),
            "MaxOutstandingR2T" => {
                least(value, (1, 65_535), limits.max_outstanding_r2t, &mut self.max_outstanding_r2t)
            }
            "InitialR2T" => either(value, false, &mut self.initial_r2t),
            "ImmediateData" => both(value, true, &mut self.immediate_data),
            _ => fixed(key, value),
        }
    }

    /// Section 13.14: the first burst is no longer than any burst.
    pub(crate) fn settle(&mut self) {
        self.first_burst = self.first_burst.min(self.max_burst);
    }
}

/// Keys whose result does not depend on anything.
fn fixed(key: &str, value: &str) -> Answer {
    match key {
        "MaxConnections" => least(value, (1, 65_535), 1, &mut 0),
        "ErrorRecoveryLevel" => least(value, (0, 2), 0, &mut 0),
        "DefaultTime2Retain" => least(value, (0, 3600), 0, &mut 0),
        // Section 13.15: the greater of both; we are back at once.
        "DefaultTime2Wait" => match number(value, 0, 3600) {
            Some(n) => Answer::Value(n.max(2).to_string()),
            None => Answer::Reject,
        },
        "DataPDUInOrder" | "DataSequenceInOrder" => either(value, true, &mut false),
        // Section 13.23: only the clearing of tasks by RFC 3720's rules.
        "TaskReporting" => match value.split(',').any(|v| v == "RFC3720") {
            true => Answer::Value("RFC3720".to_owned()),
            false => Answer::Reject,
        },
        // RFC 7144 section 7.1.1: the lesser of both; 1 is RFC 7143.
        "iSCSIProtocolLevel" => least(value, (0, 31), 1, &mut 0),
        // Section 13.25: obsolete keys.
        "IFMarker" | "OFMarker" => Answer::Value("No".to_owned()),
        "IFMarkInt" | "OFMarkInt" => Answer::Reject,
        _ => Answer::NotUnderstood,
    }
}

/// Section 6.2.1: the first value of the initiator's list that we support.
fn digest(list: &str, on: &mut bool) -> Answer {
    for value in list.split(',') {
        if value == "CRC32C" || value == "None" {
            *on = value == "CRC32C";
            return Answer::Value(value.to_owned());
        }
    }
    Answer::Reject
}

fn number(value: &str, least: u32, most: u32) -> Option<u32> {
    let n = match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok()?,
        None => value.parse().ok()?,
    };
    (least..=most).contains(&n).then_some(n)
}

/// Section 6.2.2, the result function "minimum".
fn least(value: &str, range: (u32, u32), ours: u32, result: &mut u32) -> Answer {
    match number(value, range.0, range.1) {
        Some(n) => {
            *result = n.min(ours);
            Answer::Value(result.to_string())
        }
        None => Answer::Reject,
    }
}

fn boolean(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

/// Section 6.2.2, the result function "OR".
fn either(value: &str, ours: bool, result: &mut bool) -> Answer {
    decide(boolean(value).map(|theirs| theirs || ours), result)
}

/// Section 6.2.2, the result function "AND".
fn both(value: &str, ours: bool, result: &mut bool) -> Answer {
    decide(boolean(value).map(|theirs| theirs && ours), result)
}

fn decide(value: Option<bool>, result: &mut bool) -> Answer {
    match value {
        Some(value) => {
            *result = value;
            Answer::Value(if value { "Yes" } else { "No" }.to_owned())
        }
        None => Answer::Reject,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(key: &str, value: &str) -> (Answer, Params) {
        let mut params = Params::default();
        let answer = params.negotiate(key, value, &Limits::default());
        params.settle();
        (answer, params)
    }

    fn value(text: &str) -> Answer {
        Answer::Value(text.to_owned())
    }

    #[test]
    fn every_operational_key_has_its_result() {
        for (key, offer, result) in [
            ("HeaderDigest", "CRC32C,None", "CRC32C"),
            ("HeaderDigest", "None,CRC32C", "None"),
            ("DataDigest", "X-other,CRC32C", "CRC32C"),
            ("MaxConnections", "8", "1"),
            ("MaxBurstLength", "16776192", "1048576"),
            ("MaxBurstLength", "0x1000", "4096"),
            ("FirstBurstLength", "512", "512"),
            ("MaxOutstandingR2T", "65535", "8"),
            ("InitialR2T", "No", "No"),
            ("InitialR2T", "Yes", "Yes"),
            ("ImmediateData", "No", "No"),
            ("ImmediateData", "Yes", "Yes"),
            ("ErrorRecoveryLevel", "2", "0"),
            ("DefaultTime2Wait", "0", "2"),
            ("DefaultTime2Wait", "20", "20"),
            ("DefaultTime2Retain", "20", "0"),
            ("DataPDUInOrder", "No", "Yes"),
            ("DataSequenceInOrder", "No", "Yes"),
            ("TaskReporting", "FastAbort,RFC3720", "RFC3720"),
            ("iSCSIProtocolLevel", "2", "1"),
            ("IFMarker", "Yes", "No"),
            ("OFMarker", "No", "No"),
        ] {
            assert_eq!(ask(key, offer).0, value(result), "{key}={offer}");
        }
    }

    #[test]
    fn values_that_are_none_are_rejected_and_unknown_keys_not_understood() {
        for (key, offer) in [
            ("HeaderDigest", "MD5"),
            ("MaxRecvDataSegmentLength", "511"),
            ("MaxRecvDataSegmentLength", "16777216"),
            ("MaxBurstLength", "many"),
            ("InitialR2T", "yes"),
            ("ErrorRecoveryLevel", "3"),
            ("IFMarkInt", "2048~8192"),
            ("TaskReporting", "ResponseFence"),
        ] {
            assert_eq!(ask(key, offer).0, Answer::Reject, "{key}={offer}");
        }
        assert_eq!(ask("X-com.example.speed", "11").0, Answer::NotUnderstood);
        assert_eq!(ask("RDMAExtensions", "Yes").0, Answer::NotUnderstood);
    }

    #[test]
    fn what_the_initiator_declares_bounds_what_it_is_sent() {
        let (answer, params) = ask("MaxRecvDataSegmentLength", "4096");
        assert_eq!((answer, params.max_send), (Answer::None, 4096));
        assert_eq!(ask("MaxBurstLength", "1024").1.first_burst, 1024, "never longer than any burst");
    }
}
