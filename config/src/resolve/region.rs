//! `[[regions]]`

use meridian_geoip::{Coordinates, CountryCode, country_facts};

use super::{Names, Read};
use crate::ids::RegionId;
use crate::model::{Region, RegionRole};
use crate::names;
use crate::reader::{Item, Site, Table};

/// A region and what the checks need.
pub(super) type RegionRead = Read<Region, RegionNotes>;

pub(super) struct RegionNotes {
    pub(super) site: Site,
    pub(super) role_site: Site,
    pub(super) coordinates_site: Site,
    /// The file gives coordinates, good or bad.
    pub(super) has_coordinates: bool,
    /// `false`: the file's role cannot be read, the value's is made up.
    pub(super) role_is_known: bool,
}

pub(super) fn read(table: &Table<'_>, names: &mut Names) -> RegionRead {
    let id = names.declare(table.required("id"));
    let roles = [("primary", RegionRole::Primary), ("replica", RegionRole::Replica)];
    let role = match table.item("role") {
        Some(item) => item.choice(&roles),
        None => Some(RegionRole::Primary),
    };
    let region = Region {
        id: RegionId::new(&id),
        role: role.unwrap_or(RegionRole::Primary),
        coordinates: table.item("coordinates").and_then(|item| coordinates(&item)),
        country: table.item("country").and_then(|item| item.parsed(country)),
        weight: table.or("weight", 100, |item| item.whole(0..=65_535)),
        priority: table.or("priority", 1, |item| item.whole(0..=65_535)),
        capabilities: table.or("capabilities", Vec::new(), |item| {
            Some(item.list(|item| item.parsed(|text| names::id(text).map(|()| text.to_owned()))))
        }),
        capacity: table.item("capacity").and_then(|item| item.whole(1..=u32::MAX)),
        failover_order: table.or("failover_order", 0, |item| item.whole(0..=1000)),
        drain: table.flag("drain"),
    };
    let notes = RegionNotes {
        site: table.site(),
        role_site: table.site_of("role"),
        coordinates_site: table.site_of("coordinates"),
        has_coordinates: table.has("coordinates"),
        role_is_known: role.is_some(),
    };
    Read { value: region, notes }
}

/// `[latitude, longitude]` in degrees.
pub(super) fn coordinates(item: &Item<'_>) -> Option<Coordinates> {
    let degrees = item.items("an array of latitude and longitude");
    let [latitude, longitude] = degrees.as_slice() else {
        if item.is_array() {
            item.fail::<()>(format!(
                "expected [latitude, longitude], found {} numbers",
                degrees.len()
            ));
        }
        return None;
    };
    let (latitude, longitude) = (latitude.number(-90.0..=90.0), longitude.number(-180.0..=180.0));
    Coordinates::new(latitude?, longitude?)
}

/// Two letters of ISO 3166-1 that are in use.
pub(super) fn country(text: &str) -> Result<CountryCode, String> {
    let code = text.parse().ok().filter(|code| country_facts(*code).is_some());
    code.ok_or_else(|| {
        let hint = match text {
            "UK" | "uk" => "; did you mean \"GB\"?",
            _ => "",
        };
        format!("{text:?} is not a country of ISO 3166-1{hint}")
    })
}
