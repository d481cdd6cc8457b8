//! Which services keep sessions.

use crate::model::{Access, Config, Service};

impl Config {
    /// By [`ServiceIndex`](crate::ServiceIndex): whether reads of the service could miss what their session wrote, so that it keeps sessions. It
    /// has endpoints in several regions, and routes with `read_your_writes` both write and read.
    pub fn keep_sessions(&self) -> Vec<bool> {
        let mut routed = vec![(false, false); self.services.len()];
        for route in self.routes.iter().filter(|route| route.read_your_writes) {
            if let Some((reads, writes)) = routed.get_mut(route.service.0 as usize) {
                *reads |= matches!(route.access, Access::Auto | Access::Read);
                *writes |= matches!(route.access, Access::Auto | Access::Write);
            }
        }
        let several = |service: &Service| {
            let mut regions = service.endpoints.iter().map(|endpoint| endpoint.region);
            let first = regions.next();
            regions.any(|region| Some(region) != first)
        };
        let services = self.services.iter().zip(routed);
        services.map(|(service, routed)| routed == (true, true) && several(service)).collect()
    }
}
