//! The desired layer: a configuration, and what its routes make together.

use std::sync::Arc;

use meridian_config::Config;

use crate::route::RouteMatcher;

/// A configuration with its routes compiled: everything that takes long and needs nothing of what is in force, so that a
/// thread of its own can do it while the table before still serves.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The configuration.
    pub config: Arc<Config>,
    pub(crate) matcher: Arc<RouteMatcher>,
}

impl Desired {
    /// Compiles the routes of `config`.
    ///
    /// # Errors
    /// The regular expressions of one host are too large together.
    pub fn new(config: Arc<Config>) -> Result<Self, regex::Error> {
        let matcher = Arc::new(RouteMatcher::new(&config.routes)?);
        Ok(Self { config, matcher })
    }
}
