//! File descriptors: how many there may be, and how many of them clients may take.
//!
//! Promises: as many as the system allows are asked for, and clients never take the last ones, which the admin
//! endpoint, health checks and logs need. Refuses to know: who uses them for what.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The least that is kept for everything but clients and their requests.
const RESERVED: u64 = 64;
/// Of large limits, one in so many is kept.
const RESERVED_PART: u64 = 8;

/// Raises the soft limit to the hard one, and says how many client connections it leaves room for.
pub(crate) fn room_for_clients() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    match if raised.is_ok() { maximum } else { current } {
        Some(limit) => room(limit),
        None => usize::MAX,
    }
}

/// A client may need a second descriptor for the endpoint that answers it. (A tunnel needs a third, under TLS a fourth:
/// an edge with many of them wants a limit well above twice its connections.)
fn room(limit: u64) -> usize {
    let kept = RESERVED.max(limit / RESERVED_PART);
    usize::try_from(limit.saturating_sub(kept) / 2).unwrap_or(usize::MAX).max(1)
}

/// Pipes that each of so many workers may have in use: a small part of what clients leave, since a pipe takes two
/// descriptors and large bodies get along without one.
pub(crate) fn pipes_for(room: usize, workers: usize) -> usize {
    (room / 64 / workers.max(1)).min(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_descriptors_are_not_for_clients() {
        for (limit, clients) in [(0, 1), (64, 1), (256, 96), (1024, 448), (1 << 20, 458_752)] {
            assert_eq!(room(limit), clients, "{limit}");
        }
        for (room, workers, pipes) in [(96, 1, 1), (96, 2, 0), (448, 2, 3), (458_752, 4, 64)] {
            assert_eq!(pipes_for(room, workers), pipes, "{room}");
        }
        assert!(room_for_clients() > 1);
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum, "raised");
    }
}
