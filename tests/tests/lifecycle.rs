//! From the first probe to the last answer: ready, lame duck, draining, gone.

use std::fs;
use std::time::{Duration, Instant};

use meridian_tests::{
    Answer, Ask, Backend, Client, Load, Meridian, Process, Signal, eventually, one_region, poll,
    regions, run,
};

const SOON: Duration = Duration::from_secs(20);
const US: &str = "us-east-1";

fn text(backend: &Backend, shutdown: &str) -> String {
    let middle = regions(&[(US, backend.address())], "");
    format!("{shutdown}{middle}[[routes]]\nname = \"all\"\nservice = \"api\"\n")
}

fn ready(edge: &Meridian) -> (u16, String) {
    match edge.admin().try_ask("GET", "/readyz", None) {
        Ok(answer) => (answer.status, answer.text()),
        Err(broken) => (0, format!("{broken:?}")),
    }
}

#[test]
fn an_edge_is_not_ready_before_its_first_round_of_probes() {
    let backend = Backend::start(US);
    backend.stop();
    let edge = Meridian::launch(&text(&backend, ""), &[]);
    eventually("it lives", SOON, || {
        edge.admin().try_ask("GET", "/livez", None).is_ok_and(|answer| answer.status == 200)
    });
    let (status, why) = ready(&edge);
    assert_eq!(status, 503, "{why}");
    assert!(why.contains("probing"), "{why}");
    assert_eq!(edge.cli(&["status", "--quiet"]).status.code(), Some(1));
    backend.resume();
    edge.wait_ready();
    assert_eq!(edge.cli(&["status", "--quiet"]).status.code(), Some(0));
    assert_eq!(edge.get("/").status, 200);
}

#[test]
fn an_edge_whose_endpoints_are_dead_is_ready_all_the_same() {
    let backend = Backend::start(US);
    backend.kill();
    let edge = Meridian::start(&text(&backend, ""));
    // Its peers are no better off; restarting it would help nobody.
    let answer = edge.get("/");
    assert_eq!(answer.status, 503);
    assert!(answer.header("Retry-After").is_some());
    assert_eq!(edge.admin().get("/livez").status, 200);
}

#[test]
fn at_the_end_it_is_lame_first_then_drains_and_exits_well() {
    let backend = Backend::answering(US, |request| match &*request.target {
        "/slow" => Answer::ok("slow").delay(Duration::from_millis(2_500)),
        _ => Answer::ok("x"),
    });
    let shutdown = "[shutdown]\nlame_duck = \"1500ms\"\ngrace = \"10s\"\n";
    let mut edge = Meridian::start(&text(&backend, shutdown));
    let mut slow = edge.client();
    slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the slow request is under way", SOON, || !backend.requests().is_empty());
    let mut kept = edge.client();
    assert_eq!(kept.get("/").status, 200);
    let begun = Instant::now();
    edge.signal(Signal::TERM);
    eventually("it is not ready any more", SOON, || ready(&edge).0 == 503);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(ready(&edge).1.contains("lame_duck"), "{:?}", ready(&edge));
    assert_eq!(edge.admin().get("/livez").status, 200);
    // For as long as balancers may not know, everybody is served: on kept connections and on new ones.
    let mut served = 0;
    while begun.elapsed() < Duration::from_millis(1_000) {
        assert_eq!(edge.get("/").status, 200);
        served += 1;
    }
    assert!(served > 10, "{served}");
    let said = edge.cli(&["status"]);
    assert_eq!(said.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&said.stdout).contains("NOT ready"), "{said:?}");
    let answer = slow.response();
    assert_eq!((answer.status, &*answer.text()), (200, "slow"), "what was under way is answered");
    let status = edge.wait_exit();
    assert_eq!(status.code(), Some(0), "{}", edge.stderr());
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(2_000) && took < Duration::from_secs(8), "{took:?}");
    assert!(Client::try_connect(edge.address()).is_err(), "nobody listens");
    assert!(edge.stderr().contains("ended"), "{}", edge.stderr());
}

