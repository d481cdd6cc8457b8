//! Which services keep sessions.

use std::collections::HashSet;

use crate::model::{Access, Config, ServiceIndex};

impl Config {
    /// By [`ServiceIndex`]: whether reads of the service could miss what their session wrote, so that it keeps sessions. It
    /// has endpoints in several regions, and routes with `read_your_writes` both write and read.
    pub fn keep_sessions(&self) -> Vec<bool> {
        let keeps = |index: usize| {
            let regions = self.services[index].endpoints.iter().map(|endpoint| endpoint.region);
            let own = |index: ServiceIndex, of: usize| index.0 as usize == of;
            let mut routes =
                self.routes.iter().filter(|r| r.read_your_writes && own(r.service, index));
            let reads = routes.clone().any(|r| matches!(r.access, Access::Auto | Access::Read));
            let writes = routes.any(|r| matches!(r.access, Access::Auto | Access::Write));
            reads && writes && regions.collect::<HashSet<_>>().len() > 1
        };
        (0..self.services.len()).map(keeps).collect()
    }
}
