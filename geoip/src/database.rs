//! A geo database in memory.
//!
//! Promises: a database that could be made answers every address, at once and without failing; one
//! that is truncated, corrupt or about something else cannot be made. Never maps a file: what
//! happens to it later cannot reach this process. Refuses to know: when to reload, and what a place
//! is good for.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use maxminddb::{MaxMindDbError, Reader, WithinOptions};
use serde::Serialize;
use thiserror::Error;

use crate::place::Place;
use crate::record::Record;

/// IPv4 and IPv6 to countries; `data/README.md` says where it comes from. A test walks all of it.
static EMBEDDED: &[u8] = include_bytes!("../data/country.mmdb");

/// The largest file that is read into memory, in bytes. The largest city databases have a fourth.
const MAX_BYTES: u64 = 2 << 30;

/// A MaxMind-format country or city database.
pub struct GeoDatabase {
    reader: Reader<Cow<'static, [u8]>>,
    kind: DatabaseKind,
    bytes: u64,
}

/// How much a database knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DatabaseKind {
    /// Countries; coordinates are centroids.
    Country,
    /// Coordinates of its own.
    City,
}

/// What the administrator is told of a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DatabaseDescription {
    /// How much it knows.
    pub kind: DatabaseKind,
    /// Its maker's name for its kind, such as `GeoLite2-City`.
    pub database_type: String,
    /// When it was made, in seconds since 1970 UTC.
    pub build_epoch: u64,
    /// 4: only IPv4 addresses can be found; 6: both.
    pub ip_version: u16,
    /// Nodes of its search tree.
    pub node_count: u32,
    /// Its size in memory.
    pub bytes: u64,
}

/// Why a database cannot be used.
#[derive(Debug, Error)]
pub enum GeoError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is no MaxMind-format database, or a damaged one.
    #[error("not a usable MaxMind-format database: {0}")]
    Damaged(#[from] MaxMindDbError),
    /// None of its records names a country.
    #[error("a database of type \"{database_type}\" names no country")]
    NoCountries {
        /// Its maker's name for its kind.
        database_type: String,
    },
}

impl GeoDatabase {
    /// The database that is a part of the program.
    ///
    /// # Errors
    /// [`GeoError::Damaged`] if the program was built with a broken one.
    pub fn embedded() -> Result<Self, GeoError> {
        Self::unverified(Cow::Borrowed(EMBEDDED), DatabaseKind::Country)
    }

    /// Reads a file into memory and verifies all of it. That takes from a tenth of a second to some
    /// seconds for the largest city databases: not for a thread that serves requests.
    ///
    /// # Errors
    /// [`GeoError::Read`] also for what is not a regular file or is larger than 2 GiB; else as
    /// [`Self::from_bytes`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, GeoError> {
        let path = path.as_ref();
        let bytes = read_regular_file(path)
            .map_err(|source| GeoError::Read { path: path.to_owned(), source })?;
        Self::from_bytes(bytes)
    }

    /// Verifies a database that is in memory already: every network of the tree leads to a record
    /// that can be read, and some record names a country.
    ///
    /// # Errors
    /// [`GeoError::Damaged`] or [`GeoError::NoCountries`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, GeoError> {
        let mut database = Self::unverified(Cow::Owned(bytes), DatabaseKind::Country)?;
        database.kind = verify(&database.reader)?;
        Ok(database)
    }

    fn unverified(bytes: Cow<'static, [u8]>, kind: DatabaseKind) -> Result<Self, GeoError> {
        let size = bytes.len() as u64;
        let reader = Reader::from_source(bytes)?;
        Ok(Self { reader, kind, bytes: size })
    }

    /// Where the address is; [`Place::default`] if that is not known. An IPv4-mapped IPv6 address
    /// is looked up as the IPv4 address that it stands for. An address that is never one of the
    /// public internet (private, shared, loopback, link-local, multicast, reserved) is nowhere,
    /// whatever the database says of it.
    pub fn place(&self, address: IpAddr) -> Place {
        let address = address.to_canonical();
        if !is_public(address) {
            return Place::default();
        }
        let found = self.reader.lookup(address);
        let record = found.and_then(|result| result.decode::<Record>());
        record.ok().flatten().map(|record| record.place()).unwrap_or_default()
    }

    /// What the administrator is told of it.
    pub fn describe(&self) -> DatabaseDescription {
        let metadata = self.reader.metadata();
        DatabaseDescription {
            kind: self.kind,
            database_type: metadata.database_type.clone(),
            build_epoch: metadata.build_epoch,
            ip_version: metadata.ip_version,
            node_count: metadata.node_count,
            bytes: self.bytes,
        }
    }
}

impl fmt::Debug for GeoDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GeoDatabase").field(&self.describe()).finish()
    }
}

/// Databases do say things of private addresses: the embedded one has the registrar of
/// 192.168.0.0/16. RFC 6890 names the networks. Those for documentation count as public, for the
/// sake of examples.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let shared = a == 100 && b & 0b1100_0000 == 64;
            let never = a == 0 || a == 127 || a >= 224;
            !(never || shared || v4.is_private() || v4.is_link_local())
        }
        IpAddr::V6(v6) => {
            let here = v6.is_unspecified() || v6.is_loopback() || v6.is_unicast_link_local();
            !(here || v6.is_unique_local() || v6.is_multicast())
        }
    }
}

/// A pipe or a device could keep the caller waiting for ever, so only a regular file will do.
fn read_regular_file(path: &Path) -> io::Result<Vec<u8>> {
    let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, "more than 2 GiB");
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    if metadata.len() > MAX_BYTES {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES { Err(too_large()) } else { Ok(bytes) }
}

/// Walks the entire tree and reads every record once, as a lookup would.
///
/// The library has a check of its own, but that insists on a description, which ip-location-db's
/// files do not have, and would not notice a record of another schema.
fn verify(reader: &Reader<Cow<'static, [u8]>>) -> Result<DatabaseKind, GeoError> {
    // A tree of n nodes has n + 1 leaves. More networks mean that nodes are shared, as aliases of
    // the IPv4 subtree may be, or run in a circle.
    let limit = u64::from(reader.metadata().node_count) * 3;
    let mut walked = 0;
    let mut records = HashSet::new();
    let (mut countries, mut coordinates) = (false, false);
    for network in reader.networks(WithinOptions::default().include_networks_without_data())? {
        let network = network?;
        walked += 1;
        if walked > limit {
            return Err(MaxMindDbError::invalid_database("the search tree runs in a circle").into());
        }
        let Some(offset) = network.offset() else {
            continue;
        };
        if records.insert(offset)
            && let Some(record) = network.decode::<Record>()?
        {
            countries |= record.place().country.is_some();
            coordinates |= record.own_coordinates().is_some();
        }
    }
    match (countries, coordinates) {
        (false, _) => {
            Err(GeoError::NoCountries { database_type: reader.metadata().database_type.clone() })
        }
        (true, false) => Ok(DatabaseKind::Country),
        (true, true) => Ok(DatabaseKind::City),
    }
}

#[cfg(test)]
#[path = "database_tests.rs"]
mod tests;
