//! The session tokens that a request carries, by cookie or header, taken together.

use std::sync::LazyLock;
use std::time::Duration;

use memchr::memmem::Finder;
use meridian_routing::{SESSION_COOKIE, ServiceView, SessionNeed, SessionToken, TokenFault};

use super::SessionKeys;

/// The header that carries tokens, both ways.
pub const SESSION_HEADER: &str = "meridian-session";
/// Tokens of one request that are looked at: a client of several services has one of each, perhaps two from a path.
const MOST: usize = 8;

/// Whether a `Cookie` field may hold a token of ours; nearly always it does not, and this is the fast way to know.
pub fn may_hold_token(cookie: &[u8]) -> bool {
    /// Built once: building one costs more than a search.
    static NAME: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(SESSION_COOKIE));
    NAME.find(cookie).is_some()
}

/// Takes a request's fields one after another. Several tokens make a read need what all of them do, so that whoever
/// repeats or adds one gains nothing.
#[derive(Debug)]
pub struct TokenLook<'a> {
    keys: &'a SessionKeys,
    service: &'a ServiceView,
    unix_ms: u64,
    looked_at: usize,
    faults: [bool; TokenFault::COUNT],
    found: Option<FoundToken>,
}

/// What the tokens of a request say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundToken {
    /// As the client has it.
    pub token: SessionToken,
    /// With what this edge has given the session since.
    pub held: SessionToken,
    /// What a read needs.
    pub need: Option<SessionNeed>,
    /// The client should get a new one.
    pub stale: bool,
}

impl<'a> TokenLook<'a> {
    /// Of a request to this service at `unix_ms`.
    pub fn new(keys: &'a SessionKeys, service: &'a ServiceView, unix_ms: u64) -> Self {
        let faults = [false; TokenFault::COUNT];
        Self { keys, service, unix_ms, looked_at: 0, faults, found: None }
    }

    /// Looks at a field of the request.
    pub fn field(&mut self, name: &str, value: &[u8]) {
        if name.len() == 6 && name.eq_ignore_ascii_case("cookie") {
            let own = self.service.settings.name.as_str().as_bytes();
            for crumb in value.split(|byte| *byte == b';') {
                if let Some(text) = token_of(crumb.trim_ascii(), own) {
                    self.token(text);
                }
            }
        } else if name.len() == SESSION_HEADER.len() && name.eq_ignore_ascii_case(SESSION_HEADER) {
            value.split(|byte| *byte == b',').for_each(|text| self.token(text.trim_ascii()));
        }
    }

    fn token(&mut self, text: &[u8]) {
        self.looked_at += 1;
        if self.looked_at > MOST {
            return self.fault(TokenFault::TooMany);
        }
        let opened = match self.keys.open_token(text, self.service.identity(), self.unix_ms) {
            Ok(opened) => opened,
            Err(fault) => return self.fault(fault),
        };
        if opened.expired {
            self.fault(TokenFault::Expired);
        }
        let token = opened.token.remembered(self.service);
        let held = self.service.floors.as_ref().map_or(token, |floors| floors.raised(&token));
        if !held.says_as(&token) {
            self.fault(TokenFault::Replayed);
        }
        let need = held.need(self.service, opened.expired, self.unix_ms);
        let one = FoundToken { token: opened.token, held, need, stale: opened.stale };
        self.found = Some(self.found.map_or(one, |other| other.with(one, self)));
    }

    fn fault(&mut self, fault: TokenFault) {
        self.faults[fault as usize] = true;
    }

    /// What was found.
    pub fn found(&self) -> Option<FoundToken> {
        self.found
    }

    /// What a read needs. What tokens say that were not looked at nobody knows: only the primary is sure to do.
    pub fn need(&self) -> Option<SessionNeed> {
        let known = self.found.and_then(|found| found.need);
        if !self.faults[TokenFault::TooMany as usize] {
            return known;
        }
        let epoch = self.service.primacy.epoch;
        let nothing = SessionNeed { epoch, position: None, primary: true, age: Duration::ZERO };
        Some(SessionNeed { primary: true, ..known.unwrap_or(nothing) })
    }

    /// What was wrong, each fault once.
    pub fn faults(&self) -> impl Iterator<Item = TokenFault> {
        TokenFault::ALL.iter().copied().filter(|fault| self.faults[*fault as usize])
    }
}

impl FoundToken {
    /// Both together.
    fn with(self, other: Self, look: &TokenLook<'_>) -> Self {
        let held = self.held.with(other.held);
        // One that is in force outdoes one that is not.
        let expired = self.need.is_none() && other.need.is_none();
        let need = held.need(look.service, expired, look.unix_ms);
        Self { token: self.token.with(other.token), held, need, stale: self.stale || other.stale }
    }
}

/// The value of a crumb that is the session's cookie of the service `own`, under either of its names.
fn token_of<'c>(crumb: &'c [u8], own: &[u8]) -> Option<&'c [u8]> {
    let rest = crumb.strip_prefix(SESSION_COOKIE.as_bytes())?;
    let of_service = || rest.strip_prefix(b"-")?.strip_prefix(own)?.strip_prefix(b"=");
    rest.strip_prefix(b"=").or_else(of_service)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_names_of_the_cookie_are_read_and_no_others() {
        for (crumb, value) in [
            ("__meridian=abc", Some("abc")),
            ("__meridian-api=abc", Some("abc")),
            ("__meridian-api=", Some("")),
            ("__meridian-apix=abc", None),
            ("__meridian-other=abc", None),
            ("__meridianx=abc", None),
            ("x__meridian=abc", None),
            ("__Meridian=abc", None),
            ("__meridian", None),
            ("", None),
        ] {
            let found = token_of(crumb.as_bytes(), b"api");
            assert_eq!(found, value.map(str::as_bytes), "{crumb}");
        }
    }
}
