//! The admin endpoint.
//!
//! Promises: a mutation is answered when it is in effect; whoever may not ask learns nothing; bodies, connections and
//! followers are bounded. Refuses to know: how a table is made.

mod access;
mod answer;
mod change;
mod explain;
mod failover;
mod follow;
mod gate;
mod history;
mod patience;
mod preview;
mod read;
mod route;
mod server;
mod upgrade;
pub mod views;
mod writes;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::sync::{Semaphore, watch};

use crate::acme::AcmeReport;
use crate::alerts::AlertQueue;
use crate::clock::Clock;
use crate::data_plane::DataPlane;
use crate::events::Feed;
use crate::failover::Failovers;
use crate::history::History;
use crate::keeper::{KeeperHandle, OverridesReader};
use crate::lifecycle::{Phase, PhaseReader};
use crate::load::Options;
use crate::metrics::{self, Exporter};
use crate::published::{AcmeReader, CertificateReader, GeoReader, SessionKeyReader, TableReader};
use crate::reload::{ReloadHandle, ReloadStatus};
use access::{Caller, Peer, admit};
use answer::{Answer, Problem, json, text, whole};
pub use gate::{Gate, NoChanges};
use route::Resource;
pub use server::InheritedAdmin;
pub(crate) use server::{AdminListener, serve};
pub use upgrade::UpgradeRequest;
pub(crate) use upgrade::{Upgrades, upgrades};

/// The largest request body, bytes.
const BODY_LIMIT: usize = 64 << 10;
/// A request body must have come by then.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Without a whole first round of probes, an edge counts as ready after serving for so long.
const FIRST_ROUND: Duration = Duration::from_secs(3);

/// Who may render metrics.
static RENDERING: Semaphore = Semaphore::const_new(1);

/// Everything the endpoint reads, and the two handles through which it asks for changes.
pub(crate) struct Admin {
    pub(crate) settings: meridian_config::Admin,
    pub(crate) options: Options,
    pub(crate) table: TableReader,
    pub(crate) geo: GeoReader,
    pub(crate) certificates: CertificateReader,
    pub(crate) acme: AcmeReader,
    pub(crate) acme_report: watch::Receiver<AcmeReport>,
    pub(crate) session_keys: SessionKeyReader,
    pub(crate) keeper: KeeperHandle,
    pub(crate) failovers: Failovers,
    pub(crate) reload: ReloadHandle,
    pub(crate) reload_status: watch::Receiver<ReloadStatus>,
    pub(crate) overrides: OverridesReader,
    pub(crate) phases: PhaseReader,
    pub(crate) first_round: Arc<AtomicBool>,
    pub(crate) clock: Clock,
    pub(crate) feed: Feed,
    pub(crate) history: History,
    pub(crate) alerts: AlertQueue,
    pub(crate) data_plane: DataPlane,
    pub(crate) exporter: Exporter,
    pub(crate) followers: Arc<Semaphore>,
    pub(crate) gate: Gate,
    pub(crate) upgrades: Upgrades,
}

/// What came with a request that was let in.
struct Asked<'a> {
    method: &'a Method,
    query: Option<&'a str>,
    body: &'a [u8],
}

/// As many as may follow events.
pub(crate) fn followers() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(follow::FOLLOWERS))
}

impl Admin {
    /// Ready: serving, and every endpoint was probed or had its time.
    fn ready(&self) -> bool {
        let probed = self.first_round.load(Relaxed)
            || self.phases.serving_for().is_some_and(|so_far| so_far >= FIRST_ROUND);
        self.phases.current() == Phase::Serving && probed
    }

    /// Answers one request.
    async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Answer {
        self.try_answer(request, peer).await.unwrap_or_else(Answer::from)
    }

