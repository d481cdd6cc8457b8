//! The one writer: keeper, health checks, name resolution, reload, state, admin endpoint and metrics.
//!
//! Promises: [`start`] builds the first table before it returns; from then on one task, the keeper, owns the desired,
//! override and observed layers and the only handle that publishes tables, and answers an operator only when the
//! change is in effect. Refuses to know: how requests are accepted and forwarded.

mod admin;
mod alerts;
mod certificates;
mod clock;
mod control;
mod data_plane;
mod dial;
mod events;
mod health;
mod history;
mod http_client;
mod keeper;
mod lifecycle;
mod metrics;
mod published;
mod reload;
mod replication;
mod resolve;
mod sessions;
mod signal;
mod watch;

pub use admin::{Gate, InheritedAdmin, NoChanges, UpgradeRequest, views};
pub use alerts::check_alerts;
pub use certificates::{
    Certificate, CertificateErrors, CertificateFinding, CertificateSet, EndpointTls,
    ListenerCertificates, load_certificates, name_of_endpoint,
};
pub use clock::{Clock, unix_ms};
pub use control::{Control, ControlError, Options, StartConfig, StartError, load, start};
pub use data_plane::DataPlane;
pub use health::ProbeFingerprint;
pub use keeper::{
    Dropped, Event, Finding, KeeperState, Notice, OutlierSink, OverrideRequest, ProbeReport,
    Rejection, file_value, overrides_from_json, overrides_to_json,
};
pub use lifecycle::{Lifecycle, Phase, PhaseReader};
pub use published::{
    CachedReader, CertificateReader, GeoReader, Publisher, Reader, Readers, SessionKeyReader,
    TableReader, publish,
};
pub use replication::{LAG_HEADER, parse_lag_ms};
pub use sessions::{COOKIE_LENGTH, Presented, SessionKeys};
