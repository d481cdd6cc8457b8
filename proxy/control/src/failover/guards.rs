//! What must hold before the primary is moved. Pure: facts in, checks out.
//!
//! Promises: every guard says in words what it found; only those whose override loses nothing that the operator was not
//! told of can be overridden. Refuses to know: tables, clocks, how a move is made.

use std::time::Duration;

use meridian_config::RegionId;
use meridian_routing::PrimacyState;

use super::OperationKind;

/// What the guards look at.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) state: PrimacyState,
    /// The last known primary.
    pub(super) primary: Option<RegionId>,
    /// The one that the file names.
    pub(super) home: Option<RegionId>,
    /// In file order.
    pub(super) regions: Vec<RegionFacts>,
    /// The operation that is under way for the same service.
    pub(super) under_way: Option<OperationKind>,
    /// Since the last change of the primary; `None`: none was seen since the process started.
    pub(super) changed: Option<Duration>,
    /// Whether the promotion must be reported by the endpoints (modes `follow` and `hook`).
    pub(super) awaits_report: bool,
    /// Whether endpoints are asked for their role at all.
    pub(super) hears_reports: bool,
    /// Why the hook cannot be run; `None`: it can, or there is none.
    pub(super) broken_hook: Option<String>,
    pub(super) bounds: Bounds,
}

/// The limits that the file sets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The most a candidate may be behind.
    pub(super) max_lag: Duration,
    /// The least time between two changes of the primary.
    pub(super) cooldown: Duration,
    /// The most that the file's primary may be behind at a failback.
    pub(super) failback_lag: Duration,
    /// And it must have been well for so long.
    pub(super) failback_after: Duration,
}

/// One region of the service.
#[derive(Clone, Debug)]
pub(super) struct RegionFacts {
    pub(super) id: RegionId,
    /// `failover_order`; 0: only if somebody names it.
    pub(super) order: u32,
    pub(super) endpoints: usize,
    /// Healthy ones that are neither ejected nor drained.
    pub(super) serving: usize,
    /// The region, or each of its endpoints, is drained.
    pub(super) drained: bool,
    /// How far behind it is, or was when the primary was lost; `None`: nobody knows.
    pub(super) lag: Option<Duration>,
    /// It has what the primary was last known to have.
    pub(super) caught_up: bool,
    /// Since when all of its endpoints are well, without a break; `None`: they are not.
    pub(super) well_for: Option<Duration>,
}

/// A condition of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Guard {
    UnderWay,
    Contested,
    PrimaryKnown,
    PrimaryLost,
    OtherRegion,
    HasEndpoints,
    NotDrained,
    Healthy,
    RegionStaysOn,
    LagKnown,
    LagBelow,
    Cooldown,
    WellForLong,
    Reports,
    Hook,
}

impl Guard {
    /// As the API and the documentation write it.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::UnderWay => "nothing-under-way",
            Self::Contested => "not-contested",
            Self::PrimaryKnown => "primary-serves",
            Self::PrimaryLost => "primary-lost",
            Self::OtherRegion => "other-region",
            Self::HasEndpoints => "candidate-has-endpoints",
            Self::NotDrained => "candidate-not-drained",
            Self::Healthy => "candidate-healthy",
            Self::RegionStaysOn => "region-stays-on",
            Self::LagKnown => "candidate-lag-known",
            Self::LagBelow => "candidate-lag",
            Self::Cooldown => "cooldown",
            Self::WellForLong => "candidate-well-for",
            Self::Reports => "reports",
            Self::Hook => "hook",
        }
    }

    /// Whether it is about the region that would be promoted, and decides whether that is one to choose.
    fn is_of_candidate(self) -> bool {
        matches!(
            self,
            Self::HasEndpoints | Self::NotDrained | Self::Healthy | Self::LagKnown | Self::LagBelow
        )
    }

    /// Whether `--force` may override it. A switchover promises that no write is lost, so that what this rests on cannot be
    /// overridden there; a failover is made when the alternative is worse.
    fn may_be_forced(self, kind: OperationKind) -> bool {
        match self {
            Self::PrimaryLost | Self::LagBelow | Self::Cooldown | Self::WellForLong => true,
            Self::Healthy | Self::LagKnown => kind == OperationKind::Failover,
            _ => false,
        }
    }
}

/// What one guard found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) guard: Guard,
    pub(super) passed: bool,
    /// Whether `--force` may override it.
    pub(super) overridable: bool,
    pub(super) detail: String,
}

/// The region that is promoted if nobody names one: listed, well, close behind; by order, then lag, then how much of it is
/// well, then the file's order.
pub(super) fn best(facts: &Facts) -> Option<&RegionFacts> {
    let fit = |region: &&RegionFacts| {
        region.order > 0
            && Some(&region.id) != facts.primary.as_ref()
            && !region.drained
            && region.serving > 0
            && is_close(region, facts.bounds.max_lag)
    };
    let out = |region: &RegionFacts| {
        (region.endpoints - region.serving) as f64 / region.endpoints.max(1) as f64
    };
    facts.regions.iter().filter(fit).min_by(|a, b| {
        let key = |region: &RegionFacts| (region.order, region.lag.unwrap_or_default());
        key(a).cmp(&key(b)).then(out(a).total_cmp(&out(b)))
    })
}

