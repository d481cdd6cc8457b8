//! Memory: how much the process may have, how much it has, and from when on newcomers are turned away.
//!
//! Promises: what is looked at is what the kernel would kill for, without the file cache that it can take back; a look
//! costs two small reads. Refuses to know: who uses the memory for what.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

/// Parts of the limit, in per cent: beyond the first no connections are accepted, beyond the second requests are turned
/// down as well.
const CROWDED: u64 = 80;
const FULL: u64 = 90;
/// What the process needs beside requests, and what a request may come to need while it is under way: its buffers, some
/// of them grown. Slow ones grow for seconds after they have come, which is too late for a look at what is there.
const BASE: u64 = 32 << 20;
const REQUEST: u64 = 96 << 10;
/// So many requests may be under way whatever the limit is.
const LEAST_REQUESTS: u64 = 64;
/// Longest file that is read.
const LONGEST: usize = 8 * 1024;

/// How much room there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Room {
    #[default]
    Enough,
    /// For those who are here.
    Crowded,
    /// For what is under way.
    Full,
}

/// What the process has and may have.
#[derive(Debug)]
pub(crate) struct Gauge {
    group: Option<Group>,
    /// Pages of the process, where no group says more.
    process: File,
    page: u64,
    last: Room,
}

/// The control group whose limit is the lowest.
#[derive(Debug)]
struct Group {
    limit: u64,
    usage: File,
    stat: File,
    /// What `stat` calls the file cache, of the group and those in it.
    cache: [&'static str; 2],
}

impl Gauge {
    /// Finds the limit of the process's control group (version 2, or 1), if it has one.
    ///
    /// # Errors
    /// `/proc` is not there.
    pub(crate) fn open() -> io::Result<Self> {
        let process = File::open("/proc/self/statm")?;
        let page = rustix::param::page_size() as u64;
        let group = Group::find(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default());
        if let Some(group) = &group {
            info!(target: "edge", limit = group.limit, "the memory of this process is limited");
        }
        Ok(Self { group, process, page, last: Room::Enough })
    }

    /// How much room there is, with `configured` bytes in place of the group's limit if that is set.
    pub(crate) fn look(&mut self, configured: Option<u64>) -> Room {
        let room = self.room(configured).unwrap_or_default();
        if room != self.last {
            match room {
                Room::Enough => info!(target: "edge", "there is enough memory again"),
                Room::Crowded => warn!(target: "edge", "memory is short: no new connections"),
                Room::Full => warn!(target: "edge", "memory is short: no new requests"),
            }
        }
        self.last = room;
        room
    }

    /// Requests that there may be under way at once, `held` bytes apart; `None`: there is no limit.
    pub(crate) fn most_requests(&self, configured: Option<u64>, held: u64) -> Option<usize> {
        let limit = configured.or(self.group.as_ref().map(|group| group.limit))?;
        let most = (limit / 100 * CROWDED).saturating_sub(BASE + held) / REQUEST;
        Some(usize::try_from(most.max(LEAST_REQUESTS)).unwrap_or(usize::MAX))
    }

