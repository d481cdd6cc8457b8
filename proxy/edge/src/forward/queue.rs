//! In front of endpoints that have a cap: another one of the region, else a place in its queue, else no.

use std::sync::Arc;

use meridian_config::Overload;
use meridian_routing::{
    Decision, EndpointIndex, Filter, Micros, Pool, Refusal, Room, RoutingTable, ServiceView,
    Ticket, next_attempt, room,
};

use super::journey::{Failed, Journey, Prepared};
use super::{ClientGone, Downstream, routing_facts};
use crate::alarm::TICK;
use crate::request::HostSpace;

/// Counts the request in at the endpoint of its decision, or at another one that has room.
pub(super) async fn enter<D: Downstream>(
    journey: &Journey<'_>,
    decision: &mut Decision,
    trial: bool,
    down: &D,
    first: &mut Option<Prepared>,
) -> Result<(), Failed> {
    let service = journey.table.service(decision.service);
    let overload = &service.settings.overload;
    if trial || !overload.is_on() {
        service.endpoint(decision.endpoint.endpoint).load.begin();
        return Ok(());
    }
    let chosen = decision.endpoint.endpoint;
    let search = Search { journey, service, overload, left: Vec::new(), whoever: false };
    let Some(pool) = service.pool(decision.region.region) else { return Err(Failed::Unreachable) };
    let entered = if pool.load.0.line.waiting() == 0
        && (service.endpoint(chosen).begin_within(overload) || search.now(decision) == Found::Place)
    {
        Ok(())
    } else {
        Box::pin(search.wait(decision, down)).await
    };
    if decision.endpoint.endpoint != chosen
        && let Some(prepared) = first.take()
    {
        // It was written for the other endpoint.
        journey.worker.buffers.give(prepared.head);
    }
    entered
}

/// Counts the request in at the endpoint of its decision, if that has room now.
pub(super) fn enter_now(journey: &Journey<'_>, decision: &Decision) -> bool {
    let service = journey.table.service(decision.service);
    let (endpoint, overload) =
        (service.endpoint(decision.endpoint.endpoint), &service.settings.overload);
    if overload.is_on() {
        return endpoint.begin_within(overload);
    }
    endpoint.load.begin();
    true
}

/// Where an offer to switch protocols may go: it does not wait for room, since a tunnel may keep its place for hours.
/// It is counted in when it is made, so that of several at the same moment one may be too many.
pub(crate) fn place_for_tunnel(
    table: &RoutingTable,
    decision: Decision,
    now: Micros,
) -> Result<Decision, Refusal> {
    let service = table.service(decision.service);
    let endpoint = service.endpoint(decision.endpoint.endpoint);
    let overload = &service.settings.overload;
    if !overload.is_on() || endpoint.load.in_flight() < endpoint.cap(overload) {
        return Ok(decision);
    }
    match room(table, None, &decision, false, now) {
        Room::At(endpoint) => Ok(Decision { endpoint, ..decision }),
        Room::Full | Room::Gone => {
            Err(Refusal { route: Some(decision.route), filter: Filter::QueueFull, status: 503 })
        }
    }
}

/// The way of one request to a place at an endpoint.
struct Search<'a> {
    journey: &'a Journey<'a>,
    service: &'a ServiceView,
    overload: &'a Overload,
    /// Endpoints of regions that it has left.
    left: Vec<EndpointIndex>,
    /// There is nowhere else to go: what is drained or out serves all the same.
    whoever: bool,
}

/// What a look at a region found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// The request is counted in.
    Place,
    Full,
    Gone,
}

/// Why waiting in a region ended without a place.
enum Stop {
    Gone,
    Failed(Failed),
}

