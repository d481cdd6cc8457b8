//! From the files' contents to certificates that a handshake can use.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{Error, InconsistentKeys, RootCertStore};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::client::{self, ClientVerifier};
use super::endpoints::EndpointTls;
use super::load::{ClientCa, ListenerFiles, Pair, ServiceFiles, Snapshot, TicketFile};
use super::ocsp::{self, Staple};
use super::revocation;
use super::set::{ByFiles, Certificate, CertificateSet, ListenerCertificates, Stapled};
use super::tickets::{TicketKeys, keys};
use super::{CertificateErrors, CertificateFinding};

/// Certificates that may be used.
pub(crate) struct Verified {
    pub(crate) set: CertificateSet,
    /// What is odd about them.
    pub(crate) warnings: Vec<CertificateFinding>,
}

#[derive(Default)]
struct Findings {
    errors: Vec<CertificateFinding>,
    warnings: Vec<CertificateFinding>,
}

impl Snapshot {
    /// Makes certificates of what was read. Takes a while for thousands of them.
    ///
    /// # Errors
    /// Something is wrong; with everything that is.
    pub(crate) fn verify(&self, unix_s: i64) -> Result<Verified, CertificateErrors> {
        let mut found = Findings::default();
        let mut listeners = Vec::with_capacity(self.listeners.len());
        for ListenerFiles { name, pairs, client_ca, ticket_keys } in &self.listeners {
            let pair = |pair| found.pair(pair, Role::Server, unix_s).map(Arc::new);
            let certificates = pairs.iter().filter_map(pair).collect();
            let clients = client_ca.as_ref().and_then(|ca| found.client_ca(ca, unix_s));
            let tickets = found.tickets(ticket_keys);
            let of = ListenerCertificates::new(certificates, clients, tickets);
            listeners.push((name.clone(), of));
        }
        let mut endpoints = ByFiles::default();
        for files in &self.services {
            let tls = found.endpoints(files, &self.system_roots, unix_s);
            endpoints.extend(tls.map(|tls| (files.id, Arc::new(tls))));
        }
        let Findings { errors, warnings } = found;
        if !errors.is_empty() {
            return Err(CertificateErrors(errors));
        }
        Ok(Verified { set: CertificateSet::new(listeners, endpoints), warnings })
    }
}

/// A certificate that no file of the configuration names.
pub(crate) struct Issued {
    pub(crate) certificate: Certificate,
    /// When its time begins; Unix time in seconds.
    pub(crate) not_before_unix_s: i64,
}

/// Makes a certificate of a chain and its key, both in PEM.
///
/// # Errors
/// In words, with nothing of the key: they cannot be used, or do not belong together.
pub(crate) fn issued(chain_pem: &[u8], key_pem: &[u8]) -> Result<Issued, String> {
    let chain = chain(chain_pem).map_err(|why| format!("the certificate {why}"))?;
    let facts = Facts::of(&chain)?;
    let key = signing_key(key_pem).map_err(|why| format!("its key {why}"))?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|error| format!("the certificate cannot be used: {error}"))?;
    let certificate = Certificate {
        label: facts.hosts.first().cloned().unwrap_or_default(),
        hosts: facts.hosts,
        not_after_unix_s: facts.not_after.0,
        staple: None,
        key: Arc::new(certified),
    };
    Ok(Issued { certificate, not_before_unix_s: facts.not_before.0 })
}

/// Who is shown a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Clients are shown a server's.
    Server,
    /// Endpoints are shown a client's.
    Client,
}

impl Findings {
    /// What verifies clients' certificates, or `None` after an error.
    fn client_ca(&mut self, ca: &ClientCa, unix_s: i64) -> Option<ClientVerifier> {
        let finding = |path: &str, file: &Path, message: String| CertificateFinding {
            path: path.to_owned(),
            message: format!("{}: {message}", file.display()),
        };
        let (mut lists, errors) = (Vec::new(), self.errors.len());
        for of in &ca.lists {
            let content = of.content.as_deref().map_err(Clone::clone);
            match content.and_then(revocation::lists) {
                Ok(found) => lists.extend(found.into_iter().map(|list| (of, list))),
                Err(message) => self.errors.push(finding(&of.path, &of.file, message)),
            }
        }
        let broken = self.errors.len() > errors;
        let (lists, mut told) = revocation::newest(lists);
        told.extend(lists.iter().filter_map(|(of, list)| Some((*of, list.lateness(unix_s)?))));
        self.warnings.extend(told.into_iter().map(|(of, why)| finding(&of.path, &of.file, why)));
        let of_ca = |message| finding(&ca.path, &ca.file, message);
        let content = ca.content.as_deref().map_err(Clone::clone);
        let roots = content.and_then(|content| client::roots(content, unix_s));
        let (roots, mut odd) = roots.map_err(|why| self.errors.push(of_ca(why))).ok()?;
        if broken {
            return None;
        }
        if !ca.lists.is_empty() {
            odd.extend(revocation::uncovered(&roots, lists.iter().map(|(_, list)| list)));
        }
        self.warnings.extend(odd.into_iter().map(of_ca));
        let lists = lists.into_iter().map(|(_, list)| list).collect();
        let made = client::verifier(roots, lists, ca.auth);
        made.map_err(|why| self.errors.push(of_ca(why))).ok()
    }

