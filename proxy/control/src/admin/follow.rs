//! Events as they happen, as server-sent events (the HTML standard, 9.2).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, broadcast, mpsc};

use super::Admin;
use super::answer::{Answer, AnswerBody, Problem, with_body};
use super::views::EventView;

/// Those who may follow at a time.
pub(super) const FOLLOWERS: usize = 32;
/// Events that may wait for one of them.
const QUEUE: usize = 64;
/// A follower that takes nothing for so long, with its queue full, is let go.
const STALLED: Duration = Duration::from_secs(10);
/// A comment keeps idle connections open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

impl Admin {
    pub(super) fn follow(&self) -> Result<Answer, Problem> {
        let permit = Semaphore::try_acquire_owned(self.followers.clone()).map_err(|_| {
            let message = "too many follow events already";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_followers", message)
        })?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let events = self.feed.follow();
        tokio::spawn(async move {
            pass_on(events, sender).await;
            drop(permit);
        });
        Ok(with_body(StatusCode::OK, "text/event-stream", AnswerBody::Stream(receiver)))
    }
}

async fn pass_on(mut events: broadcast::Receiver<Arc<EventView>>, sender: mpsc::Sender<Bytes>) {
    // So that a follower knows at once that it is connected.
    let mut next = Some(Bytes::from_static(b": connected\n\n"));
    loop {
        if let Some(bytes) = next.take()
            && sender.send_timeout(bytes, STALLED).await.is_err()
        {
            return;
        }
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => next = frame(&event),
                Err(RecvError::Lagged(missed)) => {
                    let text = format!("event: missed\ndata: {{\"missed\":{missed}}}\n\n");
                    next = Some(text.into());
                }
                Err(RecvError::Closed) => return,
            },
            () = tokio::time::sleep(KEEP_ALIVE) => next = Some(Bytes::from_static(b":\n\n")),
            () = sender.closed() => return,
        }
    }
}

fn frame(event: &EventView) -> Option<Bytes> {
    let data = serde_json::to_string(event).ok()?;
    Some(format!("id: {}\nevent: {}\ndata: {data}\n\n", event.id, event.kind).into())
}
