//! `[routes.compress]`: what is accepted, what it comes to, and what is wrong with the rest.

use std::path::Path;

use meridian_config::{Coding, Compress, Config, ConfigErrors, Levels, Loaded};

const MINIMAL: &str = include_str!("../minimal.toml");

/// The minimal configuration with further lines of its route.
fn parse(lines: &str) -> Result<Loaded, ConfigErrors> {
    let route = format!("service = \"api\"\n{lines}\n");
    let text = MINIMAL.replacen("service = \"api\"\n", &route, 1);
    Config::parse(&text, Path::new("/etc/m.toml"), &|_| None)
}

/// `path: message` of the only error, the path from the route on.
fn error(lines: &str) -> String {
    let errors = parse(lines).expect_err(lines).errors;
    assert_eq!(errors.len(), 1, "{errors:#?}");
    let line = errors[0].to_string();
    line.split_once("routes[0].").unwrap_or_default().1.to_owned()
}

fn compress(lines: &str) -> Option<Compress> {
    parse(lines).expect("is fine").config.routes[0].compress.clone()
}

#[test]
fn nothing_is_compressed_unless_a_route_asks() {
    assert_eq!(compress(""), None);
    for asks in ["compress = {}", "[routes.compress]"] {
        let given = compress(asks).expect("asks");
        assert_eq!(given.algorithms, Coding::ALL);
        assert_eq!((given.min_size, given.levels), (1024, Levels::default()));
        assert!(given.types.iter().any(|one| one.matches("application/json")));
    }
    assert_eq!(parse("").expect("is fine").config.edge.compress_memory, 64 << 20);
}

#[test]
fn each_key_says_what_it_says() {
    let given = compress(
        "[routes.compress]\nalgorithms = [\"gzip\"]\nmin_size = \"0B\"\ntypes = [\"Text/HTML\"]\n\
         levels = { gzip = 1 }",
    );
    let given = given.expect("asks");
    assert_eq!(given.algorithms, [Coding::Gzip]);
    assert_eq!(given.min_size, 0);
    assert_eq!(given.types.iter().map(ToString::to_string).collect::<Vec<_>>(), ["text/html"]);
    assert_eq!((given.levels.gzip, given.levels.zstd), (1, Levels::default().zstd));
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (lines, message) in [
        ("compress = true", "compress: expected a table, found boolean"),
        (
            "compress = { algorithms = [] }",
            "compress.algorithms: without an algorithm nothing is compressed: leave `compress` out",
        ),
        (
            "compress = { algorithms = [\"gzip\", \"gzip\"] }",
            "compress.algorithms[1]: \"gzip\" stands here twice",
        ),
        (
            "compress = { algorithms = [\"gzib\"] }",
            "compress.algorithms[0]: unknown value \"gzib\"; did you mean \"gzip\"?",
        ),
        (
            "compress = { types = [] }",
            "compress.types: without a type nothing is compressed: leave `compress` out",
        ),
        (
            "compress = { types = [\"html\"] }",
            "compress.types[0]: \"html\" is not a media type: \"text/html\", \"text/*\" or \"+json\"",
        ),
        (
            "compress = { types = [\"text/html; charset=utf-8\"] }",
            "compress.types[0]: \"text/html; charset=utf-8\" is not a media type: \"text/html\", \
             \"text/*\" or \"+json\"",
        ),
        (
            "compress = { types = [\"*/*\"] }",
            "compress.types[0]: most of what is not text is compressed already: name types, such \
             as \"text/*\"",
        ),
        (
            "compress = { types = [\"application/grpc-web\"] }",
            "compress.types[0]: gRPC compresses its messages by itself",
        ),
        ("compress = { min_size = \"2GiB\" }", "compress.min_size: 2GiB is not from 0B to 1GiB"),
        ("compress = { levels = { br = 11 } }", "compress.levels.br: 11 is not from 1 to 6"),
        ("compress = { levels = { zstd = 0 } }", "compress.levels.zstd: 0 is not from 1 to 9"),
        ("compress = { levels = { brotli = 4 } }", "compress.levels.brotli: unknown key"),
        ("compress = { minsize = 1 }", "compress.minsize: unknown key; did you mean \"min_size\"?"),
        (
            "compress = {}\nresponse_headers = { remove = [\"Content-Encoding\"] }",
            "response_headers: content-encoding is the edge's own where it compresses answers",
        ),
    ] {
        assert_eq!(error(lines), message, "{lines}");
    }
}
