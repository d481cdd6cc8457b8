//! Route: which of the configured routes answers a request. The most specific one, in this order:
//!
//! 1. host: exact, then the longest `*.suffix`, then any;
//! 2. path: exact, then regular expression (in file order), then the longest prefix of whole segments;
//! 3. routes that name methods before those that do not, more conditions (headers, a client's certificate) before fewer,
//!    file order.
//!
//! A route whose methods or headers do not fit is passed over for the next most specific one.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use meridian_config::{CertificateMatch, HostPattern, PathPattern, Route, RouteIndex};
use regex::RegexSet;

use crate::request::RequestFacts;

type Map<K, V> = HashMap<K, V, RandomState>;

/// All routes, indexed by host and path.
#[derive(Debug, Default)]
pub struct RouteMatcher {
    exact_hosts: Map<Box<str>, Paths>,
    suffixes: Map<Box<str>, Paths>,
    any_host: Paths,
}

/// A route, and what it asks beyond host and path; most ask nothing.
#[derive(Clone, Debug)]
struct Entry {
    route: RouteIndex,
    conditions: Option<Arc<Conditions>>,
}

#[derive(Debug)]
struct Conditions {
    methods: Box<[Box<str>]>,
    headers: Box<[(Box<str>, Box<str>)]>,
    certificate: Option<CertificateMatch>,
}

/// The routes of one host.
#[derive(Debug, Default)]
struct Paths {
    exact: Map<Box<str>, Bucket>,
    regexes: Option<(RegexSet, Vec<Entry>)>,
    prefixes: Map<Box<str>, Bucket>,
    /// Segments of the longest prefix: deeper cuts of a path cannot match.
    deepest: usize,
}

/// Routes of the same host and path, most specific first.
type Bucket = Vec<Entry>;

impl RouteMatcher {
    /// Indexes the routes in file order. Fails only if the regular expressions of one host are too large together.
    pub fn new(routes: &[impl AsRef<Route>]) -> Result<Self, regex::Error> {
        let mut matcher = Self::default();
        let mut regexes: HashMap<Option<HostPattern>, Vec<(Entry, &str)>> = HashMap::new();
        for (position, route) in routes.iter().enumerate() {
            let route = route.as_ref();
            let conditions = Conditions::of(route).map(Arc::new);
            let entry = Entry { route: RouteIndex(position as u32), conditions };
            let hosts = route.hosts.iter().map(|host| Some(host.clone()));
            let any = route.hosts.is_empty().then_some(None);
            for host in hosts.chain(any) {
                match &route.path {
                    PathPattern::Regex(regex) => {
                        regexes.entry(host).or_default().push((entry.clone(), regex.as_str()));
                    }
                    PathPattern::Exact(path) => {
                        let bucket = matcher.paths(host).exact.entry(path.as_str().into());
                        bucket.or_default().push(entry.clone());
                    }
                    PathPattern::Prefix(prefix) => {
                        matcher.paths(host).add_prefix(prefix, entry.clone());
                    }
                }
            }
        }
        for (host, list) in regexes {
            let set = RegexSet::new(list.iter().map(|(_, text)| text))?;
            matcher.paths(host).regexes = Some((set, list.into_iter().map(|(e, _)| e).collect()));
        }
        matcher.sort_buckets();
        Ok(matcher)
    }

    fn paths(&mut self, host: Option<HostPattern>) -> &mut Paths {
        match host {
            Some(HostPattern::Exact(name)) => self.exact_hosts.entry(name.into()).or_default(),
            Some(HostPattern::Suffix(name)) => self.suffixes.entry(name.into()).or_default(),
            None => &mut self.any_host,
        }
    }

    fn sort_buckets(&mut self) {
        let Self { exact_hosts, suffixes, any_host } = self;
        let all = exact_hosts.values_mut().chain(suffixes.values_mut()).chain([any_host]);
        for paths in all {
            for bucket in paths.exact.values_mut().chain(paths.prefixes.values_mut()) {
                bucket.sort_by_key(Entry::rank);
            }
        }
    }

