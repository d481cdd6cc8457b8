//! The history of regions, as the admin endpoint tells it.

use std::time::Duration;

use serde_json::Value;

use crate::edge::Meridian;
use crate::wait::poll;

const SOON: Duration = Duration::from_secs(20);

impl Meridian {
    /// All that is kept and that these filters (`region=eu&since=1h`) take.
    ///
    /// # Panics
    /// If there is no answer, or it is no page of the history.
    #[track_caller]
    pub fn history(&self, filters: &str) -> Vec<Value> {
        let page = self.admin().json(&format!("/api/v1/history?limit=1000&{filters}"));
        page["events"].as_array().cloned().expect("a list")
    }

    /// Waits until a region has come to be `to`; the newest event that says so.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn became(&self, region: &str, to: &str) -> Value {
        let events = || self.history(&format!("region={region}")).into_iter().rev();
        let found = poll(SOON, || events().find(|e| e["region"] == region && e["to"] == to));
        found.unwrap_or_else(|| panic!("{region} is not {to}: {:#?}", self.history("")))
    }
}
