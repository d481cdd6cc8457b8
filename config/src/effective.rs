//! The complete configuration as text: every default filled in, every path absolute, secrets left where they are.
//!
//! Promises: reading the text gives an equal [`Config`]. Settings of other versions are not in it.

mod acme;
mod compress;
mod door;
mod record;
mod upstream;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use meridian_geoip::Coordinates;
use toml::Value;

use crate::door::Handshakes;
use crate::model::{
    Access, AdminRole, Balance, Config, Failover, HashKey, HeaderEdits, Health, HealthKind,
    HedgeAfter, HostHeader, HostPattern, Listener, LogFormat, LogOutput, Outlier, PathPattern,
    ProxyVersion, Region, RegionRole, Replication, ReplicationSource, ResidencySubject, Route,
    Service, UpstreamProtocol,
};
use crate::values::{escape, show_duration, show_size, show_status_range};

impl Config {
    /// The configuration with all defaults as TOML that [`Config::parse`] reads back to an equal one. Tokens are
    /// named by their files, header values that came from the environment by their variables.
    pub fn effective_toml(&self) -> String {
        let mut out = Printer(String::new());
        self.print_process(&mut out);
        for listener in &self.listeners {
            print_listener(&mut out, listener);
        }
        for region in &self.regions {
            print_region(&mut out, region);
        }
        for service in &self.services {
            self.print_service(&mut out, service);
        }
        for route in &self.routes {
            self.print_route(&mut out, route);
        }
        out.0
    }

    fn print_process(&self, out: &mut Printer) {
        let (edge, limits) = (&self.edge, &self.limits);
        out.section("[edge]");
        out.text("id", &edge.id);
        if let Some(region) = edge.region {
            out.text("region", self.region_id(region.0));
        }
        out.coordinates(edge.coordinates);
        out.path("state_dir", &edge.state_dir);
        out.whole("worker_threads", edge.worker_threads);
        out.whole("max_connections", edge.max_connections);
        out.at_most("max_requests", edge.max_requests);
        match edge.memory {
            Some(bytes) => out.text("memory", &show_size(bytes)),
            None => out.text("memory", "auto"),
        }
        out.value("splice", edge.splice.into());
        out.size("compress_memory", edge.compress_memory);
        if let Some(file) = &edge.session_secret_file {
            out.path("session_secret_file", file);
        }
        out.section("[limits]");
        out.size("header_bytes", limits.header_bytes as u64);
        out.whole("headers", limits.headers);
        out.size("request_line_bytes", limits.request_line_bytes as u64);
        out.size("body_bytes", limits.body_bytes);
        out.duration("header_timeout", limits.header_timeout);
        out.duration("keepalive_timeout", limits.keepalive_timeout);
        out.whole("requests_per_connection", limits.requests_per_connection as usize);
        out.whole("h2_streams", limits.h2_streams as usize);
        out.at_most("connections_per_client", limits.connections_per_client);
        out.at_most("requests_per_client", limits.requests_per_client);
        out.size("min_rate", limits.min_rate);
        out.section("[shutdown]");
        out.duration("lame_duck", self.shutdown.lame_duck);
        out.duration("grace", self.shutdown.grace);
        out.section("[admin]");
        out.text("address", &self.admin.address.to_string());
        let tokens = self.admin.tokens.iter().map(|token| {
            let role = match token.role {
                AdminRole::Read => "read",
                AdminRole::Operator => "operator",
                AdminRole::Admin => "admin",
            };
            let file = escape(&token.token_file.display().to_string());
            Value::Table(
                [("role".into(), role.into()), ("token_file".into(), file.into())]
                    .into_iter()
                    .collect(),
            )
        });
        out.value("tokens", Value::Array(tokens.collect()));
        if let Some(database) = &self.geo_database {
            out.section("[geoip]");
            out.path("database", database);
        }
        out.section("[access_log]");
        match &self.access_log.output {
            LogOutput::Off => out.text("output", "off"),
            LogOutput::Stdout => out.text("output", "stdout"),
            LogOutput::File(path) => out.path("output", path),
        }
        let format = match self.access_log.format {
            LogFormat::Json => "json",
            LogFormat::Combined => "combined",
        };
        out.text("format", format);
        self.print_record(out);
        if let Some(acme) = &self.acme {
            acme::print(out, acme);
        }
    }

