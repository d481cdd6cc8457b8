//! `meridian explain`: which region would answer a request, and why, in words for a bad night.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;

use anyhow::{Context, bail};
use http::Method;
use http::uri::Uri;
use meridian_geoip::{CountryCode, country_facts};
use serde_json::json;

use super::{Verdict, pass_on};
use crate::admin_client::AdminClient;
use crate::cli::{ExplainArgs, Output};
use crate::reasons::{because_label, excluded_because, refused_because};
use crate::table::{Table, millis, or_dash, percent};
use crate::views::{
    CandidateView, ExplainCertificate, ExplainClientView, ExplainDecisionView, ExplainEjectedView,
    ExplainRequest, ExplainSessionView, ExplainView,
};

/// Asks the edge and prints what it would do. That a request would be refused is an answer like others.
pub(super) async fn explain(args: &ExplainArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let question = question(args)?;
    let client = AdminClient::from_args(&args.asked.edge)?;
    let answer = client.request_ok(Method::POST, "/api/v1/explain", Some(&json!(question))).await?;
    match args.asked.output.output {
        Output::Json => pass_on(&answer, out),
        Output::Table => {
            let asked = format!("{} {}", args.method, question.path.as_deref().unwrap_or("/"));
            out.write_all(tell(&answer.read()?, &asked).as_bytes())?;
            Ok(Verdict::Fine)
        }
    }
}

fn question(args: &ExplainArgs) -> anyhow::Result<ExplainRequest> {
    let given = args.path.as_deref().or(args.url.as_deref()).unwrap_or("/");
    let uri: Uri = given.parse().with_context(|| format!("{given} is neither a path nor a URL"))?;
    let authority = uri.authority().map(|authority| authority.as_str().to_owned());
    if authority.is_some() && uri.scheme().is_none() {
        bail!("{given} is neither a path (/...) nor a URL (http://...)");
    }
    let mut headers = BTreeMap::new();
    for header in &args.headers {
        let (name, value) = header
            .split_once(':')
            .with_context(|| format!("header {header:?} is not \"NAME: VALUE\""))?;
        headers.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
    }
    Ok(ExplainRequest {
        method: Some(args.method.clone()),
        host: args.host.clone().or(authority),
        path: uri.path_and_query().map(|path| path.as_str().to_owned()),
        client: args.client,
        headers,
        max_staleness_ms: args.max_staleness_ms,
        body: args.body.clone(),
        client_certificate: (!args.client_san.is_empty()).then(|| ExplainCertificate {
            san: args.client_san.clone(),
            fingerprint: String::new(),
        }),
    })
}

fn tell(view: &ExplainView, asked: &str) -> String {
    let mut said = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(said, "client    {}", tell_client(&view.client));
    let _ = writeln!(said, "request   {asked}");
    if let (Some(route), Some(service)) = (&view.route, &view.service) {
        let policy = view.policy.as_deref().unwrap_or("?");
        let _ = writeln!(said, "route     {route} -> service {service}, policy {policy}");
    }
    if let Some(access) = &view.access {
        let _ = writeln!(said, "class     {}", class(view, access));
    }
    if let Some(session) = &view.session {
        let _ = writeln!(said, "session   {}", has_seen(session));
    }
    if let Some(primary) = view.primary.as_ref().filter(|p| p.epoch > 0 || p.state != "settled") {
        let last = if primary.state == "settled" { "" } else { ", the last known one" };
        let region = primary.region.as_deref().unwrap_or("nobody");
        let (epoch, state) = (primary.epoch, &primary.state);
        let _ = writeln!(said, "primary   {state}, epoch {epoch}: {region}{last}");
    }
    if !view.candidates.is_empty() {
        let _ = write!(said, "\n{}", regions(view).render());
    }
    for endpoint in &view.ejected {
        let _ = write!(said, "\n{}", ejected(endpoint));
    }
    if !view.ejected.is_empty() {
        said.push('\n');
    }
    let _ = writeln!(said, "\n{}", verdict(view));
    said
}

fn class(view: &ExplainView, access: &str) -> String {
    let bound = view.max_staleness_ms.map(|ms| millis(ms as f64));
    match (access, bound) {
        ("write", _) => "a write: only the primary may take it".into(),
        ("read_primary", _) => "a read that the route sends to the primary".into(),
        (_, Some(bound)) => format!("a read; its data may be at most {bound} old"),
        (_, None) => "a read".into(),
    }
}

