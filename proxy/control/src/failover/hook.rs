//! Runs the promotion hook: a program of the operator's, in a process group of its own.
//!
//! Promises: whoever waits never waits longer than the time limit and a moment; at the end of its time, and when nobody
//! waits any more, the whole group is killed; of its output the last part is kept. Refuses to know: what it promotes.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::oneshot;

/// How often the process is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Between SIGTERM and SIGKILL.
const MERCY: Duration = Duration::from_secs(1);
/// What it wrote last may arrive so long after its end: a child of its own may hold the pipe.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// The most that is kept of its output, bytes.
const OUTPUT: usize = 8 << 10;

/// What is run, and for how long.
#[derive(Clone, Debug)]
pub(super) struct Hook {
    /// Program and arguments; never empty.
    pub(super) command: Vec<String>,
    pub(super) limit: Duration,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HookReport {
    pub(super) succeeded: bool,
    /// `exit status 0`, `killed after 5 s`, `it cannot be started: ...`.
    pub(super) status: String,
    pub(super) took: Duration,
    /// The last that it wrote to standard output and standard error.
    pub(super) output: String,
}

/// A hook that runs; the group is killed when this is dropped before its end.
#[derive(Debug)]
pub(super) struct RunningHook {
    group: Arc<Group>,
    report: oneshot::Receiver<HookReport>,
}

/// The process group, until its leader was waited for: from then on its id may be another's.
#[derive(Debug, Default)]
struct Group(Mutex<Leader>);

#[derive(Debug, Default)]
struct Leader {
    child: Option<Child>,
    /// Nobody waits: not to be started any more.
    given_up: bool,
}

impl Hook {
    /// Why it cannot be run, if that can be seen from outside.
    pub(super) fn broken(&self) -> Option<String> {
        let program = self.command.first().map(PathBuf::from)?;
        let why = match rustix::fs::access(&program, rustix::fs::Access::EXEC_OK) {
            Ok(()) if program.is_dir() => "is a directory".to_owned(),
            Ok(()) => return None,
            Err(error) => format!("cannot be run: {}", io::Error::from(error)),
        };
        Some(format!("the hook {} {why}", program.display()))
    }

    /// Starts it with one more argument and these variables, on a thread of its own.
    pub(super) fn start(
        &self,
        argument: &str,
        variables: Vec<(&'static str, String)>,
    ) -> RunningHook {
        let (hook, argument) = (self.clone(), argument.to_owned());
        let (group, (done, report)) = (Arc::<Group>::default(), oneshot::channel());
        let theirs = group.clone();
        let thread = thread::Builder::new().name("hook".into());
        let started = thread.spawn(move || {
            // Nobody may be waiting any more.
            let _ = done.send(hook.run(&theirs, &argument, &variables));
        });
        if let Err(error) = started {
            tracing::error!(target: "failover", %error, "no thread for the hook");
        }
        RunningHook { group, report }
    }

    fn run(
        &self,
        group: &Group,
        argument: &str,
        variables: &[(&'static str, String)],
    ) -> HookReport {
        let begun = Instant::now();
        let output = match self.spawn(group, argument, variables) {
            Ok(output) => output,
            Err(error) => {
                let status = format!("it cannot be started: {error}");
                let (took, output) = (begun.elapsed(), String::new());
                return HookReport { succeeded: false, status, took, output };
            }
        };
        let (mut asked, mut killed) = (false, false);
        let status = loop {
            match group.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => break Ok(status),
                Err(error) => break Err(error),
            }
            let so_far = begun.elapsed();
            if so_far >= self.limit && !asked {
                asked = true;
                group.signal(Signal::TERM);
            }
            if so_far >= self.limit + MERCY && !killed {
                killed = true;
                group.signal(Signal::KILL);
            }
            thread::sleep(LOOK);
        };
        let took = begun.elapsed();
        let said = output.end();
        let succeeded = !asked && status.as_ref().is_ok_and(ExitStatus::success);
        let status = match status {
            _ if asked => format!("killed after {}", super::guards::ms(self.limit)),
            Ok(status) => status.to_string(),
            Err(error) => format!("it cannot be waited for: {error}"),
        };
        HookReport { succeeded, status, took, output: said }
    }

    fn spawn(
        &self,
        group: &Group,
        argument: &str,
        variables: &[(&'static str, String)],
    ) -> io::Result<Output> {
        let Some((program, arguments)) = self.command.split_first() else {
            return Err(io::Error::other("there is no program"));
        };
        let (reader, writer) = io::pipe()?;
        let mut command = Command::new(program);
        command.args(arguments).arg(argument).process_group(0).stdin(Stdio::null());
        command.stdout(writer.try_clone()?).stderr(writer);
        // It is nobody's successor, whatever this process is.
        command.env_remove("MERIDIAN_HANDOVER");
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command.current_dir(Path::new("/"));
        let mut leader = group.lock();
        if leader.given_up {
            return Err(io::Error::other("nobody waits for it any more"));
        }
        leader.child = Some(command.spawn()?);
        drop(leader);
        drop(command);
        Ok(Output::read(reader))
    }
}

impl RunningHook {
    /// Waits for its end.
    pub(super) async fn finish(&mut self) -> HookReport {
        (&mut self.report).await.unwrap_or_else(|_| HookReport {
            succeeded: false,
            status: "there is no thread to run it".into(),
            took: Duration::ZERO,
            output: String::new(),
        })
    }
}

impl Drop for RunningHook {
    fn drop(&mut self) {
        self.group.lock().given_up = true;
        self.group.signal(Signal::KILL);
    }
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, Leader> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        let mut leader = self.lock();
        let Some(child) = &mut leader.child else { return Err(io::Error::other("it is gone")) };
        let status = child.try_wait()?;
        if status.is_some() {
            leader.child = None;
        }
        Ok(status)
    }

    /// To all of the group, as long as its leader was not waited for.
    fn signal(&self, signal: Signal) {
        let leader = self.lock();
        let id = leader.child.as_ref().and_then(|child| Pid::from_raw(child.id().cast_signed()));
        if let Some(id) = id {
            // It may have ended by itself.
            let _ = kill_process_group(id, signal);
        }
    }
}

/// What it writes, as it comes.
struct Output {
    kept: Arc<Mutex<Vec<u8>>>,
    ended: std::sync::mpsc::Receiver<()>,
}

impl Output {
    fn read(mut reader: io::PipeReader) -> Self {
        let kept = Arc::<Mutex<Vec<u8>>>::default();
        let (theirs, (ending, ended)) = (kept.clone(), std::sync::mpsc::channel());
        let thread = thread::Builder::new().name("hook-output".into());
        // Without a thread there is no output; that is no reason not to promote.
        let _ = thread.spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                let mut kept = theirs.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&buffer[..length]);
                let surplus = kept.len().saturating_sub(OUTPUT);
                kept.drain(..surplus);
            }
            drop(ending);
        });
        Self { kept, ended }
    }