#[test]
fn clients_that_reconnect_lose_nothing_when_it_ends() {
    let backend = Backend::start(US);
    let shutdown = "[shutdown]\nlame_duck = \"800ms\"\ngrace = \"5s\"\n";
    let mut edge = Meridian::start(&text(&backend, shutdown));
    let load = Load::start(edge.address(), 4, |serial| Ask::get(format!("/{serial}")));
    load.run_for(100);
    let ended = Instant::now();
    edge.signal(Signal::TERM);
    assert_eq!(edge.wait_exit().code(), Some(0));
    let account = load.stop();
    // While it is lame, all is answered; later a connection may be refused, but no answer is cut off.
    let lame = |begun: Instant| begun < ended + Duration::from_millis(600);
    account.assert_fine(100, |outcome| lame(outcome.begun));
    for outcome in account.0.iter().filter(|outcome| !outcome.is_fine()) {
        let why = outcome.answer.as_ref().err().map_or("an answer", String::as_str);
        assert!(!why.contains("Early"), "{outcome:?}");
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let backend = Backend::start(US);
    let shutdown = "[shutdown]\nlame_duck = \"60s\"\ngrace = \"60s\"\n";
    let mut edge = Meridian::start(&text(&backend, shutdown));
    edge.signal(Signal::TERM);
    eventually("it is lame", SOON, || ready(&edge).0 == 503);
    let begun = Instant::now();
    edge.signal(Signal::TERM);
    assert_eq!(edge.wait_exit().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn how_it_ends_is_as_the_file_in_force_has_it() {
    let backend = Backend::start(US);
    let shutdown = "[shutdown]\nlame_duck = \"60s\"\n";
    let mut edge = Meridian::start(&text(&backend, shutdown));
    let quick = text(&backend, "[shutdown]\nlame_duck = \"100ms\"\n");
    assert_eq!(edge.reload(&quick).status, 200);
    let begun = Instant::now();
    edge.signal(Signal::TERM);
    assert_eq!(edge.wait_exit().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn a_broken_file_at_the_start_is_fatal_unless_the_last_good_one_may_stand_in() {
    let backend = Backend::start(US);
    let mut edge = Meridian::start(&one_region(&backend));
    let (good, address) = (fs::read_to_string(edge.config_path()).expect("reads"), edge.address());
    edge.signal(Signal::TERM);
    assert!(edge.wait_exit().success());
    // State is found by the key that names it, which the broken file still has.
    let state = edge.dir().join("state");
    let broken = format!("[edge]\nstate_dir = \"{}\"\n[[routes]\n", state.display());
    fs::write(edge.config_path(), &broken).expect("writes");
    let refused = run(&["run", "-c", "meridian.toml"], edge.dir());
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("meridian.toml:3"), "{refused:?}");

    let running = Process::start(&["run", "-c", "meridian.toml", "--last-good"], edge.dir());
    eventually("it serves", SOON, || {
        Client::try_connect(address).is_ok_and(|mut client| {
            client.try_request("GET", "/", &[], b"").is_ok_and(|answer| answer.status == 200)
        })
    });
    let said = poll(SOON, || Some(running.stderr()).filter(|said| said.contains("last accepted")));
    assert!(said.is_some_and(|said| said.contains("ERROR")), "{}", running.stderr());
    assert_eq!(edge.admin().json("/api/v1/status")["config"]["last_reload_ok"], false);
    // Mended, it is taken like any other change.
    fs::write(edge.config_path(), &good).expect("writes");
    eventually("the file is in force", SOON, || {
        edge.admin().json("/api/v1/status")["config"]["last_reload_ok"] == true
    });
    drop(running);
    // Without anything to fall back on, both reasons are told.
    fs::write(edge.config_path(), &broken).expect("writes");
    fs::remove_dir_all(&state).expect("removes");
    let refused = run(&["run", "-c", "meridian.toml", "--last-good"], edge.dir());
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("meridian.toml:3") && said.contains("cannot stand in"), "{said}");
}

#[test]
fn an_address_that_is_taken_is_told_at_the_start() {
    let backend = Backend::start(US);
    let edge = Meridian::start(&one_region(&backend));
    let taken = edge.admin().address();
    let listen = meridian_tests::free_address();
    let dir = tempfile::tempdir().expect("a directory");
    let text = format!(
        "[admin]\naddress = \"{taken}\"\n[[listeners]]\nname = \"public\"\naddress = \"{listen}\"\n{}",
        one_region(&backend)
    );
    fs::write(dir.path().join("m.toml"), text).expect("writes");
    let refused = run(&["run", "-c", "m.toml"], dir.path());
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("admin.address"), "{said}");
}
