//! What the kernel says of this process.

use std::fs;

/// Read from `/proc`; what cannot be read is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ProcessFigures {
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) open_files: Option<u64>,
    pub(crate) start_unix_s: Option<f64>,
}

/// Ticks a second in `/proc`: USER_HZ, 100 on every Linux there is.
const TICKS: f64 = 100.0;

impl ProcessFigures {
    pub(crate) fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let machine = fs::read_to_string("/proc/stat").unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let files = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count());
        let times = times(&stat);
        Self {
            cpu_seconds: times.map(|(cpu, _)| cpu / TICKS),
            resident_bytes: field(&status, "VmRSS:").map(|kib| kib * 1024),
            // Less the one that reads the directory.
            open_files: files.map(|count| count.saturating_sub(1) as u64),
            start_unix_s: times
                .zip(field(&machine, "btime"))
                .map(|((_, start), boot)| boot as f64 + start / TICKS),
        }
    }
}

/// CPU ticks, user and system, and the start in ticks since boot: fields 14, 15 and 22 of proc(5), the name in
/// field 2 standing in parentheses.
fn times(stat: &str) -> Option<(f64, f64)> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    let ticks = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    Some((ticks(14)? + ticks(15)?, ticks(22)?))
}

/// The number after a line's name.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) (b c) S 1 1 1 0 -1 4194560 0 0 0 0 250 50 0 0 20 0 1 0 777 0 0";
        assert_eq!(times(stat), Some((300.0, 777.0)));
        assert_eq!(times("7 (cut"), None);
    }

    #[test]
    fn this_process_has_figures() {
        let figures = ProcessFigures::read();
        assert!(figures.resident_bytes.is_some_and(|bytes| bytes > 100_000), "{figures:?}");
        assert!(figures.open_files.is_some_and(|files| files >= 3), "{figures:?}");
        assert!(figures.cpu_seconds.is_some(), "{figures:?}");
        let now = crate::clock::unix_ms() as f64 / 1000.0;
        let age = now - figures.start_unix_s.expect("a start");
        assert!((-2.0..86_400.0).contains(&age), "{figures:?}");
    }
}
