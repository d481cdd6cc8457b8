//! Passive health: what traffic itself says of an endpoint.
//!
//! The data path counts failures in a row; at the limit it holds the endpoint back at once, on every worker, and tells
//! the keeper. The keeper alone ejects: its next table says so, or the hold lapses. Selection reads one atomic, the
//! gate, which stands on the endpoint's cache line.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use meridian_config::Outlier;

use crate::labelled::labelled;
use crate::layers::EndpointHealth;
use crate::time::Micros;

/// How long the data path's own hold lasts: many times what the keeper takes to answer with a table.
const HOLD: Duration = Duration::from_secs(1);
/// So long after the keeper has turned an ejection down, it is not asked again.
const PARDON: Duration = Duration::from_secs(1);
/// A trial waits so long for a request that may be repeated; then any request will do.
const CHOOSY: Duration = Duration::from_secs(1);

/// What an endpoint did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It could not be connected to, broke the connection, or did not answer in time.
    Connection,
    /// It answered with 500, 502, 503 or 504.
    ServerError,
}

labelled!(
    /// Why an endpoint was ejected.
    EjectionCause {
        /// It failed to connect, broke off or stayed silent several times in a row.
        ConnectionFailures = "connection-failures",
        /// It answered 500, 502, 503 or 504 several times in a row.
        Consecutive5xx = "consecutive-5xx",
        /// Too few of its requests of the last 10 s were answered well.
        SuccessRatio = "success-ratio",
        /// The trial that followed an ejection failed.
        Trial = "trial",
    }
);

/// An endpoint that takes no requests because of what traffic said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Why.
    pub cause: EjectionCause,
    /// What was seen, in words.
    pub evidence: Arc<str>,
    /// When it began.
    pub since: Micros,
    /// Not before then is it tried again, unless a probe refutes the cause.
    pub until: Micros,
    /// How many there were in a row, this one included.
    pub times: u32,
    /// Its time is over: one request decides whether it ends.
    pub trial: bool,
}

/// What the data path suspects: grounds for an ejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspicion {
    /// Which limit was reached.
    pub cause: EjectionCause,
    /// Failures in a row.
    pub count: u32,
}

/// Where an endpoint stands in the table in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Neither unhealthy nor ejected.
    In,
    /// One of these.
    Out,
    /// Ejected, and the next suitable request is its trial.
    Trial,
}

impl Standing {
    pub(crate) fn of(health: EndpointHealth, ejection: Option<&Ejection>) -> Self {
        match (health, ejection) {
            (EndpointHealth::Unhealthy, _) => Self::Out,
            (_, None) => Self::In,
            (_, Some(ejection)) if ejection.trial => Self::Trial,
            (_, Some(_)) => Self::Out,
        }
    }
}

/// A gate's low bits; above them stands a time in microseconds where it has one.
const KIND_BITS: u32 = 3;
/// In service; the whole gate is 0.
const IN: u64 = 0;
/// Held back by the data path until then; in service afterwards.
const HELD: u64 = 1;
/// In service although suspected; until then the keeper is not asked again.
const PARDONED: u64 = 2;
/// Out by the table.
const OUT: u64 = 3;
/// Waits since then for its trial.
const TRIAL: u64 = 4;
/// Its trial is under way.
const TRYING: u64 = 5;

fn gate(kind: u64, at: Micros) -> u64 {
    (at.0 << KIND_BITS) | kind
}

fn unpack(gate: u64) -> (u64, Micros) {
    (gate & ((1 << KIND_BITS) - 1), Micros(gate >> KIND_BITS))
}

/// One endpoint's passive health; part of its counters.
#[derive(Debug, Default)]
pub(crate) struct PassiveHealth {
    gate: AtomicU64,
    /// Failures in a row: those of connections in the high half, 5xx in the low half.
    row: AtomicU32,
    /// How often it went out; a request that waits for it sees that it did.
    outs: AtomicU32,
    faults: AtomicU32,
    abandoned: AtomicU32,
}

impl PassiveHealth {
    /// An answer that is no fault.
    pub(crate) fn well(&self) {
        // Mostly it is 0 already: then the line stays shared.
        if self.row.load(Relaxed) != 0 {
            self.row.store(0, Relaxed);
        }
    }

    pub(crate) fn failed(&self, fault: Fault) {
        self.faults.fetch_add(1, Relaxed);
        let next = |row: u32| {
            let (connection, server) = (row >> 16, row & 0xffff);
            Some(match fault {
                Fault::Connection => ((connection + 1).min(0xffff) << 16) | server,
                // It did connect.
                Fault::ServerError => (server + 1).min(0xffff),
            })
        };
        // Never refused: `next` always gives a value.
        let _ = self.row.fetch_update(Relaxed, Relaxed, next);
    }

