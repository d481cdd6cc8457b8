//! What the keeper makes of claims: which region is each service's primary.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use meridian_config::{
    Config, EndpointKey, FailoverMode, RegionId, RegionIndex, ReplicationSource, Service,
    ServiceName,
};
use meridian_routing::{
    Claim, EndpointClaim, Following, Micros, Observed, Primacy, PrimacyRecord, PrimacySource,
    PrimacyState, Role, Said, believable_epoch, file_primary, follow, refile,
};

use super::{KeeperState, keys};
use crate::keeper::ejections::Place;
use crate::keeper::event::{ForgetOrder, MoveOrder, Notice, PrimacyCause, PrimacyOrder, Rejection};
use crate::keeper::primacies::Primacies;

/// What an endpoint said last of its role and epoch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    role: Option<Role>,
    epoch: u64,
    /// The last epoch it said that cannot be one.
    disbelieved: Option<u64>,
}

/// The claims of all endpoints.
pub(super) type Claims = HashMap<EndpointKey, Held>;

/// A service whose epochs were forgotten: nobody is its primary until everybody was heard, or until then.
#[derive(Clone, Debug)]
pub(super) struct Forgotten {
    until: Micros,
    actor: String,
    reason: String,
}

/// The services whose epochs are learned anew.
pub(super) type Relearning = HashMap<ServiceName, Forgotten>;

/// Beyond two rounds of questions, so long is waited for endpoints that say nothing.
const SLOW_ANSWER: Duration = Duration::from_secs(1);

impl KeeperState {
    /// What is known of every service's primary, for the state directory.
    pub fn primacies(&self) -> Primacies {
        let file =
            file_primary(&self.desired.config.regions).map(|index| id(&self.desired.config, index));
        let known = self.observed.primacy.iter();
        let known = known.map(|(name, record)| (name.to_string(), named(record.clone())));
        Primacies { file: file.map(|id| id.to_string()), services: known.collect() }
    }

    /// Takes what an endpoint says of its role and epoch. `asked`: in an answer to a question of our own, one at a time;
    /// answers to requests may have been under way for long.
    pub(super) fn claim(
        &mut self,
        key: &EndpointKey,
        claim: Claim,
        asked: bool,
        unix_ms: u64,
    ) -> Vec<Notice> {
        let table = self.built.clone();
        let Some(place) = Place::find(&table, key) else { return Vec::new() };
        let heard = place.service.settings.replication.source != ReplicationSource::None;
        if !heard || (claim.role.is_none() && claim.epoch.is_none()) {
            return Vec::new();
        }
        let epoch = claim.epoch.unwrap_or(0);
        let name = &place.service.settings.name;
        let relearning = self.relearning.contains_key(name);
        let by_traffic = place.service.settings.replication.source == ReplicationSource::Headers;
        if relearning && !asked && !by_traffic {
            // It may have been under way since before.
            return Vec::new();
        }
        let present = self.observed.primacy.get(name).map_or(0, |known| known.epoch);
        let known = if relearning { 0 } else { place.service.writes.highest().max(present) };
        let held = self.claims.entry(key.clone()).or_default();
        if !believable_epoch(known, epoch) {
            let again = held.disbelieved.replace(epoch) == Some(epoch);
            if again {
                return Vec::new();
            }
            self.seen(key).disbelieved = Some(epoch);
            self.dirty = true;
            return vec![Notice::EpochDisbelieved { key: key.clone(), epoch, known }];
        }
        let believed = held.disbelieved.is_some() && asked;
        if believed {
            held.disbelieved = None;
        }
        let risen = asked || held.role != Some(Role::Replica) || claim.role != Some(Role::Primary);
        let stale = epoch < held.epoch || (epoch == held.epoch && !risen);
        let disbelieved = held.disbelieved;
        if believed {
            self.seen(key).disbelieved = None;
            self.dirty = true;
        }
        if stale {
            return Vec::new();
        }
        let held = self.claims.entry(key.clone()).or_default();
        let role = claim.role.or(held.role.filter(|_| held.epoch == epoch));
        if (role, epoch) == (held.role, held.epoch) {
            return Vec::new();
        }
        *held = Held { role, epoch, disbelieved };
        self.seen(key).said = Some(Said { role, epoch });
        self.dirty = true;
        let service = place.service.settings.clone();
        if relearning {
            let config = self.desired.config.clone();
            let all = self.heard(&config, &service).len() >= service.endpoints.len();
            let learned = all.then(|| self.learned(&service, unix_ms));
            return learned.flatten().into_iter().collect();
        }
        place.service.writes.saw(epoch);
        let cause = PrimacyCause::Reported { key: key.clone(), role, epoch };
        self.follow_claims(&service, &cause, unix_ms).into_iter().collect()
    }

