//! One order, from the request for a certificate to the certificate: a straight line.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationHandle, AuthorizationStatus, ChallengeType, Identifier, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use meridian_config::{AcmeCertificate, AcmeChallenge};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use tokio::sync::{mpsc, oneshot};

use super::challenge::{Answer, Challenge};
use super::failure::{Failure, words_of};
use super::office::SharedOffice;
use super::store::StoredCertificate;

/// An authority may take so long to look, and so long to issue.
const PATIENCE: Duration = Duration::from_secs(180);

/// A challenge to be answered from now on; the sender hears when it is.
pub(super) type Notice = (Challenge, oneshot::Sender<()>);

/// What an order is about.
pub(super) struct Errand {
    /// Tells it from other orders of this process.
    pub(super) number: u64,
    pub(super) wanted: AcmeCertificate,
    pub(super) office: SharedOffice,
    /// Failures so far: the next kind of challenge is tried after each.
    pub(super) failures: u32,
    pub(super) notices: mpsc::Sender<Notice>,
}

impl Errand {
    /// Runs the order to its end.
    pub(super) async fn run(self) -> Result<StoredCertificate, Failure> {
        let account = self.office.account().await?;
        match self.order(&account).await {
            Err(failure) if failure.account_gone => {
                tracing::warn!(target: "acme", error = failure.words, "a new account is made");
                self.order(&self.office.anew(&account).await?).await
            }
            result => result,
        }
    }

    async fn order(&self, account: &Account) -> Result<StoredCertificate, Failure> {
        let failed = |what: &'static str| move |error| Failure::of(what, &error);
        let domains = &self.wanted.domains;
        let identifiers: Vec<_> = domains.iter().cloned().map(Identifier::Dns).collect();
        let order = account.new_order(&NewOrder::new(&identifiers)).await;
        let mut order = order.map_err(failed("new order"))?;
        let asked = self.prove(&mut order).await?;
        let poll = RetryPolicy::new().backoff(1.5).timeout(PATIENCE);
        match order.poll_ready(&poll).await {
            Ok(OrderStatus::Ready) => {}
            Ok(_) => return Err(refused(&mut order, "", &asked).await),
            Err(instant_acme::Error::Api(problem)) => {
                return Err(refused(&mut order, &words_of(&problem), &asked).await);
            }
            Err(error) => return Err(Failure::of("order", &error)),
        }
        let (key, request) = request(domains).map_err(Failure::own)?;
        order.finalize_csr(&request).await.map_err(failed("request for the certificate"))?;
        let certificate = order.poll_certificate(&poll).await.map_err(failed("certificate"))?;
        Ok(StoredCertificate {
            directory: self.office.directory.clone(),
            domains: domains.clone(),
            certificate,
            private_key: key,
        })
    }

    /// Has every challenge answered, then tells the authority to look. How often somebody asked is counted in what comes
    /// back.
    async fn prove(&self, order: &mut Order) -> Result<Arc<AtomicU64>, Failure> {
        let asked = Arc::new(AtomicU64::new(0));
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let authorization =
                authorization.map_err(|error| Failure::of("authorization", &error))?;
            match authorization.status {
                AuthorizationStatus::Pending => self.answer(authorization, &asked).await?,
                // Proved a while ago.
                AuthorizationStatus::Valid => {}
                status => {
                    let domain = authorization.identifier().to_string();
                    return Err(Failure::own(format!("authorization of {domain}: {status:?}")));
                }
            }
        }
        Ok(asked)
    }

    async fn answer(
        &self,
        mut authorization: AuthorizationHandle<'_>,
        asked: &Arc<AtomicU64>,
    ) -> Result<(), Failure> {
        let domain = authorization.identifier().to_string();
        let offered = |kind: &AcmeChallenge| {
            authorization.challenges.iter().any(|challenge| challenge.r#type == type_of(*kind))
        };
        let known = &self.office.settings.challenges;
        let turn = self.failures as usize % known.len().max(1);
        let kind = known.iter().cycle().skip(turn).take(known.len()).copied().find(offered);
        let kind = kind.ok_or_else(|| {
            Failure::own(format!("{domain}: the authority offers none of acme.challenges"))
        })?;
        let Some(mut challenge) = authorization.challenge(type_of(kind)) else {
            return Err(Failure::own(format!("{domain}: the challenge has gone")));
        };
        let authorized = challenge.key_authorization();
        let answer = match kind {
            AcmeChallenge::Http01 => {
                Answer::Http { token: challenge.token.clone(), text: authorized.as_str().into() }
            }
            AcmeChallenge::TlsAlpn01 => {
                Answer::tls(&domain, authorized.digest().as_ref()).map_err(Failure::own)?
            }
        };
        self.post(Challenge { order: self.number, answer, asked: asked.clone() }).await?;
        tracing::debug!(target: "acme", domain, challenge = kind.label(), "a challenge is answered");
        let ready = challenge.set_ready().await;
        ready.map_err(|error| Failure::of(&format!("challenge of {domain}"), &error))
    }

    /// Waits until the challenge is answered.
    async fn post(&self, challenge: Challenge) -> Result<(), Failure> {
        let (done, posted) = oneshot::channel();
        let stopping = || Failure::own("the edge is stopping");
        self.notices.send((challenge, done)).await.map_err(|_| stopping())?;
        posted.await.map_err(|_| stopping())
    }
}

fn type_of(kind: AcmeChallenge) -> ChallengeType {
    match kind {
        AcmeChallenge::Http01 => ChallengeType::Http01,
        AcmeChallenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

/// Why an order is invalid: its authorizations say it.
async fn refused(order: &mut Order, words: &str, asked: &AtomicU64) -> Failure {
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(authorization)) = authorizations.next().await {
        let domain = authorization.identifier().to_string();
        for challenge in &authorization.challenges {
            if let Some(problem) = &challenge.error {
                let kind = match challenge.r#type {
                    ChallengeType::Http01 => "http-01",
                    ChallengeType::TlsAlpn01 => "tls-alpn-01",
                    _ => "another challenge",
                };
                reasons.push(format!("{domain}: {kind}: {}", words_of(problem)));
            }
        }
    }
    if reasons.is_empty() {
        reasons.push(match words {
            "" => "the authority refused the order".to_owned(),
            words => words.to_owned(),
        });
    }
    if asked.load(Relaxed) == 0 {
        reasons.push("nobody asked this edge for the challenge".into());
    }
    Failure::own(reasons.join("; "))
}

/// A new key, in PEM, and the request for a certificate of it, in DER.
fn request(domains: &[String]) -> Result<(String, Vec<u8>), String> {
    let words = |error: rcgen::Error| error.to_string();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(words)?;
    let mut params = CertificateParams::new(domains.to_vec()).map_err(words)?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(words)?;
    Ok((key.serialize_pem(), request.der().to_vec()))
}
