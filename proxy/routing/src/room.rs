//! Room: which endpoint of a region takes one more request where endpoints have a cap.

use std::time::Duration;

use meridian_config::Overload;

use crate::decide::Decision;
use crate::endpoint::{EndpointChoice, EndpointReason};
use crate::table::{EndpointIndex, EndpointView, RoutingTable};
use crate::time::Micros;

/// What a region has for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// This endpoint takes one more.
    At(EndpointChoice),
    /// All that may serve have as many as they may.
    Full,
    /// None may serve any more: they are drained, or went out.
    Gone,
}

/// The most that an adaptive limit grows to where there is no cap.
const ADAPTIVE_MOST: u32 = 1000;

fn adaptive_range(overload: &Overload) -> (u32, u32) {
    (overload.adaptive_min, overload.max_requests.unwrap_or(ADAPTIVE_MOST))
}

impl EndpointView {
    /// How many requests it may have in flight from this edge.
    pub fn cap(&self, overload: &Overload) -> u32 {
        match overload.adaptive {
            true => self.limit.get().min(adaptive_range(overload).1),
            false => overload.max_requests.unwrap_or(u32::MAX),
        }
    }

    /// It answered well, after this time: where its limit is adaptive, it learns from that.
    pub fn answered(&self, overload: &Overload, took: Duration, now: Micros) {
        if overload.adaptive {
            self.limit.observe(took, self.load.in_flight(), adaptive_range(overload), now);
        }
    }

    /// Counts a request in if it has room.
    pub fn begin_within(&self, overload: &Overload) -> bool {
        self.load.begin_within(self.cap(overload))
    }
}

/// Looks for the least loaded endpoint with room in the region of a decision. `current` is the newest table, if it is of
/// the same configuration: what it has drained gets nothing new. Where that leaves nobody, `whoever` serves all the same.
pub fn room(
    table: &RoutingTable,
    current: Option<&RoutingTable>,
    decision: &Decision,
    whoever: bool,
    now: Micros,
) -> Room {
    let service = table.service(decision.service);
    let Some(pool) = service.pool(decision.region.region) else { return Room::Gone };
    let drained = |index: EndpointIndex| {
        current.is_some_and(|table| {
            table.region(decision.region.region).drain.value
                || table.service(decision.service).endpoint(index).drain.value
        })
    };
    let panic = decision.region.panic;
    let mut found: Option<(f32, EndpointIndex)> = None;
    let mut serving = false;
    for index in pool.pick_set(panic).endpoints() {
        let endpoint = service.endpoint(index);
        let open = panic || endpoint.load.passive().takes_requests(now);
        if !(whoever || open && !drained(index)) {
            continue;
        }
        serving = true;
        if endpoint.load.in_flight() < endpoint.cap(&service.settings.overload) {
            let cost = endpoint.load.peak_ewma(pool.floor_us, now);
            if found.is_none_or(|(least, _)| cost < least) {
                found = Some((cost, index));
            }
        }
    }
    match found {
        Some((_, endpoint)) => Room::At(EndpointChoice { endpoint, reason: EndpointReason::Room }),
        None if serving => Room::Full,
        None => Room::Gone,
    }
}
