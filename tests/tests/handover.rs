//! A new binary takes over, and nobody notices; or it cannot, and nobody notices either.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use meridian_tests::{
    Answer, Ask, Backend, Load, Meridian, Signal, eventually, one_region, program, run, tally,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const QUICK: &str = "[shutdown]\nlame_duck = \"300ms\"\ngrace = \"10s\"\n";

fn text(backend: &Backend) -> String {
    format!("{QUICK}{}", one_region(backend))
}

/// Asks for an upgrade by the command line; the new process's id.
#[track_caller]
fn upgrade(edge: &mut Meridian) -> u32 {
    let output = edge.cli(&["upgrade", "--output", "json"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let pid = answer["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
    edge.has_handed_over_to(pid);
    pid
}

fn status(edge: &Meridian) -> Value {
    edge.admin().json("/api/v1/status")
}

#[test]
fn upgrades_under_load_fail_nothing_and_double_nothing() {
    let backend = Backend::answering("here", |request| Answer::ok(request.body.clone()));
    let mut edge = Meridian::start(&text(&backend));
    let load = Load::start(edge.address(), 8, |serial| match serial % 2 {
        0 => Ask::get(format!("/read/{serial}")),
        _ => Ask::post(format!("/write/{serial}"), format!("{serial}")),
    });
    load.run_for(200);
    let mut pids = vec![edge.pid()];
    for _ in 0..3 {
        pids.push(upgrade(&mut edge));
        load.run_for(200);
        assert_eq!(status(&edge)["phase"], "serving");
    }
    eventually("the first process ends", SOON, || edge.first_has_ended());
    load.run_for(200);
    let account = load.stop();
    account.assert_all_fine(1000);
    let written = tally(
        backend.requests().into_iter().filter(|r| r.method == "POST").map(|r| r.target.clone()),
    );
    assert!(written.values().all(|times| *times == 1), "{written:?}");
    assert_eq!(written.len(), account.0.iter().filter(|o| o.method == "POST").count());
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 4, "each time it was another process");
    edge.signal(Signal::TERM);
    let gone = || !Path::new(&format!("/proc/{}", edge.pid())).exists();
    eventually("the last process ends like any other", SOON, gone);
}

#[test]
fn what_was_begun_is_finished_by_the_old_process_and_overrides_live_on() {
    let backend = Backend::answering("here", |request| match &*request.target {
        "/slow" => Answer::ok("slow").delay(Duration::from_secs(6)),
        _ => Answer::ok("x"),
    });
    let mut edge = Meridian::start(&text(&backend));
    let drained = edge.cli(&["weight", "here", "7", "--reason", "kept"]);
    assert!(drained.status.success(), "{drained:?}");
    let mut slow = edge.client();
    slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is under way", SOON, || backend.requests().iter().any(|r| r.target == "/slow"));
    upgrade(&mut edge);
    let regions = edge.admin().json("/api/v1/regions");
    assert_eq!(regions[0]["weight"]["value"], 7, "{regions}");
    assert_eq!(slow.response().text(), "slow");
    eventually("the first process ends", SOON, || edge.first_has_ended());
    assert_eq!(edge.get("/").status, 200);
}

#[test]
fn a_signal_does_it_as_well_and_a_unix_socket_stays_where_it_is() {
    let backend = Backend::start("here");
    let text = format!("[admin]\naddress = \"unix:admin.sock\"\n{}", text(&backend));
    let mut edge = Meridian::launch(&text, &[]);
    let socket = edge.dir().join("admin.sock");
    let ask = |edge: &Meridian, args: &[&str]| {
        let address = format!("unix:{}", socket.display());
        run(&[args, &["--admin", &address]].concat(), edge.dir())
    };
    eventually("it is ready", SOON, || ask(&edge, &["status", "--quiet"]).status.success());
    edge.signal(Signal::USR2);
    eventually("a new process has taken over", SOON, || edge.stderr().contains("has taken over"));
    let said = edge.stderr();
    let pid = said.split("pid=").nth(1).and_then(|rest| rest.split_whitespace().next());
    edge.has_handed_over_to(pid.and_then(|pid| pid.parse().ok()).expect("a pid"));
    eventually("the first process ends", SOON, || edge.first_has_ended());
    assert!(ask(&edge, &["status", "--quiet"]).status.success(), "{}", edge.stderr());
    assert_eq!(edge.get("/").status, 200);
    edge.signal(Signal::TERM);
    eventually("the file goes with the last process", SOON, || !socket.exists());
}

#[test]
fn a_configuration_that_is_broken_by_now_leaves_the_old_process_as_it_was() {
    let backend = Backend::start("here");
    let edge = Meridian::start(&text(&backend));
    let load = Load::start(edge.address(), 4, |serial| Ask::get(format!("/{serial}")));
    fs::write(edge.config_path(), "[edge\n").expect("a writable file");
    let output = edge.cli(&["upgrade"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the new process cannot start"), "{said}");
    load.run_for(100);
    load.stop().assert_all_fine(100);
    assert!(edge.cli(&["drain", "here"]).status.success(), "changes are possible again");
}

/// Speaks the protocol of a new process, says that it is ready, and dies.
const CRASHES: &str = r#"#!/usr/bin/env python3
import json, socket, sys, time
line = socket.socket(fileno=0)
while True:
    data, sockets, _, _ = socket.recv_fds(line, 65536, 4)
    if json.loads(data) == "whole":
        break
line.send(json.dumps("ready").encode())
time.sleep(1)
sys.exit(3)
"#;

fn copy_of_the_binary(name: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(name);
    fs::copy(program(), &path).expect("a copy");
    (dir, path)
}

fn replace(path: &Path, with: &[u8]) {
    let next = path.with_extension("next");
    fs::write(&next, with).expect("a writable directory");
    fs::set_permissions(&next, fs::Permissions::from_mode(0o755)).expect("its own file");
    fs::rename(&next, path).expect("a writable directory");
}

#[test]
fn a_new_binary_that_dies_after_it_took_over_costs_nothing() {
    let backend = Backend::start("here");
    let (_dir, path) = copy_of_the_binary("meridian");
    let mut edge = Meridian::launch_program(&path, &text(&backend), &[]);
    edge.wait_ready();
    let load = Load::start(edge.address(), 4, |serial| Ask::get(format!("/{serial}")));
    replace(&path, CRASHES.as_bytes());
    let output = edge.cli(&["upgrade"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("ended soon"), "{said}");
    load.run_for(100);
    // The next one is better.
    replace(&path, &fs::read(program()).expect("the binary"));
    upgrade(&mut edge);
    load.run_for(100);
    eventually("the first process ends", SOON, || edge.first_has_ended());
    load.stop().assert_all_fine(200);
}

#[test]
fn programs_that_are_none_are_told_apart() {
    let backend = Backend::start("here");
    let (_dir, path) = copy_of_the_binary("meridian");
    let edge = Meridian::launch_program(&path, &text(&backend), &[]);
    edge.wait_ready();
    let why = |edge: &Meridian| {
        let output = edge.cli(&["upgrade"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    replace(&path, b"#!/bin/sh\nexit 7\n");
    let said = why(&edge);
    assert!(said.contains("has ended") && said.contains('7'), "{said}");
    replace(&path, b"\x7fELF and then nothing");
    assert!(why(&edge).contains("cannot be started"));
    fs::remove_file(&path).expect("it was there");
    assert!(why(&edge).contains("cannot be started"));
    assert_eq!(edge.get("/").status, 200);
}

#[test]
fn nothing_is_changed_while_a_process_takes_over() {
    let backend = Backend::start("here");
    let (_dir, path) = copy_of_the_binary("meridian");
    let edge = Meridian::launch_program(&path, &text(&backend), &[]);
    edge.wait_ready();
    // One that never becomes ready, until it is asked to go.
    let wait = format!("#!/bin/sh\ntouch {0}/begun\nsleep 4\n", edge.dir().display());
    replace(&path, wait.as_bytes());
    let admin = edge.admin();
    let asking = thread::spawn(move || admin.post("/api/v1/upgrade", &json!({})));
    eventually("it is under way", SOON, || edge.dir().join("begun").exists());
    let begun = Instant::now();
    let refused = edge.admin().try_ask("PUT", "/api/v1/regions/here/drain", Some(&json!({})));
    let refused = refused.expect("an answer");
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.text().contains("upgrading"), "{}", refused.text());
    // So is a second one who wants the same: it would never hear what became of it.
    let second = edge.cli(&["upgrade"]);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains("another process is taking over"), "{said}");
    // Whoever only looks is answered.
    assert_eq!(edge.admin().get("/api/v1/status").status, 200);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(asking.join().expect("a thread").status, 500);
    assert!(edge.cli(&["drain", "here"]).status.success());
}

/// Whoever wrote last before the old process left: what the new one knows is in the file then.
#[test]
fn what_is_known_of_primaries_is_saved_by_the_process_that_took_over() {
    let backend = Backend::answering("here", |_| Answer::ok("fine"));
    let mut edge = Meridian::start(&text(&backend));
    let order = json!({"service": "api", "region": "here", "epoch": 7, "reason": "test"});
    let answer = edge.admin().post("/api/v1/primary", &order);
    assert_eq!(answer.status, 200, "{answer:?}");
    let file = edge.dir().join("state/primaries.json");
    let epoch = || {
        let known: Value = serde_json::from_slice(&fs::read(&file).ok()?).ok()?;
        known["services"]["api"]["epoch"].as_u64()
    };
    assert_eq!(epoch(), Some(7));
    let said = thread::scope(|scope| {
        let asking = scope.spawn(|| edge.cli(&["upgrade", "--output", "json"]));
        let serves = || edge.stderr().contains("a new process serves");
        eventually("it has read the file, and the old one has not left", SOON, serves);
        fs::remove_file(&file).expect("it is there");
        asking.join().expect("a thread")
    });
    assert_eq!(said.status.code(), Some(0), "{}", String::from_utf8_lossy(&said.stderr));
    let answer: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    edge.has_handed_over_to(answer["pid"].as_u64().map_or(0, |pid| pid as u32));
    eventually("it is there again", SOON, || epoch() == Some(7));
}

#[test]
fn the_service_manager_hears_of_it() {
    let backend = Backend::start("here");
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(SOON)).expect("a socket");
    let heard = || {
        let mut bytes = [0; 256];
        let count = manager.recv(&mut bytes).expect("news in time");
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    let variables = [("NOTIFY_SOCKET", path.to_str().expect("a path of text"))];
    let mut edge = Meridian::start_with(&text(&backend), &variables);
    assert_eq!(heard(), "READY=1");
    let pid = upgrade(&mut edge);
    let mut news = [heard(), heard()];
    news.sort();
    assert_eq!(news, [format!("MAINPID={pid}"), "READY=1".to_owned()]);
    eventually("the first process ends", SOON, || edge.first_has_ended());
    edge.signal(Signal::TERM);
    // Not the old one: the manager would take its end for the service's.
    assert_eq!(heard(), "STOPPING=1");
}
