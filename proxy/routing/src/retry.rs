//! Whether a failed attempt is followed by another. One pure function for every lane.

use meridian_config::Retry;

use crate::budget::Budget;
use crate::labelled::labelled;
use crate::time::Micros;

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection: not a byte of the request left.
    Connect,
    /// The endpoint has said that it has done nothing of the request: a stream refused, or above the last one of a GOAWAY
    /// (RFC 9113 section 8.7).
    Refused,
    /// The connection broke after bytes may have left.
    Broken,
    /// Bytes may have left and the time for the first byte ran out.
    TimedOut,
    /// Bytes may have left, and the endpoint went out while its first byte was waited for.
    WentOut,
}

/// An attempt, as far as the verdict looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// How it failed.
    pub failure: Failure,
    /// The request's method.
    pub method: &'a str,
    /// Whether the request carries an idempotency key.
    pub key: bool,
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
        /// The request carries an idempotency key, which the service honours.
        IdempotencyKey = "idempotency-key",
    }
);

labelled!(
    /// Why no other attempt is made.
    GiveUp {
        /// The response had begun.
        Answered = "response-started",
        /// Bytes may have left and the request must not be repeated.
        NotIdempotent = "not-idempotent",
        /// All attempts are used up.
        Attempts = "attempts",
        /// The part of the body already sent is not held any more.
        Body = "body-not-replayable",
        /// No endpoint is left to try.
        NoEndpoint = "no-endpoint",
        /// The budget is spent.
        Budget = "budget",
        /// The whole request's time is over.
        Deadline = "deadline",
    }
);

/// Why a request may be sent twice although bytes of it may have left; `None`: it must not. Methods that are not
/// idempotent count only with a key, and only where the policy honours it.
pub fn repeatable(policy: &Retry, method: &str, key: bool) -> Option<RetryReason> {
    if policy.idempotent_methods.iter().any(|m| m == method) {
        Some(RetryReason::Idempotent)
    } else {
        (policy.idempotency_key && key).then_some(RetryReason::IdempotencyKey)
    }
}

