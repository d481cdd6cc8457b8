//! Certificates of clients: who may sign them, and what a verified one says.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use meridian_config::ClientAuth;
use meridian_routing::CertificateNames;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use sha2::{Digest as _, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::revocation::RevocationList;
use super::verify::chain;

/// A longer certificate is not taken from a client, bytes: endpoints are sent all of it in a header.
const LONGEST: usize = 8 * 1024;

/// What verifies the certificates of one listener's clients.
#[derive(Clone, Debug)]
pub(super) struct ClientVerifier {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// When the first of its revocation lists is out of date, Unix time in seconds; `None`: there are none.
    pub(super) lists_until_unix_s: Option<i64>,
}

/// The authorities in the file of `client_ca`, and what is odd about them.
///
/// # Errors
/// In words: it holds no certificate, or a broken one.
pub(super) fn roots(content: &[u8], unix_s: i64) -> Result<(RootCertStore, Vec<String>), String> {
    let (mut roots, mut odd) = (RootCertStore::empty(), Vec::new());
    for (position, der) in chain(content)?.into_iter().enumerate() {
        let number = position + 1;
        let broken = |why: &dyn std::fmt::Display| format!("certificate {number} is broken: {why}");
        let (_, root) = X509Certificate::from_der(&der).map_err(|error| broken(&error))?;
        if !root.is_ca() {
            odd.push(format!("certificate {number} is not one of an authority (basicConstraints)"));
        }
        if root.validity().not_after.timestamp() < unix_s {
            odd.push(format!("certificate {number} has expired"));
        }
        roots.add(der).map_err(|error| broken(&error))?;
    }
    Ok((roots, odd))
}

/// What verifies the certificates of clients. With lists each certificate that leads to a root must be judged by one
/// that has not expired: whoever nobody vouches for stays out. Of two lists for a certificate the first is asked.
///
/// # Errors
/// In words: it cannot be made of these.
pub(super) fn verifier(
    roots: RootCertStore,
    lists: Vec<RevocationList>,
    auth: ClientAuth,
) -> Result<ClientVerifier, String> {
    let lists_until_unix_s = lists.iter().map(|list| list.until_unix_s).min();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .with_crls(lists.into_iter().map(|list| list.der))
        .enforce_revocation_expiration();
    let builder = match auth {
        ClientAuth::Optional => builder.allow_unauthenticated(),
        ClientAuth::Off | ClientAuth::Required => builder,
    };
    let verifier = builder.build().map_err(|error| format!("cannot be used: {error}"))?;
    Ok(ClientVerifier { verifier, lists_until_unix_s })
}

/// What a client's certificate says of itself. Only made of certificates that were verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// RFC 4514, the most specific part first; ASCII without control characters.
    pub subject: String,
    /// `DNS:a.internal, URI:spiffe://org/a`: visible ASCII, what might end an entry is percent-encoded.
    pub san: String,
    /// Hexadecimal digits in lower case.
    pub serial: String,
    /// What routes ask about, and the fingerprint.
    pub names: CertificateNames,
}

