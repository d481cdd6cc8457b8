//! Which region is a service's primary, in which epoch, and who says so.
//!
//! Promises: [`follow`] is pure; the epoch never decreases; with a primary that is unknown or contested nobody is the
//! primary. Refuses to know: how claims come in, and elections: the edge follows, it never elects.

mod gate;
mod inquiry;
mod position;

use std::time::Duration;

use meridian_config::{Region, RegionId, RegionIndex, RegionRole};
use serde::{Deserialize, Serialize};

use crate::region_set::RegionSet;

pub use gate::{Term, TurnedAway, WriteGate, WriteGuard};
pub use inquiry::Inquiry;
pub use position::{KnownPosition, LastClaim};

/// The largest epoch that is believed: whole numbers up to it are exact in JSON and in Prometheus.
pub const MAX_EPOCH: u64 = (1 << 53) - 1;
/// The largest position that is believed; what an unsigned reader makes of a negative number is above it.
pub const MAX_POSITION: u64 = i64::MAX as u64;
/// An epoch so far above the known one is always believed: no service has so many promotions between two answers.
const LEAST_EPOCH_STEP: u64 = 1 << 20;
/// And one so far above it never: it could not be followed by a higher one for long.
const MOST_EPOCH_STEP: u64 = 1 << 40;

/// Whether an epoch that somebody says can be one, `known` being the highest so far (0: none; then it is at most half of
/// the largest). It is at most twice the known one, or 2^20 above it where that is more, and never more than 2^40: a
/// count of promotions does not get there at once, and a clock that counts from 1970 doubles in half a century.
pub fn believable_epoch(known: u64, said: u64) -> bool {
    let step = known.clamp(LEAST_EPOCH_STEP, MOST_EPOCH_STEP);
    let most = if known == 0 { MAX_EPOCH / 2 } else { known.saturating_add(step) };
    said <= most.min(MAX_EPOCH)
}

/// What an endpoint says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Takes writes.
    Primary,
    /// Takes reads.
    Replica,
}

impl Role {
    /// As the wire, metrics and the API write it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }

    /// Reads a role as backends write it; `None` for any other word.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "primary" => Some(Self::Primary),
            "replica" => Some(Self::Replica),
            _ => None,
        }
    }
}

/// What an endpoint says of itself; already checked, each part on its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// What it is.
    pub role: Option<Role>,
    /// The epoch that it knows.
    pub epoch: Option<u64>,
    /// What it has applied in that epoch.
    pub position: Option<u64>,
    /// How far behind the primary it is, in time.
    pub lag: Option<Duration>,
}

/// Whether a service has a primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrimacyState {
    /// One.
    Settled,
    /// None is known: writes are refused.
    Unknown,
    /// Several claim it in one epoch: writes are refused.
    Contested,
    /// A switchover is under way: writes wait.
    Moving,
}

impl PrimacyState {
    /// As metrics, logs and the API write it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Unknown => "unknown",
            Self::Contested => "contested",
            Self::Moving => "moving",
        }
    }
}

/// Who says what the primary is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrimacySource {
    /// The configuration file.
    File,
    /// The endpoints.
    Reported,
    /// The operator.
    Operator,
    /// An earlier process of this edge.
    Restored,
    /// Nobody yet: the operator has had the service's epochs forgotten, and they are learned anew.
    Forgotten,
}

impl PrimacySource {
    /// As logs and the API write it.
    pub fn label(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Reported => "reported",
            Self::Operator => "operator",
            Self::Restored => "restored",
            Self::Forgotten => "forgotten",
        }
    }
}

/// What is known of a service's primary. `R` is how a region is named: by index inside a table, by id across tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Primacy<R = RegionIndex> {
    /// The highest epoch that is known; 0: nobody has said one.
    pub epoch: u64,
    /// The last known primary, also when not settled.
    pub region: Option<R>,
    /// The epoch in which `region` became the primary; below `epoch` once a later one is known.
    pub region_epoch: u64,
    /// Whether `region` itself has said that it is the primary of `region_epoch`: then nobody else can be.
    pub confirmed: bool,
    /// Several have claimed `region_epoch`, and the operator has decided for `region`: nobody else's claim of it counts.
    #[serde(default)]
    pub decided: bool,
    /// Whether there is one now.
    pub state: PrimacyState,
    /// Who says so.
    pub source: PrimacySource,
    /// When the operator had the epochs forgotten the last time, unix milliseconds, later each time; 0: never. Whatever
    /// is from before that is over, however high its epoch.
    #[serde(default)]
    pub forgotten_unix_ms: u64,
    /// Since when it is so, unix milliseconds.
    pub since_unix_ms: u64,
}