    pub(crate) fn abandoned(&self) {
        self.abandoned.fetch_add(1, Relaxed);
    }

    /// Begins a new row.
    pub(crate) fn forgive(&self) {
        self.row.store(0, Relaxed);
    }

    /// Faults and abandoned requests since the process started; they wrap.
    pub(crate) fn counts(&self) -> (u32, u32) {
        (self.faults.load(Relaxed), self.abandoned.load(Relaxed))
    }

    /// Whether selection may take it.
    pub(crate) fn takes_requests(&self, now: Micros) -> bool {
        let gate = self.gate.load(Relaxed);
        gate == IN || takes_after_all(gate, now)
    }

    /// Holds the endpoint back if a limit is reached; `Some` for the one who must tell the keeper.
    pub(crate) fn suspect(&self, limits: &Outlier, now: Micros) -> Option<Suspicion> {
        let row = self.row.load(Relaxed);
        let reached = |count: u32, limit: u32, cause| {
            (limit > 0 && count >= limit).then_some(Suspicion { cause, count })
        };
        let connection =
            reached(row >> 16, limits.connection_failures, EjectionCause::ConnectionFailures);
        let server =
            || reached(row & 0xffff, limits.consecutive_5xx, EjectionCause::Consecutive5xx);
        let suspicion = connection.or_else(server)?;
        let held = |gate_now: u64| {
            let (kind, at) = unpack(gate_now);
            let free = kind == IN || (matches!(kind, HELD | PARDONED) && at <= now);
            free.then(|| gate(HELD, now.plus(HOLD)))
        };
        self.gate.fetch_update(Relaxed, Relaxed, held).is_ok().then_some(suspicion)
    }

    /// Lets go of the data path's hold; the keeper does not want it.
    pub(crate) fn pardon(&self, now: Micros) {
        let pardoned =
            |gate_now| (unpack(gate_now).0 == HELD).then(|| gate(PARDONED, now.plus(PARDON)));
        // Something else than a hold stays.
        let _ = self.gate.fetch_update(Relaxed, Relaxed, pardoned);
    }

    /// Whether a trial waits for a request; `choice`: it may be repeated.
    pub(crate) fn awaits_trial(&self, choice: bool, now: Micros) -> bool {
        let (kind, since) = unpack(self.gate.load(Relaxed));
        kind == TRIAL && (choice || now.since(since) >= CHOOSY)
    }

    /// Takes the trial; `false` if somebody else has.
    pub(crate) fn begin_trial(&self) -> bool {
        let taken = |gate_now| (unpack(gate_now).0 == TRIAL).then_some(TRYING);
        self.gate.fetch_update(Relaxed, Relaxed, taken).is_ok()
    }

    /// The trial told nothing: the next request is one.
    pub(crate) fn repeat_trial(&self, now: Micros) {
        // If the table has decided otherwise meanwhile, that stands.
        let _ = self.gate.compare_exchange(TRYING, gate(TRIAL, now), Relaxed, Relaxed);
    }

    /// Follows the table in force. A hold outlives tables that do not know of it yet, a trial those that still want it.
    pub(crate) fn follow(&self, standing: Standing, now: Micros) {
        let next = |gate_now: u64| match (standing, unpack(gate_now).0) {
            (Standing::In, OUT | TRIAL | TRYING) => Some(IN),
            (Standing::Out, kind) if kind != OUT => Some(OUT),
            (Standing::Trial, kind) if !matches!(kind, TRIAL | TRYING) => Some(gate(TRIAL, now)),
            _ => None,
        };
        // Nothing to do is the usual case.
        let _ = self.gate.fetch_update(Relaxed, Relaxed, next);
    }

    /// Tells requests that wait for it that it went out.
    pub(crate) fn went_out(&self) {
        self.outs.fetch_add(1, Relaxed);
    }

    pub(crate) fn outs(&self) -> u32 {
        self.outs.load(Relaxed)
    }
}