impl ClientCertificate {
    /// Reads a certificate.
    ///
    /// # Errors
    /// In words: it is broken, or longer than 8 KiB.
    pub fn of(der: &[u8]) -> Result<Self, String> {
        if der.len() > LONGEST {
            return Err("is longer than 8 KiB".into());
        }
        let (_, parsed) =
            X509Certificate::from_der(der).map_err(|error| format!("is broken: {error}"))?;
        let mut names =
            CertificateNames { fingerprint: hex(&Sha256::digest(der)), ..Default::default() };
        let mut san = String::new();
        let listed = parsed.subject_alternative_name();
        let listed = listed.map_err(|error| format!("subjectAltName is broken: {error}"))?;
        for name in listed.iter().flat_map(|names| &names.value.general_names) {
            let (kind, text) = match name {
                GeneralName::DNSName(host) => {
                    names.hosts.push(host.to_ascii_lowercase());
                    ("DNS", (*host).to_owned())
                }
                GeneralName::URI(uri) => {
                    names.uris.push((*uri).to_owned());
                    ("URI", (*uri).to_owned())
                }
                GeneralName::RFC822Name(mailbox) => {
                    names.emails.push((*mailbox).to_owned());
                    ("email", (*mailbox).to_owned())
                }
                GeneralName::IPAddress(bytes) => {
                    let Some(address) = address(bytes) else { continue };
                    names.addresses.push(address);
                    ("IP", address.to_string())
                }
                _ => continue,
            };
            let comma = if san.is_empty() { "" } else { ", " };
            let _ = write!(san, "{comma}{kind}:");
            encoded(&text, &mut san);
        }
        let subject = distinguished_name(parsed.subject())?;
        Ok(Self { subject, san, serial: hex(parsed.raw_serial()), names })
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Visible ASCII but what might end an entry or a header's value.
fn encoded(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b',' | b'"' | b'%' | b'\\' | b';') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// The names that RFC 4514 section 3 has for attribute types, and the usual one for a mailbox.
const TYPES: [(&str, &str); 10] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// RFC 4514: the last part first. What is not visible ASCII stands as `\` and two hexadecimal digits a byte.
fn distinguished_name(name: &X509Name<'_>) -> Result<String, String> {
    let mut out = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for (position, part) in parts.iter().rev().enumerate() {
        for (number, attribute) in part.iter().enumerate() {
            match (position, number) {
                (0, 0) => {}
                (_, 0) => out.push(','),
                _ => out.push('+'),
            }
            let oid = attribute.attr_type().to_id_string();
            let known = TYPES.iter().find(|(known, _)| *known == oid);
            out.push_str(known.map_or(&*oid, |(_, short)| short));
            out.push('=');
            match attribute.as_str() {
                Ok(text) => escaped(text, &mut out),
                // A type of string that has no text here: its bytes (section 2.4).
                Err(_) => {
                    let _ = write!(out, "#{}", hex(attribute.as_slice()));
                }
            }
        }
    }
    if out.len() > LONGEST { Err("has a subject that is too long".into()) } else { Ok(out) }
}

/// RFC 4514 section 2.4.
fn escaped(text: &str, out: &mut String) {
    let last = text.len().saturating_sub(1);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' | b'=' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b'#' if at == 0 => out.push_str("\\#"),
            b' ' if at == 0 || at == last => out.push_str("\\ "),
            b' ' => out.push(' '),
            byte if byte.is_ascii_graphic() => out.push(char::from(byte)),
            byte => {
                let _ = write!(out, "\\{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType, SerialNumber};

    use super::*;

    fn made(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("signs").der().to_vec()
    }

    #[test]
    fn what_a_certificate_says() {
        let der = made(|params| {
            params.serial_number = Some(SerialNumber::from(vec![0x0a, 0x1b]));
            let name = &mut params.distinguished_name;
            name.push(DnType::CountryName, "DE");
            name.push(DnType::OrganizationName, "A, B");
            name.push(DnType::CommonName, "shop");
            params.subject_alt_names = vec![
                SanType::DnsName("Shop.Internal".try_into().expect("ascii")),
                SanType::URI("spiffe://org/ns/shop".try_into().expect("ascii")),
                SanType::Rfc822Name("ops@org".try_into().expect("ascii")),
                SanType::IpAddress(IpAddr::from([192, 0, 2, 1])),
            ];
        });
        let read = ClientCertificate::of(&der).expect("reads");
        assert_eq!(read.subject, "CN=shop,O=A\\, B,C=DE");
        let san = "DNS:Shop.Internal, URI:spiffe://org/ns/shop, email:ops@org, IP:192.0.2.1";
        assert_eq!((read.san.as_str(), read.serial.as_str()), (san, "0a1b"));
        assert_eq!(read.names.hosts, ["shop.internal"]);
        assert_eq!(read.names.uris, ["spiffe://org/ns/shop"]);
        assert_eq!(read.names.addresses, [IpAddr::from([192, 0, 2, 1])]);
        assert_eq!(read.names.fingerprint, hex(&Sha256::digest(&der)));
    }

    #[test]
    fn nothing_in_a_name_gets_out_of_its_place() {
        let der = made(|params| {
            let nasty = " #a\r\nX-Client-Cert-Verified: true\0\u{e9}=,+\"\\<>; ";
            params.distinguished_name.push(DnType::CommonName, DnValue::Utf8String(nasty.into()));
            params.subject_alt_names = vec![SanType::URI(
                "x://a, DNS:admin.internal\r\nX: y%\"".try_into().expect("ascii"),
            )];
        });
        let read = ClientCertificate::of(&der).expect("reads");
        assert_eq!(
            read.subject,
            "CN=\\ #a\\0D\\0AX-Client-Cert-Verified: true\\00\\C3\\A9\\=\\,\\+\\\"\\\\\\<\\>\\;\\ "
        );
        assert_eq!(read.san, "URI:x://a%2C%20DNS:admin.internal%0D%0AX:%20y%25%22");
        assert!(read.names.hosts.is_empty());
        for text in [&read.subject, &read.san] {
            assert!(text.bytes().all(|b| b.is_ascii_graphic() || b == b' '), "{text:?}");
        }
    }

    #[test]
    fn what_is_none_says_so() {
        assert!(ClientCertificate::of(b"").is_err_and(|why| why.contains("broken")));
        assert!(ClientCertificate::of(&[0x30; 9000]).is_err_and(|why| why.contains("8 KiB")));
        let bare = ClientCertificate::of(&made(|_| ())).expect("reads");
        assert_eq!((bare.subject.as_str(), bare.san.as_str()), ("", ""));
    }
}
