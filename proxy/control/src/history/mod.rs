//! The history of regions: every change of state, with what set it off, how long the one before had lasted and what it
//! has cost.
//!
//! Promises: whoever records an event never waits, for a disk or for anybody who is told; what is lost on the way to
//! the file is counted; after a restart the history goes on where the file ends. Refuses to know: why the keeper does
//! what it does.

mod changes;
mod event;
mod evidence;
mod file;
mod observer;
mod ring;
mod tally;

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use meridian_config::Config;
use meridian_routing::RoutingTable;
use serde_json::json;

pub use event::{Affected, Cause, ChangeKindWord, HistoryEvent, OperationRecord, RegionState};
pub(crate) use observer::Observer;
pub(crate) use ring::{Page, Query};
pub(crate) use tally::Tally;

use crate::admin::Gate;
use crate::alerts::AlertQueue;
use crate::clock::unix_ms;
use crate::events::Feed;
use evidence::bounded;
use file::{FileStatus, HistoryFile, restore};
use ring::Ring;

/// Records events and shows what was recorded.
#[derive(Clone, Debug)]
pub(crate) struct History(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kept: Mutex<Kept>,
    file: Option<HistoryFile>,
    file_status: Arc<FileStatus>,
    feed: Feed,
    alerts: AlertQueue,
    gate: Gate,
}

#[derive(Debug)]
struct Kept {
    ring: Ring,
    tally: Tally,
    configuration: Configuration,
}

/// Whether the file is the one in force, and since when.
#[derive(Debug)]
struct Configuration {
    accepted: bool,
    since: Instant,
}

/// How the history stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HistoryStatus {
    /// Events in memory.
    pub(crate) kept: usize,
    pub(crate) oldest: Option<u64>,
    /// The number of the newest event; 0: there was none.
    pub(crate) newest: u64,
    /// Events that are not in the file.
    pub(crate) not_written: u64,
    pub(crate) last_error: Option<String>,
}

