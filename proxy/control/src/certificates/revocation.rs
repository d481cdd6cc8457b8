//! Revocation lists for the certificates of clients (RFC 5280 section 5).
//!
//! Promises: what is returned can be read as a whole; of several lists for the same certificates the newest counts. Refuses
//! to know: whether its signature holds, which only the handshake can say that has the authority's certificate at hand.

use std::cmp::Reverse;

use rustls::RootCertStore;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::oid_registry::OID_X509_EXT_ISSUER_DISTRIBUTION_POINT;
use x509_parser::prelude::{FromDer, ParsedExtension};
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::X509Name;

use super::verify::not_pem;

/// Marks the beginning of DER: a SEQUENCE.
const SEQUENCE: u8 = 0x30;

/// A list, and what it says of itself.
#[derive(Clone, Debug)]
pub(super) struct RevocationList {
    pub(super) der: CertificateRevocationListDer<'static>,
    /// Out of date from then on; Unix time in seconds.
    pub(super) until_unix_s: i64,
    /// The authority's name, DER.
    issuer: Vec<u8>,
    /// Which of its certificates the list is about (RFC 5280 section 5.2.5), DER; `None`: all.
    scope: Option<Vec<u8>>,
    /// The authority's key, as far as the list names it.
    key: Option<Vec<u8>>,
    /// The later one of two is the newer: when it was made (Unix time in seconds), and its number among those of that
    /// second, without leading zeros, by length and then by digits.
    age: (i64, usize, Vec<u8>),
    /// The same, and until when, for people.
    told: (String, String),
}

impl RevocationList {
    fn read(der: CertificateRevocationListDer<'static>) -> Result<Self, String> {
        let (rest, list) =
            CertificateRevocationList::from_der(&der).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err("something follows it".into());
        }
        let until = list.next_update().ok_or("it does not say when the next one comes")?;
        let (until_unix_s, until) = (until.timestamp(), until.to_string());
        let (issuer, name) = (list.issuer().as_raw().to_vec(), list.issuer().to_string());
        let extension = |oid| list.extensions().iter().find(|extension| extension.oid == oid);
        let scope = extension(OID_X509_EXT_ISSUER_DISTRIBUTION_POINT);
        let scope = scope.map(|extension| extension.value.to_vec());
        let key =
            list.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(key) => {
                    Some(key.key_identifier.as_ref()?.0.to_vec())
                }
                _ => None,
            });
        let number = list.crl_number().map(|number| number.to_bytes_be()).unwrap_or_default();
        let age = (list.last_update().timestamp(), number.len(), number);
        Ok(Self { until_unix_s, issuer, scope, key, age, told: (name, until), der })
    }

    /// Whether both judge the same certificates, by what a handshake can tell: names, not keys.
    fn rivals(&self, other: &Self) -> bool {
        self.issuer == other.issuer && self.scope == other.scope
    }

    /// That it is out of date, in words.
    pub(super) fn lateness(&self, unix_s: i64) -> Option<String> {
        let (name, until) = &self.told;
        let late = self.until_unix_s <= unix_s;
        late.then(|| {
            format!("the list of {name} held until {until}: its clients are refused until there is a new one")
        })
    }
}

/// The lists that a file holds: some in PEM, or one in DER.
///
/// # Errors
/// In words: there is none, or a broken one.
pub(super) fn lists(content: &[u8]) -> Result<Vec<RevocationList>, String> {
    let ders = if content.first() == Some(&SEQUENCE) {
        vec![CertificateRevocationListDer::from(content.to_vec())]
    } else {
        let ders: Result<Vec<_>, _> =
            CertificateRevocationListDer::pem_slice_iter(content).collect();
        ders.map_err(not_pem)?
    };
    if ders.is_empty() {
        return Err("holds no revocation list".into());
    }
    let read = |(position, der)| {
        let list = RevocationList::read(der);
        list.map_err(|why| format!("list {} is broken: {why}", position + 1))
    };
    ders.into_iter().enumerate().map(read).collect()
}

/// Lists, and where each was found.
pub(super) type Placed<T> = Vec<(T, RevocationList)>;

/// The lists that count, the newest first, and what is odd about the others. A handshake goes by the first list that is of
/// the certificate's authority: behind an older one a newer would never be asked.
pub(super) fn newest<T>(mut lists: Placed<T>) -> (Placed<T>, Vec<(T, String)>) {
    lists.sort_by(|(_, one), (_, other)| Reverse(&one.age).cmp(&Reverse(&other.age)));
    let (mut kept, mut odd) = (Placed::<T>::new(), Vec::new());
    for (place, list) in lists {
        let Some((_, newer)) = kept.iter().find(|(_, newer)| newer.rivals(&list)) else {
            kept.push((place, list));
            continue;
        };
        // The same file twice is nobody's mistake to mend.
        if newer.der == list.der {
            continue;
        }
        let (name, until) = &list.told;
        let other_key = newer.key.is_some() && list.key.is_some() && newer.key != list.key;
        let because = match other_key {
            true => {
                "there is a newer one by another key of the same name, and only that is asked: clients \
                 of this key are refused. A new key of an authority needs a name of its own"
            }
            // The authority's clock or its books went back: which is newer it alone knows.
            false if newer.age.1 > 0 && (newer.age.1, &newer.age.2) < (list.age.1, &list.age.2) => {
                "there is one with a later date, though with a lower number: take out which is older"
            }
            false => "there is a newer one: take this one out",
        };
        odd.push((
            place,
            format!("the list of {name} that holds until {until} is not used: {because}"),
        ));
    }
    (kept, odd)
}

/// The authorities without a list: what they have signed is refused.
pub(super) fn uncovered<'a>(
    roots: &RootCertStore,
    lists: impl Iterator<Item = &'a RevocationList> + Clone,
) -> Vec<String> {
    let mut odd = Vec::new();
    for (at, (root, name)) in roots.roots.iter().zip(roots.subjects()).enumerate() {
        let Ok((_, name)) = X509Name::from_der(name.as_ref()) else { continue };
        if !lists.clone().any(|list| list.issuer == name.as_raw()) {
            odd.push(format!(
                "client_crl has no list of {name}: clients with its certificates are refused"
            ));
        }
        let other_key = roots.roots[..at].iter().any(|other| {
            other.subject == root.subject
                && other.subject_public_key_info != root.subject_public_key_info
        });
        if other_key {
            odd.push(format!(
                "{name} has two keys, and only one list of that name is asked: clients of the key that \
                 did not sign it are refused. A new key of an authority needs a name of its own"
            ));
        }
    }
    odd
}
