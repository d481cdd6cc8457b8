//! The keeper and primaries: whose word counts, what the table then says, what a later process knows.

use std::path::Path;
use std::sync::Arc;

use meridian_config::{Config, EndpointKey};
use meridian_control::{
    Event, ForgetOrder, KeeperState, Notice, Primacies, PrimacyOrder, Rejection,
};
use meridian_routing::{
    Claim, Desired, Micros, PrimacySource, PrimacyState, Role, RoutingTable, ServiceView,
};

const STATUS: &str = "replication = { source = \"status\" }";
const MANUAL: &str = "replication = { source = \"status\" }\nfailover = { mode = \"manual\" }";

fn text(primary: &str, service: &str) -> String {
    let mut text = String::from("[[listeners]]\nname = \"l\"\naddress = \"127.0.0.1:1\"\n");
    for region in ["us", "eu", "ap"] {
        let role = if region == primary { "primary" } else { "replica" };
        text += &format!(
            "[[regions]]\nid = \"{region}\"\nrole = \"{role}\"\ncountry = \"US\"\ncoordinates = [1.0, 2.0]\n"
        );
    }
    text += &format!("[[services]]\nname = \"api\"\n{service}\n");
    for (n, region) in ["us", "eu", "ap"].iter().enumerate() {
        text += &format!(
            "[[services.endpoints]]\nregion = \"{region}\"\naddress = \"10.0.0.{n}:80\"\n"
        );
    }
    text + "[[routes]]\nname = \"all\"\nservice = \"api\"\n"
}

fn config(primary: &str, service: &str) -> Arc<Config> {
    parsed(&text(primary, service))
}

fn parsed(text: &str) -> Arc<Config> {
    match Config::parse(text, Path::new("/test/meridian.toml"), &|_| None) {
        Ok(loaded) => Arc::new(loaded.config),
        Err(errors) => panic!("{errors}\n{text}"),
    }
}

struct Bench(KeeperState);

impl Bench {
    fn new(service: &str) -> Self {
        Self::after(&Primacies::default(), "us", service)
    }

    /// A process that finds what another one knew.
    fn after(known: &Primacies, primary: &str, service: &str) -> Self {
        let config = config(primary, service);
        Self(KeeperState::restored(config, Default::default(), known, 5).expect("starts").0)
    }

    fn apply(&mut self, event: Event) -> Result<Vec<Notice>, Rejection> {
        let notices = self.0.apply(event, Micros(1), 7)?;
        self.0.commit();
        let table = self.0.table();
        table.check_invariants(self.0.overrides(), self.0.observed()).expect("invariants");
        Ok(notices)
    }

    fn table(&self) -> &RoutingTable {
        self.0.table()
    }

    fn service(&self) -> &ServiceView {
        &self.table().services[0]
    }

    fn key(&self, region: &str) -> EndpointKey {
        let mut endpoints = self.service().endpoints.iter();
        endpoints.find(|e| e.key.region.as_str() == region).expect("an endpoint").key.clone()
    }

    fn hear(&mut self, region: &str, role: Role, epoch: u64, asked: bool) -> usize {
        let claim = Claim { role: Some(role), epoch: Some(epoch), ..Claim::default() };
        let event = Event::Claim { key: self.key(region), claim, asked };
        let notices = self.apply(event).expect("never refused");
        notices.iter().filter(|notice| matches!(notice, Notice::Primacy { .. })).count()
    }

    fn says(&mut self, region: &str, role: Role, epoch: u64) -> usize {
        self.hear(region, role, epoch, true)
    }

    fn promote(&mut self, region: &str, epoch: Option<u64>) -> Result<Vec<Notice>, Rejection> {
        self.apply(Event::Promote(PrimacyOrder {
            service: "api".into(),
            region: region.into(),
            epoch,
            actor: "ann".into(),
            reason: "test".into(),
        }))
    }

    fn forget(&mut self) -> Result<Vec<Notice>, Rejection> {
        let (service, actor, reason) = ("api".into(), "ann".into(), "nonsense".into());
        self.apply(Event::Forget(ForgetOrder { service, actor, reason }))
    }

