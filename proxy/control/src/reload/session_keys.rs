//! The keys of affinity cookies are taken over when their file changes.

use super::{REPLACEMENT, Reloader};
use crate::sessions::OpenedKeys;

impl Reloader {
    /// Takes over keys that have changed. While the file cannot be used, the keys in force stay.
    pub(super) async fn reload_session_keys(&mut self) {
        let config = self.table.load().config.clone();
        if config.edge.session_secret_file.is_none() {
            return;
        }
        let mut opened = OpenedKeys::of(&config).await;
        if opened.is_err() {
            // Somebody is replacing it.
            tokio::time::sleep(REPLACEMENT).await;
            opened = OpenedKeys::of(&config).await;
        }
        match opened {
            Ok(opened) => {
                if self.key_file.replace(opened) {
                    tracing::info!(target: "reload", "the keys of affinity cookies are others now");
                    self.feed.tell("session_keys_reloaded", None, serde_json::json!({}));
                }
            }
            Err(error) => {
                if self.key_file.failed.replace(error.clone()).as_ref() != Some(&error) {
                    tracing::error!(target: "reload", error, "the running session keys stay");
                    let data = serde_json::json!({ "error": error });
                    self.feed.tell("session_keys_refused", None, data);
                }
            }
        }
    }
}
