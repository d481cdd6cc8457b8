//! The configurations that ship with the project are read, printed and read again; nonsense never panics.

use std::path::{Path, PathBuf};
use std::time::Duration;

use meridian_config::{AdminRole, AlertClass, Config, Fingerprint, HealthKind, Loaded};
use proptest::prelude::*;

const MINIMAL: &str = include_str!("../minimal.toml");
const REFERENCE: &str = include_str!("../reference.toml");

fn parse(text: &str, source: &Path) -> Loaded {
    let env = |name: &str| (name == "SECRET").then(|| "hunter2".to_owned());
    Config::parse(text, source, &env).unwrap_or_else(|errors| panic!("{errors}"))
}

fn assert_round_trip(text: &str, source: &Path) -> String {
    let loaded = parse(text, source);
    let printed = loaded.config.effective_toml();
    let again = parse(&printed, Path::new("/elsewhere/x.toml"));
    assert_eq!(again.config, loaded.config, "{printed}");
    assert_eq!(again.config.effective_toml(), printed);
    printed
}

#[test]
fn shipped_files_have_neither_errors_nor_warnings() {
    for (name, text) in [("minimal", MINIMAL), ("reference", REFERENCE)] {
        let loaded = parse(text, Path::new("/etc/meridian/meridian.toml"));
        assert_eq!(loaded.warnings, [], "{name}");
        assert_eq!(loaded.fingerprint, Fingerprint::of(text.as_bytes()));
    }
}

/// Whatever the reference shows as a default is one: without those lines it says the same.
#[test]
fn the_reference_shows_the_defaults() {
    let required = ["name", "id", "address", "service", "region"];
    let keep = |line: &&str| {
        let key = line.split(" = ").next().unwrap_or_default();
        let is_given = line.contains("# example;") || line.contains("# required");
        let in_second = !line.contains('#') && (required.contains(&key) || !line.contains("= []"));
        line.starts_with('[') || is_given || in_second
    };
    let bare: Vec<_> = REFERENCE.lines().filter(keep).collect();
    let bare = bare.join("\n");
    assert!(bare.lines().count() < 75, "{bare}");
    let source = Path::new("/etc/meridian/meridian.toml");
    assert_eq!(parse(&bare, source).config, parse(REFERENCE, source).config);
}

#[test]
fn every_key_that_is_printed_stands_in_the_reference() {
    for line in assert_round_trip(REFERENCE, Path::new("/etc/meridian/meridian.toml")).lines() {
        let Some((key, _)) = line.split_once(" = ") else { continue };
        assert!(REFERENCE.contains(&format!("\n{key} = ")), "{key}");
    }
}

#[test]
fn a_configuration_that_uses_everything_survives_printing() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("operator.token"), "s3cret-token\n").expect("written");
    std::fs::write(directory.path().join("alerts.secret"), "s3cret-key\n").expect("written");
    std::fs::write(directory.path().join("acme.hmac"), "s3cret-hmac").expect("written");
    let source = directory.path().join("meridian.toml");
    let text = include_str!("everything.toml");
    let loaded = parse(text, &source);
    assert_eq!(loaded.warnings, []);

    let token = &loaded.config.admin.tokens[0];
    assert_eq!((token.role, token.secret.as_str()), (AdminRole::Operator, "s3cret-token"));
    let api = &loaded.config.services[0];
    assert_eq!(api.timeouts.connect, Some(Duration::from_millis(1500)));
    assert_eq!(loaded.config.services[1].health.kind, HealthKind::Grpc);
    let route = &loaded.config.routes[0];
    assert_eq!(route.request_headers.set["authorization"], "Bearer hunter2");

    let alerts = loaded.config.alerts.as_ref().expect("there is a URL");
    assert_eq!(alerts.url.target, "/hunter2?a=1");
    assert_eq!(alerts.headers["authorization"], "Bearer hunter2");
    assert_eq!(alerts.secret.as_ref().map(|secret| secret.key.as_str()), Some("s3cret-key"));
    assert_eq!(alerts.events, [AlertClass::Down, AlertClass::Primary]);
    let shown = format!("{alerts:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("s3cret"), "{shown}");

    let printed = assert_round_trip(text, &source);
    assert!(!printed.contains("s3cret-key") && !printed.contains("s3cret-hmac"), "{printed}");
    assert!(!printed.contains("s3cret-token") && !printed.contains("hunter2"), "{printed}");
    assert!(printed.contains("Bearer ${SECRET}"), "{printed}");
    assert_round_trip(MINIMAL, &source);
}