#[cold]
fn takes_after_all(gate: u64, now: Micros) -> bool {
    match unpack(gate) {
        (HELD, until) => until <= now,
        (PARDONED, _) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = Micros(77_000_000);

    fn limits() -> Outlier {
        Outlier {
            connection_failures: 3,
            consecutive_5xx: 5,
            success_ratio: 0.5,
            ejection: Duration::from_secs(5),
            max_ejected: 0.5,
        }
    }

    fn fail(health: &PassiveHealth, fault: Fault, times: u32) -> Vec<Option<Suspicion>> {
        let once = |_| {
            health.failed(fault);
            health.suspect(&limits(), NOW)
        };
        (0..times).map(once).collect()
    }

    #[test]
    fn three_connection_failures_hold_it_back_and_one_caller_tells() {
        let health = PassiveHealth::default();
        let told = fail(&health, Fault::Connection, 5);
        let suspicion = Suspicion { cause: EjectionCause::ConnectionFailures, count: 3 };
        assert_eq!(told, [None, None, Some(suspicion), None, None]);
        assert!(!health.takes_requests(NOW));
        // Without the keeper's word the hold lapses, and the next failure asks again.
        let later = NOW.plus(HOLD);
        assert!(health.takes_requests(later));
        health.failed(Fault::Connection);
        assert!(health.suspect(&limits(), later).is_some());
        assert!(!health.takes_requests(later));
    }

    #[test]
    fn an_answer_ends_the_row_and_a_5xx_ends_that_of_connections() {
        let health = PassiveHealth::default();
        assert_eq!(fail(&health, Fault::Connection, 2), [None; 2]);
        health.well();
        assert_eq!(fail(&health, Fault::Connection, 2), [None; 2]);
        assert_eq!(fail(&health, Fault::ServerError, 4), [None; 4]);
        assert_eq!(fail(&health, Fault::Connection, 2), [None; 2]);
        let suspicion = Suspicion { cause: EjectionCause::Consecutive5xx, count: 5 };
        assert_eq!(fail(&health, Fault::ServerError, 1), [Some(suspicion)]);
    }

    #[test]
    fn a_limit_of_zero_is_never_reached() {
        let health = PassiveHealth::default();
        let off = Outlier { connection_failures: 0, consecutive_5xx: 0, ..limits() };
        for fault in [Fault::Connection, Fault::ServerError].repeat(70_000) {
            health.failed(fault);
            assert_eq!(health.suspect(&off, NOW), None);
        }
        assert!(health.takes_requests(NOW));
    }

    #[test]
    fn the_pardoned_take_requests_and_are_not_reported_for_a_while() {
        let health = PassiveHealth::default();
        fail(&health, Fault::Connection, 3);
        health.pardon(NOW);
        assert!(health.takes_requests(NOW));
        assert_eq!(fail(&health, Fault::Connection, 3), [None; 3]);
        assert!(health.suspect(&limits(), NOW.plus(PARDON)).is_some());
        health.follow(Standing::Out, NOW);
        health.pardon(NOW);
        assert!(!health.takes_requests(NOW), "only a hold is pardoned");
    }

    #[test]
    fn a_hold_outlives_tables_that_do_not_know_of_it() {
        let health = PassiveHealth::default();
        fail(&health, Fault::Connection, 3);
        health.follow(Standing::In, NOW);
        assert!(!health.takes_requests(NOW));
        health.follow(Standing::Out, NOW);
        assert!(!health.takes_requests(NOW.plus(HOLD)));
        health.follow(Standing::In, NOW);
        assert!(health.takes_requests(NOW));
    }

    #[test]
    fn one_request_has_the_trial_and_it_is_one_that_may_be_repeated_at_first() {
        let health = PassiveHealth::default();
        assert!(!health.awaits_trial(true, NOW) && !health.begin_trial());
        health.follow(Standing::Trial, NOW);
        assert!(!health.takes_requests(NOW));
        assert!(health.awaits_trial(true, NOW));
        assert!(!health.awaits_trial(false, NOW));
        assert!(health.awaits_trial(false, NOW.plus(CHOOSY)));
        assert!(health.begin_trial());
        assert!(!health.begin_trial() && !health.awaits_trial(true, NOW));
        // A table that still wants it does not open it anew; a trial that told nothing does.
        health.follow(Standing::Trial, NOW);
        assert!(!health.awaits_trial(true, NOW));
        health.repeat_trial(NOW);
        assert!(health.begin_trial());
        health.follow(Standing::In, NOW);
        health.repeat_trial(NOW);
        assert!(health.takes_requests(NOW), "the table has decided");
    }

    #[test]
    fn standing_is_health_and_ejection_together() {
        let mut ejection = Ejection {
            cause: EjectionCause::SuccessRatio,
            evidence: "".into(),
            since: NOW,
            until: NOW,
            times: 1,
            trial: false,
        };
        let of = |health, ejection: Option<&Ejection>| Standing::of(health, ejection);
        assert_eq!(of(EndpointHealth::Healthy, None), Standing::In);
        assert_eq!(of(EndpointHealth::Unknown, None), Standing::In);
        assert_eq!(of(EndpointHealth::Unhealthy, None), Standing::Out);
        assert_eq!(of(EndpointHealth::Healthy, Some(&ejection)), Standing::Out);
        ejection.trial = true;
        assert_eq!(of(EndpointHealth::Healthy, Some(&ejection)), Standing::Trial);
        assert_eq!(of(EndpointHealth::Unhealthy, Some(&ejection)), Standing::Out);
    }
}
