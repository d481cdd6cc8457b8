//! The demo's configuration file, as a user would write it.
//!
//! Promises: a text that `meridian check --strict` takes. Refuses to know: where the file lies.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use super::places::KNOWN_REGIONS;

/// Reads staler than this go elsewhere, seconds.
pub(crate) const MAX_STALENESS_SECONDS: u64 = 5;

const HEAD: &str = "\
# The edge of `meridian demo`. Edit this file while the demo runs: the edge reloads by itself.
# Try: policy = \"latency\" for the first route, drain = true or another country for a region.
";

const SERVICE: &str = "
[[services]]
name = \"app\"
policy = \"geo\"

[services.health]
path = \"/health\"

# Nobody promotes another region here, so that writes need not wait for that.
[services.failover]
mode = \"manual\"

[services.replication]
source = \"status\"
path = \"/meridian/status\"
interval = \"250ms\"
warn_lag = \"5s\"
";

/// The text. `endpoints` has one address for each of [`KNOWN_REGIONS`].
pub(crate) fn edge_config(
    listen: SocketAddr,
    admin: SocketAddr,
    state_dir: &Path,
    endpoints: &[SocketAddr],
) -> String {
    let mut text = format!(
        "{HEAD}
[edge]
id = \"demo-edge\"
region = \"us-east-1\"
state_dir = {state_dir:?}

[[listeners]]
name = \"public\"
address = \"{listen}\"
protocols = [\"http1\", \"h2c\"]
# Who connects from this machine may say who the client is.
trusted_proxies = [\"127.0.0.0/8\", \"::1/128\"]

[admin]
address = \"{admin}\"

[shutdown]
lame_duck = \"0s\"
grace = \"2s\"

[access_log]
output = \"off\"
"
    );
    for region in &KNOWN_REGIONS {
        let (latitude, longitude) = region.coordinates;
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "
[[regions]]                           # {}
id = \"{}\"
role = \"{}\"
coordinates = [{latitude:?}, {longitude:?}]
country = \"{}\"
",
            region.place, region.id, region.role, region.country
        );
    }
    text.push_str(SERVICE);
    for (region, address) in KNOWN_REGIONS.iter().zip(endpoints) {
        let id = region.id;
        let _ =
            write!(text, "\n[[services.endpoints]]\nregion = \"{id}\"\naddress = \"{address}\"\n");
    }
    let _ = write!(
        text,
        "
[[routes]]
name = \"by-country\"                   # the region in the client's country, on its continent, nearest to it
path_prefix = \"/\"
service = \"app\"
policy = \"geo\"
max_staleness = \"{MAX_STALENESS_SECONDS}s\"
expose_decision = true

[[routes]]
name = \"by-latency\"                   # the region that answers this edge fastest
path_prefix = \"/nearest\"
service = \"app\"
policy = \"latency\"
max_staleness = \"{MAX_STALENESS_SECONDS}s\"
strip_prefix = \"/nearest\"
expose_decision = true
"
    );
    text
}

#[cfg(test)]
mod tests {
    use meridian_config::{Config, Policy};

    use super::*;

    #[test]
    fn the_file_is_correct_and_without_warnings() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let endpoints = [at(3001), at(3002), at(3003), at(3004)];
        let text = edge_config(at(8080), at(9901), Path::new("/tmp/state"), &endpoints);
        let loaded = Config::parse(&text, Path::new("/tmp/meridian.toml"), &|_| None).unwrap();
        assert_eq!(loaded.warnings, []);
        let policies: Vec<_> = loaded.config.routes.iter().map(|route| route.policy).collect();
        assert_eq!(policies, [Policy::Geo, Policy::Latency]);
        assert_eq!(loaded.config.services[0].endpoints.len(), 4);
    }
}
