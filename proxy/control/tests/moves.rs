//! A seeded simulation of moves, claims, promotions and restarts: the keeper's primacy after each of them.
//!
//! A failure names its seed and step; the same seed does the same again.

use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;
use meridian_config::{Config, ServiceIndex};
use meridian_control::{Event, KeeperState, MoveOrder, PrimacyOrder, Rejection};
use meridian_routing::{Claim, Micros, Primacy, PrimacyState, Role, WriteGate};

const SEEDS: u64 = 20;
const STEPS: usize = 2000;
const REGIONS: [&str; 3] = ["us", "eu", "ap"];

fn config(mode: &str) -> Arc<Config> {
    let mut text = "[[listeners]]\nname = \"p\"\naddress = \"127.0.0.1:1\"\n".to_owned();
    for (number, id) in REGIONS.iter().enumerate() {
        let role = if number == 0 { "primary" } else { "replica" };
        text += &format!("[[regions]]\nid = \"{id}\"\nrole = \"{role}\"\n");
    }
    text += &format!(
        "[[services]]\nname = \"api\"\npolicy = \"priority\"\n\
         replication = {{ source = \"status\" }}\nfailover = {{ mode = \"{mode}\" }}\n"
    );
    for (number, id) in REGIONS.iter().enumerate() {
        let port = number + 1;
        text +=
            &format!("[[services.endpoints]]\nregion = \"{id}\"\naddress = \"10.0.0.1:{port}\"\n");
    }
    text += "[[routes]]\nname = \"all\"\nservice = \"api\"\n";
    let loaded = Config::parse(&text, Path::new("/x/m.toml"), &|_| None);
    Arc::new(loaded.unwrap_or_else(|errors| panic!("{errors}")).config)
}

struct Simulation {
    rng: Rng,
    config: Arc<Config>,
    state: KeeperState,
    unix_ms: u64,
    moves: u32,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let config = config(["follow", "manual"][rng.usize(..2)]);
        let state = KeeperState::new(config.clone(), Default::default(), 1).expect("starts").0;
        Self { rng, config, state, unix_ms: 1, moves: 0 }
    }

    fn primacy(&self) -> Primacy {
        self.state.table().services[0].primacy
    }

    fn apply(&mut self, event: Event) -> Result<(), Rejection> {
        self.unix_ms += 1;
        let result = self.state.apply(event, Micros(self.unix_ms), self.unix_ms);
        self.state.commit();
        result.map(|_| ())
    }

    fn order(epoch: Option<u64>) -> Event {
        let (service, what) = ("api".to_owned(), "switchover");
        let (actor, reason) = ("simulation".to_owned(), String::new());
        Event::Move(MoveOrder { service, epoch, what, actor, reason })
    }

    fn step(&mut self) {
        let before = self.primacy();
        match self.rng.u8(..10) {
            0..=2 => self.begin(before),
            3..=4 => self.take_back(before),
            5..=7 => self.claim(before),
            8 => self.promote(before),
            _ => self.restart(),
        }
        let after = self.primacy();
        assert!(after.epoch >= before.epoch, "{before:?} {after:?}");
        let table = self.state.table();
        let service = &table.services[0];
        let settled = after.is_settled();
        assert_eq!(table.primary(ServiceIndex(0)).is_some(), settled, "{after:?}");
        let open = service.enter_write().is_some();
        assert!(!open || settled, "a write entered although nobody is the primary: {after:?}");
        assert_eq!(open, settled && service.writes.highest() <= after.epoch);
    }

    fn begin(&mut self, before: Primacy) {
        let stale = self.rng.u8(..4) == 0;
        let epoch = if stale { before.epoch + 1 } else { before.epoch };
        let result = self.apply(Self::order(Some(epoch)));
        let may = matches!(before.state, PrimacyState::Settled | PrimacyState::Unknown) && !stale;
        assert_eq!(result.is_ok(), may, "{before:?}: {result:?}");
        let after = self.primacy();
        let expected = if may { PrimacyState::Moving } else { before.state };
        assert_eq!(
            (after.state, after.region, after.epoch),
            (expected, before.region, before.epoch)
        );
        self.moves += u32::from(may);
    }

    fn take_back(&mut self, before: Primacy) {
        self.apply(Self::order(None)).expect("never rejected");
        let after = self.primacy();
        assert_ne!(after.state, PrimacyState::Moving);
        if before.state != PrimacyState::Moving {
            assert_eq!(after, before, "there was nothing to take back");
        } else if after.is_settled() && !before.is_taken() {
            // Nobody is taken for the primary of an epoch that it never had.
            assert!(after.region_epoch == after.epoch && after.confirmed, "{before:?} {after:?}");
        }
    }

    fn claim(&mut self, before: Primacy) {
        let region = self.rng.usize(..3);
        let key = self.state.table().services[0].endpoints[region].key.clone();
        let role = [Role::Primary, Role::Replica][self.rng.usize(..2)];
        let epoch = (before.epoch + self.rng.u64(..3)).saturating_sub(1);
        let claim = Claim { role: Some(role), epoch: Some(epoch), position: None, lag: None };
        self.apply(Event::Claim { key, claim, asked: true }).expect("never rejected");
        let after = self.primacy();
        if before.state == PrimacyState::Moving && after.is_settled() {
            assert!(after.epoch > before.epoch || !before.is_taken() || !before.confirmed);
        }
    }

    fn promote(&mut self, before: Primacy) {
        let region = REGIONS[self.rng.usize(..3)].to_owned();
        let epoch = self.rng.bool().then(|| (before.epoch + self.rng.u64(..3)).saturating_sub(1));
        let (service, actor) = ("api".to_owned(), "simulation".to_owned());
        let order = PrimacyOrder { service, region, epoch, actor, reason: String::new() };
        let result = self.apply(Event::Promote(order));
        if let Some(epoch) = epoch.filter(|epoch| *epoch < before.epoch) {
            assert!(result.is_err(), "{epoch} over {before:?}");
        }
        if result.is_ok() {
            assert_ne!(self.primacy().state, PrimacyState::Moving);
        }
    }

    fn restart(&mut self) {
        let known = self.state.primacies();
        let restored =
            KeeperState::restored(self.config.clone(), Default::default(), &known, self.unix_ms);
        self.state = restored.expect("starts").0;
        assert_ne!(self.primacy().state, PrimacyState::Moving, "a move survives no restart");
    }
}

#[test]
fn moves_end_and_epochs_never_decrease() {
    let mut moves = 0;
    for seed in 0..SEEDS {
        let mut simulation = Simulation::new(seed);
        for step in 0..STEPS {
            let one = std::panic::AssertUnwindSafe(|| simulation.step());
            let outcome = std::panic::catch_unwind(one);
            assert!(outcome.is_ok(), "seed {seed}, step {step}");
        }
        moves += simulation.moves;
    }
    assert!(moves > 1000, "{moves} moves");
}

#[test]
fn a_write_inside_is_seen_until_it_has_left() {
    let mut simulation = Simulation::new(0);
    let gate: Arc<WriteGate> = simulation.state.table().services[0].writes.clone();
    let inside = simulation.state.table().services[0].enter_write().expect("it is open");
    let order = Simulation::order(Some(simulation.primacy().epoch));
    simulation.apply(order).expect("begins");
    assert_eq!(gate.in_flight() + gate.left_over(), 1);
    assert!(simulation.state.table().services[0].enter_write().is_none());
    drop(inside);
    assert_eq!(gate.in_flight() + gate.left_over(), 0);
    simulation.apply(Simulation::order(None)).expect("taken back");
    assert!(simulation.state.table().services[0].enter_write().is_some());
}
