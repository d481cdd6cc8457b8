//! A control plane that runs, with backends it can probe, for tests from outside.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use meridian_control::{
    CertificateReader, Clock, Control, DataPlane, Lifecycle, Options, Phase, StartError,
    TableReader,
};
use serde_json::Value;

/// Waits until `condition` holds, at most `patience`.
pub(crate) fn within(patience: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A backend that answers every request on every connection the same.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    answer: Arc<Mutex<String>>,
    down: Arc<AtomicBool>,
}

impl Backend {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("has an address");
        let backend =
            Self { address, answer: Arc::default(), down: Arc::new(AtomicBool::new(false)) };
        backend.answers("200 OK", "", "fine");
        let (answer, down) = (backend.answer.clone(), backend.down.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, down) = (answer.clone(), down.clone());
                let Ok(stream) = stream else { continue };
                if !down.load(Relaxed) {
                    std::thread::spawn(move || converse(stream, &answer, &down));
                }
            }
        });
        backend
    }

    /// From now on every answer has this status, these further header lines and this body.
    pub(crate) fn answers(&self, status: &str, headers: &str, body: &str) {
        let length = body.len();
        *self.answer.lock().expect("no panic") =
            format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{headers}\r\n{body}");
    }

    /// Closes every connection at once, or serves again.
    pub(crate) fn goes_down(&self, down: bool) {
        self.down.store(down, Relaxed);
    }
}

fn converse(mut stream: TcpStream, answer: &Mutex<String>, down: &AtomicBool) {
    let mut reader = BufReader::new(stream.try_clone().expect("clones"));
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
        if line == "\r\n" {
            if down.load(Relaxed) {
                return;
            }
            let answer = answer.lock().expect("no panic").clone();
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
        line.clear();
    }
}

/// A running control plane.
pub(crate) struct Edge {
    pub(crate) table: TableReader,
    pub(crate) certificates: CertificateReader,
    pub(crate) admin: SocketAddr,
    pub(crate) lifecycle: Lifecycle,
    thread: Option<JoinHandle<()>>,
}

/// A directory with a configuration file in it.
pub(crate) struct Site {
    pub(crate) directory: tempfile::TempDir,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, text: &str) {
        std::fs::write(self.path("meridian.toml"), text).expect("writes");
    }

    pub(crate) fn options(&self, last_good: bool) -> Options {
        Options {
            config_path: self.path("meridian.toml"),
            last_good,
            version: "0.0.0-test",
            revision: "none",
        }
    }

    pub(crate) fn start(&self) -> Edge {
        self.try_start(false).unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn try_start(&self, last_good: bool) -> Result<Edge, StartError> {
        let options = self.options(last_good);
        let config = meridian_control::load(&options)?;
        let lifecycle = Lifecycle::new();
        let (phases, data_plane) = (lifecycle.reader(), DataPlane::default());
        let control =
            meridian_control::start(options, config, phases, data_plane, Clock::start(), None)?;
        let (table, certificates) = (control.table(), control.certificates());
        let admin = control.admin_address().parse().expect("a TCP address");
        lifecycle.enter(Phase::Serving);
        let thread = Some(std::thread::spawn(move || drive(control)));
        Ok(Edge { table, certificates, admin, lifecycle, thread })
    }
}

fn drive(control: Control) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().expect("a runtime");
    runtime.block_on(control.run()).expect("runs until it is stopped");
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.lifecycle.enter(Phase::Stopped);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("ends in peace");
            }
        }
    }
}

/// An answer of the admin endpoint.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Edge {
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", "")
    }

    /// One request with these further header lines.
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let mut stream = TcpStream::connect(self.admin).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("sets");
        let host = if headers.contains("host:") { "" } else { "host: localhost\r\n" };
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{host}connection: close\r\n\
             content-length: {length}\r\n{headers}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).expect("writes");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("reads");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    pub(crate) fn await_ready(&self) {
        within(Duration::from_secs(10), "ready", || self.get("/readyz").status == 200);
    }
}

/// A configuration of a primary and a replica region with one endpoint each.
pub(crate) fn two_regions(primary: &str, replica: &str) -> String {
    format!(
        "[admin]\naddress = \"127.0.0.1:0\"\n\
         [[listeners]]\nname = \"public\"\naddress = \"127.0.0.1:8080\"\n\
         [[regions]]\nid = \"us\"\nrole = \"primary\"\ncoordinates = [38.95, -77.45]\n\
         country = \"US\"\n\
         [[regions]]\nid = \"eu\"\nrole = \"replica\"\ncoordinates = [53.35, -6.26]\n\
         country = \"IE\"\n\
         [[services]]\nname = \"api\"\npolicy = \"geo\"\n\
         [services.replication]\nsource = \"status\"\ninterval = \"50ms\"\n\
         [[services.endpoints]]\nregion = \"us\"\naddress = \"{primary}\"\n\
         [[services.endpoints]]\nregion = \"eu\"\naddress = \"{replica}\"\n\
         [[routes]]\nname = \"all\"\nservice = \"api\"\n"
    )
}

/// Replaces a file as an editor does: a new one beside it, then a rename.
pub(crate) fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).expect("writes");
    std::fs::rename(&beside, path).expect("renames");
}