    fn print_service(&self, out: &mut Printer, service: &Service) {
        out.section("[[services]]");
        out.text("name", service.name.as_str());
        out.text("policy", service.policy.label());
        let (balance, hash_key) = balance_words(&service.balance);
        out.text("balance", balance);
        if let Some(hash_key) = hash_key {
            out.text("hash_key", &hash_key);
        }
        match service.protocol {
            UpstreamProtocol::Http1 => out.text("protocol", "http1"),
            UpstreamProtocol::H2 => out.text("protocol", "h2"),
            UpstreamProtocol::H2c => out.text("protocol", "h2c"),
        }
        let header = service.send_proxy_protocol.map_or("off", ProxyVersion::label);
        out.text("send_proxy_protocol", header);
        out.text(
            "host_header",
            match &service.host_header {
                HostHeader::Preserve => "preserve",
                HostHeader::Endpoint => "endpoint",
                HostHeader::Literal(host) => host,
            },
        );
        out.duration("session_grace", service.session_grace);
        if let Some(tls) = &service.tls {
            upstream::print_tls(out, tls);
        }
        print_health(out, &service.health);
        let (timeouts, retry, replication) =
            (&service.timeouts, &service.retry, &service.replication);
        print_outlier(out, &service.outlier);
        out.section("[services.overload]");
        out.at_most("max_requests", service.overload.max_requests);
        out.value("adaptive", service.overload.adaptive.into());
        out.whole("adaptive_min", service.overload.adaptive_min as usize);
        out.whole("queue", service.overload.queue as usize);
        out.duration("queue_time", service.overload.queue_time);
        out.section("[services.timeouts]");
        out.auto("connect", timeouts.connect);
        out.duration("first_byte", timeouts.first_byte);
        out.duration("idle", timeouts.idle);
        out.duration("request", timeouts.request);
        out.section("[services.retry]");
        out.whole("attempts", retry.attempts as usize);
        out.value("budget", retry.budget.into());
        out.texts("idempotent_methods", &retry.idempotent_methods);
        out.value("idempotency_key", retry.idempotency_key.into());
        out.size("buffer", retry.buffer as u64);
        print_replication(out, replication);
        print_failover(out, &service.failover);
        for endpoint in &service.endpoints {
            out.section("[[services.endpoints]]");
            out.text("region", self.region_id(endpoint.region.0));
            out.text("address", &endpoint.address.to_string());
            if let Some(status) = endpoint.status {
                out.text("status", &status.to_string());
            }
            out.whole("weight", endpoint.weight as usize);
            out.value("drain", endpoint.drain.into());
        }
    }

