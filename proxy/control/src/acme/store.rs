//! What is kept of accounts and certificates: one file each, below the state directory, for this user alone.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use instant_acme::AccountCredentials;
use meridian_config::{AcmeCertificate, Fingerprint};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::admin::Gate;
use crate::keeper::{read, replace, sweep, turn};

const ATTEMPTS: &str = "attempts.json";
/// So much of a name is in that of its file.
const NAME: usize = 64;

/// The directory.
#[derive(Clone, Debug)]
pub(super) struct Store(PathBuf);

/// A certificate as it was issued.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct StoredCertificate {
    /// Of the authority that issued it.
    pub(super) directory: String,
    pub(super) domains: Vec<String>,
    /// PEM, with those that lead to its root.
    pub(super) certificate: String,
    /// PEM.
    pub(super) private_key: String,
}

impl fmt::Debug for StoredCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredCertificate({:?})", self.domains)
    }
}

/// An account as it was made.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredAccount {
    /// What the authority was told last.
    pub(super) contact: Vec<String>,
    /// With its key.
    pub(super) credentials: AccountCredentials,
}

/// Failures in a row, kept so that a process that is started again and again does not ask again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attempt {
    /// What orders went by, as [`super::office::Office::settings_id`] has it.
    pub(super) settings: String,
    pub(super) failures: u32,
    /// Not before.
    pub(super) next_unix_ms: u64,
}

/// By [`key_of`].
pub(super) type Attempts = BTreeMap<String, Attempt>;

/// What tells a certificate from others: its domains, in any order.
pub(super) fn key_of(wanted: &AcmeCertificate) -> String {
    let mut domains: Vec<&str> = wanted.domains.iter().map(String::as_str).collect();
    domains.sort_unstable();
    let name: String = domains.first().unwrap_or(&"").chars().take(NAME).collect();
    format!("certificate-{name}-{:.16}", Fingerprint::of(domains.join("\n").as_bytes()).to_string())
}

impl Store {
    pub(super) fn below(state_dir: &Path) -> Self {
        Self(state_dir.join("acme"))
    }

    /// Removes what processes that were killed have begun to write: there may be a key in it. Blocks.
    pub(super) fn sweep(&self) {
        sweep(&self.0);
    }

    /// While the answer is there no other process saves; `None`: there is nothing yet. Blocks.
    pub(super) fn turn(&self) -> Option<File> {
        turn(&self.0).ok()
    }

    /// The certificate that was issued last for these domains. What is damaged is told, put aside, and counts as none: it
    /// will be issued anew. Blocks.
    ///
    /// # Errors
    /// In words, with the file: it is there, and cannot be read (now). Nothing may be written over it.
    pub(super) fn certificate(&self, key: &str) -> Result<Option<StoredCertificate>, String> {
        self.restore(&format!("{key}.json"))
    }

    /// Certificates that were issued for other lists of domains than those with these keys. What cannot be used is passed
    /// over. Blocks.
    pub(super) fn others(&self, keys: &HashSet<String>) -> Vec<StoredCertificate> {
        let Ok(files) = fs::read_dir(&self.0) else { return Vec::new() };
        let files = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
        let others = files.filter(|name| {
            let key = name.strip_suffix(".json");
            key.is_some_and(|key| key.starts_with("certificate-") && !keys.contains(key))
        });
        let stored = others.filter_map(|name| read(&self.0.join(name)).ok());
        stored.filter_map(|text| serde_json::from_str(&text).ok()).collect()
    }

    /// # Errors
    /// As with [`Self::certificate`].
    pub(super) fn account(
        &self,
        directory: &str,
        key_id: &str,
    ) -> Result<Option<StoredAccount>, String> {
        self.restore(&account_file(directory, key_id))
    }

    /// # Errors
    /// As with [`Self::certificate`].
    pub(super) fn attempts(&self) -> Result<Attempts, String> {
        Ok(self.restore(ATTEMPTS)?.unwrap_or_default())
    }

    /// Does nothing if another process has taken over: it has what is newer.
    ///
    /// # Errors
    /// As the system gives them.
    pub(super) fn save_certificate(
        &self,
        key: &str,
        stored: &StoredCertificate,
        gate: &Gate,
    ) -> io::Result<()> {
        self.save(&format!("{key}.json"), stored, Some(gate))
    }

    /// # Errors
    /// As the system gives them.
    pub(super) fn save_account(
        &self,
        directory: &str,
        key_id: &str,
        stored: &StoredAccount,
    ) -> io::Result<()> {
        self.save(&account_file(directory, key_id), stored, None)
    }

