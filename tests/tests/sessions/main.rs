//! Sessions: reads see what their session wrote, and never less than it has seen.

mod histories;
mod scene;
mod tokens;

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use meridian_tests::{Answer, eventually};
use scene::{ASIA, EU, SOON, Scene, US, position, read, reads, served, settle, token, write};
use serde_json::json;

#[test]
fn a_read_goes_to_the_nearest_region_that_has_the_write() {
    let scene = Scene::new();
    let edge = scene.edge_of("", "", "expose_decision = true");
    scene.database.pause(1);
    scene.database.pause(2);
    let wrote = write(&edge, "");
    let session = token(&wrote).expect("a token");
    assert_eq!((position(&wrote), session.len()), (1, 74));
    let answer = read(&edge, &session);
    assert_eq!((served(&answer).as_str(), position(&answer)), (US, 1));
    let by = answer.header("meridian-served-by").expect("it is shown");
    assert_eq!(by, "us-east-1; role=primary; reason=primary-for-session");
    assert_eq!(served(&edge.get("/")), EU, "who has no token reads the nearest");
    scene.database.follow(2, 0);
    settle();
    assert_eq!(served(&read(&edge, &session)), ASIA, "the next nearest");
    scene.database.follow(1, 0);
    settle();
    let answer = read(&edge, &session);
    assert_eq!((served(&answer).as_str(), position(&answer)), (EU, 1));
    assert_eq!(token(&answer), None, "nothing has risen");
    let by = answer.header("meridian-served-by").expect("it is shown");
    assert!(by.starts_with("eu-west-1; role=replica; lag=0.0s; reason="), "{by}");
    assert!(reads(&edge, "primary") >= 1.0 && reads(&edge, "replica") >= 2.0);
    // Endpoints see nothing of it.
    for backend in &scene.backends {
        for request in backend.requests().iter().filter(|request| request.target == "/r") {
            assert_eq!(request.header("meridian-session"), None);
            assert_eq!(request.header("cookie"), None);
        }
    }
}

#[test]
fn a_read_waits_for_a_replica_that_is_about_to_have_the_write() {
    let scene = Scene::new();
    let edge = scene.edge_of(
        "",
        "replication = { source = \"status\", interval = \"10ms\", session_wait = \"500ms\" }",
        "",
    );
    scene.database.follow(1, 40);
    settle();
    for _ in 0..10 {
        let session = token(&write(&edge, "")).expect("a token");
        let answer = read(&edge, &session);
        assert_eq!(served(&answer), EU, "worth waiting for");
    }
    assert!(reads(&edge, "waited") >= 5.0, "{}", reads(&edge, "waited"));
    // Far behind: nobody waits in vain.
    scene.database.follow(1, 30_000);
    settle();
    let session = token(&write(&edge, "")).expect("a token");
    let began = Instant::now();
    assert_ne!(served(&read(&edge, &session)), EU);
    assert!(began.elapsed() < Duration::from_millis(400), "{:?}", began.elapsed());
}

#[test]
fn a_session_never_sees_less_than_it_has_seen() {
    let scene = Scene::new();
    let edge = scene.edge();
    scene.database.pause(1);
    scene.database.pause(2);
    let mine = token(&write(&edge, "")).expect("a token");
    for _ in 0..7 {
        write(&edge, "");
    }
    scene.database.at[1].store(8, SeqCst);
    scene.database.at[2].store(6, SeqCst);
    settle();
    let answer = read(&edge, &mine);
    assert_eq!((served(&answer).as_str(), position(&answer)), (EU, 8));
    let seen = token(&answer).expect("it has risen");
    assert_eq!(token(&read(&edge, &seen)), None, "it has not");
    scene.backends[1].set_health(500);
    eventually("Europe is out", SOON, || served(&edge.get("/")) == ASIA);
    let answer = read(&edge, &seen);
    assert_eq!((served(&answer).as_str(), position(&answer)), (US, 8), "Asia is at 6 only");
    // The old token: this edge remembers what the session has been given since.
    let answer = read(&edge, &mine);
    assert_eq!((served(&answer).as_str(), position(&answer)), (US, 8));
    assert!(token(&answer).is_some(), "and gives it again");
    assert!(scene::faults(&edge, "replayed") >= 1.0);
}

#[test]
fn without_positions_the_primary_is_read_for_a_while() {
    let scene = Scene::new();
    scene.database.tells.store(false, SeqCst);
    let edge = scene.edge();
    let began = Instant::now();
    let session = token(&write(&edge, "")).expect("a token");
    let answer = read(&edge, &session);
    assert_eq!(served(&answer), US);
    assert_eq!(token(&answer), None);
    eventually("the nearest again", SOON, || served(&read(&edge, &session)) == EU);
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(8), "{took:?}");
    assert!(reads(&edge, "no-position") >= 1.0);
    // What was turned down has written nothing.
    scene.backends[0].set(|request| match request.target.as_str() {
        "/health" => Answer::status(200),
        _ => Answer::status(409),
    });
    let refused = write(&edge, "");
    assert_eq!((refused.status, token(&refused)), (409, None));
}

