//! Why there is no certificate, in words, and what follows from it.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use instant_acme::{Error, Problem};

use crate::http_client::failure;

/// What an authority says is cut to so many characters.
const LONGEST: usize = 600;
/// Whatever an authority says, it is asked again after so long.
pub(super) const LONGEST_HOLD: Duration = Duration::from_secs(24 * 3600);
/// What all problems of ACME begin with (RFC 8555 section 6.7).
const PREFIX: &str = "urn:ietf:params:acme:error:";

/// Why an order has failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Failure {
    /// Without anything secret, and without control characters.
    pub(super) words: String,
    /// The authority wants to be left alone for so long.
    pub(super) hold: Option<Duration>,
    /// And with all other orders, too.
    pub(super) everywhere: bool,
    /// There is no account, or the authority cannot be asked at all: so it is for all other orders.
    pub(super) account: bool,
    /// It does not know the account (any more).
    pub(super) account_gone: bool,
}

/// An answer that says no more than its status, or for how long to stay away.
#[derive(Debug)]
pub(super) struct Turned {
    pub(super) status: http::StatusCode,
    pub(super) problem: Option<Problem>,
    pub(super) retry_after: Option<Duration>,
}

impl fmt::Display for Turned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it answered {}", self.status)?;
        match &self.problem {
            Some(problem) => write!(f, ": {}", words_of(problem)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Turned {}

impl Failure {
    pub(super) fn of(what: &str, error: &Error) -> Self {
        let mut failure = Self { words: format!("{what}: "), ..Self::default() };
        match error {
            Error::Api(problem) => {
                failure.words += &words_of(problem);
                failure.account_gone = is(problem, "accountDoesNotExist");
            }
            Error::Other(cause) => {
                if let Some(turned) = cause.downcast_ref::<Turned>() {
                    failure.hold = turned.retry_after.map(|hold| hold.min(LONGEST_HOLD));
                    failure.everywhere = turned.status == http::StatusCode::SERVICE_UNAVAILABLE;
                }
                failure.words += &self::failure(&**cause);
            }
            Error::Json(_) => failure.words += "it answered what is not ACME",
            Error::Timeout(when) => {
                failure.words += "the authority has not come to an end with it in time";
                let left = |when: &std::time::Instant| {
                    when.saturating_duration_since(std::time::Instant::now())
                };
                failure.hold = when.as_ref().map(left).map(|hold| hold.min(LONGEST_HOLD));
            }
            other => {
                failure.words += &other.to_string();
                if let Some(source) = other.source() {
                    failure.words += &format!(": {}", self::failure(source));
                }
            }
        }
        failure.plain()
    }

    /// What is not the authority's word.
    pub(super) fn own(words: impl Into<String>) -> Self {
        Self { words: words.into(), ..Self::default() }.plain()
    }

    /// The same, met before there was an account.
    pub(super) fn of_account(self) -> Self {
        Self { account: true, ..self }
    }

    /// With more words behind.
    pub(super) fn and(mut self, more: &str) -> Self {
        self.words.push_str(more);
        self.plain()
    }

    fn plain(mut self) -> Self {
        let plain = self.words.chars().map(|c| if c.is_control() { ' ' } else { c });
        self.words = plain.take(LONGEST).collect();
        self
    }
}

fn is(problem: &Problem, kind: &str) -> bool {
    problem.r#type.as_deref().and_then(|t| t.strip_prefix(PREFIX)) == Some(kind)
}

/// Detail and kind of a problem, and of those beneath it.
pub(super) fn words_of(problem: &Problem) -> String {
    let kind = problem.r#type.as_deref().unwrap_or("no kind");
    let kind = kind.strip_prefix(PREFIX).unwrap_or(kind);
    let mut words = match &problem.detail {
        Some(detail) => format!("{detail} ({kind})"),
        None => kind.to_owned(),
    };
    for one in &problem.subproblems {
        words.push_str(&format!("; {one}"));
    }
    if is(problem, "externalAccountRequired") {
        words.push_str("; it issues to customers only: set acme.external_account");
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: &str, detail: &str) -> Problem {
        let text = serde_json::json!({ "type": format!("{PREFIX}{kind}"), "detail": detail });
        serde_json::from_value(text).expect("a problem")
    }

    #[test]
    fn what_an_authority_says_is_told_and_cut() {
        let gone = Failure::of("new order", &Error::Api(problem("accountDoesNotExist", "who?")));
        assert_eq!(
            (&*gone.words, gone.account_gone),
            ("new order: who? (accountDoesNotExist)", true)
        );
        let long = "a\r\nb".repeat(1000);
        let cut = Failure::of("x", &Error::Api(problem("malformed", &long)));
        assert_eq!(cut.words.chars().count(), LONGEST);
        assert!(!cut.words.contains(char::is_control));
    }

    #[test]
    fn who_wants_to_be_left_alone_is() {
        let turned = |status: u16, seconds| {
            let status = http::StatusCode::from_u16(status).expect("a status");
            let retry_after = Some(Duration::from_secs(seconds));
            let problem = Some(problem("rateLimited", "too many"));
            Error::Other(Box::new(Turned { status, problem, retry_after }))
        };
        let limited = Failure::of("new order", &turned(429, 60));
        assert_eq!((limited.hold, limited.everywhere), (Some(Duration::from_secs(60)), false));
        assert!(limited.words.contains("429") && limited.words.contains("too many (rateLimited)"));
        let busy = Failure::of("new order", &turned(503, u64::MAX / 2));
        assert_eq!((busy.hold, busy.everywhere), (Some(LONGEST_HOLD), true));
    }
}