    fn print_route(&self, out: &mut Printer, route: &Route) {
        out.section("[[routes]]");
        out.text("name", route.name.as_str());
        out.texts(
            "hosts",
            route.hosts.iter().map(|host| match host {
                HostPattern::Exact(host) => host.clone(),
                HostPattern::Suffix(host) => format!("*.{host}"),
            }),
        );
        match &route.path {
            PathPattern::Exact(path) => out.text("path", path),
            PathPattern::Prefix(path) => out.text("path_prefix", path),
            PathPattern::Regex(regex) => out.text("path_regex", regex.as_str()),
        }
        out.texts("methods", &route.methods);
        out.value(
            "headers",
            values(
                route.headers.iter().map(|(name, value)| (name, value)),
                &route.headers_as_written,
            ),
        );
        if let Some(wanted) = &route.client_certificate {
            out.value("client_certificate", door::certificate_match(wanted));
        }
        let service = self.services.get(route.service.0 as usize);
        out.text("service", service.map_or("", |service| service.name.as_str()));
        out.text(
            "access",
            match route.access {
                Access::Auto => "auto",
                Access::Read => "read",
                Access::Write => "write",
                Access::ReadPrimary => "read_primary",
            },
        );
        out.text("policy", route.policy.label());
        if let Some(capability) = &route.capability {
            out.text("capability", capability);
        }
        out.texts("grpc_reads", &route.grpc_reads);
        out.value("graphql", route.graphql.into());
        if let Some(hedge) = route.hedge {
            let mut table = toml::Table::new();
            let after = match hedge.after {
                HedgeAfter::Percentile(percent) => format!("p{percent}"),
                HedgeAfter::Fixed(after) => show_duration(after),
            };
            table.insert("after".into(), after.into());
            table.insert("budget".into(), hedge.budget.into());
            out.value("hedge", Value::Table(table));
        }
        if let Some(max_staleness) = route.max_staleness {
            out.duration("max_staleness", max_staleness);
        }
        out.value("read_your_writes", route.read_your_writes.into());
        if let Some(bytes) = route.body_bytes {
            out.size("body_bytes", bytes);
        }
        out.at_most("max_requests", route.max_requests);
        if let Some(residency) = &route.residency {
            let regions = residency.regions.iter().map(|region| self.region_id(region.0).into());
            let subjects = residency.subject.iter().map(|subject| subject_word(*subject).into());
            let mut table = toml::Table::new();
            table.insert("regions".into(), Value::Array(regions.collect()));
            table.insert("subject".into(), Value::Array(subjects.collect()));
            table.insert("refuse".into(), i64::from(residency.refuse).into());
            out.value("residency", Value::Table(table));
        }
        if let Some(affinity) = &route.affinity {
            let text = |text: &str| Value::String(escape(text));
            let mut table = toml::Table::new();
            table.insert("cookie".into(), text(&affinity.cookie));
            table.insert("ttl".into(), text(&show_duration(affinity.ttl)));
            table.insert("secure".into(), text(affinity.secure.label()));
            table.insert("same_site".into(), text(affinity.same_site.label()));
            out.value("affinity", Value::Table(table));
        }
        out.text("strip_prefix", &route.strip_prefix);
        out.text("rewrite_prefix", &route.rewrite_prefix);
        out.value("request_headers", edits(&route.request_headers));
        out.value("response_headers", edits(&route.response_headers));
        out.value("expose_decision", route.expose_decision.into());
        if let Some(hsts) = &route.hsts {
            out.value("hsts", door::hsts(hsts));
        }
        if let Some(compress) = &route.compress {
            out.value("compress", compress::table(compress));
        }
    }

    fn region_id(&self, index: u8) -> &str {
        self.regions.get(usize::from(index)).map_or("", |region| region.id.as_str())
    }
}

fn print_listener(out: &mut Printer, listener: &Listener) {
    let protocols = [("h2", listener.h2), ("http1", listener.http1), ("h2c", listener.h2c)];
    let protocols = protocols.iter().filter(|(_, on)| *on).map(|(name, _)| *name);
    out.section("[[listeners]]");
    out.text("name", listener.name.as_str());
    out.text("address", &listener.address.to_string());
    out.texts("protocols", protocols);
    out.value("proxy_protocol", listener.proxy_protocol.into());
    out.texts("trusted_proxies", listener.trusted_proxies.iter().map(ToString::to_string));
    if let Some(redirect) = &listener.redirect_https {
        out.value("redirect_https", door::redirect(redirect));
    }
    if let Some(hsts) = &listener.hsts {
        out.value("hsts", door::hsts(hsts));
    }
    let Some(tls) = &listener.tls else { return };
    out.section("[listeners.tls]");
    let path = |path: &Path| Value::String(escape(&path.display().to_string()));
    let certificates = tls.certificates.iter().map(|files| {
        let mut table = toml::Table::new();
        table.insert("certificate".into(), path(&files.certificate));
        table.insert("private_key".into(), path(&files.private_key));
        if let Some(ocsp) = &files.ocsp {
            table.insert("ocsp".into(), path(ocsp));
        }
        Value::Table(table)
    });
    out.value("certificates", Value::Array(certificates.collect()));
    out.value("acme", tls.acme.into());
    out.text("min_version", tls.min_version.label());
    out.value("session_tickets", tls.session_tickets.into());
    let keys = tls.session_ticket_keys.iter().map(|file| path(file));
    out.value("session_ticket_keys", Value::Array(keys.collect()));
    if tls.handshakes != Handshakes::default() {
        out.value("handshakes", door::handshakes(&tls.handshakes));
    }
    out.text("client_auth", tls.client_auth.label());
    if let Some(file) = &tls.client_ca {
        out.path("client_ca", file);
    }
    let lists = tls.client_crl.iter().map(|file| path(file));
    out.value("client_crl", Value::Array(lists.collect()));
}

