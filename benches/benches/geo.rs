//! From an address to a place, in the embedded country database.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use criterion::{Criterion, criterion_group, criterion_main};
use meridian_benches::CpuTime;
use meridian_geoip::GeoDatabase;

fn place(c: &mut Criterion<CpuTime>) {
    let database = GeoDatabase::embedded().expect("the embedded database is whole");
    let mut random = fastrand::Rng::with_seed(1);
    let v4: Vec<_> = (0..4096)
        .map(|_| IpAddr::V4(Ipv4Addr::from(random.u32(0x0100_0000..0xe000_0000))))
        .collect();
    // 2000::/4 holds all that is allocated so far, most of it at the beginning of each block.
    let prefixes =
        [0x2001_0200_u128, 0x2400_0000, 0x2600_0000, 0x2800_0000, 0x2a00_0000, 0x2c00_0000];
    let v6: Vec<_> = (0..4096)
        .map(|i| {
            let prefix = (prefixes[i % prefixes.len()] + random.u128(0..0xffff)) << 96;
            IpAddr::V6(Ipv6Addr::from(prefix | random.u128(..) >> 32))
        })
        .collect();
    for (name, addresses) in [("ipv4", v4), ("ipv6", v6)] {
        let mut next = 0;
        c.bench_function(&format!("geo/{name}"), |b| {
            b.iter(|| {
                next = (next + 1) % addresses.len();
                database.place(addresses[next])
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = place
}
criterion_main!(benches);