#[test]
fn a_token_of_another_epoch_is_for_the_primary_and_becomes_one_of_the_present() {
    let scene = Scene::new();
    let edge = scene.edge();
    let old = token(&write(&edge, "")).expect("a token");
    settle();
    assert_eq!(served(&read(&edge, &old)), EU);
    // Asia is promoted.
    scene.database.primary.store(2, SeqCst);
    scene.database.epoch.store(2, SeqCst);
    eventually("Asia writes", SOON, || served(&write(&edge, "")) == ASIA);
    let answer = read(&edge, &old);
    assert_eq!(served(&answer), ASIA);
    let new = token(&answer).expect("one of the epoch in force");
    assert!(reads(&edge, "other-epoch") >= 1.0);
    settle();
    assert_eq!(served(&read(&edge, &new)), EU);
    let told = edge
        .admin()
        .post("/api/v1/explain", &json!({"path": "/", "headers": {"meridian-session": old}}));
    let told = told.json();
    assert_eq!(told["session"]["primary"], true, "{told}");
    assert_eq!(told["decision"]["reason"], "primary-for-session", "{told}");
    let excluded = told["candidates"].as_array().expect("candidates");
    assert!(excluded.iter().any(|c| c["excluded_by"] == "session"), "{told}");
}

#[test]
fn an_answer_that_shows_less_than_it_should_is_read_again_elsewhere() {
    let scene = Scene::new();
    let edge = scene.edge();
    let session = token(&write(&edge, "")).expect("a token");
    settle();
    assert_eq!(served(&read(&edge, &session)), EU);
    // Europe was restored from a backup; only its answers tell.
    scene.backends[1].set(|request| match request.target.as_str() {
        "/meridian/status" => {
            Answer::ok("{\"role\":\"replica\",\"epoch\":1,\"position\":99,\"lag_ms\":0}")
        }
        _ => Answer::ok("0")
            .header("Meridian-Epoch", 1)
            .header("Meridian-Position", 0)
            .header("Meridian-Role", "replica"),
    });
    settle();
    for _ in 0..20 {
        let answer = read(&edge, &session);
        assert_eq!((served(&answer).as_str(), position(&answer)), (US, 1));
    }
    assert!(reads(&edge, "refuted") >= 1.0);
    // Neither with what says that it is too old.
    scene.backends[1].set(|request| match request.target.as_str() {
        "/meridian/status" => Answer::ok("{\"role\":\"replica\",\"lag_ms\":0}"),
        _ => Answer::ok("0").header("Meridian-Lag-Ms", 61_000),
    });
    settle();
    assert_eq!(served(&edge.get("/")), US);
}

#[test]
fn without_a_primary_a_read_is_refused_rather_than_stale() {
    let scene = Scene::new();
    let edge = scene.edge();
    scene.database.pause(1);
    scene.database.pause(2);
    let session = token(&write(&edge, "")).expect("a token");
    scene.backends[0].kill();
    eventually("it is refused", SOON, || read(&edge, &session).status == 503);
    let refused = read(&edge, &session);
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert_eq!(served(&edge.get("/")), EU, "others read on");
    scene.database.follow(2, 0);
    settle();
    assert_eq!(served(&read(&edge, &session)), ASIA);
}

#[test]
fn a_client_may_tighten_the_bound_of_staleness() {
    let scene = Scene::new();
    let edge = scene.edge_of("", "", "max_staleness = \"20s\"\nexpose_decision = true");
    scene.database.follow(1, 5_000);
    scene.database.follow(2, 12_000);
    settle();
    let get = |fields: &[(&str, &str)]| {
        let mut all = vec![("Connection", "close")];
        all.extend_from_slice(fields);
        served(&edge.client().request("GET", "/r", &all, b""))
    };
    const BOUND: &str = "Meridian-Max-Staleness";
    assert_eq!(get(&[]), EU);
    assert_eq!(get(&[(BOUND, "10s")]), EU);
    assert_eq!(get(&[(BOUND, "4s")]), US);
    assert_eq!(get(&[(BOUND, "4000ms")]), US);
    assert_eq!(get(&[(BOUND, "90s"), (BOUND, "1")]), US, "the tightest of several");
    assert_eq!(get(&[(BOUND, "soon")]), US, "what cannot be read is no leave");
    scene.database.follow(1, 25_000);
    scene.database.follow(2, 25_000);
    eventually("beyond the route's", SOON, || get(&[]) == US);
    assert_eq!(get(&[(BOUND, "60s")]), US, "never loosened");
}

/// A replica that is asked every two seconds, and has what was written after some milliseconds: a read that waits for it
/// has it asked.
#[test]
fn a_wait_ends_with_news_however_seldom_the_replica_is_asked() {
    let scene = Scene::new();
    let edge = scene.edge_of(
        "",
        "replication = { source = \"status\", interval = \"2s\", session_wait = \"100ms\", sample_max_age = \"10s\" }",
        "",
    );
    scene.database.follow(1, 10);
    let asked = || {
        let requests = scene.backends[1].requests();
        requests.iter().filter(|request| request.target == "/meridian/status").count()
    };
    let before = asked();
    let begun = Instant::now();
    let count = 20;
    let mut waited = 0;
    for _ in 0..count {
        let session = token(&write(&edge, "")).expect("a token");
        waited += usize::from(served(&read(&edge, &session)) == EU);
    }
    assert!(waited >= count * 3 / 4, "{waited} of {count}");
    assert!(reads(&edge, "waited") >= (count / 2) as f64, "{}", reads(&edge, "waited"));
    // Not more often than it may be asked, and not at all while nobody waits.
    let most = begun.elapsed().as_millis() as usize / 20 + 2;
    let questions = asked() - before;
    assert!(questions <= most, "{questions} questions, {most} at most");
    let after = asked();
    std::thread::sleep(Duration::from_millis(500));
    assert!(asked() <= after + 1, "{} since", asked() - after);
}
