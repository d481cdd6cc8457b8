//! The real binary: exit codes, what it prints, and that everything it starts ends with it.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Nothing here takes longer on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn meridian(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Exit code, standard output, standard error.
fn outcome(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = meridian(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// A child that does not outlive its test.
struct Running(Child);

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut command = meridian(arguments);
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn signal(&self, name: &str) {
        let killed = Command::new("kill").args([name, &self.0.id().to_string()]).status();
        assert!(killed.unwrap().success());
    }

    fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn usage_is_2_failure_is_1_and_success_is_0() {
    for arguments in [&["nonsense"][..], &["run", "--nonsense"], &["weight", "x"], &["drain"], &[]]
    {
        assert_eq!(outcome(arguments).0, 2, "{arguments:?}");
    }
    for arguments in [
        &["status", "--admin", "127.0.0.1:1"][..],
        &["regions", "--admin", "unix:/nowhere"],
        &["lag", "--token-file", "/nowhere"],
        &["run", "--config", "/nowhere.toml"],
        &["check", "-c", "/nowhere.toml"],
    ] {
        let (code, _, stderr) = outcome(arguments);
        assert_eq!(code, 1, "{arguments:?}");
        let expected = usize::from(arguments[0] != "check");
        assert_eq!(stderr.lines().count(), expected, "{arguments:?}: {stderr}");
    }
    assert_eq!(outcome(&["version"]).0, 0);
    assert_eq!(outcome(&["--help"]).0, 0);
    assert!(outcome(&["completions", "bash"]).1.contains("_meridian"));
}

#[test]
fn a_quiet_status_says_nothing() {
    let silence = (1, String::new(), String::new());
    assert_eq!(outcome(&["status", "--quiet", "--admin", "127.0.0.1:1"]), silence);
}

fn edge_file(directory: &Path, admin: &str, listen: &str, backend: &str) -> String {
    let file = directory.join("meridian.toml");
    let text = format!(
        "[edge]\nid = \"test\"\nworker_threads = 1\n\
         [[listeners]]\nname = \"public\"\naddress = \"{listen}\"\n\
         [admin]\naddress = \"{admin}\"\n\
         [shutdown]\nlame_duck = \"200ms\"\ngrace = \"1s\"\n\
         [access_log]\noutput = \"off\"\n\
         [[regions]]\nid = \"here\"\nrole = \"primary\"\ncoordinates = [1.0, 2.0]\n\
         [[services]]\nname = \"app\"\n[services.health]\ninterval = \"100ms\"\n\
         [[services.endpoints]]\nregion = \"here\"\naddress = \"{backend}\"\n\
         [[routes]]\nname = \"all\"\nservice = \"app\"\n"
    );
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

/// An ordinary request and a WebSocket on one connection.
fn echoes_over_a_websocket(edge: &str) {
    let mut stream = TcpStream::connect(edge).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    assert!(head(&mut reader).starts_with("HTTP/1.1 200 "));
    reader.read_exact(&mut [0; 3]).unwrap();
    let upgrade = "GET /ws HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).unwrap();
    let answer = head(&mut reader);
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    // RFC 6455, section 1.3.
    assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
    // A text frame of two bytes, masked with zeros.
    stream.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).unwrap();
    let mut echo = [0; 4];
    reader.read_exact(&mut echo).unwrap();
    assert_eq!(echo, [0x81, 0x02, b'h', b'i']);
}

/// An answer's head.
fn head(reader: &mut impl BufRead) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
    }
    head
}

