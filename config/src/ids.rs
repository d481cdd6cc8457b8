//! The names that travel through the program. Cheap to clone, compared as text.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps a text that the caller has validated.
            pub fn new(text: &str) -> Self {
                Self(text.into())
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name_type!(
    /// A region's id, unique in the configuration.
    RegionId
);
name_type!(
    /// A service's name, unique in the configuration.
    ServiceName
);
name_type!(
    /// A route's name, unique in the configuration.
    RouteName
);
name_type!(
    /// A listener's name, unique in the configuration.
    ListenerName
);

/// Where an endpoint is: a literal socket address, or a host name that is resolved in the background.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointAddress {
    /// `10.0.1.10:3000`, `[::1]:3000`
    Ip(SocketAddr),
    /// `name:port`
    Name(Arc<str>, u16),
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

impl fmt::Debug for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Identifies an endpoint across reloads: hot counters, health and overrides are keyed by it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointKey {
    /// The service it serves.
    pub service: ServiceName,
    /// The region it stands in.
    pub region: RegionId,
    /// Its configured address.
    pub address: EndpointAddress,
}
