//! The access log: lines are gathered per worker and written by a thread of their own; what it cannot take is counted
//! and dropped, so that a full disk never holds up a request.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use meridian_config::{AccessLog, LogFormat, LogOutput};
use tracing::error;

use crate::log_clock::LogClock;

/// Bytes gathered before they are handed over.
const BATCH: usize = 32 * 1024;
/// Batches that may wait for the writer.
const WAITING: usize = 64;
/// How often a log file is looked for under its name.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where workers leave their lines; the sink is `None` if the log is off.
#[derive(Clone, Debug)]
struct Open {
    settings: AccessLog,
    sink: Option<SyncSender<Vec<u8>>>,
}

/// The log that is open, for all workers.
#[derive(Debug)]
pub(crate) struct LogHub {
    open: Mutex<Open>,
    dropped: Arc<AtomicU64>,
}

impl LogHub {
    /// Opens the log and starts its writer.
    ///
    /// # Errors
    /// If the file cannot be opened for appending, or the thread cannot be started.
    pub(crate) fn open(settings: &AccessLog, dropped: Arc<AtomicU64>) -> io::Result<Self> {
        Ok(Self { open: Mutex::new(open(settings, &dropped)?), dropped })
    }

    /// What is open; after a reload with other settings, the log that they name, if it can be opened.
    fn current(&self, wanted: &AccessLog) -> Open {
        let mut held = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if held.settings != *wanted {
            match open(wanted, &self.dropped) {
                Ok(next) => *held = next,
                Err(error) => {
                    error!(target: "edge", output = ?wanted.output, %error,
                        "the access log cannot be opened; the one before goes on");
                    // The settings are noted so that the error is said once, not every tick.
                    held.settings = wanted.clone();
                }
            }
        }
        held.clone()
    }
}

fn open(settings: &AccessLog, dropped: &Arc<AtomicU64>) -> io::Result<Open> {
    let writer: Option<Box<dyn Write + Send>> = match &settings.output {
        LogOutput::Off => None,
        LogOutput::Stdout => Some(Box::new(io::stdout())),
        LogOutput::File(path) => Some(Box::new(LogFile::open(path)?)),
    };
    let Some(writer) = writer else {
        return Ok(Open { settings: settings.clone(), sink: None });
    };
    let (sink, source) = sync_channel(WAITING);
    let dropped = dropped.clone();
    let run = move || write_out(writer, &source, &dropped);
    thread::Builder::new().name("access-log".into()).spawn(run)?;
    Ok(Open { settings: settings.clone(), sink: Some(sink) })
}

/// A file that is opened anew when it was renamed or removed (rotation).
struct LogFile {
    path: PathBuf,
    file: File,
    looked: Instant,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { path: path.to_owned(), file, looked: Instant::now() })
    }

    fn was_moved(&self) -> bool {
        let identity =
            |found: io::Result<std::fs::Metadata>| found.ok().map(|m| (m.dev(), m.ino()));
        identity(std::fs::metadata(&self.path)) != identity(self.file.metadata())
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.looked.elapsed() > LOOK_EVERY {
            self.looked = Instant::now();
            if self.was_moved() {
                *self = Self::open(&self.path)?;
            }
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn write_out(mut writer: Box<dyn Write + Send>, source: &Receiver<Vec<u8>>, dropped: &AtomicU64) {
    while let Ok(batch) = source.recv() {
        if writer.write_all(&batch).and_then(|()| writer.flush()).is_err() {
            dropped.fetch_add(lines(&batch), Relaxed);
        }
    }
}

fn lines(batch: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', batch).count() as u64
}

/// One worker's end of the log.
#[derive(Debug)]
pub(crate) struct WorkerLog {
    hub: Arc<LogHub>,
    open: RefCell<Open>,
    batch: RefCell<Vec<u8>>,
    clock: RefCell<LogClock>,
}

impl WorkerLog {
    pub(crate) fn new(hub: Arc<LogHub>) -> Self {
        let open = hub.open.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Self { hub, open: RefCell::new(open), batch: RefCell::default(), clock: RefCell::default() }
    }

    /// Whether lines are wanted at all.
    pub(crate) fn is_on(&self) -> bool {
        self.open.borrow().sink.is_some()
    }

    pub(crate) fn format(&self) -> LogFormat {
        self.open.borrow().settings.format
    }

    /// Goes over to what the configuration says now.
    pub(crate) fn follow(&self, wanted: &AccessLog) {
        if self.open.borrow().settings != *wanted {
            self.hand_over();
            *self.open.borrow_mut() = self.hub.current(wanted);
        }
    }

    /// Adds a line: `line` appends it, with its newline.
    pub(crate) fn write(&self, line: impl FnOnce(&mut LogClock, &mut Vec<u8>)) {
        let full = {
            let mut batch = self.batch.borrow_mut();
            if batch.capacity() == 0 {
                // A line more than is handed over.
                batch.reserve_exact(BATCH + BATCH / 8);
            }
            line(&mut self.clock.borrow_mut(), &mut batch);
            batch.len() >= BATCH
        };
        if full {
            self.hand_over();
        }
    }

    /// Hands over what was gathered; called every tick, so that lines are not held back.
    pub(crate) fn hand_over(&self) {
        let batch = std::mem::take(&mut *self.batch.borrow_mut());
        if batch.is_empty() {
            return;
        }
        if let Some(sink) = &self.open.borrow().sink
            && let Err(refused) = sink.try_send(batch)
        {
            let (std::sync::mpsc::TrySendError::Full(batch)
            | std::sync::mpsc::TrySendError::Disconnected(batch)) = refused;
            self.hub.dropped.fetch_add(lines(&batch), Relaxed);
        }
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        self.hand_over();
    }
}