    /// Forgets what is known of a service's epochs. Until they are learned anew nobody is its primary, and what was
    /// decided before is not let in any more.
    pub(super) fn forget(
        &mut self,
        order: ForgetOrder,
        now: Micros,
        unix_ms: u64,
    ) -> Result<Vec<Notice>, Rejection> {
        let config = self.desired.config.clone();
        let service = ordered(&config, &order.service)?;
        let known = self.known(&config, service);
        if known.state == PrimacyState::Moving {
            return Err(Rejection::NotMoved("the primary is being moved".to_owned()));
        }
        for key in keys(&config, service) {
            self.claims.remove(&key);
            let seen = self.seen(&key);
            (seen.said, seen.disbelieved) = (None, None);
        }
        let view = self.built.services.iter().find(|view| view.settings.name == service.name);
        // What was no news is news again.
        view.iter().flat_map(|view| &view.endpoints).for_each(|e| e.last_claim.forget());
        let ForgetOrder { actor, reason, .. } = order;
        let until = now.plus(relearning_takes(service));
        let forgotten = Forgotten { until, actor: actor.clone(), reason: reason.clone() };
        self.relearning.insert(service.name.clone(), forgotten);
        let next = known.forgotten(unix_ms);
        let cause = PrimacyCause::Forgotten { actor, reason };
        let notice = self.primacy_is(&config, service, next, &cause, unix_ms);
        Ok(notice.into_iter().collect())
    }

    /// Ends it where time is up.
    pub(super) fn relearn(&mut self, now: Micros, unix_ms: u64) -> Vec<Notice> {
        let services = self.desired.config.services.clone();
        self.relearning.retain(|name, _| services.iter().any(|service| service.name == *name));
        let due = |service: &&Arc<Service>| {
            self.relearning.get(&service.name).is_some_and(|forgotten| forgotten.until <= now)
        };
        let due: Vec<_> = services.iter().filter(due).cloned().collect();
        due.iter().filter_map(|service| self.learned(service, unix_ms)).collect()
    }

    /// What was said since a service's epochs were forgotten is what is known from now on.
    fn learned(&mut self, service: &Service, unix_ms: u64) -> Option<Notice> {
        let Forgotten { actor, reason, .. } = self.relearning.remove(&service.name)?;
        let config = self.desired.config.clone();
        let next = self.follow(&config, service, &self.known(&config, service));
        let view = self.built.services.iter().find(|view| view.settings.name == service.name);
        // It is closed, and what was decided before is of an earlier term.
        view.inspect(|view| view.writes.forget(next.epoch));
        let cause = PrimacyCause::Relearned { actor, reason };
        self.primacy_is(&config, service, next, &cause, unix_ms)
    }

    /// Applies all claims of a service anew.
    fn follow_claims(
        &mut self,
        service: &Service,
        cause: &PrimacyCause,
        unix_ms: u64,
    ) -> Option<Notice> {
        let config = self.desired.config.clone();
        let known = self.known(&config, service);
        let next = self.follow(&config, service, &known);
        self.primacy_is(&config, service, next, cause, unix_ms)
    }

    /// What is known of the primary once all claims are heard. Which was contested before this process stays so until
    /// everybody was heard, or a higher epoch is: the other claimant may only be slower.
    fn follow(&self, config: &Config, service: &Service, known: &Primacy) -> Primacy {
        if self.relearning.contains_key(&service.name) {
            return *known;
        }
        let heard = self.heard(config, service);
        let all = heard.len() >= service.endpoints.len();
        let next = follow(known, following(service), heard);
        let restored = known.source == PrimacySource::Restored
            && known.state == PrimacyState::Contested
            && next.epoch == known.epoch;
        if restored && next.is_settled() && !all {
            return Primacy { state: PrimacyState::Contested, source: known.source, ..next };
        }
        next
    }

    fn known(&self, config: &Config, service: &Service) -> Primacy {
        let record = self.observed.primacy.get(&service.name).cloned();
        let file = || Primacy::of_file(file_primary(&config.regions), 0);
        record.map_or_else(file, |record| record.map(|id| index(config, &id)))
    }

