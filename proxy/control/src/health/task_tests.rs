use std::collections::VecDeque;

use meridian_config::{HealthKind, RegionId, ServiceName};
use meridian_routing::EndpointHealth;
use tokio::sync::mpsc;

use super::*;
use crate::keeper::{Command, inbox};

/// What the fake endpoint does with one probe.
#[derive(Clone, Copy)]
enum Does {
    Pass(Duration),
    Fail(Duration),
    /// Nothing at all.
    Hang,
    /// The machine stops the process while the probe is under way, and the answer never comes.
    Stop(Duration),
}

struct Fake(VecDeque<Does>, Does);

impl Prober for Fake {
    async fn probe(&mut self, _: &[SocketAddr]) -> Result<Passed, Failure> {
        match self.0.pop_front().unwrap_or(self.1) {
            Does::Pass(took) => {
                tokio::time::sleep(took).await;
                Ok(Passed { round_trip: Some(took), ..Passed::default() })
            }
            Does::Fail(took) => {
                tokio::time::sleep(took).await;
                Err("refused".into())
            }
            Does::Hang => std::future::pending().await,
            Does::Stop(time) => {
                tokio::time::advance(time).await;
                std::future::pending().await
            }
        }
    }
}

const MS: fn(u64) -> Duration = Duration::from_millis;

struct Bench {
    reports: mpsc::Receiver<Command>,
    counters: Arc<ProbeCounters>,
    _task: crate::http_client::AbortOnDrop,
}

/// Runs a task that starts healthy, with intervals of 500 and 100 ms, fall 3, rise 2, no jitter.
fn run(script: &[Does], then: Does) -> Bench {
    let (keeper, reports) = inbox();
    let counters = Arc::new(ProbeCounters::default());
    let settings = Health {
        kind: HealthKind::Tcp,
        interval: MS(500),
        fast_interval: MS(100),
        jitter: 0.0,
        timeout: None,
        fall: 3,
        rise: 2,
    };
    let address: SocketAddr = "192.0.2.1:80".parse().expect("an address");
    let task = ProbeTask {
        key: EndpointKey {
            service: ServiceName::new("api"),
            region: RegionId::new("eu"),
            address: EndpointAddress::Ip(address),
        },
        fingerprint: ProbeFingerprint::default(),
        settings,
        prober: Fake(script.iter().copied().collect(), then),
        addresses: Addresses::Literal([address]),
        state: ProbeState::new(EndpointHealth::Healthy, 2, 3),
        round_trip: None,
        keeper,
        counters: counters.clone(),
        claims: None,
    };
    let task = crate::http_client::AbortOnDrop(tokio::spawn(task.run(Duration::ZERO)));
    Bench { reports, counters, _task: task }
}

impl Bench {
    async fn report(&mut self) -> ProbeReport {
        let patience = Duration::from_secs(60);
        let command = tokio::time::timeout(patience, self.reports.recv()).await;
        match command.expect("in time").expect("the task goes on").event {
            Event::Probe(report) => report,
            other => panic!("{other:?}"),
        }
    }

    async fn until(&mut self, health: EndpointHealth) -> Duration {
        let begun = Instant::now();
        while self.report().await.health != health {}
        begun.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn probes_come_faster_while_the_state_is_changing() {
    let mut bench = run(&[Does::Fail(MS(1))], Does::Pass(MS(1)));
    let begun = Instant::now();
    bench.report().await;
    let failed_at = begun.elapsed();
    bench.report().await;
    let second = begun.elapsed() - failed_at;
    assert!(second >= MS(99) && second <= MS(102), "{second:?}");
    bench.report().await;
    let third = begun.elapsed() - failed_at - second;
    assert!(third >= MS(499) && third <= MS(502), "{third:?}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_refuses_is_out_within_a_second() {
    let mut bench = run(&[Does::Pass(MS(2)); 5], Does::Fail(MS(1)));
    for _ in 0..5 {
        assert_eq!(bench.report().await.health, EndpointHealth::Healthy);
    }
    let took = bench.until(EndpointHealth::Unhealthy).await;
    assert!(took <= MS(1000), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_swallows_packets_is_out_within_two_seconds() {
    let mut bench = run(&[Does::Pass(MS(80)); 5], Does::Hang);
    for _ in 0..5 {
        bench.report().await;
    }
    let took = bench.until(EndpointHealth::Unhealthy).await;
    assert!(took <= MS(2000), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stopped_process_blames_nobody() {
    let mut script = vec![Does::Pass(MS(2)); 3];
    script.extend([Does::Stop(MS(10_000)); 5]);
    let mut bench = run(&script, Does::Pass(MS(2)));
    for _ in 0..20 {
        assert_eq!(bench.report().await.health, EndpointHealth::Healthy);
    }
    assert_eq!(bench.counters.void.load(Relaxed), 5);
    assert_eq!(bench.counters.failed.load(Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn round_trips_are_smoothed_and_failures_give_none() {
    let mut bench = run(&[Does::Pass(MS(80)), Does::Pass(MS(160))], Does::Fail(MS(1)));
    assert_eq!(bench.report().await.round_trip, Some(MS(80)));
    assert_eq!(bench.report().await.round_trip, Some(MS(90)));
    let failed = bench.report().await;
    assert_eq!((failed.round_trip, failed.cause.as_deref()), (None, Some("refused")));
}

#[tokio::test(start_paused = true)]
async fn the_timeout_follows_the_round_trip() {
    for (round_trip, timeout) in [(MS(1), MS(250)), (MS(200), MS(500)), (MS(900), MS(1000))] {
        let mut bench = run(&[Does::Pass(round_trip)], Does::Hang);
        bench.report().await;
        let failed = bench.report().await;
        let expected = format!("no answer within {} ms", timeout.as_millis());
        assert_eq!(failed.cause.as_deref(), Some(&*expected));
    }
}

#[tokio::test(start_paused = true)]
async fn a_longer_way_costs_an_endpoint_its_place_only_until_it_is_learnt() {
    let mut bench = run(&[Does::Pass(MS(1)); 5], Does::Pass(MS(400)));
    bench.until(EndpointHealth::Unhealthy).await;
    let took = bench.until(EndpointHealth::Healthy).await;
    assert!(took <= MS(3000), "{took:?}");
    for _ in 0..20 {
        assert_eq!(bench.report().await.health, EndpointHealth::Healthy);
    }
}
