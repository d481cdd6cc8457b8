//! The configuration to start with: the file, or the last accepted one in its place.
//!
//! Promises: a broken file is told with all that is wrong with it, whatever stands in for it. Refuses to know: what is started.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use meridian_config::{Config, ConfigErrors, Fingerprint, Loaded, Warning};
use thiserror::Error;

use crate::certificates::CertificateErrors;
use crate::keeper::{Rejection, StateDirectory};
use crate::reload::read_text;

/// Where state is kept when a broken file does not say.
const DEFAULT_STATE: &str = "meridian-state";

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
    /// What the parser found odd.
    pub warnings: Vec<Warning>,
    /// The file was broken, this is the last accepted configuration, and these are the file's errors.
    pub fallen_back: Option<String>,
    pub(crate) text: String,
    pub(crate) hash: Fingerprint,
    /// What identifies the broken file, so that it is not reported again.
    pub(crate) failed: Option<String>,
}

/// Why control cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(ConfigErrors),
    /// The configuration file cannot be read.
    #[error("{}: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// Neither the file nor the last accepted configuration can be used.
    #[error("{file}\nand the last accepted configuration cannot stand in: {last}")]
    NoLastGood {
        /// What is wrong with the file.
        file: String,
        /// What is wrong with the last accepted configuration.
        last: String,
    },
    /// The routes cannot be compiled.
    #[error(transparent)]
    Routes(#[from] Rejection),
    /// The geo database cannot be used.
    #[error("geoip.database: {0}")]
    Geo(String),
    /// Certificates cannot be used.
    #[error(transparent)]
    Certificates(#[from] CertificateErrors),
    /// The keys of affinity cookies cannot be used.
    #[error("{0}")]
    SessionKeys(String),
    /// The webhook's files cannot be used.
    #[error("alerts: {0}")]
    Alerts(String),
    /// The files that certificates by ACME need cannot be used.
    #[error("acme: {0}")]
    Acme(String),
    /// The state directory cannot be used.
    #[error("edge.state_dir: {0}")]
    State(String),
    /// The admin endpoint's address cannot be used.
    #[error("admin.address: {address}: {why}")]
    Admin {
        /// As it is configured.
        address: String,
        /// What the system says.
        why: io::Error,
    },
}

/// Reads the configuration to start with. Blocks.
///
/// # Errors
/// [`StartError::Config`] with all errors of the file, or [`StartError::Read`]; with `last_good`,
/// [`StartError::NoLastGood`] if that cannot be used either.
pub fn load(options: &Options) -> Result<StartConfig, StartError> {
    let path = &options.config_path;
    let text = read_text(path);
    let broken = match &text {
        Ok(text) => match parse(text, path) {
            Ok(loaded) => return Ok(StartConfig::new(loaded, text.clone(), None)),
            Err(errors) => StartError::Config(errors),
        },
        Err(why) => StartError::Read { path: path.clone(), why: why.clone() },
    };
    if !options.last_good {
        return Err(broken);
    }
    let file_text = text.unwrap_or_default();
    let no_last_good = |last: String| StartError::NoLastGood { file: broken.to_string(), last };
    let directory = state_directory_of(&file_text, path);
    let last = StateDirectory::at(&directory).last_accepted();
    let last = last.map_err(|error| no_last_good(format!("{}: {error}", directory.display())))?;
    let loaded = parse(&last, path).map_err(|errors| no_last_good(errors.to_string()))?;
    let failed = Fingerprint::of(file_text.as_bytes()).to_string();
    Ok(StartConfig::new(loaded, last, Some((broken.to_string(), failed))))
}

fn parse(text: &str, path: &Path) -> Result<Loaded, ConfigErrors> {
    Config::parse(text, path, &|name| std::env::var(name).ok())
}

impl StartConfig {
    fn new(loaded: Loaded, text: String, broken: Option<(String, String)>) -> Self {
        let Loaded { config, warnings, fingerprint, .. } = loaded;
        let (fallen_back, failed) = broken.unzip();
        let config = Arc::new(config);
        Self { config, warnings, fallen_back, text, hash: fingerprint, failed }
    }
}

/// The state directory that a broken file names, as far as it can be read off: `state_dir` is a key of `[edge]` only.
fn state_directory_of(text: &str, config_path: &Path) -> PathBuf {
    let named = text.lines().find_map(|line| {
        let value = line.trim().strip_prefix("state_dir")?.trim_start().strip_prefix('=')?;
        let value = value.trim_start();
        let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        value[1..].split(quote).next().map(ToOwned::to_owned)
    });
    let directory = config_path.parent().unwrap_or(Path::new(""));
    directory.join(named.as_deref().unwrap_or(DEFAULT_STATE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_file_still_says_where_its_state_is() {
        let directory = |text: &str| state_directory_of(text, Path::new("/etc/m/meridian.toml"));
        assert_eq!(directory("[edge\nstate_dir = \"/var/x\" # here"), Path::new("/var/x"));
        assert_eq!(directory("  state_dir='y'"), Path::new("/etc/m/y"));
        for text in ["", "# state_dir = \"x\"", "state_dir = 5"] {
            assert_eq!(directory(text), Path::new("/etc/m/meridian-state"), "{text}");
        }
    }
}
