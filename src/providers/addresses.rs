//! Where a provider may post from: a first door before its proof, off unless somebody lists addresses.
//!
//! An address proves nothing, and providers change theirs: the documented ones are presets by name, as of November 2026, and
//! `finhook check` shows what holds. A delivery from elsewhere is refused before its body is read, in a way that has a
//! genuine sender try again.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Provider;
use crate::config::{ConfigError, Values, Variable};

/// Addresses that a provider documents, by the name under which they can be listed.
pub type Preset = (&'static str, &'static [&'static str]);

/// Where deliveries are taken from.
#[derive(Debug, Clone, Default)]
pub struct Addresses(Vec<IpNet>);

impl Addresses {
    /// From anywhere.
    pub fn everywhere() -> Self {
        Self::default()
    }

    /// As the provider's setting says.
    pub fn read(provider: &Provider, values: &Values) -> Result<Self, ConfigError> {
        values.networks(provider.allow_from, provider.presets).map(Self)
    }

    /// Whether a delivery is taken from there. An address that nobody knows is taken only if any is.
    pub fn admit(&self, client: Option<IpAddr>) -> bool {
        self.0.is_empty() || client.is_some_and(|client| self.0.iter().any(|network| network.contains(&client)))
    }
}

/// The setting of a provider's list.
pub(super) const fn variable(name: &'static str, help: &'static str) -> Variable {
    Variable { name, secret: false, default: None, help }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;
    use crate::providers::PROVIDERS;

    #[test]
    fn an_empty_list_admits_everybody_and_a_list_nobody_else() {
        let [inside, outside] = ["192.0.2.7", "192.0.3.7"].map(|ip| Some(ip.parse().unwrap()));
        assert!(Addresses::everywhere().admit(None) && Addresses::everywhere().admit(outside));
        let listed = Addresses(vec!["192.0.2.0/24".parse().unwrap()]);
        assert!(listed.admit(inside) && !listed.admit(outside) && !listed.admit(None));
        assert!(!listed.admit(Some("2001:db8::1".parse().unwrap())));
    }

    #[test]
    fn every_preset_can_be_read() {
        for provider in PROVIDERS {
            for (name, addresses) in provider.presets {
                let values = Values::load(&Sources::of([(provider.allow_from, *name)]), &[provider.variables]).unwrap();
                assert_eq!(Addresses::read(provider, &values).unwrap().0.len(), addresses.len(), "{name}");
            }
        }
    }
}
