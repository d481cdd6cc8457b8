//! `[[routes]]`

use regex::Regex;

use super::{
    MOST_AT_ONCE, Names, Read, affinity, at_least, compress, door, headers, region, service,
    warn_without_effect,
};
use crate::ids::RouteName;
use crate::model::{
    Access, Hedge, HedgeAfter, HostPattern, PathPattern, Policy, RegionIndex, Residency,
    ResidencySubject, Route, ServiceIndex,
};
use crate::names;
use crate::reader::{Item, Site, Table};
use crate::values;

/// A route and what the checks need.
pub(super) type RouteRead = Read<Route, RouteNotes>;

pub(super) struct RouteNotes {
    pub(super) site: Site,
    pub(super) body_bytes_site: Site,
    /// `false`: the file's service cannot be resolved, the value's is made up.
    pub(super) service_is_known: bool,
}

/// The names that a route may use.
pub(super) struct Scope<'n> {
    pub(super) regions: &'n Names,
    pub(super) services: &'n Names,
}

pub(super) fn read(
    table: &Table<'_>,
    names: &mut Names,
    scope: &Scope<'_>,
    policy_of: impl Fn(usize) -> Option<Policy>,
) -> RouteRead {
    let name = names.declare(table.required("name"));
    let service = table.required("service").and_then(|item| scope.services.resolve(&item));
    let own_policy = table.item("policy").and_then(|item| item.choice(service::POLICIES));
    let accesses = [
        ("auto", Access::Auto),
        ("read", Access::Read),
        ("write", Access::Write),
        ("read_primary", Access::ReadPrimary),
    ];
    let (headers, headers_as_written) = headers::matches(table);
    let route = Route {
        name: RouteName::new(&name),
        hosts: table.or("hosts", Vec::new(), |item| Some(item.list(|item| item.parsed(host)))),
        path: path(table),
        methods: table.or("methods", Vec::new(), |item| Some(item.list(method))),
        headers,
        client_certificate: table.section("client_certificate", door::certificate_match),
        headers_as_written,
        service: ServiceIndex(service.and_then(|index| u32::try_from(index).ok()).unwrap_or(0)),
        access: table.or("access", Access::Auto, |item| item.choice(&accesses)),
        policy: own_policy.or_else(|| policy_of(service?)).unwrap_or(Policy::Latency),
        capability: table
            .item("capability")
            .and_then(|item| item.parsed(|text| names::id(text).map(|()| text.to_owned()))),
        grpc_reads: table
            .or("grpc_reads", Vec::new(), |item| Some(item.list(|item| item.parsed(grpc_method)))),
        graphql: table.flag("graphql"),
        max_staleness: table.item("max_staleness").and_then(|item| item.duration(at_least(0))),
        read_your_writes: table.or("read_your_writes", true, |item| item.flag()),
        body_bytes: table.item("body_bytes").and_then(|item| item.size(0..=1 << 50)),
        max_requests: table.item("max_requests").and_then(|item| item.whole(MOST_AT_ONCE)),
        residency: table.section("residency", |table| residency(table, scope.regions)),
        affinity: table.section("affinity", affinity::read),
        strip_prefix: table.or("strip_prefix", String::new(), prefix),
        rewrite_prefix: table.or("rewrite_prefix", String::new(), prefix),
        request_headers: table.section("request_headers", headers::edits),
        response_headers: table.section("response_headers", headers::edits),
        expose_decision: table.flag("expose_decision"),
        hsts: table.section("hsts", |table| door::hsts(table, true)),
        hedge: table.section("hedge", hedge),
        compress: table.section("compress", compress::read),
    };
    if route.compress.is_some() && headers::touches(&route.response_headers, "content-encoding") {
        let message = "content-encoding is the edge's own where it compresses answers";
        table.site_of("response_headers").error(table.cx, message);
    }
    if route.access != Access::Auto {
        let because = "unless access = \"auto\"";
        warn_without_effect(table, "grpc_reads", &*route.grpc_reads, &[] as &[String], because);
        warn_without_effect(table, "graphql", &route.graphql, &false, because);
    }
    if route.access == Access::Write {
        let because = "on a route that only writes: nothing is sent twice";
        warn_without_effect(table, "hedge", &route.hedge, &None, because);
    }
    if matches!(route.access, Access::Write | Access::ReadPrimary) {
        let because = "on a route that always goes to the primary";
        warn_without_effect(table, "max_staleness", &route.max_staleness, &None, because);
    }
    let notes = RouteNotes {
        site: table.site(),
        body_bytes_site: table.site_of("body_bytes"),
        service_is_known: service.is_some(),
    };
    Read { value: route, notes }
}

fn hedge(table: &Table<'_>) -> Option<Hedge> {
    if !table.is_present() {
        return None;
    }
    let after = table.or("after", HedgeAfter::Percentile(95), hedge_after);
    let budget = table.or("budget", 0.05, |item| item.number(0.0..=1.0));
    Some(Hedge { after, budget })
}

