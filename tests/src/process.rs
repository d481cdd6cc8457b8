//! The binary run for anything but an edge of the harness: a demo, a command, a start that must fail.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::spawn;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::binary::meridian;
use crate::wait::poll;

/// A running command; it dies with this value.
#[derive(Debug)]
pub struct Process {
    child: Child,
    said: [Arc<Mutex<Vec<u8>>>; 2],
}

/// Runs a command to its end.
///
/// # Panics
/// If the binary cannot be started.
#[track_caller]
pub fn run(args: &[&str], dir: &Path) -> Output {
    command(args, dir).output().expect("a binary that can be started")
}

fn command(args: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(meridian());
    command.args(args).current_dir(dir).stdin(Stdio::null());
    command
}

impl Process {
    /// Starts a command in `dir`.
    ///
    /// # Panics
    /// If the binary cannot be started.
    #[track_caller]
    pub fn start(args: &[&str], dir: &Path) -> Self {
        Self::spawn(command(args, dir))
    }

    /// Starts a command with at most so many file descriptors.
    ///
    /// # Panics
    /// If it cannot be started.
    #[track_caller]
    pub fn start_with_descriptors(limit: u32, args: &[&str], dir: &Path) -> Self {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={limit}:{limit}")).arg(meridian()).args(args);
        command.current_dir(dir).stdin(Stdio::null());
        Self::spawn(command)
    }

    #[track_caller]
    fn spawn(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("a binary that can be started");
        let said = [listen(child.stdout.take()), listen(child.stderr.take())];
        Self { child, said }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard output.
    pub fn stdout(&self) -> String {
        text(&self.said[0])
    }

    /// What it has written to standard error.
    pub fn stderr(&self) -> String {
        text(&self.said[1])
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it has ended.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a running process");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If that does not come in time.
    #[track_caller]
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let ended = poll(within, || self.child.try_wait().ok().flatten());
        ended.unwrap_or_else(|| panic!("it does not end; it said:\n{}", self.stderr()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listen(from: Option<impl Read + Send + 'static>) -> Arc<Mutex<Vec<u8>>> {
    let said = Arc::<Mutex<Vec<u8>>>::default();
    if let Some(mut from) = from {
        let said = said.clone();
        spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                said.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..n]);
            }
        });
    }
    said
}

fn text(said: &Mutex<Vec<u8>>) -> String {
    let said = said.lock().unwrap_or_else(PoisonError::into_inner);
    String::from_utf8_lossy(&said).into_owned()
}
