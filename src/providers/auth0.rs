//! Auth0: how it signs, and what its events mean.

use super::Provider;
use crate::domain::ProviderName;

/// Auth0's entry in the list.
pub static PROVIDER: Provider = Provider {
    name: ProviderName::new("auth0"),
    title: "Auth0",
    variables: &[],
    binds_urls: false,
    verifier: |_| todo!(),
    reader: |_| todo!(),
    signer: |_| todo!(),
    development: || todo!(),
};
