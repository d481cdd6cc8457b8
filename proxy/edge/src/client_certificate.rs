//! What endpoints and logs are told of a client's certificate. Nothing of that can come from a client.

use std::fmt::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meridian_config::HeaderEdits;
use meridian_control::ClientCertificate;
use meridian_routing::CertificateNames;

/// One client of a listener that asks for certificates.
#[derive(Debug)]
pub(crate) struct Shown {
    certificate: Option<ClientCertificate>,
    /// The fields for endpoints, each with its line end.
    lines: String,
}

impl Shown {
    /// Who has shown nothing, where that is allowed.
    pub(crate) fn nothing() -> Self {
        Self { certificate: None, lines: "x-client-cert-verified: false\r\n".into() }
    }

    /// A certificate that was verified; `der` is all of it.
    pub(crate) fn verified(certificate: ClientCertificate, der: &[u8]) -> Self {
        let ClientCertificate { subject, san, serial, names } = &certificate;
        let mut lines = String::with_capacity(512 + der.len().div_ceil(3) * 4);
        // Writing to a String cannot fail. RFC 9440 section 2.1: a byte sequence of RFC 8941.
        let _ = write!(
            lines,
            "client-cert: :{}:\r\nx-client-cert-verified: true\r\nx-client-cert-subject: {subject}\r\n\
             x-client-cert-serial: {serial}\r\nx-client-cert-fingerprint: {}\r\n",
            STANDARD.encode(der),
            names.fingerprint
        );
        if !san.is_empty() {
            let _ = write!(lines, "x-client-cert-san: {san}\r\n");
        }
        Self { certificate: Some(certificate), lines }
    }

    /// What routes ask about; `None`: no certificate was shown.
    pub(crate) fn names(&self) -> Option<&CertificateNames> {
        self.certificate.as_ref().map(|certificate| &certificate.names)
    }

    /// For the access log.
    pub(crate) fn certificate(&self) -> Option<&ClientCertificate> {
        self.certificate.as_ref()
    }

    /// Appends the fields for an endpoint but those that `touched` names: they are the route's business.
    pub(crate) fn write(
        &self,
        edits: &HeaderEdits,
        touched: impl Fn(&str) -> bool,
        out: &mut Vec<u8>,
    ) {
        if edits.set.is_empty() && edits.remove.is_empty() {
            return out.extend_from_slice(self.lines.as_bytes());
        }
        for line in self.lines.split_inclusive("\r\n") {
            let name = line.split(':').next().unwrap_or_default();
            if !touched(name) {
                out.extend_from_slice(line.as_bytes());
            }
        }
    }
}

/// Whether a field says, to some endpoint, who a client is: `Client-Cert`, `Client-Cert-Chain` (RFC 9440), and whatever
/// begins with `X-Client-Cert`. Many programs take `_` for `-`, so it counts as one.
pub(crate) fn is_claim(name: &str) -> bool {
    let is = |start: &[u8]| {
        name.as_bytes().get(..start.len()).is_some_and(|given| {
            let same = |(a, b): (&u8, &u8)| match *a {
                b'_' => *b == b'-',
                a => a.to_ascii_lowercase() == *b,
            };
            given.iter().zip(start).all(same)
        })
    };
    match name.as_bytes().first() {
        Some(b'c' | b'C') => {
            is(b"client-cert") && matches!(name.as_bytes().get(11), None | Some(b'-' | b'_'))
        }
        Some(b'x' | b'X') => is(b"x-client-cert"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_known_however_they_are_written() {
        for name in [
            "client-cert",
            "Client-Cert",
            "CLIENT_CERT",
            "client-cert-chain",
            "Client_Cert-Chain",
            "x-client-cert",
            "X-Client-Cert-Verified",
            "x_client_cert_subject",
            "X_CLIENT-CERT_SAN",
            "x-client-certificate",
        ] {
            assert!(is_claim(name), "{name}");
        }
        for name in
            ["client", "client-certain", "client-ce", "x-client", "x-client-id", "cookie", ""]
        {
            assert!(!is_claim(name), "{name}");
        }
    }

    #[test]
    fn what_a_route_touches_is_its_own_business() {
        let certificate = ClientCertificate {
            subject: "CN=a".into(),
            san: String::new(),
            serial: "01".into(),
            names: CertificateNames { fingerprint: "ab".into(), ..CertificateNames::default() },
        };
        let shown = Shown::verified(certificate, b"der");
        let written = |remove: &[&str]| {
            let mut out = Vec::new();
            let edits = HeaderEdits {
                remove: remove.iter().map(|name| (*name).to_owned()).collect(),
                ..HeaderEdits::default()
            };
            shown.write(&edits, |name| remove.contains(&name), &mut out);
            String::from_utf8(out).expect("text")
        };
        let all = "client-cert: :ZGVy:\r\nx-client-cert-verified: true\r\n\
                   x-client-cert-subject: CN=a\r\nx-client-cert-serial: 01\r\n\
                   x-client-cert-fingerprint: ab\r\n";
        assert_eq!(written(&[]), all);
        assert_eq!(written(&["client-cert"]), all.trim_start_matches("client-cert: :ZGVy:\r\n"));
        assert_eq!(written(&["x-other"]), all);
    }
}
