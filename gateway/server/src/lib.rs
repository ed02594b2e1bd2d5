//! The gateway: journal, images, NBD exports and the HTTP API.

pub mod http;
