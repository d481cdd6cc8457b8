//! Moves of a service's primary to another region: failover, failback, switchover.
//!
//! Promises: one at a time for each service; every one ends, well, refused, failed or cancelled, within its time, and says
//! how; one that fails leaves writes with the old primary if it still is one. Refuses to know: how a database is
//! promoted (the hook does that) and who is the primary (the keeper follows that). It never elects.

mod facts;
mod guards;
mod hook;
mod run;
mod watch;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meridian_config::{FailoverMode, RegionId, ReplicationSource, ServiceName};
use meridian_routing::{Micros, RoutingTable, ServiceView};
use serde_json::json;
use tokio::sync::{OwnedRwLockReadGuard, watch as signal};

use crate::admin::Gate;
use crate::admin::views::{CheckView, OperationView, PlanView, StepView};
use crate::clock::{Clock, unix_ms};
use crate::events::Feed;
use crate::history::History;
use crate::keeper::KeeperHandle;
use crate::published::TableReader;
use guards::{Check, Facts, RegionFacts, candidate, checks, refusals};
use hook::Hook;
pub(crate) use watch::watch;

/// Why a hook cannot be run, if that can be seen from outside.
pub(crate) fn broken_hook(command: &[String]) -> Option<String> {
    Hook { command: command.to_vec(), limit: Duration::ZERO }.broken()
}

/// What is done beside the hook, at the most.
const BESIDE_THE_HOOK: Duration = Duration::from_secs(30);
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(3600);

/// What may be done to a primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OperationKind {
    /// The primary is lost, or given up.
    Failover,
    /// Back to the one that the file names.
    Failback,
    /// Planned: no write is lost.
    Switchover,
}

impl OperationKind {
    pub(crate) const ALL: [Self; 3] = [Self::Failover, Self::Failback, Self::Switchover];

    /// As paths, the log and the history write it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::Failback => "failback",
            Self::Switchover => "switchover",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.label() == text)
    }
}

/// What somebody asks for.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) service: String,
    pub(crate) kind: OperationKind,
    pub(crate) to: Option<String>,
    pub(crate) actor: String,
    pub(crate) reason: String,
    pub(crate) force: bool,
    pub(crate) timeout: Option<Duration>,
}

/// Why nothing was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotBegun {
    NotFound(String),
    Bad(String),
    Refused(Vec<String>),
    Upgrading,
}

/// What is going to be done.
#[derive(Clone, Debug)]
struct Plan {
    service: ServiceName,
    kind: OperationKind,
    from: Option<RegionId>,
    to: RegionId,
    epoch: u64,
    actor: String,
    reason: String,
    forced: bool,
    timeout: Duration,
    /// The edge itself raises the epoch (mode `manual`, or nobody reports).
    appoints: bool,
    hook: Option<Hook>,
    /// A position or lag that is asked for comes so often.
    interval: Duration,
    edge: String,
}

/// Begins, shows and cancels operations.
#[derive(Clone)]
pub(crate) struct Failovers(Arc<Inner>);

struct Inner {
    table: TableReader,
    keeper: KeeperHandle,
    clock: Clock,
    feed: Feed,
    history: History,
    gate: Gate,
    known: Mutex<BTreeMap<String, Known>>,
}

/// What is remembered of a service, for as long as the process lives.
#[derive(Default)]
struct Known {
    /// The operation that runs, or ran last.
    operation: Option<Operation>,
    memory: watch::Memory,
}

struct Operation {
    view: OperationView,
    kind: OperationKind,
    begun: Micros,
    closed: Option<Micros>,
    /// Who gave it up.
    cancel: signal::Sender<Option<String>>,
}

impl Operation {
    fn is_running(&self) -> bool {
        self.view.state == "running"
    }
}

