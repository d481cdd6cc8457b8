//! Policy geo, held against an independent computation over addresses of the whole world.

use std::path::{Path, PathBuf};
use std::process::Command;

use meridian_tests::{Backend, Meridian, regions};

const REGIONS: [&str; 4] = ["us-east-1", "us-west-2", "eu-west-1", "ap-southeast-1"];
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A Python that can read geo databases: of the tests' own environment, else the machine's.
fn python() -> PathBuf {
    let own = Path::new(ROOT).join("target/venv/bin/python");
    let candidates = [own, PathBuf::from("python3")];
    let able = |python: &PathBuf| {
        let output = Command::new(python).args(["-c", "import maxminddb"]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let found = candidates.into_iter().find(able);
    found.expect(
        "a Python that can import maxminddb: `make test` or `scripts/setup.sh test` makes one",
    )
}

/// Runs the check to its end: whether it succeeded, and all that it said.
fn check(args: &[&str]) -> (bool, String) {
    let script = format!("{ROOT}/tests/geo/expected_regions.py");
    let output = Command::new(python()).arg(script).args(args).output().expect("a Python");
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.success(), said.concat())
}

fn config(backends: &[Backend; 4]) -> String {
    let endpoints = backends.each_ref().map(|b| (b.name(), b.address()));
    format!(
        "[[listeners]]\nname = \"public\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n{}\
         [[routes]]\nname = \"all\"\nservice = \"api\"\n",
        regions(&endpoints, "policy = \"geo\"")
    )
}

fn compare(edge: &Meridian) -> (bool, String) {
    let regions = r#"[{"id": "us-east-1", "country": "US", "coordinates": [38.95, -77.45]},
        {"id": "us-west-2", "country": "US", "coordinates": [45.84, -119.70]},
        {"id": "eu-west-1", "country": "IE", "coordinates": [53.35, -6.26]},
        {"id": "ap-southeast-1", "country": "SG", "coordinates": [1.35, 103.82]}]"#;
    let data = format!("{ROOT}/geoip/data");
    check(&[
        "--database",
        &format!("{data}/country.mmdb"),
        "--countries",
        &format!("{data}/countries.csv"),
        "--edge",
        &format!("http://{}", edge.address()),
        "--regions",
        regions,
    ])
}

#[test]
fn a_thousand_addresses_of_all_countries_are_served_where_geography_says() {
    let (passed, said) = check(&["--self-test"]);
    assert!(passed, "{said}");
    let backends = REGIONS.map(Backend::start);
    let edge = Meridian::start(&config(&backends));
    let (agreed, said) = compare(&edge);
    assert!(agreed && said.contains("disagree: 0"), "{said}");
    println!("{said}");
    let asked: usize = backends.iter().map(|backend| backend.requests().len()).sum();
    assert!(asked >= 1000, "{asked} requests");
    assert!(backends.iter().all(|backend| !backend.requests().is_empty()));
}
