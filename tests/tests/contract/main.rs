//! What goes over the wire, row by row: the table of requests that are refused, what endpoints are sent, what clients
//! are. Each row is bytes, with what must come of them, and its name is the contract's own text.
//!
//! Every row is sent to a plain and to a TLS listener, with `edge.splice` on and off, in one piece and in small ones,
//! as an ordinary request and, where its bytes have a place for that, as an offer to switch protocols, which takes
//! pingora's lane. HTTP/2 has its rows in `http2_conformance` and `http2_attacks`; faults under load are in
//! `tests/faults`.

mod answers;
mod canonical;
mod requests;

use std::fmt;
use std::time::Duration;

use meridian_tests::{
    Backend, Broken, Client, End, Exchange, Meridian, Received, Response, Site, one_region,
};

pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
pub(crate) const HOST: &str = "a.example";
/// Where a head has room for an offer.
const ROOM: &str = "{offer}";
const OFFER: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
/// What must never be taken for a request when it stands behind something that was refused.
const NEXT: &str = "GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n";

/// A row of the contract as a test: its text, and what it takes.
macro_rules! rows {
    ($($name:ident: $text:literal, $run:expr;)+) => {$(
        #[test]
        #[doc = $text]
        fn $name() {
            $run($text);
        }
    )+};
}
pub(crate) use rows;

/// An endpoint behind two edges, one with `splice` and one without.
pub(crate) struct World {
    pub(crate) backend: Backend,
    site: Site,
    edges: [Meridian; 2],
}

/// How bytes get to an edge.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    world: &'a World,
    splice: bool,
    pub(crate) secure: bool,
    /// As an offer to switch protocols.
    pub(crate) offered: bool,
    /// In pieces of a few bytes.
    cut: bool,
}

impl fmt::Display for Way<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { splice, secure, offered, cut, .. } = self;
        write!(f, "TLS: {secure}, splice: {splice}, offer: {offered}, in pieces: {cut}")
    }
}

impl World {
    /// `lines` are further lines of the configuration, `listener` of both listeners.
    pub(crate) fn new(backend: Backend, lines: &str, listener: &str) -> Self {
        let site = Site::new(&[("a", &[HOST])]);
        let listener = format!("protocols = [\"http1\"]\n{listener}");
        let edges = [true, false].map(|splice| {
            Meridian::start(&format!(
                "{lines}\n[edge]\nsplice = {splice}\n{}[[listeners]]\nname = \"public\"\n{listener}\n{}",
                one_region(&backend),
                site.listener(&["a"], &listener)
            ))
        });
        Self { backend, site, edges }
    }

    /// All ways for these bytes.
    pub(crate) fn ways(&self, sent: &str) -> Vec<Way<'_>> {
        let mut ways = Vec::new();
        let each = [false, true];
        for (splice, secure) in each.iter().flat_map(|a| each.map(|b| (*a, b))) {
            for (offered, cut) in each.iter().flat_map(|a| each.map(|b| (*a, b))) {
                if !offered || sent.contains(ROOM) {
                    ways.push(Way { world: self, splice, secure, offered, cut });
                }
            }
        }
        ways
    }

    /// What the endpoint got to its end.
    pub(crate) fn seen(&self) -> Vec<Received> {
        self.backend.requests().into_iter().filter(|request| request.complete).collect()
    }
}

impl Way<'_> {
    pub(crate) fn edge(&self) -> &Meridian {
        &self.world.edges[usize::from(!self.splice)]
    }

    /// A connection.
    pub(crate) fn client(&self) -> Client {
        if self.secure {
            return self.world.site.client(self.edge().listener("tls"), HOST);
        }
        Client::connect(self.edge().listener("public")).host(HOST)
    }

    pub(crate) fn filled(&self, sent: &str) -> String {
        sent.replace(ROOM, if self.offered { OFFER } else { "" })
    }

    /// Sends as this way says. An edge that has seen enough may close before everything is sent.
    pub(crate) fn send(&self, client: &mut Client, sent: &str) {
        let sent = self.filled(sent);
        let size = if self.cut { 7 } else { sent.len().max(1) };
        for piece in sent.as_bytes().chunks(size) {
            if client.wire().send(piece).is_err() {
                return;
            }
        }
    }

    /// Whether a client that sent on before its offer was answered, piece by piece, was cut off for it, without a byte of an
    /// answer. It must wait (RFC 6455, 4.1); what has come with the offer is another matter.
    pub(crate) fn hurries_and_is_cut_off(&self, answer: &Result<Response, Broken>) -> bool {
        self.cut && matches!(answer, Err(Broken::Nothing(end)) if *end != End::Open)
    }

    /// Whether the connection ends although nobody has asked for it: pingora's lane gives none back under TLS.
    pub(crate) fn ends_anyway(&self) -> bool {
        self.offered && self.secure
    }
}

/// What came of a row that should get answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// The next request is answered.
    Open,
    /// The connection ends.
    Closed,
}

/// These bytes, with a request behind them, get one answer with one of these statuses, then the end of the connection;
/// the endpoint gets nothing that is whole.
#[track_caller]
pub(crate) fn refused(world: &World, row: &str, sent: &str, statuses: &[u16]) {
    for way in world.ways(sent) {
        let shown: String = sent.chars().take(200).collect();
        let case = format!("{row}: {shown:?} ({way})");
        let mut client = way.client();
        client.wire().patience = PATIENCE;
        way.send(&mut client, &format!("{sent}{NEXT}"));
        let (answer, end) = client.end();
        assert_ne!(end, End::Open, "not closed: {case}");
        let answers = Exchange { answer, end }.responses();
        assert_eq!(answers.len(), 1, "{answers:#?}: {case}");
        let answer = &answers[0];
        assert!(statuses.contains(&answer.status), "{}: {case}", answer.status);
        assert_eq!(answer.header("connection"), Some("close"), "{case}");
        assert!(answer.header("x-request-id").is_some() && !answer.body.is_empty(), "{case}");
        let seen = world.seen();
        assert!(seen.is_empty(), "{case} reached the endpoint as {seen:#?}");
    }
}

/// These bytes get these answers, by method, status and body, in this order.
#[track_caller]
pub(crate) fn answered(
    world: &World,
    row: &str,
    sent: &str,
    answers: &[(&str, u16, &str)],
    then: Then,
) {
    for way in world.ways(sent) {
        let case = format!("{row}: {sent:?} ({way})");
        let mut client = way.client();
        way.send(&mut client, sent);
        for (method, status, body) in answers {
            let answer = client.try_response(method);
            let answer = answer.unwrap_or_else(|broken| panic!("{case}: {broken:?}"));
            assert_eq!((answer.status, answer.text().as_str()), (*status, *body), "{case}");
        }
        if then == Then::Closed || way.ends_anyway() {
            assert!(client.is_closed(), "{case}");
        } else {
            assert_eq!(client.get("/next").text(), "/next", "{case}");
        }
    }
}

/// The stage can tell: an ordinary request does reach the endpoint, every way.
pub(crate) fn still_serves(world: &World) {
    let sent = "GET /fine HTTP/1.1\r\nHost: a.example\r\n{offer}\r\n";
    for way in world.ways(sent) {
        let before = world.seen().len();
        let mut client = way.client();
        way.send(&mut client, sent);
        assert_eq!(client.response().status, 200, "{way}");
        let seen = world.seen();
        assert_eq!((seen.len(), seen[before].target.as_str()), (before + 1, "/fine"), "{way}");
        assert_eq!(seen[before].header("upgrade").is_some(), way.offered, "{way}");
    }
}
