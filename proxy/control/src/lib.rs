//! The one writer: keeper, health checks, name resolution, reload, state, admin endpoint and metrics.
//!
//! Promises: [`start`] builds the first table before it returns; from then on one task, the keeper, owns the desired,
//! override and observed layers and the only handle that publishes tables, and answers an operator only when the
//! change is in effect. Refuses to know: how requests are accepted and forwarded.

mod clock;
mod control;
mod data_plane;
mod lifecycle;
mod published;

pub use clock::{Clock, unix_ms};
pub use control::{Control, ControlError, Options, StartConfig, StartError, load, start};
pub use data_plane::DataPlane;
pub use lifecycle::{Lifecycle, Phase, PhaseReader};
pub use published::{CachedReader, GeoReader, Publisher, Reader, TableReader, publish};
