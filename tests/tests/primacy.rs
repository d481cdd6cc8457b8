//! The primary is followed: by status pages, Patroni, a Prometheus page and headers; over restarts; never two at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meridian_tests::{Answer, Ask, Backend, Client, Meridian, eventually, regions};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(15);
const US: &str = "us-east-1";
const EU: &str = "eu-west-1";
const ASKED: &str = "interval = \"100ms\"\nsample_max_age = \"2s\"";

/// Two regions; each says of itself what it is told to say.
struct Pair {
    backends: [Backend; 2],
    pages: [Arc<Mutex<String>>; 2],
}

impl Pair {
    /// The page is at this path; all else is answered with the region's name.
    fn new(path: &'static str) -> Self {
        let pages: [Arc<Mutex<String>>; 2] = Default::default();
        let backends = [US, EU].map(Backend::start);
        for (backend, page) in backends.iter().zip(&pages) {
            let (name, page) = (backend.name().to_owned(), page.clone());
            backend.set(move |request| match &*request.target {
                target if target == path => {
                    let page = page.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    if page.is_empty() { Answer::status(404) } else { Answer::ok(page) }
                }
                _ => Answer::ok(name.clone()),
            });
        }
        Self { backends, pages }
    }

    fn says(&self, region: &str, page: &str) {
        let index = usize::from(region != US);
        page.clone_into(&mut *self.pages[index].lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn is(&self, region: &str, role: &str, epoch: u64) {
        self.says(region, &format!(r#"{{"role":"{role}","epoch":{epoch},"lag_ms":10}}"#));
    }

    fn text(&self, service: &str, route: &str) -> String {
        let endpoints = self.backends.each_ref().map(|b| (b.name(), b.address()));
        let service = format!("policy = \"priority\"\n{service}");
        let regions = regions(&endpoints, &service);
        format!("{regions}[[routes]]\nname = \"all\"\nservice = \"api\"\n{route}\n")
    }
}

fn by_status() -> String {
    format!("[services.replication]\nsource = \"status\"\n{ASKED}")
}

/// Where a write goes; the status if it is refused.
fn write_goes_to(client: &mut Client) -> String {
    let answer = Ask::post("/w", "x").send(client);
    if answer.status == 200 { answer.text() } else { answer.status.to_string() }
}

#[track_caller]
fn writes_go_to(edge: &Meridian, wanted: &str) {
    // A refusal may end the connection.
    eventually(&format!("writes go to {wanted}"), SOON, || {
        write_goes_to(&mut edge.client()) == wanted
    });
}

fn primary(edge: &Meridian) -> Value {
    edge.admin().json("/api/v1/services")[0]["primary"].clone()
}

/// What of primaries the history has: from, to, cause.
fn moves(edge: &Meridian) -> Vec<(String, String, String)> {
    let text = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
    let events = edge.history("").into_iter().filter(|event| event["kind"] == "primary");
    events.map(|e| (text(&e, "from"), text(&e, "to"), text(&e, "cause"))).collect()
}

#[test]
fn a_reported_promotion_is_followed_and_shown() {
    let pair = Pair::new("/meridian/status");
    pair.is(US, "primary", 3);
    pair.is(EU, "replica", 3);
    let edge = Meridian::start(&pair.text(&by_status(), ""));
    eventually("the epoch is known", SOON, || primary(&edge)["epoch"] == 3);
    writes_go_to(&edge, US);
    pair.is(EU, "primary", 4);
    writes_go_to(&edge, EU);
    // The old one goes on claiming its epoch; nobody listens.
    let mut client = edge.client();
    for _ in 0..100 {
        assert_eq!(write_goes_to(&mut client), EU);
    }
    let shown = primary(&edge);
    assert_eq!(
        (&shown["region"], &shown["epoch"], &shown["state"], &shown["source"], &shown["confirmed"]),
        (&EU.into(), &4.into(), &"settled".into(), &"reported".into(), &true.into())
    );
    let admin = edge.admin();
    assert_eq!(admin.metric_sum("meridian_primary_epoch", &[]), 4.0);
    assert_eq!(admin.metric_sum("meridian_primary", &[EU]), 1.0);
    assert_eq!(admin.metric_sum("meridian_primary", &[US]), 0.0);
    let failovers = [US, EU, "cause=\"reported\""];
    assert_eq!(admin.metric_sum("meridian_failovers_total", &failovers), 1.0);
    assert_eq!(moves(&edge), [(US.to_owned(), EU.to_owned(), "reported".to_owned())]);
    let regions = admin.json("/api/v1/regions");
    assert_eq!((&regions[0]["role"], &regions[1]["role"]), (&"replica".into(), &"primary".into()));
    let lag = String::from_utf8(edge.cli(&["lag"]).stdout).expect("text");
    assert!(lag.contains("settled") && lag.contains(EU) && lag.contains("reported"), "{lag}");
}

#[test]
fn nobody_gets_writes_while_two_claim_them_or_none_does() {
    let pair = Pair::new("/meridian/status");
    pair.is(US, "primary", 3);
    pair.is(EU, "replica", 3);
    let edge = Meridian::start(&pair.text(&by_status(), ""));
    eventually("the epoch is known", SOON, || primary(&edge)["epoch"] == 3);
    pair.is(EU, "primary", 3);
    writes_go_to(&edge, "503");
    assert_eq!(primary(&edge)["state"], "contested");
    let answer = Ask::post("/w", "x").send(&mut edge.client());
    assert!(answer.header("Retry-After").is_some());
    let explained = edge.cli(&["explain", "/w", "--method", "POST"]);
    let explained = String::from_utf8(explained.stdout).expect("text");
    assert!(explained.contains("contested, epoch 3: us-east-1"), "{explained}");
    let applied = |backend: &Backend| {
        backend.requests().iter().filter(|request| request.method == "POST").count()
    };
    let before = pair.backends.each_ref().map(applied);
    for _ in 0..100 {
        assert_eq!(write_goes_to(&mut edge.client()), "503");
    }
    assert_eq!(pair.backends.each_ref().map(applied), before);
    pair.is(EU, "replica", 3);
    writes_go_to(&edge, US);
    pair.is(US, "replica", 3);
    writes_go_to(&edge, "503");
    assert_eq!(primary(&edge)["state"], "unknown");
    pair.is(EU, "primary", 4);
    writes_go_to(&edge, EU);
}

/// Takes writes as docs/taking-part.md says: of the epoch that its own page says, and as the primary, alone.
fn is_exact(pair: &Pair) {
    for (backend, page) in pair.backends.iter().zip(&pair.pages) {
        let (name, page) = (backend.name().to_owned(), page.clone());
        backend.set(move |request| {
            let page = page.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let own: Value = serde_json::from_str(&page).unwrap_or_default();
            let wanted = request.header("Meridian-Epoch").and_then(|text| text.parse::<u64>().ok());
            let takes =
                own["role"] == "primary" && wanted.is_none_or(|epoch| own["epoch"] == epoch);
            match (&*request.target, &*request.method) {
                ("/meridian/status", _) if page.is_empty() => Answer::status(404),
                ("/meridian/status", _) => Answer::ok(page),
                (_, "POST") if !takes => Answer::status(421)
                    .header("Meridian-Role", own["role"].as_str().unwrap_or("replica"))
                    .header("Meridian-Epoch", own["epoch"].as_u64().unwrap_or(0)),
                _ => Answer::ok(name.clone()),
            }
        });
    }
}

#[test]
fn an_operator_ends_a_contest_in_the_epoch_that_the_application_has() {
    let pair = Pair::new("/meridian/status");
    is_exact(&pair);
    pair.is(US, "primary", 4);
    pair.is(EU, "replica", 4);
    let mut edge = Meridian::start(&pair.text(&by_status(), ""));
    writes_go_to(&edge, US);
    assert!(told(&edge, "status").contains("us-east-1 is the primary, epoch 4 (settled)"));
    pair.is(EU, "primary", 4);
    writes_go_to(&edge, "503");
    let status = told(&edge, "status");
    for part in
        ["writes of api in TROUBLE", "NO primary, the last was us-east-1, epoch 4 (contested)"]
    {
        assert!(status.contains(part), "{status}");
    }
    let regions = told(&edge, "regions");
    assert!(regions.contains("replica (contested)"), "{regions}");
    eventually("refusals are counted", SOON, || {
        write_goes_to(&mut edge.client());
        edge.admin().json("/api/v1/status")["writes"][0]["refused_1m"].as_u64() > Some(0)
    });
    let output = edge.cli(&["primary", EU, "--reason", "us is stopped"]);
    let said = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("eu-west-1 is the primary of api, in epoch 4"), "{said}");
    assert!(!said.contains("warning"), "{said}");
    writes_go_to(&edge, EU);
    edge.crash_and_restart();
    writes_go_to(&edge, EU);
    let shown = primary(&edge);
    assert_eq!((&shown["epoch"], &shown["decided"]), (&4.into(), &true.into()));
    // Whoever does not claim it gets the next epoch, which the application does not have: that is said.
    let body = serde_json::json!({"region": US, "reason": "no, this one"});
    let answer = edge.admin().post("/api/v1/primary", &body);
    let answer: Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!((&answer["epoch"], &answer["region"]), (&5.into(), &US.into()));
    let warning = answer["warnings"][0].as_str().unwrap_or_default();
    assert!(warning.contains("promoted once more"), "{answer}");
    writes_go_to(&edge, "503");
    let writes = edge.admin().json("/api/v1/status")["writes"][0].clone();
    assert_eq!(
        (&writes["state"], &writes["turned_away_own_epoch"]),
        (&"settled".into(), &4.into())
    );
    let status = told(&edge, "status");
    let wanted = "\"us-east-1\" answers 421 to writes of epoch 5: it says epoch 4";
    assert!(status.contains(wanted) && status.contains("writes of api in TROUBLE"), "{status}");
    let warned = || edge.stderr().matches("the primary answers 421 to writes of its epoch").count();
    assert_eq!(warned(), 1, "once, however often: {}", edge.stderr());
    // A higher epoch ends it, as ever.
    pair.is(US, "primary", 6);
    writes_go_to(&edge, US);
    let status = told(&edge, "status");
    assert!(!status.contains("TROUBLE"), "{status}");
}

#[test]
fn a_report_that_is_of_no_use_is_explained_and_an_old_lag_is_not_shown_as_if_it_were_new() {
    let pair = Pair::new("/meridian/status");
    pair.is(US, "primary", 3);
    pair.is(EU, "replica", 3);
    let edge = Meridian::start(&pair.text(&by_status(), "max_staleness = \"5s\""));
    let admin = edge.admin();
    let lag = || admin.json("/api/v1/regions")[1]["services"][0].clone();
    eventually("the lag is known", SOON, || lag()["lag_ms"] == 10 && lag()["lag_stale"] == false);
    assert_eq!(admin.metric_sum("meridian_report_faults_total", &[EU]), 0.0);
    pair.says(EU, r#"{"role":"replica","epoch":"3","lag_ms":"10"}"#);
    eventually("its lag is too old", SOON, || lag()["lag_stale"] == true);
    let endpoint = || admin.json("/api/v1/services")[0]["endpoints"][1].clone();
    let why = "invalid type: string \"3\", expected u64";
    assert!(
        endpoint()["report_error"].as_str().is_some_and(|said| said.contains(why)),
        "{}",
        endpoint()
    );
    assert!(admin.metric_sum("meridian_report_faults_total", &[EU]) > 1.0);
    for command in ["lag", "status"] {
        let said = told(&edge, command);
        assert!(said.contains(why) && said.contains("is of no use"), "{command}: {said}");
    }
    let regions = told(&edge, "regions");
    assert!(regions.contains("unknown for ") && !regions.contains(" 10 ms"), "{regions}");
    let lag_said = told(&edge, "lag");
    assert!(lag_said.contains("unknown, was 10 ms"), "{lag_said}");
    let explained = edge.cli(&["explain", "/r"]);
    let explained = String::from_utf8(explained.stdout).expect("text");
    assert!(explained.contains("unknown for "), "{explained}");
    let told_so = || edge.stderr().matches("its report is of no use").count();
    assert_eq!(told_so(), 1, "once: {}", edge.stderr());
    pair.is(EU, "replica", 3);
    eventually("all is well", SOON, || endpoint()["report_error"].is_null());
    eventually("it is told", SOON, || edge.stderr().contains("its report is well again"));
}

/// What a command says.
fn told(edge: &Meridian, command: &str) -> String {
    let output = edge.cli(&[command]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn epochs_can_be_forgotten_after_one_that_was_nonsense() {
    const FAR: u64 = 1 << 40;
    let pair = Pair::new("/meridian/status");
    is_exact(&pair);
    pair.is(EU, "replica", FAR);
    let service = format!("failover = {{ mode = \"manual\" }}\n{}", by_status());
    let mut edge = Meridian::start(&pair.text(&service, ""));
    eventually("it is believed", SOON, || primary(&edge)["epoch"] == FAR);
    pair.is(US, "primary", 4);
    pair.is(EU, "replica", 4);
    writes_go_to(&edge, "503");
    let body = serde_json::json!({"forget": true, "reason": ""});
    assert_eq!(edge.admin().post("/api/v1/primary", &body).status, 400, "without a reason");
    let output = edge.cli(&["primary", "--forget", "--reason", "eu said nonsense"]);
    let said = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("every other edge"), "{said}");
    writes_go_to(&edge, US);
    assert_eq!(primary(&edge)["epoch"], 4);
    let evidence = || edge.history("").iter().map(ToString::to_string).collect::<String>();
    assert!(evidence().contains("eu said nonsense"), "{}", evidence());
    edge.crash_and_restart();
    writes_go_to(&edge, US);
    assert_eq!(primary(&edge)["epoch"], 4);
    // Now there is something to hold it against.
    pair.is(EU, "replica", FAR);
    eventually("it is shown", SOON, || {
        edge.admin().json("/api/v1/services")[0]["endpoints"][1]["disbelieved_epoch"] == FAR
    });
    writes_go_to(&edge, US);
}

#[test]
fn no_epoch_is_forgotten_over_a_restart() {
    let pair = Pair::new("/meridian/status");
    pair.is(US, "primary", 3);
    pair.is(EU, "primary", 4);
    let mut edge = Meridian::start(&pair.text(&by_status(), ""));
    writes_go_to(&edge, EU);
    // Whoever is asked after the crash says nothing of the newer epoch.
    pair.says(EU, "");
    edge.crash_and_restart();
    let shown = primary(&edge);
    assert_eq!((&shown["epoch"], &shown["region"]), (&4.into(), &EU.into()));
    let mut client = edge.client();
    for _ in 0..50 {
        assert_eq!(write_goes_to(&mut client), EU);
    }
    pair.is(US, "primary", 5);
    writes_go_to(&edge, US);
}

#[test]
fn no_epoch_is_forgotten_over_an_upgrade() {
    let pair = Pair::new("/meridian/status");
    pair.is(US, "primary", 3);
    pair.is(EU, "primary", 4);
    let mut edge = Meridian::start(&pair.text(&by_status(), ""));
    writes_go_to(&edge, EU);
    pair.says(EU, "");
    let output = edge.cli(&["upgrade", "--output", "json"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let pid = answer["pid"].as_u64().expect("a pid");
    edge.has_handed_over_to(u32::try_from(pid).expect("a pid"));
    for _ in 0..50 {
        assert_eq!(write_goes_to(&mut edge.client()), EU);
    }
    let shown = primary(&edge);
    assert_eq!((&shown["epoch"], &shown["region"]), (&4.into(), &EU.into()));
    pair.is(US, "primary", 5);
    writes_go_to(&edge, US);
}

#[test]
fn in_manual_mode_a_report_moves_nothing() {
    let pair = Pair::new("/meridian/status");
    pair.is(US, "primary", 3);
    pair.is(EU, "replica", 3);
    let service = format!("failover = {{ mode = \"manual\" }}\n{}", by_status());
    let edge = Meridian::start(&pair.text(&service, ""));
    eventually("the epoch is known", SOON, || primary(&edge)["epoch"] == 3);
    writes_go_to(&edge, US);
    pair.is(EU, "primary", 4);
    writes_go_to(&edge, "503");
    assert_eq!(primary(&edge)["region"], US);
    // The operator says so in the file.
    let moved = pair.text(&service, "").replace("role = \"primary\"", "role = \"x\"");
    let moved = moved.replace("role = \"replica\"", "role = \"primary\"");
    let moved = moved.replace("role = \"x\"", "role = \"replica\"");
    assert_eq!(edge.reload(&moved).status, 200);
    eventually("the file's primary is in force", SOON, || {
        let shown = primary(&edge);
        shown["region"] == EU && shown["epoch"] == 5 && shown["state"] == "settled"
    });
}

fn patroni(role: &str, timeline: u64, location: u64) -> String {
    let place = if role == "replica" { "replayed_location" } else { "location" };
    format!(
        r#"{{"state": "running", "role": "{role}", "timeline": {timeline},
            "xlog": {{"{place}": {location}}}, "patroni": {{"version": "3.0.2"}}}}"#
    )
}

#[test]
fn patroni_is_followed_and_its_positions_are_lag() {
    let pair = Pair::new("/patroni");
    pair.says(US, &patroni("master", 7, 1_000_000));
    pair.says(EU, &patroni("replica", 7, 1_000_000));
    let [us, eu] = pair.backends.each_ref().map(Backend::address);
    let service = format!(
        "[services.replication]\nsource = \"patroni\"\nmax_lag = \"3s\"\nwarn_lag = \"1s\"\n\
         max_lag_bytes = \"1KiB\"\n{ASKED}"
    );
    // Read there, the replica's is the nearest; Patroni's own port would be 8008.
    let mut text = pair.text(&service, "").replace("priority = 1", "priority = 3");
    for address in [us, eu] {
        let line = format!("address = \"{address}\"");
        text = text.replace(&line, &format!("{line}\nstatus = \"{address}\""));
    }
    let edge = Meridian::start(&text);
    let mut client = edge.client();
    let read = |client: &mut Client| Ask::get("/r").send(client).text();
    eventually("the replica is fresh", SOON, || read(&mut client) == EU);
    writes_go_to(&edge, US);
    let admin = edge.admin();
    assert_eq!(primary(&edge)["epoch"], 7);
    // Bytes: the replica is not too old yet, but too far behind.
    pair.says(US, &patroni("master", 7, 1_002_000));
    eventually("it is too far behind", SOON, || read(&mut client) == US);
    eventually("the distance is shown", SOON, || {
        admin.metric_sum("meridian_replication_behind", &[EU]) == 2000.0
    });
    // Within the bytes, the time counts.
    pair.says(EU, &patroni("replica", 7, 1_001_990));
    eventually("it is near again", SOON, || {
        admin.metric_sum("meridian_replication_behind", &[EU]) == 10.0
    });
    eventually("its time is over", SOON, || {
        let lag = admin.metric_sum("meridian_replication_lag_seconds", &[EU]);
        lag >= 3.0 && read(&mut client) == US
    });
    pair.says(EU, &patroni("replica", 7, 1_002_000));
    eventually("it has caught up", SOON, || read(&mut client) == EU);
    // A failover: the old leader is a replica, the timeline is the epoch.
    pair.says(US, &patroni("replica", 7, 1_002_000));
    writes_go_to(&edge, "503");
    pair.says(EU, &patroni("master", 8, 1_002_100));
    writes_go_to(&edge, EU);
    assert_eq!(primary(&edge)["epoch"], 8);
}

#[test]
fn a_prometheus_page_is_followed() {
    let pair = Pair::new("/metrics");
    let page = |replica: u8, timeline: u64, lag: &str| {
        format!(
            "# TYPE pg_replication_is_replica gauge\npg_replication_is_replica {replica}\n\
             pg_replication_lag_seconds{{server=\"a\"}} {lag}\npg_timeline {timeline}\n"
        )
    };
    pair.says(US, &page(0, 2, "0"));
    pair.says(EU, &page(1, 2, "0.25"));
    let service = format!(
        "[services.replication]\nsource = \"prometheus\"\n{ASKED}\nmetrics = {{ epoch = \"pg_timeline\" }}"
    );
    let edge = Meridian::start(&pair.text(&service, ""));
    eventually("the lag is known", SOON, || {
        edge.admin().metric_sum("meridian_replication_lag_seconds", &[EU]) == 0.25
    });
    writes_go_to(&edge, US);
    pair.says(US, &page(1, 3, "0"));
    pair.says(EU, &page(0, 3, "0"));
    writes_go_to(&edge, EU);
    assert_eq!(primary(&edge)["epoch"], 3);
}

#[test]
fn probes_hear_roles_in_headers_and_the_lag_of_an_old_primary_does_not_count() {
    let pair = Pair::new("/probe");
    for (backend, role) in pair.backends.iter().zip(["primary", "replica"]) {
        let name = backend.name().to_owned();
        backend.set(move |request| {
            let answer = Answer::ok(name.clone());
            if request.target != "/probe" {
                return answer;
            }
            let said = answer.header("Meridian-Role", role).header("Meridian-Epoch", 3);
            said.header("Meridian-Position", 50).header("Meridian-Lag-Ms", 0)
        });
    }
    let service = "health = { path = \"/probe\", interval = \"100ms\" }\n\
                   [services.replication]\nsource = \"headers\"\nsample_max_age = \"1s\"";
    let edge = Meridian::start(&pair.text(service, "max_staleness = \"5s\""));
    eventually("the epoch is known", SOON, || primary(&edge)["epoch"] == 3);
    let positions = || {
        let services = edge.admin().json("/api/v1/services");
        [0, 1].map(|n| services[0]["endpoints"][n]["position"].clone())
    };
    eventually("positions are known", SOON, || positions() == [50, 50].map(Value::from));
    let name = EU.to_owned();
    pair.backends[1].set(move |request| {
        let answer = Answer::ok(name.clone());
        if request.target != "/probe" {
            return answer;
        }
        answer.header("Meridian-Role", "primary").header("Meridian-Epoch", 4)
    });
    writes_go_to(&edge, EU);
    // It still says that it is the primary, without lag, in an epoch that is over.
    eventually("its last sample is old", SOON, || {
        let lag = edge.admin().json("/api/v1/regions")[0]["services"][0].clone();
        lag["lag_age_ms"].as_u64().is_none_or(|age| age > 1_000)
    });
    let mut client = edge.client();
    for _ in 0..50 {
        assert_eq!(Ask::get("/r").send(&mut client).text(), EU);
    }
    assert_eq!(positions()[0], Value::Null, "positions of another epoch say nothing");
}
