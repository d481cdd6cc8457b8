//! The databases in tests/data are made by the script there.

use super::*;
use crate::countries::all_countries;
use crate::place::{Continent, Coordinates, CountryCode};

const CITY: &[u8] = include_bytes!("../tests/data/city.mmdb");
const FLAT_CITY: &[u8] = include_bytes!("../tests/data/flat-city.mmdb");
const ASN: &[u8] = include_bytes!("../tests/data/asn.mmdb");

fn country(code: &str) -> Option<CountryCode> {
    Some(code.parse().unwrap())
}

fn place(database: &GeoDatabase, address: &str) -> Place {
    database.place(address.parse().unwrap())
}

fn point(latitude: f64, longitude: f64) -> Option<Coordinates> {
    Some(Coordinates::new(latitude, longitude).unwrap())
}

/// Xorshift64*: the same bytes on every run.
struct Sequence(u64);

impl Sequence {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let mixed = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(mixed).unwrap() % bound
    }
}

#[test]
fn the_embedded_database_finds_both_versions() {
    let database = GeoDatabase::embedded().unwrap();
    for (address, code) in [
        ("8.8.8.8", "US"),
        ("193.0.6.139", "NL"),
        ("200.160.2.3", "BR"),
        ("223.5.5.5", "CN"),
        ("2001:4860:4860::8888", "US"),
        ("2001:67c:2e8::1", "NL"),
    ] {
        let found = place(&database, address);
        assert_eq!(found.country, country(code), "{address}");
        let facts = crate::country_facts(code.parse().unwrap()).unwrap();
        assert_eq!(found.continent, Some(facts.continent), "{address}");
        assert_eq!(found.coordinates, Some(facts.centroid), "{address}");
    }
}

#[test]
fn mapped_addresses_are_those_they_stand_for() {
    let database = GeoDatabase::embedded().unwrap();
    assert_eq!(place(&database, "::ffff:200.160.2.3"), place(&database, "200.160.2.3"));
    assert_eq!(place(&database, "::ffff:200.160.2.3").country, country("BR"));
    assert_eq!(place(&database, "::ffff:10.1.2.3"), Place::default());
}

#[test]
fn addresses_of_nowhere_have_no_place() {
    let database = GeoDatabase::embedded().unwrap();
    for address in [
        "10.0.0.1",
        "127.0.0.1",
        "192.168.1.1",
        "172.16.9.9",
        "100.64.0.1",
        "100.127.255.255",
        "169.254.1.1",
        "0.0.0.0",
        "240.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fd00::1",
        "ff02::1",
    ] {
        assert_eq!(place(&database, address), Place::default(), "{address}");
    }
}

#[test]
fn the_neighbours_of_private_networks_are_public() {
    for address in [
        "1.0.0.0",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.0.1",
        "172.15.255.255",
        "172.32.0.0",
        "192.167.0.1",
        "192.169.0.1",
        "223.255.255.255",
        "203.0.113.1",
        "::2",
        "2001::",
        "fbff::1",
        "fec0::1",
        "fe7f::1",
    ] {
        assert!(is_public(address.parse().unwrap()), "{address}");
    }
}

#[test]
fn the_whole_embedded_database_is_sound() {
    let database = GeoDatabase::from_bytes(EMBEDDED.to_vec()).unwrap();
    let described = database.describe();
    assert_eq!(described, GeoDatabase::embedded().unwrap().describe());
    assert_eq!((described.kind, described.ip_version), (DatabaseKind::Country, 6));
    assert_eq!(described.bytes, EMBEDDED.len() as u64);
    assert!(described.build_epoch > 1_700_000_000 && described.node_count > 100_000);
}

#[test]
fn the_embedded_database_knows_nearly_every_country() {
    let database = GeoDatabase::embedded().unwrap();
    let mut seen = HashSet::new();
    // One address in each /16: countries of few addresses are missed, most are met.
    for prefix in 0..=u16::MAX {
        let address = std::net::Ipv4Addr::from((u32::from(prefix) << 16) | 0x0101);
        seen.extend(database.place(address.into()).country);
    }
    assert!(seen.len() > 150, "only {} countries", seen.len());
    assert!(seen.iter().all(|code| all_countries().any(|facts| facts.code == *code)));
}

#[test]
fn maxminds_schema_is_read() {
    let database = GeoDatabase::from_bytes(CITY.to_vec()).unwrap();
    let lyon = place(&database, "203.0.113.7");
    assert_eq!(lyon.country, country("FR"));
    assert_eq!(lyon.continent, Some(Continent::Europe));
    assert_eq!(lyon.coordinates, point(45.75, 4.85));
    assert_eq!(place(&database, "::ffff:203.0.113.7"), lyon);

    let registered = place(&database, "203.0.113.200");
    assert_eq!(registered.country, country("JP"));
    assert_eq!(registered.continent, Some(Continent::Asia));
    assert!(registered.coordinates.is_some());

    let auckland = place(&database, "2001:db8:1::1");
    assert_eq!((auckland.country, auckland.coordinates), (country("NZ"), point(-36.85, 174.76)));
    assert_eq!(place(&database, "2001:db8:2::1"), Place::default());
    assert_eq!(place(&database, "8.8.8.8"), Place::default());
}

