//! A WebSocket client over any stream, and what every test of upgrades does with one.

use std::fmt::Debug;
use std::io::{Read, Write};

use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

/// Opens a WebSocket at an endpoint that greets with "first", and takes the greeting.
pub fn open_websocket<S: Read + Write + Debug>(url: String, stream: S) -> WebSocket<S> {
    let (mut socket, response) = tungstenite::client(url, stream).expect("an open socket");
    assert_eq!(response.status(), 101);
    assert_eq!(socket.read().expect("the first message"), Message::text("first"));
    socket
}

/// Sends a text and takes its echo.
pub fn ping_pong<S: Read + Write>(socket: &mut WebSocket<S>, text: &str) {
    socket.send(Message::text(text)).expect("an open socket");
    assert_eq!(socket.read().expect("an echo"), Message::text(text));
}
