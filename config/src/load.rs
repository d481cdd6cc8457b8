//! The way in: a file or a text becomes a [`Config`] or all its errors.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use toml::de::DeTable;

use crate::finding::{ConfigErrors, Note, Warning, locate};
use crate::model::Config;
use crate::reader::{Context, Table};
use crate::resolve;

/// A longer configuration file is refused.
const FILE_BYTES: u64 = 64 << 20;

/// An accepted configuration.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the file says.
    pub config: Config,
    /// What is odd about it, in file order.
    pub warnings: Vec<Warning>,
    /// Of the text it was read from.
    pub fingerprint: Fingerprint,
}

/// SHA-256 of a configuration text: two texts with the same one need not be read twice. Displayed in hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a file's content.
    pub fn of(content: &[u8]) -> Self {
        Self(Sha256::digest(content).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Config {
    /// Reads a file with this process's environment.
    ///
    /// # Errors
    /// The file cannot be read, or something in it is wrong; then with everything that is.
    pub fn load(path: &Path) -> Result<Loaded, ConfigErrors> {
        let fail = |message| ConfigErrors::of_file(path, message);
        let mut content = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(FILE_BYTES + 1).read_to_end(&mut content))
            .map_err(|error| fail(format!("cannot be read: {error}")))?;
        if content.len() as u64 > FILE_BYTES {
            return Err(fail("is longer than 64 MiB".into()));
        }
        let text = std::str::from_utf8(&content).map_err(|error| {
            fail(format!("is not UTF-8 text: see byte {}", error.valid_up_to() + 1))
        })?;
        Self::parse(text, path, &|name| std::env::var(name).ok())
    }

    /// Reads a text. `source` is the file it came from: named in messages, its directory is where relative
    /// paths start. Token files that the text names are read; nothing else is.
    ///
    /// # Errors
    /// Something is wrong; with everything that is, in file order. If the text is not TOML, only with that.
    pub fn parse(
        text: &str,
        source: &Path,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Loaded, ConfigErrors> {
        let (root, syntax) = DeTable::parse_recoverable(text);
        if !syntax.is_empty() {
            let note = |error: toml::de::Error| Note {
                offset: error.span().map_or(0, |span| span.start),
                path: String::new(),
                message: match error.span().and_then(|span| text.get(span)) {
                    Some(key) if error.message() == "duplicate key" => {
                        format!("duplicate key {:?}", key.trim())
                    }
                    _ => error.message().to_owned(),
                },
            };
            let notes = syntax.into_iter().map(note).collect();
            return Err(ConfigErrors { errors: locate(source, text, notes) });
        }
        let cx = Context::new(env, directory(source));
        let config = resolve::config(&Table::root(&cx, root.get_ref()));
        let errors = locate(source, text, cx.errors.take());
        if !errors.is_empty() {
            return Err(ConfigErrors { errors });
        }
        let warnings = locate(source, text, cx.warnings.take());
        Ok(Loaded { config, warnings, fingerprint: Fingerprint::of(text.as_bytes()) })
    }
}

/// The directory of a file, absolute if the working directory is known.
fn directory(source: &Path) -> PathBuf {
    let directory = source.parent().unwrap_or(Path::new(""));
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned())
}
