//! Secrets that embedded mode makes when nobody gave them: `secrets.toml` beside the database, readable by its owner alone.
//!
//! Law: an entry that is there is never changed, because what was sealed under a key is lost with it. Two processes that
//! start at once end with one file: the folder is locked from reading to renaming.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::exec::Executed;
use super::load::from_file;
use super::values::Values;
use super::{ConfigError, Variable};

/// The file's name in its folder.
const FILE: &str = "secrets.toml";
/// What a new file starts with.
const HEADER: &str = "# Made by finhook for development. Whoever reads this file reads everything sealed with it.\n\
                      # Lose it and what was sealed is lost. Entries are never changed; delete a line to have it made anew.\n";

impl Values {
    /// Reads `secrets.toml` of the embedded store's folder, after adding to it what neither it nor any other source gives.
    pub fn ensure_generated(
        &mut self,
        folder: &Path,
        generators: &[(&'static str, SecretString)],
    ) -> Result<(), Vec<ConfigError>> {
        debug_assert!(
            generators.iter().all(|(name, _)| self.declared.contains_key(name)),
            "generates what is not declared"
        );
        let path = folder.join(FILE);
        let refused = |problem| vec![ConfigError { name: FILE.into(), origin: path.display().to_string(), problem }];
        let failed = |what: &str, error: &io::Error| refused(format!("{what}: {}", error.kind()));
        make_folder(folder).map_err(|error| failed("its folder cannot be made", &error))?;
        // The lock goes with the handle. It is on the folder, so that it leaves no file of its own behind.
        let lock = File::open(folder).and_then(|folder| folder.lock().map(|()| folder));
        let lock = lock.map_err(|error| failed("its folder cannot be locked", &error))?;

        let mut text = read_private(&path).map_err(refused)?;
        let present = self.entries_of(&path, &text)?;
        let missing: Vec<_> = generators
            .iter()
            .filter(|(name, _)| !self.given.contains_key(name) && !present.contains_key(name))
            .filter_map(|(name, secret)| Some((self.declared.get(name)?, secret)))
            .collect();
        if !missing.is_empty() {
            append(&mut text, &missing);
            // Read before it is written: a file that would not be understood must not replace one that is.
            self.entries_of(&path, &text)?;
            write_whole(folder, &path, &text).map_err(|error| failed("cannot be written", &error))?;
        }
        drop(lock);
        for (name, value) in self.entries_of(&path, &text)? {
            self.given.entry(name).or_insert(value);
        }
        Ok(())
    }

    /// Whether a setting is one that a `secrets.toml` gives.
    pub fn is_generated(&self, name: &str) -> bool {
        // `…/secrets.toml:LINE`
        self.origin(name).rsplit_once(':').is_some_and(|(file, _)| Path::new(file).ends_with(FILE))
    }

    /// Leaves settings out that only `secrets.toml` gives; what any other source gives stays.
    pub fn leave_out_generated(&mut self, folder: &Path, names: &[&'static str]) {
        let origin = folder.join(FILE).display().to_string();
        for name in names {
            if self.given.get(name).is_some_and(|given| given.origin.starts_with(&origin)) {
                self.given.remove(name);
            }
        }
    }

    fn entries_of(
        &self,
        path: &Path,
        text: &str,
    ) -> Result<BTreeMap<&'static str, super::values::Given>, Vec<ConfigError>> {
        let mut errors = Vec::new();
        let entries = from_file(
            &path.display().to_string(),
            text,
            &self.declared,
            &Executed::default(),
            &BTreeMap::new(),
            &mut errors,
        );
        if errors.is_empty() { Ok(entries) } else { Err(errors) }
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    // A folder that is there keeps its mode: it may be one that the operator shares on purpose.
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Reads a file that only its owner may read; empty if it is not there.
fn read_private(path: &Path) -> Result<Zeroizing<String>, String> {
    let unreadable = |error: io::Error| format!("cannot be read: {}", error.kind());
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Zeroizing::default()),
        Err(error) => return Err(unreadable(error)),
    };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("has mode {mode:04o}, which lets others read it: chmod 600 it, and think about new keys"));
    }
    fs::read_to_string(path).map(Zeroizing::new).map_err(unreadable)
}

fn append(text: &mut Zeroizing<String>, missing: &[(&Variable, &SecretString)]) {
    if text.is_empty() {
        text.push_str(HEADER);
    } else if !text.ends_with('\n') {
        text.push('\n');
    }
    for (variable, secret) in missing {
        let quoted = Zeroizing::new(toml::Value::String(secret.expose_secret().to_owned()).to_string());
        text.push_str(&variable.key());
        text.push_str(" = ");
        text.push_str(&quoted);
        text.push('\n');
    }
}

