//! Handshakes that come too often, too many at a time, or too slowly.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use meridian_tests::{Backend, Meridian, Site, eventually, one_region};

const PATIENCE: Duration = Duration::from_secs(20);
const HOST: &str = "a.example";

struct Stage {
    site: Site,
    edge: Meridian,
    _backend: Backend,
}

fn stage(lines: &str, sections: &str) -> Stage {
    let site = Site::new(&[("a", &[HOST])]);
    let backend = Backend::start("here");
    let edge = Meridian::start(&(one_region(&backend) + &site.listener(&["a"], lines) + sections));
    Stage { site, edge, _backend: backend }
}

impl Stage {
    fn shakes(&self) -> bool {
        let config = self.site.client_config(rustls::ALL_VERSIONS);
        self.site.wire(config, self.edge.address(), HOST).handshake().is_ok()
    }

    fn refused(&self, reason: &str) -> f64 {
        let labels = format!("{{listener=\"tls\",reason=\"{reason}\"}}");
        let name = format!("meridian_connections_refused_total{labels}");
        self.edge.admin().metric(&name).unwrap_or_default()
    }

    /// A connection with the beginning of a handshake.
    fn half(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.edge.address()).expect("accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.write_all(&[0x16, 3, 1]).expect("is open");
        stream
    }
}

#[test]
fn a_rate_is_kept_and_what_is_over_it_costs_little() {
    let stage = stage("tls.handshakes = { rate = 20 }", "");
    let began = Instant::now();
    let cpu = || {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", stage.edge.pid())).expect("runs");
        let fields: Vec<_> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
        [fields[11], fields[12]].iter().filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>()
    };
    let let_in = (0..30).filter(|_| stage.shakes()).count();
    let passed = began.elapsed().as_secs_f64();
    let most = 20.0 + 20.0 * passed + 1.0;
    assert!(let_in >= 20 && let_in as f64 <= most, "{let_in} in {passed} s");
    assert_eq!(stage.refused("handshake-rate"), (30 - let_in) as f64);
    // Two thousand more that are turned away: ticks of 10 ms.
    let before = cpu();
    let refused = stage.refused("handshake-rate");
    for _ in 0..2000 {
        let mut stream = TcpStream::connect(stage.edge.address()).expect("accepts");
        // It may be closed already.
        let _ = stream.write_all(&[0x16, 3, 1]);
    }
    eventually("they are counted", PATIENCE, || stage.refused("handshake-rate") > refused + 1000.0);
    let spent = cpu() - before;
    assert!(spent < 200, "{spent} ticks for 2000 connections");
    eventually("there is room again", PATIENCE, || stage.shakes());
}

#[test]
fn a_client_has_a_rate_of_its_own() {
    let stage = stage("tls.handshakes = { client_rate = 5 }", "");
    let let_in = (0..12).filter(|_| stage.shakes()).count();
    assert!((5..12).contains(&let_in), "{let_in}");
    assert_eq!(stage.refused("client-handshake-rate"), (12 - let_in) as f64);
    assert_eq!(stage.refused("handshake-rate"), 0.0);
    let trusting = "tls.handshakes = { client_rate = 5 }\ntrusted_proxies = [\"127.0.0.0/8\"]";
    let stage = self::stage(trusting, "");
    assert_eq!((0..12).filter(|_| stage.shakes()).count(), 12, "others come through a proxy");
}

#[test]
fn so_many_are_under_way_at_a_time() {
    for (line, reason) in [
        ("tls.handshakes = { concurrent = 4 }", "handshakes"),
        ("tls.handshakes = { client_concurrent = 4 }", "client-handshakes"),
    ] {
        let stage = stage(line, "");
        let mut established = stage.site.client(stage.edge.address(), HOST);
        // Only an answer says that the edge is done with the handshake as well.
        assert_eq!(established.get("/").status, 200);
        // A whole one may have taken the place of a half one: there is always another half.
        let mut halves: Vec<_> = (0..4).map(|_| stage.half()).collect();
        eventually("there is no room", PATIENCE, || {
            halves.push(stage.half());
            !stage.shakes()
        });
        assert!(stage.refused(reason) >= 1.0, "{reason}");
        assert_eq!(established.get("/").status, 200, "who is in stays in");
        drop(halves);
        eventually("there is room again", PATIENCE, || stage.shakes());
    }
}

#[test]
fn a_handshake_that_trickles_in_is_held_to_the_deadline() {
    let stage = stage("", "[limits]\nheader_timeout = \"1s\"\n");
    let config = stage.site.client_config(rustls::ALL_VERSIONS);
    let hello = stage.site.wire(config, stage.edge.address(), HOST).sealed();
    let mut stream = TcpStream::connect(stage.edge.address()).expect("accepts");
    stream.set_nodelay(true).expect("a socket");
    let began = Instant::now();
    // A byte every 50 ms: the whole of it would take ten seconds.
    let ended = hello.iter().position(|byte| {
        std::thread::sleep(Duration::from_millis(50));
        stream.write_all(&[*byte]).is_err()
    });
    let took = began.elapsed();
    assert!(ended.is_some() && took < Duration::from_secs(5), "{ended:?} {took:?}");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    assert!(!matches!(stream.read(&mut [0; 64]), Ok(1..)), "nothing was said");
    let late = "meridian_tls_handshakes_total{listener=\"tls\",result=\"late\"}";
    eventually("it is counted", PATIENCE, || stage.edge.admin().metric(late) >= Some(1.0));
    assert!(stage.shakes());
}
