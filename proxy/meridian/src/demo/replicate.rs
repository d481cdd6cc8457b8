//! A replica pulls its primary's log over HTTP.
//!
//! Promises: keeps trying while the primary is away; applies each write once its lag has passed.
//! Refuses to know: who else reads the log.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use http::Request;
use http_body_util::Full;

use super::region::State;
use super::store::Page;
use crate::http_client::{Address, Connection};

/// How often the log is pulled; the lag is met to within this.
const PULL_EVERY: Duration = Duration::from_millis(50);
const PULL_DEADLINE: Duration = Duration::from_secs(2);
const MAX_PAGE_BYTES: usize = 128 << 20;

/// Pulls for ever.
pub(super) async fn follow(state: Arc<State>, primary: String) {
    let address = Address::Tcp(primary);
    let mut connection = None;
    let mut ticks = tokio::time::interval(PULL_EVERY);
    loop {
        ticks.tick().await;
        match pull(&state, &address, &mut connection).await {
            Ok(()) => state.heard_from_primary(),
            Err(error) => {
                connection = None;
                tracing::debug!(error = %format!("{error:#}"), region = %state.spec.id, "no log");
            }
        }
        state
            .store()
            .apply_due(state.lag().saturating_sub(PULL_EVERY), meridian_control::unix_ms());
    }
}

async fn pull(
    state: &State,
    address: &Address,
    connection: &mut Option<Connection>,
) -> anyhow::Result<()> {
    let after = state.store().received();
    let request = Request::get(format!("/_log?after={after}"))
        .header(http::header::HOST, address.authority())
        .body(Full::default())?;
    let open = match connection {
        Some(open) if open.is_ready() => open,
        other => other.insert(Connection::open(address, PULL_DEADLINE).await?),
    };
    let answer = open.send(request, PULL_DEADLINE, MAX_PAGE_BYTES).await?;
    ensure!(answer.status().is_success(), "{address} answers {}", answer.status());
    let page: Page = serde_json::from_slice(answer.body()).context("not a page of the log")?;
    let epoch = state.spec.epoch;
    ensure!(page.epoch == epoch, "{address} is in epoch {}, we are in {epoch}", page.epoch);
    state.store().receive(page);
    Ok(())
}
