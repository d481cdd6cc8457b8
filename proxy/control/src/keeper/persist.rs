//! The state directory: overrides and the last accepted configuration.
//!
//! Promises: a file there is whole, the old one or the new one, whatever happens in between; the keeper never waits
//! for a disk; however slow that is, the newest state of each kind is saved in the end. While one process takes over from
//! another both write what they know of primaries, one after the other. Refuses to know: what an override means.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use meridian_routing::Overrides;
use tokio::sync::{mpsc, oneshot};

use super::overrides;
use super::primacies::{self, Primacies};
use crate::admin::Gate;

const OVERRIDES: &str = "overrides.json";
const PRIMARIES: &str = "primaries.json";
const LAST_ACCEPTED: &str = "last-accepted.toml";
/// What could not be saved is tried again so often.
const RETRY: Duration = Duration::from_secs(5);
/// The directory is another process's for so long at most. One that has it for longer hangs, and is not waited for.
const TURN: Duration = Duration::from_millis(500);
/// How often a process looks whether it is its turn.
const LOOK: Duration = Duration::from_millis(2);
/// The largest state file that is read.
const MAX_BYTES: u64 = 64 << 20;

/// A directory that holds state files.
#[derive(Clone, Debug)]
pub(crate) struct StateDirectory(PathBuf);

impl StateDirectory {
    /// Makes it if it is not there.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path).map_err(|error| named(path, &error))?;
        sweep(path);
        Ok(Self(path.to_owned()))
    }

    /// Takes it as it is; it may not exist.
    pub(crate) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The overrides of an earlier process. A file that cannot be understood is put aside, so that an edge comes up
    /// rather than not; the inner error tells. One that cannot be read at all is the outer error: whoever started
    /// without it would put drained regions back in service and write over it.
    pub(crate) fn overrides(&self) -> io::Result<Result<Overrides, String>> {
        self.restore(OVERRIDES, overrides::from_json)
    }

    /// What an earlier process knew of primaries; the same holds for it.
    pub(crate) fn primacies(&self) -> io::Result<Result<Primacies, String>> {
        self.restore(PRIMARIES, primacies::from_json)
    }

    fn restore<T: Default>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> io::Result<Result<T, String>> {
        let path = self.0.join(name);
        let parsed = match read(&path) {
            Ok(text) => parse(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(T::default())),
            // As damaged as one that is no JSON.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err("not UTF-8".into()),
            Err(error) => return Err(named(&path, &error)),
        };
        Ok(parsed.map_err(|error| {
            let aside = path.with_extension("json.broken");
            let kept = match fs::rename(&path, &aside) {
                Ok(()) => format!("; kept as {}", aside.display()),
                Err(_) => String::new(),
            };
            format!("{}: {error}{kept}", path.display())
        }))
    }

    /// The text of the last accepted configuration.
    pub(crate) fn last_accepted(&self) -> io::Result<String> {
        read(&self.0.join(LAST_ACCEPTED))
    }

    fn replace(&self, name: &str, text: &str) -> io::Result<()> {
        replace(&self.0, name, text)
    }

    /// Saves, unless the directory is another process's by now: what that has written may not be undone.
    fn save(&self, what: &Save, gate: &Gate) -> Result<(), String> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", self.0.display());
        let _turn = turn(&self.0).map_err(|error| told(&error))?;
        if gate.is_given_away() {
            return Ok(());
        }
        match what {
            Save::Overrides(value) => {
                let text = overrides::to_json(value).map_err(|error| told(&error))?;
                self.replace(OVERRIDES, &text).map_err(|error| told(&error))
            }
            Save::Primacies(known) => {
                // While one process takes over from another both write it.
                // Without what stands there a lower epoch might be written over a higher one.
                let before = self.primacies().map_err(|error| told(&error))?.unwrap_or_default();
                let text = primacies::to_json(&known.clone().not_below(&before))
                    .map_err(|error| told(&error))?;
                self.replace(PRIMARIES, &text).map_err(|error| told(&error))
            }
            Save::LastAccepted(text) => {
                self.replace(LAST_ACCEPTED, text).map_err(|error| told(&error))
            }
        }
    }
}

/// Waits until no other process writes to a directory; nobody else does as long as the answer is there. Blocks.
pub(crate) fn turn(path: &Path) -> io::Result<File> {
    let directory = File::open(path)?;
    let late = Instant::now() + TURN;
    // A filesystem that knows no locks says so at once: there is nothing to wait for.
    while matches!(directory.try_lock(), Err(TryLockError::WouldBlock)) && Instant::now() < late {
        std::thread::sleep(LOOK);
    }
    Ok(directory)
}

