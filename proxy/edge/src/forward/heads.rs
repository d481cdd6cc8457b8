//! Heads of answers: what they say of their endpoint is heard, and what is for the client is begun.

use meridian_routing::{AccessClass, Claim, Decision, Role, Shown};

use super::canonical::is_response_hop;
use super::hear::{claim_of, hear, is_misdirected};
use super::journey::Journey;
use super::relay::begin;
use super::{Downstream, InterimHead};
use crate::compress::Encoder;
use crate::http1::response::{ResponseFacts, with_response};
use crate::session::is_refuted;

/// An answer whose head has come.
pub(super) struct Answer {
    pub(super) facts: ResponseFacts,
    /// What compresses its body on the way to the client.
    pub(super) encoder: Option<Box<Encoder>>,
}

/// A response head.
pub(super) enum Heard {
    Answer(Answer),
    /// It shows less than the read must find.
    Refuted,
    /// The endpoint is not the primary that the request needs, and has not executed it.
    NotPrimary,
}

/// Looks for a response head in what was read, hears what the endpoint says of itself, and begins the client's response
/// if it is the final one.
pub(super) fn head<D: Downstream>(
    journey: &Journey<'_>,
    decision: &Decision,
    down: &mut D,
    read: &[u8],
) -> Result<Option<Heard>, &'static str> {
    if read.is_empty() {
        return Ok(None);
    }
    let heard = with_response(read, journey.is_head, |head| {
        let service = journey.table.service(decision.service);
        let fields = || head.fields.iter().map(|f| (f.name, f.value));
        let claim = service.is_heard().then(|| claim_of(fields()));
        if let Some(claim) = &claim {
            journey.hear(decision, claim);
        }
        if head.status == 421 && decision.class.access != AccessClass::Read {
            // Who is not heard otherwise may still say that it has executed nothing.
            let claim = claim.unwrap_or_else(|| claim_of(fields()));
            if is_misdirected(head.status, &claim) {
                turned_away(journey, decision, &claim);
                return Heard::NotPrimary;
            }
        }
        let mut encoder = None;
        if head.status >= 200 {
            let shown = claim.map(Shown::from).unwrap_or_default();
            if is_refuted(journey.worker, journey.session, journey.table, decision, shown) {
                return Heard::Refuted;
            }
            encoder = begin(journey, decision, down, head, shown);
        }
        Heard::Answer(Answer { facts: head.facts, encoder })
    });
    match heard.map_err(|bad| bad.0)? {
        Some(Heard::Answer(answer)) if answer.facts.status == 101 => {
            Err("the endpoint switched protocols unasked")
        }
        heard => Ok(heard),
    }
}

/// Notes that the primary of the journey's table does not take its writes, and tells of it once.
#[cold]
fn turned_away(journey: &Journey<'_>, decision: &Decision, claim: &Claim) {
    let service = journey.table.service(decision.service);
    let (name, primacy) = (&service.settings.name, &service.primacy);
    let region = &journey.table.region(decision.region.region).settings.id;
    let now = journey.worker.clock.now();
    // A replica's word in this very epoch ends it, in the next table.
    let steps_down = claim.role == Some(Role::Replica) && claim.epoch == Some(primacy.epoch);
    if !steps_down && service.writes.turned_away(primacy.epoch, service.term, claim.epoch, now) {
        let (epoch, own) = (primacy.epoch, claim.epoch.unwrap_or(0));
        let role = claim.role.map_or("none", Role::label);
        tracing::warn!(
            target: "primacy", service = %name, %region, epoch, own, role,
            "the primary answers 421 to writes of its epoch: it says another one"
        );
    }
}

/// A 1xx head, without what is not for the client.
pub(super) fn interim(read: &[u8], is_head: bool) -> Result<InterimHead, &'static str> {
    let copied = with_response(read, is_head, |head| {
        let fields = head.fields.iter().filter(|field| !is_response_hop(field.name));
        let fields = fields.map(|f| (f.name.to_ascii_lowercase(), f.value.to_vec())).collect();
        InterimHead { status: head.status, fields }
    });
    copied.map_err(|bad| bad.0)?.ok_or("the response head is malformed")
}

impl Journey<'_> {
    /// Takes to heart what the endpoint of a decision says of itself.
    fn hear(&self, decision: &Decision, claim: &Claim) {
        let service = self.table.service(decision.service);
        let endpoint = service.endpoint(decision.endpoint.endpoint);
        let lag = hear(service, endpoint, &self.worker.claims, claim);
        let region = decision.region.region;
        let lag = lag.filter(|_| service.hears_lag(region, claim));
        if let (Some(lag), Some(pool)) = (lag, service.pool(region)) {
            pool.load.0.report_lag(lag, self.worker.clock.now());
        }
    }
}
