//! Lists, page by page: a list never grows without bound in memory, nor in one answer.

use serde::{Deserialize, Serialize};

/// Part of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items, in the list's order.
    pub items: Vec<T>,
    /// Given as `?after=` it brings the next page; null on the last.
    #[serde(default = "none")]
    pub next: Option<String>,
}

fn none() -> Option<String> {
    None
}

impl<T> Page<T> {
    /// A list that fits in one page.
    #[must_use]
    pub fn whole(items: Vec<T>) -> Self {
        Self { items, next: None }
    }
}
