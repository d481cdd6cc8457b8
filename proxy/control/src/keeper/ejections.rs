//! Outlier ejection: what the keeper makes of the data path's findings.
//!
//! Promises: nothing is ejected beyond the share of its region that the configuration allows, but one endpoint always
//! may be; every ejection ends with a trial. Refuses to know: clocks; how a trial is made.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use meridian_config::{EndpointKey, HealthKind, Outlier};
use meridian_routing::{
    Ejection, EjectionCause, EndpointHealth, EndpointLoad, EndpointObserved, EndpointView, Fault,
    Micros, RoutingTable, ServiceView, Suspicion,
};

/// The longest ejection.
const LONGEST: Duration = Duration::from_secs(300);
/// One ejection is forgotten for each of these that an endpoint was back: the length of a slow start.
const FORGETS_ONE: Duration = Duration::from_secs(30);
/// Rounds, about a second apart, over which the success ratio is taken.
const ROUNDS: usize = 10;
/// Fewer requests say nothing of a ratio.
const ENOUGH: u32 = 20;

/// What the keeper remembers of endpoints beside their present ejection.
#[derive(Debug, Default)]
pub(super) struct Ejections {
    windows: HashMap<EndpointKey, Window>,
    past: HashMap<EndpointKey, Past>,
}

/// Ejections in a row that are over.
#[derive(Clone, Copy, Debug)]
struct Past {
    times: u32,
    ended: Micros,
}

/// Requests judged and faults, as the counters stood at the last rounds.
#[derive(Debug, Default)]
struct Window(VecDeque<(u32, u32)>);

/// One endpoint where the table has it.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) service: &'a ServiceView,
    pub(super) view: &'a EndpointView,
}

impl<'a> Place<'a> {
    pub(super) fn find(table: &'a RoutingTable, key: &EndpointKey) -> Option<Self> {
        let service = table.services.iter().find(|s| s.settings.name == key.service)?;
        let view = service.endpoints.iter().find(|view| view.key == *key)?;
        Some(Self { service, view })
    }

    fn limits(&self) -> &'a Outlier {
        &self.service.settings.outlier
    }

    pub(super) fn is_probed(&self) -> bool {
        self.service.settings.health.kind != HealthKind::None
    }

    /// Whether one more of its region may be ejected. What probes took out is not counted: it is out anyway.
    fn has_room(&self, ejected: impl Fn(&EndpointView) -> bool) -> bool {
        let members = || {
            let here = |view: &&EndpointView| view.region == self.view.region && !view.drain.value;
            self.service.endpoints.iter().filter(here)
        };
        let share = members().count() as f64 * self.limits().max_ejected;
        members().filter(|view| ejected(view)).count() < (share as usize).max(1)
    }
}

impl Ejections {
    /// Forgets the endpoints that are gone.
    pub(super) fn retain(&mut self, keep: impl Fn(&EndpointKey) -> bool) {
        self.windows.retain(|key, _| keep(key));
        self.past.retain(|key, _| keep(key));
    }

    /// The ejection that a suspicion leads to; `None`: there is no room for it, or it is out already.
    pub(super) fn eject(
        &mut self,
        place: Place<'_>,
        observed: &HashMap<EndpointKey, EndpointObserved>,
        (cause, evidence): (EjectionCause, String),
        now: Micros,
    ) -> Option<Ejection> {
        let seen = |view: &EndpointView| observed.get(&view.key);
        let ours = seen(place.view);
        let unhealthy = |o: &EndpointObserved| o.health == EndpointHealth::Unhealthy;
        if ours.is_some_and(|o| o.ejection.is_some() || unhealthy(o)) {
            return None;
        }
        let ejected =
            |view: &EndpointView| seen(view).is_some_and(|o| o.ejection.is_some() && !unhealthy(o));
        if !place.has_room(ejected) {
            return None;
        }
        let before = self.past.remove(&place.view.key).map_or(0, |past| past.times_at(now));
        Some(ejection(place.limits(), cause, evidence, before + 1, now))
    }

