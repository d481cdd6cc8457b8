//! The session as the server of a client that somebody else wrote: whatever it sends comes back as it was.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::{HeaderMap, Method, Request};
use meridian_http2::{Body, Gone, Limits, Opened, Session, Space, StreamKey};
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

#[derive(Clone, Debug)]
struct Fresh;

impl Space for Fresh {
    fn take(&self) -> Vec<u8> {
        Vec::new()
    }

    fn give(&self, _: Vec<u8>) {}
}

type Shared = Rc<RefCell<Session<Fresh>>>;

/// Moves bytes between the session and its client until that is over.
struct Server {
    session: Shared,
    io: DuplexStream,
    read: Vec<u8>,
    opened: Vec<Opened>,
}

impl Server {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            for opened in self.opened.drain(..) {
                spawn_local(echo(self.session.clone(), opened));
            }
            let mut session = self.session.borrow_mut();
            while !session.output().is_empty() {
                let written = Pin::new(&mut self.io).poll_write(cx, session.output());
                match written {
                    Poll::Ready(Ok(count)) => session.sent(count),
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            if session.is_over() {
                return Poll::Ready(());
            }
            session.park(cx);
            if !session.wants_input() {
                return Poll::Pending;
            }
            let mut space = [0; 1000];
            let mut space = ReadBuf::new(&mut space);
            let read = ready!(Pin::new(&mut self.io).poll_read(cx, &mut space));
            if read.is_err() || space.filled().is_empty() {
                session.lose();
                return Poll::Ready(());
            }
            self.read.extend_from_slice(space.filled());
            match session.receive(&self.read, &mut self.opened) {
                Ok(used) => drop(self.read.drain(..used)),
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

/// Sends a request's body back as it comes, then its trailers.
async fn echo(session: Shared, opened: Opened) {
    let Opened { stream, head, .. } = opened;
    session.borrow_mut().send_head(stream, false, |head| head.status(200));
    let echoed = pass(&session, stream).await;
    if echoed == Ok(()) {
        let trailers = session.borrow_mut().take_trailers(stream);
        match trailers {
            None => session.borrow_mut().end(stream),
            Some(trailers) => session.borrow_mut().send_head(stream, true, |head| {
                trailers.fields().for_each(|(name, value)| head.field(name, value));
            }),
        }
    }
    session.borrow_mut().close(stream, head);
}

async fn pass(session: &Shared, stream: StreamKey) -> Result<(), Gone> {
    loop {
        let mut data = Vec::new();
        let read = |cx: &mut Context<'_>| {
            session.borrow_mut().poll_body(stream, cx, |bytes| data.extend_from_slice(bytes))
        };
        let body = poll_fn(read).await?;
        let mut rest = &data[..];
        while !rest.is_empty() {
            let send = |cx: &mut Context<'_>| session.borrow_mut().poll_send(stream, rest, cx);
            rest = &rest[poll_fn(send).await?..];
        }
        if body == Body::End {
            return Ok(());
        }
    }
}

/// One request of the client.
#[derive(Clone, Debug)]
struct Plan {
    /// The length of its body, in pieces.
    pieces: Vec<usize>,
    trailers: bool,
    /// It gives up after so many pieces.
    resets_after: Option<usize>,
}

fn plan() -> impl Strategy<Value = Plan> {
    let piece = prop_oneof![1..100_usize, 1..40_000_usize];
    let resets = proptest::option::weighted(0.2, 0..4_usize);
    (vec(piece, 0..12), any::<bool>(), resets).prop_map(|(pieces, trailers, resets_after)| Plan {
        pieces,
        trailers,
        resets_after,
    })
}

async fn ask(mut client: SendRequest<Bytes>, plan: Plan) {
    poll_fn(|cx| client.poll_ready(cx)).await.expect("room for a stream");
    let request = Request::builder().method(Method::POST).uri("http://a.example/x").body(());
    let request = request.expect("a request");
    let (response, mut out) = client.send_request(request, false).expect("a stream");
    let sent: Vec<u8> = (0..plan.pieces.iter().sum()).map(|n: usize| (n % 251) as u8).collect();
    let sending = async {
        let mut rest = Bytes::from(sent.clone());
        for (n, piece) in plan.pieces.iter().enumerate() {
            if plan.resets_after == Some(n) {
                return out.send_reset(h2::Reason::CANCEL);
            }
            let mut piece = rest.split_to(*piece);
            while !piece.is_empty() {
                out.reserve_capacity(piece.len());
                let room = poll_fn(|cx| out.poll_capacity(cx)).await;
                let room = room.expect("a stream").expect("a window");
                out.send_data(piece.split_to(room.min(piece.len())), false).expect("a stream");
            }
        }
        if plan.trailers {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "7".parse().expect("a value"));
            out.send_trailers(trailers).expect("a stream");
        } else {
            out.send_data(Bytes::new(), true).expect("a stream");
        }
    };
    let receiving = async {
        let (parts, mut body) = response.await?.into_parts();
        assert_eq!(parts.status, 200);
        let mut received = Vec::new();
        while let Some(data) = body.data().await {
            let data = data?;
            received.extend_from_slice(&data);
            body.flow_control().release_capacity(data.len())?;
        }
        Ok::<_, h2::Error>((received, body.trailers().await?))
    };
    let mut receiving = pin!(receiving);
    let resets = plan.resets_after.is_some_and(|after| after < plan.pieces.len());
    let ((), received) = tokio::join!(sending, &mut receiving);
    if resets {
        return;
    }
    let (received, trailers) = received.expect("a whole answer");
    assert!(received == sent, "{} of {} bytes came back", received.len(), sent.len());
    assert_eq!(trailers.is_some_and(|fields| fields["x-sum"] == "7"), plan.trailers);
}

async fn converse(plans: Vec<Plan>, window: u32, all: u32, pipe: usize) {
    let (io, other) = tokio::io::duplex(pipe);
    let limits = Limits { streams: 10, header_bytes: 16_384 };
    let session = Rc::new(RefCell::new(Session::new(limits, Fresh)));
    let mut server = Server { session: session.clone(), io, read: Vec::new(), opened: Vec::new() };
    let served = spawn_local(poll_fn(move |cx| server.poll(cx)));
    let mut builder = Builder::new();
    builder.initial_window_size(window).initial_connection_window_size(all);
    // What it does before it has heard of the limit; and that it bears small frames, which narrow pipes bring about.
    builder.initial_max_send_streams(10).data_frame_budget(usize::MAX);
    let (client, connection) = builder.handshake::<_, Bytes>(other).await.expect("HTTP/2");
    let connected = spawn_local(connection);
    let asked: Vec<_> =
        plans.into_iter().map(|plan| spawn_local(ask(client.clone(), plan))).collect();
    for asked in asked {
        asked.await.expect("an answer as expected");
    }
    drop(client);
    connected.await.expect("a client").expect("an end in good order");
    served.await.expect("a server");
    assert_eq!(session.borrow().active(), 0);
    assert!(!session.borrow().has_failed());
}

proptest! {
    // A standstill takes its time to be seen: few are looked for that are simpler.
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 8, ..ProptestConfig::default() })]

    #[test]
    fn what_a_client_sends_comes_back(
        plans in vec(plan(), 1..25),
        window in prop_oneof![200..2000_u32, Just(65_535), Just(1 << 20)],
        pipe in prop_oneof![10..2000_usize, Just(64 * 1024)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let work = LocalSet::new();
        let patience = Duration::from_secs(20);
        runtime.expect("a runtime").block_on(work.run_until(async {
            timeout(patience, converse(plans, window, 65_535, pipe)).await.expect("no standstill");
        }));
    }
}
