//! The HTTP API of the gateway: `/api/v1`, `/healthz` and `/metrics`.
//!
//! ```text
//!   socket ─► serve (limits, timeouts) ─► guard (browsers kept out) ─► routes ─► answer ─► Control (the gateway)
//!                                                                        │
//!                                                        acts: idempotency (same key, same outcome)
//! ```
//!
//! Every answer that is no success is an RFC 9457 problem with cause and correction. Nothing that arrives is
//! trusted: bodies, headers, connections and waits all have limits, named in [`limits`].
//!
//! Architecture invariant: nothing here knows how the gateway works; it asks through [`Control`].

mod answer;
mod control;
mod export;
mod guard;
mod idempotency;
mod metrics;
mod openapi;
mod reply;
mod request;
mod routes;
mod serve;
mod stall;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;

pub(crate) use answer::image_key;
pub use control::{Answer, Control, ImageKey, Points};
pub use gateway_image::Point;
pub use routes::{Method, Route, routes};

/// What a client can take, at most.
pub mod limits {
    use std::time::Duration;

    /// Connections served at once; more wait in the listen backlog.
    pub const CONNECTIONS: usize = 256;
    /// Header lines of a request; more are answered 431.
    pub const HEADERS: usize = 64;
    /// Bytes of a request's head; more are answered 431.
    pub const HEAD_BYTES: usize = 32 << 10;
    /// How long a head may take to arrive, and how long a connection may lie idle.
    pub const HEAD_TIME: Duration = Duration::from_secs(15);
    /// How long a body may take to arrive.
    pub const BODY_TIME: Duration = Duration::from_secs(15);
    /// How long a client may take no byte of its answer.
    pub const STALL_TIME: Duration = Duration::from_secs(30);
    /// Idempotency keys remembered; the oldest finished one is forgotten for a new one.
    pub const KEYS: usize = 1024;
}

/// Where to listen.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Address and port; port 0 chooses one.
    pub listen: SocketAddr,
    /// Allow an address that is not loopback, although there are neither tokens nor TLS yet.
    pub insecure: bool,
}

/// Why the API does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Everybody on the network could command this gateway.
    #[error(
        "the API will not listen on {0}: it has no authentication yet and that address is not loopback; \
         listen on 127.0.0.1, or say --insecure if the network is trusted"
    )]
    NotLoopback(SocketAddr),
    /// The address is taken or not ours.
    #[error(
        "the API cannot listen on {address}: {source}; choose another --api address or stop what uses it"
    )]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// Everything a request may need.
pub(crate) struct Api<C> {
    control: Arc<C>,
    keys: idempotency::Keys,
    requests: metrics::Requests,
    in_hand: serve::InHand,
    /// Only this machine can reach it, so a `Host` that names another one is a browser being tricked.
    loopback: bool,
}

/// The API at work.
pub struct ApiHandle {
    address: SocketAddr,
    server: serve::Running,
}

/// Binds, and serves until [`ApiHandle::stop`].
///
/// # Errors
/// [`StartError`]: not loopback without `insecure`, or the address cannot be had.
pub async fn start<C: Control>(control: Arc<C>, config: &ApiConfig) -> Result<ApiHandle, StartError> {
    let loopback = config.listen.ip().to_canonical().is_loopback();
    if !loopback && !config.insecure {
        return Err(StartError::NotLoopback(config.listen));
    }
    let failed = |source| StartError::Bind { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let api = Arc::new(Api {
        control,
        keys: idempotency::Keys::new(limits::KEYS),
        requests: metrics::Requests::default(),
        in_hand: serve::InHand::default(),
        loopback,
    });
    Ok(ApiHandle { address, server: serve::spawn(listener, api) })
}

impl ApiHandle {
    /// Where it listens, the port chosen included.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts nothing more, lets requests in hand finish for up to `grace`, then ends them.
    pub async fn stop(self, grace: Duration) {
        self.server.stop(grace).await;
    }
}
