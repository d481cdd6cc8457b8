//! The real binary, started, asked, signalled and ended.

use std::fs;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::admin::Admin;
use crate::binary;
use crate::client::Client;
use crate::message::Response;
use crate::settings::{Places, filled_in};
use crate::wait::poll;

/// A busy machine with a debug binary takes its time.
const READY_WITHIN: Duration = Duration::from_secs(30);
const ENDED_WITHIN: Duration = Duration::from_secs(30);

/// A running edge; it dies with this value.
#[derive(Debug)]
pub struct Meridian {
    dir: TempDir,
    places: Places,
    child: Child,
    /// The process that has taken over, if one has.
    successor: Option<u32>,
    said: Arc<Mutex<Vec<u8>>>,
    variables: Vec<(String, String)>,
    program: PathBuf,
}

impl Meridian {
    /// Starts an edge and waits until it is ready. What the text leaves out is filled in: listener
    /// ("public", HTTP/1.1 and HTTP/2), addresses, state directory, access log, two workers.
    ///
    /// # Panics
    /// If it does not become ready; with what it said.
    #[track_caller]
    pub fn start(config: &str) -> Self {
        Self::start_with(config, &[])
    }

    /// The same, with environment variables.
    ///
    /// # Panics
    /// If it does not become ready.
    #[track_caller]
    pub fn start_with(config: &str, variables: &[(&str, &str)]) -> Self {
        let edge = Self::launch(config, variables);
        edge.wait_ready();
        edge
    }

    /// Starts an edge and waits for nothing.
    ///
    /// # Panics
    /// If the binary cannot be started.
    #[track_caller]
    pub fn launch(config: &str, variables: &[(&str, &str)]) -> Self {
        Self::launch_program(&binary::meridian(), config, variables)
    }

