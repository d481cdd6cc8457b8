//! Relays a response: head, body and trailers, while the rest of the request's body may still be going out.

use std::fmt::Write;
use std::time::Duration;

use meridian_config::{Coding, ReplicationSource};
use meridian_routing::{Decision, Shown};

use super::canonical::ResponseEdits;
use super::compressed::{compressed, recode, unmeasured};
use super::heads::Answer;
use super::journey::{Failed, Journey};
use super::pace::Pace;
use super::sent_body::{Event, SentBody};
use super::splice::WORTH_IT;
use super::upstream::Upstream;
use super::{ClientGone, Downstream};
use crate::alarm::{Expired, Race};
use crate::compress::Encoder;
use crate::http1::body::{Decoder, Part, with_trailers};
use crate::http1::response::{ResponseFacts, ResponseHead};

/// A response that was passed on whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Relayed {
    pub(crate) status: u16,
    /// Body bytes, without framing.
    pub(crate) bytes: u64,
    /// What it was compressed with, and its body's bytes before that.
    pub(crate) compressed: Option<(Coding, u64)>,
    /// Whether the request's body was read to its end; if not, the client's connection cannot go on.
    pub(crate) upload_done: bool,
}

/// Whose doing it is that a response ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The endpoint broke off, or went silent.
    Endpoint,
    /// The client went away, or takes or sends nothing.
    Client,
    /// The client takes too little.
    Slow,
    /// The whole request's time is over.
    Deadline,
    /// This edge could not compress it.
    Edge,
}

/// Begins the client's response with the endpoint's final head; returns what its body is to go through.
pub(super) fn begin<D: Downstream>(
    journey: &Journey<'_>,
    decision: &Decision,
    down: &mut D,
    head: &ResponseHead<'_, '_>,
    shown: Shown,
) -> Option<Box<Encoder>> {
    let route = journey.table.route(decision.route);
    let served_by = route.expose_decision.then(|| served_by(journey, decision));
    let set_cookie = journey.sticky.and_then(|sticky| {
        let endpoint = decision.endpoint.endpoint;
        sticky.set_cookie(journey.worker, journey.table, decision, endpoint, head.status)
    });
    let given = journey.session.and_then(|session| {
        session.given(journey.worker, journey.table, decision, head.status, shown)
    });
    let recoding = route.compress.as_ref().and_then(|to| recode(journey, decision, to, head, down));
    let (recoded, encoder) = recoding.map_or((None, None), |(how, encoder)| (Some(how), encoder));
    let edits = ResponseEdits {
        route: &route.response_headers,
        recoded,
        served_by: served_by.as_deref(),
        set_cookie: set_cookie.as_deref(),
        session: given.as_ref(),
        hsts: journey.peer.hsts(route),
    };
    if recoded.is_some_and(|how| how.coding.is_some()) {
        down.begin(&unmeasured(head), &edits);
    } else {
        down.begin(head, &edits);
    }
    encoder
}

/// Passes the response on, which was begun. Its head stands at the start of what was read.
pub(super) async fn relay<D: Downstream>(
    journey: &Journey<'_>,
    decision: &Decision,
    mut upstream: Upstream,
    answer: Answer,
    down: &mut D,
    body: &mut SentBody,
) -> Result<Relayed, Failed> {
    let Answer { facts, encoder } = answer;
    upstream.consume(facts.len);
    let passed = match encoder {
        None => {
            let passed = stream(journey, decision, &mut upstream, facts, down, body).await;
            passed.map(|bytes| (bytes, None))
        }
        // Its future is large; answers that are not compressed should not carry room for it.
        Some(encoder) => {
            let way = (&mut upstream, facts);
            Box::pin(compressed(journey, decision, way, encoder, down, body)).await
        }
    };
    match passed {
        Ok((bytes, compressed)) => {
            let upload_done = body.is_sent();
            let clean = facts.keep_alive && upload_done && upstream.unread().is_empty();
            if clean {
                let user_timeout = journey.table.region(decision.region.region).user_timeout();
                journey.worker.pool.give_back(upstream, user_timeout, journey.alarm.now());
            }
            Ok(Relayed { status: facts.status, bytes, compressed, upload_done })
        }
        Err(cut) => {
            down.abort();
            Err(Failed::Cut { status: facts.status, cause: cut })
        }
    }
}

/// The body, step by step; nothing is held back while more is waited for.
async fn stream<D: Downstream>(
    journey: &Journey<'_>,
    decision: &Decision,
    upstream: &mut Upstream,
    facts: ResponseFacts,
    down: &mut D,
    body: &mut SentBody,
) -> Result<u64, Cut> {
    let idle = journey.table.service(decision.service).settings.timeouts.idle;
    let mut decoder = Decoder::new(facts.framing);
    let mut pace = Pace::new(journey.table.config.limits.min_rate, idle);
    let mut bytes = 0;
    loop {
        let used = {
            let step = decoder.step(upstream.unread()).map_err(|_| Cut::Endpoint)?;
            match step.part {
                Part::Data(data) => {
                    bytes += data.len() as u64;
                    let given = give(journey, idle, &mut pace, down.body(data)).await;
                    taken(journey, &mut pace, data.len() as u64, given)?;
                }
                Part::End(trailers) => {
                    with_trailers(trailers, |_| ()).map_err(|_| Cut::Endpoint)?;
                    let given = give(journey, idle, &mut pace, down.finish(trailers)).await;
                    taken(journey, &mut pace, 0, given)?;
                    let used = step.used;
                    upstream.consume(used);
                    return Ok(bytes);
                }
                Part::Nothing => {}
            }
            step.used
        };
        upstream.consume(used);
        if used > 0 && (decoder.done() || !upstream.unread().is_empty()) {
            continue;
        }
        let given = give(journey, idle, &mut pace, down.flush()).await;
        taken(journey, &mut pace, 0, given)?;
        let splices = journey.table.config.edge.splice && body.is_sent();
        if splices && decoder.rest().is_some_and(|rest| rest >= WORTH_IT) {
            bytes += whole(journey, idle, &mut pace, upstream, &mut decoder, down).await?;
            if decoder.done() {
                let given = give(journey, idle, &mut pace, down.finish(&[])).await;
                taken(journey, &mut pace, 0, given)?;
                return Ok(bytes);
            }
        }
        if !more(journey, idle, upstream, down, body).await? {
            if !decoder.ends_with_connection() {
                return Err(Cut::Endpoint);
            }
            let given = give(journey, idle, &mut pace, down.finish(&[])).await;
            taken(journey, &mut pace, 0, given)?;
            return Ok(bytes);
        }
    }
}

