//! What the admin endpoint answers, as types that both sides share: the edge writes them, the command line reads them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use crate::history::{
    Affected, Cause, ChangeKindWord, HistoryEvent, OperationRecord, RegionState,
};
use crate::lifecycle::Phase;

macro_rules! views {
    ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
            pub struct $name { $($(#[$fdoc])* pub $field: $type,)* }
        )*
    };
}

mod failover;
mod history;

pub use failover::{
    CheckView, OperationRequest, OperationView, PlanView, PrimaryRequest, PromotionView, StepView,
};
pub use history::{AlertsStatusView, HistoryStatusView, HistoryView};

views! {
    /// `GET /version`
    VersionView {
        /// The program's version.
        version: String,
        /// The revision it was built from.
        revision: String,
    }

    /// `GET /api/v1/status`
    StatusView {
        /// The edge's id.
        edge: String,
        /// The program's version.
        version: String,
        /// The revision it was built from.
        revision: String,
        /// Generation of the table in force.
        generation: u64,
        /// Where the process is in its life.
        phase: Phase,
        /// What `/readyz` says.
        ready: bool,
        /// Since the start, seconds.
        uptime_s: u64,
        /// The configuration in force.
        config: ConfigStatusView,
        /// The geo database in force.
        geo: GeoStatusView,
        /// The certificates in force.
        certificates: CertificatesStatusView,
        /// How the history of regions stands.
        history: HistoryStatusView,
        /// How the webhook stands; absent: nobody is told.
        alerts: Option<AlertsStatusView>,
        /// How writes are, by service that has a primary, or has had one.
        #[serde(default)]
        writes: Vec<WritesView>,
        /// Moves of primaries that are under way.
        operations: Vec<OperationView>,
        /// How many connections the limit of open files leaves room for; absent: as many as `edge.max_connections`.
        connections_room: Option<u64>,
        /// How many there are.
        counts: CountsView,
    }

    /// How the writes of a service are.
    WritesView {
        /// The service.
        service: String,
        /// settled, unknown, contested or moving; writes go on only where it is settled.
        state: String,
        /// The primary, or the last known one.
        region: Option<String>,
        /// The highest epoch that is known.
        epoch: u64,
        /// Since when, unix milliseconds.
        since_unix_ms: u64,
        /// Requests that wait for a primary.
        parked: u32,
        /// Refused in the last minute because there was no primary, or because it did not take them.
        refused_1m: u64,
        /// The primary answers 421 to writes of its epoch, and has in the last minute: the epoch that it says, 0 for none.
        turned_away_own_epoch: Option<u64>,
        /// What is wrong, in words; empty: nothing.
        troubles: Vec<String>,
        /// Reports of endpoints that are of no use, with the reason.
        #[serde(default)]
        reports: Vec<String>,
    }

    /// How the configuration stands.
    ConfigStatusView {
        /// The file.
        path: String,
        /// SHA-256 of the text in force, hex.
        hash: String,
        /// When it was last read, well or not; unix milliseconds.
        last_reload_unix_ms: u64,
        /// Whether the file is the one in force.
        last_reload_ok: bool,
        /// Why not.
        last_error: Option<String>,
    }

    /// How the geo database stands.
    GeoStatusView {
        /// The file; absent: the embedded one.
        path: Option<String>,
        /// Its maker's name for its kind.
        database_type: String,
        /// When it was made, unix seconds.
        built_unix_s: u64,
        /// Why the file could not replace the one in force.
        last_error: Option<String>,
    }

    /// How the certificates of TLS listeners stand.
    CertificatesStatusView {
        /// How many there are.
        count: usize,
        /// When the first of them expires, unix seconds; absent: there is none.
        first_expiry_unix_s: Option<i64>,
        /// Why the files could not replace those in force.
        last_error: Option<String>,
        /// Those of `[acme]` whose last order has failed: name and why.
        #[serde(default)]
        failing: BTreeMap<String, String>,
    }

    /// One of `GET /api/v1/acme`
    AcmeView {
        /// Its first domain.
        name: String,
        /// What it is for.
        domains: Vec<String>,
        /// valid, awaited (there is none yet), ordering or failing.
        state: String,
        /// When the one in force expires, unix seconds; absent: there is none.
        not_after_unix_s: Option<i64>,
        /// When the next order begins, unix milliseconds; absent: one is under way.
        next_order_unix_ms: Option<u64>,
        /// Orders that have failed since one was issued.
        failures: u32,
        /// Why the last of them has.
        last_error: Option<String>,
        /// Issued since the process's start.
        issued: u64,
        /// Failed since the process's start.
        failed: u64,
    }

    /// How many there are.
    CountsView {
        /// Regions.
        regions: usize,
        /// Services.
        services: usize,
        /// Routes.
        routes: usize,
        /// Endpoints, over all services.
        endpoints: usize,
        /// Healthy ones that are not ejected.
        endpoints_healthy: usize,
        /// Those that traffic has put out.
        endpoints_ejected: usize,
        /// Overrides in force.
        overrides: usize,
        /// Requests in flight.
        in_flight: u64,
        /// Open client connections.
        connections: u64,
    }

    /// One of `GET /api/v1/regions`
    RegionView {
        /// Its id.
        id: String,
        /// primary: of one of its services at least; else replica.
        role: String,
        /// Takes no new requests.
        drain: Setting<bool>,
        /// Its weight.
        weight: Setting<u32>,
        /// Round trip as measured of late, milliseconds; ranking follows with hysteresis.
        round_trip_ms: Option<f64>,
        /// Whether that was measured (else estimated from distance).
        measured: bool,
        /// Requests in flight from this edge.
        in_flight: u32,
        /// How many may be.
        capacity: Option<u32>,
        /// The services that have endpoints here.
        services: Vec<RegionServiceView>,
    }

    /// One service in one region.
    RegionServiceView {
        /// The service.
        service: String,
        /// Healthy endpoints that are not ejected.
        healthy: usize,
        /// Endpoints that traffic has put out.
        ejected: usize,
        /// All endpoints.
        total: usize,
        /// primary or replica of this service.
        role: Option<String>,
        /// What is known of the service's primary, wherever that is: settled, unknown, contested or moving.
        primary_state: Option<String>,
        /// The lowest position of its endpoints in the epoch in force; absent: unknown.
        position: Option<u64>,
        /// How far that is behind the primary's.
        behind: Option<u64>,
        /// Replication lag as last reported, milliseconds.
        lag_ms: Option<u64>,
        /// Time since then, milliseconds.
        lag_age_ms: Option<u64>,
        /// That is too long: the lag is not known any more.
        #[serde(default)]
        lag_stale: bool,
    }

    /// One of `GET /api/v1/services`
    ServiceView {
        /// Its name.
        name: String,
        /// How regions are ordered, unless a route says otherwise.
        policy: String,
        /// What is known of its primary.
        primary: Option<PrimaryView>,
        /// Its endpoints, in file order.
        endpoints: Vec<EndpointView>,
    }

    /// What is known of a service's primary.
    PrimaryView {
        /// The last known primary, also when not settled.
        region: Option<String>,
        /// The highest epoch that is known; 0: nobody has said one.
        epoch: u64,
        /// The epoch in which `region` became the primary.
        region_epoch: u64,
        /// settled, unknown, contested or moving; writes go on only where it is settled.
        state: String,
        /// Who says so: file, reported, operator, restored or forgotten.
        source: String,
        /// Whether the region itself has said so.
        confirmed: bool,
        /// Whether an operator has decided between regions that claim one epoch: others' claims of it do not count.
        #[serde(default)]
        decided: bool,
        /// When an operator had the epochs forgotten the last time, unix milliseconds.
        forgotten_unix_ms: Option<u64>,
        /// Since when, unix milliseconds.
        since_unix_ms: u64,
        /// Who may name another: follow, manual or hook.
        mode: String,
        /// The highest epoch that anybody has said.
        highest_epoch: u64,
        /// The primary's position; absent: unknown.
        position: Option<u64>,
        /// Writes under way to it.
        writes_in_flight: u32,
        /// Writes under way that were decided before it became the primary.
        writes_left_over: u32,
    }

    /// One endpoint.
    EndpointView {
        /// Where it stands.
        region: String,
        /// As the file writes it.
        address: String,
        /// By probes: unknown, healthy or unhealthy.
        health: String,
        /// What it says that it is: primary or replica.
        role: Option<String>,
        /// The epoch that it says.
        epoch: Option<u64>,
        /// An epoch that it says and that is not believed, because it is too far above what is known.
        disbelieved_epoch: Option<u64>,
        /// How far it has come in the epoch in force.
        position: Option<u64>,
        /// Why traffic has put it out; absent: it has not.
        ejected: Option<EjectionView>,
        /// Takes no new requests.
        drain: Setting<bool>,
        /// Its weight inside the region.
        weight: Setting<u32>,
        /// Requests in flight.
        in_flight: u32,
        /// What a request costs by peak EWMA, milliseconds.
        cost_ms: f64,
        /// Requests since the process started.
        requests: u64,
        /// Failed ones.
        failures: u64,
        /// Where it is connected to; empty while its name has not been resolved.
        addresses: Vec<String>,
        /// What was wrong with its last report of role, epoch, position and lag; absent: nothing, or it is not asked.
        report_error: Option<String>,
        /// Why hands could not be shaken with it the last time; absent: they could, or it has no TLS.
        tls_error: Option<String>,
    }

    /// An endpoint that takes no requests because of what traffic said of it.
    EjectionView {
        /// connection-failures, consecutive-5xx, success-ratio or trial.
        cause: String,
        /// What was seen, in words.
        evidence: String,
        /// How many ejections there were in a row, this one included.
        times: u32,
        /// When it began, unix milliseconds.
        since_unix_ms: u64,
        /// Not before then is it tried again, unix milliseconds.
        until_unix_ms: u64,
        /// Its next request decides whether it ends.
        trial: bool,
    }

    /// One of `GET /api/v1/routes`
    RouteView {
        /// Its name.
        name: String,
        /// The hosts it answers for; empty: any.
        hosts: Vec<String>,
        /// The path: `=/exact`, `/prefix` or `~regex`.
        path: String,
        /// Methods; empty: any.
        methods: Vec<String>,
        /// The service.
        service: String,
        /// auto, read, write or read_primary.
        access: String,
        /// How regions are ordered.
        policy: String,
        /// A read may be at most this stale, milliseconds.
        max_staleness_ms: Option<u64>,
        /// Regions where clients bound by its residency rule may be served.
        residency: Option<Vec<String>>,
    }

    /// `GET /api/v1/config`
    ConfigView {
        /// The file.
        path: String,
        /// SHA-256 of the text in force, hex.
        hash: String,
        /// Generation of the table in force.
        generation: u64,
        /// The configuration in force with all defaults, as TOML, without secrets.
        effective_toml: String,
    }

    /// One of `GET /api/v1/overrides`
    OverrideView {
        /// The region, if it is about one.
        region: Option<String>,
        /// The service, if it is about an endpoint.
        service: Option<String>,
        /// The endpoint's address.
        address: Option<String>,
        /// drain or weight.
        kind: String,
        /// What it sets: a truth value or a number.
        value: Value,
        /// What the file said when it was made.
        file_value: Value,
        /// Who made it.
        actor: String,
        /// Why.
        reason: String,
        /// When, unix milliseconds.
        created_unix_ms: u64,
        /// Until when; absent: until it is taken back.
        expires_unix_ms: Option<u64>,
        /// Of a drain: its own session grace, milliseconds; absent: the service's applies.
        session_grace_ms: Option<u64>,
    }

    /// What happened; the data of a server-sent event.
    EventView {
        /// Ascending.
        id: u64,
        /// When, unix milliseconds.
        unix_ms: u64,
        /// What kind of event.
        kind: String,
        /// The table generation it is in effect in, if it changed the table.
        generation: Option<u64>,
        /// More, by kind.
        data: Value,
    }

    /// The answer to a drain, an undrain or a weight.
    MutationView {
        /// The table generation in which it is in effect.
        generation: u64,
        /// Whether anything had to be done.
        changed: bool,
        /// What the operator should know.
        warnings: Vec<String>,
    }

    /// The answer to a drain with `dry_run`.
    DryRunView {
        /// Always true.
        dry_run: bool,
        /// The table that was looked at.
        generation: u64,
        /// Regions that would still take requests.
        regions_left: Vec<String>,
        /// By service, the regions that would still serve it.
        services: BTreeMap<String, Vec<String>>,
        /// Services that no region would serve.
        services_without_region: Vec<String>,
        /// Routes that would have no region for some of their clients: for all, or for those that residency binds.
        routes_without_region: Vec<String>,
        /// Their share of all routes, 0 to 1.
        share_without_region: f64,
        /// What the operator should know.
        warnings: Vec<String>,
    }

    /// The answer to a reload.
    ReloadView {
        /// The table generation in force.
        generation: u64,
        /// Whether the file said anything new.
        changed: bool,
        /// In words.
        message: String,
        /// What the parser warned of.
        warnings: Vec<String>,
    }

    /// Any error.
    ErrorView {
        /// What went wrong.
        error: ErrorBody,
    }

    /// What went wrong.
    ErrorBody {
        /// For programs.
        code: String,
        /// For people.
        message: String,
    }

    /// The answer to `explain`.
    ExplainView {
        /// The table it was decided with.
        generation: u64,
        /// The client as routing saw it.
        client: ExplainClientView,
        /// The route that matched.
        route: Option<String>,
        /// Its service.
        service: Option<String>,
        /// What is known of the service's primary.
        primary: Option<ExplainPrimaryView>,
        /// read, write or read_primary.
        access: Option<String>,
        /// The policy that ranked.
        policy: Option<String>,
        /// The bound on staleness that applied, milliseconds.
        max_staleness_ms: Option<u64>,
        /// What the session has seen, as the request's tokens say it.
        session: Option<ExplainSessionView>,
        /// Where the request would go; absent if it would be refused.
        decision: Option<ExplainDecisionView>,
        /// Why it would be refused.
        refusal: Option<ExplainRefusalView>,
        /// Every region in rank order, the ones a filter took away last.
        candidates: Vec<CandidateView>,
        /// The service's endpoints that traffic has put out.
        ejected: Vec<ExplainEjectedView>,
    }

    /// What a read must find.
    ExplainSessionView {
        /// The epoch of the position.
        epoch: u64,
        /// The least position.
        position: Option<u64>,
        /// Only the primary is sure to have it.
        primary: bool,
    }

    /// What is known of a service's primary.
    ExplainPrimaryView {
        /// The last known one.
        region: Option<String>,
        /// The highest epoch that is known.
        epoch: u64,
        /// settled, unknown, contested or moving.
        state: String,
    }

    /// An endpoint that traffic has put out.
    ExplainEjectedView {
        /// Its region.
        region: String,
        /// Its address.
        endpoint: String,
        /// connection-failures, consecutive-5xx, success-ratio or trial.
        cause: String,
        /// What was seen, in words.
        evidence: String,
        /// How many ejections there were in a row.
        times: u32,
        /// For so long yet, milliseconds; 0: its next request is its trial, or it waits for a probe that passes.
        left_ms: u64,
    }

    /// The client as routing saw it.
    ExplainClientView {
        /// Its address.
        address: String,
        /// Its country.
        country: Option<String>,
        /// Its continent.
        continent: Option<String>,
    }

    /// Where the request would go.
    ExplainDecisionView {
        /// The region.
        region: String,
        /// Why this region.
        reason: String,
        /// The endpoint's address.
        endpoint: String,
        /// Why this endpoint.
        endpoint_reason: String,
    }

    /// Why it would be refused.
    ExplainRefusalView {
        /// The filter that left nothing.
        filter: String,
        /// The answer's status code.
        status: u16,
        /// `Retry-After`, seconds.
        retry_after: Option<u32>,
    }

    /// One region, as the request sees it.
    CandidateView {
        /// The region.
        region: String,
        /// Its place in the ranking, from 1; equal numbers share a band.
        rank: Option<usize>,
        /// Part of the requests like this one that its band takes, 0 to 1.
        share: Option<f64>,
        /// The filter that took it away.
        excluded_by: Option<String>,
        /// primary or replica.
        role: String,
        /// Takes no new requests.
        drain: bool,
        /// Healthy weight of the judged weight, 0 to 1.
        healthy_fraction: Option<f64>,
        /// Its weight.
        weight: u32,
        /// Round trip in force for ranking, milliseconds.
        round_trip_ms: Option<f64>,
        /// Whether that was measured (else estimated).
        round_trip_measured: bool,
        /// Distance to the client, kilometres.
        distance_km: Option<f64>,
        /// Replication lag, milliseconds.
        lag_ms: Option<u64>,
        /// Age of the lag sample, milliseconds.
        lag_age_ms: Option<u64>,
        /// It is too old: the lag is not known any more.
        #[serde(default)]
        lag_stale: bool,
    }
}

/// A value in effect and who set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Who set it.
    pub source: ValueSource,
}

