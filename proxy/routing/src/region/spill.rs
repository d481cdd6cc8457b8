//! SPILL: how much of the traffic each band of the ranking takes, and which of its regions takes this request.
//!
//! Additive, as Envoy's priority levels are: the first band takes its healthy share, the next one what is left up
//! to its own, and if all together take less than the whole, they take it in the same proportions.

use meridian_config::{Policy, RegionIndex, ReplicationSource};

use crate::classify::AccessClass;
use crate::dice::Dice;
use crate::hashing::{mix, unit_interval};
use crate::region::{Candidates, RegionChoice, RegionReason, Trace, with_room};
use crate::region_set::RegionSet;
use crate::routed::Routed;

/// With a capacity configured, a region is filled up to this part of it before the next one is used.
const FILL: f64 = 0.8;
/// Below this healthy fraction, with no room elsewhere, traffic is spread over everything.
pub(crate) const PANIC_BELOW: f64 = 0.5;
/// Policy health sends one request in so many to a region that it would prefer but for past failures: without
/// requests, a success rate could never rise again.
const TRIAL: u32 = 64;
/// Makes the hash that spills independent of the hash that chooses.
const SPILL_SALT: u64 = 0x5b11_1ed0_5b11_1ed0;

/// The order in which regions are filled.
struct Order<'a> {
    routed: &'a Routed<'a>,
    /// Below the fill mark, or without a capacity.
    roomy: RegionSet,
    /// Above it: used only when the roomy ones do not take the whole.
    filled: RegionSet,
}

/// The band that takes a request.
struct Landing {
    band: RegionSet,
    reason: RegionReason,
    first: bool,
}

/// Chooses one of the candidates, of which there is at least one.
pub(crate) fn choose<T: Trace>(
    routed: &Routed<'_>,
    candidates: &Candidates,
    dice: &mut Dice,
    trace: &mut T,
) -> RegionChoice {
    let order = Order::new(routed, candidates.left);
    if !T::LIVE {
        order.tell(trace);
    }
    if let Some(region) = order.trial(dice) {
        return RegionChoice { region, reason: RegionReason::Trial, panic: false };
    }
    let ticket = match routed.session {
        Some(key) => unit_interval(mix(key ^ SPILL_SALT)),
        None => dice.unit(),
    };
    let landing = order.land(ticket);
    if T::LIVE && !(landing.first && candidates.lost.is_empty()) {
        order.note_spilled(candidates, &landing, ticket);
    }
    let region = order.inside(landing.band, dice);
    let fraction = routed.service.pool(region).map_or(1.0, |pool| pool.healthy_fraction);
    let panic = fraction < PANIC_BELOW && order.exhausted();
    let reason = match routed.class.access {
        _ if panic => RegionReason::Panic,
        AccessClass::Write => RegionReason::PrimaryForWrite,
        AccessClass::ReadPrimary => RegionReason::PrimaryForRead,
        AccessClass::Read if candidates.none_fresh => RegionReason::PrimaryNoneFresh,
        AccessClass::Read if candidates.none_caught_up => RegionReason::PrimaryForSession,
        _ if !landing.first => RegionReason::Spill,
        _ if order.passes_over(candidates) => RegionReason::CapacitySpill,
        _ if landing.reason == RegionReason::Nearest && is_known_replica(routed, region) => {
            RegionReason::NearestFresh
        }
        _ => landing.reason,
    };
    RegionChoice { region, reason, panic }
}

fn is_known_replica(routed: &Routed<'_>, region: RegionIndex) -> bool {
    routed.service.settings.replication.source != ReplicationSource::None
        && !routed.service.primary.contains(region)
}

impl<'a> Order<'a> {
    fn new(routed: &'a Routed<'a>, left: RegionSet) -> Self {
        if left.and(routed.table.limited).is_empty() {
            return Self { routed, roomy: left, filled: RegionSet::EMPTY };
        }
        let roomy = with_room(routed.table, left, FILL);
        Self { routed, roomy, filled: left.without(roomy) }
    }

    fn bands(&self) -> impl Iterator<Item = (RegionSet, RegionReason)> {
        self.routed.bands(self.roomy).chain(self.routed.bands(self.filled))
    }

    /// The band in which `ticket`, from 0 to below 1, falls.
    fn land(&self, ticket: f64) -> Landing {
        let fall = |ticket: f64| {
            let mut upto = 0.0;
            let found = self.bands().enumerate().find(|(_, (band, _))| {
                upto += self.share(*band);
                ticket < upto
            });
            (found, upto)
        };
        let (found, taken) = fall(ticket);
        // Tickets above what the bands take together fall on them once more, in the same proportions.
        let found = found.or_else(|| fall((ticket - taken) / (1.0 - taken) * taken).0);
        let (position, (band, reason)) =
            found.unwrap_or_else(|| (0, self.routed.first_band(self.roomy.or(self.filled))));
        Landing { band, reason, first: position == 0 }
    }

    /// Counts a request at the region that it would have gone to but for that region's state; of several equally
    /// good ones that take only a part of it, at the least healthy.
    fn note_spilled(&self, candidates: &Candidates, landing: &Landing, ticket: f64) {
        let routed = self.routed;
        let (ideal, _) = routed.first_band(candidates.left.or(candidates.lost));
        let mut spilled = self.by_ticket(ideal, ticket).filter(|r| candidates.lost.contains(*r));
        if spilled.is_none() && !landing.first {
            let first = self.bands().next().map_or(RegionSet::EMPTY, |(band, _)| band);
            let share = |region: &RegionIndex| self.healthy_share(*region);
            spilled = first.iter().min_by(|a, b| share(a).total_cmp(&share(b)));
        }
        if let Some(pool) = spilled.and_then(|region| routed.service.pool(region)) {
            pool.load.0.setbacks.count_spilled();
        }
    }

