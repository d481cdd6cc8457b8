//! A set of regions as a mask: filters are intersections.

use meridian_config::{MAX_REGIONS, RegionIndex};

/// Regions by index; at most [`MAX_REGIONS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RegionSet(u64);

const _: () = assert!(MAX_REGIONS <= 64, "the mask has 64 bits");

impl RegionSet {
    /// No region.
    pub const EMPTY: Self = Self(0);

    /// The regions `0..n`.
    pub fn first(n: usize) -> Self {
        if n >= 64 { Self(u64::MAX) } else { Self((1 << n) - 1) }
    }

    /// Just this one.
    pub fn only(region: RegionIndex) -> Self {
        Self(1 << (region.0 & 63))
    }

    /// Adds one.
    pub fn insert(&mut self, region: RegionIndex) {
        self.0 |= Self::only(region).0;
    }

    /// Takes one away.
    pub fn remove(&mut self, region: RegionIndex) {
        self.0 &= !Self::only(region).0;
    }

    /// Whether it is in.
    pub fn contains(self, region: RegionIndex) -> bool {
        self.0 & Self::only(region).0 != 0
    }

    /// In both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// In either.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// In this one and not in the other.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The one with the lowest index.
    pub fn lowest(self) -> Option<RegionIndex> {
        (self.0 != 0).then(|| RegionIndex(self.0.trailing_zeros() as u8))
    }

    /// The one, if it is the only one.
    pub fn only_one(self) -> Option<RegionIndex> {
        if self.len() == 1 { self.lowest() } else { None }
    }

    /// In ascending order of index.
    pub fn iter(self) -> impl Iterator<Item = RegionIndex> {
        let mut rest = self;
        std::iter::from_fn(move || {
            let region = rest.lowest()?;
            rest.remove(region);
            Some(region)
        })
    }
}

impl FromIterator<RegionIndex> for RegionSet {
    fn from_iter<I: IntoIterator<Item = RegionIndex>>(regions: I) -> Self {
        let mut set = Self::EMPTY;
        regions.into_iter().for_each(|region| set.insert(region));
        set
    }
}
