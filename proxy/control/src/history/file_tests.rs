use std::os::unix::fs::symlink;
use std::time::Duration;

use super::super::tests::event;
use super::*;

fn numbered(seq: u64) -> HistoryEvent {
    HistoryEvent { seq, ..event(Some("api"), Some("eu"), "down") }
}

fn line(seq: u64) -> Vec<u8> {
    let mut line = serde_json::to_vec(&numbered(seq)).expect("serializes");
    line.push(b'\n');
    line
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, content: &[u8]) {
        fs::write(self.path(name), content).expect("writes");
    }

    /// Writes these events and waits until they are on the disk; how many were dropped.
    async fn write(&self, most_bytes: u64, numbers: impl IntoIterator<Item = u64>) -> u64 {
        let status = Arc::new(FileStatus::default());
        let file = HistoryFile::start(self.0.path(), most_bytes, status.clone()).expect("starts");
        for seq in numbers {
            file.write(&numbered(seq));
        }
        file.flush().await;
        status.dropped.load(Relaxed)
    }

    fn restored(&self, most: usize) -> (Vec<u64>, usize) {
        let restored = restore(self.0.path(), most).expect("reads");
        (restored.events.iter().map(|event| event.seq).collect(), restored.damaged)
    }

    fn length(&self, name: &str) -> u64 {
        fs::metadata(self.path(name)).map_or(0, |metadata| metadata.len())
    }
}

#[tokio::test]
async fn what_is_written_is_restored() {
    let place = Place::new();
    assert_eq!(place.restored(10), (vec![], 0), "nothing yet");
    assert_eq!(place.write(1 << 20, 1..=20).await, 0);
    assert_eq!(place.restored(100), ((1..=20).collect(), 0));
    assert_eq!(place.restored(3), (vec![18, 19, 20], 0));
    let restored = restore(place.0.path(), 1).expect("reads");
    assert_eq!(restored.events, [numbered(20)], "nothing is lost of an event");
    assert_eq!(place.write(1 << 20, 21..=22).await, 0);
    assert_eq!(place.restored(4), (vec![19, 20, 21, 22], 0));
}

#[tokio::test]
async fn the_file_is_bounded_and_the_newest_stay() {
    let place = Place::new();
    let most = 4 * line(100).len() as u64;
    assert_eq!(place.write(most, 100..150).await, 0);
    for name in [NAME, NAME_BEFORE] {
        let length = place.length(name);
        assert!(length > 0 && length <= most, "{name}: {length}");
    }
    let (numbers, damaged) = place.restored(100);
    assert_eq!((numbers.last(), damaged), (Some(&149), 0));
    assert!((4..=8).contains(&numbers.len()), "{numbers:?}");
    let row: Vec<u64> = (150 - numbers.len() as u64..150).collect();
    assert_eq!(numbers, row, "without a gap");
}

#[tokio::test]
async fn an_event_larger_than_the_bound_is_written_alone() {
    let place = Place::new();
    assert_eq!(place.write(1, 1..=3).await, 0);
    assert_eq!(place.restored(10), (vec![2, 3], 0));
}

#[tokio::test]
async fn a_torn_last_line_costs_itself_only() {
    let place = Place::new();
    let mut text = [line(1), line(2), line(3)].concat();
    text.truncate(text.len() - 9);
    place.put(NAME, &text);
    assert_eq!(place.restored(10), (vec![1, 2], 1));
    assert_eq!(place.length(NAME), (line(1).len() + line(2).len()) as u64, "it is taken away");
    assert_eq!(place.write(1 << 20, 4..=4).await, 0);
    assert_eq!(place.restored(10), (vec![1, 2, 4], 0));
}

#[test]
fn damaged_lines_are_passed_over() {
    let place = Place::new();
    place.put(NAME_BEFORE, &[&line(1)[..], b"{}\n\xff\xfe\n\n", &line(2)[..]].concat());
    place.put(NAME, &[&b"not JSON\n"[..], &line(3)[..]].concat());
    assert_eq!(place.restored(10), (vec![1, 2, 3], 3));
}

#[test]
fn only_the_end_of_a_huge_file_is_read() {
    let place = Place::new();
    place.put(NAME, b"x");
    let file = OpenOptions::new().write(true).open(place.path(NAME)).expect("opens");
    file.set_len(MAX_READ + 5).expect("a hole");
    drop(file);
    let mut file = OpenOptions::new().append(true).open(place.path(NAME)).expect("opens");
    file.write_all(b"\n").expect("writes");
    file.write_all(&line(7)).expect("writes");
    assert_eq!(place.restored(10), (vec![7], 0));
}

#[tokio::test]
async fn a_full_disk_is_counted_and_waited_for_by_nobody() {
    let place = Place::new();
    symlink("/dev/full", place.path(NAME)).expect("links");
    assert!(restore(place.0.path(), 10).is_err(), "a device is not read");
    let status = Arc::new(FileStatus::default());
    let file = HistoryFile::start(place.0.path(), 1 << 20, status.clone()).expect("starts");
    (1..=5).for_each(|seq| file.write(&numbered(seq)));
    file.flush().await;
    assert_eq!(status.dropped.load(Relaxed), 5);
    let error = status.last_error().expect("it failed");
    assert!(error.contains("No space left"), "{error}");
    // There is room again.
    fs::remove_file(place.path(NAME)).expect("removes");
    file.write(&numbered(6));
    file.flush().await;
    assert_eq!((status.dropped.load(Relaxed), status.last_error()), (5, None));
    assert_eq!(place.restored(10), (vec![6], 0));
}

#[tokio::test]
async fn a_disk_that_hangs_holds_nobody_up() {
    let place = Place::new();
    let made = std::process::Command::new("mkfifo").arg(place.path(NAME)).status();
    assert!(made.is_ok_and(|status| status.success()), "mkfifo");
    let status = Arc::new(FileStatus::default());
    let file = HistoryFile::start(place.0.path(), 1 << 20, status.clone()).expect("starts");
    // Nobody reads the pipe: the thread waits for as long as it is open for writing.
    let more = 100;
    (0..QUEUE as u64 + more).for_each(|seq| file.write(&numbered(seq)));
    let dropped = status.dropped.load(Relaxed);
    assert!((more - 1..=more).contains(&dropped), "{dropped}");
    let flush = tokio::time::timeout(Duration::from_secs(5), file.flush()).await;
    assert!(flush.is_ok(), "no place in the queue, no waiting");
}

#[tokio::test]
async fn a_file_that_was_taken_away_is_made_anew() {
    let place = Place::new();
    let status = Arc::new(FileStatus::default());
    let file = HistoryFile::start(place.0.path(), 1 << 20, status).expect("starts");
    file.write(&numbered(1));
    file.flush().await;
    fs::rename(place.path(NAME), place.path("elsewhere")).expect("renames");
    file.write(&numbered(2));
    file.flush().await;
    assert_eq!(place.restored(10), (vec![2], 0));
}