    /// Time goes on, to `at_ms`.
    fn tick(&mut self, at_ms: u64) {
        self.0.apply(Event::Tick, Micros(at_ms * 1000), 7).expect("never refused");
        self.0.commit();
    }

    fn reload(&mut self, primary: &str, service: &str) {
        self.reload_text(&text(primary, service));
    }

    fn reload_text(&mut self, text: &str) {
        let desired = Desired::new(parsed(text)).expect("small expressions");
        let (actor, digest) = ("test".into(), "0".into());
        self.apply(Event::Reload { desired, actor, digest }).expect("accepted");
    }

    /// State, last primary and epoch; and whether table and gate agree on who takes writes.
    #[track_caller]
    fn is(&self, state: PrimacyState, region: &str, epoch: u64) {
        let (table, service) = (self.table(), self.service());
        let primacy = service.primacy;
        let id = |index| table.region(index).settings.id.to_string();
        let found = (primacy.state, primacy.region.map(id).unwrap_or_default(), primacy.epoch);
        assert_eq!(found, (state, region.to_owned(), epoch));
        let settled = state == Settled;
        let masked = table.primary(meridian_config::ServiceIndex(0)).map(id);
        assert_eq!(masked, settled.then(|| region.to_owned()), "who is asked to write");
        assert_eq!(service.enter_write().is_some(), settled, "who may");
    }
}

use PrimacyState::{Contested, Settled, Unknown};
use Role::{Primary, Replica};

#[test]
fn a_promotion_is_followed_and_the_old_primary_is_not_believed() {
    let mut bench = Bench::new(STATUS);
    bench.is(Settled, "us", 0);
    assert_eq!(bench.says("us", Primary, 3), 1);
    assert_eq!(bench.says("us", Primary, 3), 0, "no news");
    assert_eq!(bench.says("eu", Replica, 3), 0);
    bench.is(Settled, "us", 3);
    let gate = bench.service().writes.clone();
    let old = bench.service().enter_write().expect("settled");
    assert_eq!(bench.says("eu", Primary, 4), 1);
    bench.is(Settled, "eu", 4);
    assert_eq!((gate.in_flight(), gate.left_over()), (0, 1), "one write is still at the old one");
    drop(old);
    assert_eq!(gate.left_over(), 0);
    assert_eq!(bench.says("us", Primary, 3), 0);
    assert_eq!(bench.says("ap", Primary, 2), 0);
    bench.is(Settled, "eu", 4);
}

#[test]
fn writes_stop_before_the_table_is_published() {
    let mut bench = Bench::new(STATUS);
    bench.says("us", Primary, 3);
    let held = bench.service().writes.clone();
    let term = bench.service().term;
    let claim = Claim { role: Some(Replica), epoch: Some(4), ..Claim::default() };
    let event = Event::Claim { key: bench.key("eu"), claim, asked: true };
    bench.0.apply(event, Micros(1), 7).expect("never refused");
    assert!(held.enter(3, term).is_none(), "applied, not yet committed");
    bench.0.commit();
    bench.is(Unknown, "us", 4);
}

#[test]
fn two_primaries_of_one_epoch_get_no_writes() {
    let mut bench = Bench::new(STATUS);
    bench.says("us", Primary, 3);
    bench.says("eu", Primary, 3);
    bench.is(Contested, "us", 3);
    bench.says("eu", Replica, 3);
    bench.is(Settled, "us", 3);
    bench.says("eu", Primary, 3);
    bench.says("ap", Primary, 5);
    bench.is(Settled, "ap", 5);
}

#[test]
fn late_answers_do_not_make_a_replica_the_primary_again() {
    let mut bench = Bench::new(STATUS);
    bench.says("us", Primary, 3);
    bench.says("us", Replica, 3);
    bench.is(Unknown, "us", 3);
    bench.hear("us", Primary, 3, false);
    bench.is(Unknown, "us", 3);
    bench.says("us", Primary, 3);
    bench.is(Settled, "us", 3);
    // What traffic says first counts otherwise.
    bench.hear("eu", Primary, 4, false);
    bench.is(Settled, "eu", 4);
}