    /// The most specific route that fits.
    pub fn find(&self, facts: &RequestFacts<'_>) -> Option<RouteIndex> {
        if !self.exact_hosts.is_empty()
            && let Some(paths) = self.exact_hosts.get(facts.host)
            && let Some(found) = paths.find(facts)
        {
            return Some(found);
        }
        if !self.suffixes.is_empty() {
            let mut rest = facts.host;
            while let Some((_, suffix)) = rest.split_once('.') {
                if let Some(paths) = self.suffixes.get(suffix)
                    && let Some(found) = paths.find(facts)
                {
                    return Some(found);
                }
                rest = suffix;
            }
        }
        self.any_host.find(facts)
    }
}

impl Paths {
    fn add_prefix(&mut self, prefix: &str, entry: Entry) {
        let key = prefix.strip_suffix('/').unwrap_or(prefix);
        self.deepest = self.deepest.max(key.matches('/').count());
        self.prefixes.entry(key.into()).or_default().push(entry);
    }

    fn find(&self, facts: &RequestFacts<'_>) -> Option<RouteIndex> {
        let path = facts.path;
        let fits = |entry: &&Entry| entry.conditions.as_ref().is_none_or(|c| c.fit(facts));
        let first = |bucket: &Bucket| bucket.iter().find(fits).map(|entry| entry.route);
        if !self.exact.is_empty()
            && let Some(found) = self.exact.get(path).and_then(first)
        {
            return Some(found);
        }
        if let Some((set, routes)) = &self.regexes {
            let hits = set.matches(path);
            if let Some(found) = hits.iter().map(|i| &routes[i]).find(fits) {
                return Some(found.route);
            }
        }
        if self.prefixes.is_empty() {
            return None;
        }
        // Cut the path at segment borders, longest cut first, never deeper than the deepest prefix.
        let mut cut = if self.deepest == 0 { 0 } else { self.longest_cut(path) };
        loop {
            if let Some(found) = self.prefixes.get(&path[..cut]).and_then(first) {
                return Some(found);
            }
            if cut == 0 {
                return None;
            }
            cut = path[..cut].rfind('/').unwrap_or(0);
        }
    }

    /// The end of the path's first `deepest` segments.
    fn longest_cut(&self, path: &str) -> usize {
        // Segments are short: a search for each would cost more than a look at every byte.
        let mut slashes = path.bytes().enumerate().filter(|(_, byte)| *byte == b'/');
        slashes.nth(self.deepest).map_or(path.len(), |(at, _)| at)
    }
}

impl Entry {
    /// Orders a bucket, most specific first.
    fn rank(&self) -> (bool, std::cmp::Reverse<usize>, RouteIndex) {
        let asked = self.conditions.as_ref();
        let any_method = asked.is_none_or(|c| c.methods.is_empty());
        let more = |c: &Arc<Conditions>| c.headers.len() + usize::from(c.certificate.is_some());
        (any_method, std::cmp::Reverse(asked.map_or(0, more)), self.route)
    }
}

impl Conditions {
    fn of(route: &Route) -> Option<Self> {
        let header =
            |(name, value): &(String, String)| (name.as_str().into(), value.as_str().into());
        let certificate = route.client_certificate.clone();
        let asks = !route.methods.is_empty() || !route.headers.is_empty() || certificate.is_some();
        asks.then(|| Self {
            methods: route.methods.iter().map(|m| m.as_str().into()).collect(),
            headers: route.headers.iter().map(header).collect(),
            certificate,
        })
    }