    /// The region of a band that `ticket`, from 0 to below 1, falls on by weight.
    fn by_ticket(&self, band: RegionSet, ticket: f64) -> Option<RegionIndex> {
        let weight = self.weights(band);
        let total: f64 = band.iter().map(&weight).sum();
        let mut left = ticket * total;
        band.iter().find(|region| {
            left -= weight(*region);
            left < 0.0
        })
    }

    /// What a band takes of the whole, 0 to 1: the healthy shares of its regions, by weight.
    fn share(&self, band: RegionSet) -> f64 {
        if let Some(only) = band.only_one() {
            return self.healthy_share(only);
        }
        let weight = self.weights(band);
        let (mut weights, mut healthy) = (0.0, 0.0);
        for region in band.iter() {
            weights += weight(region);
            healthy += weight(region) * self.healthy_share(region);
        }
        healthy / weights
    }

    fn healthy_share(&self, region: RegionIndex) -> f64 {
        self.routed.service.shares[usize::from(region.0)]
    }

    /// Weights inside a band. Round robin knows none, and where all are 0 they count as equal.
    fn weights(&self, band: RegionSet) -> impl Fn(RegionIndex) -> f64 + use<'a> {
        let table = self.routed.table;
        let weight = move |region: RegionIndex| table.ranked(region).weight;
        let equal = table.policy(self.routed.route) == Policy::RoundRobin
            || band.iter().all(|region| weight(region) == 0);
        move |region| if equal { 1.0 } else { f64::from(weight(region)) }
    }

    /// Whether all regions that take requests together have less healthy room than the whole.
    fn exhausted(&self) -> bool {
        let mut room = 0.0;
        for (band, _) in self.bands() {
            let weight = self.weights(band);
            let used = band.iter().filter(|region| weight(*region) > 0.0);
            room += used.map(|region| self.healthy_share(region)).sum::<f64>();
        }
        room < 1.0 - 1e-9
    }

    /// Whether a region that ranks before those in use is too full.
    fn passes_over(&self, candidates: &Candidates) -> bool {
        let (used, full) = match self.roomy.is_empty() {
            true => (self.filled, candidates.at_capacity),
            false => (self.roomy, self.filled.or(candidates.at_capacity)),
        };
        !full.is_empty() && !self.routed.first_band(used.or(full)).0.and(full).is_empty()
    }

    fn trial(&self, dice: &mut Dice) -> Option<RegionIndex> {
        let routed = self.routed;
        let policy = routed.table.policy(routed.route);
        if policy != Policy::Health || self.roomy.is_empty() || dice.below(TRIAL) != 0 {
            return None;
        }
        let (preferred, _) = routed.healthiest_by_probes(self.roomy);
        (preferred != routed.first_band(self.roomy).0).then(|| preferred.lowest()).flatten()
    }

    /// One region of a band: in turn, or by weight x healthy share; a session by the hash of its key.
    fn inside(&self, band: RegionSet, dice: &mut Dice) -> RegionIndex {
        if let Some(only) = band.only_one() {
            return only;
        }
        if self.routed.table.policy(self.routed.route) == Policy::RoundRobin {
            return self.in_turn(band, dice);
        }
        let weights = self.weights(band);
        let weight = |region| weights(region) * self.healthy_share(region);
        match self.routed.session {
            Some(key) => self.by_session(band, weight, key),
            None => by_weight(band, weight, dice),
        }
    }

    /// Weighted rendezvous, so that a change of one region's share moves only what it must.
    fn by_session(
        &self,
        band: RegionSet,
        weight: impl Fn(RegionIndex) -> f64,
        key: u64,
    ) -> RegionIndex {
        let score = |region: RegionIndex| {
            let unit = unit_interval(mix(key ^ self.routed.table.ranked(region).hash));
            -weight(region) / unit.ln()
        };
        let scored = band.iter().map(|region| (score(region), region));
        let best = scored.reduce(|best, next| if next.0 > best.0 { next } else { best });
        best.map_or(RegionIndex(0), |(_, region)| region)
    }

    fn in_turn(&self, band: RegionSet, dice: &mut Dice) -> RegionIndex {
        let count = band.len() as u32;
        let mut chosen = RegionIndex(0);
        for ahead in 0..count {
            let turn = self.routed.service.load.turn(self.routed.live, ahead) % count;
            chosen = band.iter().nth(turn as usize).unwrap_or(chosen);
            let share = self.healthy_share(chosen);
            if share >= 1.0 || dice.unit() < share {
                break;
            }
        }
        chosen
    }

    /// Tells the whole ranking, with the shares as [`Order::land`] deals them out.
    fn tell(&self, trace: &mut impl Trace) {
        let total: f64 = self.bands().map(|(band, _)| self.share(band)).sum();
        let mut left = 1.0;
        for (band, reason) in self.bands() {
            let share = (self.share(band) / total.min(1.0)).min(left);
            trace.ranked(band, reason, share);
            left -= share;
        }
    }
}

fn by_weight(band: RegionSet, weight: impl Fn(RegionIndex) -> f64, dice: &mut Dice) -> RegionIndex {
    let total: f64 = band.iter().map(&weight).sum();
    let mut ticket = dice.unit() * total;
    let mut chosen = RegionIndex(0);
    for region in band.iter().filter(|region| weight(*region) > 0.0) {
        chosen = region;
        ticket -= weight(region);
        if ticket < 0.0 {
            break;
        }
    }
    chosen
}
