//! The four simulated regions in this process.
//!
//! Promises: the primary and its replicas run until this is dropped; each can be killed, revived and
//! lagged by name. Refuses to know: edges and traffic.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::places::{KNOWN_REGIONS, KnownRegion};
use super::region::{Region, RegionSpec, Role};

/// The lag that "lag" sets: well beyond the routes' bound.
pub(crate) const LAGGED: Duration = Duration::from_secs(20);

/// All regions, in the order of [`KNOWN_REGIONS`].
#[derive(Debug)]
pub(crate) struct World {
    regions: Vec<(&'static KnownRegion, Region)>,
}

impl World {
    /// Starts them on loopback ports of their own, on the current runtime.
    ///
    /// # Errors
    /// When a port cannot be had.
    pub(crate) fn start() -> io::Result<Self> {
        let mut regions: Vec<(&'static KnownRegion, Region)> = Vec::new();
        for known in &KNOWN_REGIONS {
            let primary = regions.iter().find(|(known, _)| known.role == Role::Primary);
            let region = Region::start(RegionSpec {
                id: known.id.to_owned(),
                listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
                role: known.role,
                epoch: 1,
                follows: primary.map(|(_, primary)| primary.address.to_string()),
                distance: known.distance,
                lag: known.lag,
                controlled: false,
            })?;
            regions.push((known, region));
        }
        Ok(Self { regions })
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.regions.iter().map(|(_, region)| region.address).collect()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static KnownRegion, &Region)> {
        self.regions.iter().map(|(known, region)| (*known, region))
    }

    pub(crate) fn region(&self, id: &str) -> Option<&Region> {
        self.all().find(|(known, _)| known.id == id).map(|(_, region)| region)
    }

    /// Whether a region has been lagged.
    pub(crate) fn is_lagged(&self, id: &str) -> bool {
        self.region(id).is_some_and(|region| region.state.lag() >= LAGGED)
    }

    /// Lags a replica, or lets it catch up. The primary has nothing to lag behind.
    pub(crate) fn set_lagged(&self, id: &str, lagged: bool) {
        for (known, region) in self.all().filter(|(known, _)| known.id == id) {
            region.state.set_lag(if lagged { LAGGED } else { known.lag });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn replicas_follow_the_primary_and_can_be_lagged() {
        let world = World::start().unwrap();
        let primary = world.region("us-east-1").unwrap();
        primary.state.store().put("k", "v", meridian_control::unix_ms()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while world.all().any(|(_, region)| region.state.facts().position != 1) {
            assert!(Instant::now() < deadline, "not replicated");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        world.set_lagged("eu-west-1", true);
        let lag = |id: &str| world.region(id).unwrap().state.facts().lag_ms;
        assert!(world.is_lagged("eu-west-1"));
        assert_eq!((lag("eu-west-1"), lag("us-west-2")), (Some(20_000), Some(200)));
        world.set_lagged("eu-west-1", false);
        assert_eq!(lag("eu-west-1"), Some(400));
    }
}