    fn fit(&self, facts: &RequestFacts<'_>) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|m| **m == *facts.method))
            && self.headers.iter().all(|(name, value)| facts.headers.header(name) == Some(value))
            && self
                .certificate
                .as_ref()
                .is_none_or(|wanted| facts.certificate.is_some_and(|shown| shown.fits(wanted)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::CertificateNames;
    use crate::tests::world::{Setup, facts};

    fn matcher(routes: &str) -> RouteMatcher {
        let config = Setup { routes, ..Setup::default() }.config();
        RouteMatcher::new(&config.routes).expect("small expressions")
    }

    fn found(matcher: &RouteMatcher, method: &str, host: &str, path: &str) -> Option<u32> {
        matcher.find(&facts(method, host, path)).map(|index| index.0)
    }

    fn route(name: &str, rest: &str) -> String {
        format!("[[routes]]\nname = \"{name}\"\nservice = \"api\"\n{rest}\n")
    }

    #[test]
    fn the_most_specific_route_wins() {
        let text = [
            route("any", ""),
            route("api", "path_prefix = \"/api\""),
            route("deep", "path_prefix = \"/api/v1/users\""),
            route("exact", "path = \"/api/v1\""),
            route("regex", "path_regex = \"^/api/v[0-9]+/x$\""),
            route("post", "path_prefix = \"/api\"\nmethods = [\"POST\"]"),
            route("host", "hosts = [\"a.example.com\"]\npath_prefix = \"/only\""),
            route("wild", "hosts = [\"*.example.com\"]"),
            route("wilder", "hosts = [\"*.b.example.com\"]"),
        ]
        .concat();
        let m = matcher(&text);
        for (method, host, path, expected) in [
            ("GET", "x", "/", 0),
            ("GET", "x", "/apix", 0),
            ("GET", "x", "/api", 1),
            ("GET", "x", "/api/", 1),
            ("GET", "x", "/api/v1/usersx", 1),
            ("GET", "x", "/api/v1/users/7", 2),
            ("GET", "x", "/api/v1", 3),
            ("GET", "x", "/api/v2/x", 4),
            ("POST", "x", "/api/z", 5),
            ("GET", "a.example.com", "/only/a", 6),
            ("GET", "a.example.com", "/other", 7),
            ("GET", "a.b.example.com", "/api", 8),
            ("GET", "example.com", "/api", 1),
        ] {
            assert_eq!(found(&m, method, host, path), Some(expected), "{method} {host} {path}");
        }
    }

    #[test]
    fn header_conditions_come_before_none() {
        let text = [route("plain", ""), route("canary", "headers = { x-canary = \"1\" }")].concat();
        let m = matcher(&text);
        let headers = [("x-canary".to_owned(), "1".to_owned())];
        let mut with = facts("GET", "x", "/");
        with.headers = &headers;
        assert_eq!(m.find(&with).map(|i| i.0), Some(1));
        assert_eq!(found(&m, "GET", "x", "/"), Some(0));
    }

    #[test]
    fn certificates_are_conditions_that_fail_closed() {
        let shop = "client_certificate = { san = \"shop.internal\" }";
        let text =
            [route("open", ""), route("any", "client_certificate = {}"), route("shop", shop)];
        let m = matcher(&text.concat());
        let names =
            |host: &str| CertificateNames { hosts: vec![host.into()], ..Default::default() };
        let (shop, other) = (names("shop.internal"), names("other.internal"));
        for (certificate, expected) in [(None, 0), (Some(&other), 1), (Some(&shop), 1)] {
            let with = RequestFacts { certificate, ..facts("GET", "x", "/") };
            assert_eq!(m.find(&with).map(|i| i.0), Some(expected), "file order among equals");
        }
        let m = matcher(&[text[2].as_str(), text[1].as_str()].concat());
        for (certificate, expected) in
            [(None, None), (Some(&other), Some(1)), (Some(&shop), Some(0))]
        {
            let with = RequestFacts { certificate, ..facts("GET", "x", "/") };
            assert_eq!(m.find(&with).map(|i| i.0), expected);
        }
    }

    #[test]
    fn nothing_fits() {
        let m = matcher(&route("one", "path_prefix = \"/a\"\nhosts = [\"h\"]"));
        assert_eq!(found(&m, "GET", "h", "/b"), None);
        assert_eq!(found(&m, "GET", "g", "/a"), None);
        assert_eq!(found(&m, "OPTIONS", "h", "*"), None);
    }
}
