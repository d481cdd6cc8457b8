//! Primaries, epochs and positions.

use meridian_config::RegionIndex;
use meridian_routing::{PrimacyState, RoutingTable};

use super::family::Family;
use super::names;

const STATES: [PrimacyState; 4] =
    [PrimacyState::Settled, PrimacyState::Unknown, PrimacyState::Contested, PrimacyState::Moving];

pub(super) fn primacy(table: &RoutingTable, families: &mut Vec<Family>) {
    let mut epochs = Family::gauge(names::PRIMARY_EPOCH);
    let mut states = Family::gauge(names::PRIMARY_STATE);
    let mut primaries = Family::gauge(names::PRIMARY);
    let mut positions = Family::gauge(names::POSITION);
    let mut behind = Family::gauge(names::BEHIND);
    for service in &table.services {
        let name = service.settings.name.as_str();
        epochs.count(&[("service", name)], service.primacy.epoch);
        for state in STATES {
            let now = u64::from(service.primacy.state == state);
            states.count(&[("service", name), ("state", state.label())], now);
        }
        for (index, region) in table.regions.iter().enumerate() {
            let Ok(number) = u8::try_from(index) else { continue };
            let index = RegionIndex(number);
            if service.pool(index).is_none() {
                continue;
            }
            let labels = [("service", name), ("region", region.settings.id.as_str())];
            primaries.count(&labels, u64::from(service.is_primary(index)));
            if let Some(position) = service.position_of(index) {
                positions.count(&labels, position);
            }
            if let Some(distance) = service.behind(index).filter(|_| !service.is_primary(index)) {
                behind.count(&labels, distance);
            }
        }
    }
    families.extend([epochs, states, primaries, positions, behind]);
}
