//! Alerts: changes of state, POSTed to a webhook.
//!
//! Promises: whoever offers an event never waits; at most so many events wait, and what there is no room for is counted;
//! every event is tried a bounded number of times, in order. Secrets are told to nobody but the webhook. Refuses to know:
//! what an event means to whoever is told.

mod deliver;
mod webhook;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

pub(crate) use deliver::deliver;
pub(crate) use webhook::Webhook;
pub use webhook::check_alerts;

use crate::history::HistoryEvent;

/// Events on their way to the webhook.
#[derive(Clone, Debug)]
pub(crate) struct AlertQueue(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    news: Notify,
    delivered: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// `None`: nobody is told.
    webhook: Option<Arc<Webhook>>,
    waiting: VecDeque<Arc<HistoryEvent>>,
    /// One has been taken and is being sent.
    sending: bool,
    last_error: Option<String>,
}

/// How alerts stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct AlertStatus {
    /// Scheme, host and port of the webhook; `None`: nobody is told.
    pub(crate) webhook: Option<String>,
    /// Events that the webhook took.
    pub(crate) delivered: u64,
    /// Events that it did not take in all their attempts.
    pub(crate) failed: u64,
    /// Events that found no room in the queue.
    pub(crate) dropped: u64,
    /// Events that are not sent yet.
    pub(crate) waiting: usize,
    /// Why the last attempt failed; `None` once one succeeds.
    pub(crate) last_error: Option<String>,
}

impl AlertQueue {
    pub(crate) fn new(webhook: Option<Webhook>) -> Self {
        let state = State { webhook: webhook.map(Arc::new), ..State::default() };
        Self(Arc::new(Inner {
            state: Mutex::new(state),
            news: Notify::new(),
            delivered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the webhook: what waits goes to the new one, an event under way with its next attempt.
    pub(crate) fn set(&self, webhook: Option<Webhook>) {
        let mut state = self.state();
        if webhook.is_none() {
            state.waiting.clear();
            state.last_error = None;
        }
        state.webhook = webhook.map(Arc::new);
    }

    /// Takes an event that the webhook is to be told of. Never waits.
    pub(crate) fn offer(&self, event: &Arc<HistoryEvent>) {
        let mut state = self.state();
        let Some(settings) = state.webhook.as_ref().map(|webhook| &webhook.settings) else {
            return;
        };
        if !event.class().is_some_and(|class| settings.events.contains(&class)) {
            return;
        }
        if state.waiting.len() >= settings.queue {
            drop(state);
            self.0.dropped.fetch_add(1, Relaxed);
            return;
        }
        state.waiting.push_back(event.clone());
        drop(state);
        self.0.news.notify_one();
    }

    pub(crate) fn status(&self) -> AlertStatus {
        let state = self.state();
        AlertStatus {
            webhook: state.webhook.as_ref().map(|webhook| webhook.settings.url.origin()),
            delivered: self.0.delivered.load(Relaxed),
            failed: self.0.failed.load(Relaxed),
            dropped: self.0.dropped.load(Relaxed),
            waiting: state.waiting.len() + usize::from(state.sending),
            last_error: state.last_error.clone(),
        }
    }

    /// The webhook in force.
    fn webhook(&self) -> Option<Arc<Webhook>> {
        self.state().webhook.clone()
    }

    /// The next event, once there is one.
    async fn next(&self) -> Arc<HistoryEvent> {
        loop {
            {
                let mut state = self.state();
                if let Some(event) = state.waiting.pop_front() {
                    state.sending = true;
                    return event;
                }
            }
            self.0.news.notified().await;
        }
    }

    /// Notes how an attempt went.
    fn note(&self, error: Option<String>) {
        self.state().last_error = error;
    }

    /// Counts the event that was taken last; `None`: nobody is told any more.
    fn done(&self, delivered: Option<bool>) {
        self.state().sending = false;
        match delivered {
            Some(true) => self.0.delivered.fetch_add(1, Relaxed),
            Some(false) => self.0.failed.fetch_add(1, Relaxed),
            None => 0,
        };
    }
}
