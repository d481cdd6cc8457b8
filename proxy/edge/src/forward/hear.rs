//! What an endpoint says of itself in an answer: role, epoch, position, lag.
//!
//! Promises: untrusted input. Plain digits within bounds count, a field that comes twice or is malformed says nothing. The
//! highest epoch closes the gate of writes before the keeper knows; the keeper is told what is new, without waiting.

use std::sync::Arc;
use std::time::Duration;

use meridian_config::{EndpointKey, ReplicationSource};
use meridian_control::{ClaimSink, parse_epoch, parse_lag_ms, parse_position};
use meridian_routing::{
    Claim, EndpointView, KnownPosition, LastClaim, Role, ServiceView, WriteGate,
};

/// The fields of an answer that speak of its endpoint.
#[derive(Clone, Copy, Debug, Default)]
struct Said<'b>([Option<Option<&'b [u8]>>; 4]);

impl<'b> Said<'b> {
    /// Takes one field.
    fn field(&mut self, name: &str, value: &'b [u8]) {
        const PREFIX: usize = "meridian-".len();
        let Some((start, rest)) = name.split_at_checked(PREFIX) else { return };
        if !start.eq_ignore_ascii_case("meridian-") {
            return;
        }
        let names = ["role", "epoch", "position", "lag-ms"];
        let Some(place) = names.iter().position(|n| rest.eq_ignore_ascii_case(n)) else { return };
        // A second one voids the first.
        self.0[place] = Some(if self.0[place].is_none() { Some(value) } else { None });
    }

    /// What it comes to.
    fn claim(&self) -> Claim {
        let text = |place: usize| {
            let value = self.0[place].flatten()?;
            std::str::from_utf8(value).ok().map(str::trim)
        };
        Claim {
            role: text(0).and_then(Role::parse),
            epoch: text(1).and_then(parse_epoch),
            position: text(2).and_then(parse_position),
            lag: text(3).and_then(parse_lag_ms),
        }
    }
}

/// The claim in the fields of an answer.
pub(crate) fn claim_of<'f>(fields: impl Iterator<Item = (&'f str, &'f [u8])>) -> Claim {
    let mut said = Said::default();
    fields.for_each(|(name, value)| said.field(name, value));
    said.claim()
}

/// Where what one endpoint says of itself is taken to.
#[derive(Clone, Debug)]
pub(crate) struct Ears {
    writes: Arc<WriteGate>,
    position: Arc<KnownPosition>,
    last_claim: Arc<LastClaim>,
}

impl Ears {
    /// For answers that come when the table is not at hand any more; `None` where its service's endpoints are not heard.
    pub(crate) fn of(service: &ServiceView, endpoint: &EndpointView) -> Option<Self> {
        service.is_heard().then(|| Self {
            writes: service.writes.clone(),
            position: endpoint.position.clone(),
            last_claim: endpoint.last_claim.clone(),
        })
    }

    /// Takes a claim to heart.
    pub(crate) fn hear(&self, key: &EndpointKey, claims: &ClaimSink, claim: &Claim) {
        take(&self.writes, &self.position, &self.last_claim, key, claims, claim);
    }
}

/// Takes a claim to heart, of a table's service and endpoint. Returns the lag, where it counts.
pub(crate) fn hear(
    service: &ServiceView,
    endpoint: &EndpointView,
    claims: &ClaimSink,
    claim: &Claim,
) -> Option<Duration> {
    let EndpointView { position, last_claim, key, .. } = endpoint;
    take(&service.writes, position, last_claim, key, claims, claim);
    let by_headers = service.settings.replication.source == ReplicationSource::Headers;
    claim.lag.filter(|_| by_headers)
}

fn take(
    writes: &WriteGate,
    position: &KnownPosition,
    last_claim: &LastClaim,
    key: &EndpointKey,
    claims: &ClaimSink,
    claim: &Claim,
) {
    if let Some(said) = claim.position {
        position.learn(claim.epoch, said);
    }
    if let Some(epoch) = claim.epoch {
        writes.saw(epoch);
    }
    if last_claim.is_news(claim) && !claims.tell(key, *claim) {
        last_claim.forget();
    }
}

/// Whether an answer says that its endpoint is not the primary of the request's epoch and that nothing was executed. A 421
/// without a word of roles or epochs is any application's, and passed on.
pub(crate) fn is_misdirected(status: u16, claim: &Claim) -> bool {
    status == 421 && (claim.role.is_some() || claim.epoch.is_some())
}

#[cfg(test)]
mod tests {
    use meridian_routing::{MAX_EPOCH, MAX_POSITION};

    use super::*;

    fn claim(fields: &[(&str, &str)]) -> Claim {
        let mut said = Said::default();
        fields.iter().for_each(|(name, value)| said.field(name, value.as_bytes()));
        said.claim()
    }

    #[test]
    fn plain_digits_count() {
        let heard = claim(&[
            ("Meridian-Role", "primary"),
            ("meridian-epoch", "7"),
            ("MERIDIAN-POSITION", " 123 "),
            ("meridian-lag-ms", "250"),
            ("content-type", "text/plain"),
        ]);
        let expected = Claim {
            role: Some(Role::Primary),
            epoch: Some(7),
            position: Some(123),
            lag: Some(Duration::from_millis(250)),
        };
        assert_eq!(heard, expected);
    }

    #[test]
    fn nothing_else_does() {
        for bad in ["", "-1", "+1", "1.0", "0x1", "1 2", "1,2", "18446744073709551616", "\u{661}"] {
            assert_eq!(claim(&[("meridian-epoch", bad)]), Claim::default(), "{bad}");
            assert_eq!(claim(&[("meridian-position", bad)]), Claim::default(), "{bad}");
        }
        for bad in ["Primary", "leader", "primary,replica", ""] {
            assert_eq!(claim(&[("meridian-role", bad)]), Claim::default(), "{bad}");
        }
        let above = [(MAX_EPOCH + 1).to_string(), (MAX_POSITION + 1).to_string()];
        assert_eq!(claim(&[("meridian-epoch", &above[0])]).epoch, None);
        assert_eq!(claim(&[("meridian-position", &above[1])]).position, None);
        assert_eq!(
            claim(&[("meridian", "1"), ("meridian-é", "1"), ("méridian-epoch", "1")]),
            Claim::default()
        );
    }

    #[test]
    fn what_comes_twice_says_nothing_and_the_rest_counts() {
        let fields = [("meridian-epoch", "7"), ("meridian-role", "replica")];
        let twice = [fields[0], fields[1], fields[0]];
        assert_eq!(claim(&twice), Claim { role: Some(Role::Replica), ..Claim::default() });
        let thrice = [fields[0], fields[0], fields[0]];
        assert_eq!(claim(&thrice), Claim::default());
    }

    #[test]
    fn only_a_421_that_speaks_of_roles_is_the_protocol_s() {
        let says = Claim { epoch: Some(3), ..Claim::default() };
        assert!(is_misdirected(421, &says));
        assert!(!is_misdirected(409, &says));
        let position = Claim { position: Some(3), ..Claim::default() };
        for other in [&Claim::default(), &position] {
            assert!(!is_misdirected(421, other), "{other:?}");
        }
    }
}
