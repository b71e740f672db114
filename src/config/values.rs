//! One lookup for every setting, which remembers where each value came from so that an error can name it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};

/// One setting: declared once, next to what it configures; `finhook check`, the README's table and the tests read the list.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// The environment variable; in `finhook.toml` the same name in lower case without the prefix `FINHOOK_`.
    pub name: &'static str,
    /// Whether its value is never printed and `NAME_FILE` is accepted too.
    pub secret: bool,
    /// What holds when it is not given, as it would be written.
    pub default: Option<&'static str>,
    /// One sentence of help.
    pub help: &'static str,
}

impl Variable {
    /// Its key in `finhook.toml`.
    pub fn key(&self) -> String {
        self.name.strip_prefix("FINHOOK_").unwrap_or(self.name).to_ascii_lowercase()
    }
}

/// A setting that cannot be used: which one, where it was given, what is wrong and what to do. Never its value if secret.
#[derive(Debug, thiserror::Error)]
#[error("{name} ({origin}): {problem}")]
pub struct ConfigError {
    /// The variable.
    pub name: String,
    /// `environment`, `finhook.toml:12`, `default`, `not set`.
    pub origin: String,
    /// What is wrong with it and what to do.
    pub problem: String,
}

/// What was given for one setting.
pub(super) struct Given {
    /// Every text is held like a secret, because most of them are.
    pub(super) text: SecretString,
    pub(super) origin: String,
}

/// Every setting that was given, with its origin.
#[derive(Default)]
pub struct Values {
    pub(super) declared: BTreeMap<&'static str, Variable>,
    pub(super) given: BTreeMap<&'static str, Given>,
}

impl Values {
    /// The text of a setting or its default; `None` if it has neither. Blank counts as not given. Secrets are asked for
    /// with [`Values::secret`], which keeps them wrapped.
    pub fn text(&self, name: &str) -> Option<String> {
        match self.given.get(name) {
            Some(given) => Some(given.text.expose_secret().to_owned()),
            None => self.declared.get(name).and_then(|variable| variable.default).map(str::to_owned),
        }
    }

    /// A secret, also from `NAME_FILE`.
    pub fn secret(&self, name: &str) -> Result<Option<SecretString>, ConfigError> {
        Ok(self.given.get(name).map(|given| given.text.clone()))
    }

    /// A comma-separated list of secrets, so that one can be rolled without a gap; empty if not given. Blank entries are
    /// left out: an empty secret would be one that anybody knows.
    pub fn secrets(&self, name: &str) -> Result<Vec<SecretString>, ConfigError> {
        let Some(given) = self.given.get(name) else { return Ok(Vec::new()) };
        let entries: Vec<_> = entries(given.text.expose_secret()).map(SecretString::from).collect();
        if entries.is_empty() { Err(self.error(name, "is a list without an entry")) } else { Ok(entries) }
    }

    /// `true` or `false`.
    pub fn flag(&self, name: &str) -> Result<bool, ConfigError> {
        match self.needed(name)?.trim() {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(self.error(name, format!("takes true or false, not {}", self.quoted(name, other)))),
        }
    }

    /// A whole number.
    pub fn number(&self, name: &str) -> Result<u64, ConfigError> {
        let text = self.needed(name)?;
        let problem = || self.error(name, format!("takes a whole number, not {}", self.quoted(name, &text)));
        text.trim().parse().map_err(|_| problem())
    }

    /// A whole number within bounds.
    pub fn number_in(&self, name: &str, range: RangeInclusive<u64>) -> Result<u64, ConfigError> {
        let number = self.number(name)?;
        if range.contains(&number) {
            return Ok(number);
        }
        Err(self.error(name, format!("takes a number from {} to {}, not {number}", range.start(), range.end())))
    }

    /// A duration as people write it (`300s`, `5m`, `25h`).
    pub fn duration(&self, name: &str) -> Result<Duration, ConfigError> {
        let text = self.needed(name)?;
        humantime::parse_duration(text.trim()).map_err(|_| {
            let quoted = self.quoted(name, &text);
            self.error(name, format!("takes a duration with its unit, such as 300s, 5m or 25h, not {quoted}"))
        })
    }