/// `p50` to `p99`, or a duration.
fn hedge_after(item: &Item<'_>) -> Option<HedgeAfter> {
    item.parsed(|text| {
        let Some(percent) = text.strip_prefix('p') else {
            let fixed = values::duration(text)?;
            return match fixed.is_zero() {
                true => Err("a request cannot be late at once".into()),
                false => Ok(HedgeAfter::Fixed(fixed)),
            };
        };
        match percent.parse() {
            Ok(percent @ 50..=99) => Ok(HedgeAfter::Percentile(percent)),
            _ => Err(format!("{text:?} is neither a percentile, p50 to p99, nor a duration")),
        }
    })
}

fn method(item: &Item<'_>) -> Option<String> {
    let method: String = item.parsed(|text| names::method(text).map(|()| text.to_owned()))?;
    item.available(&method)?;
    Some(method)
}

pub(super) fn host(text: &str) -> Result<HostPattern, String> {
    if text == "*" {
        return Err("for any host leave `hosts` empty".into());
    }
    match text.strip_prefix("*.") {
        Some(rest) => names::host(rest).map(|()| HostPattern::Suffix(rest.to_owned())),
        None => names::host(text).map(|()| HostPattern::Exact(text.to_owned())),
    }
}

fn path(table: &Table<'_>) -> PathPattern {
    let exact = table.item("path").map(|item| {
        let path = item.parsed(|text| names::path(text).map(|()| text.to_owned()));
        (item.site(), path.map(PathPattern::Exact))
    });
    let prefix = table.item("path_prefix").map(|item| {
        let prefix = item.parsed(|text| names::path(text).map(|()| without_slash(text).to_owned()));
        let slash = |prefix: String| if prefix.is_empty() { "/".into() } else { prefix };
        (item.site(), prefix.map(slash).map(PathPattern::Prefix))
    });
    let regex = table
        .item("path_regex")
        .map(|item| (item.site(), item.parsed(regular_expression).map(PathPattern::Regex)));
    let mut given = [exact, prefix, regex].into_iter().flatten();
    let first = given.next();
    for (site, _) in given {
        site.error(table.cx, "only one of path, path_prefix and path_regex may be there");
    }
    first.and_then(|(_, pattern)| pattern).unwrap_or_else(|| PathPattern::Prefix("/".into()))
}

fn regular_expression(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| {
        let error = error.to_string();
        let last = error.lines().next_back().unwrap_or_default().trim();
        let why = last.strip_prefix("error: ").unwrap_or(last);
        format!("{text:?} is not a regular expression: {why}")
    })
}

/// A prefix to take off or put before a path; empty for none.
fn prefix(item: &Item<'_>) -> Option<String> {
    item.parsed(|text| match without_slash(text) {
        "" => Ok(String::new()),
        prefix => names::path(prefix).map(|()| prefix.to_owned()),
    })
}

fn without_slash(path: &str) -> &str {
    path.trim_end_matches('/')
}

fn grpc_method(text: &str) -> Result<String, String> {
    let fixed = text.strip_suffix('*').unwrap_or(text);
    if fixed.contains('*') {
        return Err("\"*\" may only stand at the end".into());
    }
    names::path(fixed).map(|()| text.to_owned())
}

fn residency(table: &Table<'_>, names: &Names) -> Option<Residency> {
    if !table.is_present() {
        return None;
    }
    let region = |item: &Item<'_>| {
        names.resolve(item).and_then(|index| u8::try_from(index).ok()).map(RegionIndex)
    };
    let regions = table.required("regions").map(|item| {
        let regions = item.list(region);
        if item.items("an array").is_empty() && item.is_array() {
            item.fail::<()>("without a region nobody could be served");
        }
        regions
    });
    let subject = table
        .or("subject", Vec::new(), |item| Some(item.list(|item| item.parsed(residency_subject))));
    let refuse = table.or("refuse", 451, |item| match item.whole(0..=u16::MAX)? {
        status @ (451 | 403 | 503) => Some(status),
        status => item.fail(format!("a refusal is 451, 403 or 503, not {status}")),
    });
    Some(Residency { regions: regions.unwrap_or_default(), subject, refuse })
}

fn residency_subject(text: &str) -> Result<ResidencySubject, String> {
    if text == "EU" {
        return Ok(ResidencySubject::EuropeanUnion);
    }
    let Some(continent) = text.strip_prefix("continent:") else {
        return region::country(text).map(ResidencySubject::Country).map_err(|why| {
            format!("{why}; a subject is a country such as \"DE\", \"EU\", or \"continent:AS\"")
        });
    };
    continent
        .parse()
        .map(ResidencySubject::Continent)
        .map_err(|_| format!("{continent:?} is not a continent: AF, AN, AS, EU, NA, OC or SA"))
}
