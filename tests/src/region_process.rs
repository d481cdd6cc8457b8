//! An endpoint in a process of its own, to be killed and stopped for real.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::address::free_address;
use crate::binary;
use crate::wait::poll;

/// A running endpoint; it dies with this value. It answers 200 with its name, `/health` as well, and
/// writes down every other request before it answers it.
#[derive(Debug)]
pub struct RegionProcess {
    name: String,
    address: SocketAddr,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl RegionProcess {
    /// Starts one.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn start(name: &str) -> Self {
        let (address, lines) = (free_address(), Arc::default());
        let child = spawn(name, address, &lines);
        let process = Self { name: name.to_owned(), address, child, lines };
        process.wait_listening(1);
        process
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `METHOD TARGET REQUEST-ID` of everything it took on, over all its lives.
    pub fn executed(&self) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|line| *line != "listening").cloned().collect()
    }

    /// SIGKILL.
    ///
    /// # Panics
    /// If it was killed before.
    #[track_caller]
    pub fn kill(&mut self) {
        self.child.kill().expect("a running process");
        self.child.wait().expect("a killed process ends");
    }

    /// SIGSTOP: the kernel goes on accepting, nothing is answered.
    ///
    /// # Panics
    /// If it was killed before.
    #[track_caller]
    pub fn stop(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).expect("a running process");
    }

    /// SIGCONT.
    ///
    /// # Panics
    /// If it was killed before.
    #[track_caller]
    pub fn resume(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).expect("a running process");
    }

    /// Starts it again at the same address after it was killed.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn revive(&mut self) {
        let lives = self.lives() + 1;
        self.child = spawn(&self.name, self.address, &self.lines);
        self.wait_listening(lives);
    }

    fn lives(&self) -> usize {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|line| *line == "listening").count()
    }

    #[track_caller]
    fn wait_listening(&self, lives: usize) {
        let listening = poll(Duration::from_secs(10), || (self.lives() >= lives).then_some(()));
        assert!(listening.is_some(), "region {} does not start", self.name);
    }
}

impl Drop for RegionProcess {
    fn drop(&mut self) {
        // It may have been killed before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(name: &str, address: SocketAddr, lines: &Arc<Mutex<Vec<String>>>) -> Child {
    let mut command = Command::new(binary::test_region());
    command.arg(name).arg(address.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("a binary that can be started");
    if let Some(stdout) = child.stdout.take() {
        let lines = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
    }
    child
}
