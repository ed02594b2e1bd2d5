//! End to end: real processes, stock clients.
