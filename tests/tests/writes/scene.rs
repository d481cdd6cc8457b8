//! Two regions whose endpoints play primary and replica of one database, and an edge before them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meridian_tests::{Answer, Ask, Backend, Meridian, Received, Response, eventually};

pub(crate) const SOON: Duration = Duration::from_secs(15);
pub(crate) const US: &str = "us-east-1";
pub(crate) const EU: &str = "eu-west-1";

/// What an endpoint believes of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Belief {
    pub(crate) primary: bool,
    pub(crate) epoch: u64,
}

/// A write that an endpoint executed.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) region: &'static str,
    /// As the request said it.
    pub(crate) epoch: Option<String>,
    pub(crate) id: String,
}

/// One region's application.
pub(crate) struct Region {
    name: &'static str,
    belief: Mutex<Belief>,
    /// Whether it checks the epoch before it executes.
    pub(crate) fences: AtomicBool,
}

impl Region {
    pub(crate) fn is(&self, primary: bool, epoch: u64) {
        *self.belief.lock().expect("whole") = Belief { primary, epoch };
    }

    fn belief(&self) -> Belief {
        *self.belief.lock().expect("whole")
    }
}

/// Both regions, and what they have executed.
pub(crate) struct Scene {
    pub(crate) regions: [Arc<Region>; 2],
    pub(crate) backends: [Backend; 2],
    pub(crate) writes: Arc<Mutex<Vec<Write>>>,
    pub(crate) edge: Meridian,
    /// Further lines of the service's configuration.
    service: String,
}

/// Says who it is, as an application that takes part does.
fn with_word(answer: Answer, belief: Belief, position: u64) -> Answer {
    let role = if belief.primary { "primary" } else { "replica" };
    let answer = answer.header("Meridian-Role", role).header("Meridian-Epoch", belief.epoch);
    answer.header("Meridian-Position", position)
}

fn application(
    region: &Region,
    position: &AtomicU64,
    writes: &Mutex<Vec<Write>>,
    request: &Received,
) -> Answer {
    let belief = region.belief();
    let at = position.load(SeqCst);
    if request.target == "/meridian/status" {
        let role = if belief.primary { "primary" } else { "replica" };
        let epoch = belief.epoch;
        let text = format!(
            "{{\"role\": \"{role}\", \"epoch\": {epoch}, \"position\": {at}, \"lag_ms\": 0}}"
        );
        return Answer::ok(text).header("Content-Type", "application/json");
    }
    if matches!(request.method.as_str(), "GET" | "HEAD") {
        return with_word(Answer::ok(region.name), belief, at);
    }
    let said = request.header("meridian-epoch").map(str::to_owned);
    let current = said.as_ref().is_some_and(|said| *said == belief.epoch.to_string());
    if region.fences.load(SeqCst) && said.is_some() && !(belief.primary && current) {
        return with_word(Answer::status(421), belief, at);
    }
    let id = request.header("x-request-id").unwrap_or_default().to_owned();
    writes.lock().expect("whole").push(Write { region: region.name, epoch: said, id });
    with_word(Answer::ok(region.name), belief, position.fetch_add(1, SeqCst) + 1)
}

impl Scene {
    /// The first region is the primary of epoch 1, and the edge knows it. `service`: further lines.
    pub(crate) fn new(service: &str) -> Self {
        Self::with(service, "")
    }

    /// The same with further routes.
    pub(crate) fn with(service: &str, routes: &str) -> Self {
        let writes = Arc::<Mutex<Vec<Write>>>::default();
        let position = Arc::<AtomicU64>::default();
        let regions = [US, EU].map(|name| {
            let belief = Mutex::new(Belief { primary: name == US, epoch: 1 });
            Arc::new(Region { name, belief, fences: AtomicBool::new(true) })
        });
        let backends = [0, 1].map(|number: usize| {
            let (region, position, writes) =
                (regions[number].clone(), position.clone(), writes.clone());
            Backend::answering([US, EU][number], move |request| {
                application(&region, &position, &writes, request)
            })
        });
        let edge = Meridian::start(&config(&backends, service, routes));
        let scene = Self { regions, backends, writes, edge, service: service.to_owned() };
        scene.listen();
        scene
    }