    /// As with [`Self::save_certificate`].
    ///
    /// # Errors
    /// As the system gives them.
    pub(super) fn save_attempts(&self, attempts: &Attempts, gate: &Gate) -> io::Result<()> {
        self.save(ATTEMPTS, attempts, Some(gate))
    }

    fn save(&self, name: &str, value: &impl Serialize, gate: Option<&Gate>) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        let _turn = turn(&self.0)?;
        if gate.is_some_and(Gate::is_given_away) {
            return Ok(());
        }
        replace(&self.0, name, &serde_json::to_string(value)?)
    }

    fn restore<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, String> {
        let path = self.0.join(name);
        let why = match read(&path) {
            Ok(text) => match serde_json::from_str(&text) {
                Ok(value) => return Ok(Some(value)),
                // The error's own words might show what it is about.
                Err(error) => format!("line {} is not what was written", error.line()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => "not UTF-8".to_owned(),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        let aside = path.with_extension("json.broken");
        if let Err(error) = fs::rename(&path, &aside) {
            return Err(format!("{}: {why}; it cannot be put aside: {error}", path.display()));
        }
        let (file, kept_as) = (path.display(), aside.display());
        tracing::error!(target: "acme", %file, error = why, %kept_as, "this file cannot be used");
        Ok(None)
    }
}

fn account_file(directory: &str, key_id: &str) -> String {
    let of = Fingerprint::of(format!("{directory}\n{key_id}").as_bytes());
    format!("account-{:.16}.json", of.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn wanted(domains: &[&str]) -> AcmeCertificate {
        AcmeCertificate { domains: domains.iter().map(|d| (*d).to_owned()).collect() }
    }

    #[test]
    fn what_is_kept_is_for_this_user_alone_and_comes_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::below(directory.path());
        let gate = Gate::new(true);
        let key = key_of(&wanted(&["b.example", "a.example"]));
        assert_eq!(key, key_of(&wanted(&["a.example", "b.example"])));
        assert_ne!(key, key_of(&wanted(&["a.example"])));
        assert!(store.certificate(&key).is_ok_and(|none| none.is_none()));
        assert_eq!(store.attempts(), Ok(Attempts::new()));
        let stored = StoredCertificate {
            directory: "https://ca/".into(),
            domains: vec!["a.example".into()],
            certificate: "C".into(),
            private_key: "s3cret".into(),
        };
        assert!(!format!("{stored:?}").contains("s3cret"));
        store.save_certificate(&key, &stored, &gate).expect("written");
        let back = store.certificate(&key).expect("readable").expect("it is there");
        assert_eq!((back.certificate, back.private_key), ("C".into(), "s3cret".into()));
        let below = directory.path().join("acme");
        let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&below), 0o700);
        assert_eq!(mode(&below.join(format!("{key}.json"))), 0o600);
        let attempts = Attempts::from([(
            key.clone(),
            Attempt { settings: "x".into(), failures: 2, next_unix_ms: 5 },
        )]);
        store.save_attempts(&attempts, &gate).expect("written");
        assert_eq!(store.attempts(), Ok(attempts));
        gate.give_away();
        store.save_attempts(&Attempts::new(), &gate).expect("left alone");
        assert!(store.attempts().is_ok_and(|kept| kept.len() == 1));
        fs::write(below.join(format!("{key}.json")), "{\"private_key\": tr").expect("written");
        assert!(store.certificate(&key).is_ok_and(|none| none.is_none()), "it is damaged");
        let aside = fs::read_to_string(below.join(format!("{key}.json.broken")));
        assert_eq!(aside.expect("put aside"), "{\"private_key\": tr");
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_missing_and_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::below(directory.path());
        let names = ["k.json", ATTEMPTS, &account_file("https://ca/", "")];
        for name in names {
            fs::create_dir_all(directory.path().join("acme").join(name)).expect("made");
        }
        let told = [
            store.certificate("k").map(drop),
            store.attempts().map(drop),
            store.account("https://ca/", "").map(drop),
        ];
        for (name, told) in names.into_iter().zip(told) {
            let why = told.expect_err(name);
            assert!(why.contains(name) && why.contains("not a regular file"), "{why}");
            assert!(directory.path().join("acme").join(name).exists());
        }
    }

    #[test]
    fn names_of_files_are_short_enough() {
        let long = format!("{0}.{0}.{0}.example", "a".repeat(60));
        assert!(key_of(&wanted(&[&long])).len() < 120);
    }
}
