//! What taps, CX and gateways say to each other: messages and the session state machines.
