//! For `make fuzz` and for tests only: whatever bytes a client sends, what is made of them is one request, and the same
//! one, to a reader that shares no code with this crate.
//!
//! Promises: the law holds for every input, or [`request`] panics and says where it does not. Refuses to know: sockets,
//! and where a request goes.

mod laws;
mod reader;

use std::cell::RefCell;
use std::net::TcpListener;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use meridian_config::{Config, RouteIndex, ServiceIndex};
use meridian_routing::{
    Desired, EndpointIndex, HotRegistry, Observed, Overrides, RoutingTable, build,
};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

use crate::buffers::Buffers;
use crate::forward::canonical::{HeadContext, RequestIds, request_head};
use crate::forward::{BodyPiece, Downstream};
use crate::http1::body::Framing;
use crate::http1::downstream::Http1;
use crate::http1::head::{HeadFacts, HeadScan, with_head};
use crate::identify::Peer;
use crate::transport::Transport;

/// Empty lines before a request line, as a connection forgives them.
const MOST_BLANK_LINES: usize = 4;

const CONFIG: &str = "[[listeners]]\nname = \"public\"\naddress = \"127.0.0.1:1\"\n\
    [[regions]]\nid = \"here\"\nrole = \"primary\"\ncoordinates = [1.0, 2.0]\n\
    [[services]]\nname = \"api\"\n\
    [[services.endpoints]]\nregion = \"here\"\naddress = \"192.0.2.1:3000\"\n\
    [[routes]]\nname = \"all\"\nservice = \"api\"\n";

thread_local! {
    static STAGE: Stage = Stage::new();
}

/// What a request is looked at with.
struct Stage {
    table: RoutingTable,
    /// One that is not believed in its forwarding fields, and one that is.
    peers: [Peer; 2],
    buffers: Rc<Buffers>,
    /// Never read from and never written to: the bytes are there already.
    stream: RefCell<Transport>,
    _far: std::net::TcpStream,
    _runtime: Runtime,
}

/// What becomes of some bytes at the start of a connection.
enum Fate {
    /// They are answered with an error.
    Refused,
    /// More is waited for.
    Waits,
    /// They begin with a whole request.
    Forwarded(Forwarded),
}

struct Forwarded {
    /// What the endpoint gets.
    sent: Vec<u8>,
    /// Bytes that the request took up.
    used: usize,
    method: String,
    target: String,
    /// Empty: HTTP/1.0 without one.
    host: String,
    upgrade: bool,
}

/// Looks at what a client sends; whether it begins with a whole request that would be forwarded.
///
/// # Panics
/// If what would be forwarded is not that one request to the other reader, or if it depends on how the bytes come in.
pub fn request(bytes: &[u8]) -> bool {
    STAGE.with(|stage| {
        let mut whole = false;
        for trusted in [false, true] {
            let fate = stage.fate(bytes, trusted);
            laws::hold(bytes, &fate);
            whole = matches!(fate, Fate::Forwarded(_));
            stage.comes_in_pieces(bytes, trusted, &fate);
        }
        whole
    })
}

impl Stage {
    fn new() -> Self {
        let loaded = Config::parse(CONFIG, Path::new("fuzz.toml"), &|_| None);
        let config = Arc::new(loaded.unwrap_or_else(|errors| panic!("{errors}")).config);
        let mut hot = HotRegistry::default();
        let (overrides, observed) = (Overrides::default(), Observed::default());
        let desired = Desired::new(config.clone()).expect("no expressions");
        let table = build(&desired, &overrides, &observed, None, &mut hot, 1);
        let listener = config.listeners[0].clone();
        let mut believing = listener.clone();
        believing.trusted_proxies = vec!["203.0.113.0/24".parse().expect("a network")];
        let (client, reached) = (([203, 0, 113, 9], 5).into(), ([198, 51, 100, 1], 80).into());
        let peers = [listener, believing].map(|listener| Peer::new(client, reached, &listener));
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let far = TcpListener::bind("127.0.0.1:0").expect("a port");
        let near = runtime.block_on(TcpStream::connect(far.local_addr().expect("bound")));
        let (far, _) = far.accept().expect("connected");
        Self {
            table,
            peers,
            buffers: Rc::new(Buffers::default()),
            stream: RefCell::new(Transport::Plain(near.expect("connected"))),
            _far: far,
            _runtime: runtime,
        }
    }

    fn fate(&self, bytes: &[u8], trusted: bool) -> Fate {
        let blank = bytes.chunks_exact(2).take_while(|pair| *pair == b"\r\n").count();
        if blank > MOST_BLANK_LINES {
            return Fate::Refused;
        }
        let read = &bytes[2 * blank..];
        let limits = &self.table.config.limits;
        let len = match HeadScan::default().complete(read, limits) {
            Ok(Some(len)) => len,
            Ok(None) => return Fate::Waits,
            Err(_) => return Fate::Refused,
        };
        let service = self.table.service(ServiceIndex(0));
        let looked = with_head(&read[..len], limits, |request, facts| {
            let ids = RequestIds::new(&request.notes, 7);
            let context = HeadContext {
                route: self.table.route(RouteIndex(0)),
                service: &service.settings,
                endpoint: service.endpoint(EndpointIndex(0)),
                peer: &self.peers[usize::from(trusted)],
                ids: &ids,
                upload: facts.framing.into(),
                expect_continue: facts.expect_continue,
                upgrade: facts.upgrade,
                sessions: true,
                epoch: 0,
            };
            let mut sent = Vec::new();
            request_head(request, &context, &mut sent);
            let forwarded = Forwarded {
                sent,
                used: 2 * blank + len,
                method: request.method.to_owned(),
                target: request.target.to_owned(),
                host: request.authority.to_owned(),
                upgrade: facts.upgrade,
            };
            (forwarded, facts)
        });
        match looked {
            Err(_) => Fate::Refused,
            Ok((forwarded, facts)) if facts.framing == Framing::Empty => Fate::Forwarded(forwarded),
            Ok((forwarded, facts)) => self.body(read, facts, forwarded),
        }
    }