    fn end(self) -> String {
        // Gone, or still open: either way what is there by now is taken.
        let _ = self.ended.recv_timeout(LAST_WORDS);
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str, limit: Duration) -> Hook {
        let command = ["/bin/sh", "-c", script, "hook"].map(str::to_owned).to_vec();
        Hook { command, limit }
    }

    async fn run(script: &str, limit: Duration) -> HookReport {
        let variables = vec![("MERIDIAN_SERVICE", "api".to_owned())];
        hook(script, limit).start("eu", variables).finish().await
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn argument_variables_status_and_output() {
        let report = run("echo to $1 of $MERIDIAN_SERVICE; echo and >&2; cat; pwd", LONG).await;
        assert_eq!((report.succeeded, &*report.status), (true, "exit status: 0"));
        assert_eq!(report.output, "to eu of api\nand\n/");
        let report = run("echo no; exit 3", LONG).await;
        assert_eq!((report.succeeded, &*report.status), (false, "exit status: 3"));
        assert_eq!(report.output, "no");
        let report = run("kill -9 $$", LONG).await;
        assert!(!report.succeeded && report.status.starts_with("signal: 9"), "{report:?}");
    }

    #[tokio::test]
    async fn what_cannot_be_started_is_told() {
        let none = Hook { command: vec!["/nowhere/promote.sh".into()], limit: LONG };
        let report = none.start("eu", Vec::new()).finish().await;
        assert!(!report.succeeded && report.status.contains("cannot be started"), "{report:?}");
        assert!(none.broken().is_some_and(|why| why.contains("/nowhere/promote.sh")));
        assert_eq!(hook("true", LONG).broken(), None);
        let directory = Hook { command: vec!["/tmp".into()], limit: LONG };
        assert!(directory.broken().is_some_and(|why| why.contains("directory")));
    }

    fn is_gone(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim().chars().next());
        state.is_none_or(|state| state == 'Z')
    }

    fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
        let late = Instant::now() + LONG;
        while !holds() {
            assert!(Instant::now() < late, "not in time: {what}");
            thread::sleep(LOOK);
        }
    }

    #[tokio::test]
    async fn at_the_end_of_its_time_the_whole_group_is_killed() {
        let script = "trap '' TERM; (trap '' TERM; sleep 600) & echo $!; wait; sleep 600";
        let report = run(script, Duration::from_millis(300)).await;
        assert!(!report.succeeded, "{report:?}");
        assert_eq!(report.status, "killed after 300 ms");
        assert!(report.took < LONG, "{report:?}");
        wait_until("the child is killed as well", || is_gone(&report.output));
    }

    #[tokio::test]
    async fn who_is_given_up_is_killed() {
        let place = tempfile::tempdir().expect("a directory");
        let file = place.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", file.display());
        let running = hook(&script, LONG).start("eu", Vec::new());
        let pid = || std::fs::read_to_string(&file).unwrap_or_default().trim().to_owned();
        wait_until("it has begun", || !pid().is_empty());
        drop(running);
        wait_until("its child is killed", || is_gone(&pid()));
    }

    #[tokio::test]
    async fn only_the_last_of_much_output_is_kept() {
        let report = run("yes abcdefg | head -c 100000; echo; echo end", LONG).await;
        assert!(report.output.len() <= OUTPUT, "{}", report.output.len());
        assert!(report.output.ends_with("\nend"), "{report:?}");
    }

    #[tokio::test]
    async fn a_child_that_stays_holds_nobody_up() {
        let report = run("sleep 5 & echo started", LONG).await;
        assert_eq!((report.succeeded, &*report.output), (true, "started"));
        assert!(report.took < Duration::from_secs(4), "{report:?}");
    }
}
