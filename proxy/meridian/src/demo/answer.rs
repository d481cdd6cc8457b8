//! What a simulated region answers.
//!
//! Promises: every answer says which region gave it and what it knows of its data; writes are applied
//! by a primary only. Refuses to know: how long it lives, where the log goes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use thiserror::Error;

use super::region::{Role, State};
use super::store::{MAX_VALUE_BYTES, NotStored};
use super::websocket;

type Answer = Response<Full<Bytes>>;

/// A dead region says nothing: the connection is cut.
#[derive(Debug, Error)]
#[error("the region is dead")]
pub(super) struct Dead;

/// Answers one request, after the simulated distance.
pub(super) async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Answer, Dead> {
    if state.spec.controlled && request.uri().path().starts_with("/_demo/") {
        return Ok(control(&state, &request));
    }
    let alive = state.is_alive();
    // The log travels between regions, not to the edge.
    if alive && request.uri().path() == "/_log" {
        return Ok(log_page(&state, &request));
    }
    tokio::select! {
        () = tokio::time::sleep(state.distance()), if alive => {}
        () = state.killed() => return Err(Dead),
    }
    let mut answer = respond(&state, request).await;
    describe(&state, &mut answer);
    Ok(answer)
}

async fn respond(state: &Arc<State>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path();
    match path {
        "/health" => text(StatusCode::OK, "ok\n"),
        "/meridian/status" => json_answer(StatusCode::OK, &json!(state.facts())),
        "/ws" => websocket::upgrade(state, request),
        _ => match path.strip_prefix("/kv/").map(str::to_owned) {
            Some(key) => key_value(state, &key, request).await,
            None => echo(state, request).await,
        },
    }
}

/// `Meridian-*` and `X-Served-Region`.
fn describe(state: &State, answer: &mut Answer) {
    let facts = state.facts();
    let headers = answer.headers_mut();
    headers.insert(
        "meridian-role",
        HeaderValue::from_static(match facts.role {
            Role::Primary => "primary",
            Role::Replica => "replica",
        }),
    );
    headers.insert("meridian-epoch", facts.epoch.into());
    headers.insert("meridian-position", facts.position.into());
    if let Some(lag_ms) = facts.lag_ms {
        headers.insert("meridian-lag-ms", lag_ms.into());
    }
    if let Ok(id) = HeaderValue::from_str(&state.spec.id) {
        headers.insert("x-served-region", id);
    }
}

async fn key_value(state: &State, key: &str, request: Request<Incoming>) -> Answer {
    match *request.method() {
        Method::GET | Method::HEAD => match state.store().get(key) {
            Some(value) => text(StatusCode::OK, value),
            None => failure(StatusCode::NOT_FOUND, "there is no such key"),
        },
        Method::PUT | Method::POST => write(state, key, request).await,
        _ => {
            let mut answer =
                failure(StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD, PUT and POST only");
            answer
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, PUT, POST"));
            answer
        }
    }
}

async fn write(state: &State, key: &str, request: Request<Incoming>) -> Answer {
    let asked = request.headers().get("meridian-epoch").and_then(|epoch| epoch.to_str().ok());
    let other_epoch = asked.is_some_and(|epoch| epoch.parse() != Ok(state.spec.epoch));
    if state.spec.role == Role::Replica || other_epoch {
        return failure(StatusCode::MISDIRECTED_REQUEST, "not the primary of this epoch");
    }
    let body = match Limited::new(request.into_body(), MAX_VALUE_BYTES).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => {
            return failure(StatusCode::PAYLOAD_TOO_LARGE, &NotStored::ValueTooLong.to_string());
        }
    };
    let Ok(value) = std::str::from_utf8(&body) else {
        return failure(StatusCode::BAD_REQUEST, "a value is UTF-8 text");
    };
    match state.store().put(key, value, meridian_control::unix_ms()) {
        Ok(position) => json_answer(StatusCode::OK, &json!({ "key": key, "position": position })),
        Err(why @ NotStored::Full) => failure(StatusCode::INSUFFICIENT_STORAGE, &why.to_string()),
        Err(why) => failure(StatusCode::BAD_REQUEST, &why.to_string()),
    }
}

/// Everything else: who answers, and what came in.
async fn echo(state: &State, request: Request<Incoming>) -> Answer {
    let (parts, mut body) = request.into_parts();
    let mut body_bytes = 0;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => body_bytes += frame.data_ref().map_or(0, Bytes::len),
            Err(_) => return failure(StatusCode::BAD_REQUEST, "the body broke off"),
        }
    }
    let headers = parts
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())));
    let facts = state.facts();
    let mut said = json!({
        "region": state.spec.id,
        "role": facts.role,
        "epoch": facts.epoch,
        "position": facts.position,
        "lag_ms": facts.lag_ms,
        "request": format!("{} {} {:?}", parts.method, parts.uri, parts.version),
        "headers": headers.collect::<Vec<_>>(),
    });
    if body_bytes > 0 {
        said["body_bytes"] = body_bytes.into();
    }
    json_answer(StatusCode::OK, &said)
}

fn log_page(state: &State, request: &Request<Incoming>) -> Answer {
    match query_number(request.uri().query(), "after") {
        Some(after) => {
            let page = state.store().page_after(state.spec.epoch, after);
            json_answer(StatusCode::OK, &json!(page))
        }
        None => failure(StatusCode::BAD_REQUEST, "after=POSITION is missing"),
    }
}

/// `POST /_demo/kill`, `/_demo/revive`, `/_demo/lag?ms=N`, `/_demo/distance?ms=N`.
fn control(state: &State, request: &Request<Incoming>) -> Answer {
    if request.method() != Method::POST {
        return failure(StatusCode::METHOD_NOT_ALLOWED, "POST only");
    }
    let ms = query_number(request.uri().query(), "ms").map(Duration::from_millis);
    match (request.uri().path().trim_start_matches("/_demo/"), ms) {
        ("kill", _) => state.set_alive(false),
        ("revive", _) => state.set_alive(true),
        ("lag", Some(lag)) => state.set_lag(lag),
        ("distance", Some(distance)) => state.set_distance(distance),
        ("lag" | "distance", None) => return failure(StatusCode::BAD_REQUEST, "ms=N is missing"),
        _ => return failure(StatusCode::NOT_FOUND, "kill, revive, lag?ms=N or distance?ms=N"),
    }
    let now = json!({
        "region": state.spec.id,
        "alive": state.is_alive(),
        "lag_ms": state.lag().as_millis(),
        "distance_ms": state.distance().as_millis(),
    });
    json_answer(StatusCode::OK, &now)
}

fn query_number(query: Option<&str>, name: &str) -> Option<u64> {
    let pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok())
}

pub(super) fn failure(status: StatusCode, why: &str) -> Answer {
    json_answer(status, &json!({ "error": why }))
}

fn text(status: StatusCode, body: &str) -> Answer {
    whole(status, "text/plain; charset=utf-8", body.to_owned())
}

fn json_answer(status: StatusCode, body: &Value) -> Answer {
    whole(status, "application/json", format!("{body:#}\n"))
}

fn whole(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
