//! `meridian run`: control plane and data plane put together, from start to stop.
//!
//! Promises: the first table is there before a listener accepts; a termination signal ends in order (not
//! ready, still accepting, draining, over), a second one at once. Refuses to know: what either plane does.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use meridian_control::{
    Clock, Control, Gate, Lifecycle, NoChanges, Options, Phase, TableReader, UpgradeRequest,
};
use meridian_edge::Edge;
use rustix::process::setpriority_process;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::cli::LogLines;
use crate::commands::Verdict;
use crate::handover::{NewProcess, OldProcess, Sockets, Takeover, takeover};
use crate::service_manager::notify;
use crate::{logging, version};

/// The planes have so long to end once they were told that all is over.
const END_WITHIN: Duration = Duration::from_secs(5);
/// A process that was taken over from tells its clients so long, with their answers, that the connection ends: one that is
/// closed between two requests may meet the next one on its way.
const LAST_WORD: Duration = Duration::from_secs(2);
/// A process that takes over waits so long for its first round of probes.
const FIRST_ROUND: Duration = Duration::from_secs(3);

/// An edge in this process; its planes are told to stop when it is dropped.
pub(crate) struct RunningEdge {
    lifecycle: Lifecycle,
    /// Says how to end, as the file in force has it by then.
    table: TableReader,
    control: Plane,
    workers: Plane,
    /// For a process that takes over.
    sockets: Sockets,
    gate: Gate,
    upgrades: mpsc::Receiver<UpgradeRequest>,
    /// Another process has taken over: operators go there.
    handed_over: Option<NoChanges>,
}

/// One of the two planes, on threads of its own.
struct Plane {
    name: &'static str,
    /// Taken once it has told how it ended.
    ended: Option<oneshot::Receiver<anyhow::Result<()>>>,
}

impl RunningEdge {
    /// Starts both planes from a configuration file; returns once connections are accepted. `inherited`: the sockets of
    /// the process that this one takes over from.
    ///
    /// # Errors
    /// The file is broken, or something it names cannot be had.
    pub(crate) fn start(
        config_path: &Path,
        last_good: bool,
        inherited: Option<Sockets>,
    ) -> anyhow::Result<Self> {
        let options = Options {
            config_path: PathBuf::from(config_path),
            last_good,
            version: version::VERSION,
            revision: version::REVISION,
        };
        let start = meridian_control::load(&options)?;
        let config = start.config.clone();
        let (clock, lifecycle) = (Clock::start(), Lifecycle::new());
        let mut edge = Edge::new(&config)?;
        let data_plane = edge.data_plane();
        let phases = lifecycle.reader();
        let taking_over = inherited.is_some();
        let Sockets { listeners, admin } = inherited.unwrap_or_default();
        let mut control =
            meridian_control::start(options, start, phases.clone(), data_plane, clock, admin)?;
        edge.bind(config.edge.workers(), listeners)?;
        let (table, gate, upgrades) = (control.table(), control.gate(), control.upgrade_requests());
        let readers = control.readers();
        let sockets = Sockets { listeners: edge.sockets()?, admin: Some(control.admin_socket()?) };
        let (probed, outliers) = (control.first_round(), control.outliers());
        let claims = control.claims();
        let control = Plane::start("control plane", move || run_control(control))?;
        if taking_over {
            // The other process knows which endpoints are well; this one should before it decides.
            let late = Instant::now() + FIRST_ROUND;
            while !probed.load(Relaxed) && Instant::now() < late {
                thread::sleep(Duration::from_millis(5));
            }
        }
        let workers = edge.start(&readers, &outliers, &claims, &phases, clock)?;
        let running = Self {
            lifecycle,
            table,
            control,
            workers: Plane::start("data plane", move || Ok(workers.join()?))?,
            sockets,
            gate,
            upgrades,
            handed_over: None,
        };
        running.lifecycle.enter(Phase::Serving);
        Ok(running)
    }

    /// Resolves with an error if a plane ends although nobody told it to.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        let (name, ended) = tokio::select! {
            ended = self.control.end() => (self.control.name, ended),
            ended = self.workers.end() => (self.workers.name, ended),
        };
        ended.err().unwrap_or_else(|| anyhow!("the {name} has ended by itself"))
    }

    /// Lets the program, as it is on disk now, take over. This process serves on for a moment, and for good if that one
    /// fails.
    ///
    /// # Errors
    /// The new process cannot start, or has ended soon.
    async fn hand_over(&mut self) -> anyhow::Result<u32> {
        let no_changes = self.gate.no_changes().await;
        let mut new = NewProcess::start(&self.sockets).await?;
        tracing::info!(pid = new.pid(), "a new process serves");
        self.gate.set_open(false);
        if let Err(error) = new.settle().await {
            self.gate.set_open(true);
            return Err(error);
        }
        self.gate.give_away();
        self.handed_over = Some(no_changes);
        notify(&format!("MAINPID={}", new.pid()));
        Ok(new.leave())
    }

    /// Begins to answer operators, and takes everything over once the old process says so.
    async fn take_over(&self, old: OldProcess) -> anyhow::Result<()> {
        let no_changes = self.gate.no_changes().await;
        old.ready()?;
        self.gate.set_open(true);
        let gate = self.gate.clone();
        thread::Builder::new().name("old process".to_owned()).spawn(move || {
            old.wait_for_all();
            gate.own();
            drop(no_changes);
        })?;
        Ok(())
    }

    /// Ends in order; when `at_once` resolves, without waiting for what is in flight.
    ///
    /// # Errors
    /// When a plane did not end well.
    pub(crate) async fn stop(mut self, at_once: impl Future<Output = ()>) -> anyhow::Result<()> {
        let shutdown = self.table.load().config.shutdown.clone();
        // Only the workers hold the listening sockets from now on.
        self.sockets = Sockets::default();
        let in_order = async {
            self.lifecycle.enter(Phase::LameDuck);
            let least = if self.handed_over.is_some() { LAST_WORD } else { Duration::ZERO };
            tokio::time::sleep(shutdown.lame_duck.max(least)).await;
            self.lifecycle.enter(Phase::Draining);
            timeout(shutdown.grace, self.workers.end()).await.unwrap_or(Ok(()))
        };
        let drained = tokio::select! {
            drained = in_order => drained,
            () = at_once => Ok(()),
        };
        self.lifecycle.enter(Phase::Stopped);
        let workers = self.workers.end_soon().await;
        self.control.end_soon().await.and(drained).and(workers)
    }
}

