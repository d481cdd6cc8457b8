//! The whole decision, at 1,000 routes, 16 regions and 1,000 endpoints. The target is 300 ns with policy latency
//! and balance p2c_ewma. Each iteration decides another request: route, client and endpoints change every time.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use meridian_benches::{CpuTime, Shape};
use meridian_routing::{Dice, RoutingTable, decide};

fn run(
    c: &mut Criterion<CpuTime>,
    name: &str,
    method: &'static str,
    shape: Shape,
    arrange: fn(&RoutingTable),
) {
    let (table, requests) = (shape.table(), shape.requests());
    arrange(&table);
    let (mut dice, mut next) = (Dice::seeded(1), 0_usize);
    c.bench_function(&format!("decide/{name}"), |b| {
        b.iter(|| {
            next = (next + 1) % requests.len();
            let request = &requests[next];
            let facts = request.facts(method);
            decide(black_box(&table), &request.client, &facts, &mut dice)
        });
    });
}

fn policies(c: &mut Criterion<CpuTime>) {
    for policy in ["latency", "geo", "weighted", "priority", "round_robin", "health"] {
        let shape = Shape { policy, ..Shape::default() };
        run(c, &format!("{policy}+p2c_ewma"), "GET", shape, |_| {});
    }
}

fn balances(c: &mut Criterion<CpuTime>) {
    for (name, service_lines) in [
        ("least_request", "balance = \"least_request\""),
        ("round_robin", "balance = \"round_robin\""),
        ("random", "balance = \"random\""),
        ("consistent_hash", "balance = \"consistent_hash\"\nhash_key = \"client\""),
    ] {
        let shape = Shape { service_lines, ..Shape::default() };
        run(c, &format!("latency+{name}"), "GET", shape, |_| {});
    }
}

fn filters(c: &mut Criterion<CpuTime>) {
    run(c, "write", "POST", Shape::default(), |_| {});
    let service_lines = "balance = \"p2c_ewma\"\n[services.replication]\nsource = \"headers\"";
    let fresh = Shape { service_lines, route_lines: "max_staleness = \"5s\"", ..Shape::default() };
    run(c, "latency+fresh", "GET", fresh, |_| {});
    let route_lines = "residency = { regions = [\"region-1\", \"region-2\"], subject = [\"EU\"] }";
    run(c, "latency+residency", "GET", Shape { route_lines, ..Shape::default() }, |_| {});
}

/// What a decision costs must not follow from how many regions there are to choose from.
fn regions(c: &mut Criterion<CpuTime>) {
    for regions in [1, 4, 16, 64] {
        let shape = Shape { regions, ..Shape::default() };
        run(c, &format!("regions/{regions}"), "GET", shape, |_| {});
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = policies, balances, filters, regions
}
criterion_main!(benches);
