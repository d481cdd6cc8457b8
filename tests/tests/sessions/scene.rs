//! A replicated service to read and write through an edge: one log, a primary that appends to it, replicas that follow.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use meridian_tests::{Answer, Backend, Meridian, Received, Response, eventually};

pub(crate) const SOON: Duration = Duration::from_secs(20);
pub(crate) const US: &str = "us-east-1";
pub(crate) const EU: &str = "eu-west-1";
pub(crate) const ASIA: &str = "ap-southeast-1";

/// What all regions share.
pub(crate) struct Database {
    pub(crate) epoch: AtomicU64,
    /// Which of the three is the primary.
    pub(crate) primary: AtomicU64,
    /// When each position was written; the position is one above its index.
    log: Mutex<Vec<Instant>>,
    /// How far each region is, when it does not follow by itself.
    pub(crate) at: [AtomicU64; 3],
    /// Follows the log so many milliseconds behind; `u64::MAX`: stands still.
    pub(crate) lag_ms: [AtomicU64; 3],
    /// Answers say how far the data is.
    pub(crate) tells: AtomicBool,
}

impl Database {
    fn new() -> Self {
        Self {
            epoch: AtomicU64::new(1),
            primary: AtomicU64::new(0),
            log: Mutex::default(),
            at: Default::default(),
            lag_ms: Default::default(),
            tells: AtomicBool::new(true),
        }
    }

    fn write(&self) -> u64 {
        let mut log = self.log.lock().expect("no panic");
        log.push(Instant::now());
        log.len() as u64
    }

    /// How far a region's data is.
    pub(crate) fn position(&self, region: usize) -> u64 {
        let log = self.log.lock().expect("no panic");
        if self.primary.load(SeqCst) == region as u64 {
            return log.len() as u64;
        }
        let lag = self.lag_ms[region].load(SeqCst);
        if lag != u64::MAX {
            let lag = Duration::from_millis(lag);
            let applied = log.iter().rposition(|written| written.elapsed() >= lag);
            self.at[region].fetch_max(applied.map_or(0, |at| at as u64 + 1), SeqCst);
        }
        self.at[region].load(SeqCst)
    }

    /// Stands still where it is.
    pub(crate) fn pause(&self, region: usize) {
        self.position(region);
        self.lag_ms[region].store(u64::MAX, SeqCst);
    }

    pub(crate) fn follow(&self, region: usize, lag_ms: u64) {
        self.lag_ms[region].store(lag_ms, SeqCst);
    }

    fn answer(&self, region: usize, request: &Received) -> Answer {
        let (epoch, tells) = (self.epoch.load(SeqCst), self.tells.load(SeqCst));
        let is_primary = self.primary.load(SeqCst) == region as u64;
        let role = if is_primary { "primary" } else { "replica" };
        let lag = match self.lag_ms[region].load(SeqCst) {
            _ if is_primary => 0,
            u64::MAX => 10,
            lag => lag,
        };
        if request.target == "/meridian/status" {
            let position = self.position(region);
            let page = format!(
                "{{\"role\":\"{role}\",\"epoch\":{epoch},\"position\":{position},\"lag_ms\":{lag}}}"
            );
            let silent = format!("{{\"role\":\"{role}\",\"epoch\":{epoch},\"lag_ms\":{lag}}}");
            return Answer::ok(if tells { page } else { silent });
        }
        let position = match request.method.as_str() {
            "POST" if is_primary => self.write(),
            "POST" => return Answer::status(421).header("Meridian-Epoch", epoch),
            _ => self.position(region),
        };
        let mut answer = Answer::ok(position.to_string())
            .header("Meridian-Role", role)
            .header("Meridian-Epoch", epoch);
        if tells {
            answer = answer.header("Meridian-Position", position);
        }
        answer
    }
}

