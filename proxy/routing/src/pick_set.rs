//! A set of endpoints to draw from by weight.

use std::sync::Arc;

use meridian_config::EndpointAddress;

use crate::dice::Dice;
use crate::hashing::{mix, stable_hash, unit_interval};
use crate::load::EndpointLoad;
use crate::table::{EndpointIndex, EndpointView};

/// Up to here a consistent hash compares all endpoints; above, a ring is cheaper.
const RENDEZVOUS_LIMIT: usize = 64;
/// Points of a ring for an endpoint of average weight.
const POINTS: f64 = 160.0;
/// The longest schedule of a weighted round robin; larger weights are scaled down to it.
const LONGEST_SCHEDULE: u64 = 8192;

/// Endpoints with their weights. Weights of 0 take nothing while others have one.
#[derive(Debug, Default)]
pub(crate) struct PickSet {
    members: Vec<Member>,
    total: u32,
    equal: bool,
    schedule: Vec<u32>,
    ring: Vec<(u64, u32)>,
}

#[derive(Debug)]
struct Member {
    endpoint: EndpointIndex,
    weight: u32,
    /// Sum of the weights up to and including this one.
    upto: u32,
    /// Stable hash of the endpoint's address.
    hash: u64,
    /// The endpoint's counters, here so that a draw need not visit the endpoint.
    load: Arc<EndpointLoad>,
}

/// An endpoint on its way into a set.
pub(crate) struct Item<'a> {
    endpoint: EndpointIndex,
    weight: u32,
    load: &'a Arc<EndpointLoad>,
    address: &'a EndpointAddress,
}

impl<'a> Item<'a> {
    pub(crate) fn new(endpoint: EndpointIndex, view: &'a EndpointView) -> Self {
        let (load, address) = (&view.load, &view.key.address);
        Self { endpoint, weight: view.weight.value, load, address }
    }

    /// The same in every process.
    fn hash(&self) -> u64 {
        stable_hash(self.address.to_string().as_bytes())
    }
}

/// What a balance needs beside the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extra {
    Nothing,
    Schedule,
    Ring,
}

