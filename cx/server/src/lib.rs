//! The CX: takes streams from taps, spools, forwards to gateways.