/// Three regions, and what they share; Europe is nearest, then Asia, then the primary.
pub(crate) struct Scene {
    pub(crate) database: Arc<Database>,
    pub(crate) backends: Vec<Backend>,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let database = Arc::new(Database::new());
        let backend = |(index, name): (usize, &&str)| {
            let database = database.clone();
            Backend::answering(name, move |request| database.answer(index, request))
        };
        let backends = [US, EU, ASIA].iter().enumerate().map(backend).collect();
        Self { database, backends }
    }

    /// `service`, `route` and `edge` hold further lines of each.
    pub(crate) fn text(&self, edge: &str, service: &str, route: &str) -> String {
        let mut text = format!("[edge]\n{edge}\n");
        for (name, role, priority) in [(US, "primary", 3), (EU, "replica", 1), (ASIA, "replica", 2)]
        {
            text += &format!(
                "[[regions]]\nid = \"{name}\"\nrole = \"{role}\"\npriority = {priority}\n"
            );
        }
        text += &format!(
            "[[services]]\nname = \"api\"\npolicy = \"priority\"\n\
             health = {{ kind = \"http\", interval = \"200ms\" }}\n{service}\n"
        );
        if !service.contains("replication") {
            text += "replication = { source = \"status\", interval = \"20ms\" }\n";
        }
        for backend in &self.backends {
            let (region, address) = (backend.name(), backend.address());
            text += &format!(
                "[[services.endpoints]]\nregion = \"{region}\"\naddress = \"{address}\"\n"
            );
        }
        text + &format!("[[routes]]\nname = \"all\"\nservice = \"api\"\n{route}\n")
    }

    pub(crate) fn edge(&self) -> Meridian {
        self.edge_of("", "", "")
    }

    /// Started, and every region's lag is known.
    pub(crate) fn edge_of(&self, edge: &str, service: &str, route: &str) -> Meridian {
        let edge = Meridian::start(&self.text(edge, service, route));
        eventually("the nearest is read", SOON, || served(&edge.get("/")) == EU);
        edge
    }
}

/// Who answered.
pub(crate) fn served(response: &Response) -> String {
    assert_eq!(response.status, 200, "{response:?}");
    response.header("X-Served-Region").unwrap_or_default().to_owned()
}

/// How far the data was.
pub(crate) fn position(response: &Response) -> u64 {
    response.text().parse().expect("a position")
}

/// The token of a response, which its cookie says as well.
pub(crate) fn token(response: &Response) -> Option<String> {
    let token = response.header("meridian-session").map(ToOwned::to_owned);
    let cookies = response.fields.all("set-cookie");
    let ours: Vec<_> = cookies.iter().filter(|cookie| cookie.starts_with("__meridian")).collect();
    match &token {
        None => assert!(ours.is_empty(), "{cookies:?}"),
        Some(token) => {
            let expected =
                format!("__meridian={token}; Path=/; Max-Age=300; HttpOnly; SameSite=Lax");
            assert_eq!(ours, [&expected]);
        }
    }
    token
}

pub(crate) fn write(edge: &Meridian, token: &str) -> Response {
    let fields = [("Meridian-Session", token), ("Connection", "close")];
    let fields = if token.is_empty() { &fields[1..] } else { &fields };
    edge.client().request("POST", "/w", fields, b"x")
}

pub(crate) fn read(edge: &Meridian, token: &str) -> Response {
    let fields = [("Meridian-Session", token), ("Connection", "close")];
    edge.client().request("GET", "/r", &fields, b"")
}

pub(crate) fn reads(edge: &Meridian, outcome: &str) -> f64 {
    let label = format!("outcome=\"{outcome}\"");
    edge.admin().metric_sum("meridian_session_reads_total", &["route=\"all\"", &label])
}

pub(crate) fn faults(edge: &Meridian, fault: &str) -> f64 {
    let label = format!("fault=\"{fault}\"");
    edge.admin().metric_sum("meridian_session_token_faults_total", &["route=\"all\"", &label])
}

/// Long enough for every status page to have been read.
pub(crate) fn settle() {
    thread::sleep(Duration::from_millis(150));
}