/// Carries the rest of a body of known length without looking at it, where the client's side can take it so; the bytes
/// that went.
async fn whole<D: Downstream>(
    journey: &Journey<'_>,
    idle: Duration,
    pace: &mut Pace,
    upstream: &Upstream,
    decoder: &mut Decoder,
    down: &D,
) -> Result<u64, Cut> {
    let mut bytes = 0;
    let (Some(client), Some(endpoint)) = (down.raw(), upstream.raw()) else { return Ok(bytes) };
    let Some(mut pipe) = journey.worker.pipes.take() else { return Ok(bytes) };
    while let Some(rest) = decoder.rest().filter(|rest| *rest > 0) {
        journey.alarm_after(idle);
        let moved = match journey.alarm.race(pipe.take(endpoint, rest)).await {
            Ok(taken) => taken.map_err(|_| Cut::Endpoint)?,
            Err(_) if journey.is_over() => return Err(Cut::Deadline),
            Err(_) => return Err(Cut::Endpoint),
        };
        decoder.pass(moved);
        while pipe.holds_some() {
            // A slow client is not a silent one: every write counts.
            let before = pipe.held();
            let giving = async { pipe.give(client).await.map_err(|_| ClientGone::Closed) };
            let given = give(journey, idle, pace, giving).await;
            taken(journey, pace, (before - pipe.held()) as u64, given)?;
        }
        bytes += moved;
    }
    Ok(bytes)
}

/// Waits for more of the response, sending what is left of the request meanwhile; `false` at the connection's end.
pub(super) async fn more<D: Downstream>(
    journey: &Journey<'_>,
    idle: Duration,
    upstream: &mut Upstream,
    down: &mut D,
    body: &mut SentBody,
) -> Result<bool, Cut> {
    loop {
        if body.is_deposed(upstream.holds_some()) {
            // The rest does not leave any more. An answer that has begun still counts.
            body.give_up();
            body.leave();
        }
        let for_client = body.waits_for_client();
        journey.alarm_after(body.patience(idle, journey.alarm.now()));
        let event = journey.alarm.race(body.either(upstream, down)).await;
        body.waited(for_client, journey.alarm.now());
        body.leave_if_sent(upstream.holds_some());
        match event {
            Ok(Event::Read(Ok(n))) => return Ok(n > 0),
            Ok(Event::Body(Ok(())) | Event::Sent(Ok(_))) => {}
            Ok(Event::Sent(Err(_))) if upstream.cannot_say() => return Err(Cut::Client),
            // An endpoint that has answered may stop reading: the response still counts.
            Ok(Event::Sent(Err(_))) => {
                body.give_up();
                body.leave();
            }
            Ok(Event::Body(Err(_)) | Event::Gone) => return Err(Cut::Client),
            Ok(Event::Read(Err(_))) => return Err(Cut::Endpoint),
            Err(_) if journey.is_over() => return Err(Cut::Deadline),
            Err(_) if body.waits_for_client() => return Err(Cut::Client),
            Err(_) => return Err(Cut::Endpoint),
        }
    }
}

/// Gives the client something, with a deadline; [`taken`] judges how that went.
pub(super) fn give<'j, F: Future>(
    journey: &Journey<'j>,
    idle: Duration,
    pace: &mut Pace,
    sending: F,
) -> Race<'j, F> {
    pace.begin(journey.alarm.now());
    journey.alarm_after(pace.patience(idle));
    journey.alarm.race(sending)
}

pub(super) fn taken(
    journey: &Journey<'_>,
    pace: &mut Pace,
    bytes: u64,
    result: Result<Result<(), ClientGone>, Expired>,
) -> Result<(), Cut> {
    let now = journey.alarm.now();
    match result {
        Ok(result) => {
            pace.end(now);
            pace.moved(bytes);
            result.map_err(|_| Cut::Client)
        }
        Err(_) if journey.is_over() => Err(Cut::Deadline),
        Err(_) if pace.is_spent(now) => Err(Cut::Slow),
        Err(_) => Err(Cut::Client),
    }
}

/// `eu-west-1; role=replica; lag=1.2s; reason=nearest-fresh`
fn served_by(journey: &Journey<'_>, decision: &Decision) -> String {
    let service = journey.table.service(decision.service);
    let region = decision.region.region;
    let primary = journey.table.primary(decision.service) == Some(region);
    let mut text = journey.table.region(region).settings.id.to_string();
    text.push_str(if primary { "; role=primary" } else { "; role=replica" });
    let known = service.settings.replication.source != ReplicationSource::None && !primary;
    if known
        && let Some(pool) = service.pool(region)
        && let Some((lag, _)) = pool.load.0.lag(journey.worker.clock.now())
    {
        // Writing to a String cannot fail.
        let _ = write!(text, "; lag={:.1}s", lag.as_secs_f64());
    }
    let _ = write!(text, "; reason={}", decision.region.reason.label());
    text
}
