//! Webhooks: changes of state of regions are told, signed, over retries and within bounds.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use meridian_tests::{
    Answer, Ask, Backend, Meridian, Site, by_priority, eventually, free_address, run,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
const US: &str = "us-east-1";
const WEST: &str = "us-west-2";

fn get(edge: &Meridian) -> u16 {
    Ask::get("/r").send(&mut edge.client()).status
}

/// A webhook that answers the first requests with `statuses`, then 200, and remembers what it took.
struct Hook {
    backend: Backend,
    asked: Arc<AtomicUsize>,
    taken: Arc<Mutex<Vec<Value>>>,
}

impl Hook {
    fn start(statuses: &'static [u16]) -> Self {
        let (asked, taken) = (Arc::new(AtomicUsize::new(0)), Arc::<Mutex<Vec<_>>>::default());
        let (count, list) = (asked.clone(), taken.clone());
        let backend = Backend::answering("hook", move |request| {
            let turn = count.fetch_add(1, SeqCst);
            match statuses.get(turn) {
                Some(status) => Answer::status(*status),
                None => {
                    let event = serde_json::from_slice(&request.body).expect("JSON");
                    list.lock().expect("no panic").push(event);
                    Answer::ok("thanks")
                }
            }
        });
        Self { backend, asked, taken }
    }

    fn taken(&self) -> Vec<Value> {
        self.taken.lock().expect("no panic").clone()
    }
}

fn hmac(key: &str, body: &[u8]) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("body"), body).expect("writes");
    let script = "import hmac,sys;print(hmac.new(sys.argv[1].encode(),\
                  open(sys.argv[2],'rb').read(),'sha256').hexdigest())";
    let file = dir.path().join("body");
    let output = Command::new("python3").args(["-c", script, key]).arg(file).output();
    String::from_utf8_lossy(&output.expect("python3").stdout).trim().to_owned()
}

#[test]
fn a_webhook_is_told_signed_and_over_retries() {
    let (us, west) = (Backend::start(US), Backend::start(WEST));
    let hook = Hook::start(&[500, 503]);
    let keys = tempfile::tempdir().expect("a directory");
    fs::write(keys.path().join("key"), "s3cret-key\n").expect("writes");
    let alerts = format!(
        "[alerts]\nurl = \"http://{}/hooks/${{TOKEN}}\"\nbackoff = \"20ms\"\n\
         secret_file = \"{}/key\"\nheaders = {{ authorization = \"Bearer ${{TOKEN}}\" }}\n",
        hook.backend.address(),
        keys.path().display()
    );
    let edge = Meridian::start_with(
        &format!("{alerts}{}", by_priority(&[&us, &west])),
        &[("TOKEN", "t0ken")],
    );
    edge.became(US, "healthy");
    us.kill();
    let down = edge.became(US, "down");
    us.revive();
    edge.became(US, "healthy");
    eventually("both are told", SOON, || hook.taken().len() >= 2);
    let told = hook.taken();
    assert_eq!(told[0], down, "exactly what the history has");
    assert_eq!((&told[1]["from"], &told[1]["to"]), (&json!("down"), &json!("healthy")));
    assert_eq!(hook.asked.load(SeqCst), 4, "twice it was not taken; first verdicts alert nobody");
    let requests = hook.backend.requests();
    for request in &requests {
        assert_eq!((&*request.method, &*request.target), ("POST", "/hooks/t0ken"));
        assert_eq!(request.header("Authorization"), Some("Bearer t0ken"));
        assert_eq!(request.header("Content-Type"), Some("application/json"));
        let signature = format!("sha256={}", hmac("s3cret-key", &request.body));
        assert_eq!(request.header("X-Meridian-Signature"), Some(&*signature));
    }
    let ids: Vec<_> = requests.iter().map(|r| r.header("X-Meridian-Delivery")).collect();
    assert!(ids[0].is_some() && ids[0] == ids[2] && ids[2] != ids[3], "{ids:?}");
    assert_eq!(requests[2].header("X-Meridian-Event"), Some("down"));
    assert_eq!(requests[3].header("X-Meridian-Event"), Some("recovered"));
    let admin = edge.admin();
    eventually("it is counted", SOON, || {
        admin.metric("meridian_alerts_total{result=\"delivered\"}") == Some(2.0)
            && admin.metric("meridian_alerts_waiting") == Some(0.0)
    });
    // Secrets are nobody's business.
    let printed = run(&["config", "print", "--effective", "-c", "meridian.toml"], edge.dir());
    assert!(!printed.status.success(), "without the variable there is no configuration");
    let page = [
        admin.get("/api/v1/config").text(),
        admin.get("/api/v1/status").text(),
        admin.get("/metrics").text(),
        edge.stderr(),
    ]
    .concat();
    assert!(!page.contains("t0ken") && !page.contains("s3cret-key"), "{page}");
    assert!(page.contains("${TOKEN}"), "as the file writes it");
}

