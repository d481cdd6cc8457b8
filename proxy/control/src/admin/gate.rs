//! Which process answers operators, and keeps the state, while one takes over from another: both have the same listening
//! socket and the same directory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};

/// Opens and closes the admin endpoint without giving up its socket.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    open: watch::Sender<bool>,
    changes: Arc<RwLock<()>>,
    /// A unix socket's file goes with this process.
    ours: AtomicBool,
    /// Another process keeps the state from now on.
    given_away: watch::Sender<bool>,
}

/// No operator's change is under way or begins while this is there.
#[derive(Debug)]
pub struct NoChanges(#[allow(dead_code, reason = "held")] OwnedRwLockWriteGuard<()>);

impl Gate {
    /// Closed for a process that takes over.
    pub(crate) fn new(open: bool) -> Self {
        Self(Arc::new(Parts {
            open: watch::Sender::new(open),
            changes: Arc::default(),
            ours: AtomicBool::new(open),
            given_away: watch::Sender::new(false),
        }))
    }

    /// Accepts connections from now on, or not. Those that are there are served either way.
    pub fn set_open(&self, open: bool) {
        self.0.open.send_replace(open);
    }

    /// Waits for the changes that are under way; others are turned away as long as the answer is there.
    pub async fn no_changes(&self) -> NoChanges {
        NoChanges(self.0.changes.clone().write_owned().await)
    }

    /// The socket's file is this process's.
    pub fn own(&self) {
        self.0.ours.store(true, Relaxed);
    }

    /// Another process has the socket's file, and keeps the state.
    pub fn give_away(&self) {
        self.0.ours.store(false, Relaxed);
        self.0.given_away.send_replace(true);
    }

    pub(crate) fn is_owner(&self) -> bool {
        self.0.ours.load(Relaxed)
    }

    pub(crate) fn is_given_away(&self) -> bool {
        *self.0.given_away.borrow()
    }

    /// Waits until another process keeps the state.
    pub(crate) async fn given_away(&self) {
        // The sender lives as long as this does.
        let _ = self.0.given_away.subscribe().wait_for(|given| *given).await;
    }

    /// For the time of one change; `None` while there may be none.
    pub(crate) fn begin_change(&self) -> Option<OwnedRwLockReadGuard<()>> {
        self.0.changes.clone().try_read_owned().ok()
    }

    /// The next connection that may be served.
    pub(crate) async fn accept<F: Future>(&self, accept: impl Fn() -> F) -> F::Output {
        let mut open = self.0.open.subscribe();
        loop {
            // The sender lives as long as this does.
            let _ = open.wait_for(|open| *open).await;
            tokio::select! {
                biased;
                _ = open.wait_for(|open| !*open) => {}
                accepted = accept() => return accepted,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_is_accepted_while_it_is_closed() {
        let gate = Gate::new(false);
        let waiting = gate.accept(|| async { 7 });
        assert!(tokio::time::timeout(Duration::from_secs(1), waiting).await.is_err());
        gate.set_open(true);
        assert_eq!(gate.accept(|| async { 7 }).await, 7);
        // One that waits already is held back as well.
        let (gone, waiting) = (gate.clone(), gate.accept(std::future::pending::<()>));
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut waiting).await.is_err());
        gone.set_open(false);
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut waiting).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_learns_at_once_that_the_state_is_given_away() {
        let gate = Gate::new(true);
        let (other, waiting) = (gate.clone(), gate.given_away());
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(Duration::from_secs(60), &mut waiting).await.is_err());
        other.give_away();
        assert!(tokio::time::timeout(Duration::ZERO, waiting).await.is_ok());
        assert!(gate.is_given_away() && !gate.is_owner());
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_waited_for_and_then_turned_away() {
        let gate = Gate::new(true);
        let change = gate.begin_change();
        assert!(change.is_some());
        let held = tokio::time::timeout(Duration::from_secs(1), gate.no_changes()).await;
        assert!(held.is_err(), "a change was under way");
        drop(change);
        let held = gate.no_changes().await;
        assert!(gate.begin_change().is_none());
        drop(held);
        assert!(gate.begin_change().is_some());
    }
}
