//! What the keeper does about the data path's findings: ejections, trials, returns.

use meridian_config::EndpointKey;
use meridian_routing::{Ejection, EjectionCause, Micros};

use super::KeeperState;
use crate::keeper::ejections::{Place, evidence, trial_is_due};
use crate::keeper::event::{Finding, Notice};

impl KeeperState {
    /// When the next ejection's time is over, if that lies ahead.
    pub fn next_trial(&self) -> Option<Micros> {
        let ejections = self.observed.endpoints.values().filter_map(|seen| seen.ejection.as_ref());
        let ahead = |ejection: &&Ejection| !ejection.trial && ejection.until > self.now;
        ejections.filter(ahead).map(|ejection| ejection.until).min()
    }

    /// Lets an ejected endpoint's next request be its trial, if that is due.
    pub(super) fn try_if_due(
        &mut self,
        key: &EndpointKey,
        probed: bool,
        has_just_passed: bool,
        now: Micros,
    ) -> Option<Notice> {
        let seen = self.observed.endpoints.get_mut(key)?;
        if !trial_is_due(seen, probed, has_just_passed, now) {
            return None;
        }
        seen.ejection.as_mut()?.trial = true;
        self.dirty = true;
        Some(Notice::TrialDue { key: key.clone() })
    }

    pub(super) fn outlier(
        &mut self,
        key: &EndpointKey,
        finding: Finding,
        now: Micros,
    ) -> Vec<Notice> {
        let table = self.built.clone();
        let Some(place) = Place::find(&table, key) else { return Vec::new() };
        let on_trial = || {
            let seen = self.observed.endpoints.get(key)?;
            seen.ejection.clone().filter(|ejection| ejection.trial)
        };
        let notice = match (finding, on_trial()) {
            (Finding::Suspicion(suspicion), _) => {
                let why = (suspicion.cause, evidence(suspicion));
                let ejected = self.ejections.eject(place, &self.observed.endpoints, why, now);
                if ejected.is_none() {
                    place.view.load.pardon(now);
                }
                ejected.map(|ejection| self.ejected(place, ejection))
            }
            // The table has decided otherwise meanwhile.
            (_, None) => None,
            (Finding::TrialFailed(fault), Some(last)) => {
                let next = self.ejections.eject_again(place, &last, fault, now);
                Some(self.ejected(place, next))
            }
            (Finding::TrialPassed, Some(last)) => Some(self.returned(place, last, now)),
        };
        notice.into_iter().collect()
    }

    fn ejected(&mut self, place: Place<'_>, ejection: Ejection) -> Notice {
        let (view, cause) = (place.view, ejection.cause);
        if let Some(pool) = place.service.pool(view.region) {
            pool.load.0.ejected(cause);
        }
        if cause == EjectionCause::ConnectionFailures {
            view.load.went_out();
        }
        let key = view.key.clone();
        self.seen(&key).ejection = Some(ejection.clone());
        self.dirty = true;
        Notice::Ejected { key, ejection }
    }

    fn returned(&mut self, place: Place<'_>, ejection: Ejection, now: Micros) -> Notice {
        let key = place.view.key.clone();
        let seen = self.seen(&key);
        seen.ejection = None;
        seen.recovered_at = Some(now);
        place.view.load.recovered(now);
        self.ejections.came_back(&key, &ejection, now);
        self.dirty = true;
        let after = now.since(ejection.since);
        Notice::Returned { key, ejection, after }
    }

    /// Ejects those of whose requests too few were answered well.
    pub(super) fn judge_ratios(&mut self, now: Micros) -> Vec<Notice> {
        let (table, mut notices) = (self.built.clone(), Vec::new());
        for service in &table.services {
            let limit = service.settings.outlier.success_ratio;
            for view in service.endpoints.iter().filter(|_| limit > 0.0) {
                let Some(why) = self.ejections.ratio(&view.key, &view.load, limit) else {
                    continue;
                };
                let place = Place { service, view };
                let ejected = self.ejections.eject(place, &self.observed.endpoints, why, now);
                notices.extend(ejected.map(|ejection| self.ejected(place, ejection)));
            }
        }
        notices
    }

    /// Trials whose time has come.
    pub(super) fn begin_trials(&mut self, now: Micros) -> Vec<Notice> {
        let over = |ejection: &Ejection| !ejection.trial && now >= ejection.until;
        let ejected = self.observed.endpoints.iter();
        let due = ejected.filter(|(_, seen)| seen.ejection.as_ref().is_some_and(over));
        let due: Vec<_> = due.map(|(key, _)| key.clone()).collect();
        let table = self.built.clone();
        let begin = |key: EndpointKey| {
            let probed = Place::find(&table, &key)?.is_probed();
            self.try_if_due(&key, probed, false, now)
        };
        due.into_iter().filter_map(begin).collect()
    }
}