/// Why [`best`] finds none: each region with the guards that stop it, in file order, without what changes by the moment.
pub(super) fn nobody(facts: &Facts) -> String {
    let others = facts.regions.iter().filter(|region| Some(&region.id) != facts.primary.as_ref());
    let why = |region: &RegionFacts| {
        let mut stopped: Vec<&str> = Vec::new();
        if region.order == 0 {
            stopped.push("failover_order is 0");
        }
        let list = checks(facts, OperationKind::Failover, region);
        let of_region = list.iter().filter(|check| !check.passed && check.guard.is_of_candidate());
        stopped.extend(of_region.map(|check| check.guard.label()));
        format!("{} ({})", region.id, stopped.join(", "))
    };
    match others.map(why).collect::<Vec<_>>().as_slice() {
        [] => "no region may be promoted: the service has no other".to_owned(),
        all => format!("no region may be promoted: {}", all.join("; ")),
    }
}

/// The region that an operation would promote, and what decides whether it may.
///
/// # Errors
/// Why there is no region to look at.
pub(super) fn candidate<'f>(
    facts: &'f Facts,
    kind: OperationKind,
    named: Option<&str>,
) -> Result<&'f RegionFacts, String> {
    let find = |id: &str| facts.regions.iter().find(|region| region.id.as_str() == id);
    match (kind, named) {
        (OperationKind::Failback, _) => {
            let home = facts.home.as_ref().ok_or("the file names no primary to go back to")?;
            find(home.as_str()).ok_or_else(|| format!("the service has nothing in \"{home}\""))
        }
        (_, Some(id)) => find(id).ok_or_else(|| format!("there is no region \"{id}\"")),
        (_, None) => best(facts).ok_or_else(|| {
            "no region with failover_order above 0 is healthy, in service and close behind: name one \
             with --to"
                .to_owned()
        }),
    }
}

fn is_close(region: &RegionFacts, bound: Duration) -> bool {
    region.caught_up || region.lag.is_some_and(|lag| lag <= bound)
}

/// Everything that must hold, whether it does or not.
pub(super) fn checks(facts: &Facts, kind: OperationKind, to: &RegionFacts) -> Vec<Check> {
    let mut list = List { kind, checks: Vec::new() };
    state(facts, kind, &mut list);
    target(facts, to, &mut list);
    lag(facts, kind, to, &mut list);
    times(facts, kind, to, &mut list);
    means(facts, &mut list);
    list.checks
}

struct List {
    kind: OperationKind,
    checks: Vec<Check>,
}

impl List {
    fn add(&mut self, guard: Guard, passed: bool, detail: impl Into<String>) {
        let overridable = guard.may_be_forced(self.kind);
        self.checks.push(Check { guard, passed, overridable, detail: detail.into() });
    }
}

fn state(facts: &Facts, kind: OperationKind, list: &mut List) {
    match facts.under_way {
        Some(other) => {
            list.add(Guard::UnderWay, false, format!("a {} is under way", other.label()));
        }
        None => list.add(Guard::UnderWay, true, "nothing is under way"),
    }
    let contested = facts.state == PrimacyState::Contested;
    let said = if contested {
        "several regions claim to be the primary of one epoch; fence all but one, then name it with \
         POST /api/v1/primary"
    } else {
        "nobody else claims to be the primary"
    };
    list.add(Guard::Contested, !contested, said);
    let Some(primary) = &facts.primary else {
        if kind != OperationKind::Failover {
            list.add(Guard::PrimaryKnown, false, "no primary is known: use failover");
        }
        return;
    };
    let serves = facts.state == PrimacyState::Settled
        && facts.regions.iter().any(|region| region.id == *primary && region.serving > 0);
    match kind {
        OperationKind::Failover if serves => {
            let detail = format!("the primary \"{primary}\" is healthy: switchover loses no write");
            list.add(Guard::PrimaryLost, false, detail);
        }
        OperationKind::Failover => {
            let detail = format!("\"{primary}\" is {}", how(facts, primary));
            list.add(Guard::PrimaryLost, true, detail);
        }
        _ if serves => {
            list.add(Guard::PrimaryKnown, true, format!("the primary \"{primary}\" is healthy"));
        }
        _ => {
            let detail = format!("\"{primary}\" is {}: use failover", how(facts, primary));
            list.add(Guard::PrimaryKnown, false, detail);
        }
    }
}

/// What is wrong with a primary that does not serve.
fn how(facts: &Facts, primary: &RegionId) -> &'static str {
    match facts.regions.iter().find(|region| region.id == *primary) {
        None => "not a region of the service any more",
        Some(region) if region.drained => "drained",
        Some(region) if region.serving == 0 => "down",
        _ => "not the primary for certain",
    }
}

