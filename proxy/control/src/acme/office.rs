//! The authority that is asked, and the account there: made once, kept, told of new contacts. Roots and directory are read
//! anew for every order, so that what was mended counts at once.

use std::sync::Arc;
use std::time::Instant;

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};
use meridian_config::{Acme, Fingerprint};
use tokio::sync::Mutex;

use super::directory::DirectoryClient;
use super::failure::Failure;
use super::store::{Store, StoredAccount};
use crate::roots::connector;

/// One for all orders under the same settings.
pub(super) struct Office {
    pub(super) settings: Acme,
    pub(super) directory: String,
    store: Store,
    /// Held while an account is looked for or made, so that two orders do not make two.
    desk: Arc<Mutex<Desk>>,
}

/// What is known of the account beside the disk.
#[derive(Default)]
struct Desk {
    /// What the authority was told, and the disk has not taken yet.
    unsaved: Option<Arc<StoredAccount>>,
    /// Why there was no account at the last look, and when that was over.
    failed: Option<(Instant, Failure)>,
}

/// The key of an external account, as its file holds it now; `None`: there is none. Blocks.
///
/// # Errors
/// In words, with the key of the configuration: it cannot be read, or is not base64.
pub(super) fn external_key(acme: &Acme) -> Result<Option<ExternalAccountKey>, String> {
    let Some(external) = &acme.external_account else { return Ok(None) };
    let told = |why: String| format!("external_account.hmac_key_file: {why}");
    let external = external.read_again().map_err(told)?;
    let lenient = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let either = [URL_SAFE, STANDARD].map(|alphabet| GeneralPurpose::new(&alphabet, lenient));
    let key = either.iter().find_map(|engine| engine.decode(&external.hmac_key).ok());
    let key = key.ok_or_else(|| told("does not hold a key in base64".into()))?;
    Ok(Some(ExternalAccountKey::new(external.key_id, &key)))
}

impl Office {
    /// After `before`, whose account may not be on the disk yet.
    pub(super) fn new(settings: Acme, store: Store, before: Option<&Self>) -> Self {
        let directory = settings.directory.to_string();
        let mut office = Self { settings, directory, store, desk: Arc::default() };
        let place = |office: &Self| (office.directory.clone(), office.key_id().to_owned());
        if let Some(before) = before.filter(|before| place(before) == place(&office)) {
            office.desk = before.desk.clone();
        }
        office
    }

    /// Whether orders go to the same place in the same way.
    pub(super) fn is_for(&self, acme: &Acme) -> bool {
        let same = Acme { certificates: self.settings.certificates.clone(), ..acme.clone() };
        self.settings == same
    }

    /// Tells these settings from others, without anything of a key.
    pub(super) fn settings_id(&self) -> String {
        let Acme { contact, challenges, ca, renew_before, backoff, .. } = &self.settings;
        let (directory, key_id) = (&self.directory, self.key_id());
        let all = format!(
            "{directory} {key_id:?} {contact:?} {challenges:?} {ca:?} {renew_before:?} {backoff:?}"
        );
        format!("{:.16}", Fingerprint::of(all.as_bytes()).to_string())
    }

    fn key_id(&self) -> &str {
        self.settings.external_account.as_ref().map_or("", |external| &external.key_id)
    }

    async fn client(&self) -> Result<Box<DirectoryClient>, Failure> {
        let ca = self.settings.ca.clone();
        let job = tokio::task::spawn_blocking(move || connector(ca.as_deref()));
        let made = job.await.unwrap_or_else(|error| Err(error.to_string()));
        made.map(|connector| Box::new(DirectoryClient::new(connector))).map_err(Failure::own)
    }

    /// The account: the one on the disk, else a new one. A failure is about all orders.
    pub(super) async fn account(&self) -> Result<Account, Failure> {
        self.look(None).await
    }

    /// The authority does not know the account that is `gone`: another one, made anew unless another order has done that.
    pub(super) async fn anew(&self, gone: &Account) -> Result<Account, Failure> {
        self.look(Some(gone.key_thumbprint())).await
    }

    async fn look(&self, gone: Option<&str>) -> Result<Account, Failure> {
        let begun = Instant::now();
        let mut desk = self.desk.lock().await;
        // Whoever has waited for a look that failed does not ask once more.
        if let Some((_, failure)) = desk.failed.as_ref().filter(|(over, _)| *over >= begun) {
            return Err(failure.clone());
        }
        let found = self.find(&mut desk, gone).await.map_err(Failure::of_account);
        desk.failed = found.as_ref().err().map(|failure| (Instant::now(), failure.clone()));
        found
    }

