//! How certificates are issued: by both challenges, to customers, beside certificates from files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use meridian_tests::{Client, Meridian, PebblePlace, eventually, pebble_is_installed};

use crate::stage::{HOST, PATIENCE, Stage, failing, issued, open, secrets, shake, shown, view};

#[test]
fn over_http_beside_a_certificate_from_a_file() {
    if !pebble_is_installed() {
        return;
    }
    let stage = Stage::new();
    let place = PebblePlace::new();
    let lists: &[&[&str]] = &[&[HOST, "www.shop.example"], &["api.example"]];
    let text = stage.text(&place.acme(), lists, &stage.file_line());
    let edge = Meridian::start(&text);
    // Ready without it; the host has no certificate, whoever else asks gets the one from the file.
    let file = Arc::new(stage.files.client_config(rustls::ALL_VERSIONS));
    shake(&stage.files, &file, stage.tls, "file.example").expect("the file's certificate");
    let refused = shake(&stage.files, &file, stage.tls, HOST).expect_err("there is none yet");
    assert!(refused.to_string().contains("alert"), "{refused}");
    eventually("the refusal is told", PATIENCE, || {
        edge.stderr().contains("a handshake is refused: its certificate has not been issued yet")
    });
    let down = failing(&edge, HOST);
    assert!(down.contains("onnection refused"), "{down}");

    let pebble = place.start(&stage.authority());
    let first = issued(&pebble, &stage, HOST);
    assert_eq!(issued(&pebble, &stage, "www.shop.example"), first, "one certificate for both");
    assert_ne!(issued(&pebble, &stage, "api.example"), first);
    shake(&stage.files, &file, stage.tls, "file.example").expect("the file's certificate");
    shake(&stage.files, &file, stage.tls, "other.example")
        .expect_err("that of the file, which is not for it");

    // Nobody awaits these: requests like any other.
    for path in ["/.well-known/acme-challenge/token", "/.well-known/acme-challenge/"] {
        let answer = Client::connect(stage.plain).host(HOST).get(path);
        assert_eq!((answer.status, answer.text()), (200, path.to_owned()));
    }
    let log = pebble.log();
    assert!(log.contains("/.well-known/acme-challenge/"), "{log}");
    assert!(stage.backend.requests().iter().all(|request| request.target.len() < 40));

    eventually("all is well", PATIENCE, || view(&edge, HOST)["state"] == "valid");
    let of = view(&edge, HOST);
    assert_eq!(
        (&of["state"], &of["failures"], &of["issued"]),
        (&"valid".into(), &0.into(), &1.into())
    );
    assert_eq!(of["last_error"], serde_json::Value::Null);
    let admin = edge.admin();
    let series = "meridian_acme_orders_total{certificate=\"shop.example\",outcome=\"issued\"}";
    assert_eq!(admin.metric(series), Some(1.0));
    let answered = "meridian_acme_challenges_answered_total{challenge=\"http-01\"}";
    assert!(admin.metric(answered) >= Some(3.0), "{:?}", admin.metric(answered));
    let labels = ["listener=\"tls\"", "name=\"shop.example\""];
    let expiry = admin.metric_sum("meridian_certificate_expiry_timestamp_seconds", &labels);
    assert_eq!(Some(expiry as i64), of["not_after_unix_s"].as_i64());
    let status = String::from_utf8(edge.cli(&["status"]).stdout).expect("text");
    assert!(status.contains("certificates: 3, the first expires in"), "{status}");

    let below = edge.dir().join("state/acme");
    let mode =
        |path: &std::path::Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&below), 0o700);
    for file in fs::read_dir(&below).expect("a directory") {
        let path = file.expect("an entry").path();
        assert_eq!(mode(&path), 0o600, "{path:?}");
    }
    let (secrets, shown) = (secrets(&edge), shown(&edge));
    assert!(secrets.len() >= 5, "{secrets:?}");
    for secret in secrets {
        assert!(!shown.contains(&secret), "{secret} is shown");
    }
}