impl History {
    /// Restores what an earlier process has left in `directory`, and goes on with it. What cannot be restored or written
    /// is no reason not to start. Blocks.
    pub(crate) fn open(
        config: &Config,
        directory: &Path,
        accepted: bool,
        feed: Feed,
        alerts: AlertQueue,
        gate: Gate,
    ) -> Self {
        let settings = &config.history;
        let file_status = Arc::new(FileStatus::default());
        let (mut restored, mut file) = (Vec::new(), None);
        if settings.file_bytes > 0 {
            match restore(directory, settings.entries) {
                Ok(found) if found.damaged > 0 => {
                    let damaged = found.damaged;
                    tracing::warn!(target: "history", damaged, "lines that cannot be understood");
                    restored = found.events;
                }
                Ok(found) => restored = found.events,
                Err(error) => {
                    tracing::error!(target: "history", error, "the history cannot be restored");
                }
            }
            file = HistoryFile::start(directory, settings.file_bytes, file_status.clone())
                .inspect_err(|error| {
                    tracing::error!(target: "history", %error, "the history is not written");
                })
                .ok();
        }
        let kept = Kept {
            ring: Ring::new(settings.entries, restored),
            tally: Tally::default(),
            configuration: Configuration { accepted, since: Instant::now() },
        };
        Self(Arc::new(Inner { kept: Mutex::new(kept), file, file_status, feed, alerts, gate }))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers events and hands them on, in order. Never waits.
    pub(crate) fn record(&self, events: Vec<HistoryEvent>) {
        if events.is_empty() {
            return;
        }
        let mut kept = self.kept();
        for event in events {
            self.record_one(&mut kept, event);
        }
    }

    fn record_one(&self, kept: &mut Kept, event: HistoryEvent) {
        kept.tally.count(&event);
        let event = kept.ring.push(event);
        log(&event);
        self.0.feed.tell("history", event.generation, json!(*event));
        if self.0.gate.is_given_away() {
            // Another process tells of what happens now.
            return;
        }
        if let Some(file) = &self.0.file {
            file.write(&event);
        }
        self.0.alerts.offer(&event);
    }

    /// Records that a configuration file was refused, or that it is the one in force again.
    pub(crate) fn configuration(
        &self,
        result: Result<&str, &str>,
        actor: &str,
        table: &RoutingTable,
    ) {
        let mut kept = self.kept();
        let accepted = result.is_ok();
        if accepted && kept.configuration.accepted {
            return;
        }
        let word = |accepted| if accepted { "accepted" } else { "refused" };
        let event = HistoryEvent {
            seq: 0,
            unix_ms: unix_ms(),
            edge: table.config.edge.id.clone(),
            kind: ChangeKindWord::Configuration,
            service: None,
            region: None,
            from: word(kept.configuration.accepted).to_owned(),
            to: word(accepted).to_owned(),
            cause: Cause::Configuration,
            evidence: bounded(result.unwrap_or_else(|error| error)),
            actor: actor.to_owned(),
            lasted_ms: kept.configuration.since.elapsed().as_millis() as u64,
            affected: Affected::default(),
            moved_to: None,
            operation: None,
            generation: table.generation,
        };
        kept.configuration = Configuration { accepted, since: Instant::now() };
        self.record_one(&mut kept, event);
    }

    /// Records that an authority does not issue a certificate, or does so again.
    pub(crate) fn certificate(
        &self,
        (from, to): (&str, &str),
        evidence: &str,
        lasted_ms: u64,
        table: &RoutingTable,
    ) {
        self.record(vec![HistoryEvent {
            seq: 0,
            unix_ms: unix_ms(),
            edge: table.config.edge.id.clone(),
            kind: ChangeKindWord::Certificate,
            service: None,
            region: None,
            from: from.to_owned(),
            to: to.to_owned(),
            cause: Cause::Authority,
            evidence: bounded(evidence),
            actor: "meridian".to_owned(),
            lasted_ms,
            affected: Affected::default(),
            moved_to: None,
            operation: None,
            generation: table.generation,
        }]);
    }

    pub(crate) fn page(&self, query: &Query) -> Page {
        self.kept().ring.page(query)
    }

    /// Counts of what the table still names.
    pub(crate) fn tally(&self, table: &RoutingTable) -> Tally {
        let mut kept = self.kept();
        kept.tally.retain(table);
        kept.tally.clone()
    }

    pub(crate) fn status(&self) -> HistoryStatus {
        let kept = self.kept();
        HistoryStatus {
            kept: kept.ring.len(),
            oldest: kept.ring.oldest(),
            newest: kept.ring.newest(),
            not_written: self.0.file_status.dropped.load(Relaxed),
            last_error: self.0.file_status.last_error(),
        }
    }

    /// Resolves once the file has everything so far, or nothing more can be done.
    pub(crate) async fn flush(&self) {
        if let Some(file) = &self.0.file {
            file.flush().await;
        }
    }
}

fn log(event: &HistoryEvent) {
    let HistoryEvent { seq, from, to, actor, evidence, lasted_ms, .. } = event;
    let (service, region) = (event.service.as_deref(), event.region.as_deref());
    let kind = event.kind.label();
    if matches!(&**to, "down" | "degraded" | "refused" | "failing") {
        tracing::warn!(
            target: "history", seq, kind, service, region, from, to, lasted_ms, actor, evidence, "change"
        );
    } else {
        tracing::info!(
            target: "history", seq, kind, service, region, from, to, lasted_ms, actor, evidence, "change"
        );
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An event of a service in a region that came to be `to`.
    pub(crate) fn event(service: Option<&str>, region: Option<&str>, to: &str) -> HistoryEvent {
        HistoryEvent {
            seq: 0,
            unix_ms: 1,
            edge: "edge-1".into(),
            kind: ChangeKindWord::State,
            service: service.map(Into::into),
            region: region.map(Into::into),
            from: "healthy".into(),
            to: to.into(),
            cause: Cause::Health,
            evidence: "1 of 1 endpoints down: 10.0.0.1:80 \"refused\"\n".into(),
            actor: "meridian".into(),
            lasted_ms: 5,
            affected: Affected { answered: 1, failed: 2, retried: 3, spilled: 4, refused: 5 },
            moved_to: Some("us".into()),
            operation: None,
            generation: 9,
        }
    }
}