    fn heard(&self, config: &Config, service: &Service) -> Vec<EndpointClaim> {
        let endpoints = service.endpoints.iter().zip(keys(config, service));
        let heard = endpoints.filter_map(|(endpoint, key)| {
            let held = self.claims.get(&key).filter(|h| h.role.is_some() || h.epoch > 0)?;
            Some(EndpointClaim { region: endpoint.region, role: held.role, epoch: held.epoch })
        });
        heard.collect()
    }

    /// Replaces what is known; `None` if that is nothing new.
    fn primacy_is(
        &mut self,
        config: &Config,
        service: &Service,
        next: Primacy,
        cause: &PrimacyCause,
        unix_ms: u64,
    ) -> Option<Notice> {
        let record = next.map(|index| Some(id(config, index)));
        let before = self.observed.primacy.get(&service.name).cloned();
        let before = before.unwrap_or_else(|| of_file(config, unix_ms));
        let record = PrimacyRecord { since_unix_ms: before.since_unix_ms, ..record };
        if record == before {
            return None;
        }
        // A report that only confirms what is known is no change of it.
        let moved = (&record.region, record.state, record.epoch)
            != (&before.region, before.state, before.epoch);
        let since_unix_ms = if moved { unix_ms } else { before.since_unix_ms };
        let record = PrimacyRecord { since_unix_ms, ..record };
        self.observed.primacy.insert(service.name.clone(), record.clone());
        self.dirty = true;
        if !record.is_settled() {
            // At once: the table follows when the disk has it.
            let mut views = self.built.services.iter();
            let view = views.find(|view| view.settings.name == service.name);
            view.inspect(|view| view.writes.close());
        }
        let (service, cause) = (service.name.clone(), cause.clone());
        Some(Notice::Primacy { service, from: before, to: record, cause })
    }

    /// The operator names the primary.
    pub(super) fn promote(
        &mut self,
        order: PrimacyOrder,
        unix_ms: u64,
    ) -> Result<Vec<Notice>, Rejection> {
        let config = self.desired.config.clone();
        let service = ordered(&config, &order.service)?;
        let region = config.regions.iter().position(|r| r.id.as_str() == order.region);
        let region = region.map(|index| RegionIndex(index as u8));
        let region = region.ok_or_else(|| Rejection::UnknownRegion(order.region.clone()))?;
        if !service.endpoints.iter().any(|endpoint| endpoint.region == region) {
            let (service, region) = (order.service, order.region);
            return Err(Rejection::NoEndpoints { service, region });
        }
        if self.relearning.contains_key(&service.name) {
            return Err(Rejection::Relearning(order.service));
        }
        let known = self.known(&config, service);
        let next = if order.epoch.is_none() && self.is_decidable(&config, service, region) {
            known.decided(region)
        } else {
            let epoch = self.epoch_for(&config, service, region, order.epoch)?;
            known.appointed(region, epoch, PrimacySource::Operator)
        };
        // Whoever claims the same epoch is heard again.
        let next = follow(&next, Following::Operator, self.heard(&config, service));
        let (actor, reason) = (order.actor, order.reason);
        let cause = PrimacyCause::Operator { actor, reason };
        let changed = self.primacy_is(&config, service, next, &cause, unix_ms);
        Ok(changed.into_iter().collect())
    }

    /// A move begins: nobody is the primary until a higher epoch has one, or the move is taken back.
    pub(super) fn move_primary(
        &mut self,
        order: MoveOrder,
        unix_ms: u64,
    ) -> Result<Vec<Notice>, Rejection> {
        let config = self.desired.config.clone();
        let service = ordered(&config, &order.service)?;
        let known = self.known(&config, service);
        let next = match order.epoch {
            Some(epoch) => {
                let why = match known.state {
                    PrimacyState::Moving => "the primary is being moved already",
                    PrimacyState::Contested => "the primary is contested",
                    _ if known.epoch != epoch => "the epoch has changed meanwhile",
                    PrimacyState::Settled | PrimacyState::Unknown => "",
                };
                if !why.is_empty() {
                    return Err(Rejection::NotMoved(why.to_owned()));
                }
                Primacy { state: PrimacyState::Moving, ..known }
            }
            None if known.state == PrimacyState::Moving => {
                follow(&stays(known), following(service), self.heard(&config, service))
            }
            None => return Ok(Vec::new()),
        };
        let MoveOrder { what, actor, reason, .. } = order;
        let cause = PrimacyCause::Move { what, actor, reason };
        Ok(self.primacy_is(&config, service, next, &cause, unix_ms).into_iter().collect())
    }

