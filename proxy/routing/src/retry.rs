//! Whether a failed attempt is followed by another. One pure function for every lane.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use meridian_config::Retry;

use crate::labelled::labelled;
use crate::time::Micros;

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection: not a byte of the request left.
    Connect,
    /// The connection broke, or the first byte did not come in time, after bytes may have left.
    Broken,
    /// Bytes may have left and the time for the first byte ran out.
    TimedOut,
}

/// An attempt, as far as the verdict looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// How it failed.
    pub failure: Failure,
    /// The request's method.
    pub method: &'a str,
    /// Attempts so far, this one included.
    pub attempts: u32,
    /// Whether the response's head has been passed on.
    pub answered: bool,
    /// Whether the whole request body that was sent so far can be sent again.
    pub replayable: bool,
    /// Whether there is an endpoint that was not tried.
    pub untried: bool,
}

/// The verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Try the next endpoint.
    Retry(RetryReason),
    /// Answer the client.
    GiveUp(GiveUp),
}

labelled!(
    /// Why another attempt is made.
    RetryReason {
        /// Nothing of the request had left.
        NeverSent = "never-sent",
        /// The method may be repeated.
        Idempotent = "idempotent",
    }
);

labelled!(
    /// Why no other attempt is made.
    GiveUp {
        /// The response had begun.
        Answered = "response-started",
        /// Bytes may have left and the method must not be repeated.
        NotIdempotent = "not-idempotent",
        /// All attempts are used up.
        Attempts = "attempts",
        /// The part of the body already sent is not held any more.
        Body = "body-not-replayable",
        /// No endpoint is left to try.
        NoEndpoint = "no-endpoint",
        /// The budget is spent.
        Budget = "budget",
    }
);

/// Rules on a failed attempt. Takes from the budget only if the verdict is to retry.
pub fn retry_verdict(
    attempt: &Attempt<'_>,
    policy: &Retry,
    budget: &RetryBudget,
    now: Micros,
) -> Verdict {
    let never_sent = attempt.failure == Failure::Connect;
    let idempotent = policy.idempotent_methods.iter().any(|m| m == attempt.method);
    let obstacle = if attempt.answered {
        Some(GiveUp::Answered)
    } else if !never_sent && !idempotent {
        Some(GiveUp::NotIdempotent)
    } else if !attempt.replayable {
        Some(GiveUp::Body)
    } else if !attempt.untried {
        Some(GiveUp::NoEndpoint)
    } else if !never_sent && attempt.attempts > policy.attempts {
        Some(GiveUp::Attempts)
    } else if !never_sent && !budget.take(policy.budget, now) {
        Some(GiveUp::Budget)
    } else {
        None
    };
    match obstacle {
        Some(reason) => Verdict::GiveUp(reason),
        None if never_sent => Verdict::Retry(RetryReason::NeverSent),
        None => Verdict::Retry(RetryReason::Idempotent),
    }
}

/// Length of a budget window, microseconds.
const WINDOW_US: u64 = 10_000_000;
/// Retries that are always allowed, per window: 10 a second.
const ALWAYS: u64 = 100;

/// Requests and retries of the current 10 s window. Lock-free; a window's edge may miscount by a few.
#[derive(Debug, Default)]
pub struct RetryBudget {
    window: AtomicU64,
    requests: AtomicU64,
    retries: AtomicU64,
}

impl RetryBudget {
    /// Counts a request.
    pub fn request(&self, now: Micros) {
        self.roll(now);
        self.requests.fetch_add(1, Relaxed);
    }

    /// Takes one retry if fewer than `part` of the window's requests (and at least 10 a second) were retried.
    fn take(&self, part: f64, now: Micros) -> bool {
        self.roll(now);
        let allowed = ((self.requests.load(Relaxed) as f64 * part) as u64).max(ALWAYS);
        let one_more = |taken: u64| (taken < allowed).then_some(taken + 1);
        self.retries.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }

    fn roll(&self, now: Micros) {
        let window = now.0 / WINDOW_US + 1;
        if self.window.load(Relaxed) != window && self.window.swap(window, Relaxed) != window {
            self.requests.store(0, Relaxed);
            self.retries.store(0, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Retry {
        let idempotent_methods = ["GET", "HEAD", "OPTIONS", "TRACE"].map(str::to_owned).to_vec();
        Retry { attempts: 2, budget: 0.2, idempotent_methods, buffer: 65536 }
    }

    /// Every combination of phase, method, attempts, body and endpoints, held against the rule in words.
    #[test]
    fn the_whole_table() {
        for failure in [Failure::Connect, Failure::Broken, Failure::TimedOut] {
            for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "get"] {
                for bits in 0..8 {
                    let (answered, replayable, untried) =
                        (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0);
                    for attempts in 1..=4 {
                        let attempt =
                            Attempt { failure, method, attempts, answered, replayable, untried };
                        let verdict =
                            retry_verdict(&attempt, &policy(), &RetryBudget::default(), Micros(1));
                        let sent = failure != Failure::Connect;
                        let allowed = !answered
                            && replayable
                            && untried
                            && (!sent || (["GET", "HEAD"].contains(&method) && attempts <= 2));
                        let retried = matches!(verdict, Verdict::Retry(_));
                        assert_eq!(retried, allowed, "{attempt:?} {verdict:?}");
                        if sent && method == "POST" {
                            assert!(!retried, "a POST whose bytes may have left");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_budget_is_a_fifth_and_never_less_than_ten_a_second() {
        let attempt = Attempt {
            failure: Failure::Broken,
            method: "GET",
            attempts: 1,
            answered: false,
            replayable: true,
            untried: true,
        };
        for (requests, expected) in [(0, 100), (200, 100), (1000, 200)] {
            let budget = RetryBudget::default();
            (0..requests).for_each(|_| budget.request(Micros(5)));
            let granted = (0..1000)
                .filter(|_| {
                    let verdict = retry_verdict(&attempt, &policy(), &budget, Micros(5));
                    verdict == Verdict::Retry(RetryReason::Idempotent)
                })
                .count();
            assert_eq!(granted, expected);
            // The next window starts afresh.
            let later = Micros(5 + WINDOW_US);
            assert!(matches!(
                retry_verdict(&attempt, &policy(), &budget, later),
                Verdict::Retry(_)
            ));
        }
    }
}
