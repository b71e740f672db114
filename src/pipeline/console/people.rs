//! Users, their integrations and accounts: what the product's back end asks and tells.
//!
//! Identifiers and access tokens stay sealed unless the reader says why they are to be opened; the audit has it first.
//! Telling the same twice changes nothing: what is so already is not written again.

use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::audit::Actor;
use super::{Console, FORGOTTEN, Trouble};
use crate::crypto::{OpenError, Place, check_user_id};
use crate::domain::{Email, UserId};
use crate::providers;
use crate::store::audit::{About, Act};
use crate::store::{AccountView, Batch, IntegrationView, Link, StoreError, StoreTrouble, UserView, Vault};

/// How often a transaction that another one was in the way of is tried again.
const TRIES: u32 = 5;

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct UserAnswer {
    /// The row's id.
    pub id: Uuid,
    /// Our system's own id for the user, the one that providers are given.
    pub external_id: String,
    /// The address, wherever it came from.
    pub email: Option<String>,
    /// Whether a provider says that it was verified; null where the product wrote it.
    pub email_verified: Option<bool>,
    /// When the product deleted them.
    #[schema(format = DateTime)]
    pub deleted_at: Option<String>,
}

impl From<UserView> for UserAnswer {
    fn from(user: UserView) -> Self {
        Self {
            id: user.id,
            external_id: user.external_id.0,
            email: user.email,
            email_verified: user.email_verified,
            deleted_at: user.deleted_at.map(|at| at.to_string()),
        }
    }
}

/// An integration.
#[derive(Serialize, ToSchema)]
pub struct IntegrationAnswer {
    /// The row's id.
    pub id: Uuid,
    /// The provider.
    pub service: String,
    /// The provider's id of it.
    pub external_id: String,
    /// Whose it is: our system's own id for the user.
    pub user: String,
    /// The address that the provider or the product knows for it.
    pub email: Option<String>,
    /// `active`, `revoked`, …
    pub status: String,
    /// Why.
    pub status_reason: Option<String>,
    /// When it was closed.
    #[schema(format = DateTime)]
    pub deleted_at: Option<String>,
    /// Whether there is an access token.
    pub has_authorization_id: bool,
    /// The access token; only where it was asked for with `reveal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub authorization_id: Option<String>,
}

impl From<IntegrationView> for IntegrationAnswer {
    fn from(view: IntegrationView) -> Self {
        Self {
            id: view.id,
            service: view.service,
            external_id: view.external_id,
            user: view.user.0,
            email: view.email,
            status: view.status,
            status_reason: view.status_reason,
            deleted_at: view.deleted_at.map(|at| at.to_string()),
            has_authorization_id: view.authorization_id.is_some(),
            authorization_id: None,
        }
    }
}

/// An account.
#[derive(Serialize, ToSchema)]
pub struct AccountAnswer {
    /// The row's id.
    pub id: Uuid,
    /// The provider.
    pub service: String,
    /// The provider's id of the integration that it belongs to.
    pub integration_external_id: String,
    /// The provider's id of it; only where it was asked for with `reveal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub external_id: Option<String>,
    /// The ledger's id of it, if there is one; only where it was asked for with `reveal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub baas_id: Option<String>,
    /// `open`, `closed`, …
    pub status: String,
    /// Why.
    pub status_reason: Option<String>,
    /// When it was closed.
    #[schema(format = DateTime)]
    pub deleted_at: Option<String>,
}

/// What the product tells of an integration.
pub struct Linking {
    /// Whose it is; created if they are not there, where that is allowed.
    pub user: UserId,
    /// The address that the product knows for it.
    pub email: Option<Email>,
    /// The access token; `None` leaves the stored one as it is.
    pub authorization_id: Option<SecretString>,
}

/// What came of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linked {
    /// Whether the integration is new.
    pub created: bool,
    /// Whether anything was written: not, if all of it was so already.
    pub changed: bool,
    /// How many events that waited for its user were applied.
    pub applied_events: usize,
}

/// Why identifiers are to be opened, and by whom.
pub struct Reveal<'a> {
    /// Who.
    pub actor: &'a Actor,
    /// Why.
    pub reason: String,
}

impl Console {
    /// A user, the soft-deleted ones too.
    pub async fn user(&self, user: &UserId) -> Result<Option<UserAnswer>, Trouble> {
        Ok(self.ask(self.store()?.user(user)).await?.map(UserAnswer::from))
    }

