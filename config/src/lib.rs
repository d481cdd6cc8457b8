//! Configuration text becomes a [`Config`]: text -> `RawConfig` (serde) -> [`Config`] (resolved, checked, typed).
//!
//! Promises: a `Config` that exists is complete and consistent; every name in it is resolved to an index, every
//! limit is in range. Refuses to know: sockets, clocks, what is healthy.

mod ids;
mod model;

pub use ids::{EndpointAddress, EndpointKey, ListenerName, RegionId, RouteName, ServiceName};
pub use model::*;