fn has_seen(session: &ExplainSessionView) -> String {
    let ExplainSessionView { epoch, position, primary } = session;
    match (primary, position) {
        (false, Some(position)) => format!("has seen position {position} of epoch {epoch}"),
        (_, Some(position)) => {
            format!(
                "has seen position {position} of epoch {epoch}; only the primary is sure to have it"
            )
        }
        (_, None) => format!("has seen epoch {epoch}; only the primary is sure to have it"),
    }
}

fn regions(view: &ExplainView) -> Table {
    let mut table = Table::new([
        ">RANK",
        "REGION",
        "ROLE",
        ">SHARE",
        ">ROUND TRIP",
        ">DISTANCE",
        ">LAG",
        ">HEALTHY",
        "DRAIN",
        "WHY NOT",
    ]);
    for candidate in &view.candidates {
        let round_trip = candidate.round_trip_ms.map(|ms| {
            let mark = if candidate.round_trip_measured { "" } else { "~" };
            format!("{mark}{}", millis(ms))
        });
        let lag = candidate.lag_ms.filter(|_| candidate.role != "primary");
        let why_not = candidate.excluded_by.as_deref().map(excluded_because);
        table.row([
            or_dash(candidate.rank),
            candidate.region.clone(),
            candidate.role.clone(),
            or_dash(candidate.share.map(percent)),
            or_dash(round_trip),
            or_dash(candidate.distance_km.map(|km| format!("{km:.0} km"))),
            match candidate.lag_age_ms.filter(|_| candidate.lag_stale && lag.is_some()) {
                Some(age) => format!("unknown for {}", millis(age as f64)),
                None => or_dash(lag.map(|ms| millis(ms as f64))),
            },
            or_dash(candidate.healthy_fraction.map(percent)),
            if candidate.drain { "drained".into() } else { "-".into() },
            why_not.unwrap_or_default().to_owned(),
        ]);
    }
    table
}

/// `ejected: ... until ...`
fn ejected(view: &ExplainEjectedView) -> String {
    let ExplainEjectedView { region, endpoint, evidence, left_ms, .. } = view;
    let until = match left_ms {
        0 => "a request on trial goes well".to_owned(),
        _ => format!("{} from now, then one request on trial", millis(*left_ms as f64)),
    };
    format!("{endpoint} in {region} is ejected: {evidence}; until {until}")
}

/// The sentence that counts.
fn verdict(view: &ExplainView) -> String {
    let generation = view.generation;
    if let Some(decision) = &view.decision {
        let ExplainDecisionView { region, reason, endpoint, .. } = decision;
        let chosen = view.candidates.iter().find(|candidate| candidate.region == *region);
        let known = chosen.filter(|c| c.role != "primary" && !c.lag_stale);
        let lag = known.and_then(|c| c.lag_ms);
        let age =
            lag.map_or_else(String::new, |ms| format!(", whose data is {} old", millis(ms as f64)));
        let why = because_label(reason);
        return format!(
            "It goes to {region}{age}, because {why}; there to {endpoint}. (Table {generation}.)"
        );
    }
    let Some(refusal) = &view.refusal else {
        return format!("Nothing was decided. (Table {generation}.)");
    };
    let again = refusal.retry_after.map_or_else(String::new, |s| format!(", Retry-After: {s}"));
    let (status, why) = (refusal.status, refused(view, &refusal.filter));
    format!("It is refused with {status}{again}. {why}. (Table {generation}.)")
}

/// Why it is refused. What took the primary away from a request that needs it has words of its own.
fn refused(view: &ExplainView, filter: &str) -> String {
    let needs_primary = view.access.as_deref().is_some_and(|access| access != "read");
    let taken = |candidate: &&CandidateView| {
        candidate.role == "primary" && candidate.excluded_by.as_deref() == Some(filter)
    };
    match view.candidates.iter().find(taken).filter(|_| needs_primary) {
        Some(primary) if filter == "residency" => {
            let region = &primary.region;
            format!(
                "It needs the primary, {region}, where this client may not be served (residency)"
            )
        }
        Some(primary) if filter == "capability" => {
            let region = &primary.region;
            format!(
                "It needs the primary, {region}, which lacks the capability that the route needs"
            )
        }
        _ => refused_because(filter).to_owned(),
    }
}

