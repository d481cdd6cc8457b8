//! Answers that were compressed, by route.

use meridian_config::{Coding, RouteIndex};
use meridian_routing::RoutingTable;

use super::family::Family;
use super::names;

pub(super) fn compression(table: &RoutingTable, families: &mut Vec<Family>) {
    let mut answers = Family::counter(names::COMPRESSED);
    let mut bytes = Family::counter(names::COMPRESSION_BYTES);
    let mut skipped = Family::counter(names::COMPRESSION_SKIPPED);
    let routes = table.config.routes.iter().enumerate();
    for (index, route) in routes.filter(|(_, route)| route.compress.is_some()) {
        let index = RouteIndex(u32::try_from(index).unwrap_or(u32::MAX));
        let counters = &table.counters(index).compression;
        let name = ("route", route.name.as_str());
        for coding in Coding::ALL {
            let count = counters.of(coding);
            if count.answers > 0 {
                let labels = [name, ("algorithm", coding.label())];
                answers.count(&labels, count.answers);
                for (side, count) in [("in", count.bytes_in), ("out", count.bytes_out)] {
                    bytes.count(&[labels[0], labels[1], ("side", side)], count);
                }
            }
        }
        skipped.count(&[name], counters.skipped());
    }
    families.extend([answers, bytes, skipped]);
}
