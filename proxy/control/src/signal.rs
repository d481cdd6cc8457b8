//! SIGHUP.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hang-up signals from now on; none where the system gives no handler.
pub(crate) fn hangups() -> Hangups {
    let signal = signal(SignalKind::hangup()).map_err(|error| {
        tracing::error!(target: "reload", %error, "SIGHUP cannot be handled");
    });
    Hangups(signal.ok())
}

pub(crate) struct Hangups(Option<Signal>);

impl Hangups {
    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        let received = match &mut self.0 {
            Some(signal) => signal.recv().await,
            None => None,
        };
        if received.is_none() {
            std::future::pending::<()>().await;
        }
    }
}
