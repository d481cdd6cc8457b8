//! Configuration texts: what a test says, and what every test needs besides.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use toml::{Table, Value};

use crate::address::free_address;
use crate::backend::Backend;

/// The variable with further lines for `[edge]`, such as `splice = false`: every test can be run with other
/// settings than the defaults. What a test sets itself stays.
const EDGE_LINES: &str = "MERIDIAN_TEST_EDGE";

/// Where an edge listens; the same for every text it is given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    pub(crate) listeners: BTreeMap<String, SocketAddr>,
    pub(crate) admin: Option<SocketAddr>,
}

/// One region with one endpoint, which is not probed, and one route.
pub fn one_region(backend: &Backend) -> String {
    format!(
        "[[regions]]\nid = \"{}\"\nrole = \"primary\"\ncoordinates = [38.95, -77.45]\n\
         [[services]]\nname = \"api\"\nhealth = {{ kind = \"none\" }}\n\
         [[services.endpoints]]\nregion = \"{}\"\naddress = \"{}\"\n\
         [[routes]]\nname = \"all\"\nservice = \"api\"\n",
        backend.name(),
        backend.name(),
        backend.address()
    )
}

/// Regions of which the first in the list that is up answers everything; only probes find out which are.
pub fn by_priority(backends: &[&Backend]) -> String {
    let endpoints: Vec<_> = backends.iter().map(|b| (b.name(), b.address())).collect();
    let quiet = "outlier.connection_failures = 0\noutlier.success_ratio = 0\n";
    let middle = regions(&endpoints, &format!("policy = \"priority\"\n{quiet}"));
    format!("{middle}[[routes]]\nname = \"all\"\nservice = \"api\"\n")
}

/// Regions named like their endpoints, the first of them the primary, and a service "api" over all of
/// them; `service` holds further lines of it. The test adds routes.
pub fn regions(endpoints: &[(&str, SocketAddr)], service: &str) -> String {
    // Real places, so that policies that look at distance can be used.
    const PLACES: [(&str, &str); 4] = [
        ("[38.95, -77.45]", "US"),
        ("[45.84, -119.70]", "US"),
        ("[53.35, -6.26]", "IE"),
        ("[1.35, 103.82]", "SG"),
    ];
    let (mut text, mut list, mut seen) = (String::new(), String::new(), Vec::new());
    for (region, address) in endpoints {
        // Writing to a String cannot fail.
        let _ = write!(
            list,
            "[[services.endpoints]]\nregion = \"{region}\"\naddress = \"{address}\"\n"
        );
        if seen.contains(region) {
            continue;
        }
        let role = if seen.is_empty() { "primary" } else { "replica" };
        let (coordinates, country) = PLACES[seen.len() % PLACES.len()];
        seen.push(*region);
        let priority = seen.len();
        let _ = write!(
            text,
            "[[regions]]\nid = \"{region}\"\nrole = \"{role}\"\ncoordinates = {coordinates}\n\
             country = \"{country}\"\npriority = {priority}\n"
        );
    }
    format!("{text}[[services]]\nname = \"api\"\n{service}\n{list}")
}

/// Adds what the text leaves out: addresses, a state directory and an access log in `dir`, two workers,
/// a quick end, and what `MERIDIAN_TEST_EDGE` says.
///
/// # Panics
/// If the text, or that of the variable, is no TOML.
pub(crate) fn filled_in(text: &str, dir: &Path, places: &mut Places) -> String {
    let mut table: Table = match text.parse() {
        Ok(table) => table,
        Err(error) => panic!("the test's configuration is no TOML: {error}\n{text}"),
    };
    for (key, value) in edge_lines() {
        default(&mut table, "edge", &key, value);
    }
    default(&mut table, "edge", "state_dir", dir.join("state").display().to_string());
    default(&mut table, "edge", "worker_threads", 2);
    default(&mut table, "shutdown", "lame_duck", "0s");
    default(&mut table, "shutdown", "grace", "2s");
    default(&mut table, "access_log", "output", dir.join("access.log").display().to_string());
    let admin = *places.admin.get_or_insert_with(free_address);
    default(&mut table, "admin", "address", admin.to_string());
    let listeners = table.entry("listeners").or_insert_with(|| {
        let mut public = Table::new();
        public.insert("name".into(), "public".into());
        public.insert("protocols".into(), vec!["http1", "h2c"].into());
        vec![Value::Table(public)].into()
    });
    for listener in listeners.as_array_mut().into_iter().flatten() {
        let Some(listener) = listener.as_table_mut() else { continue };
        let name = listener.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let given = listener.get("address").and_then(Value::as_str).and_then(|a| a.parse().ok());
        let address =
            *places.listeners.entry(name).or_insert_with(|| given.unwrap_or_else(free_address));
        listener.entry("address").or_insert_with(|| address.to_string().into());
    }
    table.to_string()
}

fn edge_lines() -> Table {
    let text = std::env::var(EDGE_LINES).unwrap_or_default();
    match text.parse() {
        Ok(table) => table,
        Err(error) => panic!("{EDGE_LINES} is no TOML: {error}\n{text}"),
    }
}

fn default(table: &mut Table, section: &str, key: &str, value: impl Into<Value>) {
    let section = table.entry(section).or_insert_with(|| Table::new().into());
    if let Some(section) = section.as_table_mut() {
        section.entry(key).or_insert_with(|| value.into());
    }
}
