//! What is said about wrong and odd configurations, to the letter: people and tools read these lines.

use std::path::Path;

use meridian_config::{Config, Finding, Loaded, TlsVersion};

const MINIMAL: &str = include_str!("../minimal.toml");

fn parse(text: &str) -> Result<Loaded, meridian_config::ConfigErrors> {
    let env = |name: &str| (name == "SET").then(|| "value".to_owned());
    Config::parse(text, Path::new("/etc/m.toml"), &env)
}

/// `LINE:COL: path: message` of each.
fn lines(findings: &[Finding]) -> Vec<String> {
    let strip = |f: &Finding| f.to_string().trim_start_matches("/etc/m.toml:").to_owned();
    findings.iter().map(strip).collect()
}

fn errors(text: &str) -> Vec<String> {
    lines(&parse(text).expect_err("the text is wrong").errors)
}

/// The minimal configuration with one line changed; errors name that line as `L`.
fn errors_with(line: &str, replacement: &str) -> Vec<String> {
    let at = MINIMAL.find(&format!("\n{line}\n")).expect("the line is there") + 1;
    let text = format!("{}{replacement}{}", &MINIMAL[..at], &MINIMAL[at + line.len()..]);
    let number = MINIMAL[..at].matches('\n').count() + 1;
    let mark = |error: String| match error.strip_prefix(&format!("{number}:")) {
        Some(rest) => format!("L:{rest}"),
        None => error,
    };
    errors(&text).into_iter().map(mark).collect()
}

/// The only error after a route's line was added.
fn route_error(line: &str) -> String {
    only(errors_with("service = \"api\"", &format!("service = \"api\"\n{line}")))
        .replacen("32:", "", 1)
}

/// The only error after a service's line was added.
fn service_error(line: &str) -> String {
    only(errors(&service_text(line))).replacen("20:", "", 1)
}

fn service_text(line: &str) -> String {
    let service = "[[services]]\nname = \"api\"\n";
    MINIMAL.replacen(service, &format!("{service}{line}\n"), 1)
}

fn only(mut errors: Vec<String>) -> String {
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors.remove(0)
}

