//! Notices that files may have changed.
//!
//! Promises: a change of a watched file, by writing, renaming or swapping a symbolic link in its directory, wakes
//! within a fraction of a second where the system can tell, else within [`POLL`]. Waking without a change is allowed:
//! whoever waits compares contents.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Files are looked at so often even if the system reports nothing.
const POLL: Duration = Duration::from_secs(5);
/// A burst of changes is over when nothing has come for so long, and at the latest after [`LONGEST_BURST`].
pub(crate) const QUIET: Duration = Duration::from_millis(100);
const LONGEST_BURST: Duration = Duration::from_secs(1);

/// Watches a set of files.
pub(crate) struct FileWatch {
    changes: mpsc::Receiver<()>,
    _watcher: Option<RecommendedWatcher>,
    next_poll: Instant,
    burst: Option<Burst>,
}

struct Burst {
    quiet_at: Instant,
    ends_at: Instant,
}

impl FileWatch {
    /// Starts to watch. Where the system cannot, polling remains.
    pub(crate) fn start(files: &[PathBuf]) -> Self {
        let (sender, changes) = mpsc::channel(1);
        let watched = directories(files);
        let names = watched.clone();
        let seen = move |event: notify::Result<Event>| {
            // An error may mean a lost event.
            if event.is_ok_and(|event| !concerns(&event, &names)) {
                return;
            }
            // Full means that a wake-up is on its way already.
            let _ = sender.try_send(());
        };
        let watcher = notify::recommended_watcher(seen).and_then(|mut watcher| {
            for directory in watched.keys() {
                watcher.watch(directory, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        let watcher = watcher.map_err(|error| {
            let seconds = POLL.as_secs();
            tracing::warn!(target: "reload", %error, seconds, "files are polled, not watched");
        });
        Self { changes, _watcher: watcher.ok(), next_poll: Instant::now() + POLL, burst: None }
    }

    /// Waits until files may have changed. May be dropped and called again without losing anything.
    pub(crate) async fn changed(&mut self) {
        loop {
            let wake = self.burst.as_ref().map_or(self.next_poll, |b| b.quiet_at.min(b.ends_at));
            tokio::select! {
                Some(()) = self.changes.recv() => {
                    let now = Instant::now();
                    let burst = self.burst.get_or_insert(Burst {
                        quiet_at: now,
                        ends_at: now + LONGEST_BURST,
                    });
                    burst.quiet_at = now + QUIET;
                }
                () = tokio::time::sleep_until(wake) => {
                    self.burst = None;
                    self.next_poll = Instant::now() + POLL;
                    return;
                }
            }
        }
    }
}

/// The directories to watch, with the names in each that matter: of the files, and of what they link to.
fn directories(files: &[PathBuf]) -> BTreeMap<PathBuf, Vec<OsString>> {
    let mut directories: BTreeMap<PathBuf, Vec<OsString>> = BTreeMap::new();
    for file in files {
        let target = std::fs::canonicalize(file).ok();
        for path in [Some(file.clone()), target].into_iter().flatten() {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            let parent = std::fs::canonicalize(parent).unwrap_or_else(|_| parent.to_owned());
            let names = directories.entry(parent).or_default();
            names.extend(path.file_name().map(ToOwned::to_owned));
        }
    }
    directories
}

/// Whether an event may mean a change of the files; names that begin with two dots are how Kubernetes swaps the
/// whole of a mounted directory.
fn concerns(event: &Event, watched: &BTreeMap<PathBuf, Vec<OsString>>) -> bool {
    // Reading the file is an event, too.
    if matches!(event.kind, EventKind::Access(_)) {
        return false;
    }
    event.paths.is_empty()
        || event.paths.iter().any(|path| {
            let Some(name) = path.file_name() else { return true };
            let dots = name.as_encoded_bytes().starts_with(b"..");
            dots || watched.values().flatten().any(|file| file == name)
                || watched.contains_key(path)
        })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Whether the watch wakes well before it would poll.
    async fn wakes(watch: &mut FileWatch) -> bool {
        tokio::time::timeout(POLL / 2, watch.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn writes_renames_and_link_swaps_wake() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        // As Kubernetes mounts a config map.
        std::fs::create_dir(at("..one")).expect("makes");
        std::fs::create_dir(at("..two")).expect("makes");
        std::fs::write(at("..one/file"), "1").expect("writes");
        std::fs::write(at("..two/file"), "2").expect("writes");
        symlink("..one", at("..data")).expect("links");
        symlink("..data/file", at("file")).expect("links");
        let file = at("file");
        let mut watch = FileWatch::start(std::slice::from_ref(&file));
        symlink("..two", at("..data_tmp")).expect("links");
        std::fs::rename(at("..data_tmp"), at("..data")).expect("renames");
        assert!(wakes(&mut watch).await, "the swap of ..data");

        std::fs::write(at("new"), "3").expect("writes");
        std::fs::rename(at("new"), &file).expect("renames");
        assert!(wakes(&mut watch).await, "an atomic rename");

        std::fs::write(&file, "4").expect("writes");
        assert!(wakes(&mut watch).await, "a write in place");
    }

    #[tokio::test]
    async fn other_files_and_reads_do_not_wake() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("file");
        std::fs::write(&file, "1").expect("writes");
        let mut watch = FileWatch::start(std::slice::from_ref(&file));
        std::fs::write(directory.path().join("access.log"), "x").expect("writes");
        assert_eq!(std::fs::read(&file).expect("reads"), b"1");
        let patience = Duration::from_millis(500);
        assert!(tokio::time::timeout(patience, watch.changed()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_watched_is_polled() {
        let mut watch = FileWatch::start(&["/no/such/directory/file".into()]);
        let begun = Instant::now();
        watch.changed().await;
        assert!(begun.elapsed() >= POLL && begun.elapsed() < 2 * POLL);
    }
}
