//! Where requests go: the policies, seen from outside over HTTP.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_tests::{Answer, Ask, Backend, Client, Meridian, eventually, regions, tally};

const SOON: Duration = Duration::from_secs(15);
/// Believes X-Forwarded-For.
const PUBLIC: &str = "[[listeners]]\nname = \"public\"\nprotocols = [\"http1\", \"h2c\"]\n\
                      trusted_proxies = [\"127.0.0.0/8\"]\n";
const GERMAN: &str = "193.99.144.80";
const IRISH: &str = "193.1.1.1";
const JAPANESE: &str = "133.11.0.1";
const AMERICAN: &str = "18.0.0.1";
/// Nobody's address: nowhere.
const UNKNOWN: &str = "10.1.2.3";

const US: &str = "us-east-1";
const WEST: &str = "us-west-2";
const EU: &str = "eu-west-1";
const ASIA: &str = "ap-southeast-1";

/// The four regions of the documents, one endpoint each.
struct World(Vec<Backend>);

impl World {
    fn new() -> Self {
        Self([US, WEST, EU, ASIA].map(Backend::start).into())
    }

    fn of(&self, region: &str) -> &Backend {
        self.0.iter().find(|backend| backend.name() == region).expect("one of the four")
    }

    /// An edge in front of them; `service` and `route` hold further lines of each.
    fn edge(&self, service: &str, route: &str) -> Meridian {
        Meridian::start(&self.config(service, route))
    }

    fn config(&self, service: &str, route: &str) -> String {
        let endpoints: Vec<_> = self.0.iter().map(|b| (b.name(), b.address())).collect();
        let middle = regions(&endpoints, service);
        format!("{PUBLIC}{middle}[[routes]]\nname = \"all\"\nservice = \"api\"\n{route}\n")
    }
}

/// Where a client's GET is served.
fn served(client: &mut Client, from: &str) -> String {
    let answer = Ask::get("/").from(from).send(client);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("X-Served-Region").expect("the endpoints say who they are").to_owned()
}

/// Where `count` requests of one client are served.
fn shares(edge: &Meridian, from: &str, count: usize) -> BTreeMap<String, usize> {
    let mut client = edge.client();
    tally((0..count).map(|_| served(&mut client, from)))
}

/// Replaces a line of a region's settings.
fn with_region(config: &str, region: &str, line: &str) -> String {
    let head = format!("id = \"{region}\"\n");
    assert!(config.contains(&head), "{region}");
    config.replace(&head, &format!("{head}{line}\n"))
}

#[test]
fn weighted_shares_follow_the_weights() {
    let world = World::new();
    let mut config = world.config("policy = \"weighted\"", "");
    for (region, weight) in [(US, 60), (WEST, 30), (EU, 10), (ASIA, 0)] {
        config = with_region(&config, region, &format!("weight = {weight}"));
    }
    let edge = Meridian::start(&config);
    let count = 1500;
    let shares = shares(&edge, UNKNOWN, count);
    for (region, part) in [(US, 0.6), (WEST, 0.3), (EU, 0.1)] {
        let expected = part * count as f64;
        // Five standard deviations of the binomial distribution: once in two million runs by chance.
        let bound = 5.0 * (expected * (1.0 - part)).sqrt();
        let got = shares.get(region).copied().unwrap_or(0) as f64;
        assert!((got - expected).abs() < bound, "{region}: {got}, not {expected} +- {bound}");
    }
    assert_eq!(shares.get(ASIA), None, "weight 0 takes nothing");
}

#[test]
fn round_robin_takes_every_region_in_turn() {
    let world = World::new();
    let edge = world.edge("policy = \"round_robin\"", "");
    let shares = shares(&edge, UNKNOWN, 80);
    assert_eq!(shares.values().copied().collect::<Vec<_>>(), [20; 4], "{shares:?}");
}

#[test]
fn priority_uses_the_next_region_only_when_the_first_is_gone() {
    let world = World::new();
    let edge = world.edge("policy = \"priority\"", "");
    assert_eq!(shares(&edge, UNKNOWN, 50), BTreeMap::from([(US.to_owned(), 50)]));
    world.of(US).kill();
    // Nothing was sent to a dead endpoint, so not even the first request fails.
    assert_eq!(shares(&edge, UNKNOWN, 50), BTreeMap::from([(WEST.to_owned(), 50)]));
    world.of(WEST).set_health(500);
    eventually("a region that says it is unwell is left", SOON, || {
        shares(&edge, UNKNOWN, 1).contains_key(EU)
    });
    world.of(US).revive();
    eventually("the first one is used again", SOON, || shares(&edge, UNKNOWN, 1).contains_key(US));
}