#[test]
fn references_and_keys_suggest_what_was_meant() {
    assert_eq!(
        errors_with("service = \"api\"", "service = \"apii\""),
        [r#"L:11: routes[0].service: unknown service "apii"; did you mean "api"?"#]
    );
    assert_eq!(
        errors_with("service = \"api\"", "service = \"shop\""),
        [r#"L:11: routes[0].service: unknown service "shop""#]
    );
    assert_eq!(
        errors_with("role = \"replica\"", "rolle = \"replica\"\nserver = 1"),
        [
            "13:1: regions[1].role: a second primary after \"us-east-1\": route \"api\" can write \
             and needs exactly one (the default role is \"primary\")",
            r#"L:1: regions[1].rolle: unknown key; did you mean "role"?"#,
            "16:1: regions[1].server: unknown key",
        ]
    );
    assert_eq!(
        errors_with("[[routes]]", "[[ruotes]]"),
        [
            "1:1: routes: at least one [[routes]] is required",
            r#"L:3: ruotes: unknown section; did you mean "routes"?"#
        ]
    );
    assert_eq!(
        service_error("policy = \"latancy\""),
        r#"10: services[0].policy: unknown value "latancy"; did you mean "latency"?"#
    );
    assert_eq!(
        service_error("balance = \"fair\""),
        "11: services[0].balance: unknown value \"fair\"; expected \"p2c_ewma\", \
         \"least_request\", \"round_robin\", \"random\", \"consistent_hash\""
    );
}

#[test]
fn types_and_units() {
    for (line, error) in [
        (
            "timeouts.idle = 30",
            r#"17: services[0].timeouts.idle: a duration needs a unit: "30ms", "30s", "30m" or "30h""#,
        ),
        (
            "timeouts.idle = \"30\"",
            r#"17: services[0].timeouts.idle: "30" is not a duration; write a number with ms, s, m or h, such as "250ms""#,
        ),
        ("timeouts.idle = \"0s\"", "17: services[0].timeouts.idle: 0s is not from 1ms to 168h"),
        (
            "timeouts.idle = true",
            r#"17: services[0].timeouts.idle: expected a duration such as "250ms", found boolean"#,
        ),
        (
            "retry.buffer = 65536",
            r#"16: services[0].retry.buffer: a size needs a unit: "65536B", "65536KiB" or "65536MiB""#,
        ),
        (
            "overload.max_requests = 0",
            "25: services[0].overload.max_requests: 0 is not from 1 to 16777215",
        ),
        (
            "overload = { adaptive = true, max_requests = 2 }",
            "46: services[0].overload.max_requests: is below adaptive_min, 3",
        ),
        (
            "overload.max_request = 2",
            r#"10: services[0].overload.max_request: unknown key; did you mean "max_requests"?"#,
        ),
        ("retry.buffer = \"1GiB\"", "16: services[0].retry.buffer: 1GiB is not from 0B to 16MiB"),
        ("retry.attempts = 11", "18: services[0].retry.attempts: 11 is not from 0 to 10"),
        ("retry.attempts = -1", "18: services[0].retry.attempts: -1 is not from 0 to 10"),
        (
            "retry.attempts = \"2\"",
            "18: services[0].retry.attempts: expected a whole number, found string",
        ),
        ("retry.budget = 1.5", "16: services[0].retry.budget: 1.5 is not from 0 to 1"),
        ("retry.budget = nan", "16: services[0].retry.budget: nan is not from 0 to 1"),
        ("health.jitter = 0.6", "17: services[0].health.jitter: 0.6 is not from 0 to 0.5"),
        (
            "outlier.consecutive_5xx = 1001",
            "27: services[0].outlier.consecutive_5xx: 1001 is not from 0 to 1000",
        ),
        (
            "outlier.success_ratio = 1.1",
            "25: services[0].outlier.success_ratio: 1.1 is not from 0 to 1",
        ),
        (
            "outlier.ejection = \"6m\"",
            "20: services[0].outlier.ejection: 6m is not from 100ms to 5m",
        ),
        (
            "outlier.max_eject = 0.1",
            "9: services[0].outlier.max_eject: unknown key; did you mean \"max_ejected\"?",
        ),
        (
            "retry.idempotency_key = \"yes\"",
            "25: services[0].retry.idempotency_key: expected true or false, found string",
        ),
        ("health = 1", "10: services[0].health: expected a table, found integer"),
        (
            "retry.idempotent_methods = [\"get\"]",
            r#"29: services[0].retry.idempotent_methods[0]: methods are in upper case; write "GET""#,
        ),
        (
            "retry.idempotent_methods = [\"POST\"]",
            "29: services[0].retry.idempotent_methods[0]: POST is not idempotent and is never sent twice",
        ),
        (
            "host_header = \"${NO}\"",
            r#"15: services[0].host_header: environment variable NO is not set; "${NO:-default}" would give a default"#,
        ),
    ] {
        assert_eq!(service_error(line), error, "{line}");
    }
}

#[test]
fn services_are_consistent_in_themselves() {
    for (line, error) in [
        (
            "health.interval = \"50ms\"\nhealth.fast_interval = \"60ms\"",
            "21:24: services[0].health.fast_interval: is above interval, 50ms",
        ),
        (
            "health.expect_status = []",
            "24: services[0].health.expect_status: no status would ever pass",
        ),
        (
            "replication.max_lag = \"10s\"\nreplication.warn_lag = \"20s\"",
            "21:24: services[0].replication.warn_lag: is above max_lag, 10s",
        ),
        (
            "health.kind = \"tcp\"\nreplication.source = \"headers\"",
            "21:1: services[0].replication: source = \"headers\" needs health.kind = \"http\": no other probe sees the headers that say the lag",
        ),
        (
            "replication.source = \"patroni\"\nreplication.metrics.epoch = \"x\"",
            "21:13: services[0].replication.metrics: is only for source = \"prometheus\"",
        ),
        (
            "replication.source = \"prometheus\"\nreplication.metrics.lag_seconds = \"\"",
            "21:13: services[0].replication.metrics: lag_seconds and position are both empty: nothing would say the lag",
        ),
        (
            "replication.source = \"prometheus\"\nreplication.metrics.epoch = \"1x\"",
            "21:29: services[0].replication.metrics.epoch: \"1x\" is not a metric's name",
        ),
        (
            "failover.mode = \"hook\"",
            "1: services[0].failover.hook: mode = \"hook\" needs hook: a program and its arguments, such as [\"/etc/meridian/promote.sh\"]",
        ),
        ("failover.hook = [\"\"]", "17: services[0].failover.hook: names no program"),
        (
            "failover.mode = \"automatic\"",
            "17: services[0].failover.mode: unknown value \"automatic\"; expected \"follow\", \"manual\", \"hook\"",
        ),
        (
            "failover.write_park.time = \"301s\"",
            "28: services[0].failover.write_park.time: 301s is not from 1ms to 5m",
        ),
        (
            "replication.source = \"status\"\nreplication.interval = \"5s\"",
            "1: services[0].replication: sample_max_age, 5s, is not above the interval between two samples, 5s",
        ),
        (
            "health.interval = \"6s\"\nreplication.source = \"headers\"",
            "21:1: services[0].replication: sample_max_age, 5s, is not above the interval between two samples, 6s",
        ),
        (
            "hash_key = \"client\"",
            "12: services[0].hash_key: is only for balance = \"consistent_hash\"",
        ),
        (
            "balance = \"consistent_hash\"",
            "18:1: services[0].hash_key: balance = \"consistent_hash\" needs hash_key: \"client\", \"path\", \"header:NAME\" or \"cookie:NAME\"",
        ),
    ] {
        assert_eq!(service_error(line), error, "{line}");
    }
    assert_eq!(
        errors_with("address = \"127.0.0.1:3002\"", "address = \"127.0.0.1:3001\""),
        ["L:11: services[0].endpoints[1].address: duplicate endpoint, already at \
          services[0].endpoints[0].address"]
    );
}

#[test]
fn routes_match_and_edit_what_http_allows() {
    for (line, error) in [
        (
            "hosts = [\"API.example\"]",
            r#"10: routes[0].hosts[0]: hosts are in lower case; write "api.example""#,
        ),
        (
            "hosts = [\"a\", \"a.example:80\"]",
            "15: routes[0].hosts[1]: a host is written without a port",
        ),
        ("hosts = [\"*\"]", "10: routes[0].hosts[0]: for any host leave `hosts` empty"),
        (
            "hosts = [\"a.*.b\"]",
            r#"10: routes[0].hosts[0]: "*." may only stand once and at the front, such as "*.example.com""#,
        ),
        ("path_prefix = \"api\"", r#"15: routes[0].path_prefix: "api" does not start with "/""#),
        (
            "path = \"/a\"\npath_prefix = \"/\"",
            "33:15: routes[0].path_prefix: only one of path, path_prefix and path_regex may be there",
        ),
        (
            "path_regex = \"^/(\"",
            r#"14: routes[0].path_regex: "^/(" is not a regular expression: unclosed group"#,
        ),
        (
            "request_headers.set = { X-A = \"a\\r\\nb\" }",
            "31: routes[0].request_headers.set.X-A: a header value has no line ends or other control characters",
        ),
        (
            "request_headers.set = { Host = \"a\" }",
            r#"32: routes[0].request_headers.set.Host: header "host" belongs to the connection and cannot be edited"#,
        ),
        (
            "request_headers.remove = [\"Max-Forwards\"]",
            r#"27: routes[0].request_headers.remove[0]: header "max-forwards" belongs to the connection and cannot be edited"#,
        ),
        (
            "request_headers.set = { expect = \"100-continue\" }",
            r#"34: routes[0].request_headers.set.expect: header "expect" belongs to the connection and cannot be edited"#,
        ),
        (
            "response_headers.remove = [\"Connection\"]",
            r#"28: routes[0].response_headers.remove[0]: header "connection" belongs to the connection and cannot be edited"#,
        ),
        (
            "headers = { x-a = \"1\", X-A = \"2\" }",
            "19: routes[0].headers.x-a: stands here twice; letter case makes no difference",
        ),
        (
            "residency = { regions = [\"eu-west-2\"] }",
            r#"26: routes[0].residency.regions[0]: unknown region "eu-west-2"; did you mean "eu-west-1"?"#,
        ),
        (
            "residency = { regions = [\"eu-west-1\"], refuse = 404 }",
            "49: routes[0].residency.refuse: a refusal is 451, 403 or 503, not 404",
        ),
        (
            "residency = { regions = [\"eu-west-1\"], subject = [\"UK\"] }",
            "51: routes[0].residency.subject[0]: \"UK\" is not a country of ISO 3166-1; did you mean \"GB\"?; a subject is a country such as \"DE\", \"EU\", or \"continent:AS\"",
        ),
    ] {
        assert_eq!(route_error(line), error, "{line}");
    }
}

#[test]
fn sections_agree_with_each_other() {
    assert_eq!(
        errors_with("role = \"primary\"", "role = \"replica\""),
        ["29:1: routes[0]: can write, but no region has role = \"primary\"; a route that only \
          reads says access = \"read\""]
    );
    let read_only = MINIMAL.replacen("\"primary\"", "\"replica\"", 1);
    assert!(parse(&format!("{read_only}access = \"read\"\n")).is_ok());
    assert!(parse(&format!("{read_only}methods = [\"GET\", \"HEAD\"]\n")).is_ok());
    assert!(parse(&format!("{read_only}methods = [\"GET\", \"POST\"]\n")).is_err());
    assert!(parse(&format!("{read_only}access = \"read_primary\"\n")).is_err());
    let two = MINIMAL.replacen("\"replica\"", "\"primary\"", 1);
    assert!(parse(&format!("{two}access = \"read\"\n")).is_ok());
    assert_eq!(
        errors(&format!("{two}access = \"read\"\nmax_staleness = \"5s\"\n")),
        ["18:1: services[0]: has two primaries, \"us-east-1\" and \"eu-west-1\", but lag or \
          staleness counts for replicas only (the default role is \"primary\")"]
    );
    assert_eq!(
        errors(&format!("{MINIMAL}body_bytes = \"2GiB\"\n")),
        ["32:14: routes[0].body_bytes: is above limits.body_bytes, 1GiB"]
    );
    assert_eq!(
        errors_with("coordinates = [53.35, -6.26]", "coordinates = [53.35, -186]"),
        ["L:23: regions[1].coordinates[1]: -186 is not from -180 to 180"]
    );
    assert_eq!(
        errors_with("coordinates = [53.35, -6.26]", ""),
        ["13:1: regions[1].coordinates: is required by policy \"latency\" of service \"api\""]
    );
    assert_eq!(
        errors_with("id = \"eu-west-1\"", "id = \"us-east-1\""),
        [
            "L:6: regions[1].id: duplicate region \"us-east-1\", already at regions[0].id",
            "26:10: services[0].endpoints[1].region: unknown region \"eu-west-1\"",
        ]
    );
    assert_eq!(
        errors(&format!("{MINIMAL}\n[admin]\naddress = \"127.0.0.1:8080\"\n")),
        ["34:11: admin.address: duplicate address \"127.0.0.1:8080\", already at \
          listeners[0].address"]
    );
    assert_eq!(
        errors(""),
        ["listeners", "regions", "services", "routes"]
            .map(|key| format!("1:1: {key}: at least one [[{key}]] is required"))
    );
    let mut many = String::new();
    for i in 0..65 {
        many.push_str(&format!("[[regions]]\nid = \"r{i}\"\nrole = \"replica\"\n"));
    }
    assert_eq!(
        errors(&format!("{MINIMAL}\n{many}")),
        ["219:1: regions[64]: there may be at most 64 regions"]
    );
}

#[test]
fn the_admin_endpoint_is_not_left_open() {
    let with = |admin: &str| format!("{MINIMAL}\n[admin]\n{admin}\n");
    let open = "34:11: admin.address: listening on every address needs tokens; without them \
                whoever reaches it may do everything";
    for address in ["0.0.0.0:9901", "[::]:9901", "[::ffff:0.0.0.0]:9901"] {
        assert_eq!(errors(&with(&format!("address = \"{address}\""))), [open], "{address}");
    }
    let near = parse(&with("address = \"10.0.0.1:9901\"")).expect("a warning only");
    assert_eq!(near.warnings.len(), 1);
    assert_eq!(
        errors(&with("tokens = [{ role = \"root\", token_file = \"/nonexistent/token\" }]")),
        [
            "34:20: admin.tokens[0].role: unknown value \"root\"; expected \"read\", \
             \"operator\", \"admin\"",
            "34:41: admin.tokens[0].token_file: /nonexistent/token: cannot be read: No such file \
             or directory (os error 2)",
        ]
    );
}

#[test]
fn what_a_later_version_brings_is_refused_by_name() {
    let gone = "is not available in this version";
    assert_eq!(
        route_error("methods = [\"CONNECT\"]"),
        format!("12: routes[0].methods[0]: \"CONNECT\" {gone}")
    );
    let listener = "address = \"127.0.0.1:8080\"";
    let line = format!("{listener}\nproxy_protocol = true");
    let error = "7:18: listeners[0].proxy_protocol: needs trusted_proxies: nobody else may send a PROXY header";
    assert_eq!(errors_with(listener, &line), [error]);
    assert_eq!(errors_with(listener, &format!("{line}\ntrusted_proxies = []")), [error]);
    assert!(parse(&service_text("protocol = \"http1\"")).is_ok());
}

#[test]
fn tls_to_endpoints_needs_whole_pairs_and_names_of_certificates() {
    for (line, error) in [
        ("tls.certificate = \"a.pem\"", "services[0].tls.certificate: needs private_key beside it"),
        ("tls.private_key = \"a.key\"", "services[0].tls.private_key: needs certificate beside it"),
        ("tls.ca = 5", "services[0].tls.ca: expected a string, found integer"),
        ("tls.verify = false", "services[0].tls.verify: unknown key"),
    ] {
        let said = service_error(line);
        assert!(said.contains(error), "{line}: {said}");
    }
    for (line, error) in [
        ("protocol = \"h2\"", "\"h2\" needs [services.tls]; HTTP/2 without TLS is \"h2c\""),
        (
            "protocol = \"h2c\"\ntls = {}",
            "\"h2c\" is HTTP/2 without TLS; with [services.tls] write \"h2\"",
        ),
    ] {
        let said = service_error(line);
        assert!(said.contains(error), "{line}: {said}");
    }
    let said = service_error("tls.server_name = \"a.example:443\"");
    assert!(
        said.contains("services[0].tls.server_name: a host is written without a port"),
        "{said}"
    );
    for line in [
        "tls = {}",
        "tls = { server_name = \"\", ca = \"\", certificate = \"\", private_key = \"\" }",
    ] {
        let config = parse(&service_text(line)).expect("TLS").config;
        let tls = config.services[0].tls.as_ref().expect("TLS");
        assert_eq!((&tls.server_name, &tls.files.ca, &tls.files.client), (&None, &None, &None));
    }
}

#[test]
fn tls_has_certificates_and_its_own_protocols() {
    let listener = "address = \"127.0.0.1:8080\"";
    let errors = |lines: &str| errors_with(listener, &format!("{listener}\n{lines}"));
    let good = "tls.certificates = [{ certificate = \"a.pem\", private_key = \"a.key\" }]";
    let with = |line: &str| errors(&format!("{good}\n{line}"));
    for (lines, error) in [
        ("tls = {}", "7:7: listeners[0].tls.certificates: is required"),
        (
            "tls = { certificates = [] }",
            "7:24: listeners[0].tls.certificates: at least one { certificate, private_key } is required, or acme = true",
        ),
        (
            "tls = { certificates = [{ certificate = \"a\" }] }",
            "7:25: listeners[0].tls.certificates[0].private_key: is required",
        ),
        (
            "tls = { certificates = [{ certificate = \"\", private_key = \"a\" }] }",
            "7:41: listeners[0].tls.certificates[0].certificate: a path is not empty",
        ),
        (
            "tls = true\nprotocols = [\"h2\"]",
            "7:7: listeners[0].tls: expected a table, found boolean",
        ),
        (
            "protocols = [\"h2\"]",
            "7:14: listeners[0].protocols[0]: \"h2\" needs [listeners.tls]; HTTP/2 without TLS is \"h2c\"",
        ),
        (
            "protocols = []",
            "7:13: listeners[0].protocols: a listener needs a protocol: \"http1\", \"h2c\"",
        ),
    ] {
        assert_eq!(errors(lines), [error], "{lines}");
    }
    for (line, error) in [
        (
            "protocols = [\"http1\", \"h2c\"]",
            "8:23: listeners[0].protocols[1]: \"h2c\" is HTTP/2 without TLS; with [listeners.tls] write \"h2\"",
        ),
        (
            "protocols = []",
            "8:13: listeners[0].protocols: a listener needs a protocol: \"http1\", \"h2\"",
        ),
        (
            "tls.min_version = \"1.1\"",
            "8:19: listeners[0].tls.min_version: unknown value \"1.1\"; did you mean \"1.2\"?",
        ),
        (
            "tls.session_ticket = true",
            "8:5: listeners[0].tls.session_ticket: unknown key; did you mean \"session_tickets\"?",
        ),
        (
            "tls.client_auth = \"optional\"",
            "8:19: listeners[0].tls.client_auth: needs client_ca: who signs the certificates of clients",
        ),
        (
            "tls.client_auth = \"require\"",
            "8:19: listeners[0].tls.client_auth: unknown value \"require\"; did you mean \"required\"?",
        ),
    ] {
        assert_eq!(with(line), [error], "{line}");
    }
    let lines = format!("{listener}\n{good}\ntls.client_ca = \"\"\ntls.client_auth = \"off\"");
    let loaded = parse(&MINIMAL.replacen(listener, &lines, 1)).expect("off is fine");
    let [listener] = &*loaded.config.listeners else { panic!("one listener") };
    assert!(listener.h2 && listener.http1 && !listener.h2c, "the default with TLS");
    let tls = listener.tls.as_ref().expect("TLS");
    assert_eq!((tls.min_version, tls.session_tickets), (TlsVersion::Tls12, true));
    assert_eq!(tls.certificates[0].private_key, Path::new("/etc/a.key"));
}

#[test]
fn text_that_is_not_toml_is_located() {
    let broken = "[edge]\nid = \"edge\nregion = 5 6\n";
    let errors = errors(broken);
    assert!(errors[0].starts_with("2:"), "{errors:#?}");
    assert!(errors.iter().any(|error| error.starts_with("3:")), "{errors:#?}");
    let twice = parse("[edge]\nid = \"a\"\nid = \"b\"\n").expect_err("a duplicate key");
    assert_eq!(lines(&twice.errors), ["3:1: duplicate key \"id\""]);
}

#[test]
fn a_name_that_cannot_be_read_is_one_error() {
    let text = MINIMAL.replacen("name = \"api\"", "name = \"${NOT_SET}\"", 1);
    let said = lines(&parse(&text).expect_err("not set").errors);
    assert_eq!(said.len(), 1, "{said:#?}");
    assert!(said[0].contains("services[0].name") && said[0].contains("NOT_SET"), "{said:#?}");
}

#[test]
fn oddities_are_warnings() {
    let warnings = |text: &str| lines(&parse(text).expect("only odd").warnings);
    assert_eq!(warnings(MINIMAL), [""; 0]);
    let route = "\n[[routes]]\nname = \"again\"\nservice = \"api\"\n";
    assert_eq!(
        warnings(&format!("{MINIMAL}{route}")),
        ["33:1: routes[1]: matches the same requests as route \"api\", which comes first and wins"]
    );
    assert_eq!(warnings(&format!("{MINIMAL}{route}methods = [\"PUT\"]")), [""; 0]);
    assert_eq!(
        warnings(&format!("{MINIMAL}\n[[regions]]\nid = \"r3\"\nrole = \"replica\"\n")),
        ["33:1: regions[2]: region \"r3\" has no endpoint of any service"]
    );
    assert_eq!(
        warnings(&service_text("health.kind = \"tcp\"\nhealth.path = \"/x\"")),
        ["21:15: services[0].health.path: has no effect unless kind = \"http\""]
    );
    for key in ["interval", "timeout"] {
        let line = format!("health.kind = \"none\"\nhealth.{key} = \"300ms\"");
        let said = only(warnings(&service_text(&line)));
        assert!(said.ends_with(&format!("health.{key}: has no effect with kind = \"none\"")));
    }
    for key in ["max_lag", "warn_lag", "sample_max_age"] {
        let said = only(warnings(&service_text(&format!("replication.{key} = \"20s\""))));
        let end = format!("replication.{key}: has no effect with source = \"none\"");
        assert!(said.ends_with(&end), "{said}");
    }
    assert_eq!(
        warnings(&service_text("host_header = \"preserv\"")),
        ["20:15: services[0].host_header: is taken as a literal host; did you mean \"preserve\"?"]
    );
    assert_eq!(
        warnings(&format!("{MINIMAL}capability = \"ai\"\n")),
        ["29:1: routes[0]: no region of service \"api\" has capability \"ai\""]
    );
    let measured = service_text("replication.source = \"status\"");
    let said = only(warnings(&format!("{measured}max_staleness = \"500ms\"\n")));
    assert!(said.contains("max_staleness is not above the interval between two samples"), "{said}");
    let second =
        "[[services]]\nname = \"b\"\nendpoints = [{ region = \"us-east-1\", address = \"x:1\" }]";
    assert_eq!(
        warnings(&format!("{MINIMAL}\n{second}\n")),
        ["33:1: services[1]: no route uses service \"b\""]
    );
}

#[test]
fn errors_print_one_a_line_with_the_file_and_serialize() {
    let errors = parse("[edge]\nidd = 1\n[limits]\nheaders = 0\n").expect_err("wrong");
    let text = errors.to_string();
    assert!(
        text.contains("/etc/m.toml:2:1: edge.idd: unknown key; did you mean \"id\"?\n"),
        "{text}"
    );
    assert!(text.contains("/etc/m.toml:4:11: limits.headers: 0 is not from 1 to 1000"), "{text}");
    assert_eq!(text.lines().count(), errors.errors.len());
    let json = serde_json::to_value(&errors).expect("serializes");
    let found = json["errors"].as_array().expect("an array").iter();
    assert!(
        found.into_iter().any(|e| e["path"] == "edge.idd" && e["line"] == 2 && e["column"] == 1)
    );
}

#[test]
fn history_and_alerts() {
    let line = MINIMAL.lines().count() + 2;
    let said = |lines: &str| {
        let told = errors(&format!("{MINIMAL}[alerts]\n{lines}\n"));
        told.iter().map(|e| e.replacen(&format!("{line}:"), "", 1)).collect::<Vec<_>>()
    };
    for (lines, error) in [
        ("url = \"hooks.example\"", r#"7: alerts.url: a URL starts with "http://" or "https://""#),
        (
            "url = \"https://u:p@hooks.example\"",
            "7: alerts.url: a URL holds no user or password here; use alerts.headers",
        ),
        (
            "headers = { Authorization = \"Bearer abc\" }",
            "29: alerts.headers.Authorization: holds a secret, which belongs in the environment: \
             write \"${NAME}\"",
        ),
        (
            "headers = { X-Meridian-Event = \"x\" }",
            r#"32: alerts.headers.X-Meridian-Event: header "x-meridian-event" is written by Meridian"#,
        ),
        (
            "events = [\"dwon\"]",
            r#"11: alerts.events[0]: unknown value "dwon"; did you mean "down"?"#,
        ),
        ("events = []", "10: alerts.events: at least one; to send nothing, leave alerts.url empty"),
        (
            "secret_file = \"missing\"",
            "15: alerts.secret_file: /etc/missing: cannot be read: No such file or directory (os error 2)",
        ),
        ("timeout = \"2m\"", "11: alerts.timeout: 2m is not from 1ms to 1m"),
        ("queue = 0", "9: alerts.queue: 0 is not from 1 to 10000"),
        ("ulr = \"\"", r#"1: alerts.ulr: unknown key; did you mean "url"?"#),
    ] {
        assert_eq!(said(lines), [error], "{lines}");
    }
    let told = errors(&format!("{MINIMAL}[history]\nfile_bytes = \"1KiB\"\nentries = 0\n"));
    assert_eq!(
        told,
        [
            format!(
                "{line}:14: history.file_bytes: 1KiB is neither 0B, which is no file, nor from \
                 64KiB to 1GiB"
            ),
            format!("{}:11: history.entries: 0 is not from 1 to 100000", line + 1),
        ]
    );
    let odd = format!("{MINIMAL}[alerts]\nca = \"roots.pem\"\n");
    assert_eq!(
        lines(&parse(&odd).expect("odd, not wrong").warnings),
        [format!("{line}:6: alerts.ca: has no effect while alerts.url is empty")]
    );
}

#[test]
fn affinity() {
    let error = |line: &str| {
        let error = route_error(&format!("affinity = {line}"));
        error.split_once(": ").expect("a column").1.to_owned()
    };
    assert_eq!(
        error("{ cokie = \"a\" }"),
        "routes[0].affinity.cokie: unknown key; did you mean \"cookie\"?"
    );
    assert_eq!(
        error("{ cookie = \"a b\" }"),
        "routes[0].affinity.cookie: \"a b\" is not a cookie name"
    );
    assert_eq!(
        error("{ same_site = \"laxx\" }"),
        "routes[0].affinity.same_site: unknown value \"laxx\"; did you mean \"lax\"?"
    );
    assert_eq!(
        error("{ same_site = \"none\", secure = \"never\" }"),
        "routes[0].affinity.same_site: \"none\" needs secure: browsers drop such a cookie \
         without it"
    );
    for name in ["__Host-a", "__secure-a"] {
        assert_eq!(
            error(&format!("{{ cookie = \"{name}\" }}")),
            "routes[0].affinity.cookie: a name with this prefix needs secure = \"always\": \
             browsers drop the cookie without it"
        );
    }
    for name in ["__meridian", "__meridian-api"] {
        assert_eq!(
            error(&format!("{{ cookie = \"{name}\" }}")),
            format!(
                "routes[0].affinity.cookie: \"{name}\" is the name of session tokens: one cookie would \
                 take the other's place"
            )
        );
    }
    for ttl in ["999ms", "8d", "0s"] {
        assert!(error(&format!("{{ ttl = \"{ttl}\" }}")).contains("routes[0].affinity.ttl"));
    }
    let fine = errors_with("service = \"api\"", "service = \"api\"\naffinity = {}\nx = 1");
    assert_eq!(fine.len(), 1, "the defaults are fine: {fine:?}");
    let loaded = parse(&service_text("session_grace = \"5m\"")).expect("a warning only");
    assert_eq!(
        lines(&loaded.warnings),
        [
            "18:1: services[0]: session_grace has no effect while no route to this service has affinity"
        ]
    );
}

#[test]
fn session_secrets() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("keys");
    let error = |text: &str| {
        std::fs::write(&path, text).expect("writes");
        let line = format!("[edge]\nsession_secret_file = {:?}\n\n", path.display().to_string());
        parse(&(line + MINIMAL)).err().map(|errors| only(lines(&errors.errors)))
    };
    let told = error("tooshort").expect("refused");
    assert!(
        told.contains("edge.session_secret_file") && told.contains("one or two keys"),
        "{told}"
    );
    assert!(!told.contains("tooshort"), "{told}");
    assert_eq!(error(&"k".repeat(32)), None);
}
