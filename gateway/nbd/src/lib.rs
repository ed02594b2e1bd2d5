//! The NBD server as a state machine: bytes in, bytes out.