    /// The same, of another copy of the binary.
    ///
    /// # Panics
    /// If the binary cannot be started.
    #[track_caller]
    pub fn launch_program(program: &Path, config: &str, variables: &[(&str, &str)]) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let mut places = Places::default();
        let text = filled_in(config, dir.path(), &mut places);
        fs::write(dir.path().join("meridian.toml"), text).expect("a writable directory");
        let variables: Vec<_> =
            variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let (child, said) = spawn(program, dir.path(), &variables);
        let (successor, program) = (None, program.to_owned());
        Self { dir, places, child, successor, said, variables, program }
    }

    /// Waits until `/readyz` says so.
    ///
    /// # Panics
    /// If it does not, or the process ends.
    #[track_caller]
    pub fn wait_ready(&self) {
        let ready = poll(READY_WITHIN, || {
            if !self.is_running() {
                return Some(false);
            }
            let answer = self.admin().try_ask("GET", "/readyz", None);
            answer.is_ok_and(|response| response.status == 200).then_some(true)
        });
        assert_eq!(ready, Some(true), "the edge is not ready; it said:\n{}", self.stderr());
    }

    /// The address of its first listener by name, mostly the only one.
    ///
    /// # Panics
    /// If it has none.
    pub fn address(&self) -> SocketAddr {
        *self.places.listeners.values().next().expect("a listener")
    }

    /// The address of a listener.
    ///
    /// # Panics
    /// If there is none of this name.
    #[track_caller]
    pub fn listener(&self, name: &str) -> SocketAddr {
        self.places.listeners[name]
    }

    /// Its admin endpoint.
    ///
    /// # Panics
    /// Never: an address was filled in.
    pub fn admin(&self) -> Admin {
        Admin::new(self.places.admin.expect("filled in at the start"))
    }

    /// A new connection to its first listener.
    ///
    /// # Panics
    /// If it does not accept.
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(self.address())
    }

    /// One GET on a connection of its own.
    ///
    /// # Panics
    /// If there is no whole answer.
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.client().request("GET", path, &[("Connection", "close")], b"")
    }

    /// Its directory: configuration, state, logs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("meridian.toml")
    }

    /// A text with everything filled in, as this edge has it.
    pub fn filled_in(&self, config: &str) -> String {
        filled_in(config, self.dir.path(), &mut self.places.clone())
    }

    /// Replaces its configuration file as a whole, by renaming; the watcher will see it.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn write_config(&self, config: &str) {
        let next = self.dir.path().join(".meridian.toml.next");
        fs::write(&next, self.filled_in(config)).expect("a writable directory");
        fs::rename(&next, self.config_path()).expect("a writable directory");
    }

    /// Replaces its configuration and asks for a reload; the answer.
    ///
    /// # Panics
    /// If there is no answer.
    #[track_caller]
    pub fn reload(&self, config: &str) -> Response {
        self.write_config(config);
        self.admin().post("/api/v1/reload", &serde_json::json!({}))
    }

    /// What it has said on standard error.
    pub fn stderr(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&said).into_owned()
    }

    /// The lines of its access log so far; they come up to a second late.
    ///
    /// # Panics
    /// If a whole line is no JSON.
    #[track_caller]
    pub fn access_log(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let parse =
            |line: &str| serde_json::from_str(line).map_err(|error| (error, line.to_owned()));
        whole.map(parse).collect::<Result<_, _>>().expect("JSON lines")
    }

    /// Waits for a line of the access log.
    ///
    /// # Panics
    /// If none comes that `wanted` takes.
    #[track_caller]
    pub fn logged(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let found = poll(Duration::from_secs(10), || self.access_log().into_iter().find(&wanted));
        found.unwrap_or_else(|| panic!("no such line in {:#?}", self.access_log()))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.successor.unwrap_or_else(|| self.child.id())
    }

    /// Whether the process that was started first has ended.
    ///
    /// # Panics
    /// If the system does not tell.
    pub fn first_has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    /// Tells the harness which process has taken over; it dies with this value.
    pub fn has_handed_over_to(&mut self, pid: u32) {
        self.successor = Some(pid);
    }

    /// Whether it has not ended.
    pub fn is_running(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim().chars().next());
        state.is_some_and(|state| state != 'Z')
    }

    /// Memory in use, bytes.
    ///
    /// # Panics
    /// If it has ended.
    #[track_caller]
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("a running process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        number.expect("VmRSS in kB") * 1024
    }

    /// Open file descriptors.
    ///
    /// # Panics
    /// If it has ended.
    #[track_caller]
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("a running process").count()
    }

    /// Threads.
    ///
    /// # Panics
    /// If it has ended.
    #[track_caller]
    pub fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.pid())).expect("a running process").count()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it has ended.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("a running process");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        let ended = poll(ENDED_WITHIN, || self.child.try_wait().ok().flatten());
        let ended =
            ended.unwrap_or_else(|| panic!("the edge does not end; it said:\n{}", self.stderr()));
        // Its last words may still be on their way; who listens lets go of them at the end. A successor goes on talking.
        let all_said = || (Arc::strong_count(&self.said) == 1).then_some(());
        let _ = poll(Duration::from_secs(2), all_said);
        ended
    }

    /// Ends it in order and starts it again with the same files and addresses; what it said before
    /// is forgotten.
    ///
    /// # Panics
    /// If it does not end well or does not become ready.
    #[track_caller]
    pub fn restart(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait_exit();
        assert!(status.success(), "{status}; it said:\n{}", self.stderr());
        self.start_again();
    }

    /// Kills it and starts it again with the same files and addresses.
    ///
    /// # Panics
    /// If it does not become ready.
    #[track_caller]
    pub fn crash_and_restart(&mut self) {
        self.signal(Signal::KILL);
        self.wait_exit();
        self.start_again();
    }

    /// Starts it again with the same files and addresses after it has ended.
    ///
    /// # Panics
    /// If it does not become ready.
    #[track_caller]
    pub fn start_again(&mut self) {
        (self.child, self.said) = spawn(&self.program, self.dir.path(), &self.variables);
        self.wait_ready();
    }

    /// Runs the command line against this edge's admin endpoint: `--admin` is added.
    ///
    /// # Panics
    /// If the binary cannot be started.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> Output {
        let mut command = Command::new(binary::meridian());
        command.args(args).arg("--admin").arg(self.admin().address().to_string());
        command.stdin(Stdio::null()).current_dir(self.dir.path()).output().expect("a binary")
    }
}

impl Drop for Meridian {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(pid) = self.successor.and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            let _ = kill_process(pid, Signal::KILL);
        }
        if thread::panicking() {
            let said = self.stderr();
            // A failed test should show what the edge had to say.
            let _ = writeln!(io::stderr(), "---- the edge said:\n{said}----");
        }
    }
}

fn spawn(
    program: &Path,
    dir: &Path,
    variables: &[(String, String)],
) -> (Child, Arc<Mutex<Vec<u8>>>) {
    let mut command = Command::new(program);
    command.arg("run").arg("--config").arg(dir.join("meridian.toml")).current_dir(dir);
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("a binary that can be started");
    let said = Arc::default();
    if let Some(stderr) = child.stderr.take() {
        listen(stderr, Arc::clone(&said));
    }
    (child, said)
}

fn listen(mut stderr: ChildStderr, said: Arc<Mutex<Vec<u8>>>) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = stderr.read(&mut buffer) {
            said.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..n]);
        }
    });
}
