//! `services.send_proxy_protocol`: its words, and what it does not go with.

use std::path::Path;

use meridian_config::{Config, ProxyVersion};

fn read(lines: &str) -> Result<Option<ProxyVersion>, Vec<String>> {
    let text = format!(
        "[[listeners]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\n\
         [[regions]]\nid = \"here\"\nrole = \"primary\"\ncoordinates = [1, 2]\n\
         [[services]]\nname = \"api\"\n{lines}\n\
         endpoints = [{{ region = \"here\", address = \"192.0.2.1:80\" }}]\n\
         [[routes]]\nname = \"all\"\nservice = \"api\"\n"
    );
    match Config::parse(&text, Path::new("test.toml"), &|_| None) {
        Ok(loaded) => Ok(loaded.config.services[0].send_proxy_protocol),
        Err(errors) => Err(errors.to_string().lines().map(str::to_owned).collect()),
    }
}

#[test]
fn it_is_off_unless_a_version_is_named() {
    for (lines, expected) in [
        ("", None),
        ("send_proxy_protocol = \"off\"", None),
        ("send_proxy_protocol = \"v1\"", Some(ProxyVersion::V1)),
        ("send_proxy_protocol = \"v2\"\ntls = {}", Some(ProxyVersion::V2)),
        ("send_proxy_protocol = \"off\"\nprotocol = \"h2c\"", None),
    ] {
        assert_eq!(read(lines), Ok(expected), "{lines}");
    }
}

#[test]
fn what_it_does_not_go_with_is_an_error_with_its_place() {
    for (lines, message) in [
        ("send_proxy_protocol = true", "services[0].send_proxy_protocol: expected a string"),
        ("send_proxy_protocol = \"v3\"", "services[0].send_proxy_protocol: unknown value \"v3\""),
        (
            "protocol = \"h2c\"\nsend_proxy_protocol = \"v2\"",
            "services[0].send_proxy_protocol: needs protocol = \"http1\": over HTTP/2 the requests of many",
        ),
        (
            "tls = {}\nprotocol = \"h2\"\nsend_proxy_protocol = \"v1\"",
            "services[0].send_proxy_protocol: needs protocol = \"http1\"",
        ),
    ] {
        let errors = read(lines).expect_err("an error");
        let [error] = &errors[..] else { panic!("{lines}: {errors:?}") };
        assert!(error.contains(message), "{lines}: {error}");
    }
}
