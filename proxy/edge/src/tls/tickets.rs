//! Session tickets: with the keys of the files in force, else with keys that only this process has.

use std::fmt;
use std::sync::Arc;

use meridian_config::ListenerName;
use meridian_control::CertificateReader;
use rustls::Error;
use rustls::crypto::aws_lc_rs;
use rustls::server::ProducesTickets;

/// A listener's tickets. Those of before it had files go on opening.
pub(super) struct Tickets {
    listener: ListenerName,
    certificates: CertificateReader,
    own: Arc<dyn ProducesTickets>,
}

impl Tickets {
    /// # Errors
    /// There is no randomness for keys.
    pub(super) fn new(
        listener: ListenerName,
        certificates: CertificateReader,
    ) -> Result<Self, Error> {
        Ok(Self { listener, certificates, own: aws_lc_rs::Ticketer::new()? })
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.own.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let set = self.certificates.load();
        match set.listener(&self.listener).and_then(|of| of.tickets()) {
            Some(shared) => shared.encrypt(plain),
            None => self.own.encrypt(plain),
        }
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let set = self.certificates.load();
        let shared = set.listener(&self.listener).and_then(|of| of.tickets());
        shared.and_then(|keys| keys.decrypt(cipher)).or_else(|| self.own.decrypt(cipher))
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tickets({})", self.listener)
    }
}