impl<R> Primacy<R> {
    /// As the file has it; `None` if it names no primary.
    pub fn of_file(region: Option<R>, since_unix_ms: u64) -> Self {
        let state = match region {
            Some(_) => PrimacyState::Settled,
            None => PrimacyState::Unknown,
        };
        let source = PrimacySource::File;
        let (epoch, region_epoch, confirmed, decided) = (0, 0, false, false);
        let forgotten_unix_ms = 0;
        Self {
            epoch,
            region,
            region_epoch,
            confirmed,
            decided,
            state,
            source,
            forgotten_unix_ms,
            since_unix_ms,
        }
    }

    /// Whether `region` may take writes.
    pub fn is_settled(&self) -> bool {
        self.state == PrimacyState::Settled && self.region.is_some()
    }

    /// Whether somebody became the primary in the highest epoch.
    pub fn is_taken(&self) -> bool {
        self.region.is_some() && self.region_epoch == self.epoch
    }

    /// Whether this is known later than `other`: after more was forgotten, else in a higher epoch.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        (self.forgotten_unix_ms, self.epoch) > (other.forgotten_unix_ms, other.epoch)
    }

    /// The same with regions named in another way. Where the region is not there any more nobody is the primary.
    pub fn map<S>(self, rename: impl FnOnce(R) -> Option<S>) -> Primacy<S> {
        let region = self.region.and_then(rename);
        let state = match (self.state, &region) {
            (PrimacyState::Settled | PrimacyState::Moving, None) => PrimacyState::Unknown,
            (state, _) => state,
        };
        let (confirmed, decided) =
            (self.confirmed && region.is_some(), self.decided && region.is_some());
        Primacy {
            epoch: self.epoch,
            region,
            region_epoch: self.region_epoch,
            confirmed,
            decided,
            state,
            source: self.source,
            forgotten_unix_ms: self.forgotten_unix_ms,
            since_unix_ms: self.since_unix_ms,
        }
    }
}

impl Primacy {
    /// `region` is the primary from now on, in `epoch`, because the file or the operator says so.
    pub fn appointed(self, region: RegionIndex, epoch: u64, source: PrimacySource) -> Self {
        Self {
            epoch: epoch.max(self.epoch),
            region: Some(region),
            region_epoch: epoch.max(self.epoch),
            confirmed: false,
            decided: false,
            state: PrimacyState::Settled,
            source,
            ..self
        }
    }

    /// `region`, which claims the contested epoch itself, is its primary from now on, because the operator says so. Other
    /// claims of this epoch do not count any more; higher epochs do.
    pub fn decided(self, region: RegionIndex) -> Self {
        let named = self.appointed(region, self.epoch, PrimacySource::Operator);
        Self { confirmed: true, decided: true, ..named }
    }

    /// No epoch is known any more, and nobody is the primary until somebody says so. The last primary is kept as such.
    pub fn forgotten(self, unix_ms: u64) -> Self {
        Self {
            epoch: 0,
            region_epoch: 0,
            confirmed: false,
            decided: false,
            state: PrimacyState::Unknown,
            source: PrimacySource::Forgotten,
            forgotten_unix_ms: unix_ms.max(self.forgotten_unix_ms + 1),
            ..self
        }
    }
}

/// A primacy that outlives tables.
pub type PrimacyRecord = Primacy<RegionId>;

/// Who may make a region the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Following {
    /// What endpoints report.
    Reports,
    /// The operator and the file; what endpoints report can only take it away.
    Operator,
}

/// The last claim of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointClaim {
    /// Where it stands.
    pub region: RegionIndex,
    /// What it says that it is.
    pub role: Option<Role>,
    /// In which epoch; 0: it said none.
    pub epoch: u64,
}

/// What is known of the primary once these claims are heard; `since_unix_ms` stays as it was.
///
/// | what is claimed | then |
/// |---|---|
/// | lower epochs | does not count |
/// | a higher epoch, by one region as the primary | that is the primary |
/// | a higher epoch, by several as the primary | contested |
/// | a higher epoch, by nobody as the primary | unknown; but where nobody ever was in any epoch, and the region that the file names says nothing at all, the file's word stands |
/// | the known epoch, by another region than its primary | contested; but where the file or the operator named that one, and it does not claim it, the other is the primary; and where the operator has decided between them it does not count |
/// | the known epoch, by its primary as a replica | unknown |
///
/// A service that moves goes on moving until a higher epoch has a primary. With [`Following::Operator`] claims never make
/// another region the primary: it is unknown or contested then.
pub fn follow(
    known: &Primacy,
    following: Following,
    claims: impl IntoIterator<Item = EndpointClaim>,
) -> Primacy {
    let heard = Heard::of(known.epoch, claims);
    let mut next = Primacy { epoch: heard.epoch, ..*known };
    match known.region.filter(|_| known.region_epoch == heard.epoch) {
        None => next.take(&heard, following),
        Some(holder) => next.hold(holder, &heard, following),
    }
    next
}