/// Replaces the file at once or not at all, and makes both its bytes and its name durable before anything is sealed with
/// what stands in it.
fn write_whole(folder: &Path, path: &Path, text: &str) -> io::Result<()> {
    // A temporary file has mode 0600 from the start.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::Sources;

    fn values(given: &[(&str, &str)]) -> Values {
        Values::load(&Sources::of(given.iter().copied()), &[]).unwrap()
    }

    fn generators(suffix: &str) -> Vec<(&'static str, SecretString)> {
        let named = ["FINHOOK_KEYS", "FINHOOK_INDEX_KEY"];
        named.into_iter().map(|name| (name, SecretString::from(format!("\"{name}\\ {suffix}")))).collect()
    }

    fn keys(values: &Values) -> String {
        values.secret("FINHOOK_KEYS").unwrap().unwrap().expose_secret().to_owned()
    }

    fn new_folder() -> (tempfile::TempDir, PathBuf) {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a").join("finhook-data");
        (parent, folder)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn secrets_are_made_once_and_read_ever_after() {
        let (_parent, folder) = new_folder();
        let mut first = values(&[]);
        first.ensure_generated(&folder, &generators("first")).unwrap();
        assert_eq!(keys(&first), "\"FINHOOK_KEYS\\ first");
        assert_eq!((mode(&folder), mode(&folder.join(FILE))), (0o700, 0o600));
        let mut second = values(&[]);
        second.ensure_generated(&folder, &generators("second")).unwrap();
        assert_eq!(keys(&second), keys(&first));
        assert_eq!(second.origin("FINHOOK_KEYS"), format!("{}:3", folder.join(FILE).display()));
    }

    #[test]
    fn what_is_given_elsewhere_is_neither_made_nor_replaced() {
        let (_parent, folder) = new_folder();
        let mut values = values(&[("FINHOOK_KEYS", "given")]);
        values.ensure_generated(&folder, &generators("made")).unwrap();
        assert_eq!((keys(&values), values.origin("FINHOOK_KEYS")), ("given".into(), "environment".into()));
        assert_eq!(["FINHOOK_KEYS", "FINHOOK_INDEX_KEY"].map(|name| values.is_generated(name)), [false, true]);
        let text = fs::read_to_string(folder.join(FILE)).unwrap();
        assert!(!text.contains("\nkeys = ") && text.contains("\nindex_key = "), "{text}");
    }

    #[test]
    fn new_entries_are_added_and_old_ones_stay_as_they_are() {
        let (_parent, folder) = new_folder();
        let all = generators("first");
        values(&[]).ensure_generated(&folder, &all[..1]).unwrap();
        let before = fs::read_to_string(folder.join(FILE)).unwrap();
        values(&[]).ensure_generated(&folder, &generators("second")).unwrap();
        let after = fs::read_to_string(folder.join(FILE)).unwrap();
        assert!(after.starts_with(&before) && after.len() > before.len());
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let (_parent, folder) = new_folder();
        values(&[]).ensure_generated(&folder, &generators("x")).unwrap();
        fs::set_permissions(folder.join(FILE), fs::Permissions::from_mode(0o640)).unwrap();
        let errors = values(&[]).ensure_generated(&folder, &generators("x")).unwrap_err();
        assert!(errors[0].problem.contains("has mode 0640"), "{}", errors[0]);
    }

    #[test]
    fn a_file_that_is_not_understood_is_left_alone() {
        let (_parent, folder) = new_folder();
        values(&[]).ensure_generated(&folder, &generators("x")).unwrap();
        for text in ["keys = \"unfinished", "kees = \"1:x\"\n", "keys = \"\"\n"] {
            fs::write(folder.join(FILE), text).unwrap();
            let errors = values(&[]).ensure_generated(&folder, &generators("x")).unwrap_err();
            assert!(errors[0].origin.contains(FILE), "{}", errors[0]);
            assert_eq!(fs::read_to_string(folder.join(FILE)).unwrap(), text);
        }
    }

    #[test]
    fn processes_that_start_at_once_agree() {
        let (_parent, folder) = new_folder();
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let folder = folder.clone();
                std::thread::spawn(move || {
                    let mut values = values(&[]);
                    values.ensure_generated(&folder, &generators(&number.to_string())).unwrap();
                    keys(&values)
                })
            })
            .collect();
        let seen: std::collections::BTreeSet<String> =
            threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(seen.len(), 1);
    }
}
