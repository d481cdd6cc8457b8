//! Three regions over one ledger; a file says who is the primary of which epoch, and the hook writes it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meridian_tests::{Answer, Ask, Backend, Load, Meridian, Received, eventually, regions};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const US: &str = "us-east-1";
pub(crate) const EU: &str = "eu-west-1";
pub(crate) const ASIA: &str = "ap-southeast-1";
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// What all regions share.
pub(crate) struct Ledger {
    file: PathBuf,
    /// Region and target of every write that was applied.
    applied: Mutex<Vec<(String, String)>>,
    position: AtomicU64,
    /// Replicas have nothing of what was written since.
    pub(crate) paused: AtomicBool,
    replayed: AtomicU64,
}

impl Ledger {
    /// The primary and its epoch, as the database would know them.
    pub(crate) fn primary(&self) -> (String, u64) {
        let text = fs::read_to_string(&self.file).expect("a file");
        let (region, epoch) = text.trim().split_once(' ').expect("a region and an epoch");
        (region.to_owned(), epoch.parse().expect("an epoch"))
    }

    pub(crate) fn applied(&self) -> Vec<(String, String)> {
        self.applied.lock().expect("no panic").clone()
    }

    fn position_of(&self, is_primary: bool) -> u64 {
        let position = self.position.load(SeqCst);
        if is_primary {
            return position;
        }
        if !self.paused.load(SeqCst) {
            self.replayed.fetch_max(position, SeqCst);
        }
        self.replayed.load(SeqCst)
    }

    fn answer(&self, region: &str, request: &Received) -> Answer {
        let (primary, epoch) = self.primary();
        let is_primary = primary == region;
        let role = if is_primary { "primary" } else { "replica" };
        let lag_ms = if !is_primary && self.paused.load(SeqCst) { 5000 } else { 0 };
        if request.target == "/meridian/status" {
            let position = self.position_of(is_primary);
            let page =
                json!({ "role": role, "epoch": epoch, "position": position, "lag_ms": lag_ms });
            return Answer::ok(page.to_string());
        }
        let said =
            |answer: Answer| answer.header("Meridian-Role", role).header("Meridian-Epoch", epoch);
        if request.method != "POST" {
            return said(Answer::ok("read"));
        }
        let theirs = request.header("meridian-epoch").and_then(|text| text.parse::<u64>().ok());
        if !is_primary || theirs != Some(epoch) {
            return said(Answer::status(421));
        }
        self.applied.lock().expect("no panic").push((region.to_owned(), request.target.clone()));
        let position = self.position.fetch_add(1, SeqCst) + 1;
        said(Answer::ok("written")).header("Meridian-Position", position)
    }
}

pub(crate) struct World {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) edge: Meridian,
    pub(crate) backends: Vec<Backend>,
    /// Gone last: the others read what is in it.
    dir: TempDir,
}

/// Writes down what it is asked, does what the test wants besides, and makes the region the primary.
const HOOK: &str = r#"
echo "$MERIDIAN_OPERATION $MERIDIAN_FROM $MERIDIAN_TO $MERIDIAN_EPOCH $MERIDIAN_SERVICE $MERIDIAN_REASON" >> DIR/runs
if [ -f DIR/besides ]; then . DIR/besides; fi
echo "$1 $MERIDIAN_EPOCH" > DIR/next && mv DIR/next DIR/primary
echo "$1 is promoted"
"#;

impl World {
    /// `failover`: further keys of the table, such as `mode = "hook"`.
    pub(crate) fn start(failover: &str) -> Self {
        let dir = TempDir::new().expect("a directory");
        let path = dir.path().display().to_string();
        fs::write(dir.path().join("primary"), format!("{US} 1")).expect("writes");
        fs::write(dir.path().join("promote.sh"), HOOK.replace("DIR", &path)).expect("writes");
        let ledger = Arc::new(Ledger {
            file: dir.path().join("primary"),
            applied: Mutex::default(),
            position: AtomicU64::new(100),
            paused: AtomicBool::new(false),
            replayed: AtomicU64::new(0),
        });
        let backend = |region: &str| {
            let (ledger, name) = (ledger.clone(), region.to_owned());
            Backend::answering(region, move |request| ledger.answer(&name, request))
        };
        let backends: Vec<_> = [US, EU, ASIA].map(backend).into();
        let edge = Meridian::start(&config(&backends, failover, &path));
        let world = Self { ledger, edge, backends, dir };
        world.until("the primary is known", |primacy| primacy["epoch"] == 1);
        for region in [EU, ASIA] {
            eventually("how far each is behind is known", SOON, || world.may_take_over(region));
        }
        world
    }

