//! Choose endpoint: pick one inside the region.

use std::time::Duration;

use meridian_config::Balance;

use crate::dice::Dice;
use crate::labelled::labelled;
use crate::pick_set::PickSet;
use crate::routed::Routed;
use crate::table::{EndpointIndex, EndpointView, Pool};
use crate::time::Micros;

/// Weight grows linearly for so long after a recovery.
pub(crate) const SLOW_START: Duration = Duration::from_secs(30);
/// Where it starts.
const SLOW_START_FROM: f64 = 0.1;
/// Draws that try to meet an endpoint not drawn yet, or one that is not turned down for its slow start.
const TRIES: u32 = 32;
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
        /// It was ejected, and this request finds out whether it is well again.
        Trial = "trial",
        /// The one that was chosen had as many requests as it may; this one had room.
        Room = "room",
        /// The client's session is bound to it.
        Affinity = "affinity",
    }
);

/// Picks from a pool; in panic from all of it, and from those never judged or ejected when nothing healthy is there.
pub(crate) fn pick(
    routed: &Routed<'_>,
    pool: &Pool,
    panic: bool,
    dice: &mut Dice,
) -> Option<EndpointChoice> {
    let set = pool.pick_set(panic);
    let warming = routed.facts.now < pool.warm_from;
    let hat = Hat { routed, pool, set, warming };
    let (position, reason) = match (set.len(), &routed.service.settings.balance) {
        (0, _) => return None,
        (1, _) => (0, EndpointReason::Only),
        (_, Balance::P2cEwma) => (hat.least_load(dice), EndpointReason::LeastLoad),
        (_, Balance::LeastRequest) => (hat.least_request(dice), EndpointReason::LeastRequest),
        (_, Balance::RoundRobin) => (hat.in_turn(dice), EndpointReason::InTurn),
        (_, Balance::Random) => (hat.draw(dice), EndpointReason::Random),
        (_, Balance::ConsistentHash(_)) => match routed.session {
            Some(key) => (hat.bounded(key), EndpointReason::Hash),
            None => (hat.draw(dice), EndpointReason::Random),
        },
    };
    let choice = EndpointChoice { endpoint: set.at(position), reason };
    let now = routed.facts.now;
    if panic || set.load(position).passive().takes_requests(now) {
        return Some(choice);
    }
    // It went out after this table was made, or it is about to: for a moment its share goes to the others.
    let instead = hat.best(|position| set.load(position).passive().takes_requests(now));
    Some(instead.map_or(choice, |position| EndpointChoice { endpoint: set.at(position), reason }))
}

/// Which endpoints a further attempt may go to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Untried<'a> {
    pub(crate) tried: &'a [EndpointIndex],
    /// Only those whose gate is open.
    pub(crate) open: bool,
}

/// One endpoint of the pool that was not tried, without dice: a session's next one, else the least loaded.
pub(crate) fn pick_untried(
    routed: &Routed<'_>,
    pool: &Pool,
    panic: bool,
    untried: Untried<'_>,
) -> Option<EndpointChoice> {
    let (set, now) = (pool.pick_set(panic), routed.facts.now);
    let fits = |position: usize| {
        !untried.tried.contains(&set.at(position))
            && (!untried.open || set.load(position).passive().takes_requests(now))
    };
    let position = Hat { routed, pool, set, warming: false }.best(fits)?;
    Some(EndpointChoice { endpoint: set.at(position), reason: EndpointReason::Untried })
}

/// An ejected endpoint of the pool whose trial waits for this request.
pub(crate) fn pick_trial(routed: &Routed<'_>, pool: &Pool) -> Option<EndpointChoice> {
    let idempotent = &routed.service.settings.retry.idempotent_methods;
    let repeatable = idempotent.iter().any(|method| method == routed.facts.method);
    let waits = |index: &&EndpointIndex| {
        let load = &routed.service.endpoint(**index).load;
        load.passive().awaits_trial(repeatable, routed.facts.now)
    };
    let endpoint = *pool.trials.iter().find(waits)?;
    Some(EndpointChoice { endpoint, reason: EndpointReason::Trial })
}

impl Pool {
    pub(crate) fn pick_set(&self, panic: bool) -> &PickSet {
        match (panic, self.ready.is_empty()) {
            (true, _) => &self.all,
            (false, false) => &self.ready,
            (false, true) => &self.spare,
        }
    }
}

/// What endpoints are drawn from, for one request; the draws need at least two of them.
struct Hat<'a> {
    routed: &'a Routed<'a>,
    pool: &'a Pool,
    set: &'a PickSet,
    /// Some endpoint of the pool is in its slow start.
    warming: bool,
}

