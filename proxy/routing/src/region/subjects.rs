//! Whose clients a residency rule binds, as bits: the question is asked for every request of the route.

use meridian_config::{Residency, ResidencySubject};
use meridian_geoip::{Continent, CountryCode, Place, all_countries, is_eu_territory};

/// Pairs of letters, by [`CountryCode::index`].
const PAIRS: usize = 26 * 26;

/// The clients that a rule binds.
#[derive(Debug)]
pub(crate) struct Subjects {
    everybody: bool,
    countries: [u64; PAIRS.div_ceil(64)],
    continents: u8,
}

impl Subjects {
    /// Without a subject the rule binds everybody. The Union's law also holds in parts of its members that have a
    /// country code of their own, such as RE and AX.
    pub(crate) fn of(rule: &Residency) -> Self {
        let mut subjects = Self {
            everybody: rule.subject.is_empty(),
            countries: [0; PAIRS.div_ceil(64)],
            continents: 0,
        };
        for subject in &rule.subject {
            match *subject {
                ResidencySubject::Country(code) => subjects.add(code),
                ResidencySubject::Continent(continent) => subjects.continents |= bit(continent),
                ResidencySubject::EuropeanUnion => {
                    let codes = all_countries().map(|facts| facts.code);
                    codes.filter(|code| is_eu_territory(*code)).for_each(|code| subjects.add(code));
                }
            }
        }
        subjects
    }

    fn add(&mut self, code: CountryCode) {
        self.countries[code.index() / 64] |= 1 << (code.index() % 64);
    }

    /// Whether a client from there is bound. One whose country is unknown is: fail closed.
    pub(crate) fn bind(&self, place: &Place) -> bool {
        let Some(code) = place.country else { return true };
        self.everybody
            || self.countries[code.index() / 64] >> (code.index() % 64) & 1 == 1
            || place.continent.is_some_and(|continent| self.continents & bit(continent) != 0)
    }
}

fn bit(continent: Continent) -> u8 {
    1 << continent as u8
}