impl Drop for RunningEdge {
    fn drop(&mut self) {
        self.lifecycle.enter(Phase::Stopped);
    }
}

impl Plane {
    fn start(
        name: &'static str,
        work: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (sender, ended) = oneshot::channel();
        let thread = thread::Builder::new().name(name.to_owned());
        // Nobody listens any more when the process is left in a hurry.
        thread.spawn(move || drop(sender.send(work())))?;
        Ok(Self { name, ended: Some(ended) })
    }

    /// Waits for its end; may be asked again.
    async fn end(&mut self) -> anyhow::Result<()> {
        let Some(ended) = &mut self.ended else { return Ok(()) };
        let how = ended.await;
        self.ended = None;
        let how = how.with_context(|| format!("the {} has panicked", self.name))?;
        how.with_context(|| format!("the {} has failed", self.name))
    }

    async fn end_soon(&mut self) -> anyhow::Result<()> {
        let (name, within) = (self.name, END_WITHIN.as_secs());
        let ended = timeout(END_WITHIN, self.end()).await;
        ended.with_context(|| format!("the {name} has not ended within {within} s"))?
    }
}

/// How much less of a busy processor blocking jobs get (a "nice" value): to verify certificates or to open a geo database
/// takes milliseconds, and no request should wait for it. What takes longer has a thread of its own.
const LONG_JOBS_NICE: i32 = 10;

fn run_control(control: Control) -> anyhow::Result<()> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    // The threads of blocking jobs; where the system does not let us, they compete as equals.
    builder.on_thread_start(|| {
        let _ = setpriority_process(None, LONG_JOBS_NICE);
    });
    let runtime = builder.enable_all().build()?;
    Ok(runtime.block_on(control.run())?)
}

/// Termination signals, by SIGTERM or SIGINT.
pub(crate) struct Termination {
    terminate: Signal,
    interrupt: Signal,
}

impl Termination {
    /// Catches them from now on; needs a runtime.
    ///
    /// # Errors
    /// When the system does not let us.
    pub(crate) fn catch() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Runs an edge until a signal ends it.
///
/// # Errors
/// When it cannot start, or fails.
pub(crate) fn run(config: &Path, last_good: bool, logs: LogLines) -> anyhow::Result<Verdict> {
    logging::start(logs, "info", None)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before anything else, so that no signal is missed.
        let mut termination = Termination::catch()?;
        let mut upgrade = signal(SignalKind::user_defined2())?;
        let mut edge = begin(config, last_good).await?;
        let mut requests = std::mem::replace(&mut edge.upgrades, mpsc::channel(1).1);
        notify("READY=1");
        loop {
            let request = tokio::select! {
                () = termination.next() => break,
                error = edge.failed() => return Err(error),
                _ = upgrade.recv() => None,
                Some(request) = requests.recv() => Some(request),
            };
            let actor = request.as_ref().map_or("SIGUSR2", |request| &request.actor);
            tracing::info!(actor, "a new process is to take over");
            let handed = tokio::select! {
                handed = edge.hand_over() => handed,
                () = termination.next() => break,
            };
            if let Err(error) = &handed {
                tracing::error!(error = format!("{error:#}"), "no new process: serving on");
            }
            let over = handed.is_ok();
            if let Some(request) = request {
                // They may not have waited.
                let _ = request.done.send(handed.map_err(|error| format!("{error:#}")));
            }
            if over {
                break;
            }
        }
        match edge.handed_over {
            Some(_) => tracing::info!("ending: a new process has taken over"),
            None => {
                notify("STOPPING=1");
                tracing::info!("ending: not ready any more, still accepting");
            }
        }
        edge.stop(termination.next()).await?;
        tracing::info!("ended");
        Ok(Verdict::Fine)
    })
}

/// Starts an edge; takes over from another process if that has started this one.
async fn begin(config: &Path, last_good: bool) -> anyhow::Result<RunningEdge> {
    let Some(Takeover { sockets, old }) = takeover()? else {
        return RunningEdge::start(config, last_good, None);
    };
    match RunningEdge::start(config, last_good, Some(sockets)) {
        Ok(edge) => {
            edge.take_over(old).await?;
            Ok(edge)
        }
        Err(error) => {
            old.failed(&error);
            Err(error)
        }
    }
}