impl Failovers {
    pub(crate) fn new(
        table: TableReader,
        keeper: KeeperHandle,
        clock: Clock,
        (feed, history): (Feed, History),
        gate: Gate,
    ) -> Self {
        let known = Mutex::default();
        Self(Arc::new(Inner { table, keeper, clock, feed, history, gate, known }))
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What would be done, and what would keep it from being done.
    pub(crate) fn preview(&self, request: &Request) -> Result<PlanView, NotBegun> {
        let table = self.0.table.load();
        let service = find(&table, &request.service)?;
        let facts = self.facts(&table, service);
        let timeout = timeout(service, request)?;
        let (to, list, refused) = match candidate(&facts, request.kind, request.to.as_deref()) {
            Ok(to) => {
                let list = checks(&facts, request.kind, to);
                let refused = refusals(&list, request.force);
                (Some(to), list, refused)
            }
            Err(why) => (None, Vec::new(), vec![why]),
        };
        let plan = to.map(|to| plan(&table, service, request, to, timeout));
        Ok(PlanView {
            dry_run: true,
            operation: request.kind.label().to_owned(),
            service: request.service.clone(),
            from: facts.primary.as_ref().map(ToString::to_string),
            to: to.map(|to| to.id.to_string()),
            epoch: service.primacy.epoch,
            steps: plan.as_ref().map(run::steps).unwrap_or_default(),
            warnings: plan.as_ref().map(|plan| warnings(plan, service)).unwrap_or_default(),
            checks: list.into_iter().map(check_view).collect(),
            refused,
            timeout_ms: timeout.as_millis() as u64,
        })
    }

    /// Begins an operation; it goes on by itself.
    pub(crate) fn begin(&self, request: &Request) -> Result<OperationView, NotBegun> {
        // An upgrade waits for it.
        let change = self.0.gate.begin_change().ok_or(NotBegun::Upgrading)?;
        let table = self.0.table.load();
        let service = find(&table, &request.service)?;
        let timeout = timeout(service, request)?;
        let facts = self.facts(&table, service);
        let refused = |why| NotBegun::Refused(vec![why]);
        let to = candidate(&facts, request.kind, request.to.as_deref()).map_err(refused)?;
        let list = checks(&facts, request.kind, to);
        let refused = refusals(&list, request.force);
        if !refused.is_empty() {
            tracing::warn!(
                target: "audit", action = request.kind.label(), actor = request.actor,
                service = request.service, region = %to.id, reason = request.reason,
                refused = refused.join("; "), "refused"
            );
            return Err(NotBegun::Refused(refused));
        }
        let mut plan = plan(&table, service, request, to, timeout);
        plan.forced = list.iter().any(|check| !check.passed);
        Ok(self.start(plan, change))
    }

    fn start(&self, plan: Plan, change: OwnedRwLockReadGuard<()>) -> OperationView {
        let (cancel, cancelled) = signal::channel(None);
        let text = |id: &RegionId| id.to_string();
        let mut known = self.known();
        let entry = known.entry(plan.service.to_string()).or_default();
        let id = entry.operation.as_ref().map_or(0, |last| last.view.id) + 1;
        let view = OperationView {
            id,
            operation: plan.kind.label().to_owned(),
            service: plan.service.to_string(),
            from: plan.from.as_ref().map(text),
            to: text(&plan.to),
            epoch: plan.epoch,
            actor: plan.actor.clone(),
            reason: plan.reason.clone(),
            forced: plan.forced,
            state: "running".to_owned(),
            steps: Vec::new(),
            started_unix_ms: unix_ms(),
            took_ms: 0,
            timeout_ms: plan.timeout.as_millis() as u64,
            paused_ms: None,
            outcome: None,
            primary: plan.from.as_ref().map(text),
        };
        let begun = self.0.clock.now();
        let operation =
            Operation { view: view.clone(), kind: plan.kind, begun, closed: None, cancel };
        entry.operation = Some(operation);
        drop(known);
        tracing::info!(
            target: "audit", action = view.operation, actor = view.actor, service = view.service,
            region = view.to, reason = view.reason, forced = view.forced, "operation"
        );
        self.tell(&view);
        let failovers = self.clone();
        tokio::spawn(async move {
            failovers.carry_out(&plan, cancelled).await;
            drop(change);
        });
        view
    }

    /// Gives up the operation that is under way; `None`: there is none.
    pub(crate) fn cancel(&self, service: &str, actor: &str) -> Option<OperationView> {
        let known = self.known();
        let operation = known.get(service)?.operation.as_ref().filter(|o| o.is_running())?;
        operation.cancel.send_replace(Some(actor.to_owned()));
        tracing::info!(target: "audit", action = "cancel", actor, service, "operation");
        Some(self.shown(operation))
    }

    /// The operation that runs, or ran last.
    pub(crate) fn show(&self, service: &str) -> Option<OperationView> {
        let known = self.known();
        known.get(service)?.operation.as_ref().map(|operation| self.shown(operation))
    }

    /// All of them.
    pub(crate) fn list(&self) -> Vec<OperationView> {
        let known = self.known();
        let operations = known.values().filter_map(|known| known.operation.as_ref());
        operations.map(|operation| self.shown(operation)).collect()
    }

    fn shown(&self, operation: &Operation) -> OperationView {
        let mut view = operation.view.clone();
        if operation.is_running() {
            let now = self.0.clock.now();
            view.took_ms = now.since(operation.begun).as_millis() as u64;
            view.paused_ms = operation.closed.map(|at| now.since(at).as_millis() as u64);
        }
        view
    }

    /// Changes what is shown of an operation, and tells those who follow.
    fn update(&self, service: &ServiceName, change: impl FnOnce(&mut Operation, u64)) {
        let mut known = self.known();
        let operation = known.get_mut(service.as_str()).and_then(|k| k.operation.as_mut());
        let Some(operation) = operation else { return };
        let at_ms = self.0.clock.now().since(operation.begun).as_millis() as u64;
        change(operation, at_ms);
        let view = self.shown(operation);
        drop(known);
        self.tell(&view);
    }

    fn tell(&self, view: &OperationView) {
        self.0.feed.tell("operation", self.0.table.load().generation, json!(view));
    }

    fn step(&self, service: &ServiceName, step: &str) {
        tracing::info!(target: "failover", %service, step, "begins");
        self.update(service, |operation, at_ms| {
            operation.view.steps.push(StepView { step: step.to_owned(), at_ms, result: None });
        });
    }

    fn result(&self, service: &ServiceName, result: String) {
        tracing::info!(target: "failover", %service, result, "step is over");
        self.update(service, |operation, _| {
            if let Some(last) = operation.view.steps.last_mut() {
                last.result = Some(result);
            }
        });
    }

    fn facts(&self, table: &RoutingTable, service: &ServiceView) -> Facts {
        let known = self.known();
        let known = known.get(service.settings.name.as_str());
        let under_way = known.and_then(|known| known.operation.as_ref());
        let under_way = under_way.filter(|o| o.is_running()).map(|o| o.kind);
        facts::of(table, service, self.0.clock.now(), under_way, known.map(|k| &k.memory))
    }
}

fn find<'t>(table: &'t RoutingTable, name: &str) -> Result<&'t ServiceView, NotBegun> {
    let mut services = table.services.iter();
    let found = services.find(|service| service.settings.name.as_str() == name);
    found.ok_or_else(|| NotBegun::NotFound(format!("there is no service \"{name}\"")))
}

