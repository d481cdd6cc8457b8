//! Outlier ejection in the keeper: who is ejected, for how long, and how they come back.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use meridian_config::{Config, EndpointKey};
use meridian_control::{Event, Finding, KeeperState, Notice, ProbeFingerprint, ProbeReport};
use meridian_routing::{
    Desired, Ejection, EjectionCause, EndpointHealth, EndpointView, Fault, Micros, Outcome,
    Suspicion,
};

/// One region with so many endpoints, and another with one.
fn text(endpoints: usize, service: &str) -> String {
    let mut text = String::from(
        "[[listeners]]\nname = \"l\"\naddress = \"127.0.0.1:1\"\n\
         [[regions]]\nid = \"us\"\nrole = \"primary\"\ncoordinates = [1.0, 2.0]\n\
         [[regions]]\nid = \"eu\"\nrole = \"replica\"\ncoordinates = [3.0, 4.0]\n",
    );
    text += &format!("[[services]]\nname = \"api\"\n{service}\n");
    for n in 0..=endpoints {
        let region = if n < endpoints { "us" } else { "eu" };
        text += &format!(
            "[[services.endpoints]]\nregion = \"{region}\"\naddress = \"10.0.0.{n}:80\"\n"
        );
    }
    text + "[[routes]]\nname = \"all\"\nservice = \"api\"\n"
}

fn config(text: &str) -> Arc<Config> {
    match Config::parse(text, Path::new("/test/meridian.toml"), &|_| None) {
        Ok(loaded) => Arc::new(loaded.config),
        Err(errors) => panic!("{errors}\n{text}"),
    }
}

struct Bench {
    state: KeeperState,
    now: Micros,
}

impl Bench {
    /// All endpoints are healthy by probes, or not probed.
    fn new(endpoints: usize, service: &str) -> Self {
        let config = config(&text(endpoints, service));
        let (state, _) = KeeperState::new(config, Default::default(), 0).expect("starts");
        let mut bench = Self { state, now: Micros(1_000_000) };
        if !service.contains("none") {
            for n in 0..=endpoints {
                bench.probe(n, EndpointHealth::Healthy);
            }
        }
        bench
    }

    fn apply(&mut self, event: Event) -> Vec<Notice> {
        let notices = self.state.apply(event, self.now, 0).expect("accepted");
        self.state.commit();
        let table = self.state.table();
        table.check_invariants(self.state.overrides(), self.state.observed()).expect("invariants");
        notices
    }

    fn pass(&mut self, time: Duration) -> Vec<Notice> {
        let (mut notices, until) = (Vec::new(), self.now.plus(time));
        // As the keeper does: about once a second, and when an ejection's time is over.
        while self.now < until {
            let next = self.state.next_trial().unwrap_or(until);
            self.now = next.min(self.now.plus(Duration::from_secs(1))).min(until);
            notices.extend(self.apply(Event::Tick));
        }
        notices.retain(|notice| *notice != Notice::RoundTrips);
        notices
    }

    fn view(&self, n: usize) -> &EndpointView {
        &self.state.table().services[0].endpoints[n]
    }

    fn key(&self, n: usize) -> EndpointKey {
        self.view(n).key.clone()
    }

    fn ejection(&self, n: usize) -> Option<&Ejection> {
        self.view(n).ejection.as_ref()
    }

    fn finding(&mut self, n: usize, finding: Finding) -> Vec<Notice> {
        self.apply(Event::Outlier { key: self.key(n), finding })
    }

    fn suspect(&mut self, n: usize, cause: EjectionCause) -> Vec<Notice> {
        self.finding(n, Finding::Suspicion(Suspicion { cause, count: 3 }))
    }

    /// The endpoint's probes say this from now on; `Healthy` and `Unknown` are passes.
    fn probe(&mut self, n: usize, health: EndpointHealth) -> Vec<Notice> {
        let failed = health == EndpointHealth::Unhealthy;
        let report = ProbeReport {
            key: self.key(n),
            fingerprint: ProbeFingerprint::of(&self.state.desired().services[0]),
            health,
            cause: failed.then(|| "refused".into()),
            round_trip: None,
        };
        self.apply(Event::Probe(report))
    }

    /// So many requests end at an endpoint, well or not.
    fn traffic(&self, n: usize, well: u32, faulty: u32) {
        let load = &self.view(n).load;
        let answered = Outcome::Answered(Duration::from_millis(1));
        let failed = Outcome::Faulty(Fault::ServerError, None);
        for (count, outcome) in [(well, answered), (faulty, failed), (5, Outcome::Abandoned)] {
            (0..count).for_each(|_| load.begin());
            (0..count).for_each(|_| load.end(outcome, self.now));
        }
    }

