//! The one writer: keeper, health checks, name resolution, reload, state, admin endpoint and metrics.
//!
//! Promises: [`start`] builds the first table before it returns; from then on one task, the keeper, owns the desired,
//! override and observed layers and the only handle that publishes tables, and answers an operator only when the
//! change is in effect. Refuses to know: how requests are accepted and forwarded.

mod acme;
mod admin;
mod alerts;
mod background;
mod certificates;
mod clock;
mod control;
mod data_plane;
mod dial;
mod events;
mod failover;
mod files;
mod health;
mod history;
mod http_client;
mod keeper;
mod lifecycle;
mod load;
mod metrics;
mod published;
mod reload;
mod replication;
mod resolve;
mod roots;
mod sessions;
mod signal;
mod watch;

pub use acme::{ALPN_ACME, AcmeBook, check_acme};
pub use admin::{Gate, InheritedAdmin, NoChanges, UpgradeRequest, views};
pub use alerts::check_alerts;
pub use certificates::{
    Certificate, CertificateErrors, CertificateFinding, CertificateSet, ClientCertificate,
    EndpointTls, ListenerCertificates, Stapled, load_certificates, name_of_endpoint,
};
pub use clock::{Clock, unix_ms};
pub use control::{Control, ControlError, start};
pub use data_plane::DataPlane;
pub use files::{FileFinding, check_files};
pub use health::ProbeFingerprint;
pub use keeper::{
    ClaimSink, Dropped, Event, Finding, ForgetOrder, KeeperState, MoveOrder, Notice, OutlierSink,
    OverrideRequest, Primacies, PrimacyCause, PrimacyOrder, ProbeReport, Rejection, file_value,
    overrides_from_json, overrides_to_json,
};
pub use lifecycle::{Lifecycle, Phase, PhaseReader};
pub use load::{Options, StartConfig, StartError, load};
pub use published::{
    AcmeReader, CachedReader, CertificateReader, GeoReader, Publisher, Reader, Readers,
    SessionKeyReader, TableReader, publish,
};
pub use replication::{
    EPOCH_HEADER, LAG_HEADER, POSITION_HEADER, ROLE_HEADER, parse_epoch, parse_lag_ms,
    parse_position,
};
pub use sessions::{
    COOKIE_LENGTH, FoundToken, OpenedToken, Presented, SESSION_HEADER, SessionKeys, TOKEN_LENGTH,
    TOKEN_TTL_MS, TokenLook, may_hold_token,
};
