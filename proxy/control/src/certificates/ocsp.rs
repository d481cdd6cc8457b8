//! What an authority says of a certificate (OCSP, RFC 6960), from a file, for handshakes to show.
//!
//! Promises: what is shown is a response, about this very certificate, that says it is good and is not out of date.
//! Refuses to know: where responses come from; whether their signature holds, which each client verifies.

use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

const SEQUENCE: u8 = 0x30;
const OCTETS: u8 = 0x04;
const INTEGER: u8 = 0x02;
const OID: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
/// `[0]`, constructed.
const FIRST: u8 = 0xa0;
/// 1.3.6.1.5.5.7.48.1.1
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
const SHA1: &[u8] = &[0x2b, 0x0e, 3, 2, 0x1a];
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
const SHA384: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2];
const SHA512: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3];

/// What a file is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Staple {
    /// To be shown until then, Unix time in seconds.
    Good(i64),
    /// Not to be shown, and why.
    Useless(String),
}

/// Looks at a response for the first certificate of a chain.
///
/// # Errors
/// As [`look`].
pub(super) fn of_chain(
    response: &[u8],
    chain: &[CertificateDer<'_>],
    unix_s: i64,
) -> Result<Staple, String> {
    let mut parsed = Vec::with_capacity(2);
    for der in chain.iter().take(2) {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        parsed.push(certificate);
    }
    let own = parsed.first().ok_or("has no certificate beside it")?;
    look(response, own, parsed.get(1), unix_s)
}

/// Looks at a response for a certificate (the first of its chain) and its issuer (the second, if it is there).
///
/// # Errors
/// In words: it is no response that says something of certificates.
fn look(
    response: &[u8],
    own: &X509Certificate<'_>,
    issuer: Option<&X509Certificate<'_>>,
    unix_s: i64,
) -> Result<Staple, String> {
    let broken = || "is not an OCSP response in DER".to_owned();
    let singles = match singles(response).ok_or_else(broken)? {
        Ok(singles) => singles,
        Err(status) => return Err(format!("says that there is no answer: status {status}")),
    };
    let mut reader = Der(singles);
    let mut found = None;
    while !reader.0.is_empty() {
        let single = Single::read(reader.take(SEQUENCE).ok_or_else(broken)?).ok_or_else(broken)?;
        if found.is_none() && single.is_of(own, issuer) {
            found = Some(single);
        }
    }
    let Some(single) = found else {
        return Ok(Staple::Useless("is not about this certificate".into()));
    };
    Ok(match (single.status, single.until) {
        (0x80, Some(until)) if single.from <= unix_s && unix_s < until => Staple::Good(until),
        (0x80, None) => Staple::Useless("does not say until when it holds".into()),
        (0x80, Some(until)) if unix_s >= until => Staple::Useless("is out of date".into()),
        (0x80, _) => Staple::Useless("does not hold yet".into()),
        (0xa1 | 0x81, _) => Staple::Useless("says that the certificate is revoked".into()),
        _ => Staple::Useless("says that the certificate is not known".into()),
    })
}

/// What the response says of each certificate; or its status, if it says nothing.
fn singles(response: &[u8]) -> Option<Result<&[u8], u8>> {
    let mut whole = Der(response);
    let mut response = Der(whole.take(SEQUENCE)?);
    if !whole.0.is_empty() {
        return None;
    }
    match response.take(ENUMERATED)? {
        [0] => {}
        [status] => return Some(Err(*status)),
        _ => return None,
    }
    let mut bytes = Der(Der(response.take(FIRST)?).take(SEQUENCE)?);
    if bytes.take(OID)? != BASIC {
        return None;
    }
    let mut basic = Der(Der(bytes.take(OCTETS)?).take(SEQUENCE)?);
    let mut data = Der(basic.take(SEQUENCE)?);
    // The version, where it is not the first; who answers; when.
    if data.0.first() == Some(&FIRST) {
        data.next()?;
    }
    data.next()?;
    data.next()?;
    data.take(SEQUENCE).map(Ok)
}

/// What is said of one certificate.
struct Single<'a> {
    algorithm: &'a [u8],
    issuer_name: &'a [u8],
    issuer_key: &'a [u8],
    serial: &'a [u8],
    /// The tag of the choice.
    status: u8,
    /// Unix time in seconds.
    from: i64,
    until: Option<i64>,
}

