//! However attempts fail: what must not be sent twice is not.

use meridian_config::Retry;
use meridian_routing::{
    Attempt, Dice, Failure, Micros, RetryBudget, RetryReason, Verdict, decide, next_attempt,
    repeatable, retry_verdict,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::worlds::{Plan, World, plan};

/// What one request did.
#[derive(Debug, Default)]
struct Journey {
    attempts: u32,
    /// Attempts after which bytes of the request may have left.
    sent: u32,
    endpoints: Vec<u32>,
}

fn policy() -> impl Strategy<Value = Retry> {
    let opted_in = prop::sample::subsequence(vec!["PUT", "DELETE"], 0..=2);
    (opted_in, any::<bool>(), 0_u32..11, 0.0..1.0).prop_map(
        |(opted_in, idempotency_key, attempts, budget)| {
            let safe = ["GET", "HEAD", "OPTIONS", "TRACE"].into_iter();
            Retry {
                attempts,
                budget,
                idempotent_methods: safe.chain(opted_in).map(str::to_owned).collect(),
                idempotency_key,
                buffer: 65536,
            }
        },
    )
}

fn failures() -> impl Strategy<Value = Vec<(Failure, bool)>> {
    let failure = prop::sample::select(vec![
        Failure::Connect,
        Failure::Connect,
        Failure::Broken,
        Failure::TimedOut,
        Failure::WentOut,
    ]);
    vec((failure, prop::bool::weighted(0.9)), 1..40)
}

/// Sends a request until it succeeds (`failures` run out) or the verdict is to give up.
fn travel(
    plan: &Plan,
    (method, key): (&str, bool),
    policy: &Retry,
    failures: &[(Failure, bool)],
) -> Journey {
    let (world, request) = (World::new(plan), &plan.requests[0]);
    let client = request.client();
    let budget = RetryBudget::default();
    let mut journey = Journey::default();
    request.with_facts(|facts| {
        let facts = meridian_routing::RequestFacts { method, ..*facts };
        let Ok(mut decision) = decide(&world.table, &client, &facts, &mut Dice::seeded(plan.seed))
        else {
            return;
        };
        let mut tried = Vec::new();
        for attempts in 1_u32.. {
            journey.attempts = attempts;
            journey.endpoints.push(decision.endpoint.endpoint.0);
            let Some((failure, replayable)) = failures.get(attempts as usize - 1).copied() else {
                journey.sent += 1;
                return;
            };
            journey.sent += u32::from(failure != Failure::Connect);
            tried.push(decision.endpoint.endpoint);
            let next = next_attempt(&world.table, &client, &facts, &decision, &tried);
            let untried = next.is_some();
            let attempt =
                Attempt { failure, method, key, attempts, answered: false, replayable, untried };
            match (retry_verdict(&attempt, policy, &budget, Micros(7)), next) {
                (Verdict::Retry(_), Some(next)) => decision = next,
                (Verdict::Retry(_), None) => panic!("nowhere to go: {attempt:?}"),
                (Verdict::GiveUp(_), _) => return,
            }
        }
    });
    journey
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    /// A POST without a key, and any other method that was not opted in, leaves at most once.
    #[test]
    fn what_must_not_be_repeated_leaves_once(
        plan in plan(),
        policy in policy(),
        method in prop::sample::select(vec!["POST", "PATCH", "PUT", "DELETE", "post", "LOCK"]),
        key in any::<bool>(),
        failures in failures(),
    ) {
        let journey = travel(&plan, (method, key), &policy, &failures);
        let opted_in = policy.idempotent_methods.iter().any(|m| m == method);
        let may_be_repeated = opted_in || (key && policy.idempotency_key);
        if !may_be_repeated {
            prop_assert!(journey.sent <= 1, "{method} {key} {journey:?}");
        }
    }

    /// What may be repeated is, but neither more often than allowed nor at the same endpoint.
    #[test]
    fn attempts_are_bounded_and_never_at_the_same_endpoint(
        plan in plan(),
        policy in policy(),
        method in prop::sample::select(vec!["GET", "POST", "PUT"]),
        key in any::<bool>(),
        failures in failures(),
    ) {
        let journey = travel(&plan, (method, key), &policy, &failures);
        prop_assert!(journey.sent <= policy.attempts + 1, "{journey:?}");
        let mut endpoints = journey.endpoints.clone();
        endpoints.sort_unstable();
        endpoints.dedup();
        prop_assert_eq!(endpoints.len(), journey.endpoints.len());
    }

    /// A key counts only where the policy says so, and adds nothing to what may be repeated anyway.
    #[test]
    fn a_key_is_honoured_where_it_is_asked_for(policy in policy(), key in any::<bool>()) {
        prop_assert_eq!(repeatable(&policy, "GET", key), Some(RetryReason::Idempotent));
        let expected = (key && policy.idempotency_key).then_some(RetryReason::IdempotencyKey);
        prop_assert_eq!(repeatable(&policy, "POST", key), expected);
    }
}
