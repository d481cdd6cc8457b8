//! The history's file: JSON lines in the state directory.
//!
//! Promises: whoever hands a line over never waits; a thread of its own writes, and what it cannot take or write is
//! counted. The file is bounded: a full one is renamed, in place of the one before it. A line that was cut short by a
//! crash or a full disk costs that line only. Refuses to know: what an event means.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use super::event::HistoryEvent;

const NAME: &str = "history.jsonl";
const NAME_BEFORE: &str = "history.1.jsonl";
/// Lines that may wait for the thread.
const QUEUE: usize = 1024;
/// The most that is read of a file at start, bytes: its end.
const MAX_READ: u64 = 64 << 20;

/// What an earlier process has left.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Restored {
    /// The newest, by ascending number.
    pub(super) events: Vec<HistoryEvent>,
    /// Lines that are no event.
    pub(super) damaged: usize,
}

/// Reads the newest `most` events. Takes away the rest of a line that was cut short. Blocks.
///
/// # Errors
/// In words, with the file's name.
pub(super) fn restore(directory: &Path, most: usize) -> Result<Restored, String> {
    let mut restored = Restored::default();
    for name in [NAME_BEFORE, NAME] {
        let path = directory.join(name);
        let told = |error: io::Error| format!("{}: {error}", path.display());
        let text = match read_end(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(told(error)),
        };
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice::<HistoryEvent>(line) {
                Ok(event) => restored.events.push(event),
                Err(_) => restored.damaged += 1,
            }
        }
        if name == NAME && !text.is_empty() && !text.ends_with(b"\n") {
            let torn = text.iter().rev().take_while(|byte| **byte != b'\n').count();
            cut(&path, torn as u64).map_err(told)?;
        }
    }
    restored.events.sort_by_key(|event| event.seq);
    let excess = restored.events.len().saturating_sub(most);
    restored.events.drain(..excess);
    Ok(restored)
}

/// The end of a regular file, from the beginning of a line on.
fn read_end(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut file = File::open(path)?;
    let skipped = metadata.len().saturating_sub(MAX_READ);
    file.seek(SeekFrom::Start(skipped))?;
    let mut text = Vec::new();
    file.take(MAX_READ).read_to_end(&mut text)?;
    if skipped > 0 {
        let begin = text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| at + 1);
        text.drain(..begin);
    }
    Ok(text)
}

/// Takes so many bytes off a file's end.
fn cut(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let length = file.metadata()?.len();
    file.set_len(length.saturating_sub(bytes))
}

enum Work {
    Line(Vec<u8>),
    /// Everything before it is on the disk when this is answered.
    Flush(oneshot::Sender<()>),
}

/// How writing stands.
#[derive(Debug, Default)]
pub(super) struct FileStatus {
    /// Lines that are not in the file.
    pub(super) dropped: AtomicU64,
    /// Why the last one is not.
    last_error: Mutex<Option<String>>,
}

impl FileStatus {
    pub(super) fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes how a write went; an error is logged when it is not the one before it.
    fn note(&self, error: Option<String>) {
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = error.as_ref().filter(|error| last.as_ref() != Some(error)) {
            tracing::error!(target: "history", error, "the history cannot be written");
        }
        *last = error;
    }
}

/// Hands lines to the thread that writes them.
#[derive(Clone, Debug)]
pub(super) struct HistoryFile {
    queue: SyncSender<Work>,
    status: Arc<FileStatus>,
}

impl HistoryFile {
    /// Starts the thread. The file is opened with the first line.
    pub(super) fn start(
        directory: &Path,
        most_bytes: u64,
        status: Arc<FileStatus>,
    ) -> io::Result<Self> {
        let (queue, work) = sync_channel(QUEUE);
        let writer = Writer {
            directory: directory.to_owned(),
            most_bytes,
            open: None,
            status: status.clone(),
        };
        thread::Builder::new().name("history".into()).spawn(move || writer.run(&work))?;
        Ok(Self { queue, status })
    }

    /// Never waits.
    pub(super) fn write(&self, event: &HistoryEvent) {
        // An event holds nothing that JSON has no form for.
        let Ok(mut line) = serde_json::to_vec(event) else { return };
        line.push(b'\n');
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(Work::Line(line))
        {
            self.status.dropped.fetch_add(1, Relaxed);
            self.status.note(Some("the disk is too slow".into()));
        }
    }

    /// Resolves once everything so far is written or given up; at once if the queue is full.
    pub(super) async fn flush(&self) {
        let (done, answer) = oneshot::channel();
        if self.queue.try_send(Work::Flush(done)).is_ok() {
            // The thread may be gone.
            let _ = answer.await;
        }
    }
}

struct Open {
    file: File,
    /// Whole lines, bytes.
    length: u64,
}

struct Writer {
    directory: PathBuf,
    most_bytes: u64,
    open: Option<Open>,
    status: Arc<FileStatus>,
}

impl Writer {
    fn run(mut self, work: &Receiver<Work>) {
        while let Ok(first) = work.recv() {
            self.reopen_if_moved();
            let mut flushed = Vec::new();
            for next in std::iter::once(first).chain(work.try_iter().take(QUEUE)) {
                match next {
                    Work::Line(line) => self.write(&line),
                    Work::Flush(done) => flushed.push(done),
                }
            }
            if let Some(open) = &self.open {
                // A device may not know how; what matters was written.
                let _ = open.file.sync_data();
            }
            for done in flushed {
                // Whoever waited may have given up.
                let _ = done.send(());
            }
        }
    }

    fn write(&mut self, line: &[u8]) {
        let error = match self.append(line) {
            Ok(()) => None,
            Err(error) => {
                self.status.dropped.fetch_add(1, Relaxed);
                if let Some(open) = self.open.take() {
                    // Of the line that did not fit; a device has no length to set.
                    let _ = open.file.set_len(open.length);
                }
                Some(format!("{}: {error}", self.directory.join(NAME).display()))
            }
        };
        self.status.note(error);
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.open_file()?,
        };
        if open.length > 0 && open.length + line.len() as u64 > self.most_bytes {
            fs::rename(self.directory.join(NAME), self.directory.join(NAME_BEFORE))?;
            open = self.open_file()?;
        }
        let open = self.open.insert(open);
        open.file.write_all(line)?;
        open.length += line.len() as u64;
        Ok(())
    }

    fn open_file(&self) -> io::Result<Open> {
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).mode(0o600).open(self.directory.join(NAME))?;
        let length = file.metadata()?.len();
        Ok(Open { file, length })
    }

    /// Somebody may have taken the file away.
    fn reopen_if_moved(&mut self) {
        let identity = |found: io::Result<fs::Metadata>| found.ok().map(|m| (m.dev(), m.ino()));
        let there = identity(fs::metadata(self.directory.join(NAME)));
        if self.open.as_ref().is_some_and(|open| identity(open.file.metadata()) != there) {
            self.open = None;
        }
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