impl<'a> Single<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut single = Der(bytes);
        let mut id = Der(single.take(SEQUENCE)?);
        let algorithm = Der(id.take(SEQUENCE)?).take(OID)?;
        let (issuer_name, issuer_key) = (id.take(OCTETS)?, id.take(OCTETS)?);
        let serial = id.take(INTEGER)?;
        let (status, _) = single.next()?;
        let from = single.time()?;
        let until = match single.0.first() {
            Some(&FIRST) => Some(Der(single.take(FIRST)?).time()?),
            _ => None,
        };
        Some(Self { algorithm, issuer_name, issuer_key, serial, status, from, until })
    }

    fn is_of(&self, own: &X509Certificate<'_>, issuer: Option<&X509Certificate<'_>>) -> bool {
        let same = |told: &[u8], of: &[u8]| self.hash(of).is_none_or(|hash| hash == told);
        let key =
            |issuer: &X509Certificate<'_>| issuer.public_key().subject_public_key.data.to_vec();
        self.serial == own.raw_serial()
            && same(self.issuer_name, own.issuer().as_raw())
            && issuer.is_none_or(|issuer| same(self.issuer_key, &key(issuer)))
    }

    /// `None`: by a function that is not known here.
    fn hash(&self, of: &[u8]) -> Option<Vec<u8>> {
        Some(match self.algorithm {
            SHA1 => {
                let digest =
                    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, of);
                digest.as_ref().to_vec()
            }
            SHA256 => Sha256::digest(of).to_vec(),
            SHA384 => Sha384::digest(of).to_vec(),
            SHA512 => Sha512::digest(of).to_vec(),
            _ => return None,
        })
    }
}

