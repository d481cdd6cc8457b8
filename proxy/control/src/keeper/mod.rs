//! The keeper: owns the desired, override and observed layers and the only handle that publishes a table.

mod ejections;
mod event;
mod overrides;
mod persist;
mod primacies;
mod record;
mod state;
mod task;

pub use event::{
    Dropped, Event, Finding, ForgetOrder, MoveOrder, Notice, OverrideRequest, PrimacyCause,
    PrimacyOrder, ProbeReport, Rejection,
};
pub use overrides::{file_value, from_json as overrides_from_json, to_json as overrides_to_json};
pub use primacies::Primacies;
pub use state::KeeperState;
pub use task::{ClaimSink, OutlierSink};

pub(crate) use overrides::{MAX_WEIGHT, describe};
pub(crate) use persist::{Persister, Save, StateDirectory, persister, read, replace, sweep, turn};
pub(crate) use record::{health as health_label, record_at_start};
pub(crate) use state::{keys, names};
pub(crate) use task::{AskError, Command, Keeper, KeeperHandle, OverridesReader, inbox};