#[test]
fn what_cannot_be_an_epoch_is_told_once_and_not_heard() {
    let mut bench = Bench::new(STATUS);
    bench.says("us", Primary, 3);
    for region in ["eu", "us"] {
        let claim = Claim { role: Some(Primary), epoch: Some(1 << 50), ..Claim::default() };
        let event = || Event::Claim { key: bench.key(region), claim, asked: true };
        let (first, again) = (event(), event());
        let told = |n: &Notice| matches!(n, Notice::EpochDisbelieved { known: 3, .. });
        assert!(bench.apply(first).expect("never refused").iter().any(told));
        assert!(bench.apply(again).expect("never refused").is_empty());
    }
    bench.is(Settled, "us", 3);
    bench.says("eu", Primary, 4);
    bench.is(Settled, "eu", 4);
}

#[test]
fn nobody_is_heard_where_nobody_is_asked() {
    let mut bench = Bench::new("");
    assert_eq!(bench.says("eu", Primary, 9), 0);
    bench.is(Settled, "us", 0);
}

#[test]
fn in_manual_mode_only_the_operator_names_another_primary() {
    let mut bench = Bench::new(MANUAL);
    bench.says("us", Primary, 3);
    bench.is(Settled, "us", 3);
    bench.says("eu", Primary, 4);
    bench.is(Unknown, "us", 4);
    // It claims epoch 4 already, which nobody else has.
    bench.promote("eu", None).expect("it is free");
    bench.is(Settled, "eu", 4);
    assert_eq!(bench.service().primacy.source, PrimacySource::Operator);
    bench.promote("ap", None).expect("the next one");
    bench.is(Settled, "ap", 5);
}

#[test]
fn a_promotion_needs_a_higher_epoch() {
    let mut bench = Bench::new(STATUS);
    bench.says("us", Primary, 3);
    for said in [0, 2, 3] {
        let refused = bench.promote("eu", Some(said));
        assert_eq!(refused, Err(Rejection::EpochNotHigher { said, known: 3 }));
    }
    assert_eq!(bench.promote("eu", Some(1 << 50)), Err(Rejection::Epoch(1 << 50)));
    let nowhere = bench.promote("xx", None);
    assert_eq!(nowhere, Err(Rejection::UnknownRegion("xx".into())));
    bench.is(Settled, "us", 3);
    bench.promote("eu", Some(8)).expect("higher");
    bench.is(Settled, "eu", 8);
    // An epoch that was seen and has no primary that we know is somebody's: the next one is taken.
    bench.says("ap", Replica, 9);
    bench.is(Unknown, "eu", 9);
    bench.promote("eu", None).expect("the next one");
    bench.is(Settled, "eu", 10);
}

#[test]
fn a_later_process_knows_what_this_one_knew() {
    let mut bench = Bench::new(STATUS);
    bench.says("us", Primary, 3);
    bench.says("eu", Primary, 4);
    let mut next = Bench::after(&bench.0.primacies(), "us", STATUS);
    next.is(Settled, "eu", 4);
    assert_eq!(next.service().primacy.source, PrimacySource::Restored);
    next.says("us", Primary, 3);
    next.is(Settled, "eu", 4);
    next.says("us", Primary, 4);
    next.is(Contested, "eu", 4);
    let later = Bench::after(&next.0.primacies(), "us", STATUS);
    later.is(Contested, "eu", 4);
    // The file was edited in between: what was reported stays, what was not is the file's.
    Bench::after(&bench.0.primacies(), "ap", STATUS).is(Settled, "eu", 4);
    let mut quiet = Bench::new("");
    quiet.promote("eu", None).expect("higher");
    quiet.is(Settled, "eu", 1);
    Bench::after(&quiet.0.primacies(), "us", "").is(Settled, "eu", 1);
    Bench::after(&quiet.0.primacies(), "ap", "").is(Settled, "ap", 2);
}

