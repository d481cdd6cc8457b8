//! The resolved configuration. Types only; `resolve` builds them.

mod edge;
mod replication;
mod route;
mod service;

use std::path::PathBuf;
use std::sync::Arc;

use crate::acme::Acme;
use crate::record::{Alerts, History};

pub use edge::*;
pub use replication::*;
pub use route::*;
pub use service::*;

/// The most regions a configuration may have; sets of regions are 64-bit masks.
pub const MAX_REGIONS: usize = 64;

/// A whole configuration, resolved and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// This edge.
    pub edge: Edge,
    /// At least one. Static.
    pub listeners: Vec<Listener>,
    /// Limits on requests and connections.
    pub limits: Limits,
    /// How the process leaves.
    pub shutdown: Shutdown,
    /// The admin endpoint. Static.
    pub admin: Admin,
    /// Path of the geo database; `None`: the embedded one.
    pub geo_database: Option<PathBuf>,
    /// Where access lines go.
    pub access_log: AccessLog,
    /// What is kept of changes of state. Static.
    pub history: History,
    /// Who is told of them; `None`: nobody.
    pub alerts: Option<Alerts>,
    /// Who issues certificates to this edge; `None`: nobody.
    pub acme: Option<Acme>,
    /// 1 to [`MAX_REGIONS`]; [`RegionIndex`] points into it.
    pub regions: Vec<Region>,
    /// [`ServiceIndex`] points into it.
    pub services: Vec<Arc<Service>>,
    /// In file order; [`RouteIndex`] points into it.
    pub routes: Vec<Arc<Route>>,
}

/// Position of a region in [`Config::regions`], below [`MAX_REGIONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionIndex(pub u8);

/// Position of a service in [`Config::services`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceIndex(pub u32);

/// Position of a route in [`Config::routes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteIndex(pub u32);