impl PickSet {
    pub(crate) fn new(items: &[Item<'_>], extra: Extra) -> Self {
        let all_zero = items.iter().all(|item| item.weight == 0);
        let mut total = 0_u32;
        let mut members = Vec::with_capacity(items.len());
        for item in items {
            let weight = if all_zero { 1 } else { item.weight };
            if weight == 0 {
                continue;
            }
            total = total.saturating_add(weight);
            let hash = if extra == Extra::Ring { item.hash() } else { 0 };
            let (endpoint, load) = (item.endpoint, item.load.clone());
            members.push(Member { endpoint, weight, upto: total, hash, load });
        }
        let equal = members.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        let mut set = Self { members, total, equal, schedule: Vec::new(), ring: Vec::new() };
        match extra {
            Extra::Schedule => set.schedule = set.smooth_schedule(),
            Extra::Ring if set.members.len() > RENDEZVOUS_LIMIT => set.ring = set.hash_ring(),
            _ => {}
        }
        set
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn at(&self, position: usize) -> EndpointIndex {
        self.members[position].endpoint
    }

    pub(crate) fn load(&self, position: usize) -> &EndpointLoad {
        &self.members[position].load
    }

    /// The weight at a position in parts of the average.
    pub(crate) fn relative_weight(&self, position: usize) -> f64 {
        if self.equal {
            return 1.0;
        }
        let average = f64::from(self.total) / self.members.len() as f64;
        f64::from(self.members[position].weight) / average
    }

    /// Whether all weigh the same.
    pub(crate) fn is_equal(&self) -> bool {
        self.equal
    }

    pub(crate) fn endpoints(&self) -> impl Iterator<Item = EndpointIndex> {
        self.members.iter().map(|member| member.endpoint)
    }

    /// Position of a uniform draw; the set must not be empty.
    pub(crate) fn draw_uniform(&self, dice: &mut Dice) -> usize {
        dice.below(self.members.len() as u32) as usize
    }

    /// Position of a draw by weight; the set must not be empty.
    pub(crate) fn draw(&self, dice: &mut Dice) -> usize {
        if self.equal {
            return self.draw_uniform(dice);
        }
        let ticket = dice.below(self.total);
        self.members.partition_point(|member| member.upto <= ticket)
    }

    /// Position that a smooth weighted round robin reaches at `turn`.
    pub(crate) fn scheduled(&self, turn: u32) -> usize {
        if self.schedule.is_empty() {
            return turn as usize % self.members.len().max(1);
        }
        self.schedule[turn as usize % self.schedule.len()] as usize
    }

    /// Nginx's smooth weighted round robin, unrolled for one period.
    fn smooth_schedule(&self) -> Vec<u32> {
        if self.equal {
            return Vec::new();
        }
        let divisor = self.members.iter().fold(0, |acc, m| gcd(acc, m.weight)).max(1);
        let period = u64::from(self.total / divisor);
        let scaled = |weight: u32| {
            let weight = u64::from(weight / divisor);
            if period <= LONGEST_SCHEDULE {
                weight as i64
            } else {
                (weight * LONGEST_SCHEDULE / period).max(1) as i64
            }
        };
        let weights: Vec<i64> = self.members.iter().map(|m| scaled(m.weight)).collect();
        let total: i64 = weights.iter().sum();
        let mut current = vec![0_i64; weights.len()];
        let mut schedule = Vec::with_capacity(total as usize);
        for _ in 0..total {
            for (have, weight) in current.iter_mut().zip(&weights) {
                *have += weight;
            }
            let best = (0..current.len()).max_by_key(|i| (current[*i], usize::MAX - i));
            let best = best.unwrap_or(0);
            current[best] -= total;
            schedule.push(best as u32);
        }
        schedule
    }

    fn hash_ring(&self) -> Vec<(u64, u32)> {
        let average = f64::from(self.total) / self.members.len() as f64;
        let mut ring = Vec::new();
        for (position, member) in self.members.iter().enumerate() {
            let points = (POINTS * f64::from(member.weight) / average).ceil() as u64;
            ring.extend((0..points).map(|n| (mix(member.hash ^ mix(n + 1)), position as u32)));
        }
        ring.sort_unstable();
        ring
    }

    /// The position for `key` among those that `has_room` lets pass, in the order of the hash; the first choice
    /// if none has room.
    pub(crate) fn hashed(&self, key: u64, has_room: impl Fn(usize) -> bool) -> usize {
        if self.ring.is_empty() {
            self.rendezvous(key, has_room)
        } else {
            self.clockwise(key, has_room)
        }
    }

    /// Weighted rendezvous: the highest `-weight / ln(u)` wins (Schindelhauer, Schomaker 2005).
    fn rendezvous(&self, key: u64, has_room: impl Fn(usize) -> bool) -> usize {
        let (mut best, mut first) = (None, None);
        for (position, member) in self.members.iter().enumerate() {
            let unit = unit_interval(mix(member.hash ^ key));
            let score = -f64::from(member.weight) / unit.ln();
            if first.is_none_or(|(top, _)| score > top) {
                first = Some((score, position));
            }
            if best.is_none_or(|(top, _)| score > top) && has_room(position) {
                best = Some((score, position));
            }
        }
        best.or(first).map_or(0, |(_, position)| position)
    }

    fn clockwise(&self, key: u64, has_room: impl Fn(usize) -> bool) -> usize {
        let start = self.ring.partition_point(|(point, _)| *point < key);
        let walk = self.ring[start..].iter().chain(&self.ring[..start]).map(|(_, p)| *p as usize);
        let first = walk.clone().next().unwrap_or(0);
        // Bounded: a key looks at no more points than a lap over a few endpoints' worth.
        walk.take(512).find(|position| has_room(*position)).unwrap_or(first)
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Endpoints with these weights, without the one at `gone`.
    fn set_without(gone: usize, weights: &[u32], extra: Extra) -> PickSet {
        let load = Arc::default();
        let address = |i| EndpointAddress::Name(format!("host-{i}").into(), 80);
        let addresses: Vec<_> = (0..weights.len()).map(address).collect();
        let items: Vec<_> = (0..weights.len())
            .filter(|i| *i != gone)
            .map(|i| Item {
                endpoint: EndpointIndex(i as u32),
                weight: weights[i],
                load: &load,
                address: &addresses[i],
            })
            .collect();
        PickSet::new(&items, extra)
    }

    fn set(weights: &[u32], extra: Extra) -> PickSet {
        set_without(usize::MAX, weights, extra)
    }

    #[test]
    fn draws_follow_the_weights() {
        let set = set(&[1, 3, 0, 6], Extra::Nothing);
        let mut dice = Dice::seeded(7);
        let mut hits = [0_u32; 4];
        for _ in 0..100_000 {
            hits[set.at(set.draw(&mut dice)).0 as usize] += 1;
        }
        assert_eq!(hits[2], 0);
        for (hit, share) in hits.iter().zip([0.1, 0.3, 0.0, 0.6]) {
            assert!((f64::from(*hit) / 100_000.0 - share).abs() < 0.01);
        }
    }

    #[test]
    fn the_schedule_is_smooth_and_exact() {
        let set = set(&[5, 1, 1], Extra::Schedule);
        let order: Vec<_> = (0..7).map(|turn| set.at(set.scheduled(turn)).0).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn all_zero_weights_count_as_equal() {
        let set = set(&[0, 0], Extra::Schedule);
        assert_eq!((set.scheduled(0), set.scheduled(1)), (0, 1));
    }

    /// Both ways of hashing: shares follow weights, and taking one endpoint away moves only its own keys.
    #[test]
    fn hashing_is_weighted_and_minimal() {
        for n in [8_usize, 100] {
            let weights: Vec<u32> = (0..n).map(|i| 1 + (i % 2) as u32).collect();
            let before = set(&weights, Extra::Ring);
            let after = set_without(3, &weights, Extra::Ring);
            let (mut heavy, mut moved, keys) = (0, 0, 20_000);
            for key in 0..keys {
                let key = mix(key + 1);
                let one = before.at(before.hashed(key, |_| true));
                let two = after.at(after.hashed(key, |_| true));
                heavy += one.0 % 2;
                moved += u32::from(one != two && one.0 != 3);
            }
            let share = f64::from(heavy) / f64::from(keys as u32);
            assert!((share - 2.0 / 3.0).abs() < 0.04, "{n}: {share}");
            // Weights relative to the average move a few points of a ring; rendezvous moves none.
            assert!(moved <= if n == 8 { 0 } else { 600 }, "{n}: {moved} moved");
        }
    }
}