#[test]
fn by_a_handshake_even_where_clients_must_show_certificates() {
    if !pebble_is_installed() {
        return;
    }
    let stage = Stage::new();
    let pebble = open(&stage);
    let acme = pebble.acme() + "challenges = [\"tls-alpn-01\"]\n";
    let lines = format!(
        "tls.client_auth = \"required\"\ntls.client_ca = \"{}\"\ntls.min_version = \"1.3\"",
        stage.files.root().display()
    );
    let edge = Meridian::start(&stage.text(&acme, &[&[HOST, "b.example"]], &lines));
    eventually("it is issued", PATIENCE, || view(&edge, HOST)["issued"] == 1);
    let admin = edge.admin();
    let answered = "meridian_acme_challenges_answered_total{challenge=\"tls-alpn-01\"}";
    assert!(admin.metric(answered) >= Some(2.0));
    let http = "meridian_acme_challenges_answered_total{challenge=\"http-01\"}";
    assert_eq!(admin.metric(http), Some(0.0));
    // A client that shows nothing is turned away as ever, one that speaks the challenge's protocol, too.
    let config = Arc::new(pebble.client_config());
    let mut wire = pebble.site().wire(config, stage.tls, HOST);
    // Under 1.3 a client hears of it after its own part of the handshake.
    wire.handshake().expect("a good certificate");
    assert!(Client::on(wire).host(HOST).try_request("GET", "/x", &[], b"").is_err());
    let mut other = pebble.client_config();
    other.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let mut wire = pebble.site().wire(other, stage.tls, HOST);
    let refused = wire.handshake().expect_err("no challenge is pending").to_string();
    assert!(refused.contains("NoApplicationProtocol"), "{refused}");
}

#[test]
fn handshakes_and_requests_go_on_while_a_challenge_is_pending() {
    if !pebble_is_installed() {
        return;
    }
    let stage = Stage::new();
    // The authority takes its time.
    let slow =
        stage.authority().variable("PEBBLE_VA_NOSLEEP", "0").variable("PEBBLE_VA_SLEEPTIME", "4");
    let pebble = PebblePlace::new().start(&slow);
    let acme = pebble.acme() + "challenges = [\"tls-alpn-01\"]\n";
    let edge = Meridian::start(&stage.text(&acme, &[&[HOST]], &stage.file_line()));
    let file = Arc::new(stage.files.client_config(rustls::ALL_VERSIONS));
    let mut meanwhile = 0;
    eventually("it is issued", PATIENCE, || {
        let certificate = shake(&stage.files, &file, stage.tls, "file.example");
        assert!(certificate.is_ok(), "{certificate:?}");
        // In pieces: the first words are looked at before they are whole.
        let config = stage.files.client_config(rustls::ALL_VERSIONS);
        let mut wire = stage.files.wire(config, stage.tls, "file.example");
        let hello = wire.sealed();
        for part in hello.chunks(100) {
            wire.send_beneath(part).expect("it is read");
            std::thread::sleep(Duration::from_millis(2));
        }
        wire.handshake().expect("hands are shaken");
        meanwhile += u32::from(view(&edge, HOST)["state"] == "ordering");
        view(&edge, HOST)["issued"] == 1
    });
    assert!(meanwhile > 0, "no order was under way");
    issued(&pebble, &stage, HOST);
}

#[test]
fn customers_get_an_account_and_others_are_told_why_not() {
    if !pebble_is_installed() {
        return;
    }
    const KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    const WRONG: &str = "b10lLJs8l1GPIzsLP0s6pMt8O0XVGnfTaCeROxQM0BIt2XrJMDHJZBM5NuQmQJQH";
    let stage = Stage::new();
    let mut authority = stage.authority();
    authority.customers = vec![("kid-1".into(), KEY.into())];
    let pebble = PebblePlace::new().start(&authority);
    let edge = Meridian::start(&stage.text(&pebble.acme(), &[&[HOST]], ""));
    let missing = failing(&edge, HOST);
    assert!(missing.contains("set acme.external_account"), "{missing}");

    let put = |key: &str| fs::write(edge.dir().join("hmac"), key).expect("written");
    let text = |id: &str| {
        let lines =
            format!("external_account = {{ key_id = \"{id}\", hmac_key_file = \"hmac\" }}\n");
        stage.text(&(pebble.acme() + &lines), &[&[HOST]], "")
    };
    put(WRONG);
    assert_eq!(edge.reload(&text("kid-1")).status, 200);
    eventually("the wrong key is told", PATIENCE, || {
        let why = view(&edge, HOST)["last_error"].as_str().unwrap_or_default().to_owned();
        why.contains("new account: ") && why.contains("(with external account \"kid-1\")")
    });
    let why = failing(&edge, HOST);
    assert!(!why.contains(WRONG), "{why}");
    put("not base64 at all");
    let refused = edge.reload(&text("kid-2"));
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("acme.external_account.hmac_key_file"), "{}", refused.text());

    // Whoever puts the right key into the file needs no reload.
    assert_eq!(edge.reload(&text("kid-1")).status, 200, "the text in force");
    put(KEY);
    issued(&pebble, &stage, HOST);
    let shown = shown(&edge);
    assert!(!shown.contains(KEY) && !shown.contains(WRONG));
    assert!(shown.contains("kid-1"));
    let history = edge.admin().json("/api/v1/history").to_string();
    assert!(
        history.contains("\"kind\":\"certificate\"") && history.contains("failing"),
        "{history}"
    );
}