impl<'a> Hat<'a> {
    /// The best of those that fit, without dice: a session's first, else the least loaded.
    fn best(&self, fits: impl Fn(usize) -> bool) -> Option<usize> {
        let (floor, now) = (self.pool.floor_us, self.routed.facts.now);
        let by_session = self.routed.session.map(|key| self.set.hashed(key, &fits));
        let least_loaded = || {
            let load = |position: usize| self.set.load(position).peak_ewma(floor, now);
            let rest = (0..self.set.len()).filter(|p| fits(*p)).map(|p| (load(p), p));
            rest.min_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, position)| position)
        };
        by_session.filter(|p| *p < self.set.len() && fits(*p)).or_else(least_loaded)
    }

    fn view(&self, position: usize) -> &'a EndpointView {
        self.routed.service.endpoint(self.set.at(position))
    }

    /// Part of its weight that an endpoint has.
    fn warmth(&self, position: usize) -> f64 {
        if self.warming {
            warmth(self.view(position).recovered_at, self.routed.facts.now)
        } else {
            1.0
        }
    }

    /// Effective weight in parts of the average weight.
    fn relative_weight(&self, position: usize) -> f64 {
        self.set.relative_weight(position) * self.warmth(position)
    }

    /// All have the same effective weight.
    fn even(&self) -> bool {
        self.set.is_equal() && !self.warming
    }

    /// A draw by effective weight: one that is warming up is turned down as often as its slow start asks.
    fn draw(&self, dice: &mut Dice) -> usize {
        if self.warming {
            for _ in 0..TRIES {
                let position = self.set.draw(dice);
                if dice.unit() < self.warmth(position) {
                    return position;
                }
            }
        }
        self.set.draw(dice)
    }

    /// Two distinct draws by effective weight.
    fn two_draws(&self, dice: &mut Dice) -> (usize, usize) {
        let first = self.draw(dice);
        if !self.even() && self.set.len() > 2 {
            for _ in 0..TRIES {
                let second = self.draw(dice);
                if second != first {
                    return (first, second);
                }
            }
        }
        let other = dice.below(self.set.len() as u32 - 1) as usize;
        (first, if other >= first { other + 1 } else { other })
    }

    /// The lower load of two draws. The load is peak EWMA's, with the requests in flight per effective weight.
    ///
    /// Where weights differ, the first draw carries them, and the second displaces it only at half its load: of two
    /// endpoints with weights 1 and 9 both are drawn each time, and a bare comparison would share evenly.
    fn least_load(&self, dice: &mut Dice) -> usize {
        let (first, second) = self.two_draws(dice);
        let (floor, now) = (self.pool.floor_us, self.routed.facts.now);
        let load = |position: usize| self.set.load(position);
        let displaced = if self.even() {
            load(second).peak_ewma(floor, now) < load(first).peak_ewma(floor, now)
        } else {
            let weighted = |position: usize| {
                load(position).weighted_peak_ewma(floor, now, self.relative_weight(position) as f32)
            };
            weighted(second) * 2.0 < weighted(first)
        };
        if displaced { second } else { first }
    }

    /// The one of two draws with fewer requests in flight per effective weight; the first if level, which again
    /// carries the weights.
    fn least_request(&self, dice: &mut Dice) -> usize {
        let (first, second) = self.two_draws(dice);
        let per_weight = |position: usize| {
            f64::from(self.set.load(position).in_flight()) / self.relative_weight(position)
        };
        if per_weight(second) < per_weight(first) { second } else { first }
    }

    /// Smooth weighted; one that is warming up lets turns pass.
    fn in_turn(&self, dice: &mut Dice) -> usize {
        let turn = |ahead| self.set.scheduled(self.pool.load.0.turn(self.routed.live, ahead));
        let mut position = turn(0);
        for ahead in 1..TRIES {
            if !self.warming || dice.unit() < self.warmth(position) {
                break;
            }
            position = turn(ahead);
        }
        position
    }

    /// The first in the hash's order that holds less than 1.25 times its share of the pool's requests in flight.
    /// Slow start does not apply: it would move sessions twice.
    fn bounded(&self, key: u64) -> usize {
        let in_flight = f64::from(self.pool.load.0.in_flight()) + 1.0;
        let fair = in_flight / self.set.len() as f64;
        self.set.hashed(key, |position| {
            let limit = (BOUNDED_LOAD * fair * self.set.relative_weight(position)).ceil();
            f64::from(self.set.load(position).in_flight()) < limit
        })
    }
}

/// 0.1 to 1: linear over [`SLOW_START`] from a recovery on.
fn warmth(recovered_at: Option<Micros>, now: Micros) -> f64 {
    let Some(since) = recovered_at else { return 1.0 };
    let part = now.since(since).as_secs_f64() / SLOW_START.as_secs_f64();
    (SLOW_START_FROM + (1.0 - SLOW_START_FROM) * part).min(1.0)
}
