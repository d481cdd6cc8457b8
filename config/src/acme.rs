//! `[acme]`: certificates that an authority issues to this edge by itself (RFC 8555). Types only; `resolve` builds them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::record::WebhookUrl;
use crate::resolve::read_token;

/// `[acme]`
#[derive(Clone, Debug, PartialEq)]
pub struct Acme {
    /// Where the authority's directory is; always https.
    pub directory: WebhookUrl,
    /// Mail addresses that the authority may write to.
    pub contact: Vec<String>,
    /// How this edge proves that a domain is its own, best first; never empty.
    pub challenges: Vec<AcmeChallenge>,
    /// PEM: the roots that the directory's own certificate must lead to; absolute. `None`: the system's.
    pub ca: Option<PathBuf>,
    /// The customer that a new account belongs to (RFC 8555 section 7.3.4).
    pub external_account: Option<ExternalAccount>,
    /// So long before it expires a certificate is renewed; `None`: when a third of its lifetime is left.
    pub renew_before: Option<Duration>,
    /// After the first failure, then three times as long each time, at most an hour.
    pub backoff: Duration,
    /// What is asked for. Not static.
    pub certificates: Vec<AcmeCertificate>,
}

/// `[[acme.certificates]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeCertificate {
    /// In lower case, each once and in one certificate only; never empty.
    pub domains: Vec<String>,
}

impl AcmeCertificate {
    /// What logs and metrics call it: its first domain.
    pub fn name(&self) -> &str {
        self.domains.first().map_or("", String::as_str)
    }
}

/// How a domain is proved to be this edge's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcmeChallenge {
    /// A request in the clear on port 80 (RFC 8555 section 8.3).
    Http01,
    /// A handshake on port 443 (RFC 8737).
    TlsAlpn01,
}

impl AcmeChallenge {
    /// As the file, and the authority, write it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
        }
    }
}

/// A customer of the authority, and the key that proves it. The key was read from its file when the configuration was.
#[derive(Clone, PartialEq)]
pub struct ExternalAccount {
    /// What the authority calls the key.
    pub key_id: String,
    /// The same as the file writes it, if it names environment variables.
    pub key_id_as_written: Option<String>,
    /// Where the key was read from; absolute.
    pub hmac_key_file: PathBuf,
    /// In base64, of either alphabet, with or without padding; never empty. Never printed.
    pub hmac_key: String,
}

impl ExternalAccount {
    /// The same with the key that the file holds now. Blocks.
    ///
    /// # Errors
    /// In words, without anything of the key: the file cannot be read, or holds no key in base64.
    pub fn read_again(&self) -> Result<Self, String> {
        Ok(Self { hmac_key: read_key(&self.hmac_key_file)?, ..self.clone() })
    }
}

/// A key in base64.
pub(crate) fn read_key(file: &Path) -> Result<String, String> {
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"-_+/=".contains(&byte);
    let key = read_token(file).map_err(|why| format!("{}: {why}", file.display()))?;
    match key.bytes().all(base64) {
        true => Ok(key),
        false => Err(format!("{}: does not hold a key in base64", file.display())),
    }
}

impl fmt::Debug for ExternalAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExternalAccount({:?})", self.hmac_key_file)
    }
}
