//! The table of countries: continent, centroid, name.
//!
//! Promises: facts for all of ISO 3166-1 and XK (Kosovo), found by index and parsed once. Refuses
//! to know: addresses and databases.

use std::sync::LazyLock;

use crate::place::{Continent, Coordinates, CountryCode};

/// What is the same for all addresses of a country.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CountryFacts {
    /// The country's own code.
    pub code: CountryCode,
    /// The continent it is counted to; Russia counts to Europe, Turkey and Kazakhstan to Asia.
    pub continent: Continent,
    /// The middle of its largest piece of land.
    pub centroid: Coordinates,
    /// Its English name.
    pub name: &'static str,
}

/// One slot for each pair of letters, by [`CountryCode::index`].
const SLOTS: usize = 26 * 26;

static TABLE: LazyLock<[Option<CountryFacts>; SLOTS]> = LazyLock::new(|| {
    let mut table = [None; SLOTS];
    for facts in rows() {
        table[facts.code.index()] = Some(facts);
    }
    table
});

/// Members of the European Union since 2020.
const EU_MEMBERS: [[u8; 2]; 27] = [
    *b"AT", *b"BE", *b"BG", *b"CY", *b"CZ", *b"DE", *b"DK", *b"EE", *b"ES", *b"FI", *b"FR", *b"GR",
    *b"HR", *b"HU", *b"IE", *b"IT", *b"LT", *b"LU", *b"LV", *b"MT", *b"NL", *b"PL", *b"PT", *b"RO",
    *b"SE", *b"SI", *b"SK",
];

/// Parts of members that have a code of their own and in which the Union's law holds: the outermost
/// regions (article 349 of the Treaty on the Functioning of the EU) and Åland.
const EU_OUTLYING: [[u8; 2]; 7] = [*b"AX", *b"GF", *b"GP", *b"MF", *b"MQ", *b"RE", *b"YT"];

/// The facts of a country, or `None` for a code that is not in use (`ZZ`, `AN`).
pub fn country_facts(code: CountryCode) -> Option<&'static CountryFacts> {
    TABLE.get(code.index())?.as_ref()
}

/// All countries in the order of their codes.
pub fn all_countries() -> impl Iterator<Item = &'static CountryFacts> {
    TABLE.iter().flatten()
}

/// Whether the country is one of the 27 members of the European Union.
pub fn is_eu_member(code: CountryCode) -> bool {
    contains(&EU_MEMBERS, code)
}

/// Whether the Union's law holds there: a member, or one of the parts of members with a code of
/// their own (Åland, French Guiana, Guadeloupe, Martinique, Mayotte, Réunion, Saint Martin).
pub fn is_eu_territory(code: CountryCode) -> bool {
    is_eu_member(code) || contains(&EU_OUTLYING, code)
}

fn contains(list: &[[u8; 2]], code: CountryCode) -> bool {
    list.iter().any(|letters| letters.as_slice() == code.as_str().as_bytes())
}

fn rows() -> impl Iterator<Item = CountryFacts> {
    include_str!("../data/countries.csv").lines().skip(1).filter_map(parse_row)
}

/// `code,continent,latitude,longitude,name`. The file is a part of the program, and a test reads
/// every line of it.
fn parse_row(line: &'static str) -> Option<CountryFacts> {
    let mut columns = line.splitn(5, ',');
    let code = columns.next()?.parse().ok()?;
    let continent = columns.next()?.parse().ok()?;
    let latitude = columns.next()?.parse().ok()?;
    let longitude = columns.next()?.parse().ok()?;
    let centroid = Coordinates::new(latitude, longitude)?;
    Some(CountryFacts { code, continent, centroid, name: columns.next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(code: &str) -> &'static CountryFacts {
        country_facts(code.parse().unwrap()).unwrap()
    }

    #[test]
    fn every_line_of_the_file_is_a_country() {
        let lines = include_str!("../data/countries.csv").lines().count() - 1;
        assert_eq!(lines, 250);
        assert_eq!(rows().count(), lines);
        assert_eq!(all_countries().count(), lines);
        for facts in all_countries() {
            assert_eq!(country_facts(facts.code), Some(facts));
            assert!(!facts.name.is_empty());
        }
    }

    #[test]
    fn the_facts_are_those_of_the_country() {
        assert_eq!(facts("US").name, "United States");
        assert_eq!(facts("US").continent, Continent::NorthAmerica);
        assert_eq!(facts("RU").continent, Continent::Europe);
        assert_eq!(facts("XK").continent, Continent::Europe);
        assert_eq!(facts("AQ").continent, Continent::Antarctica);
        assert!(country_facts("ZZ".parse().unwrap()).is_none());
        assert!(country_facts("AA".parse().unwrap()).is_none());
    }

    #[test]
    fn centroids_lie_near_what_everyone_knows() {
        let near = |code, latitude, longitude, kilometres| {
            let point = Coordinates::new(latitude, longitude).unwrap();
            let distance = facts(code).centroid.distance_km(&point);
            assert!(distance < kilometres, "{code} is {distance} km off");
        };
        near("CH", 46.95, 7.45, 100.0); // Bern
        near("SG", 1.29, 103.85, 30.0);
        near("FR", 47.08, 2.40, 150.0); // Bourges
        near("US", 39.83, -98.58, 100.0); // Lebanon, Kansas
        near("NZ", -41.29, 174.78, 300.0); // Wellington
        near("FJ", -18.14, 178.44, 150.0); // Suva, either side of the date line
        near("RE", -20.88, 55.45, 60.0); // Saint-Denis
        near("AQ", -90.0, 0.0, 900.0);
    }

    #[test]
    fn the_union_has_its_members_and_their_outlying_parts() {
        let count =
            |test: fn(CountryCode) -> bool| all_countries().filter(|c| test(c.code)).count();
        assert_eq!(count(is_eu_member), 27);
        assert_eq!(count(is_eu_territory), 34);
        for (code, member, territory) in [
            ("IE", true, true),
            ("RE", false, true),
            ("GB", false, false),
            ("CH", false, false),
            ("GL", false, false),
        ] {
            let code = code.parse().unwrap();
            assert_eq!((is_eu_member(code), is_eu_territory(code)), (member, territory), "{code}");
        }
    }
}
