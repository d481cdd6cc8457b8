//! Which path is what.

use http::Method;
use meridian_routing::{ChangeKind, Target};

use crate::failover::OperationKind;

/// What a path stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    Live,
    Ready,
    Metrics,
    Version,
    Status,
    Regions,
    Services,
    Routes,
    Config,
    Overrides,
    Acme,
    Events,
    History,
    Reload,
    Explain,
    Upgrade,
    Override(Target, ChangeKind),
    /// A move of a service's primary.
    Operate(String, OperationKind),
    /// The one that is under way, or was last.
    Operation(String),
    /// Its end before its time.
    Cancel(String),
    Operations,
    /// Names the primary.
    Primary,
}

impl Resource {
    /// What a request is for, where its method makes a difference to who may ask.
    pub(crate) fn asked(path: &str, method: &Method) -> Option<Self> {
        Some(match Self::of(path)? {
            Self::Operation(service) if *method == Method::DELETE => Self::Cancel(service),
            other => other,
        })
    }

    /// What the path of a request stands for; `None` for what does not exist.
    pub(crate) fn of(path: &str) -> Option<Self> {
        let segments: Option<Vec<String>> =
            path.strip_prefix('/')?.split('/').map(percent_decoded).collect();
        let segments = segments?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        Some(match segments.as_slice() {
            ["livez"] => Self::Live,
            ["readyz"] => Self::Ready,
            ["metrics"] => Self::Metrics,
            ["version"] => Self::Version,
            ["api", "v1", rest @ ..] => match rest {
                ["status"] => Self::Status,
                ["regions"] => Self::Regions,
                ["services"] => Self::Services,
                ["routes"] => Self::Routes,
                ["config"] => Self::Config,
                ["overrides"] => Self::Overrides,
                ["acme"] => Self::Acme,
                ["events"] => Self::Events,
                ["history"] => Self::History,
                ["reload"] => Self::Reload,
                ["explain"] => Self::Explain,
                ["upgrade"] => Self::Upgrade,
                ["primary"] => Self::Primary,
                ["operations"] => Self::Operations,
                ["services", service, "operation"] => Self::Operation((*service).to_owned()),
                ["services", service, kind] => {
                    Self::Operate((*service).to_owned(), OperationKind::parse(kind)?)
                }
                ["regions", id, kind] => {
                    Self::Override(Target::Region((*id).to_owned()), change_kind(kind)?)
                }
                ["endpoints", service, address, kind] => {
                    let (service, address) = ((*service).to_owned(), (*address).to_owned());
                    Self::Override(Target::Endpoint { service, address }, change_kind(kind)?)
                }
                _ => return None,
            },
            _ => return None,
        })
    }

    /// The methods it has.
    pub(crate) fn methods(&self) -> &'static [Method] {
        match self {
            Self::Reload | Self::Explain | Self::Upgrade => &[Method::POST],
            Self::Operate(..) | Self::Primary => &[Method::POST],
            Self::Operation(_) | Self::Cancel(_) => &[Method::GET, Method::HEAD, Method::DELETE],
            Self::Override(..) => &[Method::PUT, Method::DELETE],
            _ => &[Method::GET, Method::HEAD],
        }
    }

    /// Whether a request for it changes something.
    pub(crate) fn mutates(&self) -> bool {
        matches!(
            self,
            Self::Reload
                | Self::Upgrade
                | Self::Override(..)
                | Self::Operate(..)
                | Self::Cancel(_)
                | Self::Primary
        )
    }

    /// Whether it needs no token: what a load balancer and a metrics collector ask.
    pub(crate) fn open(&self) -> bool {
        matches!(self, Self::Live | Self::Ready | Self::Metrics)
    }
}

fn change_kind(text: &str) -> Option<ChangeKind> {
    match text {
        "drain" => Some(ChangeKind::Drain),
        "weight" => Some(ChangeKind::Weight),
        _ => None,
    }
}

/// A path segment, or a value of a query, without percent-encoding (RFC 3986, 2.1); `None` if that is broken or no text.
pub(super) fn percent_decoded(segment: &str) -> Option<String> {
    let mut bytes = segment.bytes();
    let mut decoded = Vec::with_capacity(segment.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_apart() {
        let region = |id: &str| Target::Region(id.into());
        let endpoint = |service: &str, address: &str| Target::Endpoint {
            service: service.into(),
            address: address.into(),
        };
        for (path, expected) in [
            ("/livez", Resource::Live),
            ("/api/v1/regions", Resource::Regions),
            ("/api/v1/regions/eu/drain", Resource::Override(region("eu"), ChangeKind::Drain)),
            (
                "/api/v1/endpoints/api/10.0.0.1:80/weight",
                Resource::Override(endpoint("api", "10.0.0.1:80"), ChangeKind::Weight),
            ),
            (
                "/api/v1/endpoints/a%2fb/%5B%3A%3a1%5D%3A80/drain",
                Resource::Override(endpoint("a/b", "[::1]:80"), ChangeKind::Drain),
            ),
            ("/api/v1/history", Resource::History),
            ("/api/v1/acme", Resource::Acme),
            ("/api/v1/primary", Resource::Primary),
            ("/api/v1/operations", Resource::Operations),
            ("/api/v1/services/a%2fb/operation", Resource::Operation("a/b".into())),
            (
                "/api/v1/services/api/switchover",
                Resource::Operate("api".into(), OperationKind::Switchover),
            ),
        ] {
            assert_eq!(Resource::of(path), Some(expected), "{path}");
        }
        for path in [
            "",
            "/",
            "livez",
            "/livez/",
            "/api/v1",
            "/api/v1/",
            "/api/v2/status",
            "/api/v1/regions/eu",
            "/api/v1/regions/eu/role",
            "/api/v1/services/api/restart",
            "/api/v1/failover",
            "/api/v1/regions/e%f",
            "/api/v1/regions/%ff/drain",
            "/api/v1/regions/%+1/drain",
        ] {
            assert_eq!(Resource::of(path), None, "{path}");
        }
    }
}
