//! How the writes of each service are, for `status`.

use std::time::Duration;

use meridian_config::ReplicationSource;
use meridian_routing::{PrimacyState, RoutingTable, ServiceView};

use super::Admin;
use super::views::WritesView;

/// What was longer ago is not of late.
const OF_LATE: Duration = Duration::from_secs(60);

impl Admin {
    /// Of all services but those that nobody ever wrote to: where the file names no primary and nobody was heard.
    pub(super) fn writes(&self, table: &RoutingTable) -> Vec<WritesView> {
        let concerned = |service: &&ServiceView| {
            let primacy = &service.primacy;
            let asked = service.settings.replication.source != ReplicationSource::None;
            primacy.region.is_some() || primacy.epoch > 0 || asked
        };
        let services = table.services.iter().filter(concerned);
        services.map(|service| self.writes_of(table, service)).collect()
    }

    fn writes_of(&self, table: &RoutingTable, service: &ServiceView) -> WritesView {
        let (primacy, name) = (&service.primacy, &service.settings.name);
        let now = self.clock.now();
        let turned_away = service.writes.last_turned_away();
        let turned_away = turned_away.filter(|last| now.since(last.at) <= OF_LATE);
        let region = primacy.region.map(|region| table.region(region).settings.id.to_string());
        let (parked, refused) =
            (service.counters.park.waiting(), self.failovers.refused_of_late(name, table));
        let mut troubles = Vec::new();
        if primacy.state != PrimacyState::Settled {
            troubles.push(format!("no write goes through: the primary is {}", why(primacy.state)));
        }
        if let Some(last) = turned_away {
            let own = last.own.map_or("no epoch".to_owned(), |own| format!("epoch {own}"));
            troubles.push(format!(
                "\"{}\" answers 421 to writes of epoch {}: it says {own}",
                region.as_deref().unwrap_or_default(),
                last.epoch
            ));
        }
        let mut reports = Vec::new();
        for endpoint in &service.endpoints {
            let (address, region) = (&endpoint.key.address, &endpoint.key.region);
            if let Some(fault) = endpoint.last_claim.fault().filter(|_| service.is_heard()) {
                reports.push(format!("the report of {address} in {region} is of no use: {fault}"));
            }
            if let Some(epoch) = endpoint.disbelieved {
                troubles.push(format!(
                    "{address} in {region} says epoch {epoch}, which is not believed"
                ));
            }
        }
        WritesView {
            service: name.to_string(),
            state: primacy.state.label().to_owned(),
            region,
            epoch: primacy.epoch,
            since_unix_ms: primacy.since_unix_ms,
            parked,
            refused_1m: refused,
            turned_away_own_epoch: turned_away.map(|last| last.own.unwrap_or(0)),
            troubles,
            reports,
        }
    }
}

fn why(state: PrimacyState) -> &'static str {
    match state {
        PrimacyState::Settled => "settled",
        PrimacyState::Unknown => "unknown",
        PrimacyState::Contested => "contested, several regions claim it in one epoch",
        PrimacyState::Moving => "being moved",
    }
}
