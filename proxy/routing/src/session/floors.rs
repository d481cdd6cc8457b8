//! What the sessions of a service were given last, so that two requests of one session at the same time cannot lower it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::SessionToken;

/// A power of two; 1 MiB, of which the system hands out the pages that are touched.
const SLOTS: usize = 1 << 16;

/// The highest that was given, by session, in one epoch. Sessions share a slot where their numbers meet there: one of
/// them then asks for more than it has seen, which costs it a closer replica and never the truth.
#[derive(Debug)]
pub struct SessionFloors {
    epoch: u64,
    slots: Box<[Slot]>,
}

#[derive(Debug, Default)]
struct Slot {
    /// One above the position; 0: none.
    position: AtomicU64,
    primary_until_unix_ms: AtomicU64,
}

impl SessionFloors {
    /// Of sessions in `epoch`.
    pub fn new(epoch: u64) -> Self {
        Self { epoch, slots: std::iter::repeat_with(Slot::default).take(SLOTS).collect() }
    }

    /// The epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    fn slot(&self, session: u64) -> &Slot {
        &self.slots[session as usize & (SLOTS - 1)]
    }

    /// The session of this token is given it.
    pub fn given(&self, token: &SessionToken) {
        if token.epoch != self.epoch {
            return;
        }
        let slot = self.slot(token.session);
        if let Some(position) = token.position {
            slot.position.fetch_max(position.saturating_add(1), Relaxed);
        }
        slot.primary_until_unix_ms.fetch_max(token.primary_until_unix_ms, Relaxed);
    }

    /// The token, with what its session was given since.
    pub fn raised(&self, token: &SessionToken) -> SessionToken {
        if token.epoch != self.epoch {
            return *token;
        }
        let slot = self.slot(token.session);
        let position = slot.position.load(Relaxed).checked_sub(1);
        let until = slot.primary_until_unix_ms.load(Relaxed);
        SessionToken {
            position: token.position.max(position),
            primary_until_unix_ms: token.primary_until_unix_ms.max(until),
            ..*token
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(session: u64, position: Option<u64>, until: u64) -> SessionToken {
        SessionToken {
            service: 1,
            session,
            epoch: 3,
            position,
            primary_until_unix_ms: until,
            issued_unix_ms: 5,
        }
    }

    #[test]
    fn a_session_is_never_lowered() {
        let floors = SessionFloors::new(3);
        let fresh = token(7, Some(10), 0);
        assert_eq!(floors.raised(&fresh), fresh);
        floors.given(&token(7, Some(20), 0));
        floors.given(&token(7, Some(15), 900));
        floors.given(&SessionToken { epoch: 2, ..token(7, Some(99), 9000) });
        assert_eq!(floors.raised(&fresh), token(7, Some(20), 900));
        assert_eq!(floors.raised(&token(7, None, 0)), token(7, Some(20), 900));
        assert_eq!(floors.raised(&token(7, Some(21), 901)), token(7, Some(21), 901));
        let other = SessionToken { epoch: 4, ..fresh };
        assert_eq!(floors.raised(&other), other, "another epoch's positions are others");
        assert_eq!(floors.raised(&token(8, Some(1), 0)), token(8, Some(1), 0));
        // A session whose number meets the same slot asks for more, never for less.
        let sharing = token(7 + SLOTS as u64, Some(1), 0);
        assert_eq!(floors.raised(&sharing).position, Some(20));
    }
}
