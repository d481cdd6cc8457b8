//! Moves of the primary.

use serde::{Deserialize, Serialize};
use serde_json::Value;

views! {
    /// `POST /api/v1/services/{service}/failover`, `failback` or `switchover` with `dry_run`
    PlanView {
        /// Always true.
        dry_run: bool,
        /// failover, failback or switchover.
        operation: String,
        /// The service.
        service: String,
        /// The last known primary.
        from: Option<String>,
        /// The region that would be promoted; absent: there is none.
        to: Option<String>,
        /// The epoch in force; the new primary's is higher.
        epoch: u64,
        /// What would be done, in order.
        steps: Vec<String>,
        /// What must hold, and whether it does.
        checks: Vec<CheckView>,
        /// Why it would be refused; empty: it would be made.
        refused: Vec<String>,
        /// It is given up after so long, milliseconds.
        timeout_ms: u64,
        /// What an operator should know before.
        warnings: Vec<String>,
    }

    /// One condition of an operation.
    CheckView {
        /// Its name.
        guard: String,
        /// Whether it holds.
        passed: bool,
        /// Whether `force` may override it.
        overridable: bool,
        /// What was found.
        detail: String,
    }

    /// `GET /api/v1/services/{service}/operation`, and the answer to a failover, failback or switchover
    OperationView {
        /// Ascending; anew with each process.
        id: u64,
        /// failover, failback or switchover.
        operation: String,
        /// The service.
        service: String,
        /// The primary before.
        from: Option<String>,
        /// The region that is to be promoted.
        to: String,
        /// The epoch before.
        epoch: u64,
        /// Who asked; `meridian` if nobody did.
        actor: String,
        /// Why.
        reason: String,
        /// Guards were overridden.
        forced: bool,
        /// running, done, failed or cancelled.
        state: String,
        /// In order; the last one is under way while the operation runs.
        steps: Vec<StepView>,
        /// When it began, unix milliseconds.
        started_unix_ms: u64,
        /// How long it has taken so far, or took, milliseconds.
        took_ms: u64,
        /// It is given up after so long, milliseconds.
        timeout_ms: u64,
        /// How long this edge let no write through, milliseconds; absent: it let them through.
        paused_ms: Option<u64>,
        /// How it ended, in words.
        outcome: Option<String>,
        /// Who is the primary now; absent: nobody, or nobody knows.
        primary: Option<String>,
    }

    /// A step of an operation.
    StepView {
        /// close, drain, catch-up, hook, promote, go-back.
        step: String,
        /// From the operation's start, milliseconds.
        at_ms: u64,
        /// What came of it; absent: it is under way.
        result: Option<String>,
    }

    /// `POST /api/v1/primary`
    PromotionView {
        /// The service.
        service: String,
        /// Its primary; absent: there is none until somebody says so.
        region: Option<String>,
        /// Its epoch.
        epoch: u64,
        /// What is known of it now: settled, unknown or contested.
        state: String,
        /// What is left for the operator to do.
        warnings: Vec<String>,
        /// The table generation in which it is in effect.
        generation: u64,
    }
}

/// The body of `POST /api/v1/services/{service}/failover`, `failback` or `switchover`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperationRequest {
    /// The region to promote; absent: the best one. Not for failback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who asks, as claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Overrides the guards that may be overridden.
    #[serde(default)]
    pub force: bool,
    /// Only tells what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Given up after so long: seconds, or `"90s"`, `"5m"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Value>,
}

/// The body of `POST /api/v1/primary`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrimaryRequest {
    /// The service; may be left out if there is one only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The region; absent only with `forget`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Forgets what is known of the service's epochs, so that they are learned anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forget: bool,
    /// Higher than any epoch so far; absent: the region's own, the contested one too, else the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Why.
    pub reason: String,
    /// Who asks, as claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}
