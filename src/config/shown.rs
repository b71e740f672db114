//! The effective configuration for people: every setting with its origin, secrets redacted, URLs without password.

use secrecy::ExposeSecret;

use super::Variable;
use super::values::{Values, entries};

/// One setting as `finhook check` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// The variable.
    pub name: &'static str,
    /// `environment`, `finhook.toml:12`, `file /run/secrets/keys`, `default`, `not set`.
    pub origin: String,
    /// Its value; `set (2 values)` for a secret, a URL without its password, empty if not set.
    pub shown: String,
}

impl Values {
    /// Every declared setting, in the order of the alphabet.
    pub fn effective(&self) -> Vec<Effective> {
        let shown = |variable: &Variable| Effective {
            name: variable.name,
            origin: self.origin(variable.name),
            shown: self.shown(variable),
        };
        self.declared.values().map(shown).collect()
    }

    fn shown(&self, variable: &Variable) -> String {
        let Some(given) = self.given.get(variable.name) else { return variable.default.unwrap_or_default().into() };
        let text = given.text.expose_secret();
        if !variable.secret {
            return text.to_owned();
        }
        if variable.name.ends_with("_URL") {
            return without_password(text);
        }
        match entries(text).count() {
            1 => "set".into(),
            count => format!("set ({count} values)"),
        }
    }
}

/// A URL without password, query and fragment. Where it is not plain what the password is, only the scheme is left: a
/// password may contain any character if whoever wrote it forgot to escape it.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "set".into() };
    if scheme == "sqlite" {
        return url.to_owned();
    }
    let plain = rest.split(['?', '#']).next().unwrap_or_default();
    // An @ behind the query's mark: the mark or the @ may be part of a password.
    let unclear = rest.matches('@').count() != plain.matches('@').count();
    match plain.rsplit_once('@') {
        Some((user, host)) if !unclear => format!("{scheme}://{}@{host}", user.split(':').next().unwrap_or_default()),
        None if !unclear && has_port_or_none(plain) => format!("{scheme}://{plain}"),
        _ => format!("{scheme}://…"),
    }
}

/// Whether what follows a host is a port: it could be the password of somebody who forgot the host.
fn has_port_or_none(plain: &str) -> bool {
    let authority = plain.split('/').next().unwrap_or_default();
    authority.split_once(':').is_none_or(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn secrets_are_counted_and_not_shown() {
        let given =
            [("FINHOOK_URL_KEYS", "hunter2,hunter3"), ("FINHOOK_INDEX_KEY", "hunter4"), ("FINHOOK_WORKERS", "3")];
        let effective = Values::load(&Sources::of(given), &[]).unwrap().effective();
        let of = |name: &str| effective.iter().find(|line| line.name == name).unwrap();
        assert_eq!(of("FINHOOK_URL_KEYS").shown, "set (2 values)");
        assert_eq!(of("FINHOOK_INDEX_KEY").shown, "set");
        assert_eq!((of("FINHOOK_WORKERS").shown.as_str(), of("FINHOOK_WORKERS").origin.as_str()), ("3", "environment"));
        assert_eq!((of("FINHOOK_KEYS").shown.as_str(), of("FINHOOK_KEYS").origin.as_str()), ("", "not set"));
        assert_eq!((of("FINHOOK_LOG").shown.as_str(), of("FINHOOK_LOG").origin.as_str()), ("info", "default"));
        assert!(!format!("{effective:?}").contains("hunter"));
    }

    #[test]
    fn urls_are_shown_without_what_could_be_a_password() {
        let cases = [
            ("postgres://finhook:hunter2@db:5432/app?sslmode=require", "postgres://finhook@db:5432/app"),
            ("postgres://db/app", "postgres://db/app"),
            ("postgres://finhook@db/app", "postgres://finhook@db/app"),
            ("amqp://guest:hunter2@localhost:5672/%2f", "amqp://guest@localhost:5672/%2f"),
            ("postgres://u:hunt/er2@db/app", "postgres://u@db/app"),
            ("postgres://u:hunt@er2@db/app", "postgres://u@db/app"),
            ("postgres://u:hunt?er2@db/app", "postgres://…"),
            ("postgres://u:hun@t?er2@db/app", "postgres://…"),
            ("postgres://db/app?user=u&password=hunter2", "postgres://db/app"),
            ("postgres://db/app?password=hunt@er2", "postgres://…"),
            ("postgres://u:hunter2/app", "postgres://…"),
            ("postgres://db:5432/app", "postgres://db:5432/app"),
            ("sqlite:///srv/a@b/finhook.db", "sqlite:///srv/a@b/finhook.db"),
            ("hunter2", "set"),
        ];
        for (url, shown) in cases {
            assert_eq!(without_password(url), shown);
        }
    }
}
