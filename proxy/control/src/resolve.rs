//! Host names of endpoints, resolved in the background.
//!
//! Promises: what a name resolved to last is kept while it cannot be resolved; names are looked up again when their
//! time to live is over, every 5 to 60 seconds. Refuses to know: who connects where.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hickory_resolver::Hosts;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts};
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use meridian_config::Config;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::keeper::{Event, KeeperHandle, names};

/// Bounds of a time to live.
const SHORTEST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(60);
/// A failed name is tried again after this; a name that was never resolved sooner.
const RETRY: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Look-ups under way at once.
const AT_ONCE: usize = 16;
/// A look-up that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The most addresses that are kept of a name.
const MAX_ADDRESSES: usize = 64;
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Looks up the names that the configuration holds.
pub(crate) struct NameResolver {
    pub(crate) keeper: KeeperHandle,
    pub(crate) desired: watch::Receiver<Arc<Config>>,
}

/// What is known of a name.
struct Known {
    due: Instant,
    under_way: bool,
    resolved: bool,
    failing: bool,
}

type Found = Result<(Vec<IpAddr>, Duration), String>;

impl NameResolver {
    /// Follows the desired layer until the keeper is gone.
    pub(crate) async fn run(mut self) {
        let mut known: HashMap<Arc<str>, Known> = HashMap::new();
        let mut lookups: JoinSet<(Arc<str>, Found)> = JoinSet::new();
        let mut system = System::read();
        self.follow(&mut known);
        loop {
            let next = start_due(&mut known, &mut lookups, &mut system);
            tokio::select! {
                changed = self.desired.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.follow(&mut known);
                }
                Some(done) = lookups.join_next(), if !lookups.is_empty() => {
                    if let Ok((name, found)) = done {
                        self.take(&mut known, name, found).await;
                    }
                }
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// Takes up new names and forgets those that are gone.
    fn follow(&mut self, known: &mut HashMap<Arc<str>, Known>) {
        let config = self.desired.borrow_and_update().clone();
        let wanted: HashSet<_> = names(&config).map(|(_, name, _)| name).collect();
        known.retain(|name, _| wanted.contains(name));
        let due = Instant::now();
        for (_, name, _) in names(&config) {
            known.entry(name.clone()).or_insert(Known {
                due,
                under_way: false,
                resolved: false,
                failing: false,
            });
        }
    }

    async fn take(&self, known: &mut HashMap<Arc<str>, Known>, name: Arc<str>, found: Found) {
        // A name that is gone meanwhile is not asked for any more.
        let Some(entry) = known.get_mut(&name) else { return };
        entry.under_way = false;
        match found {
            Ok((addresses, ttl)) => {
                entry.due = Instant::now() + ttl.clamp(SHORTEST, LONGEST);
                entry.resolved = true;
                entry.failing = false;
                let addresses = addresses.into();
                self.keeper.tell(Event::Resolved { name, addresses }).await;
            }
            Err(error) => {
                entry.due = Instant::now() + if entry.resolved { RETRY } else { FIRST_RETRY };
                if !std::mem::replace(&mut entry.failing, true) {
                    let kept = entry.resolved;
                    tracing::warn!(target: "resolve", name = &*name, error, kept, "not resolved");
                }
            }
        }
    }
}

/// Starts what is due and says when to look again.
fn start_due(
    known: &mut HashMap<Arc<str>, Known>,
    lookups: &mut JoinSet<(Arc<str>, Found)>,
    system: &mut System,
) -> Instant {
    let now = Instant::now();
    for (name, entry) in known.iter_mut() {
        if entry.under_way || entry.due > now || lookups.len() >= AT_ONCE {
            continue;
        }
        entry.under_way = true;
        let (name, resolver) = (name.clone(), system.resolver());
        lookups.spawn(async move {
            let found = tokio::time::timeout(TIMEOUT, look_up(resolver, &name)).await;
            (name, found.unwrap_or_else(|_| Err("the look-up took too long".into())))
        });
    }
    let waiting = known.values().filter(|entry| !entry.under_way).map(|entry| entry.due);
    // With all places taken, the end of a look-up is what wakes.
    let soonest = if lookups.len() >= AT_ONCE { None } else { waiting.min() };
    soonest.unwrap_or(now + LONGEST).min(now + LONGEST)
}

/// The addresses of one name, looked up now.
///
/// # Errors
/// In words, without the name.
pub(crate) async fn addresses_of(name: &str) -> Result<Vec<IpAddr>, String> {
    look_up(resolver(), name).await.map(|(addresses, _)| addresses)
}

/// The hosts file first, then DNS.
async fn look_up(resolver: Option<TokioResolver>, name: &str) -> Found {
    if let Some(addresses) = from_hosts_file(name) {
        return Ok((addresses, SHORTEST));
    }
    let resolver = resolver.ok_or("no name server is configured")?;
    let found = resolver.lookup_ip(name).await.map_err(|error| error.to_string())?;
    let ttl = found.valid_until().saturating_duration_since(std::time::Instant::now());
    let addresses = in_order(found.iter());
    if addresses.is_empty() { Err("it has no addresses".into()) } else { Ok((addresses, ttl)) }
}

/// As the C library does it: a name that the hosts file has is not asked for elsewhere.
fn from_hosts_file(name: &str) -> Option<Vec<IpAddr>> {
    let parsed: Name = name.parse().ok()?;
    let hosts = Hosts::from_system().unwrap_or_default();
    let of = |kind| hosts.lookup_static_host(&Query::query(parsed.clone(), kind));
    let found = [of(RecordType::A), of(RecordType::AAAA)];
    let records = found.iter().flatten().flat_map(|lookup| lookup.answers());
    let addresses = in_order(records.filter_map(|record| record.data.ip_addr()));
    (!addresses.is_empty()).then_some(addresses)
}

/// IPv4 before IPv6, each in ascending order, so that a name server's rotation is no change.
fn in_order(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut addresses: Vec<_> = addresses.collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(MAX_ADDRESSES);
    addresses
}

/// The system's name servers, read again when the file that names them changes.
struct System {
    stamp: Option<(SystemTime, u64)>,
    resolver: Option<TokioResolver>,
}

impl System {
    fn read() -> Self {
        Self { stamp: stamp(Path::new(RESOLV_CONF)), resolver: resolver() }
    }

    fn resolver(&mut self) -> Option<TokioResolver> {
        if stamp(Path::new(RESOLV_CONF)) != self.stamp {
            *self = Self::read();
        }
        self.resolver.clone()
    }
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn resolver() -> Option<TokioResolver> {
    let builder = TokioResolver::builder_tokio();
    let mut builder = match builder {
        Ok(builder) => builder,
        Err(error) => {
            tracing::warn!(target: "resolve", %error, "no name servers: only the hosts file counts");
            return None;
        }
    };
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // Both are kept here: addresses by the keeper, the hosts file by the system.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    builder.build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_order() {
        let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
        let shuffled = ["::2", "10.0.0.9", "::1", "10.0.0.1", "10.0.0.9"].map(parse);
        let sorted = ["10.0.0.1", "10.0.0.9", "::1", "::2"].map(parse);
        assert_eq!(in_order(shuffled.into_iter()), sorted);
    }

    #[tokio::test]
    async fn the_hosts_file_counts() {
        let found = look_up(None, "localhost").await;
        let (addresses, _) = found.expect("every machine has it");
        assert!(addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
        let error = look_up(None, "no-such-name.invalid").await.expect_err("nobody to ask");
        assert!(error.contains("no name server"), "{error}");
    }
}
