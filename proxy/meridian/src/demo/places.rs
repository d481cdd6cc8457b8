//! The four regions of the demo, as they are on the map.

use std::time::Duration;

use super::region::Role;

/// A region that the demo knows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct KnownRegion {
    pub(crate) id: &'static str,
    /// Where it is, in words.
    pub(crate) place: &'static str,
    pub(crate) role: Role,
    /// Latitude, longitude.
    pub(crate) coordinates: (f64, f64),
    pub(crate) country: &'static str,
    /// Replication lag to begin with.
    pub(crate) lag: Duration,
    /// Round trip from an edge beside us-east-1: `5 ms + 0.02 ms/km` of great circle.
    pub(crate) distance: Duration,
}

/// The primary first.
pub(crate) const KNOWN_REGIONS: [KnownRegion; 4] = [
    KnownRegion {
        id: "us-east-1",
        place: "Virginia",
        role: Role::Primary,
        coordinates: (38.95, -77.45),
        country: "US",
        lag: Duration::ZERO,
        distance: Duration::from_millis(5),
    },
    KnownRegion {
        id: "us-west-2",
        place: "Oregon",
        role: Role::Replica,
        coordinates: (45.84, -119.70),
        country: "US",
        lag: Duration::from_millis(200),
        distance: Duration::from_millis(75),
    },
    KnownRegion {
        id: "eu-west-1",
        place: "Ireland",
        role: Role::Replica,
        coordinates: (53.35, -6.26),
        country: "IE",
        lag: Duration::from_millis(400),
        distance: Duration::from_millis(114),
    },
    KnownRegion {
        id: "ap-southeast-1",
        place: "Singapore",
        role: Role::Replica,
        coordinates: (1.35, 103.82),
        country: "SG",
        lag: Duration::from_millis(900),
        distance: Duration::from_millis(316),
    },
];

/// What the demo knows of a region.
pub(crate) fn known_region(id: &str) -> Option<&'static KnownRegion> {
    KNOWN_REGIONS.iter().find(|region| region.id == id)
}

#[cfg(test)]
mod tests {
    use meridian_geoip::Coordinates;
    use meridian_routing::estimated_round_trip;

    use super::*;

    #[test]
    fn distances_are_those_of_the_map() {
        let at = |(latitude, longitude)| Coordinates::new(latitude, longitude).unwrap();
        let here = at(KNOWN_REGIONS[0].coordinates);
        for region in &KNOWN_REGIONS {
            let estimate = estimated_round_trip(here.distance_km(&at(region.coordinates)));
            let set = region.distance.as_micros() as i64;
            assert!((set - i64::from(estimate)).abs() <= 500, "{}: {estimate} µs", region.id);
        }
    }
}