    /// A duration within bounds.
    pub fn duration_in(&self, name: &str, range: RangeInclusive<Duration>) -> Result<Duration, ConfigError> {
        let duration = self.duration(name)?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        let [least, most] = [range.start(), range.end()].map(|bound| humantime::format_duration(*bound));
        Err(self.error(name, format!("takes a duration from {least} to {most}")))
    }

    /// A comma-separated list of addresses and networks (`192.0.2.7`, `2001:db8::/32`), or names that stand for several of
    /// them; empty if not given.
    pub fn networks(&self, name: &str, presets: &[(&str, &[&str])]) -> Result<Vec<IpNet>, ConfigError> {
        let Some(text) = self.text(name) else { return Ok(Vec::new()) };
        let mut networks = Vec::new();
        for entry in entries(&text) {
            let preset = presets.iter().find(|(preset, _)| *preset == entry);
            for entry in preset.map_or(&[entry][..], |(_, addresses)| addresses) {
                let network = entry.parse().or_else(|_| entry.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
                    let known: String = presets.iter().map(|(preset, _)| format!(", {preset}")).collect();
                    let quoted = self.quoted(name, entry);
                    self.error(name, format!("takes addresses and networks such as 192.0.2.0/24{known}, not {quoted}"))
                })?;
                networks.push(network);
            }
        }
        if networks.is_empty() { Err(self.error(name, "is a list without an entry")) } else { Ok(networks) }
    }

    /// An error about a setting, with its origin filled in.
    pub fn error(&self, name: &str, problem: impl Into<String>) -> ConfigError {
        ConfigError { name: name.to_owned(), origin: self.origin(name), problem: problem.into() }
    }

    /// Where a setting was given: `environment`, `finhook.toml:12`, `file /run/secrets/keys`, `default`, `not set`.
    pub fn origin(&self, name: &str) -> String {
        match (self.given.get(name), self.declared.get(name)) {
            (Some(given), _) => given.origin.clone(),
            (None, Some(Variable { default: Some(_), .. })) => "default".into(),
            _ => "not set".into(),
        }
    }

    /// Whether somebody gave it: a default is not given.
    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The settings that were given otherwise in `new`, in the order of the alphabet.
    pub fn changed(&self, new: &Values) -> Vec<&'static str> {
        fn text<'v>(values: &'v Values, name: &str) -> Option<&'v str> {
            values.given.get(name).map(|given| given.text.expose_secret())
        }
        self.declared.keys().copied().filter(|name| text(self, name) != text(new, name)).collect()
    }

    fn needed(&self, name: &str) -> Result<String, ConfigError> {
        self.text(name).ok_or_else(|| self.error(name, "is needed and has no default"))
    }

    /// What was given, shortened for an error; never a secret.
    fn quoted(&self, name: &str, text: &str) -> String {
        match self.declared.get(name) {
            Some(Variable { secret: false, .. }) => format!("{:?}", text.chars().take(40).collect::<String>()),
            _ => "what was given".into(),
        }
    }
}

