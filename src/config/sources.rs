//! What was given, as text: the environment, the configuration file, the command line. Tests hand in their own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::ConfigError;
use super::exec::Executed;

/// Which file to read; only the environment says so.
pub(super) const CONFIG: &str = "FINHOOK_CONFIG";
/// The file that is read if none is named and it is there.
const DEFAULT_FILE: &str = "finhook.toml";

/// Everything from which settings are read, before any of it is understood.
#[derive(Default)]
pub struct Sources {
    pub(super) environment: BTreeMap<String, OsString>,
    pub(super) file: Option<SourceFile>,
    pub(super) overrides: BTreeMap<String, Option<SecretString>>,
    /// What `exec:` values gave.
    pub(super) executed: Executed,
}

/// A configuration file's text, with the name by which errors call it.
pub(super) struct SourceFile {
    pub(super) name: String,
    pub(super) text: Zeroizing<String>,
}

impl Sources {
    /// The process's environment, and the file that it names or `./finhook.toml` if there is one.
    pub fn from_process() -> Result<Self, ConfigError> {
        // A name that is not UTF-8 cannot be one of ours.
        let named = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Self::read(named.collect())
    }

    /// An environment that is handed in, and no file.
    pub fn of<K: Into<String>, V: Into<OsString>>(environment: impl IntoIterator<Item = (K, V)>) -> Self {
        let environment = environment.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { environment, ..Self::default() }
    }

    /// The same with the text of a configuration file.
    pub fn with_file(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.file = Some(SourceFile { name: name.into(), text: Zeroizing::new(text.into()) });
        self
    }

    /// The same with a value that beats every other, as a command's own option does.
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.overrides.insert(name.into(), Some(SecretString::from(value.into())));
        self
    }

    /// The same with a secret.
    pub fn with_secret(mut self, name: impl Into<String>, value: SecretString) -> Self {
        self.overrides.insert(name.into(), Some(value));
        self
    }

    /// The same as if a setting were given nowhere: `finhook demo` must not be able to touch a real database.
    pub fn without(mut self, name: impl Into<String>) -> Self {
        self.overrides.insert(name.into(), None);
        self
    }

    fn read(environment: BTreeMap<String, OsString>) -> Result<Self, ConfigError> {
        let named = environment.get(CONFIG).filter(|path| !path.is_empty()).cloned();
        let path = named.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        let sources = Self { environment, ..Self::default() };
        match fs::read_to_string(&path) {
            Ok(text) => Ok(sources.with_file(Path::new(&path).display().to_string(), text)),
            Err(error) if named.is_none() && error.kind() == ErrorKind::NotFound => Ok(sources),
            Err(error) => Err(ConfigError {
                name: CONFIG.into(),
                origin: if named.is_some() { "environment" } else { "default" }.into(),
                problem: format!("{} cannot be read: {}", Path::new(&path).display(), error.kind()),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own.toml");
        let environment = || BTreeMap::from([(CONFIG.to_owned(), path.clone().into_os_string())]);
        let missing = Sources::read(environment()).err().unwrap();
        assert!(missing.problem.contains("own.toml cannot be read"), "{missing}");
        fs::write(&path, "workers = 3").unwrap();
        let file = Sources::read(environment()).unwrap().file.unwrap();
        assert_eq!((file.name, file.text.as_str()), (path.display().to_string(), "workers = 3"));
    }

    #[test]
    fn no_file_is_fine_if_none_was_named() {
        assert!(Sources::read(BTreeMap::new()).is_ok());
    }
}