#[test]
fn a_process_that_takes_over_inherits_what_is_newer() {
    let mut old = Bench::new(STATUS);
    old.says("us", Primary, 3);
    let mut new = Bench::after(&old.0.primacies(), "us", STATUS);
    new.says("us", Primary, 3);
    old.says("eu", Primary, 4);
    let known = old.0.primacies();
    let notices = new.apply(Event::Inherit(known.clone())).expect("accepted");
    assert!(matches!(notices[..], [Notice::Primacy { .. }]), "{notices:?}");
    new.is(Settled, "eu", 4);
    new.says("ap", Primary, 5);
    assert!(new.apply(Event::Inherit(known)).expect("accepted").is_empty());
    new.is(Settled, "ap", 5);
}

#[test]
fn a_reload_names_the_primary_where_nobody_reports() {
    let mut bench = Bench::new("");
    bench.reload("eu", "");
    bench.is(Settled, "eu", 1);
    bench.reload("eu", STATUS);
    bench.is(Settled, "eu", 1);
    bench.says("eu", Primary, 7);
    bench.reload("ap", STATUS);
    bench.is(Settled, "eu", 7);
    bench.reload("us", MANUAL);
    bench.is(Settled, "us", 8);
    // It says that it is not: nobody is asked to write there.
    bench.says("us", Replica, 8);
    bench.is(Unknown, "us", 8);
}

/// Nobody has said an epoch, and the new primary stands where the old one stood.
#[test]
fn a_region_in_the_primary_s_place_gets_no_writes_that_were_decided_for_that_one() {
    let mut bench = Bench::new("");
    let mut held = bench.0.table().clone();
    let in_force = |table: &RoutingTable| table.services[0].enter_write().is_some();
    assert!(in_force(&held));
    for (from, to) in [("us", "zz"), ("zz", "us"), ("us", "yy")] {
        let now = text("us", "").replace("\"us\"", &format!("\"{to}\""));
        bench.reload_text(&now);
        bench.is(Settled, to, 0);
        assert!(!in_force(&held), "{from} to {to}");
        held = bench.0.table().clone();
        assert!(in_force(&held));
    }
}

#[test]
fn a_reload_that_stops_to_listen_forgets_what_was_said() {
    let mut bench = Bench::new(STATUS);
    bench.says("us", Primary, 3);
    bench.says("eu", Primary, 3);
    bench.is(Contested, "us", 3);
    assert!(bench.service().endpoints[0].said.is_some());
    bench.reload("us", "");
    assert!(bench.service().endpoints[0].said.is_none());
    assert_eq!(bench.service().primacy.epoch, 3);
    // Nobody would ever end the contest by what he says: the operator does, in the epoch that it has claimed.
    bench.is(Contested, "us", 3);
    bench.promote("us", None).expect("it claimed it");
    bench.is(Settled, "us", 3);
}

#[test]
fn an_operator_decides_between_two_primaries_in_their_own_epoch() {
    for mode in [STATUS, MANUAL] {
        let mut bench = Bench::new(mode);
        bench.says("us", Primary, 4);
        let gate = bench.service().writes.clone();
        let (old, term) = (bench.service().enter_write().expect("settled"), bench.service().term);
        bench.says("eu", Primary, 4);
        bench.is(Contested, "us", 4);
        // Who does not claim it is not decided for.
        assert_eq!(
            bench.promote("eu", Some(4)).expect_err("not higher"),
            Rejection::EpochNotHigher { said: 4, known: 4 }
        );
        bench.promote("eu", None).expect("it claims it");
        bench.is(Settled, "eu", 4);
        assert!(bench.service().primacy.decided);
        assert!(gate.enter(4, term).is_none(), "decided for the other one of the same epoch");
        assert_eq!(gate.left_over(), 1);
        drop(old);
        // The other one goes on claiming it, a third one comes, and the process is another one.
        bench.says("us", Replica, 4);
        bench.says("us", Primary, 4);
        bench.says("ap", Primary, 4);
        bench.is(Settled, "eu", 4);
        let mut next = Bench::after(&bench.0.primacies(), "us", mode);
        next.says("us", Primary, 4);
        next.is(Settled, "eu", 4);
        // Nobody gets it from whom it was decided for.
        next.says("eu", Replica, 4);
        next.is(Unknown, "eu", 4);
        next.says("eu", Primary, 4);
        next.is(Settled, "eu", 4);
        next.promote("us", None).expect("the next epoch");
        next.is(Settled, "us", 5);
        assert!(!next.service().primacy.decided);
        if mode == STATUS {
            bench.says("us", Primary, 5);
            bench.is(Settled, "us", 5);
            bench.says("eu", Primary, 5);
            bench.is(Contested, "us", 5);
        }
    }
}