    /// Whether the operator's word can end a contest in its own epoch: the region is one of those that claim it, and
    /// nobody knows of a higher one.
    fn is_decidable(&self, config: &Config, service: &Service, region: RegionIndex) -> bool {
        let known = self.known(config, service);
        let claims = |c: &EndpointClaim| {
            c.region == region && c.role == Some(Role::Primary) && c.epoch == known.epoch
        };
        // Which it may have done before this process was there, or before it was asked no more.
        let held = known.region == Some(region) && known.is_taken() && known.confirmed;
        known.state == PrimacyState::Contested
            && self.highest(service, &known) == known.epoch
            && (held || self.heard(config, service).iter().any(claims))
    }

    /// The highest epoch that anybody has said.
    fn highest(&self, service: &Service, known: &Primacy) -> u64 {
        let seen = self.built.services.iter().find(|view| view.settings.name == service.name);
        seen.map_or(0, |view| view.writes.highest()).max(known.epoch)
    }

    /// The epoch of a promotion: what the operator says; else the one that the region itself claims; else the next.
    fn epoch_for(
        &self,
        config: &Config,
        service: &Service,
        region: RegionIndex,
        said: Option<u64>,
    ) -> Result<u64, Rejection> {
        let known = self.known(config, service);
        let highest = self.highest(service, &known);
        let free = |epoch: u64| {
            let others = self.heard(config, service);
            let mut others = others.iter().filter(|c| c.region != region && c.epoch >= epoch);
            let taken = epoch == known.epoch && known.is_taken();
            epoch >= highest && !taken && !others.any(|c| c.role == Some(Role::Primary))
        };
        let claimed = self.heard(config, service).into_iter();
        let claimed = claimed.filter(|c| c.region == region && c.role == Some(Role::Primary));
        let claimed = claimed.map(|claim| claim.epoch).max().filter(|epoch| free(*epoch));
        let epoch = said.or(claimed).unwrap_or(highest + 1);
        if !believable_epoch(highest, epoch) {
            return Err(Rejection::Epoch(epoch));
        }
        if !free(epoch) {
            return Err(Rejection::EpochNotHigher { said: epoch, known: highest });
        }
        Ok(epoch)
    }

    /// Takes over what is newer than what this process knows.
    pub(super) fn inherit(&mut self, known: &Primacies, unix_ms: u64) -> Vec<Notice> {
        let config = self.desired.config.clone();
        let newer = |service: &&Arc<Service>| {
            let stored = known.services.get(service.name.as_str());
            let stored = stored.map(|stored| stored.clone().map(|id| index_of(&config, &id)));
            stored.is_some_and(|stored| stored.is_newer_than(&self.known(&config, service)))
        };
        let services: Vec<_> = config.services.iter().filter(newer).cloned().collect();
        let take = |service: Arc<Service>| {
            let stored = stored(&config, known.services.get(service.name.as_str())?);
            let next = self.follow(&config, &service, &stored);
            self.primacy_is(&config, &service, next, &PrimacyCause::Inherited, unix_ms)
        };
        services.into_iter().filter_map(take).collect()
    }

    /// Forgets the claims of what is gone, and hears what the file says of primaries now. After the desired layer was
    /// replaced, `before` being the one until then.
    pub(super) fn refile_primacies(&mut self, before: &Config, unix_ms: u64) -> Vec<Notice> {
        let config = self.desired.config.clone();
        let table = self.built.clone();
        let heard = |key: &EndpointKey| {
            let place = Place::find(&table, key)?;
            Some(place.service.settings.replication.source != ReplicationSource::None)
        };
        self.claims.retain(|key, _| heard(key) == Some(true));
        for (key, seen) in &mut self.observed.endpoints {
            self.dirty |= seen.said.is_some() && !self.claims.contains_key(key);
            seen.said = seen.said.filter(|_| self.claims.contains_key(key));
        }
        // What is known of a service that is gone is kept: it may come back, and its epoch must not be less then.
        let before = file_primary(&before.regions).map(|primary| id(before, primary));
        let before = before.and_then(|id| index(&config, &id));
        let now = file_primary(&config.regions);
        let mut notices = Vec::new();
        for service in &config.services {
            if !self.observed.primacy.contains_key(&service.name) {
                self.observed.primacy.insert(service.name.clone(), of_file(&config, unix_ms));
            }
            if self.relearning.contains_key(&service.name) {
                continue;
            }
            let known = self.known(&config, service);
            let next = refile(&known, following(service), before, now);
            let next = self.follow(&config, service, &next);
            let cause = PrimacyCause::File;
            notices.extend(self.primacy_is(&config, service, next, &cause, unix_ms));
        }
        notices
    }
}