    /// The keys of session tickets; `None` without files, or after an error.
    fn tickets(&mut self, files: &[TicketFile]) -> Option<Arc<TicketKeys>> {
        let first = files.first()?;
        let errors = self.errors.len();
        let mut error = |of: &TicketFile, message: String| {
            let message = format!("{}: {message}", of.file.display());
            self.errors.push(CertificateFinding { path: of.path.clone(), message });
        };
        let mut all = Vec::with_capacity(files.len());
        for of in files {
            let content = of.content.as_deref().map_err(Clone::clone);
            match content.and_then(keys) {
                Ok(keys) => all.push(keys),
                Err(message) => error(of, message),
            }
        }
        let made = TicketKeys::new(all);
        match made {
            Ok(keys) if self.errors.len() == errors => Some(keys),
            // What is wrong with the files was told already.
            _ if self.errors.len() > errors => None,
            Ok(_) => None,
            Err(message) => {
                let message = format!("{}: {message}", first.file.display());
                self.errors.push(CertificateFinding { path: first.path.clone(), message });
                None
            }
        }
    }

    /// A certificate with what its authority says of it, if that may be shown.
    fn staple(&mut self, pair: &Pair, certified: &CertifiedKey, unix_s: i64) -> Option<Stapled> {
        let (content, file) = (pair.ocsp.as_ref()?, pair.files.ocsp.as_deref()?);
        let finding = |message: String| CertificateFinding {
            path: format!("{}.ocsp", pair.path),
            message: format!("{}: {message}", file.display()),
        };
        let looked = content.as_deref().map_err(Clone::clone).and_then(|response| {
            let found = ocsp::of_chain(response, &certified.cert, unix_s)?;
            Ok((response, found))
        });
        match looked {
            Ok((response, Staple::Good(until))) => {
                return Some(Stapled::new(certified, response.to_vec(), until));
            }
            Ok((_, Staple::Useless(why))) => {
                self.warnings.push(finding(format!("{why}: it is not shown")));
            }
            Err(message) => self.errors.push(finding(message)),
        }
        None
    }

    /// What TLS to endpoints goes by, or `None` after an error.
    fn endpoints(
        &mut self,
        files: &ServiceFiles,
        system_roots: &[CertificateDer<'static>],
        unix_s: i64,
    ) -> Option<EndpointTls> {
        let roots = match &files.ca {
            Some((file, content)) => {
                let content = content.as_deref().map_err(Clone::clone);
                content.and_then(roots).map_err(|why| format!("{}: {why}", file.display()))
            }
            None => Ok(system_roots_of(system_roots)),
        };
        let roots = roots.and_then(|roots| match roots.is_empty() {
            true => Err("this system has no root certificates: name some".to_owned()),
            false => Ok(roots),
        });
        let fault = |message| CertificateFinding { path: format!("{}.ca", files.path), message };
        let roots = roots.map_err(|why| self.errors.push(fault(why))).ok();
        let client = match &files.client {
            Some(pair) => Some(self.pair(pair, Role::Client, unix_s)?),
            None => None,
        };
        let client = client.map(|certificate| CertifiedKey::clone(&certificate.key));
        let tls = EndpointTls::new(roots?, client, files.content);
        tls.map_err(|error| self.errors.push(fault(error.to_string()))).ok()
    }

    /// A certificate with its key, or `None` after an error.
    fn pair(&mut self, pair: &Pair, role: Role, unix_s: i64) -> Option<Certificate> {
        let files = &pair.files;
        let finding = |key: &str, file: &Path, message: String| CertificateFinding {
            path: format!("{}.{key}", pair.path),
            message: format!("{}: {message}", file.display()),
        };
        let of_certificate = |message| finding("certificate", &files.certificate, message);
        let of_key = |message| finding("private_key", &files.private_key, message);

        let content = pair.certificate.as_deref().map_err(Clone::clone);
        let read = content.and_then(chain).and_then(|chain| {
            let facts = Facts::of(&chain)?;
            Ok((chain, facts))
        });
        let read = read.map_err(|message| self.errors.push(of_certificate(message))).ok();
        let content = pair.private_key.as_deref().map_err(Clone::clone);
        let key = content.and_then(signing_key);
        let key = key.map_err(|message| self.errors.push(of_key(message))).ok();

        let ((chain, facts), key) = (read?, key?);
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) => {}
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                let certificate = files.certificate.display();
                self.errors.push(of_key(format!("does not belong to certificate {certificate}")));
                return None;
            }
            Err(error) => {
                self.errors.push(of_certificate(format!("cannot be used: {error}")));
                return None;
            }
        }
        let staple = self.staple(pair, &certified, unix_s);
        self.warnings.extend(facts.oddities(role, unix_s).into_iter().map(of_certificate));
        let file = files.certificate.file_name().unwrap_or_default();
        Some(Certificate {
            label: facts.hosts.first().cloned().unwrap_or_else(|| file.to_string_lossy().into()),
            hosts: facts.hosts,
            not_after_unix_s: facts.not_after.0,
            staple,
            key: Arc::new(certified),
        })
    }
}

