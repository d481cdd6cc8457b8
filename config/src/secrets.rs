//! The keys that sign affinity cookies, as their file holds them.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// A longer file is not one of keys, bytes.
const FILE_BYTES: u64 = 4096;
/// A shorter key could be guessed, characters.
const LEAST: usize = 32;
/// One that signs, and one that is on its way in or out.
const MOST_KEYS: usize = 2;

/// One or two keys: the first signs, all verify.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionSecrets(Vec<String>);

impl SessionSecrets {
    /// Reads a file: one key a line, the one that signs first. Blocks.
    ///
    /// # Errors
    /// In words: it cannot be read, or it does not hold one or two keys of 32 visible ASCII characters or more. Never
    /// tells what it holds.
    pub fn read(path: &Path) -> Result<Self, String> {
        let mut text = String::new();
        let read =
            File::open(path).and_then(|file| file.take(FILE_BYTES + 1).read_to_string(&mut text));
        match read {
            Err(error) => Err(format!("cannot be read: {error}")),
            Ok(length) if length as u64 > FILE_BYTES => Err("is longer than 4 KiB".into()),
            Ok(_) => Self::parse(&text),
        }
    }

    /// The keys in a file's text.
    ///
    /// # Errors
    /// As [`SessionSecrets::read`].
    pub fn parse(text: &str) -> Result<Self, String> {
        let keys: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let fine = |key: &&str| key.len() >= LEAST && key.bytes().all(|b| b.is_ascii_graphic());
        if !(1..=MOST_KEYS).contains(&keys.len()) || !keys.iter().all(fine) {
            return Err(format!(
                "does not hold one or two keys, a line each, of at least {LEAST} visible ASCII \
                 characters"
            ));
        }
        if keys.len() > 1 && keys[0] == keys[1] {
            return Err("holds the same key twice".into());
        }
        Ok(Self(keys.into_iter().map(ToOwned::to_owned).collect()))
    }

    /// The keys, the one that signs first; never empty.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(String::as_bytes)
    }
}

impl fmt::Debug for SessionSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionSecrets({} keys)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_or_two_keys_of_some_length() {
        let (a, b) = ("a".repeat(32), "b".repeat(44));
        for (text, count) in
            [(a.clone(), 1), (format!("{a}\n"), 1), (format!("\n  {a}\r\n\n{b}\n"), 2)]
        {
            let secrets = SessionSecrets::parse(&text).expect("keys");
            assert_eq!(secrets.keys().count(), count);
            assert_eq!(secrets.keys().next(), Some(a.as_bytes()), "the first one signs");
            assert!(!format!("{secrets:?}").contains("aaa"), "never shown");
        }
        let short = "a".repeat(31);
        for text in [
            String::new(),
            "\n \n".into(),
            short.clone(),
            format!("{a}\n{short}"),
            format!("{a}\n{b}\n{}", "c".repeat(32)),
            format!("{a}\n{a}"),
            format!("{a} {b}"),
            "ä".repeat(32),
        ] {
            let why = SessionSecrets::parse(&text).expect_err("not keys");
            assert!(!why.contains("aaa"), "{why}");
        }
    }

    #[test]
    fn files_that_are_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("keys");
        assert!(SessionSecrets::read(&path).is_err_and(|why| why.contains("cannot be read")));
        std::fs::write(&path, "k".repeat(4097)).expect("writes");
        assert!(SessionSecrets::read(&path).is_err_and(|why| why.contains("4 KiB")));
        std::fs::write(&path, "k".repeat(4096)).expect("writes");
        assert!(SessionSecrets::read(&path).is_ok());
    }
}
