//! Moves of the primary, as operators ask for them.

use std::time::Duration;

use http::StatusCode;
use meridian_config::{RegionIndex, ReplicationSource};
use meridian_routing::{Role, RoutingTable, Said, ServiceView};
use serde_json::Value;

use super::access::Caller;
use super::answer::{Answer, Problem, json, json_with};
use super::change::{ACTOR, REASON, duration_s, line, parse, unanswered};
use super::views::{OperationRequest, PrimaryRequest, PromotionView};
use super::{Admin, upgrade};
use crate::failover::{NotBegun, OperationKind, Request};
use crate::keeper::{Event, ForgetOrder, PrimacyOrder};

impl Admin {
    /// Begins an operation: 202 with what is shown of it, or 200 with the plan of a dry run.
    pub(super) fn operate(
        &self,
        service: String,
        kind: OperationKind,
        caller: &Caller,
        body: &[u8],
    ) -> Result<Answer, Problem> {
        let empty = body.trim_ascii().is_empty();
        let asked: OperationRequest =
            if empty { OperationRequest::default() } else { parse(body)? };
        let reason = line(asked.reason, "reason", REASON)?.unwrap_or_default();
        let claimed = line(asked.actor, "actor", ACTOR)?;
        let timeout = asked.timeout.as_ref().map(time).transpose()?;
        let (to, force, actor) = (asked.to, asked.force, caller.actor(claimed.as_deref()));
        let request = Request { service, kind, to, actor, reason, force, timeout };
        if asked.dry_run {
            return Ok(json(&self.failovers.preview(&request).map_err(not_begun)?));
        }
        let view = self.failovers.begin(&request).map_err(not_begun)?;
        Ok(json_with(StatusCode::ACCEPTED, &view))
    }

    pub(super) fn operation(&self, service: &str) -> Result<Answer, Problem> {
        let none = || not_found(format!("there was no operation of service \"{service}\""));
        self.failovers.show(service).map(|view| json(&view)).ok_or_else(none)
    }

    pub(super) fn cancel(&self, service: &str, caller: &Caller) -> Result<Answer, Problem> {
        let none = || not_found(format!("no operation of service \"{service}\" is under way"));
        let view = self.failovers.cancel(service, &caller.actor(None)).ok_or_else(none)?;
        Ok(json_with(StatusCode::ACCEPTED, &view))
    }

    /// Names the primary, whoever is alive.
    pub(super) async fn name_primary(
        &self,
        caller: &Caller,
        body: &[u8],
    ) -> Result<Answer, Problem> {
        let asked: PrimaryRequest = parse(body)?;
        let reason = line(Some(asked.reason), "reason", REASON)?.unwrap_or_default();
        let claimed = line(asked.actor, "actor", ACTOR)?;
        let table = self.table.load();
        let service = match (asked.service, table.services.as_slice()) {
            (Some(service), _) => service,
            (None, [only]) => only.settings.name.to_string(),
            (None, all) => {
                let names: Vec<_> = all.iter().map(|view| view.settings.name.as_str()).collect();
                let message = format!("service: which of {}?", names.join(", "));
                return Err(Problem::bad_request(message));
            }
        };
        let actor = caller.actor(claimed.as_deref());
        let named = service.clone();
        let event = match (asked.forget, asked.region, asked.epoch) {
            (false, Some(region), epoch) => {
                Event::Promote(PrimacyOrder { service: named, region, epoch, actor, reason })
            }
            (true, None, None) if reason.trim().is_empty() => {
                return Err(Problem::bad_request("reason: why is all of it forgotten?"));
            }
            (true, None, None) => Event::Forget(ForgetOrder { service: named, actor, reason }),
            (true, ..) => {
                let why = "forget goes without region and epoch: name the primary afterwards";
                return Err(Problem::bad_request(why));
            }
            (false, None, _) => return Err(Problem::bad_request("region: which one?")),
        };
        let forgets = asked.forget;
        let applied = self.keeper.ask(event).await.map_err(|error| unanswered(&error))?;
        let table = self.table.load();
        let view = table.services.iter().find(|view| view.settings.name.as_str() == service);
        let view = view.ok_or_else(|| not_found(format!("service \"{service}\" is gone")))?;
        let primacy = view.primacy;
        let region = primacy.region.filter(|_| primacy.is_settled());
        let warnings = match (forgets, region) {
            (true, _) => vec![FORGOTTEN.to_owned()],
            (false, Some(region)) => unclaimed(&table, view, region).into_iter().collect(),
            (false, None) => {
                let state = primacy.state.label();
                vec![format!("it is {state} all the same, by what endpoints report")]
            }
        };
        Ok(json(&PromotionView {
            service,
            region: region.map(|region| table.region(region).settings.id.to_string()),
            epoch: primacy.epoch,
            state: primacy.state.label().to_owned(),
            warnings,
            generation: applied.generation,
        }))
    }
}

/// What there is to know once epochs are forgotten.
const FORGOTTEN: &str = "no write goes through until the endpoints were heard again; every other edge \
    has to be told, too; without reports, or in mode \"manual\" where the primary does not claim the highest epoch, name \
    the primary then";

/// What an application whose epochs are its database's own lacks for writes of the epoch in force.
fn unclaimed(table: &RoutingTable, view: &ServiceView, region: RegionIndex) -> Option<String> {
    if view.settings.replication.source == ReplicationSource::None {
        return None;
    }
    let epoch = view.primacy.epoch;
    let here = || view.endpoints.iter().filter(|endpoint| endpoint.region == region);
    let said = here().filter_map(|endpoint| endpoint.said);
    let claims = |said: Said| said.epoch == epoch && said.role == Some(Role::Primary);
    let claimed = view.primacy.decided || said.clone().any(claims);
    let id = &table.region(region).settings.id;
    let own = match said.map(|said| said.epoch).max() {
        Some(own) => format!("says epoch {own}"),
        None => "has said no epoch".to_owned(),
    };
    (!claimed).then(|| {
        format!(
            "\"{id}\" {own} and does not claim {epoch} as its primary: an application that takes writes of \
             its database's epoch alone answers 421 until the database is promoted once more (restarted as a \
             standby, and promoted), so that its timeline reaches {epoch}"
        )
    })
}

fn not_found(message: String) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", message)
}

fn not_begun(why: NotBegun) -> Problem {
    match why {
        NotBegun::NotFound(message) => not_found(message),
        NotBegun::Bad(message) => Problem::bad_request(message),
        NotBegun::Refused(reasons) => {
            Problem::new(StatusCode::CONFLICT, "refused", reasons.join("\n"))
        }
        NotBegun::Upgrading => upgrade::busy(),
    }
}

fn time(value: &Value) -> Result<Duration, Problem> {
    let seconds = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => duration_s(text),
        _ => None,
    };
    let why = || Problem::bad_request("timeout: seconds, or a text such as \"90s\" or \"5m\"");
    seconds.map(Duration::from_secs).ok_or_else(why)
}