/// What is known of the primary when the file names `now` where it named `before`. Where the primary itself has said that
/// it is, and reports are followed, the file changes nothing.
pub fn refile(
    known: &Primacy,
    following: Following,
    before: Option<RegionIndex>,
    now: Option<RegionIndex>,
) -> Primacy {
    let Some(named) = now.filter(|now| known.region.is_none() || Some(*now) != before) else {
        return *known;
    };
    let stays = known.region == Some(named) && known.is_taken();
    if stays || (known.confirmed && following == Following::Reports) {
        return *known;
    }
    // Whoever is named first is not promoted. Nor is anybody above the epoch that the endpoints have, where they are heard:
    // none of them would take a write of a later one.
    let first = known.epoch == 0 || following == Following::Reports;
    let epoch = if known.region.is_none() && first { known.epoch } else { known.epoch + 1 };
    known.appointed(named, epoch, PrimacySource::File)
}

/// What all endpoints say of the highest epoch.
#[derive(Clone, Copy, Debug)]
struct Heard {
    epoch: u64,
    /// Regions where one claims to be the primary.
    primaries: RegionSet,
    /// Regions where one says that it is not.
    replicas: RegionSet,
    /// Regions where one says anything, of whatever epoch.
    spoke: RegionSet,
}

impl Heard {
    fn of(known: u64, claims: impl IntoIterator<Item = EndpointClaim>) -> Self {
        let none = RegionSet::EMPTY;
        let mut heard = Self { epoch: known, primaries: none, replicas: none, spoke: none };
        for claim in claims {
            heard.spoke.insert(claim.region);
            if claim.epoch > heard.epoch {
                heard = Self { epoch: claim.epoch, primaries: none, replicas: none, ..heard };
            }
            match claim.role {
                _ if claim.epoch < heard.epoch => {}
                Some(Role::Primary) => heard.primaries.insert(claim.region),
                Some(Role::Replica) => heard.replicas.insert(claim.region),
                None => {}
            }
        }
        heard
    }
}

impl Primacy {
    /// Nobody was the primary of this epoch so far.
    fn take(&mut self, heard: &Heard, following: Following) {
        match (heard.primaries.len(), heard.primaries.only_one()) {
            (0, _) if self.state == PrimacyState::Moving || self.is_by_file_alone(heard) => {}
            (_, Some(region)) if following == Following::Reports || self.region == Some(region) => {
                *self = self.appointed(region, heard.epoch, PrimacySource::Reported);
                self.confirmed = true;
            }
            (0 | 1, _) => self.state = PrimacyState::Unknown,
            _ => self.state = PrimacyState::Contested,
        }
    }

    /// Nothing but the file has ever named a primary, and that one does not speak of itself.
    fn is_by_file_alone(&self, heard: &Heard) -> bool {
        let silent = |region| !heard.spoke.contains(region);
        self.is_settled()
            && self.source == PrimacySource::File
            && self.region_epoch == 0
            && !self.confirmed
            && self.region.is_some_and(silent)
    }

    /// `holder` is the primary of this epoch.
    fn hold(&mut self, holder: RegionIndex, heard: &Heard, following: Following) {
        let mut others = if self.decided { RegionSet::EMPTY } else { heard.primaries };
        others.remove(holder);
        let claimed = heard.primaries.contains(holder);
        let named_only = !self.confirmed && !claimed;
        self.confirmed |= claimed;
        match (others.is_empty(), others.only_one()) {
            (true, _) => self.alone(claimed, heard.replicas.contains(holder)),
            (false, Some(other)) if named_only && following == Following::Reports => {
                *self = self.appointed(other, heard.epoch, PrimacySource::Reported);
                self.confirmed = true;
            }
            (false, _) => self.state = PrimacyState::Contested,
        }
    }

    /// Nobody else claims it.
    fn alone(&mut self, claimed: bool, denied: bool) {
        if self.state == PrimacyState::Moving {
            return;
        }
        if claimed {
            self.state = PrimacyState::Settled;
        } else if denied {
            self.state = PrimacyState::Unknown;
        }
    }
}

/// The regions that the file calls primary: one, unless nothing ever writes.
pub(crate) fn named_by_file(regions: &[Region]) -> RegionSet {
    let named = regions.iter().enumerate().filter(|(_, r)| r.role == RegionRole::Primary);
    named.map(|(index, _)| RegionIndex(index as u8)).collect()
}

/// The primary that the file names; `None` if it names none or several.
pub fn file_primary(regions: &[Region]) -> Option<RegionIndex> {
    named_by_file(regions).only_one()
}