    fn length(&self, n: usize) -> Duration {
        let ejection = self.ejection(n).expect("ejected");
        ejection.until.since(ejection.since)
    }
}

const SECOND: Duration = Duration::from_secs(1);
const FAILURES: EjectionCause = EjectionCause::ConnectionFailures;

fn is_due(notices: &[Notice]) -> bool {
    notices.iter().any(|notice| matches!(notice, Notice::TrialDue { .. }))
}

fn reload(text: &str) -> Event {
    let desired = Desired::new(config(text)).expect("small expressions");
    Event::Reload { desired, actor: "file".into(), digest: "0".into() }
}

#[test]
fn a_suspicion_ejects_and_a_probe_that_passes_begins_the_trial() {
    let mut bench = Bench::new(4, "");
    let generation = bench.state.table().generation;
    let notices = bench.suspect(0, FAILURES);
    assert!(matches!(&notices[..], [Notice::Ejected { .. }]), "{notices:?}");
    assert_eq!(bench.state.table().generation, generation + 1);
    let ejection = bench.ejection(0).expect("ejected");
    assert_eq!((&*ejection.evidence, ejection.times), ("3 connection failures in a row", 1));
    assert_eq!(bench.length(0), 5 * SECOND);
    assert!(!bench.view(0).serves());
    assert_eq!(bench.suspect(0, FAILURES), [], "it is out already");
    bench.now = bench.now.plus(SECOND);
    assert!(is_due(&bench.probe(0, EndpointHealth::Healthy)));
    assert!(bench.ejection(0).is_some_and(|e| e.trial));
    assert!(bench.view(0).load.begin_trial());
    let notices = bench.finding(0, Finding::TrialPassed);
    assert!(matches!(&notices[..], [Notice::Returned { after, .. }] if *after == SECOND));
    assert!(bench.view(0).serves());
    assert_eq!(bench.view(0).recovered_at, Some(bench.now), "it starts slowly");
    assert_eq!(bench.finding(0, Finding::TrialPassed), [], "a late word changes nothing");
}

#[test]
fn what_a_probe_cannot_refute_lasts_its_time() {
    for cause in [EjectionCause::Consecutive5xx, EjectionCause::SuccessRatio] {
        let mut bench = Bench::new(4, "");
        bench.suspect(0, cause);
        for _ in 0..9 {
            bench.now = bench.now.plus(SECOND / 2);
            assert_eq!(bench.probe(0, EndpointHealth::Healthy), []);
        }
        assert_eq!(bench.pass(Duration::from_millis(499)), []);
        assert!(is_due(&bench.pass(Duration::from_millis(1))));
    }
}

#[test]
fn without_probes_time_alone_leads_to_the_trial() {
    let mut bench = Bench::new(4, "health.kind = \"none\"");
    bench.suspect(0, FAILURES);
    assert_eq!(bench.pass(Duration::from_millis(4_999)), []);
    assert!(is_due(&bench.pass(Duration::from_millis(1))));
}

#[test]
fn the_unhealthy_have_no_trial_until_a_probe_passes() {
    let mut bench = Bench::new(4, "");
    bench.suspect(0, FAILURES);
    bench.probe(0, EndpointHealth::Unhealthy);
    assert!(!is_due(&bench.pass(20 * SECOND)));
    assert_eq!(bench.state.next_trial(), None, "nothing to wake up for");
    let outs = bench.view(0).load.outs();
    assert_eq!(outs, 2, "who waits for it was told, by both");
    assert!(is_due(&bench.probe(0, EndpointHealth::Healthy)));
}

#[test]
fn every_failed_trial_makes_it_longer_and_time_in_service_is_forgotten() {
    let mut bench = Bench::new(4, "outlier.ejection = \"20s\"");
    bench.suspect(0, FAILURES);
    for n in 2..=20_u32 {
        bench.pass(bench.length(0));
        assert!(bench.ejection(0).is_some_and(|e| e.trial));
        bench.finding(0, Finding::TrialFailed(Fault::Connection));
        assert_eq!(bench.length(0), (20 * n * SECOND).min(300 * SECOND));
        assert_eq!(bench.probe(0, EndpointHealth::Healthy), [], "only the first is refuted early");
        let ejection = bench.ejection(0).expect("ejected");
        let expected = "the request on trial got no answer; before that: 3 connection failures \
                        in a row";
        assert_eq!((&*ejection.evidence, ejection.times), (expected, n));
    }
    bench.pass(bench.length(0));
    bench.finding(0, Finding::TrialPassed);
    // 17 are forgotten in 17 x 30 s.
    bench.pass(510 * SECOND);
    bench.suspect(0, FAILURES);
    assert_eq!(bench.ejection(0).map(|e| e.times), Some(4));
    let service = &bench.state.table().services[0];
    let pool = service.pool(bench.view(0).region).expect("endpoints");
    assert_eq!(
        (pool.load.0.ejections(FAILURES), pool.load.0.ejections(EjectionCause::Trial)),
        (2, 19)
    );
}