/// Removes what processes that were killed have begun to write in a directory, unless somebody writes there now. Blocks.
pub(crate) fn sweep(path: &Path) {
    let Ok(directory) = File::open(path) else { return };
    if directory.try_lock().is_err() {
        return;
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(is_temporary) {
            continue;
        }
        let file = entry.path();
        let (removed, file) = (fs::remove_file(&file), file.display());
        match removed {
            Ok(()) => {
                tracing::info!(target: "state", %file, "what was begun by a process that has gone is removed")
            }
            Err(error) => tracing::warn!(target: "state", %file, %error, "it cannot be removed"),
        }
    }
}

/// Whether [`replace`] writes to a file of this name.
fn is_temporary(name: &str) -> bool {
    let inner = name.strip_prefix('.').and_then(|name| name.strip_suffix(".new"));
    let parts = inner.and_then(|inner| inner.rsplit_once('.'));
    parts.is_some_and(|(name, pid)| {
        !name.is_empty() && !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Replaces a file that only this user may read: a temporary file beside it, which is this call's own, written through to
/// the disk, then renamed. Blocks.
pub(crate) fn replace(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let call = CALLS.fetch_add(1, Relaxed);
    let temporary = directory.join(format!(".{name}.{}{call:010}.new", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&temporary)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    let replaced = written.and_then(|()| fs::rename(&temporary, directory.join(name)));
    if let Err(error) = replaced {
        // The next attempt writes it anew, or another process does under its own name.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    File::open(directory)?.sync_all()
}

/// Reads a state file. Blocks.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let metadata = fs::metadata(path)?;
    let why = match metadata.is_file() {
        true if metadata.len() <= MAX_BYTES => return fs::read_to_string(path),
        true => "longer than 64 MiB",
        false => "not a regular file: move away what is there",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, why))
}

/// The same error, with the path in its text.
fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// What to save.
#[derive(Clone, Debug)]
pub(crate) enum Save {
    /// All overrides.
    Overrides(Overrides),
    /// What is known of primaries.
    Primacies(Primacies),
    /// The text of a configuration that was accepted.
    LastAccepted(String),
}

impl Save {
    /// Kinds of files.
    const KINDS: usize = 3;

    fn kind(&self) -> usize {
        match self {
            Self::Overrides(_) => 0,
            Self::Primacies(_) => 1,
            Self::LastAccepted(_) => 2,
        }
    }
}

type Done = oneshot::Sender<Result<(), String>>;

/// What is to be saved: of each kind the newest, so that there is always room.
#[derive(Debug, Default)]
struct Unsaved {
    newest: [Option<Save>; Save::KINDS],
    /// Who waits, for which kind.
    waiting: Vec<(usize, Done)>,
}

type Desk = Arc<Mutex<Unsaved>>;

/// Hands files to the task that writes them.
#[derive(Clone, Debug)]
pub(crate) struct Persister {
    desk: Desk,
    /// Wakes it; its end is the end of all persisters.
    bell: mpsc::Sender<()>,
}

impl Persister {
    /// Starts saving; the receiver learns how it went, of this or of what is newer. Never waits.
    pub(crate) fn save(&self, what: Save) -> oneshot::Receiver<Result<(), String>> {
        let (done, receiver) = oneshot::channel();
        let mut unsaved = at(&self.desk);
        let kind = what.kind();
        unsaved.newest[kind] = Some(what);
        // Who has given up is not kept, however long a disk hangs.
        unsaved.waiting.retain(|(_, done)| !done.is_closed());
        unsaved.waiting.push((kind, done));
        drop(unsaved);
        // Full: it has been woken and has not looked yet.
        let _ = self.bell.try_send(());
        receiver
    }
}

fn at(desk: &Desk) -> std::sync::MutexGuard<'_, Unsaved> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The handle, and the task that writes, newest state first, and tries again what failed.
pub(crate) fn persister(
    directory: StateDirectory,
    gate: Gate,
) -> (Persister, impl Future<Output = ()> + use<>) {
    let (bell, rung) = mpsc::channel(1);
    let desk = Desk::default();
    (Persister { desk: desk.clone(), bell }, write_all(directory, gate, desk, rung))
}

async fn write_all(
    directory: StateDirectory,
    gate: Gate,
    desk: Desk,
    mut rung: mpsc::Receiver<()>,
) {
    loop {
        let again = at(&desk).newest.iter().any(Option::is_some);
        let told = tokio::select! {
            told = rung.recv() => told,
            () = tokio::time::sleep(RETRY), if again => Some(()),
        };
        if told.is_none() {
            return;
        }
        let Unsaved { newest, waiting } = std::mem::take(&mut *at(&desk));
        if gate.is_given_away() {
            // Nobody is told that it is saved.
            continue;
        }
        let mut results = [const { Ok(()) }; Save::KINDS];
        for (save, result) in newest.into_iter().zip(&mut results) {
            let Some(save) = save else { continue };
            *result = write(&directory, &gate, &save).await;
            if result.is_err() {
                at(&desk).newest[save.kind()].get_or_insert(save);
            }
        }
        for (kind, done) in waiting {
            // Nobody may be waiting for it.
            let _ = done.send(results[kind].clone());
        }
    }
}

async fn write(directory: &StateDirectory, gate: &Gate, save: &Save) -> Result<(), String> {
    let (directory, gate, save) = (directory.clone(), gate.clone(), save.clone());
    let job = tokio::task::spawn_blocking(move || directory.save(&save, &gate));
    let result = job.await.unwrap_or_else(|error| Err(error.to_string()));
    if let Err(error) = &result {
        tracing::error!(target: "state", %error, "the state cannot be saved");
    }
    result
}

#[cfg(test)]
mod tests {
    use meridian_routing::{Change, ChangeKind, Override, OverrideKey, Target};

    use super::*;

    fn some_overrides() -> Overrides {
        let key = OverrideKey { target: Target::Region("eu".into()), kind: ChangeKind::Drain };
        let value = Override {
            change: Change::Drain(true),
            file_value: Change::Drain(false),
            actor: "a".into(),
            reason: String::new(),
            created_unix_ms: 1,
            expires_unix_ms: None,
            session_grace_ms: None,
        };
        Overrides::from([(key, value)])
    }

    #[tokio::test]
    async fn saved_state_is_there_for_the_next_process() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = StateDirectory::open(&directory.path().join("a/b")).expect("opens");
        assert_eq!(state.overrides().expect("reads"), Ok(Overrides::new()));
        let (persister, task) = persister(state.clone(), Gate::new(true));
        let task = tokio::spawn(task);
        let first = persister.save(Save::Overrides(Overrides::new()));
        let second = persister.save(Save::Overrides(some_overrides()));
        let third = persister.save(Save::LastAccepted("text".into()));
        for done in [first, second, third] {
            assert_eq!(done.await, Ok(Ok(())));
        }
        assert_eq!(state.overrides().expect("reads"), Ok(some_overrides()));
        assert_eq!(state.last_accepted().ok().as_deref(), Some("text"));
        drop(persister);
        task.await.expect("ends when nobody can save any more");
    }

    #[tokio::test]
    async fn a_failure_is_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let (persister, task) =
            persister(StateDirectory::at(&directory.path().join("missing")), Gate::new(true));
        tokio::spawn(task);
        let answer = persister.save(Save::Overrides(some_overrides())).await;
        assert!(matches!(answer, Ok(Err(_))), "{answer:?}");
    }

    #[tokio::test]
    async fn a_process_that_was_taken_over_from_writes_nothing_more() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = StateDirectory::open(directory.path()).expect("opens");
        let gate = Gate::new(true);
        let (persister, task) = persister(state.clone(), gate.clone());
        tokio::spawn(task);
        assert_eq!(persister.save(Save::LastAccepted("ours".into())).await, Ok(Ok(())));
        gate.give_away();
        assert!(persister.save(Save::LastAccepted("late".into())).await.is_err());
        assert_eq!(state.last_accepted().ok().as_deref(), Some("ours"));
    }

    #[tokio::test]
    async fn however_much_there_is_to_save_nothing_is_lost() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = StateDirectory::open(directory.path()).expect("opens");
        let (persister, task) = persister(state.clone(), Gate::new(true));
        let known = primacies_of("api", 7);
        let primary = persister.save(Save::Primacies(known.clone()));
        // The disk hangs: nobody writes.
        let mut others: Vec<_> = (0..1000)
            .map(|number: u32| persister.save(Save::LastAccepted(number.to_string())))
            .collect();
        let late = persister.save(Save::Overrides(some_overrides()));
        let last = others.pop().expect("many");
        drop(others);
        tokio::spawn(task);
        for done in [primary, last, late] {
            assert_eq!(done.await, Ok(Ok(())));
        }
        assert_eq!(state.primacies().expect("reads"), Ok(known));
        assert_eq!(state.last_accepted().ok().as_deref(), Some("999"));
        assert_eq!(state.overrides().expect("reads"), Ok(some_overrides()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_is_tried_again_unless_there_is_something_newer() {
        let parent = tempfile::tempdir().expect("a directory");
        let path = parent.path().join("later");
        let (persister, task) = persister(StateDirectory::at(&path), Gate::new(true));
        tokio::spawn(task);
        let told = persister.save(Save::LastAccepted("first".into())).await;
        assert!(matches!(told, Ok(Err(_))), "{told:?}");
        let state = StateDirectory::open(&path).expect("opens");
        tokio::time::sleep(RETRY * 2).await;
        assert_eq!(state.last_accepted().ok().as_deref(), Some("first"));
        assert_eq!(persister.save(Save::LastAccepted("second".into())).await, Ok(Ok(())));
        tokio::time::sleep(RETRY * 2).await;
        assert_eq!(state.last_accepted().ok().as_deref(), Some("second"));
    }

    fn primacies_of(service: &str, epoch: u64) -> Primacies {
        let first = meridian_routing::Primacy::of_file(Some("eu".to_owned()), 0);
        let known = meridian_routing::Primacy { epoch, ..first };
        Primacies { file: None, services: [(service.to_owned(), known)].into() }
    }

    /// As while one process takes over from another: each knows something that the other does not.
    #[test]
    fn two_that_write_at_once_lose_nothing_of_each_other() {
        let directory = tempfile::tempdir().expect("a directory");
        let epochs = 60;
        std::thread::scope(|scope| {
            for service in ["a", "b"] {
                let state = StateDirectory::open(directory.path()).expect("opens");
                scope.spawn(move || {
                    for epoch in 1..=epochs {
                        let what = Save::Primacies(primacies_of(service, epoch));
                        assert_eq!(state.save(&what, &Gate::new(true)), Ok(()));
                    }
                });
            }
        });
        let state = StateDirectory::at(directory.path());
        let known = state.primacies().expect("reads").expect("whole");
        let found: Vec<_> = known.services.values().map(|known| known.epoch).collect();
        assert_eq!(found, [epochs, epochs]);
        let files = fs::read_dir(directory.path()).expect("reads").count();
        assert_eq!(files, 1, "no temporary file is left");
    }

    #[test]
    fn what_cannot_be_read_is_not_written_over() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = StateDirectory::open(directory.path()).expect("opens");
        let path = directory.path().join(PRIMARIES);
        // A link to itself: no error that means that there is nothing.
        std::os::unix::fs::symlink(&path, &path).expect("a link");
        let what = Save::Primacies(primacies_of("api", 3));
        let told = state.save(&what, &Gate::new(true));
        assert!(told.as_ref().is_err_and(|why| why.contains(PRIMARIES)), "{told:?}");
        assert!(path.is_symlink());
        fs::remove_file(&path).expect("removes");
        assert_eq!(state.save(&what, &Gate::new(true)), Ok(()));
    }

    #[test]
    fn what_a_killed_process_has_begun_is_swept_away() {
        let directory = tempfile::tempdir().expect("a directory");
        let begun = directory.path().join(".overrides.json.4711.new");
        let other = [".new", ".a.new", ".1.new", "a.json.7.new", ".a.json.7.old"];
        for path in other.map(|name| directory.path().join(name)).iter().chain([&begun]) {
            fs::write(path, "a key").expect("writes");
        }
        // Somebody writes: it may be his.
        let theirs = turn(directory.path()).expect("a turn");
        StateDirectory::open(directory.path()).expect("opens");
        assert!(begun.exists());
        drop(theirs);
        StateDirectory::open(directory.path()).expect("opens");
        assert!(!begun.exists());
        assert!(other.iter().all(|name| directory.path().join(name).exists()));
    }

    #[test]
    fn a_damaged_file_is_put_aside() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = StateDirectory::open(directory.path()).expect("opens");
        state.replace(OVERRIDES, "{").expect("writes");
        assert!(state.overrides().expect("reads").is_err_and(|error| error.contains("kept as")));
        assert_eq!(state.overrides().expect("reads"), Ok(Overrides::new()));
        for name in [OVERRIDES, PRIMARIES] {
            let file = directory.path().join(name);
            fs::write(&file, b"\x00\xff{garbage").expect("writes");
            let why = match name {
                OVERRIDES => state.overrides().expect("reads").expect_err("damaged"),
                _ => state.primacies().expect("reads").expect_err("damaged"),
            };
            assert!(why.contains("not UTF-8; kept as") && why.contains(name), "{why}");
            assert!(!file.exists() && file.with_extension("json.broken").exists());
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = StateDirectory::open(directory.path()).expect("opens");
        fs::create_dir(directory.path().join(OVERRIDES)).expect("makes");
        let why = state.overrides().expect_err("a directory").to_string();
        assert!(why.contains(OVERRIDES) && why.contains("not a regular file"), "{why}");
        assert!(directory.path().join(OVERRIDES).exists());
    }
}
