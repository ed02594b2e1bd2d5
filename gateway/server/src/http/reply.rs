//! Answers as values: kept for idempotency keys, turned into HTTP at the very end.

use bytes::Bytes;
use cx_api::Problem;
use serde::Serialize;
use warp::http::{HeaderValue, StatusCode, header};

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) media: &'static str,
    pub(crate) location: Option<String>,
    /// The methods that a path takes, on 405.
    pub(crate) allow: Option<String>,
    pub(crate) body: Bytes,
}

const JSON: &str = "application/json";

impl Reply {
    /// 200 with a body of this media type.
    pub(crate) fn text(media: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status: 200, media, location: None, allow: None, body: body.into() }
    }

    /// 200 with JSON.
    pub(crate) fn json<T: Serialize>(value: &T) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self::text(JSON, body),
            Err(e) => {
                Problem::new(cx_api::Code::Internal, format!("an answer cannot be written: {e}")).into()
            }
        }
    }

    /// 204.
    pub(crate) fn nothing() -> Self {
        Self { status: 204, ..Self::text(JSON, Bytes::new()) }
    }

    pub(crate) fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    pub(crate) fn at(self, location: String) -> Self {
        Self { location: Some(location), ..self }
    }

    /// The bytes on the wire, but for the head's fixed lines.
    pub(crate) fn into_http(self) -> warp::reply::Response {
        let mut response = warp::reply::Response::new(self.body.into());
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        if self.status != 204 {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.media));
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let values = [(header::LOCATION, self.location), (header::ALLOW, self.allow)];
        for (name, text) in values.into_iter().filter_map(|(n, v)| Some((n, v?))) {
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(name, value);
            }
        }
        response
    }
}

impl From<Problem> for Reply {
    fn from(problem: Problem) -> Self {
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        Self { status: problem.code.http_status(), ..Self::text(Problem::MEDIA_TYPE, body) }
    }
}
