//! Finding the route: hosts, wildcard hosts, exact paths and prefixes of one to four segments, ten routes to a host.

use criterion::{Criterion, criterion_group, criterion_main};
use meridian_benches::{CpuTime, Shape};
use meridian_routing::RouteMatcher;

fn find(c: &mut Criterion<CpuTime>) {
    for routes in [10, 1_000, 10_000] {
        let shape = Shape { routes, ..Shape::default() };
        let (config, requests) = (shape.config(), shape.requests());
        let matcher = RouteMatcher::new(&config.routes).expect("no regular expressions");
        let mut next = 0;
        c.bench_function(&format!("route/{routes}"), |b| {
            b.iter(|| {
                next = (next + 1) % requests.len();
                matcher.find(&requests[next].facts("GET"))
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = find
}
criterion_main!(benches);