#[test]
fn geo_goes_by_country_continent_and_distance() {
    let world = World::new();
    let edge = world.edge("policy = \"geo\"", "expose_decision = true");
    let mut client = edge.client();
    for (from, region, reason) in [
        (IRISH, EU, "same-country"),
        (GERMAN, EU, "same-continent"),
        (AMERICAN, WEST, "same-country"),
        (JAPANESE, ASIA, "same-continent"),
        // Nigeria: the nearest region is on another continent.
        ("41.58.0.1", EU, "least-distance"),
        (UNKNOWN, US, "configured-order"),
        ("::ffff:193.1.1.1", EU, "same-country"),
        ("not an address", US, "configured-order"),
    ] {
        let answer = Ask::get("/").from(from).send(&mut client);
        assert_eq!(answer.header("X-Served-Region"), Some(region), "{from}");
        let said = answer.header("Meridian-Served-By").expect("the route says so");
        assert!(said.starts_with(&format!("{region}; ")), "{from}: {said}");
        assert!(said.ends_with(&format!("reason={reason}")), "{from}: {said}");
    }
}

#[test]
fn geo_does_not_believe_strangers() {
    let world = World::new();
    let config = world.config("policy = \"geo\"", "");
    let config = config.replace("trusted_proxies = [\"127.0.0.0/8\"]\n", "");
    let edge = Meridian::start(&config);
    let mut client = edge.client();
    assert_eq!(served(&mut client, IRISH), US, "nobody on this machine is in Ireland");
}

#[test]
fn latency_follows_what_the_probes_measure_not_the_map() {
    let world = World::new();
    // On the map us-east-1 is nearest; on the wire eu-west-1 is.
    for (region, ms) in [(US, 90), (WEST, 120), (EU, 0), (ASIA, 150)] {
        let name = region.to_owned();
        world.of(region).set(move |request| {
            let delay = Duration::from_millis(if request.target == "/probe" { ms } else { 0 });
            Answer::ok(name.clone()).delay(delay)
        });
    }
    let service = "policy = \"latency\"\nhealth = { path = \"/probe\", interval = \"100ms\" }";
    let edge = Meridian::start(&format!(
        "[edge]\ncoordinates = [38.95, -77.45]\n{}",
        world.config(service, "expose_decision = true")
    ));
    let mut client = edge.client();
    let regions = || edge.admin().json("/api/v1/regions").as_array().cloned().unwrap_or_default();
    eventually("every region is measured", SOON, || {
        regions().iter().all(|region| region["measured"] == true)
    });
    eventually("requests go to the region with the lowest round trip", SOON, || {
        served(&mut client, UNKNOWN) == EU
    });
    let answer = Ask::get("/").send(&mut client);
    let said = answer.header("Meridian-Served-By").expect("the route says so");
    assert!(said.contains("reason=nearest"), "{said}");
    let views = regions();
    let round_trip = |region: &str| {
        let view = views.iter().find(|view| view["id"] == region).expect("a region");
        view["round_trip_ms"].as_f64().expect("a number")
    };
    assert!(round_trip(EU) < 60.0 && round_trip(US) >= 80.0, "{views:#?}");
    assert_eq!(shares(&edge, UNKNOWN, 50), BTreeMap::from([(EU.to_owned(), 50)]));
}

#[test]
fn policy_health_leaves_a_region_that_fails_requests() {
    let world = World::new();
    world.of(US).set(|_| Answer::status(500));
    let edge = world.edge("policy = \"health\"", "");
    let mut client = edge.client();
    let statuses: Vec<_> =
        (0..300).map(|_| Ask::get("/").send(&mut client).status).skip(200).collect();
    // A few go there to see whether it has recovered.
    let failed = statuses.iter().filter(|status| **status != 200).count();
    assert!(failed <= 10, "{failed} of the last 100 went to a region that only fails");
}