/// Who set a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueSource {
    /// The configuration file.
    File,
    /// The operator.
    Override,
}

/// The body of `PUT .../drain`; may be absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// `false` puts in service what the file drains; default `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<bool>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long: `"30m"`, or seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Value>,
    /// So long, sessions still go to the endpoints they are bound to: `"10m"`, or seconds; default: the service's
    /// `session_grace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_grace: Option<Value>,
    /// Only tell what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Who asks, as they claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}

/// The body of `PUT .../weight`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightRequest {
    /// 0 to 65535.
    pub weight: u32,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long: `"30m"`, or seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Value>,
    /// Who asks, as they claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}

/// The body of `POST /api/v1/explain`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// Default `GET`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The Host; a port is ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Default `/`; a query is ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The client's address; absent: one that is nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<std::net::IpAddr>,
    /// Request headers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The client's own bound on staleness, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_staleness_ms: Option<u64>,
    /// The body, for GraphQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// What the client shows; absent: no certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<ExplainCertificate>,
}

/// A client's certificate, as far as routes ask about it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainCertificate {
    /// Its names: hosts, URIs, mailboxes, addresses.
    #[serde(default)]
    pub san: Vec<String>,
    /// SHA-256, hexadecimal.
    #[serde(default)]
    pub fingerprint: String,
}

/// A new process has taken over.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct UpgradeView {
    /// Its id.
    pub pid: u32,
}