    fn may_take_over(&self, region: &str) -> bool {
        let body = json!({ "to": region, "dry_run": true });
        let plan = self.edge.admin().post("/api/v1/services/api/switchover", &body).json();
        plan["refused"] == json!([])
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What the hook does before it promotes, in the shell's words.
    pub(crate) fn besides(&self, script: &str) {
        fs::write(self.dir().join("besides"), script).expect("writes");
    }

    /// What the hook was asked, a line for each run.
    pub(crate) fn runs(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir().join("runs")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// What the edge knows of the primary, by its history's own words.
    pub(crate) fn primacy(&self) -> Value {
        let services = self.edge.admin().json("/api/v1/services");
        services[0]["primary"].clone()
    }

    #[track_caller]
    pub(crate) fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) {
        let found = meridian_tests::poll(SOON, || holds(&self.primacy()).then_some(()));
        assert!(found.is_some(), "not in time: {what}: {}", self.primacy());
    }

    pub(crate) fn operation(&self) -> Value {
        self.edge.admin().json("/api/v1/services/api/operation")
    }

    /// Waits for the end of the operation under way.
    #[track_caller]
    pub(crate) fn ended(&self) -> Value {
        let over = || Some(self.operation()).filter(|view| view["state"] != "running");
        meridian_tests::poll(SOON, over).unwrap_or_else(|| panic!("{:#}", self.operation()))
    }

    /// Waits until a step of the operation under way has begun.
    #[track_caller]
    pub(crate) fn at(&self, step: &str) {
        let there = || {
            let view = self.operation();
            let steps = view["steps"].as_array().expect("steps").clone();
            steps.last().is_some_and(|last| last["step"] == step).then_some(())
        };
        let found = meridian_tests::poll(SOON, there);
        assert!(found.is_some(), "never at {step}: {:#}", self.operation());
    }

    /// Begins an operation; the answer must be 202.
    #[track_caller]
    pub(crate) fn begin(&self, operation: &str, body: &Value) -> Value {
        let answer = self.edge.admin().post(&format!("/api/v1/services/api/{operation}"), body);
        assert_eq!(answer.status, 202, "{}", answer.text());
        answer.json()
    }

    /// One write and the region that took it.
    #[track_caller]
    pub(crate) fn write(&self) -> (u16, Option<String>) {
        let answer = Ask::post("/once", "x").send(&mut self.edge.client());
        (answer.status, answer.header("X-Served-Region").map(str::to_owned))
    }

    pub(crate) fn writes(&self) -> Load {
        Load::start(self.edge.address(), 4, |serial| Ask::post(format!("/w/{serial}"), "x"))
    }
}

fn config(backends: &[Backend], failover: &str, dir: &str) -> String {
    let endpoints: Vec<_> = backends.iter().map(|b| (b.name(), b.address())).collect();
    let service = format!(
        "policy = \"priority\"\n\
         health = {{ interval = \"100ms\", fast_interval = \"50ms\" }}\n\
         replication = {{ source = \"status\", interval = \"100ms\" }}\n\
         failover = {{ cooldown = \"0s\", {} }}\n",
        failover.replace("DIR", dir)
    );
    let mut text = regions(&endpoints, &service);
    for (order, region) in [EU, ASIA].iter().enumerate() {
        let id = format!("id = \"{region}\"\n");
        text = text.replace(&id, &format!("{id}failover_order = {}\n", order + 1));
    }
    format!("{text}[[routes]]\nname = \"all\"\nservice = \"api\"\n")
}

/// The hook of the world's directory, and a mode.
pub(crate) fn hooked(mode: &str) -> String {
    format!("mode = \"{mode}\", hook = [\"/bin/sh\", \"DIR/promote.sh\"]")
}

/// Nothing was applied twice, and what was acknowledged was applied.
pub(crate) fn assert_exactly_once(world: &World, account: &meridian_tests::Account) {
    let applied = world.ledger.applied();
    let counts = meridian_tests::tally(applied.iter().map(|(_, target)| target.clone()));
    for (target, count) in &counts {
        assert!(*count == 1 || target == "/once", "{target} was applied {count} times");
    }
    for outcome in account.0.iter().filter(|outcome| outcome.is_fine()) {
        let target = format!("/w/{}", outcome.serial);
        assert!(counts.contains_key(&target), "{target} was acknowledged and is lost");
    }
}