    fn room(&self, configured: Option<u64>) -> Option<Room> {
        let (used, limit) = match (configured, &self.group) {
            (Some(limit), _) => {
                let pages = read(&self.process).ok()?;
                (pages.split_whitespace().nth(1)?.parse::<u64>().ok()? * self.page, limit)
            }
            (None, Some(group)) => (group.used()?, group.limit),
            (None, None) => return None,
        };
        Some(match used.saturating_mul(100) / limit.max(1) {
            FULL.. => Room::Full,
            CROWDED.. => Room::Crowded,
            _ => Room::Enough,
        })
    }
}

impl Group {
    /// `membership` is what `/proc/self/cgroup` says.
    fn find(membership: &str) -> Option<Self> {
        let unified = membership.lines().find_map(|line| line.strip_prefix("0::"));
        let own = membership.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let controllers = parts.next()?;
            controllers.split(',').any(|name| name == "memory").then(|| parts.next())?
        });
        let first = own.map(|path| ("/sys/fs/cgroup/memory", path, true));
        let second = unified.map(|path| ("/sys/fs/cgroup", path, false));
        let groups = [first, second].into_iter().flatten();
        groups.filter_map(|(root, path, old)| Self::lowest(Path::new(root), path, old)).next()
    }

    /// The lowest limit of a group and those above it. Inside a container the path may be the host's: the root is its own.
    fn lowest(root: &Path, path: &str, old: bool) -> Option<Self> {
        let own = root.join(path.trim_start_matches('/'));
        let above = own.ancestors().take_while(|folder| folder.starts_with(root));
        let folders: Vec<PathBuf> = above.map(Path::to_owned).collect();
        let found = folders.iter().filter_map(|folder| Self::open(folder, old));
        found.min_by_key(|group| group.limit)
    }

    fn open(folder: &Path, old: bool) -> Option<Self> {
        let (limit, usage, cache) = match old {
            true => (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                ["total_inactive_file", "total_active_file"],
            ),
            false => ("memory.max", "memory.current", ["inactive_file", "active_file"]),
        };
        // "max", and a number near 2^63, say that there is none.
        let limit = fs::read_to_string(folder.join(limit)).ok()?.trim().parse::<u64>().ok()?;
        let open = |name: &str| File::open(folder.join(name)).ok();
        let (usage, stat) = (open(usage)?, open("memory.stat")?);
        (limit < 1 << 60).then_some(Self { limit, usage, stat, cache })
    }

    fn used(&self) -> Option<u64> {
        let usage = read(&self.usage).ok()?.trim().parse::<u64>().ok()?;
        let stat = read(&self.stat).ok()?;
        Some(usage.saturating_sub(cached(&stat, self.cache)))
    }
}

/// The bytes under these names.
fn cached(stat: &str, names: [&str; 2]) -> u64 {
    let value = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        names.contains(&name).then(|| value.parse::<u64>().ok())?
    };
    stat.lines().filter_map(value).sum()
}

fn read(file: &File) -> io::Result<String> {
    let mut bytes = vec![0; LONGEST];
    let count = file.read_at(&mut bytes, 0)?;
    bytes.truncate(count);
    String::from_utf8(bytes).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_limit_above_a_process_counts_and_the_cache_does_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        };
        for (folder, limit) in [("", "max"), ("a", "1000"), ("a/b", "3000")] {
            write(&format!("{folder}/memory.max"), limit);
            write(&format!("{folder}/memory.current"), "900\n");
            write(&format!("{folder}/memory.stat"), "anon 5\ninactive_file 60\nactive_file 41\n");
        }
        let group = Group::lowest(dir.path(), "/a/b", false).expect("a limit");
        assert_eq!((group.limit, group.used()), (1000, Some(799)));
        let file = File::open("/proc/self/statm").expect("/proc");
        let mut gauge = Gauge { group: Some(group), process: file, page: 4096, last: Room::Enough };
        for (usage, room) in [
            ("900", Room::Enough),
            ("901", Room::Crowded),
            ("1000", Room::Crowded),
            ("1001", Room::Full),
            ("9999999", Room::Full),
            ("100", Room::Enough),
            ("nonsense", Room::Enough),
        ] {
            write("a/memory.current", usage);
            assert_eq!(gauge.look(None), room, "{usage}");
        }
        let requests = [None, Some(256 << 20), Some(1 << 30)].map(|m| gauge.most_requests(m, 0));
        assert_eq!(requests, [Some(64), Some(1843), Some(8396)]);
        assert_eq!(gauge.most_requests(Some(256 << 20), 96 << 20), Some(819));
        assert_eq!(gauge.most_requests(Some(256 << 20), 1 << 30), Some(64));
        // This process has more than a few pages, and less than a terabyte.
        assert_eq!((gauge.look(Some(8192)), gauge.look(Some(1 << 40))), (Room::Full, Room::Enough));
        assert!(Group::lowest(dir.path(), "/elsewhere", false).is_none());
    }

    #[test]
    fn both_versions_say_where_a_process_is() {
        // Neither is there: nothing is found, and nothing fails.
        for text in ["", "0::/no/such/group", "4:memory:/no/such\n0::/", "garbage", "7:cpu,memory"]
        {
            let _ = Group::find(text);
        }
        assert!(Gauge::open().is_ok());
    }
}
