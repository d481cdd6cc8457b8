//! What an operator steers: a region, or one endpoint of a service.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::percent::escape;

/// `REGION` or `SERVICE/ADDRESS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Region(String),
    Endpoint { service: String, address: String },
}

/// Neither a region nor an endpoint.
#[derive(Debug, Error)]
#[error("expected REGION or SERVICE/ADDRESS")]
pub(crate) struct NotATarget;

impl Target {
    /// Its path in the admin API.
    pub(crate) fn path(&self) -> String {
        match self {
            Self::Region(id) => format!("/api/v1/regions/{}", escape(id)),
            Self::Endpoint { service, address } => {
                format!("/api/v1/endpoints/{}/{}", escape(service), escape(address))
            }
        }
    }
}

impl FromStr for Target {
    type Err = NotATarget;

    fn from_str(text: &str) -> Result<Self, NotATarget> {
        match text.split_once('/') {
            None if !text.is_empty() => Ok(Self::Region(text.to_owned())),
            Some((service, address)) if !service.is_empty() && address.contains(':') => {
                Ok(Self::Endpoint { service: service.to_owned(), address: address.to_owned() })
            }
            _ => Err(NotATarget),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Region(id) => f.write_str(id),
            Self::Endpoint { service, address } => write!(f, "{service}/{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_and_endpoints() {
        let path = |text: &str| text.parse::<Target>().map(|target| target.path()).ok();
        assert_eq!(path("eu-west-1").as_deref(), Some("/api/v1/regions/eu-west-1"));
        assert_eq!(path("a b?").as_deref(), Some("/api/v1/regions/a%20b%3F"));
        let endpoint = Some("/api/v1/endpoints/api/10.0.0.1%3A3000");
        assert_eq!(path("api/10.0.0.1:3000").as_deref(), endpoint);
        for wrong in ["", "/", "api/", "/1.2.3.4:5", "api/nowhere"] {
            assert_eq!(path(wrong), None, "{wrong}");
        }
    }
}