#[test]
fn an_edge_runs_is_steered_and_ends_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let (backend, listen) = (free_address(), free_address());
    let admin = format!("unix:{}", directory.path().join("admin.sock").display());
    let file = edge_file(directory.path(), &admin, &listen, &backend);
    let _region = Running::start(&["demo", "--region", "here", "--listen", &backend]);
    let mut edge = Running::start(&["run", "-c", &file, "--log-format", "json"]);
    let ask = |arguments: &[&str]| outcome(&[arguments, &["--admin", &admin]].concat());
    eventually("the edge is ready", || ask(&["status", "--quiet"]).0 == 0);
    assert!(ask(&["status"]).1.contains("state      ready, serving"));
    let explained = ask(&["explain", "/x"]).1;
    assert!(explained.contains("It goes to here, because"), "{explained}");

    let (code, said, _) = ask(&["drain", "here", "--reason", "test", "--ttl", "1h"]);
    assert_eq!(code, 0);
    assert!(said.contains("here is drained for 1h (in effect, table "), "{said}");
    let refused = ask(&["explain", "/x"]).1;
    assert!(refused.contains("Every region that could serve it is drained."), "{refused}");
    assert!(ask(&["regions"]).1.contains("drained*"));
    assert_eq!(ask(&["undrain", "here"]).0, 0);
    let endpoint = format!("app/{backend}");
    assert_eq!(ask(&["weight", &endpoint, "7"]).0, 0);
    assert_eq!(ask(&["weight", &endpoint, "--reset"]).0, 0);
    let status: Value = serde_json::from_str(&ask(&["status", "--output", "json"]).1).unwrap();
    assert_eq!((&status["edge"], &status["ready"]), (&"test".into(), &true.into()));
    assert_eq!(ask(&["reload"]).0, 0);

    echoes_over_a_websocket(&listen);
    edge.signal("-TERM");
    assert_eq!(edge.ended().code(), Some(0));
    let mut log = String::new();
    edge.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(line["level"].is_string());
    }
    assert!(log.contains("ended"), "{log}");
}

#[test]
fn a_single_region_ends_at_a_signal() {
    let address = free_address();
    let mut region = Running::start(&["demo", "--region", "eu-west-1", "--listen", &address]);
    let mut log = BufReader::new(region.0.stderr.take().unwrap());
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    assert!(line.contains("answering") && line.contains(&address), "{line}");
    region.signal("-INT");
    assert_eq!(region.ended().code(), Some(0));
}

#[test]
fn the_demos_story_is_told_and_nothing_fails() {
    let (listen, admin) = (free_address(), free_address());
    let (code, said, stderr) = outcome(&[
        "demo",
        "--once",
        "--seconds",
        "1",
        "--listen",
        &listen,
        "--admin",
        &admin,
        "-o",
        "json",
    ]);
    let summary: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}{stderr}"));
    assert_eq!((code, &summary["ok"]), (0, &true.into()), "{summary:#}");
    assert_eq!(summary["reads"]["failures"], 0);
    assert!(summary["reads"]["requests"].as_u64().unwrap() > 200);
    assert_eq!(summary["steps"].as_array().unwrap().len(), 5);
    let ways = summary["distribution"].as_array().unwrap();
    let went = |region: &str| ways.iter().any(|way| way["region"] == region);
    assert!(["us-east-1", "us-west-2", "eu-west-1", "ap-southeast-1"].iter().all(|r| went(r)));
    assert!(
        ways.iter().filter(|way| way["kind"] == "write").all(|way| way["region"] == "us-east-1")
    );
}

#[test]
fn the_demo_without_a_terminal_says_a_line_a_second_and_ends_at_a_signal() {
    let (listen, admin) = (free_address(), free_address());
    let mut demo = Running::start(&["demo", "--listen", &listen, "--admin", &admin]);
    let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let file =
        lines.find_map(|line| Some(line.strip_prefix("file   ")?.split(' ').next()?.to_owned()));
    let file = file.unwrap();
    assert!(Path::new(&file).exists());
    assert!(lines.by_ref().filter(|line| line.contains("requests/s")).take(3).count() == 3);
    demo.signal("-TERM");
    assert_eq!(demo.ended().code(), Some(0));
    assert!(!Path::new(&file).exists());
}
