//! Asks the process to hand over to a new binary.

use std::sync::Arc;

use http::StatusCode;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::Admin;
use super::access::Caller;
use super::answer::{Answer, Problem, json};
use super::views::UpgradeView;

/// Somebody wants a new binary to take over.
#[derive(Debug)]
pub struct UpgradeRequest {
    /// Who.
    pub actor: String,
    /// The new process's id, or why there is none.
    pub done: oneshot::Sender<Result<u32, String>>,
}

/// Asks for upgrades: one at a time, the next one is told to wait.
#[derive(Clone, Debug)]
pub(crate) struct Upgrades {
    requests: mpsc::Sender<UpgradeRequest>,
    /// Nobody waits for an answer.
    free: Arc<Semaphore>,
}

/// The queue of requests and the way to it.
pub(crate) fn upgrades() -> (Upgrades, mpsc::Receiver<UpgradeRequest>) {
    let (requests, receiver) = mpsc::channel(1);
    (Upgrades { requests, free: Arc::new(Semaphore::new(1)) }, receiver)
}

impl Admin {
    pub(super) async fn upgrade(&self, caller: &Caller) -> Result<Answer, Problem> {
        // A request that waits behind one that succeeds would end with this process, and never be answered.
        let _only = self.upgrades.free.try_acquire().map_err(|_| busy())?;
        // One that a signal has begun.
        drop(self.gate.begin_change().ok_or_else(busy)?);
        let (done, handed) = oneshot::channel();
        let request = UpgradeRequest { actor: caller.actor(None), done };
        self.upgrades.requests.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => busy(),
            mpsc::error::TrySendError::Closed(_) => Problem::stopping(),
        })?;
        match handed.await {
            Ok(Ok(pid)) => Ok(json(&UpgradeView { pid })),
            Ok(Err(why)) => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                Err(Problem::new(status, "upgrade_failed", why))
            }
            Err(_) => Err(Problem::stopping()),
        }
    }
}

/// What is told to whoever wants a change while another process is about to take over.
pub(super) fn busy() -> Problem {
    let message = "another process is taking over: try again in a few seconds";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "upgrading", message)
}
