//! The keeper's task: takes a batch of events, makes one table, publishes it once, and only then answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use meridian_config::{Config, EndpointKey};
use meridian_routing::{Claim, Overrides, RoutingTable};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::event::{Event, Finding, Notice, Rejection};
use super::persist::{Persister, Save};
use super::record;
use super::state::KeeperState;
use crate::background::Background;
use crate::clock::{Clock, unix_ms};
use crate::events::Feed;
use crate::history::{History, Observer};
use crate::published::Publisher;

/// Events that may wait for the keeper.
const INBOX: usize = 1024;
/// The most it takes at a time.
const BATCH: usize = 256;
const TICK: Duration = Duration::from_secs(1);
/// A table with another primary waits so long for the disk.
const PRIMACY_PATIENCE: Duration = Duration::from_secs(1);
/// An operator's answer waits so long for the disk.
const SAVE_PATIENCE: Duration = Duration::from_secs(5);

/// What the keeper did about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Applied {
    /// The generation in which it is in effect.
    pub(crate) generation: u64,
    /// Whether anything had to be done.
    pub(crate) changed: bool,
}

/// Why an event was not answered with [`Applied`].
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error(transparent)]
    Rejected(#[from] Rejection),
    #[error("in effect in generation {generation}, but not saved, so a restart forgets it: {why}")]
    NotSaved { generation: u64, why: String },
    #[error("the edge is stopping")]
    Stopping,
}

type Saved = oneshot::Receiver<Result<(), String>>;
type Reply = oneshot::Sender<Result<(Applied, Option<Saved>), Rejection>>;

#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) event: Event,
    reply: Option<Reply>,
}

/// Sends events to the keeper.
#[derive(Clone, Debug)]
pub(crate) struct KeeperHandle(mpsc::Sender<Command>);

impl KeeperHandle {
    /// Tells of an observation; waits while the keeper's inbox is full.
    pub(crate) async fn tell(&self, event: Event) {
        // Fails only when the keeper has stopped, and then nobody needs to know.
        let _ = self.0.send(Command { event, reply: None }).await;
    }

    /// Waits until an event is in effect and, if it is an override, saved.
    pub(crate) async fn ask(&self, event: Event) -> Result<Applied, AskError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.0.send(Command { event, reply: Some(reply) }).await;
        sent.map_err(|_| AskError::Stopping)?;
        let (applied, saved) = answer.await.map_err(|_| AskError::Stopping)??;
        let Some(saved) = saved else { return Ok(applied) };
        let generation = applied.generation;
        match tokio::time::timeout(SAVE_PATIENCE, saved).await {
            Ok(Ok(Ok(()))) => Ok(applied),
            Ok(Ok(Err(why))) => Err(AskError::NotSaved { generation, why }),
            Ok(Err(_)) => Err(AskError::Stopping),
            Err(_) => Err(AskError::NotSaved { generation, why: "the disk is slow".into() }),
        }
    }
}

/// Tells the keeper what the data path has found of an endpoint.
#[derive(Clone, Debug)]
pub struct OutlierSink(KeeperHandle);

impl OutlierSink {
    /// Never waits; `false` if the keeper is too busy to be told, and the finding is lost.
    pub fn tell(&self, key: &EndpointKey, finding: Finding) -> bool {
        let event = Event::Outlier { key: key.clone(), finding };
        self.0.0.try_send(Command { event, reply: None }).is_ok()
    }
}

impl From<KeeperHandle> for OutlierSink {
    fn from(keeper: KeeperHandle) -> Self {
        Self(keeper)
    }
}

/// Tells the keeper what endpoints say of themselves in answers to requests.
#[derive(Clone, Debug)]
pub struct ClaimSink(KeeperHandle);

impl ClaimSink {
    /// Never waits; `false` if the keeper is too busy to be told, and the claim is lost.
    pub fn tell(&self, key: &EndpointKey, claim: Claim) -> bool {
        let event = Event::Claim { key: key.clone(), claim, asked: false };
        self.0.0.try_send(Command { event, reply: None }).is_ok()
    }
}

impl From<KeeperHandle> for ClaimSink {
    fn from(keeper: KeeperHandle) -> Self {
        Self(keeper)
    }
}

/// Reads the operator's layer in force.
pub(crate) type OverridesReader = watch::Receiver<Arc<Overrides>>;

/// The inbox and the way to it.
pub(crate) fn inbox() -> (KeeperHandle, mpsc::Receiver<Command>) {
    let (sender, receiver) = mpsc::channel(INBOX);
    (KeeperHandle(sender), receiver)
}

/// The one task that owns the layers and the publishing handle.
pub(crate) struct Keeper {
    pub(crate) state: KeeperState,
    pub(crate) publisher: Publisher<RoutingTable>,
    /// Tables that were replaced and that somebody still reads. They are freed from here: to free one of ten thousand routes
    /// takes milliseconds, which no worker should spend, nor this task.
    pub(crate) retired: Vec<Arc<RoutingTable>>,
    pub(crate) inbox: mpsc::Receiver<Command>,
    pub(crate) background: Background,
    pub(crate) persister: Persister,
    pub(crate) feed: Feed,
    pub(crate) clock: Clock,
    /// Tells the other tasks of a new desired layer, once its table is published.
    pub(crate) desired: watch::Sender<Arc<Config>>,
    /// Shows the operator's layer.
    pub(crate) overrides: watch::Sender<Arc<Overrides>>,
    /// Set once every endpoint was probed.
    pub(crate) first_round: Arc<AtomicBool>,
    /// Sees every table that is published.
    pub(crate) observer: Observer,
    /// Where it tells of what has changed.
    pub(crate) history: History,
}

