//! Reads that are late go to a second endpoint as well; nothing else does.

use std::time::{Duration, Instant};

use meridian_tests::{Answer, Ask, Backend, Load, Meridian, Received, eventually, regions, tally};

const US: &str = "us-east-1";
const SOON: Duration = Duration::from_secs(20);
const SLOW: Duration = Duration::from_millis(900);

/// Two endpoints that have turns; the first one answers as `first` says, the second at once.
struct Pair {
    first: Backend,
    second: Backend,
    edge: Meridian,
}

impl Pair {
    fn new(
        hedge: &str,
        first: impl Fn(&Received) -> Answer + Send + Sync + 'static,
        second: impl Fn(&Received) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let (first, second) = (Backend::answering(US, first), Backend::answering(US, second));
        let endpoints = [(US, first.address()), (US, second.address())];
        let service = "balance = \"round_robin\"\nhealth.kind = \"none\"\n\
                       outlier.success_ratio = 0\noutlier.consecutive_5xx = 0\n";
        let text = regions(&endpoints, service);
        let text =
            format!("{text}[[routes]]\nname = \"all\"\nservice = \"api\"\nhedge = {hedge}\n");
        Self { first, second, edge: Meridian::start(&text) }
    }

    fn count(&self, outcome: &str) -> f64 {
        let label = format!("outcome=\"{outcome}\"");
        self.edge.admin().metric_sum("meridian_hedges_total", &[label.as_str()])
    }

    /// How often each request's target reached an endpoint.
    fn met(&self) -> std::collections::BTreeMap<String, usize> {
        let all = self.first.requests().into_iter().chain(self.second.requests());
        tally(all.map(|request| format!("{} {}", request.method, request.target)))
    }
}

fn slow(_: &Received) -> Answer {
    Answer::ok("slow").delay(SLOW)
}

fn quick(_: &Received) -> Answer {
    Answer::ok("quick")
}

#[test]
fn late_reads_are_answered_by_another_endpoint_and_writes_wait() {
    let pair = Pair::new("{ after = \"40ms\", budget = 1.0 }", slow, quick);
    let mut client = pair.edge.client();
    for n in 0..8 {
        let begun = Instant::now();
        let answer = Ask::get(format!("/{n}")).send(&mut client);
        assert_eq!((answer.status, answer.text().as_str()), (200, "quick"));
        assert!(begun.elapsed() < SLOW / 2, "{n}: {:?}", begun.elapsed());
    }
    let (won, lost) = (pair.count("won"), pair.count("lost"));
    assert!(won >= 3.0 && lost == 0.0, "won {won}, lost {lost}");
    // Whoever came too late was let go: its connection is closed, not kept.
    eventually("the losers are gone", SOON, || pair.first.open_connections() == 0);
    let answers: Vec<_> =
        (0..2).map(|n| Ask::post(format!("/{n}"), "x").send(&mut client).text()).collect();
    assert!(answers.contains(&"slow".to_owned()), "{answers:?}");
    for (request, times) in pair.met() {
        let most = if request.starts_with("GET") { 2 } else { 1 };
        assert!(times <= most, "{request}: {times} times");
    }
    let line = pair.edge.logged(|line| line["attempts"] == 2);
    assert_eq!((&line["status"], &line["method"]), (&200.into(), &"GET".into()));
}

#[test]
fn the_first_one_may_win_after_all() {
    let middling = |_: &Received| Answer::ok("first").delay(Duration::from_millis(250));
    let pair = Pair::new("{ after = \"40ms\", budget = 1.0 }", middling, slow);
    let mut client = pair.edge.client();
    let answers: Vec<_> = (0..4).map(|_| Ask::get("/").send(&mut client).text()).collect();
    // Whichever endpoint had the turn, the quicker one answers.
    assert_eq!(answers, ["first"; 4]);
    assert!(pair.count("lost") >= 1.0 && pair.count("won") >= 1.0);
    eventually("the losers are gone", SOON, || pair.second.open_connections() == 0);
}

#[test]
fn a_quick_failure_is_no_answer_while_the_first_may_give_one() {
    let refuses = |_: &Received| Answer::status(503);
    let middling = |_: &Received| Answer::ok("first").delay(Duration::from_millis(250));
    let pair = Pair::new("{ after = \"40ms\", budget = 1.0 }", middling, refuses);
    let mut client = pair.edge.client();
    let mut statuses = [(); 4].map(|()| Ask::get("/").send(&mut client).status);
    statuses.sort_unstable();
    // The endpoint's own 503, when the turn is its, is what the client gets: it was not late.
    assert_eq!(statuses, [200, 200, 503, 503]);
    assert_eq!(pair.count("failed"), 2.0);
}

#[test]
fn a_second_one_takes_over_when_the_first_one_breaks_off() {
    let breaks = |_: &Received| Answer::raw("").delay(Duration::from_millis(200)).then_close();
    let later = |_: &Received| Answer::ok("second").delay(Duration::from_millis(400));
    let pair = Pair::new("{ after = \"40ms\", budget = 1.0 }", breaks, later);
    let mut client = pair.edge.client();
    for _ in 0..4 {
        let answer = Ask::get("/").send(&mut client);
        assert_eq!((answer.status, answer.text().as_str()), (200, "second"));
    }
}

#[test]
fn the_budget_bounds_what_is_sent_twice() {
    let late = |_: &Received| Answer::ok("x").delay(Duration::from_millis(120));
    let pair = Pair::new("{ after = \"20ms\", budget = 0.0 }", late, late);
    let load = Load::start(pair.edge.address(), 8, |n| Ask::get(format!("/{n}")));
    load.run_for(60);
    let account = load.stop();
    account.assert_all_fine(60);
    let twice = pair.met().values().filter(|times| **times > 1).count();
    assert!((1..=3).contains(&twice), "{twice} of {}: one in a window", account.0.len());
    assert!(pair.count("budget") >= 50.0);
}

#[test]
fn what_is_usual_is_learnt() {
    let pair = Pair::new("{}", quick, quick);
    let mut client = pair.edge.client();
    (0..300).for_each(|n| drop(Ask::get(format!("/{n}")).send(&mut client)));
    pair.first.set(slow);
    let begun = Instant::now();
    for n in 0..2 {
        assert_eq!(Ask::get(format!("/late/{n}")).send(&mut client).text(), "quick");
    }
    assert!(begun.elapsed() < SLOW, "{:?}", begun.elapsed());
}

#[test]
fn without_another_endpoint_there_is_no_hedge() {
    let backend = Backend::answering(US, |_| Answer::ok("x").delay(Duration::from_millis(100)));
    let text = regions(&[(US, backend.address())], "health.kind = \"none\"\n");
    let edge = Meridian::start(&format!(
        "{text}[[routes]]\nname = \"all\"\nservice = \"api\"\nhedge = {{ after = \"10ms\" }}\n"
    ));
    assert_eq!(edge.get("/").text(), "x");
    let hedges = edge.admin().metric_sum("meridian_hedges_total", &["outcome=\"no-endpoint\""]);
    assert_eq!((hedges, backend.requests().len()), (1.0, 1));
}
