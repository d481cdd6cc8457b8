//! Configuration text becomes a [`Config`]: text -> TOML with positions -> [`Config`] (resolved, checked, typed).
//!
//! Promises: a `Config` that exists is complete and consistent; every name in it is resolved to an index, every
//! limit is in range. A text that does not become one is answered with all its errors, each with its line,
//! column and key. Refuses to know: sockets, clocks, what is healthy.

mod acme;
mod changes;
mod compress;
mod door;
mod effective;
mod finding;
mod ids;
mod load;
mod model;
mod names;
mod place;
mod reader;
mod record;
mod resolve;
mod secrets;
mod sessions;
mod suggest;
mod unavailable;
mod upstream;
mod values;

pub use acme::{Acme, AcmeCertificate, AcmeChallenge, ExternalAccount};
pub use compress::{Coding, Compress, Levels, MediaPattern};
pub use door::{ACME_PATH, CertificateMatch, ClientAuth, Handshakes, Hsts, Redirect, SanPattern};
pub use finding::{ConfigErrors, Finding, Warning};
pub use ids::{EndpointAddress, EndpointKey, ListenerName, RegionId, RouteName, ServiceName};
pub use load::{Fingerprint, Loaded};
pub use model::*;
pub use place::placed;
pub use record::{AlertClass, AlertSecret, Alerts, History, WebhookUrl};
pub use secrets::SessionSecrets;
pub use upstream::{ServiceTls, TlsFiles};
