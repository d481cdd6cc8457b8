//! What the machine may do to an edge: stop it, fill its disk, take its descriptors away.

use std::time::{Duration, Instant};

use meridian_tests::{Ask, Backend, Client, Load, Meridian, Process, Signal, eventually, regions};

const SOON: Duration = Duration::from_secs(20);
const US: &str = "us-east-1";
const EU: &str = "eu-west-1";

fn text(backends: &[Backend]) -> String {
    let endpoints: Vec<_> = backends.iter().map(|b| (b.name(), b.address())).collect();
    format!("{}[[routes]]\nname = \"all\"\nservice = \"api\"\n", regions(&endpoints, ""))
}

fn unhealthy_ever(edge: &Meridian) -> usize {
    edge.stderr().matches(" unhealthy ").count()
}

/// Processor time that a process has used, in ticks of 10 ms.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, rest) = stat.rsplit_once(')').expect("a name in parentheses");
    let field = |n: usize| rest.split_whitespace().nth(n).and_then(|text| text.parse::<u64>().ok());
    field(11).expect("utime") + field(12).expect("stime")
}

#[test]
fn an_edge_that_was_stopped_blames_nobody() {
    let backends = [US, US, EU].map(Backend::start);
    let edge = Meridian::start(&text(&backends));
    let before = unhealthy_ever(&edge);
    edge.signal(Signal::STOP);
    // Longer than a probe may take, many times over.
    std::thread::sleep(Duration::from_secs(4));
    edge.signal(Signal::CONT);
    assert_eq!(edge.get("/").status, 200);
    let probed = backends.each_ref().map(Backend::probes);
    eventually("probes go on", SOON, || {
        backends.iter().zip(probed).all(|(backend, before)| backend.probes() > before + 2)
    });
    assert_eq!(unhealthy_ever(&edge), before, "{}", edge.stderr());
}

#[test]
fn a_full_disk_costs_log_lines_and_nothing_else() {
    let backends = [US].map(Backend::start);
    let edge =
        Meridian::start(&format!("[access_log]\noutput = \"/dev/full\"\n{}", text(&backends)));
    let load = Load::start(edge.address(), 4, |_| Ask::get("/"));
    load.run_for(500);
    eventually("what could not be written is counted", SOON, || {
        edge.admin().metric("meridian_access_log_dropped_total") > Some(0.0)
    });
    load.stop().assert_all_fine(500);
    let lines = edge.stderr().lines().count();
    assert!(lines < 50, "{lines} lines about it: {}", edge.stderr());
}

#[test]
fn a_crowd_beyond_the_limit_of_open_files_is_turned_away() {
    let backends = [US].map(Backend::start);
    let mut edge = Meridian::start(&text(&backends));
    edge.signal(Signal::KILL);
    edge.wait_exit();
    // The same files and addresses, with few descriptors.
    let poor = Process::start_with_descriptors(256, &["run", "-c", "meridian.toml"], edge.dir());
    let ready = || {
        let mut operator = Client::try_connect(edge.admin().address()).ok()?.host("localhost");
        operator.wire().patience = Duration::from_secs(5);
        operator.try_request("GET", "/readyz", &[("Connection", "close")], b"").ok()
    };
    eventually("it is ready", SOON, || ready().is_some_and(|answer| answer.status == 200));
    let crowd: Vec<_> =
        (0..2_000).filter_map(|_| Client::try_connect(edge.address()).ok()).collect();
    assert!(crowd.len() > 1_500, "{}", crowd.len());
    for _ in 0..10 {
        assert_eq!(ready().map(|answer| answer.status), Some(200), "the operator gets in");
    }
    // Those who came first are served, the others are told to come again.
    let mut statuses = Vec::new();
    for mut client in crowd {
        client.wire().patience = Duration::from_secs(5);
        if let Ok(answer) = client.try_request("GET", "/", &[], b"") {
            statuses.push(answer.status);
        }
    }
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert!(served >= 50, "{served} of {} were served", statuses.len());
    assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
    let used = cpu_ticks(poor.pid());
    let begun = Instant::now();
    std::thread::sleep(Duration::from_secs(1));
    let share = (cpu_ticks(poor.pid()) - used) as f64 / 100.0 / begun.elapsed().as_secs_f64();
    assert!(share < 0.3, "it uses {share} of a core doing nothing");
    eventually("everybody is served again", SOON, || {
        Client::try_connect(edge.address()).is_ok_and(|mut client| {
            client.try_request("GET", "/", &[], b"").is_ok_and(|answer| answer.status == 200)
        })
    });
    assert!(poor.stderr().lines().count() < 60, "{}", poor.stderr());
}
