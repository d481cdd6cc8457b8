//! `[routes.affinity]`

use std::time::Duration;

use super::at_least;
use crate::model::{Affinity, CookieSecure, SameSite};
use crate::names;
use crate::reader::{Item, Table};

/// The longest name of a cookie, bytes.
const NAME_BYTES: usize = 64;
/// The cookies of sessions have this name, or it with a service's behind a dash.
const SESSION_COOKIE: &str = "__meridian";
/// Browsers take such a cookie only with `Secure` (RFC 6265bis section 4.1.3).
const SECURE_PREFIXES: [&str; 2] = ["__host-", "__secure-"];

/// `{ cookie = "meridian-affinity", ttl = "1h", secure = "auto", same_site = "lax" }`; `None` where it is not there.
pub(super) fn read(table: &Table<'_>) -> Option<Affinity> {
    if !table.is_present() {
        return None;
    }
    let secures = [CookieSecure::Auto, CookieSecure::Always, CookieSecure::Never];
    let secures = secures.map(|secure| (secure.label(), secure));
    let sites = [SameSite::Lax, SameSite::Strict, SameSite::None].map(|site| (site.label(), site));
    let hour = Duration::from_secs(3600);
    let affinity = Affinity {
        cookie: table.or("cookie", "meridian-affinity".to_owned(), cookie_name),
        ttl: table.or("ttl", hour, |item| item.duration(at_least(1000))),
        secure: table.or("secure", CookieSecure::Auto, |item| item.choice(&secures)),
        same_site: table.or("same_site", SameSite::Lax, |item| item.choice(&sites)),
    };
    if affinity.same_site == SameSite::None && affinity.secure == CookieSecure::Never {
        let message = "\"none\" needs secure: browsers drop such a cookie without it";
        table.site_of("same_site").error(table.cx, message);
    }
    let name = affinity.cookie.to_ascii_lowercase();
    let prefixed = SECURE_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    if prefixed && affinity.secure != CookieSecure::Always {
        let message = "a name with this prefix needs secure = \"always\": browsers drop the cookie \
                       without it";
        table.site_of("cookie").error(table.cx, message);
    }
    Some(affinity)
}

/// A cookie's name is a token, as a header's is, but keeps its letter case.
fn cookie_name(item: &Item<'_>) -> Option<String> {
    item.parsed(|text| match names::header_name(text) {
        Ok(_) if is_of_sessions(text) => Err(format!(
            "{text:?} is the name of session tokens: one cookie would take the other's place"
        )),
        Ok(_) if text.len() <= NAME_BYTES => Ok(text.to_owned()),
        Ok(_) => Err(format!("a cookie's name has at most {NAME_BYTES} characters here")),
        Err(_) => Err(format!("{text:?} is not a cookie name")),
    })
}

fn is_of_sessions(name: &str) -> bool {
    let rest = name.strip_prefix(SESSION_COOKIE);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}
