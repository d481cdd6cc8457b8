//! What routing may know of a client's certificate.

use std::net::IpAddr;

use meridian_config::{CertificateMatch, HostPattern, SanPattern};

/// The names in a certificate that was verified, each kind by itself, and its fingerprint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateNames {
    /// In lower case.
    pub hosts: Vec<String>,
    /// As they stand there.
    pub uris: Vec<String>,
    /// As they stand there.
    pub emails: Vec<String>,
    /// IPv4 and IPv6.
    pub addresses: Vec<IpAddr>,
    /// SHA-256 of the certificate, 64 hexadecimal digits in lower case.
    pub fingerprint: String,
}

impl CertificateNames {
    /// Whether it is what a route asks for.
    pub fn fits(&self, wanted: &CertificateMatch) -> bool {
        let CertificateMatch { san, fingerprint } = wanted;
        (san.is_empty() || san.iter().any(|pattern| self.has(pattern)))
            && (fingerprint.is_empty() || fingerprint.contains(&self.fingerprint))
    }

    fn has(&self, pattern: &SanPattern) -> bool {
        match pattern {
            SanPattern::Host(HostPattern::Exact(wanted)) => self.hosts.contains(wanted),
            SanPattern::Host(HostPattern::Suffix(suffix)) => self.hosts.iter().any(|host| {
                let before = host.strip_suffix(suffix.as_str());
                before.and_then(|rest| rest.strip_suffix('.')).is_some_and(|rest| !rest.is_empty())
            }),
            SanPattern::Uri(wanted) => self.uris.contains(wanted),
            SanPattern::UriPrefix(start) => self.uris.iter().any(|uri| uri.starts_with(start)),
            SanPattern::Email(wanted) => self.emails.contains(wanted),
            SanPattern::Address(wanted) => self.addresses.contains(wanted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_kind_never_pass_for_another() {
        let names = CertificateNames {
            hosts: vec!["a.internal".into(), "x.y.internal".into()],
            uris: vec!["spiffe://org/ns/shop".into(), "x://evil.example/.internal".into()],
            emails: vec!["ops@b.internal".into()],
            addresses: vec![IpAddr::from([192, 0, 2, 1])],
            fingerprint: "ab".repeat(32),
        };
        let host = |text: &str| SanPattern::Host(HostPattern::Exact(text.into()));
        let suffix = |text: &str| SanPattern::Host(HostPattern::Suffix(text.into()));
        let uri = |text: &str| SanPattern::Uri(text.into());
        for (pattern, expected) in [
            (host("a.internal"), true),
            (host("b.internal"), false),
            (host("ops@b.internal"), false),
            (host("192.0.2.1"), false),
            (suffix("internal"), true),
            (suffix("y.internal"), true),
            (suffix("x.y.internal"), false),
            (suffix("example"), false),
            (suffix("nal"), false),
            (uri("spiffe://org/ns/shop"), true),
            (uri("spiffe://org/ns"), false),
            (SanPattern::UriPrefix("spiffe://org/ns/".into()), true),
            (SanPattern::UriPrefix("spiffe://org/other/".into()), false),
            (SanPattern::Email("ops@b.internal".into()), true),
            (SanPattern::Email("ops@c.internal".into()), false),
            (SanPattern::Address(IpAddr::from([192, 0, 2, 1])), true),
            (SanPattern::Address(IpAddr::from([192, 0, 2, 2])), false),
        ] {
            let wanted = CertificateMatch { san: vec![pattern], fingerprint: vec![] };
            assert_eq!(names.fits(&wanted), expected, "{wanted:?}");
        }
        assert!(names.fits(&CertificateMatch::default()));
        let by_print = |print: &str, san: &[SanPattern]| {
            names.fits(&CertificateMatch { san: san.to_vec(), fingerprint: vec![print.repeat(32)] })
        };
        assert!(by_print("ab", &[]) && !by_print("ac", &[]));
        assert!(by_print("ab", &[host("a.internal")]) && !by_print("ab", &[host("b.internal")]));
        assert!(
            !CertificateNames::default()
                .fits(&CertificateMatch { san: vec![suffix("internal")], fingerprint: vec![] })
        );
    }
}
