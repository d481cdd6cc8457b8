//! What is said about routes that do not do what they seem to be for.

use std::path::Path;

use meridian_config::Config;

const MINIMAL: &str = include_str!("../minimal.toml");
const ROUTE: &str = "[[routes]]\nname = \"api\"\nservice = \"api\"\n";

/// The warnings of the minimal configuration with other routes, and further lines of its service.
fn warnings(service: &str, routes: &str) -> Vec<String> {
    let text = MINIMAL.replacen(
        "[[services.endpoints]]",
        &format!("{service}\n[[services.endpoints]]"),
        1,
    );
    let text = text.replacen(ROUTE, routes, 1);
    let parsed = Config::parse(&text, Path::new("/etc/m.toml"), &|_| None);
    let loaded = parsed.unwrap_or_else(|errors| panic!("{errors}"));
    loaded.warnings.iter().map(|warning| warning.message.clone()).collect()
}

#[test]
fn writes_that_residency_never_lets_through() {
    let eu = "residency = { regions = [\"eu-west-1\"], subject = [\"EU\"] }\n";
    let both = "residency = { regions = [\"eu-west-1\", \"us-east-1\"] }\n";
    let status = "replication = { source = \"status\" }\n";
    let manual = "failover = { mode = \"manual\" }\n";
    for (service, route, warned) in [
        ("", format!("{eu}access = \"write\"\n"), true),
        ("", eu.to_owned(), true),
        ("", format!("{eu}access = \"read_primary\"\n"), true),
        ("", format!("{eu}access = \"read\"\n"), false),
        ("", format!("{eu}methods = [\"GET\"]\n"), false),
        ("", both.to_owned(), false),
        // Another region may become the primary.
        (status, eu.to_owned(), false),
        (manual, eu.to_owned(), false),
    ] {
        let said = warnings(service, &format!("{ROUTE}{route}"));
        let found = said.iter().any(|w| w.contains("residency binds cannot write"));
        assert_eq!(found, warned, "{service}{route}: {said:#?}");
        if warned {
            assert!(said.iter().any(|w| w.contains("\"us-east-1\"")), "{said:#?}");
        }
    }
}

#[test]
fn certificates_that_a_broader_route_does_not_ask_for() {
    let guarded = |lines: &str| {
        format!(
            "[[routes]]\nname = \"admin\"\nservice = \"api\"\nclient_certificate = {{ san = \"*.internal\" }}\n{lines}\n"
        )
    };
    for (narrow, wide, warned) in [
        ("path_prefix = \"/admin\"", "", true),
        ("path_prefix = \"/admin\"", "path_prefix = \"/\"", true),
        ("path_prefix = \"/admin/x\"", "path_prefix = \"/admin/\"", true),
        ("path = \"/admin\"", "path_regex = \"^/a\"", true),
        ("path_regex = \"^/admin\"", "", true),
        ("path_prefix = \"/admin\"\nhosts = [\"a.example\"]", "hosts = [\"*.example\"]", true),
        ("path_prefix = \"/administration\"", "path_prefix = \"/admin\"", false),
        ("path_prefix = \"/admin\"", "path_prefix = \"/admin/x\"", false),
        ("path_prefix = \"/admin\"\nhosts = [\"a.example\"]", "hosts = [\"b.example\"]", false),
        ("path_prefix = \"/admin\"\nmethods = [\"POST\"]", "methods = [\"GET\"]", false),
        ("path_prefix = \"/admin\"", "headers = { x-a = \"1\" }", false),
        ("path_prefix = \"/admin\"", "client_certificate = { san = \"*.x\" }", false),
    ] {
        let said = warnings("", &format!("{}{ROUTE}{wide}\n", guarded(narrow)));
        let found = said.iter().any(|w| w.contains("client_certificate keeps nobody out"));
        assert_eq!(found, warned, "{narrow} / {wide}: {said:#?}");
        if warned {
            assert!(said.iter().any(|w| w.contains("by route \"api\"")), "{said:#?}");
        }
    }
}
