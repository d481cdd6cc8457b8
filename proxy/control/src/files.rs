//! What a configuration names on this machine, looked at without changing anything.
//!
//! Promises: reads only. Refuses to know: whether the edge will run on this machine at all, so that nothing found here is
//! more than a warning.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use meridian_config::{Config, FailoverMode, LogOutput};
use rustix::fs::{Access, access};

use crate::failover::broken_hook;
use crate::reload::OpenedGeo;

/// Something that is not as an edge would need it, here and now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFinding {
    /// Which key names it, such as `geoip.database`.
    pub path: String,
    /// What is wrong, with the file's path.
    pub message: String,
}

/// Looks at the geo database, the access log, the state directory and the hooks. Blocks.
pub fn check_files(config: &Config) -> Vec<FileFinding> {
    let mut found = Vec::new();
    let mut note = |path: String, message: String| found.push(FileFinding { path, message });
    if config.geo_database.is_some()
        && let Err(why) = OpenedGeo::open(config.geo_database.clone())
    {
        note("geoip.database".into(), why);
    }
    if let LogOutput::File(path) = &config.access_log.output
        && let Err(error) = may_append(path)
    {
        note("access_log.output".into(), format!("{}: {error}", path.display()));
    }
    if let Err(why) = may_keep_state(&config.edge.state_dir) {
        note("edge.state_dir".into(), why);
    }
    for (index, service) in config.services.iter().enumerate() {
        if service.failover.mode == FailoverMode::Hook
            && let Some(why) = broken_hook(&service.failover.hook)
        {
            note(format!("services[{index}].failover.hook"), why);
        }
    }
    found
}

/// Whether a file can be appended to, or made.
fn may_append(path: &Path) -> io::Result<()> {
    match OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            may_write_in(path.parent().unwrap_or(Path::new("/")))
        }
        opened => opened.map(drop),
    }
}

fn may_write_in(directory: &Path) -> io::Result<()> {
    if !std::fs::metadata(directory)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(access(directory, Access::WRITE_OK | Access::EXEC_OK)?)
}

/// Whether the directory is one, or may be made: by whom is not known here, so that one that is not there yet may stand
/// in a directory of somebody else's.
fn may_keep_state(directory: &Path) -> Result<(), String> {
    let there = directory.ancestors().find(|path| path.symlink_metadata().is_ok());
    let there = there.unwrap_or(Path::new("/"));
    let fine = match there == directory {
        true => may_write_in(there),
        false if there.is_dir() => Ok(()),
        false => Err(io::ErrorKind::NotADirectory.into()),
    };
    fine.map_err(|error| format!("{}: {error}", there.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(directory: &Path, edge: &str, more: &str, service: &str) -> Vec<String> {
        let text = format!(
            "[edge]\nstate_dir = \"{edge}\"\n{more}\n\
             [[listeners]]\nname = \"l\"\naddress = \"127.0.0.1:1\"\n\
             [[regions]]\nid = \"r\"\n[[services]]\nname = \"s\"\n{service}\n\
             [[services.endpoints]]\nregion = \"r\"\naddress = \"127.0.0.1:2\"\n\
             [[routes]]\nname = \"x\"\nservice = \"s\"\n"
        );
        let parsed = Config::parse(&text, &directory.join("m.toml"), &|_| None);
        let config = parsed.unwrap_or_else(|errors| panic!("{errors}")).config;
        let line = |f: FileFinding| format!("{}: {}", f.path, f.message);
        check_files(&config).into_iter().map(line).collect()
    }

    #[test]
    fn what_is_not_there_is_named_with_its_path() {
        let directory = tempfile::tempdir().expect("a directory");
        let dir = directory.path();
        std::fs::write(dir.join("file"), "x").expect("writes");
        for (edge, more, service, key, path) in [
            ("file", "", "", "edge.state_dir", "file: not a directory"),
            ("file/s", "", "", "edge.state_dir", "file: not a directory"),
            ("s", "geoip.database = \"none.mmdb\"", "", "geoip.database", "none.mmdb"),
            ("s", "geoip.database = \"file\"", "", "geoip.database", "file"),
            ("s", "access_log.output = \"logs/a.log\"", "", "access_log.output", "logs/a.log: "),
            (
                "s",
                "",
                "failover = { mode = \"hook\", hook = [\"/nowhere/promote\"] }",
                "services[0].failover.hook",
                "/nowhere/promote",
            ),
        ] {
            let more = match more.split_once('.') {
                Some((section, line)) => format!("[{section}]\n{line}"),
                None => String::new(),
            };
            let said = found(dir, edge, &more, service);
            assert_eq!(said.len(), 1, "{said:#?}");
            assert!(said[0].starts_with(&format!("{key}: ")) && said[0].contains(path), "{said:?}");
        }
        let fine = found(dir, "s/t", "[access_log]\noutput = \"a.log\"", "");
        assert_eq!(fine, [""; 0]);
        assert!(!dir.join("s").exists() && !dir.join("a.log").exists(), "nothing is made");
    }
}
