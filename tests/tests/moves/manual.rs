//! Mode `manual`: the operator says who is the primary, and the edge raises the epoch.

use serde_json::json;

use crate::world::{ASIA, EU, US, World, hooked};

#[test]
fn a_failover_raises_the_epoch_and_a_failback_again() {
    let world = World::start(&format!("{}, failback_after = \"0s\"", hooked("manual")));
    world.backends[0].kill();
    let down = || {
        let services = world.edge.admin().json("/api/v1/services");
        services[0]["endpoints"][0]["health"] == "unhealthy"
    };
    meridian_tests::eventually("the primary is down", crate::world::SOON, down);
    let output = world.edge.cli(&["failover", "--reason", "the data centre burns", "-o", "json"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let view: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((&view["to"], &view["state"]), (&json!(EU), &json!("done")), "{view:#}");
    let primacy = world.primacy();
    assert_eq!((&primacy["epoch"], &primacy["region"]), (&json!(2), &json!(EU)), "{primacy:#}");
    assert_eq!(world.write(), (200, Some(EU.to_owned())));
    world.backends[0].revive();
    let well = || {
        let plan =
            world.edge.admin().post("/api/v1/services/api/failback", &json!({"dry_run": true}));
        plan.json()["refused"] == json!([])
    };
    meridian_tests::eventually("it may go back", crate::world::SOON, well);
    let output = world.edge.cli(&["failback"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(world.write(), (200, Some(US.to_owned())));
    assert_eq!(world.primacy()["epoch"], 3);
}

#[test]
fn the_primary_is_named_with_a_higher_epoch_only() {
    let world = World::start("mode = \"manual\"");
    let name = |body: serde_json::Value| world.edge.admin().post("/api/v1/primary", &body);
    for epoch in [0, 1] {
        let answer = name(json!({ "region": EU, "epoch": epoch, "reason": "x" }));
        assert_eq!(answer.status, 409, "{}", answer.text());
        assert_eq!(answer.json()["error"]["code"], "epoch_not_higher");
    }
    assert_eq!(name(json!({ "region": "mars", "reason": "x" })).status, 404);
    assert_eq!(name(json!({ "region": EU })).status, 400);
    let answer = name(json!({ "region": EU, "epoch": 7, "reason": "fenced by hand" }));
    assert_eq!((answer.status, &answer.json()["epoch"]), (200, &json!(7)), "{}", answer.text());
    let answer = name(json!({ "service": "api", "region": ASIA, "reason": "and again" }));
    assert_eq!(answer.json()["epoch"], 8);
    assert_eq!(world.primacy()["region"], ASIA);
}