/// Values of DER one after the other.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Takes the next value: its tag and its content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (tag, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(*first), rest),
            // Lengths of at most three bytes: files are shorter.
            0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, content))
    }

    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    /// Takes a GeneralizedTime, in Unix seconds.
    fn time(&mut self) -> Option<i64> {
        let (rest, time) = ASN1Time::from_der(self.0).ok()?;
        self.0 = rest;
        Some(time.timestamp())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;

    const FROM: &[u8] = b"20260701000000Z";
    const UNTIL: &[u8] = b"20260708000000Z";
    /// 2026-07-01 and a week later.
    const BETWEEN: std::ops::Range<i64> = 1_782_864_000..1_783_468_800;

    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let length = u16::try_from(content.len()).expect("short").to_be_bytes();
        [&[tag, 0x82][..], &length, &content].concat()
    }

    /// A certificate and its issuer's.
    fn chain() -> (Vec<u8>, Vec<u8>) {
        let key = || KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_key = key();
        let root = params.self_signed(&root_key).expect("signs").der().to_vec();
        let issuer = Issuer::new(params, root_key);
        let own = CertificateParams::new(vec!["a.example".to_owned()]).expect("names");
        (own.signed_by(&key(), &issuer).expect("signs").der().to_vec(), root)
    }

    /// About a certificate: by whose name and key, its serial number; the tag of the status; and until when.
    fn single(issuer: [&[u8]; 2], serial: &[u8], status: u8, until: Option<&[u8]>) -> Vec<u8> {
        let algorithm = der(SEQUENCE, &[&der(OID, &[SHA256]), &[5, 0]]);
        let [name, key] = issuer.map(|of| der(OCTETS, &[&Sha256::digest(of)]));
        let id = der(SEQUENCE, &[&algorithm, &name, &key, &der(INTEGER, &[serial])]);
        let until = until.map(|until| der(FIRST, &[&der(0x18, &[until])])).unwrap_or_default();
        der(SEQUENCE, &[&id, &[status, 0], &der(0x18, &[FROM]), &until])
    }

    fn response(singles: &[Vec<u8>]) -> Vec<u8> {
        let all: Vec<_> = singles.iter().map(Vec::as_slice).collect();
        let by = der(0xa2, &[&der(OCTETS, &[&[0; 20]])]);
        let data = der(SEQUENCE, &[&by, &der(0x18, &[FROM]), &der(SEQUENCE, &all)]);
        let basic = der(SEQUENCE, &[&data, &der(SEQUENCE, &[]), &der(0x03, &[&[0; 9]])]);
        let bytes = der(SEQUENCE, &[&der(OID, &[BASIC]), &der(OCTETS, &[&basic])]);
        der(SEQUENCE, &[&[ENUMERATED, 1, 0], &der(FIRST, &[&bytes])])
    }

    struct Facts {
        own: Vec<u8>,
        root: Vec<u8>,
    }

    impl Facts {
        fn look(&self, response: &[u8], unix_s: i64) -> Result<Staple, String> {
            let chain = [&self.own, &self.root].map(|der| CertificateDer::from(der.as_slice()));
            let alone = of_chain(response, &chain[..1], unix_s);
            let whole = of_chain(response, &chain, unix_s);
            if let Ok(Staple::Good(_)) = whole {
                assert_eq!(alone, whole, "without the issuer there is less to find wrong");
            }
            whole
        }

        fn with<R>(&self, then: impl FnOnce([&[u8]; 2], &[u8]) -> R) -> R {
            let (_, own) = X509Certificate::from_der(&self.own).expect("parses");
            let (_, root) = X509Certificate::from_der(&self.root).expect("parses");
            let key = &root.public_key().subject_public_key.data;
            then([root.subject().as_raw(), key], own.raw_serial())
        }
    }

    #[test]
    fn what_holds_is_shown_and_nothing_else() {
        let (own, root) = chain();
        let facts = Facts { own, root };
        facts.with(|issuer, serial| {
            let good = single(issuer, serial, 0x80, Some(UNTIL));
            let other = single(issuer, b"other", 0x80, Some(UNTIL));
            let (from, until) = (BETWEEN.start, BETWEEN.end);
            let useless = |why: &str| Ok(Staple::Useless(why.into()));
            let not_ours = useless("is not about this certificate");
            for (singles, unix_s, expected) in [
                (vec![good.clone()], from, Ok(Staple::Good(until))),
                (vec![good.clone()], until - 1, Ok(Staple::Good(until))),
                (vec![good.clone()], until, useless("is out of date")),
                (vec![good.clone()], from - 1, useless("does not hold yet")),
                (vec![other.clone(), good], from, Ok(Staple::Good(until))),
                (vec![other], from, not_ours.clone()),
                (vec![], from, not_ours.clone()),
                (
                    vec![single([issuer[0], b"x"], serial, 0x80, Some(UNTIL))],
                    from,
                    not_ours.clone(),
                ),
                (vec![single([b"x", issuer[1]], serial, 0x80, Some(UNTIL))], from, not_ours),
                (
                    vec![single(issuer, serial, 0x80, None)],
                    from,
                    useless("does not say until when it holds"),
                ),
                (
                    vec![single(issuer, serial, 0xa1, Some(UNTIL))],
                    from,
                    useless("says that the certificate is revoked"),
                ),
                (
                    vec![single(issuer, serial, 0x82, Some(UNTIL))],
                    from,
                    useless("says that the certificate is not known"),
                ),
            ] {
                assert_eq!(facts.look(&response(&singles), unix_s), expected);
            }
        });
    }

    #[test]
    fn what_is_no_response_says_so() {
        let (own, root) = chain();
        let facts = Facts { own, root };
        let whole =
            facts.with(|issuer, serial| response(&[single(issuer, serial, 0x80, Some(UNTIL))]));
        for cut in 0..whole.len() {
            assert!(facts.look(&whole[..cut], BETWEEN.start).is_err(), "{cut}");
        }
        assert!(facts.look(&[&whole[..], &[0]].concat(), BETWEEN.start).is_err());
        let refused = facts.look(&der(SEQUENCE, &[&[ENUMERATED, 1, 6]]), BETWEEN.start);
        assert_eq!(refused, Err("says that there is no answer: status 6".into()));
        for bytes in
            [&b"-----BEGIN OCSP RESPONSE-----"[..], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], b""]
        {
            assert!(facts.look(bytes, BETWEEN.start).is_err_and(|why| why.contains("DER")));
        }
        // Whatever is changed in it, it is read without a panic.
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..50_000 {
            let mut bytes = whole.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(0..bytes.len());
                bytes[at] = random.u8(..);
            }
            let _ = facts.look(&bytes, BETWEEN.start);
        }
    }
}
