//! What the files of all certificates hold at one moment.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use meridian_config::{
    CertificateFiles, ClientAuth, Config, Fingerprint, ListenerName, ListenerTls, Service, TlsFiles,
};
use rustls::pki_types::CertificateDer;

/// A larger file is not a certificate or a key.
const MAX_FILE: u64 = 1 << 20;
/// And this the largest of a revocation list: its signature is verified over all of it in every handshake that it
/// judges.
const MAX_LIST: u64 = 4 << 20;

/// What the files hold, or why they cannot be read.
pub(crate) struct Snapshot {
    pub(super) listeners: Vec<ListenerFiles>,
    pub(super) services: Vec<ServiceFiles>,
    /// The system's, if a service goes by them.
    pub(super) system_roots: Vec<CertificateDer<'static>>,
    fingerprint: Fingerprint,
}

/// The files that TLS to endpoints goes by.
pub(super) struct ServiceFiles {
    /// Of the first service that names them, such as `services[1].tls`.
    pub(super) path: String,
    /// [`meridian_config::TlsFiles::id`]
    pub(super) id: Fingerprint,
    /// The file of roots and what it holds; `None`: the system's roots.
    pub(super) ca: Option<(PathBuf, Result<Vec<u8>, String>)>,
    pub(super) client: Option<Pair>,
    /// Of all that they hold.
    pub(super) content: Fingerprint,
}

/// The files of one listener.
pub(super) struct ListenerFiles {
    pub(super) name: ListenerName,
    pub(super) pairs: Vec<Pair>,
    pub(super) client_ca: Option<ClientCa>,
    pub(super) ticket_keys: Vec<TicketFile>,
}

/// A file of keys of session tickets.
pub(super) struct TicketFile {
    /// Such as `listeners[1].tls.session_ticket_keys[0]`.
    pub(super) path: String,
    pub(super) file: PathBuf,
    pub(super) content: Result<Vec<u8>, String>,
}

/// The file of `client_ca`, where clients are asked.
pub(super) struct ClientCa {
    /// Such as `listeners[1].tls.client_ca`.
    pub(super) path: String,
    pub(super) file: PathBuf,
    pub(super) auth: ClientAuth,
    pub(super) content: Result<Vec<u8>, String>,
    pub(super) lists: Vec<RevocationFile>,
}

/// A file of `client_crl`.
pub(super) struct RevocationFile {
    /// Such as `listeners[1].tls.client_crl[0]`.
    pub(super) path: String,
    pub(super) file: PathBuf,
    pub(super) content: Result<Vec<u8>, String>,
}

/// The files of one certificate.
pub(super) struct Pair {
    /// Such as `listeners[1].tls.certificates[0]`.
    pub(super) path: String,
    pub(super) files: CertificateFiles,
    pub(super) certificate: Result<Vec<u8>, String>,
    pub(super) private_key: Result<Vec<u8>, String>,
    pub(super) ocsp: Option<Result<Vec<u8>, String>>,
}

impl Snapshot {
    /// Reads all certificate files that a configuration names. Blocks.
    pub(crate) fn take(config: &Config) -> Self {
        let mut listeners = Vec::new();
        for (index, listener) in config.listeners.iter().enumerate() {
            let Some(tls) = &listener.tls else { continue };
            let pairs = tls.certificates.iter().enumerate().map(|(number, files)| {
                Pair::read(format!("listeners[{index}].tls.certificates[{number}]"), files)
            });
            let client_ca = tls.client_ca.as_ref().filter(|_| tls.client_auth != ClientAuth::Off);
            let keys = tls.session_ticket_keys.iter().filter(|_| tls.session_tickets).enumerate();
            let ticket_keys = keys.map(|(number, file)| TicketFile {
                path: format!("listeners[{index}].tls.session_ticket_keys[{number}]"),
                file: file.clone(),
                content: read(file),
            });
            listeners.push(ListenerFiles {
                name: listener.name.clone(),
                pairs: pairs.collect(),
                client_ca: client_ca.map(|file| ClientCa::read(index, file, tls)),
                ticket_keys: ticket_keys.collect(),
            });
        }
        let asks =
            |service: &Arc<Service>| service.tls.as_ref().is_some_and(|tls| tls.files.ca.is_none());
        let system_roots = if config.services.iter().any(asks) {
            // Systems carry roots that nobody can read any more; the others count.
            rustls_native_certs::load_native_certs().certs
        } else {
            Vec::new()
        };
        let system = Fingerprint::of(
            &system_roots.iter().flat_map(|root| root.iter().copied()).collect::<Vec<_>>(),
        );
        let mut services: Vec<ServiceFiles> = Vec::new();
        for (index, service) in config.services.iter().enumerate() {
            let Some(tls) = &service.tls else { continue };
            if !services.iter().any(|known| known.id == tls.files.id) {
                services.push(ServiceFiles::read(index, &tls.files, system));
            }
        }
        let fingerprint = fingerprint(&listeners, &services);
        Self { listeners, services, system_roots, fingerprint }
    }

