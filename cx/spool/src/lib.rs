//! The outbox of a hop: what is kept in memory, what goes to disk, what may be forgotten.
