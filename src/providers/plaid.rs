//! Plaid: how it signs, and what its events mean.

use super::Provider;
use crate::domain::ProviderName;

/// Plaid's entry in the list.
pub static PROVIDER: Provider = Provider {
    name: ProviderName::new("plaid"),
    title: "Plaid",
    variables: &[],
    binds_urls: false,
    verifier: |_| todo!(),
    reader: |_| todo!(),
    signer: |_| todo!(),
    development: || todo!(),
};
