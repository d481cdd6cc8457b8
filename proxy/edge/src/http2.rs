//! HTTP/2 from clients: one task per stream, all forwarded by the same forwarder.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::Request as HttpRequest;
use meridian_config::Limits;
use meridian_routing::{Filter, Refusal, RoutingTable};
use tracing::debug;

use crate::admit::{Admitted, admit, admit_with_body, most_body};
use crate::forward::{Journey, forward};
use crate::http1::head::HeadError;
use crate::http2_line::{Line, LineHandle};
use crate::http2_stream::Http2Stream;
use crate::identify::Peer;
use crate::listener::ListenerState;
use crate::observe::{Observation, observe};
use crate::respond::{OwnAnswer, summary};
use crate::transport::Transport;
use crate::worker::Worker;

/// What a stream, and a whole connection, may send before it is read.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What may wait to be sent on a stream.
const SEND_BUFFER: usize = 64 * 1024;
/// A client that resets more streams than this, and more than half of those it opened, is not served any longer.
const MOST_RESETS: u32 = 100;

/// What the streams of a connection share.
struct Shared {
    worker: Rc<Worker>,
    listener: Arc<ListenerState>,
    peer: Peer,
    scheme: &'static str,
    /// Streams that the client has reset.
    resets: Cell<u32>,
}

/// Serves a connection to its end; `read` is what was read of it already.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    stream: Transport,
    listener: Arc<ListenerState>,
    peer: Peer,
    read: Vec<u8>,
) {
    let limits = worker.table().config.limits.clone();
    let scheme = stream.scheme();
    let (line, handle) = Line::new(stream, read, &worker.buffers);
    let alarm = worker.alarms.alarm();
    alarm.set(limits.header_timeout);
    let handshake = Box::pin(builder(&limits).handshake::<_, Bytes>(line));
    let shaken = alarm.race(handle.drive(handshake)).await;
    let mut connection = match shaken {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return debug!(target: "edge", %error, "HTTP/2 handshake failed"),
        Err(_) => return,
    };
    let shared = Rc::new(Shared { worker, listener, peer, scheme, resets: Cell::new(0) });
    let worker = &shared.worker;
    // The edge's end rings the alarm of a connection that waits for streams.
    alarm.set_idle(true);
    let mut served = 0_u32;
    loop {
        if worker.is_closing() && !is_ending(served, &limits) {
            served = limits.requests_per_connection;
            connection.graceful_shutdown();
        }
        alarm.set(limits.keepalive_timeout);
        match alarm.race(next_stream(&mut connection, &handle)).await {
            Ok(Some(Ok((request, respond)))) => {
                served = served.saturating_add(1);
                let resets = shared.resets.get();
                if resets > MOST_RESETS && resets > served / 2 {
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    continue;
                }
                if is_ending(served, &limits) {
                    connection.graceful_shutdown();
                }
                let down = Box::new(Http2Stream::new(request, respond));
                // Boxed, so that the runtime does not move all of it about.
                tokio::task::spawn_local(Box::pin(stream_of(shared.clone(), down)));
            }
            Ok(Some(Err(error))) => {
                return debug!(target: "edge", %error, "HTTP/2 connection ended");
            }
            Ok(None) => return,
            Err(_) if worker.is_closing() && !is_ending(served, &limits) => {}
            // Streams have deadlines of their own.
            Err(_) if Rc::strong_count(&shared) > 1 => {}
            Err(_) => return Box::pin(end(&mut connection, &handle, worker)).await,
        }
    }
}

fn is_ending(served: u32, limits: &Limits) -> bool {
    served >= limits.requests_per_connection
}

fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(limits.h2_streams)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

/// Waits for the next stream; what the codec has to say meanwhile goes out at the end of each pass.
async fn next_stream(
    connection: &mut Connection<Line, Bytes>,
    line: &LineHandle,
) -> Option<Result<(HttpRequest<RecvStream>, SendResponse<Bytes>), h2::Error>> {
    line.drive(poll_fn(|cx| connection.poll_accept(cx))).await
}

