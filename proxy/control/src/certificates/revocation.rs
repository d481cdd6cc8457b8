//! Revocation lists for the certificates of clients (RFC 5280 section 5).
//!
//! Promises: what is returned can be read as a whole. Refuses to know: whether its signature holds, which only the
//! handshake can say that has the authority's certificate at hand.

use rustls::RootCertStore;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::FromDer;
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
        Ok(Self { until_unix_s, issuer, told: (name, until), der })
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

/// The authorities without a list: what they have signed is refused.
pub(super) fn uncovered(roots: &RootCertStore, lists: &[RevocationList]) -> Vec<String> {
    let covered = |name: &X509Name<'_>| lists.iter().any(|list| list.issuer == name.as_raw());
    let names = roots.subjects().into_iter().filter_map(|name| {
        let (_, name) = X509Name::from_der(name.as_ref()).ok()?;
        (!covered(&name)).then(|| name.to_string())
    });
    names
        .map(|name| {
            format!("client_crl has no list of {name}: clients with its certificates are refused")
        })
        .collect()
}
