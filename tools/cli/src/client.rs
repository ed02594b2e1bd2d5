//! The HTTP client of the verbs: one request, one connection, one answer, each with a time limit.

use std::time::Duration;

use cx_api::{Code, ExitStatus, Problem};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::output::Failure;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take beyond what the request itself asks to wait: the gateway waits up to 10 s for a
/// point, and asks the tap for the head.
const ANSWER: Duration = Duration::from_secs(60);
/// The largest answer taken.
const MAX_ANSWER: usize = 64 << 20;
/// The API's port when `--api` names a host alone.
const PORT: u16 = 7070;

type Result<T> = std::result::Result<T, Failure>;

/// A gateway's API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Client {
    /// `host:port`.
    authority: String,
    /// Answers may take this much longer.
    patience: Duration,
}

impl Client {
    /// From `http://HOST:PORT`, `HOST:PORT` or `HOST`.
    pub(crate) fn new(api: &str) -> Result<Self> {
        let (rest, port) = match api.split_once("://") {
            None => (api, PORT),
            Some(("http", rest)) => (rest, 80),
            Some((scheme, _)) => {
                let what = format!("--api {api}: {scheme} is not spoken");
                return Err(Failure::usage(what).fix("give it as http://HOST:PORT"));
            }
        };
        let authority = rest.trim_end_matches('/');
        let bracketed = authority.starts_with('[');
        let host_ok = !authority.is_empty() && !authority.contains(['/', '?', '#', '@', ' ']);
        let colons = authority.matches(':').count();
        if !host_ok || (colons > 1 && !bracketed) {
            let what = format!("--api {api:?} is not the address of an API");
            return Err(
                Failure::usage(what).fix("give it as http://HOST:PORT, for example http://127.0.0.1:7070")
            );
        }
        let has_port = if bracketed { authority.contains("]:") } else { colons == 1 };
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:{port}") };
        Ok(Self { authority, patience: Duration::ZERO })
    }

    /// The same, for requests that ask the gateway to wait this long.
    #[must_use]
    pub(crate) fn patient(&self, patience: Duration) -> Self {
        Self { patience, ..self.clone() }
    }

    /// Reads.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.decode(&self.ask(Method::GET, path, Bytes::new()).await?)
    }

    /// Acts.
    pub(crate) async fn post<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T> {
        self.decode(&self.ask(Method::POST, path, written(body)?).await?)
    }

    /// Acts, where there is nothing to tell but that it is done.
    pub(crate) async fn post_for_nothing<B: Serialize + Sync>(&self, path: &str, body: &B) -> Result<()> {
        self.ask(Method::POST, path, written(body)?).await.map(drop)
    }

    /// Removes.
    pub(crate) async fn delete(&self, path: &str) -> Result<()> {
        self.ask(Method::DELETE, path, Bytes::new()).await.map(drop)
    }

    fn decode<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T> {
        serde_json::from_slice(body).map_err(|e| self.stranger(&format!("its answer does not fit: {e}")))
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes> {
        let limit = ANSWER.saturating_add(self.patience);
        let answered = timeout(limit, self.exchange(method, path, body)).await;
        let (status, body) = answered.map_err(|_| {
            self.unreachable(&format!("no answer within {} s", limit.as_secs()))
                .fix("see with `chronogate status` whether the gateway is well, then repeat the command")
        })??;
        if status.is_success() { Ok(body) } else { Err(self.refused(status, &body)) }
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes)> {
        let stream = timeout(CONNECT, TcpStream::connect(&self.authority))
            .await
            .map_err(|_| self.unreachable(&format!("no connection within {} s", CONNECT.as_secs())))?
            .map_err(|e| self.unreachable(&e.to_string()))?;
        let broken = |e: hyper::Error| self.unreachable(&format!("the connection broke: {e}"));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .body(Full::new(body))
            .map_err(|e| Failure::internal(format!("the request for {path} cannot be made: {e}")))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|e| self.unreachable(&format!("the answer broke off: {e}")))?;
        Ok((status, body.to_bytes()))
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> Failure {
        match serde_json::from_slice::<Problem>(body) {
            Ok(problem) if !problem.detail.is_empty() => problem.into(),
            _ if status.is_server_error() => Failure::new(
                Code::from_http(status.as_u16()).exit_status(),
                format!("the API answered {status}"),
            ),
            _ => self.stranger(&format!("it answered {status} without saying why")),
        }
    }

    fn unreachable(&self, why: &str) -> Failure {
        let what = format!("the API at http://{} cannot be reached", self.authority);
        Failure::new(ExitStatus::Unreachable, what).because(why).fix(
            "start it (chronogate up, chronogate gateway), or name its address with --api or CHRONOGATE_API",
        )
    }

    fn stranger(&self, why: &str) -> Failure {
        let what = format!("what listens at http://{} does not speak this API", self.authority);
        Failure::new(ExitStatus::Error, what)
            .because(why)
            .fix("check --api or CHRONOGATE_API, and that both ends are of the same version")
    }
}

fn written<B: Serialize>(body: &B) -> Result<Bytes> {
    let body = serde_json::to_vec(body);
    body.map(Bytes::from).map_err(|e| Failure::internal(format!("the request cannot be written: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (given, authority) in [
            ("http://127.0.0.1:7070", "127.0.0.1:7070"),
            ("http://127.0.0.1:7070/", "127.0.0.1:7070"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("gw", "gw:7070"),
            ("http://gw", "gw:80"),
            ("http://[::1]:7070", "[::1]:7070"),
            ("[::1]", "[::1]:7070"),
        ] {
            assert_eq!(Client::new(given).unwrap().authority, authority, "{given}");
        }
        for bad in ["", "http://", "https://gw", "ftp://gw", "http://gw/api", "::1", "http://a@b", "a b"] {
            assert_eq!(Client::new(bad).unwrap_err().exit, ExitStatus::Usage, "{bad}");
        }
    }
}