    /// Makes a user, or gives one the product's address; whether they are new, and as they are now. Without an address one
    /// who is there stays as they are.
    pub async fn put_user(
        &self,
        user: &UserId,
        email: Option<&Email>,
        actor: &Actor,
    ) -> Result<(bool, UserAnswer), Trouble> {
        let store = self.store()?;
        if let Some(held) = self.ask(store.user(user)).await? {
            if held.deleted_at.is_some() {
                return Err(Trouble::Conflict("the user was deleted, and is not revived"));
            }
            let same = email
                .is_none_or(|email| held.email.as_deref() == Some(email.address.as_str()) && held.email_by_product);
            if same {
                return Ok((false, held.into()));
            }
        }
        self.is_not_forgotten(user).await?;
        self.audit(actor, Act::User, Some(About::User(user.clone())), None, None).await?;
        let created = self.ask(store.put_user(user, email)).await?;
        let now = self.ask(store.user(user)).await?;
        // Gone meanwhile: somebody deleted the row, and the next try makes it again.
        now.map(|user| (created, user.into())).ok_or(Trouble::Away)
    }

    /// The integrations that a user owns; `None` if there is no such user.
    pub async fn integrations(&self, user: &UserId) -> Result<Option<Vec<IntegrationAnswer>>, Trouble> {
        let store = self.store()?;
        if self.ask(store.user(user)).await?.is_none() {
            return Ok(None);
        }
        let all = self.ask(store.integrations(user)).await?;
        Ok(Some(all.into_iter().map(IntegrationAnswer::from).collect()))
    }

    /// A user's accounts, their identifiers opened if it is said why; `None` if there is no such user.
    pub async fn accounts(
        &self,
        user: &UserId,
        reveal: Option<Reveal<'_>>,
    ) -> Result<Option<Vec<AccountAnswer>>, Trouble> {
        let store = self.store()?;
        if self.ask(store.user(user)).await?.is_none() {
            return Ok(None);
        }
        let accounts = self.ask(store.accounts(user)).await?;
        if let Some(reveal) = &reveal {
            let (about, count) = (Some(About::User(user.clone())), Some(accounts.len() as u64));
            self.audit(reveal.actor, Act::Reveal, about, Some(&reveal.reason), count).await?;
        }
        let vault = reveal.is_some().then_some(&*self.vault);
        accounts.into_iter().map(|account| answer(account, vault)).collect::<Result<_, _>>().map(Some)
    }

    /// An integration, its access token opened if it is said why.
    pub async fn integration(
        &self,
        service: &str,
        external_id: &str,
        reveal: Option<Reveal<'_>>,
    ) -> Result<Option<IntegrationAnswer>, Trouble> {
        let Some(view) = self.ask(self.store()?.integration(service, external_id)).await? else { return Ok(None) };
        let sealed = view.authorization_id.clone();
        let mut answer = IntegrationAnswer::from(view);
        if let Some(reveal) = reveal {
            let about = About::Subject(service.to_owned(), external_id.to_owned());
            self.audit(reveal.actor, Act::Reveal, Some(about), Some(&reveal.reason), None).await?;
            let opened = sealed.map(|sealed| open_authorization_id(&self.vault, service, external_id, &sealed));
            answer.authorization_id = opened.transpose().map_err(unopened)?.map(|id| id.expose_secret().to_owned());
        }
        Ok(Some(answer))
    }

    /// Says whose an integration is. Its waiting events are applied in the same transaction.
    pub async fn link(
        &self,
        service: &str,
        external_id: &str,
        linking: Linking,
        actor: &Actor,
    ) -> Result<Linked, Trouble> {
        let provider = providers::find(service).ok_or(Trouble::NotThere("there is no provider of this name"))?;
        let store = self.store()?;
        let held = self.ask(store.integration(service, external_id)).await?;
        let nothing = Linked { created: false, changed: false, applied_events: 0 };
        if held.as_ref().is_some_and(|held| self.is_so(held, &linking)) {
            return Ok(nothing);
        }
        if !self.create_users && self.ask(store.user(&linking.user)).await?.is_none() {
            return Err(Trouble::Conflict(
                "there is no such user, and FINHOOK_CREATE_USERS is false: create them first",
            ));
        }
        self.is_not_forgotten(&linking.user).await?;
        let about = About::Subject(service.to_owned(), external_id.to_owned());
        self.audit(actor, Act::Link, Some(about), None, None).await?;
        let Linking { user, email, authorization_id } = linking;
        let (subject, at) = (external_id.to_owned(), self.now());
        let link = Link { provider: provider.name, subject, user, email, authorization_id, at };
        let batch = Batch { links: vec![link], ..Batch::default() };
        let committed = self.ask(self.commit(&batch)).await?;
        Ok(Linked { created: held.is_none(), changed: true, applied_events: committed })
    }

