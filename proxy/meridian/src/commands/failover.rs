//! `meridian failover`, `failback`, `switchover`: begins a move of the primary and tells how it goes, to its end.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, bail};
use http::Method;
use serde_json::{Value, json};

use super::{Verdict, pass_on, steer};
use crate::admin_client::{AdminAnswer, AdminClient};
use crate::cli::{OperationArgs, Output};
use crate::percent;
use crate::table::millis;
use crate::views::{OperationRequest, OperationView, PlanView, ServiceView};

/// How often the edge is asked how it goes.
const LOOK: Duration = Duration::from_millis(100);

/// Begins an operation, and goes on until it has ended; an interruption gives it up.
pub(super) async fn operate(
    operation: &str,
    to: Option<String>,
    args: &OperationArgs,
    out: &mut dyn Write,
) -> anyhow::Result<Verdict> {
    let client = AdminClient::from_args(&args.asked.edge)?;
    let service = service(args, &client).await?;
    let path = format!("/api/v1/services/{}", percent::escape(&service));
    let request = OperationRequest {
        to,
        reason: args.reason.clone(),
        actor: steer::actor(),
        force: args.force,
        dry_run: args.dry_run,
        timeout: args.timeout.clone().map(Value::from),
    };
    let begin = format!("{path}/{operation}");
    let answer = client.request_ok(Method::POST, &begin, Some(&json!(request))).await?;
    let output = args.asked.output.output;
    if args.dry_run {
        let plan: PlanView = answer.read()?;
        match output {
            Output::Json => drop(pass_on(&answer, out)?),
            Output::Table => out.write_all(tell_plan(&plan).as_bytes())?,
        }
        return Ok(if plan.refused.is_empty() { Verdict::Fine } else { Verdict::NotFine });
    }
    let began: OperationView = answer.read()?;
    let (answer, ended) = follow(&client, &path, began.id, output, out).await?;
    match output {
        Output::Json => drop(pass_on(&answer, out)?),
        Output::Table => out.write_all(tell_end(&ended).as_bytes())?,
    }
    Ok(if ended.state == "done" { Verdict::Fine } else { Verdict::NotFine })
}

/// The one that was named, or the only one.
async fn service(args: &OperationArgs, client: &AdminClient) -> anyhow::Result<String> {
    if let Some(service) = &args.service {
        return Ok(service.clone());
    }
    let answer = client.request_ok(Method::GET, "/api/v1/services", None).await?;
    let names: Vec<String> =
        answer.read::<Vec<ServiceView>>()?.into_iter().map(|service| service.name).collect();
    match <[String; 1]>::try_from(names) {
        Ok([only]) => Ok(only),
        Err(names) => bail!("which service? --service {}", names.join(", or --service ")),
    }
}

/// Tells each step once it is over, until there is no more.
async fn follow(
    client: &AdminClient,
    path: &str,
    id: u64,
    output: Output,
    out: &mut dyn Write,
) -> anyhow::Result<(AdminAnswer, OperationView)> {
    let path = format!("{path}/operation");
    let mut told = 0;
    let mut given_up = false;
    loop {
        let answer = client.request_ok(Method::GET, &path, None).await?;
        let view: OperationView = answer.read()?;
        if view.id != id {
            bail!("another operation has begun: see meridian history for how this one ended");
        }
        let over = view.steps.iter().take_while(|step| step.result.is_some()).count();
        if output == Output::Table {
            for step in &view.steps[told.min(over)..over] {
                let result = step.result.as_deref().unwrap_or_default();
                writeln!(out, "{:>8}  {}: {result}", millis(step.at_ms as f64), step.step)?;
            }
            out.flush()?;
        }
        told = over;
        if view.state != "running" {
            return Ok((answer, view));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            interrupted = tokio::signal::ctrl_c(), if !given_up => {
                interrupted.context("no signals")?;
                given_up = true;
                // It may have ended just now.
                client.ask(Method::DELETE, &path, None).await?;
            }
        }
    }
}

fn tell_end(view: &OperationView) -> String {
    let OperationView { operation, service, state, took_ms, .. } = view;
    let outcome = view.outcome.as_deref().unwrap_or_default();
    let paused = view.paused_ms.map_or_else(String::new, |paused_ms| {
        format!(", writes waited for {} at most", millis(paused_ms as f64))
    });
    let took = millis(*took_ms as f64);
    format!("{operation} of {service} {state} after {took}{paused}: {outcome}\n")
}

fn tell_plan(plan: &PlanView) -> String {
    let shown = |region: &Option<String>| region.clone().unwrap_or_else(|| "nobody".to_owned());
    let (from, to) = (shown(&plan.from), shown(&plan.to));
    let timeout = millis(plan.timeout_ms as f64);
    let mut said = format!(
        "{} of {} from {from} (epoch {}) to {to}, given up after {timeout}\n",
        plan.operation, plan.service, plan.epoch
    );
    for step in &plan.steps {
        said.push_str(&format!("  {step}\n"));
    }
    for check in &plan.checks {
        let mark = match (check.passed, check.overridable) {
            (true, _) => "ok      ",
            (false, true) => "--force ",
            (false, false) => "NO      ",
        };
        said.push_str(&format!("{mark}{}: {}\n", check.guard, check.detail));
    }
    for warning in &plan.warnings {
        said.push_str(&format!("warning: {warning}\n"));
    }
    for reason in plan.refused.iter().filter(|_| plan.checks.is_empty()) {
        said.push_str(&format!("NO      {reason}\n"));
    }
    let verdict = if plan.refused.is_empty() { "It would be done" } else { "It would be REFUSED" };
    said + verdict + ". Nothing was changed.\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_what_is_in_the_way() {
        let plan: PlanView = serde_json::from_value(json!({
            "dry_run": true, "operation": "switchover", "service": "app", "from": "us", "to": "eu",
            "epoch": 4, "steps": ["close: x"], "timeout_ms": 9000, "warnings": ["w"],
            "refused": ["cooldown: too soon"],
            "checks": [
                {"guard": "candidate-healthy", "passed": true, "overridable": false, "detail": "1"},
                {"guard": "cooldown", "passed": false, "overridable": true, "detail": "too soon"},
                {"guard": "hook", "passed": false, "overridable": false, "detail": "gone"}]
        }))
        .unwrap();
        let expected = "\
switchover of app from us (epoch 4) to eu, given up after 9.0 s
  close: x
ok      candidate-healthy: 1
--force cooldown: too soon
NO      hook: gone
warning: w
It would be REFUSED. Nothing was changed.
";
        assert_eq!(tell_plan(&plan), expected);
    }
}
