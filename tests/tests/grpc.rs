//! gRPC through the edge, with grpcio as client and server: all shapes of calls, status, deadlines, health.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use meridian_tests::{Meridian, eventually, free_address, regions};

const WITHIN: Duration = Duration::from_secs(20);

fn python() -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own: PathBuf = root.join("../target/venv/bin/python");
    let mut command = Command::new(if own.is_file() { own } else { "python3".into() });
    command.arg(root.join("grpc/echo.py"));
    command
}

/// A gRPC server; it dies with this value.
struct Server {
    child: Child,
    stdin: ChildStdin,
    address: SocketAddr,
}

impl Server {
    fn start() -> Self {
        let address = free_address();
        let mut command = python();
        command.arg("serve").arg(address.port().to_string()).arg(address.ip().to_string());
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("Python");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        let stdin = child.stdin.take().expect("a pipe");
        Self { child, stdin, address }
    }

    /// What its health service says from here on.
    fn set(&mut self, status: &str) {
        writeln!(self.stdin, "{status}").expect("a running server");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config(server: &Server) -> String {
    let lines = "protocol = \"h2c\"\nhealth = { kind = \"grpc\", interval = \"50ms\" }\n";
    regions(&[("here", server.address)], lines) + "[[routes]]\nname = \"all\"\nservice = \"api\"\n"
}

#[test]
fn every_shape_of_call_passes() {
    let server = Server::start();
    let edge = Meridian::start(&config(&server));
    let output = python().arg("ask").arg(edge.address().to_string()).output().expect("Python");
    let (said, error) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{error}");
    let well: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("well: ")).collect();
    let expected = [
        "unary",
        "large messages",
        "server streaming",
        "client streaming",
        "bidirectional streaming",
        "trailers only",
        "a status after messages",
        "deadline",
        "cancellation",
        "health",
    ];
    assert_eq!(well, expected, "{error}");
}

#[test]
fn its_health_service_decides_who_takes_calls() {
    let mut server = Server::start();
    let edge = Meridian::start(&config(&server));
    let up = |value| edge.admin().metric_sum("meridian_endpoint_up", &[]) == value;
    eventually("it is healthy", WITHIN, || up(1.0));
    server.set("NOT_SERVING");
    eventually("it is not", WITHIN, || up(0.0));
    server.set("SERVING");
    eventually("it is again", WITHIN, || up(1.0));
}
