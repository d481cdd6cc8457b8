//! What the files of all certificates hold at one moment.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use meridian_config::{CertificateFiles, ClientAuth, Config, Fingerprint, ListenerName};

/// A larger file is not a certificate or a key.
const MAX_FILE: u64 = 1 << 20;

/// What the files hold, or why they cannot be read.
pub(crate) struct Snapshot {
    pub(super) listeners: Vec<ListenerFiles>,
    fingerprint: Fingerprint,
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
            let pairs = tls.certificates.iter().enumerate().map(|(number, files)| Pair {
                path: format!("listeners[{index}].tls.certificates[{number}]"),
                files: files.clone(),
                certificate: read(&files.certificate),
                private_key: read(&files.private_key),
                ocsp: files.ocsp.as_deref().map(read),
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
                client_ca: client_ca.map(|file| ClientCa {
                    path: format!("listeners[{index}].tls.client_ca"),
                    file: file.clone(),
                    auth: tls.client_auth,
                    content: read(file),
                }),
                ticket_keys: ticket_keys.collect(),
            });
        }
        let fingerprint = fingerprint(&listeners);
        Self { listeners, fingerprint }
    }

    /// Two snapshots with the same one hold the same; it covers the files' names as well.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

fn fingerprint(listeners: &[ListenerFiles]) -> Fingerprint {
    let mut lines = String::new();
    for ListenerFiles { name, pairs, client_ca, ticket_keys } in listeners {
        lines.push_str(&format!("{name}\n"));
        let pairs = pairs.iter().flat_map(|pair| {
            let own = [
                (&pair.files.certificate, &pair.certificate),
                (&pair.files.private_key, &pair.private_key),
            ];
            own.into_iter().chain(pair.files.ocsp.as_ref().zip(pair.ocsp.as_ref()))
        });
        let client_ca = client_ca.as_ref().map(|ca| (&ca.file, &ca.content));
        let keys = ticket_keys.iter().map(|keys| (&keys.file, &keys.content));
        for (file, content) in pairs.chain(client_ca).chain(keys) {
            let content = content.as_deref().map(Fingerprint::of);
            let content = content.map_or_else(|error| error.clone(), |hash| hash.to_string());
            lines.push_str(&format!("{file:?} {content}\n"));
        }
    }
    Fingerprint::of(lines.as_bytes())
}

/// Reads a whole regular file. A pipe would keep us waiting for ever.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |error| format!("cannot be read: {error}");
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err("is not a regular file".into());
    }
    let mut content = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > MAX_FILE {
        return Err("is longer than 1 MiB".into());
    }
    Ok(content)
}
