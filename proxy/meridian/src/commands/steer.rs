//! Commands that change where an edge sends its requests.

use std::io::Write;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::{Verdict, pass_on};
use crate::admin_client::{AdminAnswer, AdminClient};
use crate::cli::{Asked, ChangeArgs, Output, PrimaryArgs};
use crate::target::Target;
use crate::views::{
    DrainRequest, DryRunView, MutationView, PrimaryRequest, PromotionView, ReloadView, UpgradeView,
    WeightRequest,
};

pub(super) async fn drain(
    change: &ChangeArgs,
    session_grace: Option<&str>,
    dry_run: bool,
    out: &mut dyn Write,
) -> anyhow::Result<Verdict> {
    let ttl = change.ttl.clone().map(Value::from);
    let reason = change.reason.clone();
    let session_grace = session_grace.map(Value::from);
    let body = DrainRequest { drain: None, reason, ttl, session_grace, dry_run, actor: actor() };
    let answer = put(&change.asked, &change.target, "drain", json!(body)).await?;
    let target = &change.target;
    if dry_run && change.asked.output.output == Output::Table {
        out.write_all(tell_dry_run(target, &answer.read()?).as_bytes())?;
        return Ok(Verdict::Fine);
    }
    report(&change.asked, &answer, &format!("{target} is drained{}", lasting(change)), out)
}

fn tell_dry_run(target: &Target, view: &DryRunView) -> String {
    let list = |regions: &[String]| match regions {
        [] => "NO region".to_owned(),
        regions => regions.join(", "),
    };
    let mut said =
        format!("Without {target}, requests would still go to {}.\n", list(&view.regions_left));
    for (service, regions) in &view.services {
        said.push_str(&format!("  service {service}: {}\n", list(regions)));
    }
    for warning in &view.warnings {
        said.push_str(&format!("warning: {warning}\n"));
    }
    said + "Nothing was changed.\n"
}

pub(super) async fn undrain(
    asked: &Asked,
    target: &Target,
    force: bool,
    out: &mut dyn Write,
) -> anyhow::Result<Verdict> {
    if force {
        let body = DrainRequest { drain: Some(false), actor: actor(), ..DrainRequest::default() };
        let answer = put(asked, target, "drain", json!(body)).await?;
        return report(
            asked,
            &answer,
            &format!("{target} is in service, whatever the file says"),
            out,
        );
    }
    let answer = delete(asked, target, "drain").await?;
    report(asked, &answer, &format!("the drain of {target} is taken back"), out)
}

/// Without a weight: back to the file's.
pub(super) async fn weight(
    change: &ChangeArgs,
    weight: Option<u32>,
    out: &mut dyn Write,
) -> anyhow::Result<Verdict> {
    let target = &change.target;
    let Some(weight) = weight else {
        let answer = delete(&change.asked, target, "weight").await?;
        let done = format!("{target} has the file's weight");
        return report(&change.asked, &answer, &done, out);
    };
    let ttl = change.ttl.clone().map(Value::from);
    let body = WeightRequest { weight, reason: change.reason.clone(), ttl, actor: actor() };
    let answer = put(&change.asked, target, "weight", json!(body)).await?;
    let done = format!("{target} has weight {weight}{}", lasting(change));
    report(&change.asked, &answer, &done, out)
}

/// Whoever names a primary that is none all the same gets exit code 1.
pub(super) async fn primary(args: &PrimaryArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let client = AdminClient::from_args(&args.asked.edge)?;
    let request = PrimaryRequest {
        service: args.service.clone(),
        region: args.region.clone(),
        forget: args.forget,
        epoch: args.epoch,
        reason: args.reason.clone(),
        actor: actor(),
    };
    let answer = client.request_ok(Method::POST, "/api/v1/primary", Some(&json!(request))).await?;
    let view: PromotionView = answer.read()?;
    match args.asked.output.output {
        Output::Json => drop(pass_on(&answer, out)?),
        Output::Table => out.write_all(tell_primary(&view, args.forget).as_bytes())?,
    }
    let done = args.forget || view.region.is_some();
    Ok(if done { Verdict::Fine } else { Verdict::NotFine })
}

