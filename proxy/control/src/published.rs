//! One value, one writer, any number of readers that never wait.
//!
//! Promises: a reader gets a whole value, the newest or the one before; only the [`Publisher`] can replace it, and
//! it cannot be cloned. Refuses to know: what the value is.

use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use meridian_geoip::GeoDatabase;
use meridian_routing::RoutingTable;

use crate::acme::AcmeBook;
use crate::certificates::CertificateSet;
use crate::sessions::SessionKeys;

/// Reads the routing table in force.
pub type TableReader = Reader<RoutingTable>;
/// Reads the geo database in force.
pub type GeoReader = Reader<GeoDatabase>;
/// Reads the certificates in force.
pub type CertificateReader = Reader<CertificateSet>;

/// Reads the certificates that were issued, and answers to challenges.
pub type AcmeReader = Reader<AcmeBook>;

/// Reads the keys of affinity cookies in force.
pub type SessionKeyReader = Reader<SessionKeys>;

/// All that the data plane reads.
#[derive(Clone, Debug)]
pub struct Readers {
    /// The routing table.
    pub table: TableReader,
    /// The geo database.
    pub geo: GeoReader,
    /// The certificates of TLS listeners.
    pub certificates: CertificateReader,
    /// Those that were issued to this edge, and answers to challenges.
    pub acme: AcmeReader,
    /// The keys of affinity cookies.
    pub session_keys: SessionKeyReader,
}

/// A new value with its only writer.
pub fn publish<T>(first: Arc<T>) -> (Publisher<T>, Reader<T>) {
    let slot = Arc::new(ArcSwap::new(first));
    (Publisher(slot.clone()), Reader(slot))
}

/// The only handle that replaces the value.
pub struct Publisher<T>(Arc<ArcSwap<T>>);

impl<T> Publisher<T> {
    /// Replaces the value; readers see it from their next load on. Returns the one before, which readers may still
    /// hold: whoever lets go of it last frees it.
    pub fn publish(&mut self, next: Arc<T>) -> Arc<T> {
        self.0.swap(next)
    }
}

/// Reads the value; cheap to clone.
pub struct Reader<T>(Arc<ArcSwap<T>>);

impl<T> Reader<T> {
    /// A value that nobody will ever replace, for tests and one-shot commands.
    pub fn fixed(value: Arc<T>) -> Self {
        publish(value).1
    }

    /// The value in force.
    pub fn load(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// A reader for one thread that loads without touching a shared cache line while nothing changes.
    pub fn cached(&self) -> CachedReader<T> {
        CachedReader(Cache::new(self.0.clone()))
    }
}

impl<T> Clone for Reader<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for Reader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reader")
    }
}

impl<T> fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Publisher")
    }
}

/// A thread's own view of the value. It keeps the last loaded value alive until its next load.
pub struct CachedReader<T>(Cache<Arc<ArcSwap<T>>, Arc<T>>);

impl<T> CachedReader<T> {
    /// The value in force.
    pub fn load(&mut self) -> &Arc<T> {
        self.0.load()
    }
}

impl<T> Clone for CachedReader<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for CachedReader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CachedReader")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_reader_sees_what_was_published() {
        let (mut publisher, reader) = publish(Arc::new(1));
        let mut cached = reader.cached();
        assert_eq!((*reader.load(), **cached.load()), (1, 1));
        assert_eq!(*publisher.publish(Arc::new(2)), 1);
        assert_eq!((*reader.clone().load(), **cached.load()), (2, 2));
    }
}
