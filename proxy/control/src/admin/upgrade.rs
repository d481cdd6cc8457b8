//! Asks the process to hand over to a new binary.

use http::StatusCode;
use tokio::sync::{mpsc, oneshot};

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

/// One at a time; the next one is told to wait.
pub(crate) fn upgrades() -> (mpsc::Sender<UpgradeRequest>, mpsc::Receiver<UpgradeRequest>) {
    mpsc::channel(1)
}

impl Admin {
    pub(super) async fn upgrade(&self, caller: &Caller) -> Result<Answer, Problem> {
        let (done, handed) = oneshot::channel();
        let request = UpgradeRequest { actor: caller.actor(None), done };
        self.upgrades.try_send(request).map_err(|error| match error {
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
