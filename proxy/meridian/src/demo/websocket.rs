//! A WebSocket that echoes, so that the upgrade lane can be tried.
//!
//! Promises: every text and binary message comes back as it was; ends when the region is killed.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::answer::failure;
use super::region::State;

const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Answers 101 and echoes from then on.
pub(super) fn upgrade(state: &Arc<State>, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let said = |name, value: &str| {
        let values = request.headers().get_all(name).into_iter();
        let mut words = values.filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
        words.any(|word| word.trim().eq_ignore_ascii_case(value))
    };
    let asked = said(header::UPGRADE, "websocket") && said(header::CONNECTION, "upgrade");
    let version_known = said(header::SEC_WEBSOCKET_VERSION, "13");
    let key = request
        .headers()
        .get(header::SEC_WEBSOCKET_KEY)
        .map(|key| derive_accept_key(key.as_bytes()));
    let accept = key.filter(|_| asked && version_known).map(|key| HeaderValue::from_str(&key));
    let Some(Ok(accept)) = accept else {
        let mut refused = failure(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket");
        let headers = refused.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return refused;
    };
    let upgraded = hyper::upgrade::on(&mut request);
    let state = state.clone();
    tokio::spawn(async move {
        let Ok(stream) = upgraded.await else { return };
        let limits = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let io = TokioIo::new(stream);
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(limits)).await;
        tokio::select! {
            () = echo(socket) => {}
            () = state.killed() => {}
        }
    });
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    answer
}

async fn echo<S>(mut socket: WebSocketStream<S>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    // Pings and the closing handshake are answered by the library.
    while let Some(Ok(message)) = socket.next().await {
        let echoes = message.is_text() || message.is_binary();
        if echoes && socket.send(message).await.is_err() {
            return;
        }
    }
}
