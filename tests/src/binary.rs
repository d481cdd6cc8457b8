//! Where the binaries under test are.

use std::path::{Path, PathBuf};

/// The `meridian` binary: `MERIDIAN_BIN`, else the one in this test's target directory.
///
/// # Panics
/// If there is none; says how to build it.
pub fn meridian() -> PathBuf {
    match std::env::var_os("MERIDIAN_BIN") {
        Some(path) => {
            let path = PathBuf::from(path);
            assert!(path.is_file(), "MERIDIAN_BIN: there is no {}", path.display());
            path
        }
        None => beside("meridian", "cargo build -p meridian"),
    }
}

/// A binary of this crate.
pub(crate) fn test_region() -> PathBuf {
    beside("meridian-test-region", "cargo build -p meridian-tests")
}

/// Test executables are in `target/PROFILE/deps`, binaries in `target/PROFILE`.
fn beside(name: &str, build: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the path of the running test");
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|p| p.is_file());
    let profile = own.parent().and_then(Path::parent).unwrap_or(&own);
    found.unwrap_or_else(|| {
        panic!("there is no {name} in {}: run `{build}` first", profile.display())
    })
}