    /// The ejection that follows a failed trial: a longer one.
    pub(super) fn eject_again(
        &self,
        place: Place<'_>,
        last: &Ejection,
        fault: Fault,
        now: Micros,
    ) -> Ejection {
        let why = match fault {
            Fault::Connection => "got no answer",
            Fault::ServerError => "was answered with a 5xx",
        };
        let evidence = format!("the request on trial {why}; before that: {}", origin(last));
        ejection(place.limits(), EjectionCause::Trial, evidence, last.times + 1, now)
    }

    /// An endpoint is back: remembers how often it was ejected in a row, and judges it afresh.
    pub(super) fn came_back(&mut self, key: &EndpointKey, ejection: &Ejection, now: Micros) {
        self.windows.remove(key);
        self.past.insert(key.clone(), Past { times: ejection.times, ended: now });
    }

    /// Takes one round's counts; what they say against an endpoint.
    pub(super) fn ratio(
        &mut self,
        key: &EndpointKey,
        load: &EndpointLoad,
        limit: f64,
    ) -> Option<(EjectionCause, String)> {
        let window = match self.windows.get_mut(key) {
            Some(window) => window,
            None => self.windows.entry(key.clone()).or_default(),
        };
        let (requests, faults) = window.push(load.judged());
        let well = requests.saturating_sub(faults);
        if requests < ENOUGH || f64::from(well) >= f64::from(requests) * limit {
            return None;
        }
        let evidence = format!("{well} of {requests} requests in 10 s were answered well");
        Some((EjectionCause::SuccessRatio, evidence))
    }
}

impl Past {
    fn times_at(self, now: Micros) -> u32 {
        let forgotten = now.since(self.ended).as_secs() / FORGETS_ONE.as_secs();
        self.times.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX))
    }
}

impl Window {
    /// Requests and faults since the round that leaves the window.
    fn push(&mut self, counts: (u32, u32)) -> (u32, u32) {
        let oldest = *self.0.front().unwrap_or(&counts);
        self.0.push_back(counts);
        if self.0.len() > ROUNDS {
            self.0.pop_front();
        }
        // The counters are read one after the other while requests end: never a negative count.
        let since = |now: u32, then: u32| u32::try_from(now.wrapping_sub(then).cast_signed());
        let requests = since(counts.0, oldest.0).unwrap_or(0);
        (requests, since(counts.1, oldest.1).unwrap_or(0).min(requests))
    }
}

/// Whether an ejected endpoint is due for its trial. Its time must be over, and where it is probed, it must be well by
/// that; a probe that has just passed refutes at once what began with failed connections, but only the first time.
pub(super) fn trial_is_due(
    seen: &EndpointObserved,
    probed: bool,
    has_just_passed: bool,
    now: Micros,
) -> bool {
    let Some(ejection) = seen.ejection.as_ref().filter(|ejection| !ejection.trial) else {
        return false;
    };
    let refuted = has_just_passed
        && ejection.cause == EjectionCause::ConnectionFailures
        && ejection.times == 1;
    (!probed || seen.health == EndpointHealth::Healthy) && (refuted || now >= ejection.until)
}

/// What a suspicion of the data path says, in words.
pub(super) fn evidence(suspicion: Suspicion) -> String {
    let count = suspicion.count;
    match suspicion.cause {
        EjectionCause::Consecutive5xx => format!("{count} answers with a 5xx in a row"),
        _ => format!("{count} connection failures in a row"),
    }
}

fn ejection(
    limits: &Outlier,
    cause: EjectionCause,
    evidence: String,
    times: u32,
    now: Micros,
) -> Ejection {
    let length = limits.ejection.saturating_mul(times).min(LONGEST);
    let evidence = evidence.into();
    Ejection { cause, evidence, since: now, until: now.plus(length), times, trial: false }
}

/// What the first of several ejections in a row was for.
fn origin(last: &Ejection) -> &str {
    last.evidence.rsplit_once("before that: ").map_or(&*last.evidence, |(_, origin)| origin)
}