#[test]
fn who_does_not_claim_a_contested_epoch_gets_the_next_one() {
    let mut bench = Bench::new(STATUS);
    bench.says("us", Primary, 4);
    bench.says("eu", Primary, 4);
    bench.says("ap", Replica, 4);
    bench.promote("ap", None).expect("the next one");
    bench.is(Settled, "ap", 5);
}

const FAR: u64 = 1 << 40;

#[test]
fn an_epoch_far_above_the_known_one_is_shown_until_it_is_taken_back() {
    let mut bench = Bench::new(STATUS);
    bench.says("us", Primary, 4);
    bench.says("eu", Replica, FAR);
    bench.is(Settled, "us", 4);
    let shown = |bench: &Bench| bench.service().endpoints[1].disbelieved;
    assert_eq!(shown(&bench), Some(FAR));
    bench.says("eu", Replica, 4);
    assert_eq!(shown(&bench), None);
    bench.says("eu", Primary, 4 + (1 << 20));
    bench.is(Settled, "eu", 4 + (1 << 20));
}

#[test]
fn what_is_forgotten_is_learned_anew_once_everybody_was_heard() {
    for mode in [STATUS, MANUAL] {
        let mut bench = Bench::new(mode);
        // The first who says anything, so that there is nothing to hold it against.
        bench.says("eu", Replica, FAR);
        bench.promote("us", None).expect("the next one");
        bench.is(Settled, "us", FAR + 1);
        let (gate, term) = (bench.service().writes.clone(), bench.service().term);
        let kept = bench.0.primacies();
        bench.says("us", Primary, 4);
        bench.is(Settled, "us", FAR + 1);
        bench.forget().expect("it is there");
        bench.is(Unknown, "us", 0);
        assert_eq!(bench.promote("us", None), Err(Rejection::Relearning("api".into())));
        assert!(gate.enter(FAR + 1, term).is_none());
        bench.says("ap", Primary, 3);
        bench.says("us", Primary, 4);
        // What traffic says may be from before.
        bench.hear("eu", Replica, FAR, false);
        bench.is(Unknown, "us", 0);
        bench.says("eu", Replica, 4);
        bench.is(Settled, "us", 4);
        assert!(gate.enter(FAR + 1, term).is_none() && gate.enter(4, term).is_none());
        assert_eq!(gate.highest(), 4);
        // Late, and not believed any more.
        bench.hear("eu", Replica, FAR, false);
        bench.is(Settled, "us", 4);
        // Nor does what was known before undo it, here or in the next process.
        assert!(bench.apply(Event::Inherit(kept)).expect("accepted").is_empty());
        bench.is(Settled, "us", 4);
        Bench::after(&bench.0.primacies(), "us", mode).is(Settled, "us", 4);
    }
}

#[test]
fn who_says_nothing_is_not_waited_for_for_ever() {
    let mut bench = Bench::new(STATUS);
    bench.says("eu", Replica, FAR);
    bench.forget().expect("it is there");
    bench.says("us", Primary, 4);
    bench.tick(100);
    bench.is(Unknown, "us", 0);
    // It dies before it has learned anything: so does the next one wait.
    let mut next = Bench::after(&bench.0.primacies(), "us", STATUS);
    next.is(Unknown, "us", 0);
    next.says("us", Primary, 4);
    next.is(Unknown, "us", 0);
    for bench in [&mut bench, &mut next] {
        bench.tick(60_000);
        bench.is(Settled, "us", 4);
    }
}

#[test]
fn where_nobody_is_asked_the_operator_names_the_primary_after_forgetting() {
    let mut bench = Bench::new("");
    bench.promote("us", Some(FAR)).expect("higher");
    bench.forget().expect("it is there");
    bench.tick(1000);
    bench.is(Unknown, "us", 0);
    bench.promote("us", Some(4)).expect("higher than none");
    bench.is(Settled, "us", 4);
}