/// Rules on a failed attempt. Takes from the budget only if the verdict is to retry.
pub fn retry_verdict(
    attempt: &Attempt<'_>,
    policy: &Retry,
    budget: &RetryBudget,
    now: Micros,
) -> Verdict {
    let never_sent = matches!(attempt.failure, Failure::Connect | Failure::Refused);
    let reason = if never_sent {
        Some(RetryReason::NeverSent)
    } else {
        repeatable(policy, attempt.method, attempt.key)
    };
    if attempt.answered {
        return Verdict::GiveUp(GiveUp::Answered);
    }
    let Some(reason) = reason else { return Verdict::GiveUp(GiveUp::NotIdempotent) };
    let obstacle = if !attempt.replayable {
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
    obstacle.map_or(Verdict::Retry(reason), Verdict::GiveUp)
}

/// Retries that are always allowed, per window: 10 a second.
const ALWAYS: u64 = 100;

/// Requests and retries of the current 10 s window. Lock-free; a window's edge may miscount by a few.
#[derive(Debug, Default)]
pub struct RetryBudget(Budget);

impl RetryBudget {
    /// Counts a request.
    pub fn request(&self, now: Micros) {
        self.0.request(now);
    }

    /// Takes one retry if fewer than `part` of the window's requests (and at least 10 a second) were retried.
    fn take(&self, part: f64, now: Micros) -> bool {
        self.0.take(part, ALWAYS, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::WINDOW_US;

    const FAILURES: [Failure; 5] =
        [Failure::Connect, Failure::Refused, Failure::Broken, Failure::TimedOut, Failure::WentOut];
    const METHODS: [&str; 9] =
        ["GET", "HEAD", "OPTIONS", "TRACE", "POST", "PUT", "DELETE", "PATCH", "get"];

    fn policy(opted_in: &[&str], idempotency_key: bool) -> Retry {
        let safe = ["GET", "HEAD", "OPTIONS", "TRACE"];
        let methods = safe.iter().chain(opted_in).map(|m| (*m).to_owned()).collect();
        Retry {
            attempts: 2,
            budget: 0.2,
            idempotent_methods: methods,
            idempotency_key,
            buffer: 65536,
        }
    }

    /// A budget of which nothing is left at `now`.
    fn spent(now: Micros) -> RetryBudget {
        let budget = RetryBudget::default();
        while budget.take(0.0, now) {}
        budget
    }

    /// What the contract says in words, worked out without the code's order of questions.
    fn expected(attempt: &Attempt<'_>, policy: &Retry, spent: bool) -> Option<&'static str> {
        let sent = !matches!(attempt.failure, Failure::Connect | Failure::Refused);
        let safe = ["GET", "HEAD", "OPTIONS", "TRACE"].contains(&attempt.method);
        let opted_in = policy.idempotent_methods.iter().any(|m| m == attempt.method);
        let keyed = policy.idempotency_key && attempt.key;
        let may = !sent || safe || opted_in || keyed;
        let goes = may
            && !attempt.answered
            && attempt.replayable
            && attempt.untried
            && (!sent || (attempt.attempts <= 2 && !spent));
        goes.then_some(match (sent, safe || opted_in) {
            (false, _) => "never-sent",
            (true, true) => "idempotent",
            (true, false) => "idempotency-key",
        })
    }

    /// Every combination of phase, method, key, policy, body, attempts, endpoints and budget.
    #[test]
    fn the_whole_table() {
        let now = Micros(1);
        let policies = [
            policy(&[], false),
            policy(&[], true),
            policy(&["PUT", "DELETE"], false),
            policy(&["PUT", "DELETE"], true),
        ];
        let mut seen = std::collections::BTreeSet::new();
        for (policy, failure) in policies.iter().flat_map(|p| FAILURES.map(|f| (p, f))) {
            for (method, bits) in METHODS.iter().flat_map(|m| (0..32).map(move |bits| (*m, bits))) {
                let bit = |n: u32| bits & (1 << n) > 0;
                for attempts in 1..=4 {
                    let (answered, replayable, untried) = (bit(0), bit(1), bit(2));
                    let attempt = Attempt {
                        failure,
                        method,
                        key: bit(3),
                        attempts,
                        answered,
                        replayable,
                        untried,
                    };
                    let budget = if bit(4) { spent(now) } else { RetryBudget::default() };
                    let verdict = retry_verdict(&attempt, policy, &budget, now);
                    let (retried, label) = match verdict {
                        Verdict::Retry(reason) => (Some(reason.label()), reason.label()),
                        Verdict::GiveUp(reason) => (None, reason.label()),
                    };
                    assert_eq!(
                        retried,
                        expected(&attempt, policy, bit(4)),
                        "{attempt:?} {verdict:?}"
                    );
                    seen.insert(label);
                }
            }
        }
        // The deadline is the caller's to look at: the verdict knows no clock but the budget's.
        let all = GiveUp::ALL.iter().filter(|g| **g != GiveUp::Deadline).map(|g| g.label());
        let all: std::collections::BTreeSet<_> =
            all.chain(RetryReason::ALL.iter().map(|r| r.label())).collect();
        assert_eq!(seen, all, "every verdict comes up");
    }

    #[test]
    fn a_refusal_takes_nothing_from_the_budget_and_neither_does_what_was_never_sent() {
        let now = Micros(5);
        let budget = RetryBudget::default();
        let attempt = Attempt {
            failure: Failure::Broken,
            method: "GET",
            key: false,
            attempts: 1,
            answered: false,
            replayable: true,
            untried: true,
        };
        let free = [
            Attempt { failure: Failure::Connect, ..attempt },
            Attempt { method: "POST", ..attempt },
            Attempt { attempts: 3, ..attempt },
            Attempt { replayable: false, ..attempt },
            Attempt { untried: false, ..attempt },
            Attempt { answered: true, ..attempt },
        ];
        for attempt in free.iter().cycle().take(10_000) {
            retry_verdict(attempt, &policy(&[], false), &budget, now);
        }
        let granted = (0..1000)
            .filter(|_| {
                let verdict = retry_verdict(&attempt, &policy(&[], false), &budget, now);
                verdict == Verdict::Retry(RetryReason::Idempotent)
            })
            .count();
        assert_eq!(granted, 100);
    }

    #[test]
    fn the_budget_is_a_fifth_and_never_less_than_ten_a_second() {
        let attempt = Attempt {
            failure: Failure::Broken,
            method: "GET",
            key: false,
            attempts: 1,
            answered: false,
            replayable: true,
            untried: true,
        };
        let policy = policy(&[], false);
        for (requests, expected) in [(0, 100), (200, 100), (1000, 200)] {
            let budget = RetryBudget::default();
            (0..requests).for_each(|_| budget.request(Micros(5)));
            let granted = (0..1000)
                .filter(|_| {
                    let verdict = retry_verdict(&attempt, &policy, &budget, Micros(5));
                    verdict == Verdict::Retry(RetryReason::Idempotent)
                })
                .count();
            assert_eq!(granted, expected);
            // The next window starts afresh.
            let later = Micros(5 + WINDOW_US);
            let verdict = retry_verdict(&attempt, &policy, &budget, later);
            assert!(matches!(verdict, Verdict::Retry(_)));
        }
    }
}
