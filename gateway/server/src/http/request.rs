//! Reading a request with suspicion: bounded body, JSON only, each parameter checked and named when it is wrong.

use std::pin::pin;
use std::str::FromStr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use cx_api::paths::{IDEMPOTENCY_KEY, MAX_BODY, MAX_IDEMPOTENCY_KEY, unescape};
use cx_api::{Code, Problem};
use gateway_image::Point;
use serde::de::DeserializeOwned;
use tap_block::Name;
use tap_block::units::count;
use warp::http::{HeaderMap, header};

use super::limits;

/// A request whose body has arrived.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Request {
    /// The body as JSON of this type.
    ///
    /// The media type is insisted on: a page in a browser can send other types to this port unasked, but not
    /// this one.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        let media = self.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        if !media.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case("application/json") {
            return Err(invalid(format!("the body is {media:?}, JSON was due"))
                .fix("send the header content-type: application/json"));
        }
        cx_api::json::parse(&self.body).map_err(|e| {
            invalid("the body does not fit this request")
                .because(e.to_string())
                .fix("see /api/v1/openapi.json for its fields")
        })
    }

    /// A parameter of the query, decoded. `+` stands for itself, so that times with an offset need no care.
    pub(crate) fn param(&self, name: &str) -> Result<Option<String>, Problem> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        let Some((_, value)) = pairs.into_iter().find(|(key, _)| *key == name) else { return Ok(None) };
        let broken = || invalid(format!("?{name}= is not a percent-encoded text"));
        unescape(value).map(Some).ok_or_else(broken)
    }

    /// A parameter that is a number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Problem> {
        let Some(text) = self.param(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| invalid(format!("?{name}={text} is not a whole number")))
    }

    /// The key that makes an act safe to send twice.
    pub(crate) fn idempotency_key(&self) -> Result<Option<String>, Problem> {
        let Some(value) = self.headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
        let text = value.to_str().unwrap_or("");
        if text.is_empty() || text.len() > MAX_IDEMPOTENCY_KEY {
            return Err(invalid("the Idempotency-Key is not one")
                .because(format!("it has 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters"))
                .fix("send a random UUID"));
        }
        Ok(Some(text.to_owned()))
    }
}

pub(crate) fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(Code::Invalid, detail)
}

/// A name in a path. What cannot be a name names nothing.
pub(crate) fn volume_name(segment: &str) -> Result<Name, Problem> {
    Name::from_str(segment).map_err(|e| {
        Problem::new(Code::NotFound, format!("there is no volume {segment:?}"))
            .because(e.to_string())
            .fix("list the volumes: chronogate volume ls")
    })
}

/// The same of a group.
pub(crate) fn group_name(segment: &str) -> Result<Name, Problem> {
    Name::from_str(segment).map_err(|e| {
        Problem::new(Code::NotFound, format!("there is no group {segment:?}"))
            .because(e.to_string())
            .fix("list the groups: chronogate group ls")
    })
}

/// A POINT in a body or query.
pub(crate) fn point(text: &str) -> Result<Point, Problem> {
    text.parse().map_err(|e: gateway_image::PointError| {
        invalid(format!("{text:?} is not a point in time")).because(e.to_string())
    })
}

/// Collects a body of at most [`MAX_BODY`] bytes that arrives within [`limits::BODY_TIME`].
pub(crate) async fn read_body<S, B>(headers: &HeaderMap, stream: S) -> Result<Bytes, Problem>
where
    S: warp::Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|n| n > MAX_BODY) {
        return Err(too_large());
    }
    let limit: Duration = limits::BODY_TIME;
    tokio::time::timeout(limit, collect(stream))
        .await
        .unwrap_or_else(|_| Err(invalid(format!("the body did not arrive within {} s", limit.as_secs()))))
}

async fn collect<S, B>(stream: S) -> Result<Bytes, Problem>
where
    S: warp::Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    let (mut stream, mut body) = (pin!(stream), BytesMut::new());
    while let Some(part) = std::future::poll_fn(|cx| stream.as_mut().poll_next(cx)).await {
        let part = part.map_err(|e| invalid("the body broke off").because(e.to_string()))?;
        if count(body.len() + part.remaining()) > MAX_BODY {
            return Err(too_large());
        }
        bytes::BufMut::put(&mut body, part);
    }
    Ok(body.freeze())
}

fn too_large() -> Problem {
    Problem::new(Code::TooLarge, "the body is too large")
        .because(format!("no request needs more than {MAX_BODY} bytes"))
        .fix("check what you are sending, and where")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(query: &str) -> Request {
        Request {
            method: "GET".into(),
            path: "/".into(),
            query: query.into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    #[test]
    fn a_time_with_an_offset_survives_with_and_without_encoding() {
        for query in ["at=2026-11-22T12:00:00+01:00", "x=1&at=2026-11-22T12%3A00%3A00%2B01%3A00&y"] {
            assert_eq!(request(query).param("at").unwrap().unwrap(), "2026-11-22T12:00:00+01:00");
        }
        assert_eq!(request("a=1").param("at").unwrap(), None);
        assert!(request("at=%zz").param("at").is_err());
        assert!(request("limit=x").number("limit").is_err());
    }
}