/// One seeded life of a service: claims in any order, orders, edits of the file, restarts.
struct Life {
    rng: fastrand::Rng,
    bench: Bench,
    file: &'static str,
    mode: &'static str,
    epoch: u64,
    /// Who has been the primary of an epoch, and said so itself.
    primaries: std::collections::BTreeMap<u64, String>,
    /// For whom the operator has decided.
    decided: std::collections::BTreeMap<u64, String>,
    /// What was known at some time before.
    old: Primacies,
}

const REGIONS: [&str; 3] = ["us", "eu", "ap"];
const MODES: [&str; 3] = [STATUS, MANUAL, ""];

impl Life {
    fn step(&mut self) {
        let region = REGIONS[self.rng.usize(..REGIONS.len())];
        match self.rng.u8(..24) {
            0 => self.file = region,
            1 => self.mode = MODES[self.rng.usize(..MODES.len())],
            2 => {
                let known = self.bench.0.primacies();
                self.bench = Bench::after(&known, self.file, self.mode);
                return;
            }
            3 => {
                let known = std::mem::replace(&mut self.old, self.bench.0.primacies());
                self.bench.apply(Event::Inherit(known)).expect("accepted");
                return;
            }
            4 => {
                let epoch = self.rng.bool().then(|| self.epoch + self.rng.u64(..3));
                let before = self.bench.0.primacies();
                let result = self.bench.promote(region, epoch);
                if result.is_err() {
                    assert_eq!(self.bench.0.primacies(), before, "{result:?}");
                }
                return;
            }
            _ => {
                let role = [None, Some(Primary), Some(Replica)][self.rng.usize(..3)];
                let near = (self.epoch + 2).saturating_sub(self.rng.u64(..4));
                let epoch = [None, Some(near), Some(near), Some(1 << 51)][self.rng.usize(..4)];
                let claim = Claim { role, epoch, ..Claim::default() };
                let (key, asked) = (self.bench.key(region), self.rng.bool());
                self.bench.apply(Event::Claim { key, claim, asked }).expect("never refused");
                return;
            }
        }
        self.bench.reload(self.file, self.mode);
    }

    fn check(&mut self) {
        let (table, service) = (self.bench.table(), self.bench.service());
        let primacy = service.primacy;
        assert!(primacy.epoch >= self.epoch, "{primacy:?} after epoch {}", self.epoch);
        self.epoch = primacy.epoch;
        let name = |index| table.region(index).settings.id.to_string();
        let region = primacy.region.map(name).unwrap_or_default();
        let masked = table.primary(meridian_config::ServiceIndex(0)).map(name);
        assert_eq!(masked, primacy.is_settled().then(|| region.clone()));
        // A gate may know of a higher epoch than anybody may write in; never the other way round.
        assert!(service.writes.highest() >= primacy.epoch);
        assert!(primacy.is_settled() || service.enter_write().is_none());
        if primacy.is_settled() && primacy.confirmed {
            if primacy.decided {
                // By the operator, once at most for each epoch.
                let chosen = self.decided.entry(primacy.epoch).or_insert_with(|| region.clone());
                assert_eq!(*chosen, region, "decided twice in epoch {}", primacy.epoch);
                self.primaries.insert(primacy.epoch, region.clone());
            }
            let first = self.primaries.entry(primacy.epoch).or_insert_with(|| region.clone());
            assert_eq!(*first, region, "two primaries of epoch {}", primacy.epoch);
        }
    }
}

#[test]
fn no_epoch_has_two_primaries_in_any_life() {
    let base: u64 = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    for seed in base..base + 8 {
        println!("SEED={seed}");
        let mut life = Life {
            rng: fastrand::Rng::with_seed(seed),
            bench: Bench::new(STATUS),
            file: "us",
            mode: STATUS,
            epoch: 0,
            decided: Default::default(),
            primaries: Default::default(),
            old: Primacies::default(),
        };
        for _ in 0..1500 {
            life.step();
            life.check();
        }
        assert!(life.epoch > 100 && life.primaries.len() > 20, "it was a dull life");
    }
}
