//! Addresses that no other test uses: every process has a loopback address of its own.
//!
//! Listeners of the edge share their ports (SO_REUSEPORT), so a port that two tests chose at the same
//! time would not be an error but a mix-up. 127.0.0.0/8 is wide enough to keep processes apart.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{LazyLock, Mutex, PoisonError};

static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// This process's own loopback address.
pub fn loopback() -> IpAddr {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    // Process ids have 22 bits; 127.0.0.0/16 stays free for everybody's 127.0.0.1.
    Ipv4Addr::new(127, (a & 0x3f) + 64, b, c).into()
}

/// An address that is free now and is given out only once.
///
/// # Panics
/// If there is none.
pub fn free_address() -> SocketAddr {
    for _ in 0..100 {
        let probe = TcpListener::bind((loopback(), 0)).expect("a loopback port");
        let address = probe.local_addr().expect("the address of a bound socket");
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        if given.insert(address.port()) {
            return address;
        }
    }
    panic!("no free port on {}", loopback());
}