fn target(facts: &Facts, to: &RegionFacts, list: &mut List) {
    let id = &to.id;
    let settled = facts.state == PrimacyState::Settled;
    let other = facts.primary.as_ref() != Some(id) || !settled;
    let detail = if other { "is not the primary" } else { "is the primary already" };
    list.add(Guard::OtherRegion, other, format!("\"{id}\" {detail}"));
    let detail = format!("{} endpoints in \"{id}\"", to.endpoints);
    list.add(Guard::HasEndpoints, to.endpoints > 0, detail);
    let detail = if to.drained { "is drained: undrain it first" } else { "is not drained" };
    list.add(Guard::NotDrained, !to.drained, format!("\"{id}\" {detail}"));
    let detail = format!("{} of {} endpoints of \"{id}\" are healthy", to.serving, to.endpoints);
    list.add(Guard::Healthy, to.serving > 0, detail);
    let stay = |region: &&RegionFacts| {
        let given_up =
            list.kind == OperationKind::Failover && Some(&region.id) == facts.primary.as_ref();
        !given_up && !region.drained && region.serving > 0
    };
    let on: Vec<_> = facts.regions.iter().filter(stay).map(|region| region.id.as_str()).collect();
    let detail = match on.as_slice() {
        [] => "no other region would take requests".to_owned(),
        on => format!("requests go to {}", on.join(", ")),
    };
    let stays = !on.is_empty();
    list.add(Guard::RegionStaysOn, stays, detail);
}

fn lag(facts: &Facts, kind: OperationKind, to: &RegionFacts, list: &mut List) {
    let id = &to.id;
    let bound = match kind {
        OperationKind::Failback => facts.bounds.failback_lag,
        _ => facts.bounds.max_lag,
    };
    let lost = if kind == OperationKind::Failover {
        "; what the primary wrote last may be lost"
    } else {
        ""
    };
    match to.lag {
        _ if to.caught_up => {
            let detail = format!("\"{id}\" has all that is known of the primary");
            list.add(Guard::LagKnown, true, detail);
        }
        Some(lag) => {
            list.add(Guard::LagKnown, true, format!("the lag of \"{id}\" is known"));
            let detail = format!("\"{id}\" is {} behind, at most {}", ms(lag), ms(bound));
            let passed = lag <= bound;
            list.add(Guard::LagBelow, passed, if passed { detail } else { detail + lost });
        }
        None => {
            let detail = format!("nobody knows how far \"{id}\" is behind{lost}");
            list.add(Guard::LagKnown, false, detail);
        }
    }
}

fn times(facts: &Facts, kind: OperationKind, to: &RegionFacts, list: &mut List) {
    let Bounds { cooldown, failback_after, .. } = facts.bounds;
    let detail = match facts.changed {
        None => "the primary has not changed since this edge started".to_owned(),
        Some(ago) => {
            format!("the primary changed {} ago, cooldown is {}", ms(ago), ms(cooldown))
        }
    };
    list.add(Guard::Cooldown, facts.changed.is_none_or(|ago| ago >= cooldown), detail);
    if kind == OperationKind::Failback {
        let (id, after) = (&to.id, ms(failback_after));
        let detail = match to.well_for {
            None => format!("\"{id}\" is not well"),
            Some(so_far) => format!("\"{id}\" has been well for {} of {after}", ms(so_far)),
        };
        let passed = to.well_for.is_some_and(|so_far| so_far >= failback_after);
        list.add(Guard::WellForLong, passed, detail);
    }
}

fn means(facts: &Facts, list: &mut List) {
    if facts.awaits_report {
        let detail = if facts.hears_reports {
            "the endpoints report who is the primary"
        } else {
            "mode follows what endpoints report, but replication.source = \"none\" asks nobody"
        };
        list.add(Guard::Reports, facts.hears_reports, detail);
    }
    if let Some(why) = &facts.broken_hook {
        list.add(Guard::Hook, false, why.clone());
    }
}

/// What keeps an operation from being made, in words; empty: nothing.
pub(super) fn refusals(checks: &[Check], force: bool) -> Vec<String> {
    let stops = |check: &&Check| !check.passed && (!force || !check.overridable);
    let said = |check: &Check| {
        let hint = if check.overridable { " (--force overrides this)" } else { "" };
        format!("{}: {}{hint}", check.guard.label(), check.detail)
    };
    checks.iter().filter(stops).map(said).collect()
}

/// Milliseconds below ten seconds, else seconds.
pub(super) fn ms(duration: Duration) -> String {
    match duration.as_millis() {
        millis @ 0..10_000 => format!("{millis} ms"),
        millis => format!("{} s", millis / 1000),
    }
}

#[cfg(test)]
#[path = "guards_tests.rs"]
mod tests;