/// Says goodbye to an idle connection, without waiting long for it.
async fn end(connection: &mut Connection<Line, Bytes>, line: &LineHandle, worker: &Worker) {
    connection.graceful_shutdown();
    let alarm = worker.alarms.alarm();
    alarm.set(Duration::from_secs(1));
    let last = async { while next_stream(connection, line).await.is_some() {} };
    let _ = alarm.race(last).await;
}

/// One request: decide, then forward or refuse.
async fn stream_of(shared: Rc<Shared>, mut down: Box<Http2Stream>) {
    let Shared { worker, listener, peer, scheme, resets } = &*shared;
    let table = worker.table();
    let started = worker.clock.now();
    let alarm = worker.alarms.alarm();
    if let Err(answer) = down.check(&table.config.limits) {
        let refusal = Refusal { route: None, filter: Filter::Malformed, status: answer.status };
        let (client, why) = (peer.address, answer.message);
        observe(worker, &Observation::malformed(&table, client, "-", &refusal, started, why));
        return down.answer(&answer, false, "-");
    }
    let trusted = &listener.settings.trusted_proxies;
    let mut admitted = {
        use crate::forward::Downstream;
        down.request(|request| admit(worker, &table, peer, trusted, request, started))
    };
    if admitted.own.is_some() {
        // OPTIONS or TRACE that may not go any further.
        return down.answer(&OwnAnswer::new(200, "last_hop", "this is the last hop"), false, "-");
    }
    if down.expects_continue() && down.tell_continue().is_err() {
        return;
    }
    if admitted.wants_body {
        alarm.set(table.config.limits.header_timeout);
        let held = match alarm.race(down.hold_body()).await {
            Ok(Ok(held)) => held,
            Ok(Err(_)) | Err(_) => return down.reset(Reason::CANCEL),
        };
        use crate::forward::Downstream;
        admitted.decided = down.request(|request| {
            let body = held.then(|| down.held());
            admit_with_body(worker, &table, request, &admitted, body, started)
        });
    }
    let decision = match admitted.decided {
        Ok(decision) => decision,
        Err(refusal) => {
            return refuse(worker, &table, &admitted, &refusal, &mut down, started);
        }
    };
    if !down.limit_body(most_body(&table, &decision)) {
        let answer = OwnAnswer::head_error(HeadError::BodyTooLarge);
        return down.answer(&answer, admitted.json, admitted.ids.id());
    }
    let request_time = table.service(decision.service).settings.timeouts.request;
    let journey = Journey {
        worker,
        table: &table,
        client: admitted.client,
        peer,
        ids: &admitted.ids,
        scheme,
        expect_continue: false,
        is_head: down.is_head(),
        started,
        alarm: &alarm,
        deadline: started.plus(request_time),
    };
    let watch = down.reset_watch();
    // A client that resets its stream takes its work at the endpoint with it.
    let ending = tokio::select! {
        biased;
        ending = forward(&journey, decision, &mut *down, None) => ending,
        () = watch => {
            resets.set(resets.get().saturating_add(1));
            let seen = Observation::handed_over(&table, &admitted, &decision, 499, started);
            return observe(worker, &Observation { error: Some("the client reset it"), ..seen });
        }
    };
    let (status, bytes, answer) = summary(&ending);
    if let Some(answer) = answer {
        down.answer(&answer, admitted.json, admitted.ids.id());
    }
    observe(worker, &Observation::ended(&table, &admitted, &ending, (status, bytes), started));
}

fn refuse(
    worker: &Worker,
    table: &RoutingTable,
    admitted: &Admitted,
    refusal: &Refusal,
    down: &mut Http2Stream,
    started: meridian_routing::Micros,
) {
    let answer = OwnAnswer::refusal(refusal);
    down.answer(&answer, admitted.json, admitted.ids.id());
    observe(worker, &Observation::refused(table, admitted, refusal, started));
}