    /// The body, as the forwarder takes it from what was read.
    fn body(&self, read: &[u8], facts: HeadFacts, mut forwarded: Forwarded) -> Fate {
        let mut held = read.to_vec();
        let (mut stream, limits) = (self.stream.borrow_mut(), &self.table.config.limits);
        let mut down =
            Http1::new(&mut stream, limits, &self.buffers, &mut held, facts, true, u64::MAX);
        let fate = match down.ready_body(&mut forwarded.sent) {
            Err(_) => Fate::Refused,
            Ok(BodyPiece::More) => Fate::Waits,
            Ok(BodyPiece::End) => {
                forwarded.used += down.consumed() - facts.len;
                Fate::Forwarded(forwarded)
            }
        };
        drop(down);
        fate
    }

    /// What comes of a beginning agrees with what comes of the whole.
    fn comes_in_pieces(&self, bytes: &[u8], trusted: bool, whole: &Fate) {
        let limits = &self.table.config.limits;
        let blank = bytes.chunks_exact(2).take_while(|pair| *pair == b"\r\n").count();
        let read = &bytes[2 * blank.min(MOST_BLANK_LINES)..];
        let mut scan = HeadScan::default();
        let steps = [1, 2, 3, 5, 7, 11, 13, 17, 64, 256, 1024].iter().cycle();
        let mut at = 0;
        for step in steps.take(64) {
            at = (at + step).min(read.len());
            match scan.complete(&read[..at], limits) {
                Ok(None) if at < read.len() => {}
                Ok(Some(len)) => {
                    let direct = HeadScan::default().complete(read, limits);
                    assert_eq!(direct, Ok(Some(len)), "a head's end depends on its pieces");
                    break;
                }
                Err(_) => {
                    let refused = matches!(whole, Fate::Refused) || blank > MOST_BLANK_LINES;
                    assert!(refused, "a beginning was refused, the whole was not");
                    break;
                }
                Ok(None) => break,
            }
        }
        for part in [1, 2, 3] {
            let cut = bytes.len() * part / 4;
            match (self.fate(&bytes[..cut], trusted), whole) {
                (Fate::Waits, _) | (Fate::Refused, Fate::Refused) => {}
                (Fate::Forwarded(part), Fate::Forwarded(whole)) => {
                    assert_eq!(part.used, whole.used, "a request's end depends on its pieces");
                    assert_eq!(part.sent, whole.sent, "what is sent depends on the pieces");
                }
                (Fate::Refused, _) => panic!("a beginning was refused, the whole was not"),
                (Fate::Forwarded(_), _) => panic!("a beginning was a request, the whole was none"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was written by hand and what fuzzing has found to be different, minimised.
    const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz/corpus/requests");

    fn corpus() -> Vec<(String, Vec<u8>)> {
        let files = std::fs::read_dir(CORPUS).expect("the corpus").map(|file| {
            let file = file.expect("a file");
            let name = file.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(file.path()).expect("a file"))
        });
        files.collect()
    }

    #[test]
    fn the_law_holds_for_the_corpus() {
        let corpus = corpus();
        let mut forwarded = 0;
        for (name, bytes) in &corpus {
            let found = std::panic::catch_unwind(|| request(bytes));
            let found = found.unwrap_or_else(|_| panic!("{name}: {}", bytes.escape_ascii()));
            forwarded += usize::from(found);
            // Names of those by hand say what they are.
            assert!(!name.starts_with("good-") || found, "{name} is refused");
            assert!(!name.starts_with("bad-") || !found, "{name} is forwarded");
        }
        assert!(corpus.len() >= 40 && forwarded >= 10, "{forwarded} of {}", corpus.len());
    }

    /// A cheap fuzzer without coverage: pieces of the corpus, cut and joined, with bytes changed.
    #[test]
    fn the_law_holds_for_what_is_made_of_the_corpus() {
        let corpus = corpus();
        let mut random = fastrand::Rng::with_seed(41);
        let mut forwarded = 0;
        for _ in 0..4000 {
            let mut bytes = corpus[random.usize(..corpus.len())].1.clone();
            let other = &corpus[random.usize(..corpus.len())].1;
            if random.bool() && !bytes.is_empty() && !other.is_empty() {
                bytes.truncate(random.usize(..bytes.len()));
                bytes.extend_from_slice(&other[random.usize(..other.len())..]);
            }
            for _ in 0..random.usize(..4) {
                if bytes.is_empty() {
                    break;
                }
                let at = random.usize(..bytes.len());
                match random.u8(..4) {
                    0 => bytes[at] = random.u8(..),
                    1 => bytes.insert(at, *random.choice(b"\r\n \t:;,0x\0\x7f\xff").unwrap_or(&0)),
                    2 => drop(bytes.remove(at)),
                    _ => bytes[at] ^= 1 << random.u8(..8),
                }
            }
            forwarded += usize::from(request(&bytes));
        }
        assert!(forwarded > 200, "{forwarded}: the generator makes hardly any requests");
    }
}
