//! The vocabulary of places: countries, continents, coordinates.

use std::fmt;
use std::str::FromStr;

/// An ISO 3166-1 alpha-2 country code, upper case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CountryCode([u8; 2]);

/// One of the seven continents, named by the two-letter codes that MaxMind databases use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Continent {
    /// AF
    Africa,
    /// AN
    Antarctica,
    /// AS
    Asia,
    /// EU
    Europe,
    /// NA
    NorthAmerica,
    /// OC
    Oceania,
    /// SA
    SouthAmerica,
}

/// A point on the earth in degrees: latitude -90 to 90, longitude -180 to 180.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coordinates {
    latitude: f64,
    longitude: f64,
    /// The point on the unit sphere; the dot product of two of them orders by distance without
    /// trigonometry.
    unit: [f64; 3],
}

/// What is known of where an address is. Every part may be unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Place {
    /// The country.
    pub country: Option<CountryCode>,
    /// The continent; always set when the country is.
    pub continent: Option<Continent>,
    /// The city's coordinates where the database has them, else the country's centroid.
    pub coordinates: Option<Coordinates>,
}

/// The mean radius of the earth in kilometres (IUGG R1 = (2a + b) / 3 of WGS 84).
pub const EARTH_RADIUS_KM: f64 = 6371.0088;

impl CountryCode {
    /// The two letters.
    pub fn as_str(&self) -> &str {
        // Both bytes are ASCII letters by construction.
        std::str::from_utf8(&self.0).unwrap_or("??")
    }

    /// A dense number from 0 to 675, for tables indexed by country.
    pub fn index(self) -> usize {
        usize::from(self.0[0] - b'A') * 26 + usize::from(self.0[1] - b'A')
    }
}

impl FromStr for CountryCode {
    type Err = NotACode;

    /// Takes two ASCII letters in either case.
    fn from_str(text: &str) -> Result<Self, NotACode> {
        match text.as_bytes() {
            [a, b] if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => {
                Ok(Self([a.to_ascii_uppercase(), b.to_ascii_uppercase()]))
            }
            _ => Err(NotACode),
        }
    }
}

impl fmt::Display for CountryCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for CountryCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not a code of the kind asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotACode;

impl Continent {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 7] = [
        Self::Africa,
        Self::Antarctica,
        Self::Asia,
        Self::Europe,
        Self::NorthAmerica,
        Self::Oceania,
        Self::SouthAmerica,
    ];

    /// The two-letter code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Africa => "AF",
            Self::Antarctica => "AN",
            Self::Asia => "AS",
            Self::Europe => "EU",
            Self::NorthAmerica => "NA",
            Self::Oceania => "OC",
            Self::SouthAmerica => "SA",
        }
    }
}

impl FromStr for Continent {
    type Err = NotACode;

    fn from_str(text: &str) -> Result<Self, NotACode> {
        Self::ALL.into_iter().find(|c| c.code().eq_ignore_ascii_case(text)).ok_or(NotACode)
    }
}

impl fmt::Display for Continent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Coordinates {
    /// `None` outside the ranges or for a number that is not finite.
    pub fn new(latitude: f64, longitude: f64) -> Option<Self> {
        let in_range = (-90.0..=90.0).contains(&latitude) && (-180.0..=180.0).contains(&longitude);
        in_range.then(|| {
            let (phi, lambda) = (latitude.to_radians(), longitude.to_radians());
            let unit = [phi.cos() * lambda.cos(), phi.cos() * lambda.sin(), phi.sin()];
            Self { latitude, longitude, unit }
        })
    }

    /// Degrees north.
    pub fn latitude(&self) -> f64 {
        self.latitude
    }

    /// Degrees east.
    pub fn longitude(&self) -> f64 {
        self.longitude
    }

    /// Great-circle distance in kilometres on a sphere of [`EARTH_RADIUS_KM`] (haversine formula).
    pub fn distance_km(&self, other: &Self) -> f64 {
        let half = |a: f64, b: f64| ((b - a).to_radians() / 2.0).sin().powi(2);
        let h = half(self.latitude, other.latitude)
            + self.latitude.to_radians().cos()
                * other.latitude.to_radians().cos()
                * half(self.longitude, other.longitude);
        2.0 * EARTH_RADIUS_KM * h.sqrt().min(1.0).asin()
    }

    /// Cosine of the central angle, 1 at the same point and -1 at the antipode: falls as distance
    /// grows, so that it orders points by distance for the price of three multiplications.
    pub fn closeness(&self, other: &Self) -> f64 {
        self.unit.iter().zip(other.unit).map(|(a, b)| a * b).sum()
    }
}