fn print_region(out: &mut Printer, region: &Region) {
    out.section("[[regions]]");
    out.text("id", region.id.as_str());
    out.text(
        "role",
        match region.role {
            RegionRole::Primary => "primary",
            RegionRole::Replica => "replica",
        },
    );
    out.coordinates(region.coordinates);
    if let Some(country) = region.country {
        out.text("country", country.as_str());
    }
    out.whole("weight", region.weight as usize);
    out.whole("priority", region.priority as usize);
    out.texts("capabilities", &region.capabilities);
    out.at_most("capacity", region.capacity);
    out.whole("failover_order", region.failover_order as usize);
    out.value("drain", region.drain.into());
}

fn print_health(out: &mut Printer, health: &Health) {
    out.section("[services.health]");
    match &health.kind {
        HealthKind::Http { path, host, expect_status, expect_body } => {
            out.text("kind", "http");
            out.text("path", path);
            out.text("host", host);
            out.texts("expect_status", expect_status.iter().map(|range| show_status_range(*range)));
            out.text("expect_body", expect_body);
        }
        HealthKind::Tcp => out.text("kind", "tcp"),
        HealthKind::Grpc => out.text("kind", "grpc"),
        HealthKind::None => out.text("kind", "none"),
    }
    out.duration("interval", health.interval);
    out.duration("fast_interval", health.fast_interval);
    out.value("jitter", health.jitter.into());
    out.auto("timeout", health.timeout);
    out.whole("fall", health.fall as usize);
    out.whole("rise", health.rise as usize);
}

fn print_replication(out: &mut Printer, replication: &Replication) {
    out.section("[services.replication]");
    out.text("source", replication.source.label());
    if let Some(path) = replication.source.path() {
        out.text("path", path);
    }
    if let ReplicationSource::Prometheus { metrics, .. } = &replication.source {
        let text = |text: &str| Value::String(escape(text));
        let mut table = toml::Table::new();
        table.insert("is_replica".into(), text(&metrics.is_replica));
        table.insert("lag_seconds".into(), text(&metrics.lag_seconds));
        table.insert("epoch".into(), text(&metrics.epoch));
        table.insert("position".into(), text(&metrics.position));
        out.value("metrics", Value::Table(table));
    }
    if let Some(port) = replication.port {
        out.whole("port", usize::from(port));
    }
    out.duration("interval", replication.interval);
    out.duration("warn_lag", replication.warn_lag);
    out.duration("max_lag", replication.max_lag);
    if let Some(bytes) = replication.max_lag_bytes {
        out.size("max_lag_bytes", bytes);
    }
    out.duration("sample_max_age", replication.sample_max_age);
    out.duration("session_wait", replication.session_wait);
}

fn print_failover(out: &mut Printer, failover: &Failover) {
    out.section("[services.failover]");
    out.text("mode", failover.mode.label());
    if !failover.hook.is_empty() {
        out.texts("hook", &failover.hook);
    }
    if !failover.hook.is_empty() {
        out.duration("hook_timeout", failover.hook_timeout);
    }
    out.duration("hold", failover.hold);
    out.duration("max_lag", failover.max_lag);
    out.duration("cooldown", failover.cooldown);
    out.duration("failback_after", failover.failback_after);
    out.duration("failback_max_lag", failover.failback_max_lag);
    out.text("failback", failover.failback.label());
    let park = failover.write_park;
    let mut table = toml::Table::new();
    table.insert("requests".into(), i64::from(park.requests).into());
    table.insert("bytes".into(), show_size(park.bytes).into());
    table.insert("time".into(), show_duration(park.time).into());
    out.value("write_park", Value::Table(table));
}