#[test]
fn what_a_record_lacks_is_unknown_or_the_countrys() {
    let database = GeoDatabase::from_bytes(CITY.to_vec()).unwrap();
    let continent = place(&database, "198.51.100.1");
    assert_eq!(
        continent,
        Place { country: None, continent: Some(Continent::Asia), coordinates: None }
    );
    // A code that no country has.
    assert_eq!(place(&database, "198.51.100.200"), Place::default());
    // A latitude of 123 degrees, and a latitude without a longitude.
    for (address, code) in [("192.0.2.1", "BR"), ("192.0.2.200", "CA")] {
        let facts = crate::country_facts(code.parse().unwrap()).unwrap();
        assert_eq!(place(&database, address).country, country(code));
        assert_eq!(place(&database, address).coordinates, Some(facts.centroid));
    }
}

#[test]
fn the_flat_schema_is_read() {
    let database = GeoDatabase::from_bytes(FLAT_CITY.to_vec()).unwrap();
    assert_eq!(database.describe().kind, DatabaseKind::City);
    assert_eq!(database.describe().database_type, "Meridian-Test flat");
    assert_eq!(database.describe().build_epoch, 1_750_000_000);
    let lyon = place(&database, "203.0.113.7");
    assert_eq!((lyon.country, lyon.coordinates), (country("FR"), point(45.75, 4.875)));
    let alice = place(&database, "198.51.100.7");
    assert_eq!((alice.country, alice.coordinates), (country("AU"), point(-25.0, 134.0)));
    assert_eq!(alice.continent, Some(Continent::Oceania));
    let germany = place(&database, "192.0.2.7");
    assert_eq!(germany.country, country("DE"));
    assert!(germany.coordinates.is_some());
    // It has no IPv6 addresses at all.
    assert_eq!(place(&database, "2001:db8::1"), Place::default());
    assert_eq!(place(&database, "::ffff:192.0.2.7"), germany);
}

#[test]
fn a_database_about_something_else_is_refused() {
    let refused = GeoDatabase::from_bytes(ASN.to_vec()).unwrap_err();
    assert!(matches!(&refused, GeoError::NoCountries { .. }), "{refused:?}");
    assert!(refused.to_string().contains("Meridian-Test-ASN"));
}

#[test]
fn every_truncation_is_an_error() {
    for whole in [CITY, FLAT_CITY] {
        for length in 0..whole.len() {
            let cut = GeoDatabase::from_bytes(whole[..length].to_vec());
            assert!(matches!(cut, Err(GeoError::Damaged(_))), "{length} bytes of {}", whole.len());
        }
        // The front is missing, the metadata is not: the tree is too short, or leads elsewhere.
        for lost in 1..whole.len() {
            if let Ok(database) = GeoDatabase::from_bytes(whole[lost..].to_vec()) {
                place(&database, "203.0.113.7");
            }
        }
    }
    for length in (0..EMBEDDED.len()).step_by(EMBEDDED.len() / 5) {
        assert!(GeoDatabase::from_bytes(EMBEDDED[..length].to_vec()).is_err(), "{length} bytes");
    }
}

#[test]
fn flipped_bits_never_panic() {
    let mut sequence = Sequence(0x6d65_7269_6469_616e);
    let (mut refused, mut unverified) = (0, 0);
    for round in 0..6000 {
        let whole = if round % 2 == 0 { CITY } else { FLAT_CITY };
        let mut bytes = whole.to_vec();
        for _ in 0..=sequence.below(4) {
            let at = sequence.below(bytes.len());
            bytes[at] ^= 1 << sequence.below(8);
        }
        refused += usize::from(GeoDatabase::from_bytes(bytes.clone()).is_err());
        // Even one that skipped verification answers.
        let cow = Cow::Owned(bytes);
        if let Ok(database) = GeoDatabase::unverified(cow, DatabaseKind::City) {
            unverified += 1;
            for address in ["203.0.113.7", "203.0.113.200", "198.51.100.7", "192.0.2.7", "8.8.8.8"]
            {
                place(&database, address);
            }
            place(&database, "2001:db8:1::1");
        }
    }
    assert!(refused > 1000 && unverified > 1000, "{refused} refused, {unverified} looked up");
}

#[test]
fn a_record_found_corrupt_at_lookup_has_no_place() {
    // The text "FR" made a map that never ends, after the verification that would have found it.
    let mut bytes = FLAT_CITY.to_vec();
    let at = bytes.windows(3).position(|w| w == [0x42, b'F', b'R']).unwrap();
    bytes[at..at + 3].copy_from_slice(&[0xff, 0xff, 0xff]);
    assert!(GeoDatabase::from_bytes(bytes.clone()).is_err());
    let database = GeoDatabase::unverified(Cow::Owned(bytes), DatabaseKind::City).unwrap();
    assert_eq!(place(&database, "203.0.113.7"), Place::default());
    assert_eq!(place(&database, "192.0.2.7").country, country("DE"));
}

#[test]
fn files_are_read_whole_and_only_files() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let database = GeoDatabase::open(data.join("city.mmdb")).unwrap();
    assert_eq!(place(&database, "203.0.113.7").country, country("FR"));
    for path in [data.join("none.mmdb"), data.clone(), PathBuf::from("/dev/zero")] {
        let error = GeoDatabase::open(&path).unwrap_err();
        assert!(matches!(&error, GeoError::Read { .. }), "{error:?}");
        assert!(error.to_string().starts_with(&path.display().to_string()));
    }
    let script = GeoDatabase::open(data.join("make_fixtures.py")).unwrap_err();
    assert!(matches!(script, GeoError::Damaged(_)), "{script:?}");
}