/// Puts what an earlier process knew into the first observed layer.
pub(super) fn restore(config: &Config, known: &Primacies, observed: &mut Observed, unix_ms: u64) {
    let now = file_primary(&config.regions);
    let before = known.file.as_deref().and_then(|text| index_of(config, text));
    for service in &config.services {
        let record = match known.services.get(service.name.as_str()) {
            None => of_file(config, unix_ms),
            Some(kept) => {
                let primacy = stored(config, kept);
                refile(&primacy, following(service), before, now).map(|i| Some(id(config, i)))
            }
        };
        observed.primacy.insert(service.name.clone(), record);
    }
    for (name, kept) in &known.services {
        let name = ServiceName::new(name);
        let gone = || stored(config, kept).map(|index| Some(id(config, index)));
        observed.primacy.entry(name).or_insert_with(gone);
    }
}

/// The services whose epochs an earlier process has forgotten and had not yet learned anew.
pub(super) fn still_forgotten(config: &Config, observed: &Observed) -> Relearning {
    let forgotten = config.services.iter().filter(|service| {
        let known = observed.primacy.get(&service.name);
        known.is_some_and(|known| known.source == PrimacySource::Forgotten)
    });
    let began = |service: &Arc<Service>| {
        let until = Micros(0).plus(relearning_takes(service));
        let reason = "before the restart".to_owned();
        (service.name.clone(), Forgotten { until, actor: "meridian".to_owned(), reason })
    };
    forgotten.map(began).collect()
}

/// In that time everybody who can answer was asked twice.
fn relearning_takes(service: &Service) -> Duration {
    let interval = match service.replication.source {
        ReplicationSource::None => return Duration::ZERO,
        ReplicationSource::Headers => service.health.interval,
        _ => service.replication.interval,
    };
    interval * 2 + SLOW_ANSWER
}

/// The service that an order names.
fn ordered<'a>(config: &'a Config, name: &str) -> Result<&'a Arc<Service>, Rejection> {
    let service = config.services.iter().find(|service| service.name.as_str() == name);
    service.ok_or_else(|| Rejection::UnknownService(name.to_owned()))
}

/// A primacy that was to be moved and is not.
fn stays(moving: Primacy) -> Primacy {
    let taken = moving.is_taken();
    let state = if taken { PrimacyState::Settled } else { PrimacyState::Unknown };
    Primacy { state, ..moving }
}

/// What an earlier process kept, as this one knows it. A switchover that was under way is not any more.
fn stored(config: &Config, kept: &Primacy<String>) -> Primacy {
    let mut primacy = kept.clone().map(|text| index_of(config, &text));
    if primacy.state == PrimacyState::Moving {
        primacy = stays(primacy);
    }
    if primacy.source == PrimacySource::Forgotten {
        return primacy;
    }
    primacy.source = PrimacySource::Restored;
    // Nobody has ever named one but the file, whose word is as good as new.
    let named = primacy.region_epoch > 0 || primacy.confirmed;
    if !named && primacy.state != PrimacyState::Contested {
        primacy.source = PrimacySource::File;
    }
    primacy
}

/// Who may name a service's primary.
fn following(service: &Service) -> Following {
    let heard = service.replication.source != ReplicationSource::None;
    match service.failover.mode {
        FailoverMode::Follow | FailoverMode::Hook if heard => Following::Reports,
        _ => Following::Operator,
    }
}

fn of_file(config: &Config, unix_ms: u64) -> PrimacyRecord {
    Primacy::of_file(file_primary(&config.regions).map(|index| id(config, index)), unix_ms)
}

fn named(record: PrimacyRecord) -> Primacy<String> {
    record.map(|id| Some(id.to_string()))
}

fn id(config: &Config, index: RegionIndex) -> RegionId {
    config.regions[usize::from(index.0)].id.clone()
}

fn index(config: &Config, id: &RegionId) -> Option<RegionIndex> {
    index_of(config, id.as_str())
}

fn index_of(config: &Config, id: &str) -> Option<RegionIndex> {
    let position = config.regions.iter().position(|region| region.id.as_str() == id)?;
    Some(RegionIndex(position as u8))
}