    async fn find(&self, desk: &mut Desk, gone: Option<&str>) -> Result<Account, Failure> {
        self.save(desk).await?;
        let (store, directory) = (self.store.clone(), self.directory.clone());
        let key_id = self.key_id().to_owned();
        let job = tokio::task::spawn_blocking(move || store.account(&directory, &key_id));
        let stored = job.await.unwrap_or_else(|error| Err(error.to_string()));
        match stored.map_err(|why| Failure::own(format!("the account: {why}")))? {
            Some(stored) => match self.restored(desk, stored, gone).await {
                Ok(Some(account)) => Ok(account),
                Ok(None) => self.made(desk).await,
                Err(failure) if failure.account_gone => self.made(desk).await,
                Err(failure) => Err(failure),
            },
            None => self.made(desk).await,
        }
    }

    /// `None`: it is the one that is gone.
    async fn restored(
        &self,
        desk: &mut Desk,
        stored: StoredAccount,
        gone: Option<&str>,
    ) -> Result<Option<Account>, Failure> {
        let StoredAccount { contact, credentials } = stored;
        let builder = Account::builder_with_http(self.client().await?);
        let again = serde_json::to_value(&credentials).map_err(|e| Failure::own(e.to_string()))?;
        let account = builder.from_credentials(credentials).await;
        let account = account.map_err(|error| Failure::of("directory", &error))?;
        if gone == Some(account.key_thumbprint()) {
            return Ok(None);
        }
        if contact != self.settings.contact {
            let urls = self.contact_urls();
            let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
            let told = account.update_contacts(&urls).await;
            told.map_err(|error| Failure::of("contacts of the account", &error))?;
            let credentials =
                serde_json::from_value(again).map_err(|e| Failure::own(e.to_string()))?;
            self.keep(desk, credentials).await?;
            tracing::info!(target: "acme", directory = self.directory, "the contacts are others now");
        }
        Ok(Some(account))
    }

    async fn made(&self, desk: &mut Desk) -> Result<Account, Failure> {
        let settings = self.settings.clone();
        let external = tokio::task::spawn_blocking(move || external_key(&settings)).await;
        let external = external.unwrap_or_else(|error| Err(error.to_string()));
        let external = external.map_err(Failure::own)?;
        let urls = self.contact_urls();
        let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        let new = NewAccount {
            contact: &urls,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let builder = Account::builder_with_http(self.client().await?);
        let made = builder.create(&new, self.directory.clone(), external.as_ref()).await;
        let (account, credentials) = made.map_err(|error| {
            let failure = Failure::of("new account", &error);
            match &self.settings.external_account {
                Some(external) => {
                    failure.and(&format!(" (with external account {:?})", external.key_id))
                }
                None => failure,
            }
        })?;
        let id = account.id();
        tracing::info!(target: "acme", directory = self.directory, id, "an account was made");
        // No order without it: one that is not kept would be made anew at every start.
        self.keep(desk, credentials).await?;
        Ok(account)
    }

    fn contact_urls(&self) -> Vec<String> {
        self.settings.contact.iter().map(|address| format!("mailto:{address}")).collect()
    }

    async fn keep(&self, desk: &mut Desk, credentials: AccountCredentials) -> Result<(), Failure> {
        let contact = self.settings.contact.clone();
        desk.unsaved = Some(Arc::new(StoredAccount { contact, credentials }));
        self.save(desk).await
    }

    /// What could not be saved stays here: the authority is not asked again for want of a disk.
    async fn save(&self, desk: &mut Desk) -> Result<(), Failure> {
        let Some(stored) = desk.unsaved.clone() else { return Ok(()) };
        let (store, directory) = (self.store.clone(), self.directory.clone());
        let key_id = self.key_id().to_owned();
        let job = tokio::task::spawn_blocking(move || {
            store.save_account(&directory, &key_id, &stored).map_err(|error| error.to_string())
        });
        let kept = job.await.unwrap_or_else(|error| Err(error.to_string()));
        let told = |why| Failure::own(format!("the account cannot be kept in state_dir: {why}"));
        kept.map_err(told)?;
        desk.unsaved = None;
        Ok(())
    }
}

/// As orders have it.
pub(super) type SharedOffice = Arc<Office>;
