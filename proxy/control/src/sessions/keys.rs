//! Where the keys come from: a file that operators share between edges, else one that is made once.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use meridian_config::{Config, SessionSecrets};

use super::SessionKeys;
use crate::published::Publisher;

/// Its name in the state directory.
const MADE: &str = "session-secret";

/// What to do with one that was made and cannot be used.
const REMEDY: &str = "the edge made this file, and makes another once it is removed; \
                      sessions and bindings that it signed end then";

/// The only handle that replaces the keys, and what they are.
pub(crate) struct KeyFile {
    publisher: Publisher<SessionKeys>,
    in_force: Option<SessionSecrets>,
    /// What was wrong last, so that it is logged once.
    pub(crate) failed: Option<String>,
}

/// Keys that were read.
pub(crate) struct OpenedKeys {
    secrets: Option<SessionSecrets>,
}

impl OpenedKeys {
    /// Reads the keys of a configuration, or makes one if it names no file and a route wants one. Blocks.
    ///
    /// # Errors
    /// In words: the key of the configuration, the file, what is wrong; and what to do where nobody chose the file.
    pub(crate) fn open(config: &Config) -> Result<Self, String> {
        let secrets = match &config.edge.session_secret_file {
            Some(path) => {
                Some(read(path).map_err(|why| format!("edge.session_secret_file: {why}"))?)
            }
            None if wants_keys(config) => {
                let path = config.edge.state_dir.join(MADE);
                let broken = |why: String| format!("edge.state_dir: {why}");
                if !path.exists() {
                    make(&path).map_err(|error| broken(format!("{}: {error}", path.display())))?;
                }
                Some(read(&path).map_err(|why| broken(format!("{why}; {REMEDY}")))?)
            }
            None => None,
        };
        Ok(Self { secrets })
    }

    /// [`Self::open`] on a thread that may block.
    pub(crate) async fn of(config: &Arc<Config>) -> Result<Self, String> {
        let config = config.clone();
        let job = tokio::task::spawn_blocking(move || Self::open(&config));
        job.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    pub(crate) fn keys(&self) -> Arc<SessionKeys> {
        Arc::new(self.secrets.as_ref().map(SessionKeys::new).unwrap_or_default())
    }
}

impl KeyFile {
    /// `opened` is what `publisher` was made with.
    pub(crate) fn new(publisher: Publisher<SessionKeys>, opened: OpenedKeys) -> Self {
        Self { publisher, in_force: opened.secrets, failed: None }
    }

    /// Puts keys in force; whether they are others than before.
    pub(crate) fn replace(&mut self, opened: OpenedKeys) -> bool {
        self.failed = None;
        if self.in_force == opened.secrets {
            return false;
        }
        self.publisher.publish(opened.keys());
        self.in_force = opened.secrets;
        true
    }
}

fn wants_keys(config: &Config) -> bool {
    config.routes.iter().any(|route| route.affinity.is_some())
        || config.keep_sessions().contains(&true)
}

fn read(path: &Path) -> Result<SessionSecrets, String> {
    SessionSecrets::read(path).map_err(|why| format!("{}: {why}", path.display()))
}

/// Writes a new key, whole or not at all. If another process was faster, its key stands.
fn make(path: &Path) -> io::Result<()> {
    let mut random = [0_u8; 32];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| io::Error::other("no random bytes"))?;
    let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let temporary = PathBuf::from(format!("{}.{}", path.display(), std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&temporary)?;
    let written = file
        .write_all(format!("{text}\n").as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| match fs::hard_link(&temporary, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        });
    fs::remove_file(&temporary)?;
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn config(directory: &Path, edge: &str, route: &str) -> Config {
        let text = format!(
            "[edge]\nstate_dir = \"state\"\n{edge}\n\
             [[listeners]]\nname = \"l\"\naddress = \"127.0.0.1:1\"\n\
             [[regions]]\nid = \"r\"\n[[services]]\nname = \"s\"\n\
             [[services.endpoints]]\nregion = \"r\"\naddress = \"127.0.0.1:2\"\n\
             [[routes]]\nname = \"x\"\nservice = \"s\"\n{route}\n"
        );
        let parsed = Config::parse(&text, &directory.join("m.toml"), &|_| None);
        parsed.unwrap_or_else(|errors| panic!("{errors}")).config
    }

    #[test]
    fn a_key_is_made_once_for_those_who_want_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = directory.path().join("state");
        fs::create_dir(&state).expect("makes");
        let without = OpenedKeys::open(&config(directory.path(), "", "")).expect("nothing to read");
        assert!(without.secrets.is_none() && !state.join(MADE).exists());
        let config = config(directory.path(), "", "affinity = {}");
        let made = OpenedKeys::open(&config).expect("makes one").secrets;
        assert!(made.is_some());
        let mode = fs::metadata(state.join(MADE)).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(OpenedKeys::open(&config).expect("reads it").secrets, made);
        assert_eq!(fs::read_dir(&state).expect("lists").count(), 1, "nothing else is left");
        // Another process was faster.
        make(&state.join(MADE)).expect("leaves it");
        assert_eq!(OpenedKeys::open(&config).expect("reads it").secrets, made);
    }

    #[test]
    fn a_damaged_key_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = directory.path().join("state");
        fs::create_dir(&state).expect("makes");
        let config = config(directory.path(), "", "affinity = {}");
        for text in ["short", ""] {
            fs::write(state.join(MADE), text).expect("writes");
            let why = OpenedKeys::open(&config).err().expect("an error");
            assert!(why.contains(MADE) && !why.contains("short"), "{why}");
            assert!(why.starts_with("edge.state_dir: ") && why.contains("removed"), "{why}");
        }
        fs::remove_file(state.join(MADE)).expect("removes");
        assert!(OpenedKeys::open(&config).is_ok(), "it makes another");
    }
}
