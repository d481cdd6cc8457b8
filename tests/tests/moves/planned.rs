//! Switchover and failback, while clients write.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use meridian_tests::{Ask, eventually};
use serde_json::{Value, json};

use crate::world::{ASIA, EU, SOON, US, World, assert_exactly_once, hooked};

#[test]
fn a_switchover_under_load_loses_and_doubles_no_write() {
    let world = World::start(&hooked("follow"));
    let load = world.writes();
    load.run_for(200);
    let output = world.edge.cli(&["switchover", "--to", EU, "--reason", "a new kernel"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for part in ["close: ", "drain: no write", "catch-up: ", "hook: exit status: 0", "promote: "] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    load.run_for(200);
    let account = load.stop();
    println!("{said}{:?}", account.regions());
    account.assert_all_fine(400);
    assert_exactly_once(&world, &account);
    assert_eq!(world.ledger.primary(), (EU.to_owned(), 2));
    assert_eq!(world.runs(), [format!("switchover {US} {EU} 2 api a new kernel")]);
    // In the order of the ledger, nothing of the old primary comes after the new one's first.
    let applied = world.ledger.applied();
    let first = applied.iter().position(|(region, _)| region == EU).expect("writes in the new one");
    assert!(applied[first..].iter().all(|(region, _)| region == EU));
    let view = world.operation();
    assert_eq!((&view["state"], &view["primary"]), (&json!("done"), &json!(EU)), "{view:#}");
    let paused_ms = view["paused_ms"].as_u64().expect("a pause");
    let longest = account.0.iter().map(|outcome| outcome.took).max().expect("outcomes");
    println!("paused {paused_ms} ms, the slowest write took {longest:?}");
    assert!((1..5000).contains(&paused_ms), "{paused_ms}");
    history_has_it(&world, paused_ms);
}

fn history_has_it(world: &World, paused_ms: u64) {
    let events = world.edge.history("");
    let event = events.iter().find(|event| event["kind"] == "operation").expect("an event");
    assert_eq!((&event["from"], &event["to"]), (&json!(US), &json!(EU)), "{event:#}");
    assert_eq!(event["operation"]["paused_ms"], paused_ms);
    assert_eq!(event["operation"]["state"], "done");
    let evidence = event["evidence"].as_str().expect("text");
    assert!(evidence.contains("a new kernel") && evidence.contains("is promoted"), "{evidence}");
    assert!(event["actor"].as_str().is_some_and(|actor| actor.contains("admin@")), "{event:#}");
    assert!(world.edge.stderr().contains("switchover"), "an audit line");
}

#[test]
fn reads_that_only_the_primary_can_serve_wait_while_it_moves() {
    let world = World::start(&hooked("follow"));
    world.besides("sleep 1");
    world.begin("switchover", &json!({ "to": EU }));
    world.at("hook");
    let read = Ask::get("/now").with("Meridian-Max-Staleness", "0s");
    let answer = read.send(&mut world.edge.client());
    let region = answer.header("X-Served-Region").map(str::to_owned);
    assert_eq!((answer.status, region.as_deref()), (200, Some(EU)), "{}", answer.text());
    assert_eq!(world.ended()["state"], "done");
}

#[test]
fn there_and_back_again() {
    let world = World::start(&format!("{}, failback_after = \"2s\"", hooked("hook")));
    world.begin("switchover", &json!({ "to": ASIA }));
    assert_eq!(world.ended()["state"], "done", "{:#}", world.operation());
    assert_eq!(world.write(), (200, Some(ASIA.to_owned())));
    let plan = || {
        let body = json!({ "dry_run": true });
        world.edge.admin().post("/api/v1/services/api/failback", &body).json()
    };
    let too_soon = plan();
    assert!(too_soon["refused"].to_string().contains("candidate-well-for"), "{too_soon:#}");
    eventually("it may go back", SOON, || plan()["refused"] == json!([]));
    world.begin("failback", &json!({}));
    let view = world.ended();
    assert_eq!((&view["state"], &view["to"]), (&json!("done"), &json!(US)), "{view:#}");
    assert_eq!(world.write(), (200, Some(US.to_owned())));
    assert_eq!(world.ledger.primary(), (US.to_owned(), 3));
}

#[test]
fn a_dry_run_and_a_refusal_say_why_and_change_nothing() {
    let world = World::start(&hooked("follow"));
    let drain = format!("/api/v1/regions/{EU}/drain");
    assert_eq!(world.edge.admin().put(&drain, &json!({})).status, 200);
    let output = world.edge.cli(&["switchover", "--to", EU, "--dry-run", "--force"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["NO      candidate-not-drained", "ok      primary-serves", "REFUSED"] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    let answer = world
        .edge
        .admin()
        .post("/api/v1/services/api/switchover", &json!({ "to": EU, "force": true }));
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (409, &json!("refused")));
    // Without a name it is the next one that may be.
    let body = json!({ "dry_run": true });
    let plan = world.edge.admin().post("/api/v1/services/api/switchover", &body).json();
    assert_eq!((&plan["to"], &plan["refused"]), (&json!(ASIA), &json!([])), "{plan:#}");
    // A failover of a primary that is well wants to be forced.
    let body = json!({ "to": ASIA });
    let answer = world.edge.admin().post("/api/v1/services/api/failover", &body);
    assert_eq!(answer.status, 409);
    assert!(answer.text().contains("primary-lost"), "{}", answer.text());
    assert_eq!(world.runs(), [""; 0]);
    assert_eq!(world.edge.admin().get("/api/v1/services/api/operation").status, 404);
    assert_eq!(world.primacy()["epoch"], 1);
}

#[test]
fn a_candidate_that_lags_is_waited_for_and_given_up() {
    let world = World::start(&hooked("follow"));
    world.ledger.paused.store(true, SeqCst);
    let load = world.writes();
    load.run_for(50);
    world.begin("switchover", &json!({ "to": EU, "timeout": "3s" }));
    world.at("catch-up");
    let one_at_a_time =
        world.edge.admin().post("/api/v1/services/api/failover", &json!({ "force": true }));
    assert_eq!(one_at_a_time.status, 409);
    assert!(one_at_a_time.text().contains("nothing-under-way"), "{}", one_at_a_time.text());
    assert_eq!(world.edge.admin().json("/api/v1/status")["operations"][0]["to"], EU);
    let view = world.ended();
    assert_eq!((&view["state"], &view["primary"]), (&json!("failed"), &json!(US)), "{view:#}");
    assert_eq!(world.runs(), [""; 0], "nobody was promoted");
    world.begin("switchover", &json!({ "to": EU, "timeout": "8s" }));
    world.at("catch-up");
    world.ledger.paused.store(false, SeqCst);
    let view: Value = world.ended();
    assert_eq!((&view["state"], &view["primary"]), (&json!("done"), &json!(EU)), "{view:#}");
    load.run_for(50);
    let account = load.stop();
    account.assert_all_fine(100);
    assert_exactly_once(&world, &account);
    let slowest = account.0.iter().map(|outcome| outcome.took).max().expect("outcomes");
    assert!(slowest >= Duration::from_secs(2), "writes waited: {slowest:?}");
}