fn tell_client(client: &ExplainClientView) -> String {
    let address = &client.address;
    let Some(code) = &client.country else {
        return format!("{address}, in a country that is not known");
    };
    let facts = code.parse::<CountryCode>().ok().and_then(country_facts);
    let name = facts.map_or(code.as_str(), |facts| facts.name);
    let continent = client.continent.as_deref().unwrap_or("?");
    format!("{address} in {name} ({code}, continent {continent})")
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::Value;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(line: &str) -> ExplainArgs {
        match Cli::try_parse_from(line.split('|')).unwrap().command {
            Command::Explain(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn questions() {
        let asked =
            question(&args("meridian|explain|http://api.test:80/a?b|-H|X-Canary: 1")).unwrap();
        let expected = json!({"method": "GET", "host": "api.test:80", "path": "/a?b",
            "headers": {"x-canary": "1"}});
        assert_eq!(json!(asked), expected);
        let line = "meridian|explain|--path|/x|--host|h|--client|2001:db8::1|--method|POST";
        let expected = json!({"method": "POST", "host": "h", "path": "/x",
            "client": "2001:db8::1"});
        assert_eq!(json!(question(&args(line)).unwrap()), expected);
        assert!(question(&args("meridian|explain|no-slash")).is_err());
        assert!(question(&args("meridian|explain|/|-H|nonsense")).is_err());
    }

    fn explanation(decision: Value, refusal: Value) -> ExplainView {
        serde_json::from_value(json!({
            "generation": 12,
            "client": {"address": "133.11.0.1", "country": "JP", "continent": "AS"},
            "route": "api", "service": "app", "access": "read", "policy": "geo",
            "max_staleness_ms": 5000, "session": {"epoch": 3, "position": 77, "primary": false},
            "decision": decision, "refusal": refusal,
            "candidates": [
                {"region": "ap-southeast-1", "rank": 1, "share": 1.0, "excluded_by": null,
                 "role": "replica", "drain": false, "healthy_fraction": 1.0, "weight": 100,
                 "round_trip_ms": 316.2, "round_trip_measured": true, "distance_km": 5300.0,
                 "lag_ms": 900, "lag_age_ms": 100},
                {"region": "us-east-1", "rank": null, "share": null, "excluded_by": "drain",
                 "role": "primary", "drain": true, "healthy_fraction": 1.0, "weight": 100,
                 "round_trip_ms": 5.0, "round_trip_measured": false, "distance_km": null,
                 "lag_ms": 0, "lag_age_ms": 100}
            ],
            "ejected": [
                {"region": "us-east-1", "endpoint": "10.0.0.2:80", "cause": "consecutive-5xx",
                 "evidence": "5 answers with a 5xx in a row", "times": 1, "left_ms": 4200},
                {"region": "us-east-1", "endpoint": "10.0.0.3:80", "cause": "trial",
                 "evidence": "the request on trial got no answer", "times": 2, "left_ms": 0}
            ]
        }))
        .unwrap()
    }

    #[test]
    fn a_decision_is_told_in_words() {
        let decision = json!({"region": "ap-southeast-1", "reason": "same-continent",
            "endpoint": "10.0.0.1:80", "endpoint_reason": "only"});
        let said = tell(&explanation(decision, Value::Null), "GET /");
        for part in [
            "133.11.0.1 in Japan (JP, continent AS)",
            "route     api -> service app, policy geo",
            "at most 5.0 s old",
            "session   has seen position 77 of epoch 3\n",
            "   1  ap-southeast-1  replica   100%      316 ms   5300 km  900 ms     100%  -",
            "~5.0 ms",
            "it is drained",
            "10.0.0.2:80 in us-east-1 is ejected: 5 answers with a 5xx in a row; until 4.2 s from now, then one \
             request on trial",
            "10.0.0.3:80 in us-east-1 is ejected: the request on trial got no answer; until a request on trial goes well",
            "It goes to ap-southeast-1, whose data is 900 ms old, because it is on the client's continent; there to \
             10.0.0.1:80. (Table 12.)",
        ] {
            assert!(said.contains(part), "{part} is not in\n{said}");
        }
    }

    #[test]
    fn a_refusal_is_told_in_words() {
        let refusal = json!({"filter": "health", "status": 503, "retry_after": 2});
        let said = tell(&explanation(Value::Null, refusal), "GET /");
        let expected = "It is refused with 503, Retry-After: 2. No region that could serve it is \
                        healthy. (Table 12.)";
        assert!(said.contains(expected), "{said}");
    }
}