#[test]
fn relative_paths_start_at_the_file() {
    let text = format!("{MINIMAL}\n[geoip]\ndatabase = \"geo/city.mmdb\"\n");
    let config = parse(&text, Path::new("/etc/meridian/m.toml")).config;
    assert_eq!(config.geo_database, Some(PathBuf::from("/etc/meridian/geo/city.mmdb")));
    assert_eq!(config.edge.state_dir, PathBuf::from("/etc/meridian/meridian-state"));
    assert!(parse(&text, Path::new("m.toml")).config.edge.state_dir.is_absolute());
}

#[test]
fn files_are_loaded_or_say_why_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("m.toml");
    let missing = Config::load(&file).expect_err("no file").to_string();
    assert!(missing.ends_with("m.toml: cannot be read: No such file or directory (os error 2)"));
    std::fs::write(&file, b"a = \"\xff\"").expect("written");
    let binary = Config::load(&file).expect_err("not text").to_string();
    assert!(binary.ends_with("m.toml: is not UTF-8 text: see byte 6"), "{binary}");
    std::fs::write(&file, MINIMAL).expect("written");
    assert_eq!(Config::load(&file).map(|loaded| loaded.warnings), Ok(vec![]));
}

#[test]
fn many_endpoints_are_probed_less_often_unless_the_file_says_so() {
    let mut text = MINIMAL.replace("[[routes]]", "[services.health]\n#\n[[routes]]");
    let endpoint = |i: usize| {
        format!("[[services.endpoints]]\nregion = \"us-east-1\"\naddress = \"10.0.0.{i}:80\"\n")
    };
    let endpoints: String = (0..199).map(endpoint).collect();
    text =
        text.replacen("[[services.endpoints]]", &format!("{endpoints}[[services.endpoints]]"), 1);
    let interval = |text: &str| {
        let config = parse(text, Path::new("/m.toml")).config;
        (config.services[0].endpoints.len(), config.services[0].health.interval)
    };
    assert_eq!(interval(&text), (201, Duration::from_secs(2)));
    let said = text.replace("\n#\n", "\ninterval = \"500ms\"\n");
    assert_eq!(interval(&said), (201, Duration::from_millis(500)));
    assert_eq!(interval(MINIMAL), (2, Duration::from_millis(500)));
}