#[test]
fn no_more_than_the_allowed_share_of_a_region_but_one_always() {
    for (endpoints, service, allowed) in [
        (4, "", 2),
        (5, "", 2),
        (1, "", 1),
        (3, "outlier.max_ejected = 0.0", 1),
        (3, "outlier.max_ejected = 1.0", 3),
    ] {
        let mut bench = Bench::new(endpoints, service);
        for n in 0..endpoints {
            bench.view(n).load.begin();
            let ejected = !bench.suspect(n, FAILURES).is_empty();
            assert_eq!(ejected, n < allowed, "{endpoints} {service} {n}");
        }
        // The other region counts by itself.
        assert_eq!(bench.suspect(endpoints, FAILURES).len(), 1);
        // Who is out by probes makes room.
        if endpoints == 5 {
            bench.probe(0, EndpointHealth::Unhealthy);
            assert_eq!(bench.suspect(4, FAILURES).len(), 1);
            assert_eq!(bench.suspect(0, FAILURES), [], "it is out anyway");
        }
    }
}

#[test]
fn who_may_not_be_ejected_takes_requests_again_at_once() {
    let mut bench = Bench::new(3, "");
    bench.suspect(0, FAILURES);
    for _ in 0..3 {
        bench.view(1).load.begin();
        bench.view(1).load.end(Outcome::Faulty(Fault::Connection, None), bench.now);
    }
    let limits = bench.state.desired().services[0].outlier.clone();
    let suspicion = bench.view(1).load.suspect(&limits, bench.now).expect("a suspicion");
    assert_eq!(bench.finding(1, Finding::Suspicion(suspicion)), []);
    // And the keeper is not asked again for a second.
    assert_eq!(bench.view(1).load.suspect(&limits, bench.now.plus(SECOND / 2)), None);
    assert!(bench.view(1).load.suspect(&limits, bench.now.plus(SECOND)).is_some());
}

#[test]
fn the_ratio_is_that_of_ten_seconds_and_of_twenty_requests() {
    let mut bench = Bench::new(4, "outlier.consecutive_5xx = 0");
    bench.pass(SECOND);
    bench.traffic(0, 10, 10);
    bench.traffic(1, 1, 18);
    bench.traffic(2, 9, 11);
    let notices = bench.pass(SECOND);
    let evidence = "9 of 20 requests in 10 s were answered well";
    let [Notice::Ejected { key, ejection }] = &notices[..] else { panic!("{notices:?}") };
    assert_eq!((key, &*ejection.evidence), (&bench.key(2), evidence));
    // What is older than the window does not count, what is younger does.
    bench.pass(8 * SECOND);
    bench.traffic(1, 0, 1);
    assert_eq!(bench.pass(SECOND).len(), 1, "1 of 20");
    bench.pass(2 * SECOND);
    bench.traffic(0, 0, 1);
    assert!(!bench.pass(SECOND).iter().any(|n| matches!(n, Notice::Ejected { .. })));
}

#[test]
fn after_its_return_an_endpoint_is_judged_afresh() {
    let mut bench = Bench::new(4, "health.kind = \"none\"\noutlier.ejection = \"1s\"");
    bench.pass(SECOND);
    bench.traffic(0, 0, 100);
    assert_eq!(bench.pass(SECOND).len(), 1);
    bench.pass(SECOND);
    bench.finding(0, Finding::TrialPassed);
    assert_eq!(bench.pass(3 * SECOND), []);
    assert!(bench.ejection(0).is_none());
}

#[test]
fn a_reload_keeps_ejections_and_forgets_those_of_who_is_gone() {
    for service in ["", "health.kind = \"none\""] {
        let mut bench = Bench::new(4, service);
        bench.suspect(0, FAILURES);
        bench.suspect(3, FAILURES);
        let before = bench.ejection(0).cloned();
        let reloaded = text(3, &format!("{service}\nretry.attempts = 1"));
        bench.apply(reload(&reloaded));
        assert_eq!(bench.ejection(0).cloned(), before);
        // 10.0.0.3 stands in another region now: that is another endpoint.
        assert_eq!(bench.ejection(3), None);
        // So does a change of the probe's question, which its health does not survive.
        let other = text(3, "health.kind = \"tcp\"");
        bench.apply(reload(&other));
        assert_eq!(bench.ejection(0).cloned(), before);
        assert_eq!(bench.view(0).health, EndpointHealth::Unknown);
        assert!(!is_due(&bench.pass(10 * SECOND)), "never judged: no trial");
        assert!(is_due(&bench.probe(0, EndpointHealth::Healthy)));
    }
}
