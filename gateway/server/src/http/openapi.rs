//! The description of the API, as it is served. `tests/http.rs` holds it to the routes and to the types.

/// OpenAPI 3.1.
pub(crate) const DOCUMENT: &str = include_str!("openapi.json");
