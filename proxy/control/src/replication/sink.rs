//! Where what an endpoint says of itself goes: role and epoch to the keeper, positions and lag to where routing looks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meridian_config::{EndpointKey, ReplicationSource, ServiceName};
use meridian_routing::{
    Claim, EndpointHealth, EndpointView, Micros, PrimacyState, Role, ServiceView,
};

use super::track::Track;
use crate::clock::Clock;
use crate::keeper::{Event, KeeperHandle};
use crate::published::TableReader;

/// Where the primary of every service was.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tracks(Arc<Mutex<HashMap<ServiceName, Track>>>);

impl Tracks {
    fn with<T>(&self, service: &ServiceName, work: impl FnOnce(&mut Track) -> T) -> T {
        let mut tracks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        work(tracks.entry(service.clone()).or_default())
    }

    pub(super) fn retain(&self, keep: impl Fn(&ServiceName) -> bool) {
        let mut tracks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tracks.retain(|service, _| keep(service));
    }
}

/// What all sinks share.
#[derive(Clone)]
pub(crate) struct Hearing {
    pub(crate) table: TableReader,
    pub(crate) clock: Clock,
    pub(crate) keeper: KeeperHandle,
    pub(crate) tracks: Tracks,
}

/// Takes what one endpoint answers to questions of our own, one at a time.
pub(crate) struct ClaimTaker {
    key: EndpointKey,
    hearing: Hearing,
    /// It is asked so often.
    interval: Duration,
    /// The lag that it says counts.
    with_lag: bool,
    /// Epoch and position of its last answer.
    last: Option<(Option<u64>, u64)>,
}

impl ClaimTaker {
    pub(crate) fn new(key: &EndpointKey, interval: Duration, hearing: Hearing) -> Self {
        Self { key: key.clone(), hearing, interval, with_lag: true, last: None }
    }

    /// The same where lag comes from elsewhere.
    pub(crate) fn without_lag(key: &EndpointKey, interval: Duration, hearing: Hearing) -> Self {
        Self { with_lag: false, ..Self::new(key, interval, hearing) }
    }

    /// Whether the headers of probes are all that its endpoint is asked for.
    pub(crate) fn hears_headers(&self) -> bool {
        self.with_lag
    }

    /// When a question is about to be asked.
    pub(crate) fn now(&self) -> Micros {
        self.hearing.clock.now()
    }

    /// Notes what is wrong with the last answer, and tells of it when that has changed.
    pub(crate) fn report_is(&self, fault: Option<&str>) {
        let table = self.hearing.table.load();
        let service = table.services.iter().find(|s| s.settings.name == self.key.service);
        let view = service.and_then(|s| s.endpoints.iter().find(|e| e.key == self.key));
        let Some(view) = view else { return };
        if !view.last_claim.report_is(fault) {
            return;
        }
        let (service, region) = (&self.key.service, &self.key.region);
        let endpoint = self.key.address.to_string();
        match fault {
            Some(why) => tracing::warn!(
                target: "replication", %service, %region, endpoint, why, "its report is of no use"
            ),
            None => tracing::info!(
                target: "replication", %service, %region, endpoint, "its report is well again"
            ),
        }
    }

    /// Takes what an answer says that was asked for at `asked_at`.
    pub(crate) async fn take(&mut self, claim: Claim, asked_at: Micros) {
        if claim.role.is_some() || claim.epoch.is_some() {
            let event = Event::Claim { key: self.key.clone(), claim, asked: true };
            self.hearing.keeper.tell(event).await;
        }
        let table = self.hearing.table.load();
        let service = table.services.iter().find(|s| s.settings.name == self.key.service);
        let Some(service) = service else { return };
        let Some(view) = service.endpoints.iter().find(|e| e.key == self.key) else { return };
        if service.settings.replication.source == ReplicationSource::None {
            return;
        }
        self.learn_position(view, &claim, asked_at);
        self.learn_lag(service, view, &claim, asked_at);
    }

    fn learn_position(&mut self, view: &EndpointView, claim: &Claim, asked_at: Micros) {
        let Some(position) = claim.position else { return };
        let fell = self.last.is_some_and(|(epoch, last)| epoch == claim.epoch && position < last);
        if fell {
            let (service, region) = (&self.key.service, &self.key.region);
            let endpoint = self.key.address.to_string();
            tracing::warn!(
                target: "replication", %service, %region, endpoint, position,
                "it has less than it had in the same epoch"
            );
            view.position.went_back(claim.epoch, position);
        } else {
            view.position.learn(claim.epoch, position);
        }
        view.position.was_asked(asked_at);
        self.last = Some((claim.epoch, position));
    }

    fn learn_lag(
        &self,
        service: &ServiceView,
        view: &EndpointView,
        claim: &Claim,
        asked_at: Micros,
    ) {
        let (name, primacy) = (&service.settings.name, &service.primacy);
        let epoch = claim.epoch.unwrap_or(0);
        if service.is_primary(view.region) {
            let is_primary = claim.role != Some(Role::Replica) && epoch == primacy.epoch;
            if let Some(position) = claim.position.filter(|_| is_primary) {
                self.hearing.tracks.with(name, |track| track.primary(epoch, position, asked_at));
            }
            return;
        }
        let Some(pool) = service.pool(view.region).filter(|_| serves(view)) else { return };
        if !service.hears_lag(view.region, claim) {
            return;
        }
        let now = self.hearing.clock.now();
        let by_position =
            |position| self.hearing.tracks.with(name, |track| track.lag(epoch, position, now));
        let said = claim.lag.filter(|_| self.with_lag);
        if let Some(lag) = said.or_else(|| claim.position.and_then(by_position)) {
            pool.load.0.report_lag_every(self.interval, lag, now);
        }
        let settled = primacy.state == PrimacyState::Settled;
        if service.settings.replication.max_lag_bytes.is_some() && settled {
            pool.load.0.report_behind(service.behind(view.region));
        }
    }
}

/// Whether an endpoint may be given requests, so that its lag is anybody's concern.
fn serves(endpoint: &EndpointView) -> bool {
    !endpoint.drain.value && endpoint.health != EndpointHealth::Unhealthy
}
