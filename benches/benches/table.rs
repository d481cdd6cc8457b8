//! The table: building it, and loading it while another thread publishes without pause.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use arc_swap::{ArcSwap, Cache};
use criterion::{Criterion, criterion_group, criterion_main};
use meridian_benches::{CpuTime, Shape};
use meridian_routing::{Desired, HotRegistry, Overrides, build};

/// At 10,000 routes: a new configuration (its text already parsed), and a change of what is observed.
fn building(c: &mut Criterion<CpuTime>) {
    let shape = Shape { routes: 10_000, ..Shape::default() };
    let (config, overrides) = (shape.config(), Overrides::new());
    let observed = shape.observed(&config);
    let desired = || Desired::new(config.clone()).expect("no expressions");
    let (compiled, mut hot) = (desired(), HotRegistry::default());
    let mut table =
        |previous: Option<&_>| build(&compiled, &overrides, &observed, previous, &mut hot, 1);
    let first = table(None);
    c.bench_function("table/build/reload", |b| b.iter(|| table(None)));
    c.bench_function("table/build/observation", |b| b.iter(|| table(Some(&first))));
    c.bench_function("table/compile", |b| b.iter(desired));
    c.bench_function("table/parse", |b| b.iter(|| shape.config()));
}

fn loading(c: &mut Criterion<CpuTime>) {
    let slot = Arc::new(ArcSwap::from_pointee(Shape::default().table()));
    let (stop, published) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut measure = |when: &str| {
        c.bench_function(&format!("table/load/{when}"), |b| {
            b.iter(|| slot.load_full().generation);
        });
        let mut cache = Cache::new(slot.clone());
        c.bench_function(&format!("table/cached/{when}"), |b| {
            b.iter(|| cache.load().generation);
        });
    };
    measure("quiet");
    // Tables of one configuration in turn: what is measured is the swap, not the build.
    let tables = [slot.load_full(), Arc::new(Shape::default().table())];
    let writer = {
        let (slot, stop, published) = (slot.clone(), stop.clone(), published.clone());
        std::thread::spawn(move || {
            let mut generation = 0;
            while !stop.load(Relaxed) {
                slot.store(tables[generation % 2].clone());
                generation += 1;
                published.store(generation as u64, Relaxed);
            }
        })
    };
    measure("publishing");
    stop.store(true, Relaxed);
    writer.join().expect("the writer does not panic");
    assert!(published.load(Relaxed) > 1_000, "the writer published all the time");
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = building, loading
}
criterion_main!(benches);
