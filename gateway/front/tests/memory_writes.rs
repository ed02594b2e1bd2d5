//! Clients with large writes under a small bound on memory. A program of its own: the test beside it looks at what its process has.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod wire;

use std::time::Duration;

use gateway_front::{Front, Limits};
use wire::*;

/// Writes that grow make the receive buffer grow beyond what was lent for them: that must not have them wait for each other.
#[test]
fn large_writes_of_many_go_on_whatever_their_buffers_grow_to() {
    let limits = Limits { connections: 64, memory: 32 << 20, ..Limits::default() };
    let front = Front::start(&["127.0.0.1:0".parse().unwrap()], Disks::new(&["b"]), limits).unwrap();
    std::thread::scope(|scope| {
        for no in 0..12u8 {
            let front = &front;
            scope.spawn(move || {
                let mut client = connect_tcp(front);
                client.greet();
                client.choose(GO, "b").unwrap();
                client.0.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                for round in 0..20u32 {
                    let length = [1_900_000, 2_000_000, 700_000, 3_900_000][round as usize % 4];
                    client.write(0, &vec![no; length]);
                }
            });
        }
    });
    wait_until("the end of all", || front.connections() == 0);
    assert_eq!((front.memory().lent, front.memory().waiting), (0, 0));
}