    pub(crate) fn config(&self) -> String {
        config(&self.backends, &self.service, "")
    }

    /// Lets the edge hear both regions, by reads that each of them answers.
    pub(crate) fn listen(&self) {
        for region in [US, EU] {
            self.hear(region);
        }
    }

    /// A read that this region answers: the edge hears what it says of itself.
    pub(crate) fn hear(&self, region: &str) {
        let path = format!("/only/{region}");
        let mut answered = 0;
        eventually("the region answers a read", SOON, || {
            answered = self.edge.get(&path).status;
            answered == 200
        });
    }

    /// The second region becomes the primary, the first one knows it, the edge does not.
    pub(crate) fn promote_eu(&self, epoch: u64) {
        self.regions[1].is(true, epoch);
        self.regions[0].is(false, epoch);
    }

    pub(crate) fn post(&self) -> Response {
        Ask::post("/", "a write").send(&mut self.edge.client())
    }

    pub(crate) fn executed(&self) -> Vec<Write> {
        self.writes.lock().expect("whole").clone()
    }

    pub(crate) fn parked(&self) -> f64 {
        self.edge.admin().metric_sum("meridian_parked_requests", &[])
    }

    pub(crate) fn outcome(&self, outcome: &str) -> f64 {
        let label = format!("outcome=\"{outcome}\"");
        self.edge.admin().metric_sum("meridian_parked_requests_total", &[&label])
    }

    pub(crate) fn wait_parked(&self, count: f64) {
        eventually("so many wait", SOON, || self.parked() == count);
    }

    /// No epoch was executed in two regions, and no write twice; which regions executed how many.
    pub(crate) fn check(&self) -> BTreeMap<&'static str, usize> {
        let mut regions = BTreeMap::new();
        let mut epochs = BTreeMap::new();
        let mut ids = std::collections::BTreeSet::new();
        for write in self.executed() {
            *regions.entry(write.region).or_default() += 1;
            let first = *epochs.entry(write.epoch.clone()).or_insert(write.region);
            assert_eq!(first, write.region, "two regions executed writes of {:?}", write.epoch);
            assert!(ids.insert(write.id.clone()), "{} was executed twice", write.id);
        }
        regions
    }
}

/// Every region also answers reads under a path of its own, so that the edge can be made to hear it.
fn config(backends: &[Backend; 2], service: &str, routes: &str) -> String {
    let [us, eu] = backends.each_ref().map(Backend::address);
    let only = [US, EU].map(|region| {
        format!(
            "[[routes]]\nname = \"only-{region}\"\npath_prefix = \"/only/{region}\"\n\
             service = \"api\"\naccess = \"read\"\ncapability = \"{region}\"\n"
        )
    });
    format!(
        "[[regions]]\nid = \"{US}\"\nrole = \"primary\"\npriority = 1\ncapabilities = [\"{US}\"]\n\
         [[regions]]\nid = \"{EU}\"\nrole = \"replica\"\npriority = 2\ncapabilities = [\"{EU}\"]\n\
         [[services]]\nname = \"api\"\npolicy = \"priority\"\n\
         replication = {{ source = \"status\", interval = \"100ms\" }}\n{service}\n\
         [[services.endpoints]]\nregion = \"{US}\"\naddress = \"{us}\"\n\
         [[services.endpoints]]\nregion = \"{EU}\"\naddress = \"{eu}\"\n\
         {}{}{routes}\
         [[routes]]\nname = \"all\"\nservice = \"api\"\n",
        only[0], only[1],
    )
}

#[track_caller]
pub(crate) fn is_refused(answer: &Response) {
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    assert!(!format!("{:?}", answer.fields).to_lowercase().contains("meridian-"), "{answer:?}");
}