#[test]
fn a_webhook_that_is_away_is_waited_for_within_bounds() {
    let (us, west) = (Backend::start(US), Backend::start(WEST));
    let address = free_address();
    let alerts = format!(
        "[alerts]\nurl = \"http://{address}/\"\nbackoff = \"50ms\"\nretries = 100\nqueue = 2\n\
         timeout = \"500ms\"\nevents = [\"weight\"]\n"
    );
    let edge = Meridian::start(&format!("{alerts}{}", by_priority(&[&us, &west])));
    let path = format!("/api/v1/regions/{WEST}/weight");
    for weight in 1..=6 {
        let begun = Instant::now();
        assert_eq!(edge.admin().put(&path, &json!({ "weight": weight })).status, 200);
        assert!(begun.elapsed() < Duration::from_secs(5), "nobody waits for the webhook");
    }
    let alerts = || edge.admin().json("/api/v1/status")["alerts"].clone();
    eventually("it is known to be away", SOON, || {
        alerts()["last_error"].as_str().is_some_and(|why| why.to_lowercase().contains("refused"))
    });
    let told = alerts();
    let (waiting, dropped) = (told["waiting"].as_u64(), told["dropped"].as_u64());
    assert!(waiting <= Some(3) && waiting.zip(dropped).is_some_and(|(w, d)| w + d == 6), "{told}");
    assert_eq!(get(&edge), 200);
    let taken = Arc::new(Mutex::new(Vec::new()));
    let list = taken.clone();
    let hook = Backend::answering_at("hook", address, move |request| {
        let event: Value = serde_json::from_slice(&request.body).expect("JSON");
        list.lock().expect("no panic").push(event["to"].clone());
        Answer::ok("")
    });
    let _hook = hook.expect("the address is still free");
    eventually("what waited is told", SOON, || alerts()["delivered"] == waiting.unwrap_or(0));
    let taken = taken.lock().expect("no panic").clone();
    assert_eq!(taken[0], "1", "in order, from the first on: {taken:?}");
    assert_eq!(alerts()["last_error"], Value::Null);
}

#[test]
fn a_webhook_with_tls_must_prove_who_it_is() {
    let (us, west) = (Backend::start(US), Backend::start(WEST));
    let hook = Hook::start(&[]);
    let site = Site::new(&[("hook", &["localhost"])]);
    // A name that every hosts file has.
    let port = free_address().port();
    // A second edge stands before the webhook, since it can do TLS.
    let front = format!(
        "{}[[regions]]\nid = \"here\"\n[[services]]\nname = \"hook\"\n\
         endpoints = [{{ region = \"here\", address = \"{}\" }}]\n\
         [[routes]]\nname = \"all\"\nservice = \"hook\"\naccess = \"write\"\n",
        site.listener(&["hook"], &format!("address = \"127.0.0.1:{port}\"")),
        hook.backend.address()
    );
    let _front = Meridian::start(&front);
    let config = |ca: &str| {
        let lines = "backoff = \"20ms\"\nretries = 100\nevents = [\"weight\"]\n";
        format!(
            "[alerts]\nurl = \"https://localhost:{port}/h\"\nca = \"{ca}\"\n{lines}{}",
            by_priority(&[&us, &west])
        )
    };
    let stranger = Site::new(&[]);
    let edge = Meridian::start(&config(&stranger.root().display().to_string()));
    let path = format!("/api/v1/regions/{WEST}/weight");
    assert_eq!(edge.admin().put(&path, &json!({ "weight": 5 })).status, 200);
    let alerts = || edge.admin().json("/api/v1/status")["alerts"].clone();
    eventually("the certificate is turned down", SOON, || {
        alerts()["last_error"].as_str().is_some_and(|why| why.contains("certificate"))
    });
    assert_eq!(hook.taken().len(), 0);
    // A file of roots that is none is refused, and the webhook in force stays.
    let broken = edge.reload(&config("/dev/null"));
    assert_eq!(broken.status, 422, "{}", broken.text());
    assert!(broken.text().contains("alerts: ca: /dev/null"), "{}", broken.text());
    let mended = edge.reload(&config(&site.root().display().to_string()));
    assert_eq!(mended.status, 200, "{}", mended.text());
    eventually("the event under way is told", SOON, || hook.taken().len() == 1);
    assert_eq!(hook.taken()[0]["to"], "5");
    // The refusal is part of the history, and that it was mended.
    let kinds: Vec<_> = edge
        .history("")
        .into_iter()
        .filter(|event| event["kind"] == "configuration")
        .map(|event| (event["from"].clone(), event["to"].clone()))
        .collect();
    assert_eq!(
        kinds,
        [(json!("accepted"), json!("refused")), (json!("refused"), json!("accepted"))]
    );
}
