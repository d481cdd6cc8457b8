//! Where an address is.
//!
//! Promises: [`GeoDatabase::place`] turns an [`IpAddr`](std::net::IpAddr) into a [`Place`] without
//! I/O and without failing. Refuses to know: regions, routes, requests.

mod countries;
mod database;
mod place;
mod record;

pub use countries::{CountryFacts, all_countries, country_facts, is_eu_member, is_eu_territory};
pub use database::{DatabaseDescription, DatabaseKind, GeoDatabase, GeoError};
pub use place::{Continent, Coordinates, CountryCode, EARTH_RADIUS_KM, NotACode, Place};
