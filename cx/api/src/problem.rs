//! Errors over HTTP: RFC 9457 problems, with a code to branch on, the cause and the correction.

use serde::{Deserialize, Serialize};

/// What went wrong, for a program and for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(into = "Wire", from = "Wire")]
#[error("{detail}")]
pub struct Problem {
    /// The kind, to branch on. Type, title and HTTP status follow from it.
    pub code: Code,
    /// What happened.
    pub detail: String,
    /// Why; empty when that is not known.
    pub cause: String,
    /// What to do about it; empty when there is nothing.
    pub correction: String,
}

impl Problem {
    /// The media type of a problem.
    pub const MEDIA_TYPE: &'static str = "application/problem+json";

    /// A problem of this kind.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), cause: String::new(), correction: String::new() }
    }

    /// With the reason.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.cause = cause.into();
        self
    }

    /// With what to do about it.
    #[must_use]
    pub fn fix(mut self, correction: impl Into<String>) -> Self {
        self.correction = correction.into();
        self
    }
}

/// The members of RFC 9457, and ours.
#[derive(Serialize, Deserialize)]
struct Wire {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    status: u16,
    #[serde(default)]
    code: String,
    #[serde(default)]
    detail: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    cause: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    correction: String,
}

impl From<Problem> for Wire {
    fn from(problem: Problem) -> Self {
        let Problem { code, detail, cause, correction } = problem;
        Self {
            kind: format!("urn:chronogate:problem:{}", code.as_str()),
            title: code.title().to_owned(),
            status: code.http_status(),
            code: code.as_str().to_owned(),
            detail,
            cause,
            correction,
        }
    }
}

/// A code that a newer gateway added is treated by its HTTP status.
impl From<Wire> for Problem {
    fn from(wire: Wire) -> Self {
        let code = Code::from_word(&wire.code).unwrap_or_else(|| Code::from_http(wire.status));
        let detail = if wire.detail.is_empty() { wire.title } else { wire.detail };
        Self { code, detail, cause: wire.cause, correction: wire.correction }
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident => $word:literal, $status:literal, $exit:ident, $title:literal;)+) => {
        /// The kinds of problem. New ones may be added; a reader that does not know one goes by its HTTP status.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)+
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The word in JSON.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }

            /// Reads the word.
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.as_str() == word)
            }

            /// The HTTP status it travels with.
            #[must_use]
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$name => $status,)+ }
            }

            /// How a command ends that met it.
            #[must_use]
            pub const fn exit_status(self) -> ExitStatus {
                match self { $(Self::$name => ExitStatus::$exit,)+ }
            }

            /// A few words for people.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)+ }
            }
        }
    };
}

codes! {
    /// The request cannot be understood.
    Invalid => "invalid", 400, Usage, "The request is not valid";
    /// No token, or a wrong one.
    Unauthorized => "unauthorized", 401, Auth, "Not signed in";
    /// Signed in, and not allowed.
    Forbidden => "forbidden", 403, Auth, "Not allowed";
    /// There is no such thing.
    NotFound => "not_found", 404, NotFound, "Not found";
    /// The path is right, the method is not.
    MethodNotAllowed => "method_not_allowed", 405, Usage, "Method not allowed";
    /// It exists already, or is in use.
    Conflict => "conflict", 409, Conflict, "Conflict";
    /// The point lies in a gap or before the baseline's end.
    NotSelectable => "not_selectable", 409, Conflict, "The point cannot be opened";
    /// The point is not known here yet.
    NotYetDurable => "not_yet_durable", 409, Conflict, "The point is not here yet";
    /// A wait reached its limit.
    TimedOut => "timed_out", 409, Conflict, "Waited too long";
    /// The body is larger than any request needs.
    TooLarge => "too_large", 413, Usage, "The request is too large";
    /// The same Idempotency-Key came with another request.
    KeyReused => "key_reused", 422, Conflict, "Idempotency-Key used for another request";
    /// The client has too much under way.
    Busy => "busy", 429, Error, "Too much at once";
    /// The gateway failed in a way it did not foresee.
    Internal => "internal", 500, Internal, "Internal error";
    /// The tap, or another part behind the gateway, cannot be reached.
    Unreachable => "unreachable", 503, Unreachable, "Cannot be reached";
    /// No space, or no quota, left.
    NoSpace => "no_space", 507, Error, "No space left";
}

impl Code {
    /// For an answer that carries no code this program knows.
    #[must_use]
    pub fn from_http(status: u16) -> Self {
        match status {
            405 => Self::MethodNotAllowed,
            412 => Self::Conflict,
            502..=504 => Self::Unreachable,
            _ => {
                let exact = Self::ALL.iter().copied().find(|code| code.http_status() == status);
                exact.unwrap_or(if status >= 500 { Self::Internal } else { Self::Invalid })
            }
        }
    }
}

/// How a command of `chronogate` ends. The numbers are a contract with scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitStatus {
    /// Done.
    Ok = 0,
    /// Something else went wrong.
    Error = 1,
    /// The command line is wrong.
    Usage = 2,
    /// No such volume, bookmark, image or job.
    NotFound = 3,
    /// Not signed in, or not allowed.
    Auth = 4,
    /// It exists already, is in use, is not selectable, or a wait reached its limit.
    Conflict = 5,
    /// The API, or the tap behind it, cannot be reached.
    Unreachable = 6,
    /// A defect.
    Internal = 8,
}

impl ExitStatus {
    /// The number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_http_status_of_a_code_this_program_does_not_know_leads_to_the_same_exit() {
        for code in Code::ALL {
            assert_eq!(Code::from_http(code.http_status()).exit_status(), code.exit_status(), "{code:?}");
        }
        for (status, exit) in
            [(418, ExitStatus::Usage), (502, ExitStatus::Unreachable), (599, ExitStatus::Internal)]
        {
            assert_eq!(Code::from_http(status).exit_status(), exit);
        }
    }

    #[test]
    fn a_problem_of_a_newer_gateway_is_understood_by_its_status() {
        let text = r#"{"status": 409, "code": "on_hold", "title": "On hold", "more": 1}"#;
        assert_eq!(serde_json::from_str::<Problem>(text).unwrap(), Problem::new(Code::Conflict, "On hold"));
    }

    #[test]
    fn codes_are_told_apart_by_their_words() {
        let words: std::collections::BTreeSet<_> = Code::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(words.len(), Code::ALL.len());
    }
}
