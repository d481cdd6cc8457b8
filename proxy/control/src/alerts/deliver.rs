//! Sends one event after the other, each with a bounded number of attempts.

use std::time::Duration;

use super::AlertQueue;
use crate::history::HistoryEvent;

/// The longest pause between two attempts.
const LONGEST: Duration = Duration::from_secs(60);

/// Runs for ever.
pub(crate) async fn deliver(queue: AlertQueue) {
    loop {
        let event = queue.next().await;
        let delivered = send(&queue, &event).await;
        if delivered == Some(false) {
            let seq = event.seq;
            tracing::error!(target: "alerts", seq, "the webhook was not told: all attempts failed");
        }
        queue.done(delivered);
    }
}

/// Whether the webhook took it; `None`: there is no webhook any more.
async fn send(queue: &AlertQueue, event: &HistoryEvent) -> Option<bool> {
    let mut attempt = 0;
    loop {
        // Each time the one in force: a reload may have mended what is wrong.
        let webhook = queue.webhook()?;
        match webhook.post(event).await {
            Ok(()) => {
                queue.note(None);
                return Some(true);
            }
            Err(error) => {
                let (seq, origin) = (event.seq, webhook.settings.url.origin());
                tracing::warn!(target: "alerts", seq, origin, attempt, error, "not taken");
                queue.note(Some(error));
            }
        }
        if attempt >= webhook.settings.retries {
            return Some(false);
        }
        tokio::time::sleep(pause(webhook.settings.backoff, attempt)).await;
        attempt += 1;
    }
}

/// `backoff` doubled with every attempt, at most [`LONGEST`].
fn pause(backoff: Duration, attempt: u32) -> Duration {
    backoff.saturating_mul(2_u32.saturating_pow(attempt)).min(LONGEST)
}

#[cfg(test)]
#[path = "deliver_tests.rs"]
mod tests;
