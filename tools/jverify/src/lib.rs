//! Checks a store offline, with a reading loop of its own.
