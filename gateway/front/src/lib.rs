//! Listeners that serve any BlockDevice over NBD: sockets, limits, sessions.
