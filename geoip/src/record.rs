//! What a database's record says of a place, in either of the two schemas that are in use.
//!
//! Promises: reads MaxMind's nested schema (`country.iso_code`, `location.latitude`) and
//! ip-location-db's flat one (`country_code`, `latitude`), borrowing, and passing over everything
//! else. Refuses to know: trees, files, addresses.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use crate::countries::country_facts;
use crate::place::{Continent, Coordinates, CountryCode, Place};

/// The parts of a record that say where an address is, whatever else it holds.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    country: Code<CountryCode>,
    registered_country: Code<CountryCode>,
    continent: Code<Continent>,
    location: Location,
    country_code: Code<CountryCode>,
    latitude: Degrees,
    longitude: Degrees,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Location {
    latitude: Degrees,
    longitude: Degrees,
}

/// A code, given as a text or as a map that has it under `iso_code` or `code`. One that is not of
/// its kind is as good as none.
struct Code<T>(Option<T>);

/// A number of degrees of any numeric type, or as a text.
#[derive(Clone, Copy, Default)]
struct Degrees(Option<f64>);

impl Record {
    /// The coordinates that the record itself gives.
    pub(crate) fn own_coordinates(&self) -> Option<Coordinates> {
        let point =
            |latitude: Degrees, longitude: Degrees| Coordinates::new(latitude.0?, longitude.0?);
        point(self.location.latitude, self.location.longitude)
            .or_else(|| point(self.latitude, self.longitude))
    }

    /// Where this says that the address is. The country is where it is used, or else where it is
    /// registered; a code that no country has counts for nothing. The continent of a known country
    /// is the table's, so that clients and regions of one country are never on two continents.
    pub(crate) fn place(&self) -> Place {
        let facts = [&self.country, &self.country_code, &self.registered_country]
            .into_iter()
            .find_map(|code| country_facts(code.0?));
        Place {
            country: facts.map(|f| f.code),
            continent: facts.map(|f| f.continent).or(self.continent.0),
            coordinates: self.own_coordinates().or(facts.map(|f| f.centroid)),
        }
    }
}

impl<T> Default for Code<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: FromStr> Deserialize<'de> for Code<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CodeVisitor(PhantomData))
    }
}

struct CodeVisitor<T>(PhantomData<T>);

impl<'de, T: FromStr> Visitor<'de> for CodeVisitor<T> {
    type Value = Code<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a code, or a map that holds one")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Code<T>, E> {
        Ok(Code(text.parse().ok()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Code<T>, A::Error> {
        let mut code = Code(None);
        while let Some(key) = map.next_key::<&str>()? {
            if matches!(key, "iso_code" | "code") {
                code = Code(map.next_value::<&str>()?.parse().ok());
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(code)
    }
}

impl<'de> Deserialize<'de> for Degrees {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DegreesVisitor)
    }
}

struct DegreesVisitor;

impl Visitor<'_> for DegreesVisitor {
    type Value = Degrees;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of degrees")
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Degrees, E> {
        Ok(Degrees(Some(number)))
    }

    fn visit_f32<E: Error>(self, number: f32) -> Result<Degrees, E> {
        self.visit_f64(f64::from(number))
    }

    fn visit_i32<E: Error>(self, number: i32) -> Result<Degrees, E> {
        self.visit_f64(f64::from(number))
    }

    fn visit_u16<E: Error>(self, number: u16) -> Result<Degrees, E> {
        self.visit_f64(f64::from(number))
    }

    fn visit_u32<E: Error>(self, number: u32) -> Result<Degrees, E> {
        self.visit_f64(f64::from(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Degrees, E> {
        Ok(Degrees(text.parse().ok()))
    }
}
