//! Sessions over TCP and memory: connect, reconnect, credits, the disk spool behind an outbox.