fn print_outlier(out: &mut Printer, outlier: &Outlier) {
    out.section("[services.outlier]");
    out.whole("connection_failures", outlier.connection_failures as usize);
    out.whole("consecutive_5xx", outlier.consecutive_5xx as usize);
    out.value("success_ratio", outlier.success_ratio.into());
    out.duration("ejection", outlier.ejection);
    out.value("max_ejected", outlier.max_ejected.into());
}

fn balance_words(balance: &Balance) -> (&'static str, Option<String>) {
    match balance {
        Balance::P2cEwma => ("p2c_ewma", None),
        Balance::LeastRequest => ("least_request", None),
        Balance::RoundRobin => ("round_robin", None),
        Balance::Random => ("random", None),
        Balance::ConsistentHash(key) => {
            let key = match key {
                HashKey::Client => "client".into(),
                HashKey::Path => "path".into(),
                HashKey::Header(name) => format!("header:{name}"),
                HashKey::Cookie(name) => format!("cookie:{name}"),
            };
            ("consistent_hash", Some(key))
        }
    }
}

fn subject_word(subject: ResidencySubject) -> String {
    match subject {
        ResidencySubject::Country(country) => country.to_string(),
        ResidencySubject::Continent(continent) => format!("continent:{continent}"),
        ResidencySubject::EuropeanUnion => "EU".into(),
    }
}

fn edits(edits: &HeaderEdits) -> Value {
    let remove = edits.remove.iter().map(|name| name.clone().into());
    let mut table = toml::Table::new();
    table.insert("set".into(), values(&edits.set, &edits.as_written));
    table.insert("remove".into(), Value::Array(remove.collect()));
    Value::Table(table)
}

/// Header values by name, those that came from the environment as they were written.
fn values<'a>(
    values: impl IntoIterator<Item = (&'a String, &'a String)>,
    as_written: &BTreeMap<String, String>,
) -> Value {
    let shown = |(name, value): (&String, &String)| {
        let text = as_written.get(name).cloned().unwrap_or_else(|| escape(value));
        (name.clone(), text.into())
    };
    Value::Table(values.into_iter().map(shown).collect())
}

/// Writes sections and keys in the order of the calls.
struct Printer(String);

impl Printer {
    fn section(&mut self, header: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(header);
        self.0.push('\n');
    }

    fn value(&mut self, key: &str, value: Value) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{key} = {value}");
    }

    fn text(&mut self, key: &str, text: &str) {
        self.value(key, escape(text).into());
    }

    fn texts<T: AsRef<str>>(&mut self, key: &str, texts: impl IntoIterator<Item = T>) {
        let texts = texts.into_iter().map(|text| escape(text.as_ref()).into());
        self.value(key, Value::Array(texts.collect()));
    }

    fn path(&mut self, key: &str, path: &Path) {
        self.text(key, &path.display().to_string());
    }

    fn whole(&mut self, key: &str, number: usize) {
        let _ = writeln!(self.0, "{key} = {number}");
    }

    /// A cap, where there is one.
    fn at_most(&mut self, key: &str, cap: Option<u32>) {
        if let Some(cap) = cap {
            self.whole(key, cap as usize);
        }
    }

    fn size(&mut self, key: &str, bytes: u64) {
        self.text(key, &show_size(bytes));
    }

    fn duration(&mut self, key: &str, duration: Duration) {
        self.text(key, &show_duration(duration));
    }

    fn auto(&mut self, key: &str, duration: Option<Duration>) {
        match duration {
            Some(duration) => self.duration(key, duration),
            None => self.text(key, "auto"),
        }
    }

    fn coordinates(&mut self, coordinates: Option<Coordinates>) {
        if let Some(at) = coordinates {
            let pair = vec![at.latitude().into(), at.longitude().into()];
            self.value("coordinates", Value::Array(pair));
        }
    }
}