/// A switchover ends before the first write that waits for it is refused; a failover has time for its hook.
fn timeout(service: &ServiceView, request: &Request) -> Result<Duration, NotBegun> {
    let settings = &service.settings.failover;
    let default = match request.kind {
        OperationKind::Failover => settings.hook_timeout + BESIDE_THE_HOOK,
        _ => settings.write_park.time.mul_f64(0.9).max(SHORTEST),
    };
    let timeout = request.timeout.unwrap_or(default);
    if request.kind == OperationKind::Failback && request.to.is_some() {
        return Err(NotBegun::Bad(
            "a failback goes to the file's primary: \"to\" is not for it".into(),
        ));
    }
    if (SHORTEST..=LONGEST).contains(&timeout) {
        Ok(timeout)
    } else {
        Err(NotBegun::Bad("timeout: from 1 s to 1 h".into()))
    }
}

fn plan(
    table: &RoutingTable,
    service: &ServiceView,
    request: &Request,
    to: &RegionFacts,
    timeout: Duration,
) -> Plan {
    let settings = &service.settings;
    let hook =
        || Hook { command: settings.failover.hook.clone(), limit: settings.failover.hook_timeout };
    let interval = match settings.replication.source {
        ReplicationSource::Headers => settings.health.interval,
        _ => settings.replication.interval,
    };
    let primary = service.primacy.region.map(|region| table.region(region).settings.id.clone());
    Plan {
        service: settings.name.clone(),
        kind: request.kind,
        from: primary,
        to: to.id.clone(),
        epoch: service.primacy.epoch,
        actor: request.actor.clone(),
        reason: request.reason.clone(),
        forced: false,
        timeout,
        appoints: settings.failover.mode == FailoverMode::Manual,
        hook: (!settings.failover.hook.is_empty()).then(hook),
        interval,
        edge: table.config.edge.id.clone(),
    }
}

fn warnings(plan: &Plan, service: &ServiceView) -> Vec<String> {
    let mut warnings = Vec::new();
    let park = service.settings.failover.write_park;
    if plan.kind != OperationKind::Failover && plan.timeout > park.time {
        let time = guards::ms(park.time);
        warnings
            .push(format!("writes wait for {time} at most (write_park.time), then they get 503"));
    }
    if plan.hook.is_none() && !plan.appoints {
        warnings.push(format!(
            "there is no hook: somebody else has to promote \"{}\" within {}",
            plan.to,
            guards::ms(plan.timeout)
        ));
    }
    if plan.appoints {
        warnings.push(
            "mode \"manual\": this edge alone learns of it; other edges have to be told as well"
                .into(),
        );
    }
    warnings
}

fn check_view(check: Check) -> CheckView {
    let Check { guard, passed, overridable, detail } = check;
    CheckView { guard: guard.label().to_owned(), passed, overridable, detail }
}
