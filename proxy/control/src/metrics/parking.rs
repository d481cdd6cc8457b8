//! Requests that wait for a primary.

use meridian_routing::{ParkOutcome, RoutingTable};

use super::family::Family;
use super::names;

pub(super) fn parking(table: &RoutingTable, families: &mut Vec<Family>) {
    let mut now = Family::gauge(names::PARKED);
    let mut bytes = Family::gauge(names::PARKED_BYTES);
    let mut total = Family::counter(names::PARKED_TOTAL);
    let mut waited = Family::histogram(names::PARKED_TIME);
    for service in &table.services {
        let park = &service.counters.park;
        let labels = [("service", service.settings.name.as_str())];
        if service.may_settle() {
            now.count(&labels, u64::from(park.waiting()));
            bytes.count(&labels, park.bytes());
        }
        for outcome in ParkOutcome::ALL {
            let count = park.outcomes(*outcome);
            if count > 0 {
                total.count(&[labels[0], ("outcome", outcome.label())], count);
            }
        }
        waited.observe(&labels, park.waited());
    }
    families.extend([now, bytes, total, waited]);
}