impl Search<'_> {
    /// Takes a place in the region of the decision if there is one.
    fn now(&self, decision: &mut Decision) -> Found {
        let (table, now) = (self.journey.table, self.journey.worker.clock.now());
        loop {
            let current = self.newer_table();
            match room(table, current.as_deref(), decision, self.whoever, now) {
                Room::At(choice) => {
                    if self.service.endpoint(choice.endpoint).begin_within(self.overload) {
                        if decision.endpoint.endpoint != choice.endpoint {
                            decision.endpoint = choice;
                        }
                        return Found::Place;
                    }
                    // Another worker was faster; look again.
                }
                Room::Full => return Found::Full,
                Room::Gone => return Found::Gone,
            }
        }
    }

    /// The table in force, if it is another one of the same configuration: an operator may have drained something.
    fn newer_table(&self) -> Option<Arc<RoutingTable>> {
        let (current, mine) = (self.journey.worker.table(), self.journey.table);
        let newer = current.generation != mine.generation;
        (newer && Arc::ptr_eq(&current.config, &mine.config)).then_some(current)
    }

    /// Waits in the region of the decision; if that has nobody left to serve, in the next one.
    async fn wait<D: Downstream>(
        mut self,
        decision: &mut Decision,
        down: &D,
    ) -> Result<(), Failed> {
        let patience = self.overload.queue_time + TICK;
        let until = self.journey.alarm.now().plus(patience).min(self.journey.deadline);
        loop {
            let region = decision.region.region;
            let Some(pool) = self.service.pool(region) else { return Err(Failed::Unreachable) };
            match self.wait_in(pool, decision, down, until).await {
                Ok(()) => return Ok(()),
                Err(Stop::Failed(failed)) => return Err(failed),
                Err(Stop::Gone) => match self.elsewhere(decision, down) {
                    Some(next) => *decision = next,
                    None => self.whoever = true,
                },
            }
        }
    }

    async fn wait_in<D: Downstream>(
        &self,
        pool: &Pool,
        decision: &mut Decision,
        down: &D,
        until: Micros,
    ) -> Result<(), Stop> {
        let alarm = self.journey.alarm;
        let line = &pool.load.0.line;
        if line.waiting() == 0 {
            match self.now(decision) {
                Found::Place => return Ok(()),
                Found::Gone => return Err(Stop::Gone),
                Found::Full => {}
            }
        }
        let full = || Stop::Failed(Failed::Shed(Filter::QueueFull));
        let ticket = line.join(self.overload.queue).ok_or_else(full)?;
        let _alert = alarm.alert();
        loop {
            match self.look(&ticket, decision) {
                Found::Place => {
                    ticket.served(self.has_more(decision));
                    return Ok(());
                }
                Found::Gone => return Err(Stop::Gone),
                Found::Full => {}
            }
            alarm.set_at(until);
            let called = std::future::poll_fn(|cx| ticket.poll_called(cx));
            let event = async {
                tokio::select! {
                    biased;
                    () = called => false,
                    () = down.gone() => true,
                }
            };
            match alarm.race(event).await {
                Ok(false) => {}
                Ok(true) => return Err(Stop::Failed(Failed::Client(ClientGone::Closed))),
                Err(_) if alarm.now() >= until => {
                    return Err(Stop::Failed(Failed::Shed(Filter::QueueTime)));
                }
                // There is a new table: perhaps the region has nobody left.
                Err(_) => {}
            }
        }
    }

    /// The first in line takes a place; the others look whether there is something to wait for.
    fn look(&self, ticket: &Ticket<'_>, decision: &mut Decision) -> Found {
        if ticket.is_first() {
            return self.now(decision);
        }
        match self.room(decision) {
            Room::Gone => Found::Gone,
            Room::At(_) | Room::Full => Found::Full,
        }
    }

    fn room(&self, decision: &Decision) -> Room {
        let (table, now) = (self.journey.table, self.journey.worker.clock.now());
        room(table, self.newer_table().as_deref(), decision, self.whoever, now)
    }

    fn has_more(&self, decision: &Decision) -> bool {
        self.room(decision) != Room::Full
    }

    /// Another region that may serve the request.
    fn elsewhere<D: Downstream>(&mut self, decision: &Decision, down: &D) -> Option<Decision> {
        let here = decision.region.region;
        let all = self.service.endpoints.iter().enumerate();
        let of_here = all.filter(|(_, endpoint)| endpoint.region == here);
        self.left.extend(of_here.map(|(index, _)| EndpointIndex(index as u32)));
        let (journey, now) = (self.journey, self.journey.worker.clock.now());
        down.request(|request| {
            let mut space = HostSpace::default();
            let facts = routing_facts(request, &mut space, None, None, now);
            next_attempt(journey.table, &journey.client, &facts, decision, &self.left)
        })
    }
}