/// What a chain says of itself.
struct Facts {
    /// In lower case.
    hosts: Vec<String>,
    addresses: Vec<IpAddr>,
    /// Unix time in seconds, and in words.
    not_before: (i64, String),
    not_after: (i64, String),
    /// The position of a certificate that did not sign the one before it.
    breaks_at: Option<usize>,
}

impl Facts {
    fn of(chain: &[CertificateDer<'_>]) -> Result<Self, String> {
        let mut parsed = Vec::with_capacity(chain.len());
        for (position, der) in chain.iter().enumerate() {
            let (rest, certificate) = X509Certificate::from_der(der)
                .map_err(|error| format!("certificate {} is broken: {error}", position + 1))?;
            if !rest.is_empty() {
                return Err(format!("certificate {} is broken: it goes on", position + 1));
            }
            parsed.push(certificate);
        }
        let leaf = parsed.first().ok_or("holds no certificate")?;
        let (hosts, addresses) = names(leaf)?;
        let validity = leaf.validity();
        let signed =
            |pair: &[X509Certificate<'_>]| pair[0].issuer().as_raw() == pair[1].subject().as_raw();
        let breaks_at = parsed.windows(2).position(|pair| !signed(pair));
        Ok(Self {
            hosts,
            addresses,
            not_before: (validity.not_before.timestamp(), validity.not_before.to_string()),
            not_after: (validity.not_after.timestamp(), validity.not_after.to_string()),
            breaks_at: breaks_at.map(|position| position + 1),
        })
    }

    fn oddities(&self, role: Role, unix_s: i64) -> Vec<String> {
        let mut oddities = Vec::new();
        if self.not_after.0 < unix_s {
            oddities.push(format!("has expired: it was valid until {}", self.not_after.1));
        }
        if self.not_before.0 > unix_s {
            oddities.push(format!("is not valid yet: it will be from {}", self.not_before.1));
        }
        if role == Role::Server && self.hosts.is_empty() && self.addresses.is_empty() {
            oddities.push("names no host (subjectAltName): clients will not accept it".into());
        }
        if let Some(position) = self.breaks_at {
            oddities.push(format!(
                "certificate {} did not issue the one before it: the chain is out of order",
                position + 1
            ));
        }
        oddities
    }
}

/// The roots that a PEM text holds.
fn roots(content: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for (position, certificate) in chain(content)?.into_iter().enumerate() {
        roots
            .add(certificate)
            .map_err(|error| format!("certificate {} cannot be used: {error}", position + 1))?;
    }
    Ok(roots)
}

fn system_roots_of(certificates: &[CertificateDer<'static>]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates.iter().cloned());
    roots
}

/// All certificates of a PEM text, the listener's own first.
pub(super) fn chain(content: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(content).collect();
    let chain = chain.map_err(not_pem)?;
    if chain.is_empty() {
        return Err("holds no certificate in PEM".into());
    }
    Ok(chain)
}

fn signing_key(content: &[u8]) -> Result<Arc<dyn SigningKey>, String> {
    let key = PrivateKeyDer::from_pem_slice(content).map_err(|error| {
        let encrypted = content.windows(9).any(|window| window == b"ENCRYPTED");
        match error {
            _ if encrypted => "is encrypted; a key without a passphrase is needed".to_owned(),
            pem::Error::NoItemsFound => "holds no private key in PEM".to_owned(),
            error => not_pem(error),
        }
    })?;
    any_supported_type(&key).map_err(|error| format!("cannot be used: {error}"))
}

/// The error's own words would show the line that it is about, and with it perhaps a part of a key.
pub(super) fn not_pem(error: pem::Error) -> String {
    let why = match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end",
        pem::Error::IllegalSectionStart { .. } => "the first line of a section is broken",
        pem::Error::Base64Decode(_) => "a section is not base64",
        _ => "it cannot be read",
    };
    format!("is not PEM: {why}")
}

/// The hosts, in lower case, and the addresses that a certificate is for.
fn names(certificate: &X509Certificate<'_>) -> Result<(Vec<String>, Vec<IpAddr>), String> {
    let names = certificate.subject_alternative_name();
    let names = names.map_err(|error| format!("subjectAltName is broken: {error}"))?;
    let (mut hosts, mut addresses) = (Vec::new(), Vec::new());
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::DNSName(host) => {
                let host = host.to_ascii_lowercase();
                if !hosts.contains(&host) {
                    hosts.push(host);
                }
            }
            GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
            _ => {}
        }
    }
    Ok((hosts, addresses))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}
