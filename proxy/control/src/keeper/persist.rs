//! The state directory: overrides and the last accepted configuration.
//!
//! Promises: a file there is whole, the old one or the new one, whatever happens in between; the keeper never waits
//! for a disk. Refuses to know: what an override means.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
/// Saves that may wait.
const QUEUE: usize = 256;
/// The largest state file that is read.
const MAX_BYTES: u64 = 64 << 20;

/// A directory that holds state files.
#[derive(Clone, Debug)]
pub(crate) struct StateDirectory(PathBuf);

impl StateDirectory {
    /// Makes it if it is not there.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path).map_err(|error| named(path, &error))?;
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

    /// Replaces a file: a temporary file beside it, written through to the disk, then renamed.
    fn replace(&self, name: &str, text: &str) -> io::Result<()> {
        let temporary = self.0.join(format!(".{name}.new"));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, self.0.join(name))?;
        File::open(&self.0)?.sync_all()
    }

    fn save(&self, what: &Save) -> Result<(), String> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", self.0.display());
        match what {
            Save::Overrides(value) => {
                let text = overrides::to_json(value).map_err(|error| told(&error))?;
                self.replace(OVERRIDES, &text).map_err(|error| told(&error))
            }
            Save::Primacies(known) => {
                // While one process takes over from another both write it.
                let before = self.primacies().ok().and_then(Result::ok).unwrap_or_default();
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

fn read(path: &Path) -> io::Result<String> {
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

/// Hands files to the task that writes them.
#[derive(Clone, Debug)]
pub(crate) struct Persister(mpsc::Sender<(Save, Done)>);

impl Persister {
    /// Starts saving; the receiver learns how it went. Never waits.
    pub(crate) fn save(&self, what: Save) -> oneshot::Receiver<Result<(), String>> {
        let (done, receiver) = oneshot::channel();
        if let Err(refused) = self.0.try_send((what, done)) {
            let (_, done) = refused.into_inner();
            // Nobody may be waiting for it.
            let _ = done.send(Err("too many saves are waiting for the disk".into()));
        }
        receiver
    }
}

/// The handle, and the task that writes, newest state first, and tries again what failed.
pub(crate) fn persister(
    directory: StateDirectory,
    gate: Gate,
) -> (Persister, impl Future<Output = ()> + use<>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Persister(sender), write_all(directory, gate, receiver))
}

async fn write_all(directory: StateDirectory, gate: Gate, mut queue: mpsc::Receiver<(Save, Done)>) {
    let mut unsaved: [Option<Save>; Save::KINDS] = Default::default();
    loop {
        let mut batch = Vec::new();
        let again = unsaved.iter().any(Option::is_some);
        let received = tokio::select! {
            received = queue.recv_many(&mut batch, QUEUE) => received,
            () = tokio::time::sleep(RETRY), if again => 1,
        };
        if received == 0 {
            return;
        }
        if gate.is_given_away() {
            // The files are another process's by now: what it has written may not be undone.
            unsaved = Default::default();
            continue;
        }
        let mut waiting = Vec::new();
        for (save, done) in batch {
            waiting.push((save.kind(), done));
            let kind = save.kind();
            unsaved[kind] = Some(save);
        }
        let mut results = [const { Ok(()) }; Save::KINDS];
        for (what, result) in unsaved.iter_mut().zip(&mut results) {
            *result = write(&directory, what).await;
        }
        for (kind, done) in waiting {
            // Nobody may be waiting for it.
            let _ = done.send(results[kind].clone());
        }
    }
}

/// Writes what there is and takes it out if that worked.
async fn write(directory: &StateDirectory, what: &mut Option<Save>) -> Result<(), String> {
    let Some(save) = what.clone() else { return Ok(()) };
    let directory = directory.clone();
    let job = tokio::task::spawn_blocking(move || directory.save(&save));
    let result = job.await.unwrap_or_else(|error| Err(error.to_string()));
    match &result {
        Ok(()) => *what = None,
        Err(error) => tracing::error!(target: "state", %error, "the state cannot be saved"),
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
