//! What breaks in the middle of a move: the hook, whoever waits for it, the primary, the edge.

use std::fs;
use std::process::Command;
use std::time::Duration;

use meridian_tests::{Process, Signal, eventually};
use serde_json::json;

use crate::world::{EU, SOON, US, World, assert_exactly_once, hooked};

/// The hook tells its process id and then waits.
const HANGS: &str = "sleep 600 & echo $$ $! > DIR/pids.new && mv DIR/pids.new DIR/pids; wait";

/// The process ids of a hook that hangs, and of its child.
fn pids(world: &World) -> Vec<String> {
    let file = world.dir().join("pids");
    let read = || fs::read_to_string(&file).unwrap_or_default();
    eventually("the hook has begun", SOON, || !read().is_empty());
    read().split_whitespace().map(str::to_owned).collect()
}

fn hang(world: &World) {
    world.besides(&HANGS.replace("DIR", &world.dir().display().to_string()));
}

fn is_gone(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim().chars().next());
    state.is_none_or(|state| state == 'Z')
}

#[test]
fn a_hook_that_fails_leaves_writes_where_they_were() {
    let world = World::start(&hooked("follow"));
    world.besides("echo the disk is full >&2; exit 3");
    let load = world.writes();
    load.run_for(50);
    world.begin("switchover", &json!({ "to": EU }));
    let view = world.ended();
    assert_eq!((&view["state"], &view["primary"]), (&json!("failed"), &json!(US)), "{view:#}");
    let outcome = view["outcome"].as_str().expect("text");
    assert!(
        outcome.contains("exit status: 3") && outcome.contains("the disk is full"),
        "{outcome}"
    );
    assert!(outcome.ends_with(&format!("writes go to \"{US}\"")), "{outcome}");
    load.run_for(50);
    let account = load.stop();
    account.assert_all_fine(100);
    assert_exactly_once(&world, &account);
}

#[test]
fn a_hook_that_is_killed_is_one_that_fails() {
    let world = World::start(&hooked("follow"));
    hang(&world);
    world.begin("switchover", &json!({ "to": EU }));
    let pids = pids(&world);
    let killed = Command::new("kill").args(["-9", &pids[0]]).status().expect("kill");
    assert!(killed.success());
    let view = world.ended();
    assert_eq!((&view["state"], &view["primary"]), (&json!("failed"), &json!(US)), "{view:#}");
    assert!(view["outcome"].as_str().is_some_and(|text| text.contains("signal: 9")), "{view:#}");
    assert_eq!(world.write(), (200, Some(US.to_owned())));
    // Its child is nobody's by now.
    Command::new("kill").args(["-9", &pids[1]]).status().expect("kill");
}

#[test]
fn a_hook_that_hangs_is_killed_with_its_group() {
    let world = World::start(&format!("{}, hook_timeout = \"500ms\"", hooked("follow")));
    hang(&world);
    world.begin("switchover", &json!({ "to": EU }));
    let pids = pids(&world);
    let view = world.ended();
    assert_eq!(view["state"], "failed", "{view:#}");
    assert!(view["outcome"].as_str().is_some_and(|text| text.contains("killed after 500 ms")));
    eventually("all of it is gone", SOON, || pids.iter().all(|pid| is_gone(pid)));
    assert_eq!(world.write(), (200, Some(US.to_owned())));
}

#[test]
fn an_interruption_gives_the_switchover_up() {
    let world = World::start(&hooked("follow"));
    hang(&world);
    let admin = world.edge.admin().address().to_string();
    let args = ["switchover", "--to", EU, "--timeout", "60s", "--admin", &admin];
    let mut command = Process::start(&args, world.edge.dir());
    let pids = pids(&world);
    command.signal(Signal::INT);
    let status = command.wait(SOON);
    assert_eq!(status.code(), Some(1), "{}{}", command.stdout(), command.stderr());
    assert!(command.stdout().contains("cancelled"), "{}", command.stdout());
    eventually("the hook is gone", SOON, || pids.iter().all(|pid| is_gone(pid)));
    let view = world.ended();
    assert_eq!((&view["state"], &view["primary"]), (&json!("cancelled"), &json!(US)), "{view:#}");
    assert_eq!(world.write(), (200, Some(US.to_owned())));
}

#[test]
fn an_edge_that_is_killed_in_the_middle_follows_what_came_of_it() {
    let mut world = World::start(&hooked("follow"));
    let go = world.dir().join("go");
    let waits = format!(
        "echo $$ > {0}/pids.new; mv {0}/pids.new {0}/pids; while [ ! -f {0}/go ]; do sleep 0.05; done",
        world.dir().display()
    );
    world.besides(&waits);
    world.begin("switchover", &json!({ "to": EU, "timeout": "60s" }));
    pids(&world);
    world.edge.crash_and_restart();
    // Nothing is under way any more, and the old primary still is one.
    world.until("the primary is known again", |primacy| primacy["state"] == "settled");
    assert_eq!(world.write(), (200, Some(US.to_owned())));
    assert_eq!(world.edge.admin().json("/api/v1/operations"), json!([]));
    // The hook outlives the edge; what it does is followed.
    fs::write(go, "").expect("writes");
    world.until("the promotion is followed", |primacy| primacy["epoch"] == 2);
    assert_eq!(world.write(), (200, Some(EU.to_owned())));
}

#[test]
fn a_primary_that_dies_in_the_middle_does_not_stop_its_successor() {
    let world = World::start(&format!("{}, hold = \"500ms\"", hooked("hook")));
    world.besides(&format!("echo 1 > {0}/pids; sleep 1", world.dir().display()));
    world.begin("switchover", &json!({ "to": EU }));
    pids(&world);
    world.backends[0].kill();
    let view = world.ended();
    assert_eq!((&view["state"], &view["primary"]), (&json!("done"), &json!(EU)), "{view:#}");
    assert_eq!(world.write(), (200, Some(EU.to_owned())));
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(world.runs().len(), 1, "one promotion for one loss: {:?}", world.runs());
}