    /// Two snapshots with the same one hold the same; it covers the files' names as well.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

impl ClientCa {
    fn read(index: usize, file: &Path, tls: &ListenerTls) -> Self {
        let lists = tls.client_crl.iter().enumerate().map(|(number, file)| RevocationFile {
            path: format!("listeners[{index}].tls.client_crl[{number}]"),
            file: file.clone(),
            content: read_at_most(file, MAX_LIST),
        });
        Self {
            path: format!("listeners[{index}].tls.client_ca"),
            file: file.to_owned(),
            auth: tls.client_auth,
            content: read(file),
            lists: lists.collect(),
        }
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        let lists = self.lists.iter().map(|list| line(&list.file, &list.content));
        std::iter::once(line(&self.file, &self.content)).chain(lists)
    }
}

impl Pair {
    fn read(path: String, files: &CertificateFiles) -> Self {
        let certificate = read(&files.certificate);
        let private_key = read(&files.private_key);
        let ocsp = files.ocsp.as_deref().map(read);
        Self { path, files: files.clone(), certificate, private_key, ocsp }
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        let Self { files, certificate, private_key, ocsp, .. } = self;
        let pair = [line(&files.certificate, certificate), line(&files.private_key, private_key)];
        let ocsp = files.ocsp.as_deref().zip(ocsp.as_ref());
        pair.into_iter().chain(ocsp.map(|(file, content)| line(file, content)))
    }
}

impl ServiceFiles {
    fn read(index: usize, files: &TlsFiles, system: Fingerprint) -> Self {
        let path = format!("services[{index}].tls");
        let ca = files.ca.as_ref().map(|file| (file.clone(), read(file)));
        let client = files.client.as_ref().map(|files| Pair::read(path.clone(), files));
        let mut lines = match &ca {
            Some((file, content)) => line(file, content),
            None => format!("{system}\n"),
        };
        lines.extend(client.iter().flat_map(Pair::lines));
        Self { path, id: files.id, ca, client, content: Fingerprint::of(lines.as_bytes()) }
    }
}

/// A file's name and what it holds, or why that is not known.
fn line(file: &Path, content: &Result<Vec<u8>, String>) -> String {
    let content = content.as_deref().map(Fingerprint::of);
    let content = content.map_or_else(|error| error.clone(), |hash| hash.to_string());
    format!("{file:?} {content}\n")
}

fn fingerprint(listeners: &[ListenerFiles], services: &[ServiceFiles]) -> Fingerprint {
    let mut lines = String::new();
    for ListenerFiles { name, pairs, client_ca, ticket_keys } in listeners {
        lines.push_str(&format!("{name}\n"));
        lines.extend(pairs.iter().flat_map(Pair::lines));
        lines.extend(client_ca.iter().flat_map(ClientCa::lines));
        lines.extend(ticket_keys.iter().map(|keys| line(&keys.file, &keys.content)));
    }
    for service in services {
        lines.push_str(&format!("{} {}\n", service.id, service.content));
    }
    Fingerprint::of(lines.as_bytes())
}

/// Reads a whole regular file. A pipe would keep us waiting for ever.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    read_at_most(path, MAX_FILE)
}

fn read_at_most(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let unreadable = |error| format!("cannot be read: {error}");
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err("is not a regular file".into());
    }
    let mut content = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(most + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > most {
        return Err(format!("is longer than {} MiB", most >> 20));
    }
    Ok(content)
}
