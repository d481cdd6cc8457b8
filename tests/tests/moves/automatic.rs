//! What the edge does by itself: the hook after a loss, the way back.

use std::time::{Duration, Instant};

use meridian_tests::{eventually, poll};
use serde_json::json;

use crate::world::{EU, SOON, US, World, assert_exactly_once, hooked};

#[test]
fn a_primary_that_is_lost_is_replaced_once() {
    let world = World::start(&format!("{}, hold = \"1s\"", hooked("hook")));
    let load = world.writes();
    load.run_for(100);
    let killed = Instant::now();
    world.backends[0].kill();
    let view = poll(SOON, || {
        let answer = world.edge.admin().get("/api/v1/services/api/operation");
        Some(answer.json()).filter(|view| answer.status == 200 && view["state"] != "running")
    });
    let view = view.expect("an operation");
    let took = killed.elapsed();
    println!("{took:?} from the loss to the new primary; {view:#}");
    assert_eq!((&view["state"], &view["primary"]), (&json!("done"), &json!(EU)), "{view:#}");
    assert_eq!((&view["actor"], &view["forced"]), (&json!("meridian"), &json!(false)));
    assert!(took >= Duration::from_secs(1), "after the hold time: {took:?}");
    load.run_for(100);
    let account = load.stop();
    println!("{:?}", account.statuses());
    assert_exactly_once(&world, &account);
    assert!(account.since(killed + took).all(|outcome| outcome.region() == Some(EU)));
    // It comes back, and stays a replica.
    world.backends[0].revive();
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(world.runs().len(), 1, "{:?}", world.runs());
    assert_eq!(world.write(), (200, Some(EU.to_owned())));
}

#[test]
fn an_edge_that_may_be_cut_off_promotes_nobody() {
    let world = World::start(&format!("{}, hold = \"500ms\"", hooked("hook")));
    world.backends[2].kill();
    world.backends[0].kill();
    eventually("it says why", SOON, || {
        world.edge.stderr().contains("this edge reaches 1 of 2 other regions")
    });
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(world.runs(), [""; 0]);
    assert_eq!(world.ledger.primary().0, US);
    world.backends[2].revive();
    eventually("now it does", SOON, || world.runs().len() == 1);
    world.until("it is followed", |primacy| primacy["epoch"] == 2);
}

#[test]
fn a_hook_that_fails_is_not_tried_again_at_once() {
    let park = "hold = \"500ms\", write_park = { time = \"1s\" }";
    let world = World::start(&format!("{}, {park}", hooked("hook")));
    world.besides("exit 1");
    world.backends[0].kill();
    eventually("it has run", SOON, || !world.runs().is_empty());
    world.ended();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(world.runs().len(), 1, "{:?}", world.runs());
    let (status, _) = world.write();
    assert_eq!(status, 503, "nobody was promoted");
}

#[test]
fn it_goes_back_by_itself_where_the_file_says_so() {
    let back = "failback = \"automatic\", failback_after = \"1s\"";
    let world = World::start(&format!("{}, {back}", hooked("follow")));
    world.begin("switchover", &json!({ "to": EU }));
    world.until("it is moved", |primacy| primacy["epoch"] == 2);
    world.until("it is moved back", |primacy| primacy["epoch"] == 3);
    eventually("it is over", SOON, || world.operation()["state"] == "done");
    let view = world.operation();
    assert_eq!((&view["operation"], &view["actor"]), (&json!("failback"), &json!("meridian")));
    assert_eq!(world.write(), (200, Some(US.to_owned())));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(world.runs().len(), 2, "{:?}", world.runs());
}
