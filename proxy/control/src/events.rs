//! What happens, for those who follow: a bounded broadcast that never holds anybody up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde_json::Value;
use tokio::sync::broadcast;

use crate::admin::views::EventView;
use crate::clock::unix_ms;

/// A follower that is so many events behind loses the oldest and is told so.
const KEPT: usize = 256;

/// Tells everybody who follows.
#[derive(Clone, Debug)]
pub(crate) struct Feed(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sender: broadcast::Sender<Arc<EventView>>,
    next: AtomicU64,
}

impl Feed {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner { sender: broadcast::channel(KEPT).0, next: AtomicU64::new(1) }))
    }

    /// Tells of an event of `kind`.
    pub(crate) fn tell(&self, kind: &str, generation: impl Into<Option<u64>>, data: Value) {
        let id = self.0.next.fetch_add(1, Relaxed);
        let event = EventView {
            id,
            unix_ms: unix_ms(),
            kind: kind.to_owned(),
            generation: generation.into(),
            data,
        };
        // That nobody follows is the ordinary case.
        let _ = self.0.sender.send(Arc::new(event));
    }

    /// Everything from now on.
    pub(crate) fn follow(&self) -> broadcast::Receiver<Arc<EventView>> {
        self.0.sender.subscribe()
    }
}
