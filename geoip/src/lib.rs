//! Where an address is.
//!
//! Promises: [`GeoDatabase::place`] turns an [`IpAddr`](std::net::IpAddr) into a [`Place`] without I/O and
//! without failing. Refuses to know: regions, routes, requests.

mod place;

pub use place::{Continent, Coordinates, CountryCode, Place};
