//! Whether the tables hold what a fixture says that they must end in: for `demo` and the tests.

use anyhow::Context;
use secrecy::ExposeSecret;

use crate::domain::UserId;
use crate::fixtures::{Case, ExpectedAccount, ExpectedIntegration, ExpectedUser};
use crate::pipeline::console::people::open_account_id;
use crate::store::{AccountView, Store, Vault};

/// Every way in which the tables differ from what the case expects; empty = as expected.
pub async fn differences(case: &Case, store: &dyn Store, vault: &Vault) -> anyhow::Result<Vec<String>> {
    let Some(expect) = &case.expect else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for user in &expect.users {
        found.extend(user_differs(user, store).await?);
    }
    for integration in &expect.integrations {
        found.extend(integration_differs(&case.provider, integration, store).await?);
    }
    for account in &expect.accounts {
        found.extend(account_differs(case, account, store, vault).await?);
    }
    Ok(found.into_iter().map(|difference| format!("{}: {difference}", case.path())).collect())
}

async fn user_differs(expect: &ExpectedUser, store: &dyn Store) -> anyhow::Result<Option<String>> {
    let user = store.user(&UserId(expect.external_id.clone())).await.context("read a user")?;
    let Some(user) = user else { return Ok(Some(format!("no user {}", expect.external_id))) };
    let differs = user.email != expect.email || user.email_verified != expect.email_verified;
    Ok(differs.then(|| format!("user {} has another address or verification", expect.external_id)))
}

async fn integration_differs(
    provider: &str,
    expect: &ExpectedIntegration,
    store: &dyn Store,
) -> anyhow::Result<Option<String>> {
    let row = store.integration(provider, &expect.external_id).await.context("read an integration")?;
    let Some(row) = row else { return Ok(Some(format!("no integration {}", expect.external_id))) };
    let is = (row.user.as_str(), row.status.as_str(), row.status_reason.as_deref(), row.deleted_at.is_some());
    let should = (&*expect.user, &*expect.status, expect.status_reason.as_deref(), expect.deleted);
    Ok((is != should).then(|| format!("integration {} is {is:?}, expected {should:?}", expect.external_id)))
}

async fn account_differs(
    case: &Case,
    expect: &ExpectedAccount,
    store: &dyn Store,
    vault: &Vault,
) -> anyhow::Result<Option<String>> {
    let integration = store.integration(&case.provider, &expect.integration).await.context("read an integration")?;
    let Some(integration) = integration else { return Ok(Some(format!("no integration {}", expect.integration))) };
    for account in store.accounts(&integration.user).await.context("read the accounts")? {
        if account.service != case.provider || account.integration_external_id != expect.integration {
            continue;
        }
        if open(vault, &account, "external_id", &account.external_id)?.as_deref() != Some(&*expect.external_id) {
            continue;
        }
        let baas_id = open(vault, &account, "baas_id", &account.baas_id)?;
        let is = (
            baas_id.as_deref(),
            account.status.as_str(),
            account.status_reason.as_deref(),
            account.deleted_at.is_some(),
        );
        let should = (expect.baas_id.as_deref(), &*expect.status, expect.status_reason.as_deref(), expect.deleted);
        return Ok((is != should).then(|| format!("account {} is {is:?}, expected {should:?}", expect.external_id)));
    }
    Ok(Some(format!("no account {} of integration {}", expect.external_id, expect.integration)))
}

/// Opens one of an account's sealed columns.
pub fn open(
    vault: &Vault,
    account: &AccountView,
    column: &str,
    sealed: &Option<String>,
) -> anyhow::Result<Option<String>> {
    let Some(sealed) = sealed else { return Ok(None) };
    Ok(Some(open_account_id(vault, account, column, sealed)?.expose_secret().to_owned()))
}