    async fn try_answer(&self, request: Request<Incoming>, peer: Peer) -> Result<Answer, Problem> {
        let Some(resource) = Resource::asked(request.uri().path(), request.method()) else {
            // Whoever may not ask for what exists does not learn what does not.
            admit(&self.settings, &Resource::Status, request.headers(), peer)?;
            return Err(Problem::new(StatusCode::NOT_FOUND, "not_found", "there is no such path"));
        };
        let caller = admit(&self.settings, &resource, request.headers(), peer)?;
        let methods = resource.methods();
        if !methods.contains(request.method()) {
            let status = StatusCode::METHOD_NOT_ALLOWED;
            let mut problem = Problem::new(status, "method_not_allowed", "not with this method");
            let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
            problem.allow = Some(names.join(", "));
            return Err(problem);
        }
        let method = request.method().clone();
        let query = request.uri().query().map(ToOwned::to_owned);
        let body = whole_body(request).await?;
        if resource == Resource::Upgrade {
            return self.upgrade(&caller).await;
        }
        // A cancellation is no change of its own: an upgrade that waits for an operation does not keep anybody from ending it.
        let changing = if resource.mutates() && !matches!(resource, Resource::Cancel(_)) {
            Some(self.gate.begin_change().ok_or_else(upgrade::busy)?)
        } else {
            None
        };
        let asked = Asked { method: &method, query: query.as_deref(), body: &body };
        let answer = self.act(resource, &caller, asked).await;
        drop(changing);
        answer
    }

    async fn act(
        &self,
        resource: Resource,
        caller: &Caller,
        Asked { method, query, body }: Asked<'_>,
    ) -> Result<Answer, Problem> {
        match resource {
            Resource::Override(target, kind) if method == Method::PUT => {
                self.set(target, kind, caller, body).await
            }
            Resource::Override(target, kind) => self.clear(target, kind, caller).await,
            Resource::Reload => self.reload_now(caller).await,
            Resource::Explain => self.explain(body),
            Resource::Operate(service, kind) => self.operate(service, kind, caller, body),
            Resource::Cancel(service) => self.cancel(&service, caller),
            Resource::Operation(service) => self.operation(&service),
            Resource::Primary => self.name_primary(caller, body).await,
            Resource::History => self.history(query.unwrap_or_default()),
            other => self.read(&other).await,
        }
    }

    async fn read(&self, resource: &Resource) -> Result<Answer, Problem> {
        Ok(match resource {
            Resource::Live => text(StatusCode::OK, "live"),
            Resource::Ready if self.ready() => text(StatusCode::OK, "ready"),
            Resource::Ready => {
                let phase = self.phases.current();
                let why = if phase == Phase::Serving { "probing" } else { phase.label() };
                text(StatusCode::SERVICE_UNAVAILABLE, &format!("not ready: {why}"))
            }
            Resource::Metrics => self.metrics().await?,
            Resource::Version => json(&self.version()),
            Resource::Status => json(&self.status()),
            Resource::Regions => json(&self.regions()),
            Resource::Services => json(&self.services()),
            Resource::Routes => json(&self.routes()),
            Resource::Config => json(&self.config()),
            Resource::Overrides => json(&self.overrides()),
            Resource::Acme => json(&self.acme()),
            Resource::Events => self.follow()?,
            Resource::Operations => json(&self.failovers.list()),
            Resource::History
            | Resource::Reload
            | Resource::Explain
            | Resource::Upgrade
            | Resource::Override(..)
            | Resource::Operate(..)
            | Resource::Operation(_)
            | Resource::Cancel(_)
            | Resource::Primary => {
                return Err(Problem::bad_request("nothing to read here"));
            }
        })
    }

    async fn metrics(&self) -> Result<Answer, Problem> {
        // One page at a time: many scrapers at once would take the processor from the traffic.
        let permit = RENDERING.acquire().await.ok();
        let exporter = self.exporter.clone();
        let job = tokio::task::spawn_blocking(move || {
            let page = exporter.render();
            drop(permit);
            page
        });
        let page = job.await.unwrap_or_else(|error| Err(error.to_string()));
        match page {
            Ok(page) => Ok(whole(StatusCode::OK, metrics::CONTENT_TYPE, page)),
            Err(error) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error)),
        }
    }
}

async fn whole_body(request: Request<Incoming>) -> Result<Vec<u8>, Problem> {
    let too_large = || {
        let message = "a body may have 64 KiB";
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    };
    let declared = request.headers().get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > BODY_LIMIT as u64) {
        return Err(too_large());
    }
    let collecting = Limited::new(request.into_body(), BODY_LIMIT).collect();
    match tokio::time::timeout(BODY_TIMEOUT, collecting).await {
        Ok(Ok(body)) => Ok(body.to_bytes().to_vec()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Problem::bad_request("the body is broken")),
        Err(_) => {
            let message = "the body took too long";
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", message))
        }
    }
}
