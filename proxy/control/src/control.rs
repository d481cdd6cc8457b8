//! Puts the rooms of the control plane together.

use std::path::PathBuf;
use std::sync::Arc;

use meridian_config::Config;
use thiserror::Error;

use crate::clock::Clock;
use crate::data_plane::DataPlane;
use crate::lifecycle::PhaseReader;
use crate::published::{GeoReader, TableReader};

/// What the process was started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config_path: PathBuf,
    /// Fall back to the last accepted configuration when the file is broken at start.
    pub last_good: bool,
    /// The program's version.
    pub version: &'static str,
    /// The revision it was built from.
    pub revision: &'static str,
}

/// A configuration to start with.
#[derive(Clone, Debug)]
pub struct StartConfig {
    /// Resolved and checked.
    pub config: Arc<Config>,
    /// What the parser warned of.
    pub warnings: Vec<String>,
    /// The file's text.
    pub text: String,
    /// The file was broken, this is the last accepted configuration, and these are the file's errors.
    pub fallen_back: Option<String>,
}

/// Why control cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
}

/// Why control stopped before it was told to.
#[derive(Debug, Error)]
pub enum ControlError {
    /// A task that must not end has ended.
    #[error("the task \"{0}\" has ended")]
    TaskEnded(&'static str),
}

/// The control plane, its first table built; [`Control::run`] drives it.
pub struct Control {
    table: TableReader,
    geo: GeoReader,
    phases: PhaseReader,
}

/// Reads the configuration to start with.
///
/// # Errors
/// [`StartError::Config`] with all errors of the file.
pub fn load(options: &Options) -> Result<StartConfig, StartError> {
    Err(StartError::Config(format!(
        "{}: not read",
        options.config_path.display()
    )))
}

/// Opens the geo database and the admin listener, restores the operator's overrides and builds the first table.
/// Blocks; call it before the data plane opens its listeners.
///
/// # Errors
/// Any [`StartError`].
pub fn start(
    options: Options,
    start: StartConfig,
    phases: PhaseReader,
    data_plane: DataPlane,
    clock: Clock,
) -> Result<Control, StartError> {
    let _ = (options, start, phases, data_plane, clock);
    Err(StartError::Config("not built".into()))
}

impl Control {
    /// The routing table.
    pub fn table(&self) -> TableReader {
        self.table.clone()
    }

    /// The geo database.
    pub fn geo(&self) -> GeoReader {
        self.geo.clone()
    }

    /// Runs everything of the control plane until [`crate::Phase::Stopped`]. Needs a current-thread tokio runtime
    /// with I/O and time enabled; SIGHUP is handled here, other signals are not.
    ///
    /// # Errors
    /// [`ControlError`] if a part of it ended by itself.
    pub async fn run(mut self) -> Result<(), ControlError> {
        self.phases.reached(crate::Phase::Stopped).await;
        Ok(())
    }
}
