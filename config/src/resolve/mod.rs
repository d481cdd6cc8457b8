//! From parsed TOML to a [`Config`]: reads each section, then checks what concerns several.
//!
//! Promises: names become indexes, texts become types, and all that is wrong is noted. What is read is used only
//! if nothing is wrong, so a value that failed is replaced by any value of its type. Refuses to know: files but
//! the token files that the configuration names.

mod acme;
mod affinity;
mod compress;
mod consistency;
mod door;
mod edge;
mod failover;
mod headers;
mod intents;
mod listener;
mod record;
mod region;
mod replication;
mod route;
mod service;
mod upstream;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use edge::read_token;

use crate::model::Config;
use crate::names;
use crate::reader::{Item, Table};

/// The longest duration that any key takes: no clock overflows by it.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a cap on connections or requests at a time may be: they are counted in 24 bits.
const MOST_AT_ONCE: RangeInclusive<u32> = 1..=16_777_215;

/// Reads the whole file. The result is meaningless if errors were noted.
pub(crate) fn config(root: &Table<'_>) -> Config {
    let mut region_names = Names::new("region");
    let regions = root.each("regions", |table| region::read(table, &mut region_names));
    let mut service_names = Names::new("service");
    let mut services =
        root.each("services", |table| service::read(table, &mut service_names, &region_names));
    service::slow_down_many_probes(&mut services);
    let mut route_names = Names::new("route");
    let scope = route::Scope { regions: &region_names, services: &service_names };
    let routes = root.each("routes", |table| {
        let policy = |index: usize| services.get(index).map(|service| service.value.policy);
        route::read(table, &mut route_names, &scope, policy)
    });
    let mut listener_names = Names::new("listener");
    let listeners = root.each("listeners", |table| listener::read(table, &mut listener_names));
    let edge = root.section("edge", |table| edge::read(table, &region_names, &regions));
    let admin = root.section("admin", edge::admin);
    let limits = root.section("limits", edge::limits);
    let mut acme = root.section("acme", acme::acme);
    acme::check(root, acme.as_mut(), &listeners);
    let parts = consistency::Parts {
        root,
        limits: &limits,
        listeners: &listeners,
        admin: &admin,
        regions: &regions,
        services: &services,
        routes: &routes,
    };
    consistency::check(&parts);
    intents::check(&parts);
    let config = Config {
        edge,
        listeners: listeners.into_iter().map(|listener| listener.value).collect(),
        limits,
        shutdown: root.section("shutdown", edge::shutdown),
        admin: admin.value,
        geo_database: root.section("geoip", edge::geo_database),
        access_log: root.section("access_log", edge::access_log),
        history: root.section("history", record::history),
        alerts: root.section("alerts", record::alerts),
        acme,
        regions: regions.into_iter().map(|region| region.value).collect(),
        services: services.into_iter().map(|service| Arc::new(service.value)).collect(),
        routes: routes.into_iter().map(|route| Arc::new(route.value)).collect(),
    };
    root.finish();
    config
}

/// A section's value together with what only the checks need to know about it.
struct Read<T, N> {
    value: T,
    notes: N,
}

/// The names that sections of one kind have declared.
struct Names {
    kind: &'static str,
    declared: usize,
    by_name: HashMap<String, (usize, String)>,
    /// Some name could not be read: whoever is not known may be the one.
    unreadable: bool,
}

impl Names {
    fn new(kind: &'static str) -> Self {
        Self { kind, declared: 0, by_name: HashMap::new(), unreadable: false }
    }

    /// Takes the next section's name, which must be legal and new; empty if it is not.
    fn declare(&mut self, item: Option<Item<'_>>) -> String {
        let index = self.declared;
        self.declared += 1;
        let Some(item) = item else { return String::new() };
        let name = item.parsed(|text| names::id(text).map(|()| text.to_owned()));
        let Some(name) = name else {
            self.unreadable = true;
            return String::new();
        };
        match self.by_name.entry(name.clone()) {
            Entry::Vacant(entry) => {
                entry.insert((index, item.site().path().to_owned()));
            }
            Entry::Occupied(first) => {
                let first = &first.get().1;
                item.fail::<()>(format!("duplicate {} {name:?}, already at {first}", self.kind));
            }
        }
        name
    }

    /// The index of the section that a value names.
    fn resolve(&self, item: &Item<'_>) -> Option<usize> {
        let name = item.text()?;
        if let Some((index, _)) = self.by_name.get(&*name) {
            return Some(*index);
        }
        if self.unreadable {
            // What is wrong with that name has been said.
            return None;
        }
        let known = self.by_name.keys().map(String::as_str);
        let suggestion = item.cx.suggest(&name, known);
        item.fail(format!("unknown {} {name:?}{suggestion}", self.kind))
    }
}

/// From so many milliseconds to [`LONGEST`].
fn at_least(millis: u64) -> RangeInclusive<Duration> {
    Duration::from_millis(millis)..=LONGEST
}

/// `"auto"` or a duration of at least a millisecond.
fn auto_or_duration(item: &Item<'_>) -> Option<Option<Duration>> {
    match item.word().as_deref() {
        Some("auto") => Some(None),
        _ => item.duration(at_least(1)).map(Some),
    }
}

/// Warns of a setting that nothing looks at because of another one.
fn warn_without_effect<T: PartialEq + ?Sized>(
    table: &Table<'_>,
    key: &'static str,
    value: &T,
    default: &T,
    because: &str,
) {
    if value != default && table.has(key) {
        table.site_of(key).warning(table.cx, format!("has no effect {because}"));
    }
}
