//! How a login ends (RFC 7143 section 11.13.5).

/// Class and detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LoginStatus {
    /// The initiator made a mistake.
    #[error("the initiator's login makes no sense")]
    InitiatorError,
    /// It could not prove who it is.
    #[error("authentication failed")]
    AuthenticationFailed,
    /// It is not on the list.
    #[error("this initiator may not log in to this target")]
    NotAuthorized,
    /// There is no such target.
    #[error("there is no such target")]
    NotFound,
    /// It speaks no version that we speak.
    #[error("no common version of the protocol")]
    UnsupportedVersion,
    /// A key is missing.
    #[error("a key that is required is missing")]
    MissingParameter,
    /// A session type that is none.
    #[error("no such type of session")]
    SessionType,
    /// A TSIH that is none.
    #[error("there is no such session")]
    NoSuchSession,
    /// Something other than a login.
    #[error("something other than a login request during login")]
    InvalidRequest,
    /// Not now.
    #[error("the target cannot be opened now")]
    Unavailable,
    /// Too many sessions.
    #[error("too many sessions")]
    OutOfResources,
}

impl LoginStatus {
    /// The two bytes of the response.
    pub(crate) fn code(self) -> [u8; 2] {
        match self {
            Self::InitiatorError => [2, 0],
            Self::AuthenticationFailed => [2, 1],
            Self::NotAuthorized => [2, 2],
            Self::NotFound => [2, 3],
            Self::UnsupportedVersion => [2, 5],
            Self::MissingParameter => [2, 7],
            Self::SessionType => [2, 9],
            Self::NoSuchSession => [2, 10],
            Self::InvalidRequest => [2, 11],
            Self::Unavailable => [3, 1],
            Self::OutOfResources => [3, 2],
        }
    }
}