/// The entries of a comma-separated list, blanks left out.
pub(super) fn entries(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    const DECLARED: &[Variable] = &[
        Variable { name: "FINHOOK_X_SECRETS", secret: true, default: None, help: "Secrets." },
        Variable { name: "FINHOOK_X_FLAG", secret: false, default: Some("false"), help: "A flag." },
        Variable { name: "FINHOOK_X_NUMBER", secret: false, default: Some("7"), help: "A number." },
        Variable { name: "FINHOOK_X_AGE", secret: false, default: Some("300s"), help: "A duration." },
        Variable { name: "FINHOOK_X_NAME", secret: false, default: None, help: "A name." },
    ];

    fn values(given: &[(&str, &str)]) -> Values {
        Values::load(&Sources::of(given.iter().copied()), &[DECLARED]).unwrap()
    }

    #[test]
    fn what_is_not_given_or_blank_has_its_default() {
        let values = values(&[("FINHOOK_X_NUMBER", " "), ("FINHOOK_X_NAME", "")]);
        assert_eq!(
            (values.number("FINHOOK_X_NUMBER").unwrap(), values.origin("FINHOOK_X_NUMBER")),
            (7, "default".into())
        );
        assert_eq!((values.text("FINHOOK_X_NAME"), values.origin("FINHOOK_X_NAME")), (None, "not set".into()));
        assert!(!values.flag("FINHOOK_X_FLAG").unwrap());
        assert_eq!(values.duration("FINHOOK_X_AGE").unwrap(), Duration::from_secs(300));
        assert!(values.secrets("FINHOOK_X_SECRETS").unwrap().is_empty());
    }

    #[test]
    fn networks_are_addresses_networks_or_names_for_them() {
        let networks = |text: &str| {
            let values = values(&[("FINHOOK_X_NAME", text)]);
            let read = values.networks("FINHOOK_X_NAME", &[("us", &["192.0.2.1", "2001:db8::/32"])]);
            read.map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(networks("us, 10.0.0.0/8").unwrap(), "192.0.2.1/32 2001:db8::/32 10.0.0.0/8");
        assert_eq!(networks("").unwrap(), "");
        for bad in ["them", "10.0.0.0/33", "10.0.0", ",", "host.example"] {
            let problem = networks(bad).unwrap_err().to_string();
            assert!(problem.starts_with("FINHOOK_X_NAME (environment): "), "{problem}");
        }
    }

    #[test]
    fn what_was_given_otherwise_is_named() {
        let old = values(&[("FINHOOK_X_SECRETS", "a"), ("FINHOOK_X_NUMBER", "8"), ("FINHOOK_X_NAME", "n")]);
        let new = values(&[("FINHOOK_X_SECRETS", "a,b"), ("FINHOOK_X_FLAG", "true"), ("FINHOOK_X_NAME", "n")]);
        assert_eq!(old.changed(&new), ["FINHOOK_X_FLAG", "FINHOOK_X_NUMBER", "FINHOOK_X_SECRETS"]);
        assert!(old.changed(&old).is_empty());
    }

    #[test]
    fn lists_of_secrets_leave_out_blanks() {
        let values = values(&[("FINHOOK_X_SECRETS", " a , ,b,")]);
        let secrets = values.secrets("FINHOOK_X_SECRETS").unwrap();
        assert_eq!(secrets.iter().map(ExposeSecret::expose_secret).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_list_of_nothing_but_commas_is_an_error_and_not_an_empty_list() {
        assert!(values(&[("FINHOOK_X_SECRETS", ",,")]).secrets("FINHOOK_X_SECRETS").is_err());
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_origin() {
        let values = values(&[("FINHOOK_X_NUMBER", "many"), ("FINHOOK_X_FLAG", "yes"), ("FINHOOK_X_AGE", "300")]);
        assert_eq!(
            values.number("FINHOOK_X_NUMBER").unwrap_err().to_string(),
            "FINHOOK_X_NUMBER (environment): takes a whole number, not \"many\""
        );
        assert_eq!(
            values.flag("FINHOOK_X_FLAG").unwrap_err().to_string(),
            "FINHOOK_X_FLAG (environment): takes true or false, not \"yes\""
        );
        assert!(values.duration("FINHOOK_X_AGE").unwrap_err().problem.contains("such as 300s"));
        assert!(values.number_in("FINHOOK_X_NUMBER", 1..=2).is_err());
    }

    #[test]
    fn bounds_hold_for_defaults_too() {
        let values = values(&[]);
        let problem = values.number_in("FINHOOK_X_NUMBER", 1..=5).unwrap_err().to_string();
        assert_eq!(problem, "FINHOOK_X_NUMBER (default): takes a number from 1 to 5, not 7");
        let seconds = |seconds| Duration::from_secs(seconds);
        let problem = values.duration_in("FINHOOK_X_AGE", seconds(1)..=seconds(60)).unwrap_err().problem;
        assert_eq!(problem, "takes a duration from 1s to 1m");
    }

    #[test]
    fn a_secret_is_never_quoted() {
        let values = values(&[("FINHOOK_X_SECRETS", "hunter2")]);
        assert!(!values.number("FINHOOK_X_SECRETS").unwrap_err().to_string().contains("hunter2"));
    }
}
