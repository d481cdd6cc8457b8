//! Answers: JSON, and errors in one shape.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::body::{Body, Frame, SizeHint};
use serde::Serialize;
use tokio::sync::mpsc;

use super::views::{ErrorBody, ErrorView};

/// A body that is there, or one that goes on.
pub(crate) enum AnswerBody {
    Whole(Option<Bytes>),
    Stream(mpsc::Receiver<Bytes>),
}

pub(crate) type Answer = Response<AnswerBody>;

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(receiver) => {
                receiver.poll_recv(context).map(|bytes| bytes.map(|b| Ok(Frame::data(b))))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// An answer with a body of this type.
pub(crate) fn whole(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    with_body(status, content_type, AnswerBody::Whole(Some(body.into())))
}

pub(crate) fn with_body(
    status: StatusCode,
    content_type: &'static str,
    body: AnswerBody,
) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

pub(crate) fn text(status: StatusCode, body: &str) -> Answer {
    whole(status, "text/plain; charset=utf-8", format!("{body}\n"))
}

/// 200 with JSON.
pub(crate) fn json(view: &impl Serialize) -> Answer {
    json_with(StatusCode::OK, view)
}

pub(crate) fn json_with(status: StatusCode, view: &impl Serialize) -> Answer {
    match serde_json::to_string(view) {
        Ok(mut body) => {
            body.push('\n');
            whole(status, "application/json", body)
        }
        // The views hold nothing that JSON has no form for.
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// Why a request is not answered as asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// The value of `Allow`, with 405.
    pub(crate) allow: Option<String>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), allow: None }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    pub(crate) fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the edge is stopping")
    }
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        let Problem { status, code, message, allow } = problem;
        let view = ErrorView { error: ErrorBody { code: code.to_owned(), message } };
        let mut answer = json_with(status, &view);
        if status == StatusCode::UNAUTHORIZED {
            let value = HeaderValue::from_static("Bearer realm=\"meridian\"");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, value);
        }
        if let Some(allow) = allow.and_then(|allow| HeaderValue::try_from(allow).ok()) {
            answer.headers_mut().insert(header::ALLOW, allow);
        }
        answer
    }
}