#[test]
fn static_keys_are_named_when_they_change() {
    let source = Path::new("/etc/meridian/m.toml");
    let old = parse(MINIMAL, source).config;
    let changes = |text: &str| old.static_changes(&parse(text, source).config);
    assert_eq!(changes(MINIMAL), [""; 0]);
    assert_eq!(changes(&MINIMAL.replace("53.35", "50")), [""; 0]);
    let listener = "address = \"127.0.0.1:8080\"";
    let moved = "address = \"127.0.0.1:8081\"\nprotocols = [\"h2c\"]\ntrusted_proxies = [\"::1\"]";
    assert_eq!(
        changes(&MINIMAL.replace(listener, moved)),
        ["listeners[0].address", "listeners[0].protocols", "listeners[0].trusted_proxies"]
    );
    let tls = |lines: &str| {
        let files =
            |name| format!("{{ certificate = \"{name}.pem\", private_key = \"{name}.key\" }}");
        let certificates = format!("tls.certificates = [{}]", files("a"));
        let text = MINIMAL.replace(listener, &format!("{listener}\n{certificates}\n{lines}"));
        (text.clone(), text.replace(&files("a"), &format!("{}, {}", files("b"), files("a"))))
    };
    let (encrypted, more_certificates) = tls("");
    assert_eq!(changes(&encrypted), ["listeners[0].protocols", "listeners[0].tls"]);
    let old_tls = parse(&encrypted, source).config;
    let changes_tls = |text: &str| old_tls.static_changes(&parse(text, source).config);
    assert_eq!(changes_tls(&more_certificates), [""; 0], "certificates may come and go");
    assert_eq!(
        changes_tls(&tls("tls.min_version = \"1.3\"\ntls.session_tickets = false").0),
        ["listeners[0].tls.min_version", "listeners[0].tls.session_tickets"]
    );
    assert!(old.edge.workers() >= 1 && old.edge.worker_threads == 0, "kept as it is written");
    let rest = "[edge]\nstate_dir = \"/s\"\nworker_threads = 1000\n[admin]\naddress = \"unix:a\"\n\
                [history]\nentries = 5\nfile_bytes = \"0B\"\n[alerts]\nurl = \"http://a/\"\n";
    assert_eq!(
        changes(&format!("{MINIMAL}{rest}")),
        [
            "edge.state_dir",
            "edge.worker_threads",
            "history.entries",
            "history.file_bytes",
            "admin.address"
        ]
    );
    assert_eq!(
        changes(&MINIMAL.replace("\"public\"", "\"open\"")),
        ["listeners: \"public\" is gone", "listeners[0]: \"open\" is new"]
    );
}

#[test]
fn a_rotated_token_keeps_no_reload_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let source = directory.path().join("meridian.toml");
    let config = |token: &str, role: &str| {
        std::fs::write(directory.path().join("a.token"), token).expect("written");
        let tokens = format!("tokens = [{{ role = \"{role}\", token_file = \"a.token\" }}]");
        parse(&format!("{MINIMAL}[admin]\n{tokens}\n"), &source).config
    };
    let old = config("first", "read");
    assert_eq!(old.static_changes(&config("second", "read")), [""; 0]);
    assert_eq!(old.static_changes(&config("first", "admin")), ["admin.tokens"]);
}

/// Texts that parsers stumble over.
const SPICE: &[&str] = &[
    "\"",
    "'",
    "\n",
    "[",
    "]",
    "[[",
    "{",
    "}",
    "=",
    ".",
    "-",
    "0",
    "${",
    "${SECRET}",
    "é",
    "\u{0}",
    "99999999999999999999",
    "nan",
    "1e400",
    "1979-05-27",
    "true",
    "\"\"",
    "[]",
    "[[routes]]\n",
    "\"1.5h\"",
    "\"18446744073709551615GiB\"",
    "\"[::1]:0\"",
    "#",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Each mutation replaces up to 20 bytes of the reference by spice or by another part of it.
    #[test]
    fn mutated_text_never_panics(
        mutations in prop::collection::vec(
            (any::<prop::sample::Index>(), 0_usize..20, any::<prop::sample::Index>(), any::<bool>()),
            1..8,
        ),
    ) {
        let mut text = REFERENCE.to_owned();
        for (place, length, choice, own) in mutations {
            let start = text.floor_char_boundary(place.index(text.len() + 1));
            let end = text.floor_char_boundary((start + length).min(text.len()));
            let insert = if own {
                let from = text.floor_char_boundary(choice.index(text.len() + 1));
                let to = text.floor_char_boundary((from + 2 * length).min(text.len()));
                text[from..to].to_owned()
            } else {
                SPICE[choice.index(SPICE.len())].to_owned()
            };
            text.replace_range(start..end, &insert);
        }
        match Config::parse(&text, Path::new("/m.toml"), &|_| Some("x".into())) {
            Ok(loaded) => {
                let printed = loaded.config.effective_toml();
                let again = Config::parse(&printed, Path::new("/x.toml"), &|_| Some("x".into()));
                prop_assert_eq!(again.map(|again| again.config), Ok(loaded.config));
            }
            Err(errors) => {
                prop_assert!(!errors.errors.is_empty());
                let lines = text.lines().count().max(1) + 1;
                prop_assert!(errors.errors.iter().all(|e| (1..=lines).contains(&e.line)));
            }
        }
    }
}