#[test]
fn a_route_with_a_residency_rule_serves_nobody_elsewhere() {
    let world = World::new();
    let rule = "residency = { regions = [\"eu-west-1\"], subject = [\"EU\"] }";
    let edge = world.edge("policy = \"priority\"", rule);
    let mut client = edge.client();
    assert_eq!(served(&mut client, GERMAN), EU);
    assert_eq!(served(&mut client, UNKNOWN), EU, "who may be bound is bound");
    assert_eq!(served(&mut client, AMERICAN), US, "who is not bound goes where all go");
    world.of(EU).kill();
    for _ in 0..200 {
        let answer = Ask::get("/").from(GERMAN).send(&mut client);
        assert_eq!(answer.status, 503, "rather not at all than elsewhere");
        assert!(answer.header("Retry-After").is_some());
        assert_eq!(answer.header("X-Served-Region"), None);
        if answer.header("Connection") == Some("close") {
            client = edge.client();
        }
    }
    let asked = |backend: &Backend| backend.requests().len();
    assert_eq!(asked(world.of(WEST)) + asked(world.of(ASIA)), 0);
    assert_eq!(asked(world.of(US)), 1, "only the American's");
}

#[test]
fn where_no_allowed_region_has_the_service_the_answer_is_the_rules() {
    let backend = Backend::start(US);
    for (refuse, status) in [("", 451), (", refuse = 403", 403), (", refuse = 503", 503)] {
        let text = format!(
            "{PUBLIC}{}[[regions]]\nid = \"eu-west-1\"\nrole = \"replica\"\n\
             coordinates = [53.35, -6.26]\ncountry = \"IE\"\n\
             [[routes]]\nname = \"bound\"\nservice = \"api\"\n\
             residency = {{ regions = [\"eu-west-1\"], subject = [\"EU\"]{refuse} }}\n",
            regions(&[(US, backend.address())], "policy = \"geo\"")
        );
        // Regions come before services in a document.
        let edge = Meridian::start(&text);
        let mut client = edge.client();
        let answer = Ask::get("/").from(GERMAN).send(&mut client);
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(answer.header("Retry-After").is_some(), status == 503);
        assert_eq!(served(&mut client, AMERICAN), US);
    }
    assert_eq!(backend.requests().len(), 3);
}

#[test]
fn a_capability_is_never_traded_for_nearness() {
    let world = World::new();
    let config = world.config("policy = \"geo\"", "capability = \"ai\"");
    let edge = Meridian::start(&with_region(&config, ASIA, "capabilities = [\"ai\"]"));
    let mut client = edge.client();
    assert_eq!(served(&mut client, IRISH), ASIA);
    world.of(ASIA).kill();
    let answer = Ask::get("/").from(IRISH).send(&mut client);
    assert_eq!(answer.status, 503);
    assert!(answer.header("Retry-After").is_some());
    assert_eq!(world.of(EU).requests().len(), 0);
}

#[test]
fn the_decision_is_told_only_where_the_route_says_so() {
    let world = World::new();
    // What an endpoint says of itself is for the edge alone, and may not pose as the edge's word.
    for backend in &world.0 {
        backend.set(|_| {
            let answer = Answer::ok("x").header("Meridian-Served-By", "forged");
            answer.header("Meridian-Role", "primary").header("Meridian-Lag-Ms", "7")
        });
    }
    let edge = world.edge("policy = \"geo\"", "");
    let answer = Ask::get("/").send(&mut edge.client());
    let own = |answer: &meridian_tests::Response| {
        let fields = answer
            .fields
            .0
            .iter()
            .filter(|(name, _)| name.to_ascii_lowercase().starts_with("meridian-"));
        fields.cloned().collect::<Vec<_>>()
    };
    assert_eq!(own(&answer), []);
    drop(edge);
    let edge = world.edge("policy = \"geo\"", "expose_decision = true");
    let ask = Ask::get("/").from(IRISH).with("Meridian-Role", "primary");
    let answer = ask.with("Meridian-Served-By", "me").send(&mut edge.client());
    let told = "eu-west-1; role=replica; reason=same-country".to_owned();
    assert_eq!(own(&answer), [("meridian-served-by".to_owned(), told)]);
    let received = world.of(EU).requests();
    let received = received.last().expect("one request");
    assert_eq!(received.header("Meridian-Role"), None, "never believed from a client");
}
