//! The phases of the process, from start to stop; one owner moves them on, everybody may wait for them.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Where the process is in its life. Phases only ever advance.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Listeners are not open yet.
    #[default]
    Starting,
    /// Ordinary service.
    Serving,
    /// Not ready any more, still accepting.
    LameDuck,
    /// Not accepting; what is in flight may finish.
    Draining,
    /// Over.
    Stopped,
}

impl Phase {
    /// As the API and logs write it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::LameDuck => "lame_duck",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

/// Moves the phases on.
#[derive(Debug, Default)]
pub struct Lifecycle(watch::Sender<Phase>, Arc<OnceLock<Instant>>);

impl Lifecycle {
    /// In [`Phase::Starting`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters a phase. Returns `false`, and changes nothing, if the process is there or further already.
    pub fn enter(&self, phase: Phase) -> bool {
        self.0.send_if_modified(|current| {
            let forward = *current < phase;
            if forward {
                if phase == Phase::Serving {
                    self.1.get_or_init(Instant::now);
                }
                *current = phase;
            }
            forward
        })
    }

    /// The phase now.
    pub fn current(&self) -> Phase {
        *self.0.borrow()
    }

    /// A handle to read and wait with.
    pub fn reader(&self) -> PhaseReader {
        PhaseReader(self.0.subscribe(), self.1.clone())
    }
}

/// Reads the phase and waits for later ones.
#[derive(Clone, Debug)]
pub struct PhaseReader(watch::Receiver<Phase>, Arc<OnceLock<Instant>>);

impl PhaseReader {
    /// The phase now.
    pub fn current(&self) -> Phase {
        *self.0.borrow()
    }

    /// How long ago the process began to serve; `None` if it never did.
    pub fn serving_for(&self) -> Option<Duration> {
        self.1.get().map(Instant::elapsed)
    }

    /// Waits until the process is in `phase` or further. When the owner is gone, it counts as
    /// [`Phase::Stopped`].
    pub async fn reached(&mut self, phase: Phase) -> Phase {
        match self.0.wait_for(|current| *current >= phase).await {
            Ok(current) => *current,
            Err(_) => Phase::Stopped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_only_advance_and_waiters_see_later_ones() {
        let lifecycle = Lifecycle::new();
        let mut reader = lifecycle.reader();
        assert_eq!(reader.serving_for(), None);
        assert!(lifecycle.enter(Phase::Serving));
        assert!(reader.serving_for().is_some());
        assert!(lifecycle.enter(Phase::Draining));
        assert!(!lifecycle.enter(Phase::Serving));
        assert_eq!(reader.reached(Phase::LameDuck).await, Phase::Draining);
        drop(lifecycle);
        assert_eq!(reader.reached(Phase::Stopped).await, Phase::Stopped);
    }
}