fn tell_primary(view: &PromotionView, forgotten: bool) -> String {
    let PromotionView { service, region, epoch, state, warnings, generation } = view;
    let warnings: String = warnings.iter().map(|why| format!("warning: {why}\n")).collect();
    let done = match region {
        _ if forgotten => format!("the epochs of {service} are forgotten"),
        Some(region) => format!("{region} is the primary of {service}, in epoch {epoch}"),
        None => format!("{service} has NO primary: epoch {epoch} is {state}"),
    };
    format!("{warnings}{done} (table {generation})\n")
}

pub(super) async fn reload(asked: &Asked, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let client = AdminClient::from_args(&asked.edge)?;
    let answer = client.request_ok(Method::POST, "/api/v1/reload", None).await?;
    if asked.output.output == Output::Json {
        return pass_on(&answer, out);
    }
    let ReloadView { generation, message, warnings, .. } = answer.read()?;
    for warning in warnings {
        writeln!(out, "warning: {warning}")?;
    }
    writeln!(out, "{message} (table {generation})")?;
    Ok(Verdict::Fine)
}

/// A new process starts, and serves for a moment, before this is answered.
const UPGRADED_WITHIN: Duration = Duration::from_secs(45);

pub(super) async fn upgrade(asked: &Asked, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let client = AdminClient::from_args(&asked.edge)?.with_patience(UPGRADED_WITHIN);
    let answer = client.request_ok(Method::POST, "/api/v1/upgrade", None).await?;
    if asked.output.output == Output::Json {
        return pass_on(&answer, out);
    }
    let UpgradeView { pid } = answer.read()?;
    writeln!(out, "process {pid} has taken over")?;
    Ok(Verdict::Fine)
}

/// Who we are, as far as the environment says; for the audit trail.
pub(super) fn actor() -> Option<String> {
    let names = ["SUDO_USER", "USER", "LOGNAME"].into_iter();
    names.filter_map(|name| std::env::var(name).ok()).find(|name| !name.is_empty())
}

fn lasting(change: &ChangeArgs) -> String {
    change.ttl.as_ref().map_or_else(String::new, |ttl| {
        let bare = ttl.bytes().all(|b| b.is_ascii_digit());
        format!(" for {ttl}{}", if bare { "s" } else { "" })
    })
}

async fn put(
    asked: &Asked,
    target: &Target,
    what: &str,
    body: Value,
) -> anyhow::Result<AdminAnswer> {
    let client = AdminClient::from_args(&asked.edge)?;
    let path = format!("{}/{what}", target.path());
    client.request_ok(Method::PUT, &path, Some(&body)).await
}

async fn delete(asked: &Asked, target: &Target, what: &str) -> anyhow::Result<AdminAnswer> {
    let client = AdminClient::from_args(&asked.edge)?;
    client.request_ok(Method::DELETE, &format!("{}/{what}", target.path()), None).await
}

/// What was done, and from which table on.
fn report(
    asked: &Asked,
    answer: &AdminAnswer,
    done: &str,
    out: &mut dyn Write,
) -> anyhow::Result<Verdict> {
    if asked.output.output == Output::Json {
        return pass_on(answer, out);
    }
    let MutationView { generation, changed, warnings } = answer.read()?;
    for warning in warnings {
        writeln!(out, "warning: {warning}")?;
    }
    let already = if changed { "in effect" } else { "nothing had to be changed" };
    writeln!(out, "{done} ({already}, table {generation})")?;
    Ok(Verdict::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_run_names_what_is_left() {
        let view: DryRunView = serde_json::from_value(json!({
            "dry_run": true, "generation": 3, "regions_left": ["us-east-1"],
            "services": {"app": ["us-east-1"], "ai": []}, "services_without_region": ["ai"],
            "routes_without_region": ["ai"], "share_without_region": 0.5, "warnings": ["service ai would have no region"]
        }))
        .unwrap();
        let expected = "\
Without eu-west-1, requests would still go to us-east-1.
  service ai: NO region
  service app: us-east-1
warning: service ai would have no region
Nothing was changed.
";
        assert_eq!(tell_dry_run(&Target::Region("eu-west-1".into()), &view), expected);
    }
}