impl Keeper {
    /// Runs until the last handle is gone.
    pub(crate) async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut next_tick = Instant::now() + TICK;
        self.first_round.store(self.state.first_round_done(), Relaxed);
        loop {
            let wake_at = self.wake_at(next_tick);
            tokio::select! {
                received = self.inbox.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        return;
                    }
                }
                () = tokio::time::sleep_until(wake_at) => {
                    next_tick = Instant::now() + TICK;
                    batch.push(Command { event: Event::Tick, reply: None });
                }
            }
            self.work(&mut batch).await;
        }
    }

    /// The next tick; or the next expiry of an override or end of an ejection if one comes first.
    fn wake_at(&self, next_tick: Instant) -> Instant {
        let expiry = self.state.next_expiry();
        let expiry = expiry.map(|at| Duration::from_millis(at.saturating_sub(self.unix_ms())));
        let trial = self.state.next_trial().map(|at| at.since(self.clock.now()));
        let left = expiry.into_iter().chain(trial).min();
        left.map_or(next_tick, |left| next_tick.min(Instant::now() + left.min(TICK)))
    }

    /// What operators' times go by: nobody ends or keeps an override by setting the wall clock.
    fn unix_ms(&self) -> u64 {
        self.clock.unix_ms_at(self.clock.now())
    }

    async fn work(&mut self, batch: &mut Vec<Command>) {
        let mut answers = Vec::new();
        let mut all_notices = Vec::new();
        let mut inherited = false;
        for Command { event, reply } in batch.drain(..) {
            inherited |= matches!(event, Event::Inherit(_));
            let result = self.state.apply(event, self.clock.now(), self.unix_ms());
            let changed = result.as_ref().is_ok_and(|notices| !notices.is_empty());
            let save = result.as_ref().is_ok_and(|notices| notices.iter().any(changes_overrides));
            if let Some(reply) = reply {
                answers.push((reply, result.as_ref().err().cloned(), changed, save));
            }
            all_notices.extend(result.unwrap_or_default());
        }
        // The process before may have written last.
        if inherited || all_notices.iter().any(|notice| matches!(notice, Notice::Primacy { .. })) {
            self.save_primacies().await;
        }
        self.publish();
        let generation = self.state.table().generation;
        if all_notices.iter().any(|notice| changes_overrides(notice) || unasked(notice)) {
            self.overrides.send_replace(Arc::new(self.state.overrides().clone()));
        }
        for notice in &all_notices {
            record::record(notice, generation, &self.feed);
        }
        let table = self.state.table();
        let changes = self.observer.observe(table, &all_notices, self.clock.now(), unix_ms());
        self.history.record(changes);
        for (reply, rejection, changed, save) in answers {
            let saved = save.then(|| self.save());
            let result = match rejection {
                None => Ok((Applied { generation, changed }, saved)),
                Some(rejection) => Err(rejection),
            };
            // The caller may have given up.
            let _ = reply.send(result);
        }
        // An expiry has nobody who waits for it; the persister logs a failure.
        if all_notices.iter().any(unasked) {
            drop(self.save());
        }
        if all_notices.iter().any(|notice| matches!(notice, Notice::Reloaded { .. })) {
            self.desired.send_replace(self.state.desired().clone());
        }
        if self.state.first_round_done() {
            self.first_round.store(true, Relaxed);
        }
    }

    fn publish(&mut self) {
        if let Some(table) = self.state.commit() {
            self.retired.push(self.publisher.publish(table.clone()));
            table.wake_parked();
        }
        let unread: Vec<_> =
            self.retired.extract_if(.., |table| Arc::strong_count(table) == 1).collect();
        let config = &self.state.table().config;
        if unread.iter().any(|table| !Arc::ptr_eq(&table.config, config)) {
            // With the last of its tables a configuration goes.
            self.background.free(unread);
        }
    }

    /// Before the table is published: what was in force once is not forgotten. A disk that is slow or broken does not hold
    /// up a failover; the persister tells, and tries again.
    async fn save_primacies(&self) {
        let saved = self.persister.save(Save::Primacies(self.state.primacies()));
        if tokio::time::timeout(PRIMACY_PATIENCE, saved).await.is_err() {
            tracing::error!(target: "state", "the disk is slow: a primary comes into force unsaved");
        }
    }

    fn save(&self) -> Saved {
        self.persister.save(Save::Overrides(self.state.overrides().clone()))
    }
}

fn changes_overrides(notice: &Notice) -> bool {
    matches!(notice, Notice::OverrideSet { .. } | Notice::OverrideCleared { .. })
}

fn unasked(notice: &Notice) -> bool {
    matches!(notice, Notice::OverrideExpired { .. } | Notice::OverrideDropped { .. })
}
