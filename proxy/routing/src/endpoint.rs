//! Choose endpoint: pick one inside the region.

use meridian_config::{Balance, HashKey};

use crate::dice::Dice;
use crate::hashing::stable_hash;
use crate::pick_set::PickSet;
use crate::region::labelled;
use crate::request::{Client, RequestFacts};
use crate::table::{EndpointIndex, EndpointView, Pool, ServiceView};
use crate::time::Micros;

/// Weight grows linearly for so long after a recovery.
const SLOW_START_US: u64 = 30_000_000;
/// Where it starts.
const SLOW_START_FROM: f64 = 0.1;
/// A hashed endpoint may hold this many times its share of the requests in flight (Mirrokni et al. 2016).
const BOUNDED_LOAD: f64 = 1.25;

/// The endpoint that was chosen, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointChoice {
    /// Which.
    pub endpoint: EndpointIndex,
    /// Why.
    pub reason: EndpointReason,
}

labelled!(
    /// Why an endpoint was chosen.
    EndpointReason {
        /// The only one there is.
        Only = "only",
        /// The better of two draws by peak EWMA.
        LeastLoad = "least-load",
        /// The better of two draws by requests in flight.
        LeastRequest = "least-request",
        /// Its turn.
        InTurn = "in-turn",
        /// Drawn by weight.
        Random = "random",
        /// By the hash of the request's key.
        Hash = "hash",
        /// The attempts before it failed.
        Untried = "untried",
    }
);

/// Picks from a pool; in panic from all of it, and from those never judged when nothing is healthy.
pub(crate) fn pick(
    service: &ServiceView,
    pool: &Pool,
    panic: bool,
    client: &Client,
    facts: &RequestFacts<'_>,
    dice: &mut Dice,
) -> Option<EndpointChoice> {
    let set = pool.pick_set(panic);
    let view = |position: usize| service.endpoint(set.at(position));
    let (position, reason) = match (set.len(), &service.settings.balance) {
        (0, _) => return None,
        (1, _) => (0, EndpointReason::Only),
        (_, Balance::P2cEwma) => {
            let (a, b) = two_draws(set, dice, |set, dice| warm_draw(service, set, facts.now, dice));
            let load = |p: usize| view(p).load.peak_ewma(pool.floor_us, facts.now);
            (if load(b) < load(a) { b } else { a }, EndpointReason::LeastLoad)
        }
        (_, Balance::LeastRequest) => {
            let (a, b) = two_draws(set, dice, PickSet::draw_uniform);
            let per_weight = |p: usize| {
                let weight = f64::from(set.weight_at(p)) * warmth(view(p), facts.now);
                (f64::from(view(p).load.in_flight()) + 1.0) / weight
            };
            (if per_weight(b) < per_weight(a) { b } else { a }, EndpointReason::LeastRequest)
        }
        (_, Balance::RoundRobin) => {
            let mut position = set.scheduled(pool.load.0.next_turn());
            if dice.unit() >= warmth(view(position), facts.now) {
                position = set.scheduled(pool.load.0.next_turn());
            }
            (position, EndpointReason::InTurn)
        }
        (_, Balance::Random) => {
            (warm_draw(service, set, facts.now, dice), EndpointReason::Random)
        }
        (_, Balance::ConsistentHash(key)) => {
            let hash = stable_hash(&hash_key(key, client, facts));
            (bounded(service, pool, set, hash), EndpointReason::Hash)
        }
    };
    Some(EndpointChoice { endpoint: set.at(position), reason })
}

/// Any endpoint of the pool that was not tried: the least loaded, deterministically.
pub(crate) fn pick_untried(
    service: &ServiceView,
    pool: &Pool,
    panic: bool,
    tried: &[EndpointIndex],
    now: Micros,
) -> Option<EndpointChoice> {
    let load = |endpoint: EndpointIndex| {
        service.endpoint(endpoint).load.peak_ewma(pool.floor_us, now)
    };
    let untried = pool.pick_set(panic).endpoints().filter(|e| !tried.contains(e));
    let best = untried.map(|e| (load(e), e)).min_by(|(a, _), (b, _)| a.total_cmp(b));
    best.map(|(_, endpoint)| EndpointChoice { endpoint, reason: EndpointReason::Untried })
}

impl Pool {
    fn pick_set(&self, panic: bool) -> &PickSet {
        match (panic, self.ready.is_empty()) {
            (true, _) => &self.all,
            (false, false) => &self.ready,
            (false, true) => &self.unknown,
        }
    }
}

/// Two distinct positions; the set has at least two members.
fn two_draws(
    set: &PickSet,
    dice: &mut Dice,
    draw: impl Fn(&PickSet, &mut Dice) -> usize,
) -> (usize, usize) {
    let first = draw(set, dice);
    let second = draw(set, dice);
    if first != second {
        return (first, second);
    }
    // The same one twice: the second is a uniform draw among the others.
    let other = dice.below(set.len() as u32 - 1) as usize;
    (first, if other >= first { other + 1 } else { other })
}

/// A draw by weight in which a recovering endpoint is turned down as often as its slow start asks.
fn warm_draw(service: &ServiceView, set: &PickSet, now: Micros, dice: &mut Dice) -> usize {
    for _ in 0..4 {
        let position = set.draw(dice);
        let warmth = warmth(service.endpoint(set.at(position)), now);
        if warmth >= 1.0 || dice.unit() < warmth {
            return position;
        }
    }
    set.draw(dice)
}

/// Part of its weight that an endpoint has, 0.1 to 1: linear over 30 s after a recovery.
fn warmth(endpoint: &EndpointView, now: Micros) -> f64 {
    let Some(since) = endpoint.recovered_at else { return 1.0 };
    let elapsed = now.0.saturating_sub(since.0);
    if elapsed >= SLOW_START_US {
        return 1.0;
    }
    (elapsed as f64 / SLOW_START_US as f64).max(SLOW_START_FROM)
}

/// The first in the hash's order that holds less than 1.25 times its share of the pool's requests in flight.
fn bounded(service: &ServiceView, pool: &Pool, set: &PickSet, hash: u64) -> usize {
    let in_flight = f64::from(pool.load.0.in_flight()) + 1.0;
    let total = (0..set.len()).map(|p| f64::from(set.weight_at(p))).sum::<f64>();
    set.hashed(hash, |position| {
        let share = f64::from(set.weight_at(position)) / total;
        let limit = (BOUNDED_LOAD * in_flight * share).ceil();
        f64::from(service.endpoint(set.at(position)).load.in_flight()) < limit
    })
}

/// The bytes that the hash is taken of; empty if the request lacks them.
fn hash_key(key: &HashKey, client: &Client, facts: &RequestFacts<'_>) -> Vec<u8> {
    match key {
        HashKey::Client => client.address.to_string().into_bytes(),
        HashKey::Path => facts.path.as_bytes().to_vec(),
        HashKey::Header(name) => facts.headers.header(name).unwrap_or_default().into(),
        HashKey::Cookie(name) => cookie(facts, name).unwrap_or_default().into(),
    }
}

/// The value of a cookie, from the `Cookie` header.
fn cookie<'a>(facts: &RequestFacts<'a>, name: &str) -> Option<&'a str> {
    let pairs = facts.headers.header("cookie")?.split(';');
    pairs.filter_map(|pair| pair.trim().split_once('=')).find(|(n, _)| *n == name).map(|(_, v)| v)
}