    /// The path that binds a user's Plaid items to them.
    pub async fn webhook_path(&self, user: &UserId, actor: &Actor) -> Result<String, Trouble> {
        let keys =
            self.url_keys.as_ref().ok_or(Trouble::Conflict("FINHOOK_URL_KEYS is not set: bound URLs are off"))?;
        check_user_id(user.as_str()).map_err(|_| Trouble::Conflict("no URL can be minted for this user id"))?;
        self.is_not_forgotten(user).await?;
        self.audit(actor, Act::WebhookUrl, Some(About::User(user.clone())), None, None).await?;
        Ok(format!("/webhooks/plaid/{}", keys.mint(user)))
    }

    /// Nothing is made for somebody who was forgotten, until that is lifted.
    async fn is_not_forgotten(&self, user: &UserId) -> Result<(), Trouble> {
        let forgotten = self.ask(self.store()?.is_forgotten(user)).await?;
        if forgotten { Err(Trouble::Conflict(FORGOTTEN)) } else { Ok(()) }
    }

    /// Whether all that is told is so already, so that telling it again changes nothing.
    fn is_so(&self, held: &IntegrationView, told: &Linking) -> bool {
        let token = told
            .authorization_id
            .as_ref()
            .map(|token| self.vault.index.of("authorization_id", &held.service, token.expose_secret()));
        held.linked
            && held.user == told.user
            && told.email.as_ref().is_none_or(|email| {
                held.email.as_deref() == Some(email.address.as_str()) && held.email_verified == Some(email.verified)
            })
            && token.is_none_or(|token| held.authorization_index.as_deref() == Some(&token[..]))
    }

    /// One transaction; how many waiting events it applied. Another one in the way is waited out for a moment.
    async fn commit(&self, batch: &Batch) -> Result<usize, StoreError> {
        let away = || StoreError { trouble: StoreTrouble::Unavailable, what: "commit: no database".into() };
        let store: &Arc<_> = self.store.as_ref().ok_or_else(away)?;
        let mut tries = 0;
        loop {
            match store.commit(batch, self.desk.as_ref()).await {
                Ok(committed) => return Ok(committed.relinked),
                Err(error) if error.trouble == StoreTrouble::Conflict && tries < TRIES => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(20) * tries).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn answer(account: AccountView, vault: Option<&Vault>) -> Result<AccountAnswer, Trouble> {
    let open = |column: &str, sealed: &Option<String>| {
        let opened = vault.and_then(|vault| open_account_id(vault, &account, column, sealed.as_deref()?).into());
        opened.transpose().map_err(unopened).map(|id: Option<SecretString>| id.map(|id| id.expose_secret().to_owned()))
    };
    Ok(AccountAnswer {
        id: account.id,
        external_id: open("external_id", &account.external_id)?,
        baas_id: open("baas_id", &account.baas_id)?,
        service: account.service.clone(),
        integration_external_id: account.integration_external_id.clone(),
        status: account.status.clone(),
        status_reason: account.status_reason.clone(),
        deleted_at: account.deleted_at.map(|at| at.to_string()),
    })
}

/// Opens one of an account's sealed columns.
pub fn open_account_id(
    vault: &Vault,
    account: &AccountView,
    column: &str,
    sealed: &str,
) -> Result<SecretString, OpenError> {
    let key: [&[u8]; 3] =
        [account.service.as_bytes(), account.integration_external_id.as_bytes(), &account.external_id_index];
    vault.open(&Place { table: "account", column, key: &key }, sealed)
}

/// Opens an integration's access token.
pub fn open_authorization_id(
    vault: &Vault,
    service: &str,
    external_id: &str,
    sealed: &str,
) -> Result<SecretString, OpenError> {
    let key: [&[u8]; 2] = [service.as_bytes(), external_id.as_bytes()];
    vault.open(&Place { table: "integration", column: "authorization_id", key: &key }, sealed)
}

/// Why something that is stored does not open: a key that is missing is put back, anything else is looked at.
fn unopened(error: OpenError) -> Trouble {
    tracing::error!(error = %error, "a sealed column does not open");
    Trouble::Unopenable
}
