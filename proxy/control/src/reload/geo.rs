//! The geo database's file: opened, told apart from what it was, and replaced whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use meridian_geoip::{DatabaseDescription, GeoDatabase};
use tokio::sync::watch;

use super::{ReloadError, ReloadStatus};
use crate::published::Publisher;

/// How the geo database stands.
#[derive(Clone, Debug)]
pub(crate) struct GeoStatus {
    /// `None`: the embedded one.
    pub(crate) path: Option<PathBuf>,
    pub(crate) description: DatabaseDescription,
    /// Why the file could not replace the one in force.
    pub(crate) last_error: Option<String>,
    pub(crate) failed: u64,
}

/// Tells versions of a file apart without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(Option<(u64, SystemTime, u64)>);

impl Stamp {
    pub(super) fn of(path: &Path) -> Self {
        use std::os::unix::fs::MetadataExt;
        let stamp = || {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.ino(), metadata.modified().ok()?, metadata.len()))
        };
        Self(stamp())
    }
}

/// The geo database's file and the only handle that replaces it.
pub(crate) struct GeoFile {
    pub(crate) path: Option<PathBuf>,
    pub(crate) stamp: Stamp,
    pub(crate) publisher: Publisher<GeoDatabase>,
}

impl GeoFile {
    pub(super) fn replace(&mut self, opened: OpenedGeo, status: &watch::Sender<ReloadStatus>) {
        let OpenedGeo { path, stamp, database } = opened;
        status.send_modify(|status| {
            status.geo.path.clone_from(&path);
            status.geo.description = database.describe();
            status.geo.last_error = None;
        });
        self.path = path;
        self.stamp = stamp;
        self.publisher.publish(Arc::new(database));
    }
}

/// A database that was read and verified.
pub(crate) struct OpenedGeo {
    pub(crate) path: Option<PathBuf>,
    pub(crate) stamp: Stamp,
    pub(crate) database: GeoDatabase,
}

impl OpenedGeo {
    /// Reads the file, or takes the embedded database. Blocks.
    pub(crate) fn open(path: Option<PathBuf>) -> Result<Self, String> {
        let stamp = path.as_deref().map_or(Stamp(None), Stamp::of);
        let database = match &path {
            Some(path) => GeoDatabase::open(path),
            None => GeoDatabase::embedded(),
        };
        let database = database.map_err(|error| match &path {
            Some(path) if !error.to_string().contains(&*path.to_string_lossy()) => {
                format!("{}: {error}", path.display())
            }
            _ => error.to_string(),
        })?;
        Ok(Self { path, stamp, database })
    }
}

pub(super) async fn open_geo(path: Option<PathBuf>) -> Result<OpenedGeo, ReloadError> {
    let job = tokio::task::spawn_blocking(move || OpenedGeo::open(path));
    let opened = job.await.unwrap_or_else(|error| Err(error.to_string()));
    opened.map_err(ReloadError::Geo)
}
