//! From sources to values: every name is checked, precedence is resolved, `NAME_FILE` is read, `exec:` is run, all problems
//! are reported.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::exec::{Executed, command_of};
use super::file;
use super::sources::{CONFIG, Sources};
use super::values::{Given, Values};
use super::{ConfigError, VARIABLES, Variable};

/// One setting as a source gives it.
struct Entry {
    /// The environment variable that it stands for, `_FILE` included; `None` for a key of a file that stands for none.
    name: Option<String>,
    /// As it was written there.
    written: String,
    text: SecretString,
    origin: String,
}

type Catalogue = BTreeMap<&'static str, Variable>;
type Layer = BTreeMap<&'static str, Given>;

impl Values {
    /// Reads every setting of [`VARIABLES`] and of the `declared` lists (the providers'). Reports all problems at once.
    pub fn load(sources: &Sources, declared: &[&'static [Variable]]) -> Result<Self, Vec<ConfigError>> {
        let all = VARIABLES.iter().chain(declared.iter().copied().flatten());
        let declared: Catalogue = all.map(|variable| (variable.name, *variable)).collect();
        let mut errors = Vec::new();

        let entries = environment_entries(sources, &declared, &mut errors);
        let mut given =
            resolve(entries, &declared, &sources.executed, |variable| variable.name.to_owned(), &mut errors);
        if let Some(file) = &sources.file {
            let executed = &sources.executed;
            for (name, value) in from_file(&file.name, &file.text, &declared, executed, &sources.overrides, &mut errors)
            {
                given.entry(name).or_insert(value);
            }
        }
        for (name, value) in &sources.overrides {
            let Some(variable) = declared.get(name.as_str()) else { continue };
            match value {
                Some(text) => {
                    given.insert(variable.name, Given { text: text.clone(), origin: "command line".into() });
                }
                None => {
                    given.remove(variable.name);
                }
            }
        }
        if errors.is_empty() { Ok(Self { declared, given }) } else { Err(errors) }
    }
}

/// The settings of one TOML file: `finhook.toml`, or the generated secrets.
pub(super) fn from_file(
    name: &str,
    text: &str,
    declared: &Catalogue,
    executed: &Executed,
    skipped: &BTreeMap<String, Option<SecretString>>,
    errors: &mut Vec<ConfigError>,
) -> Layer {
    let lines = match file::lines(name, text) {
        Ok(lines) => lines,
        Err(problems) => {
            errors.extend(problems);
            return Layer::new();
        }
    };
    let by_key: BTreeMap<String, &str> = declared.values().map(|variable| (variable.key(), variable.name)).collect();
    let entries = lines.into_iter().map(|line| {
        let of_file = line.key.strip_suffix("_file").and_then(|key| by_key.get(key)).map(|name| format!("{name}_FILE"));
        let name = by_key.get(&line.key).map(|name| (*name).to_owned()).or(of_file);
        Entry { name, written: line.key, text: line.text, origin: line.origin }
    });
    let entries = entries
        .filter(|entry| !entry.name.as_deref().is_some_and(|name| is_overridden(name, skipped)))
        .filter(|entry| {
            let misplaced = entry.name.as_deref() == Some(CONFIG);
            if misplaced {
                errors.push(problem(entry, "can be given in the environment only"));
            }
            !misplaced
        });
    let entries = entries.collect();
    resolve(entries, declared, executed, Variable::key, errors)
}

/// The environment's entries: those that are declared, and those that look as if they were meant for us.
fn environment_entries(sources: &Sources, declared: &Catalogue, errors: &mut Vec<ConfigError>) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (name, value) in &sources.environment {
        let bare = name.strip_suffix("_FILE").unwrap_or(name);
        let ours = declared.contains_key(name.as_str()) || declared.contains_key(bare) || is_meant_for_us(name);
        if !ours || is_overridden(name, &sources.overrides) {
            continue;
        }
        let origin = "environment".to_owned();
        match value.to_str() {
            Some(text) => {
                entries.push(Entry {
                    name: Some(name.clone()),
                    written: name.clone(),
                    text: SecretString::from(text),
                    origin,
                });
            }
            None => errors.push(ConfigError { name: name.clone(), origin, problem: "is not valid UTF-8".into() }),
        }
    }
    entries
}

/// Whether a command gave or took away this setting, so that what a source says about it does not matter.
fn is_overridden(name: &str, overrides: &BTreeMap<String, Option<SecretString>>) -> bool {
    overrides.contains_key(name) || name.strip_suffix("_FILE").is_some_and(|name| overrides.contains_key(name))
}

/// Whether a variable carries our prefix by intent. The tests have variables of their own; and Kubernetes puts
/// `FINHOOK_SERVICE_HOST`, `FINHOOK_PORT_8080_TCP` and the like into every pod beside a service called finhook.
fn is_meant_for_us(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("FINHOOK_") else { return false };
    let rest = format!("_{rest}");
    let service_link = rest.contains("_SERVICE_HOST")
        || rest.contains("_SERVICE_PORT")
        || rest.ends_with("_PORT")
        || rest.split_once("_PORT_").is_some_and(|(_, port)| port.starts_with(|first: char| first.is_ascii_digit()));
    !rest.starts_with("_TEST_") && !service_link
}

/// Checks the names of one source's entries and reads what `NAME_FILE` points to. `spelled` is how that source writes a
/// variable, for suggestions.
fn resolve(
    entries: Vec<Entry>,
    declared: &Catalogue,
    executed: &Executed,
    spelled: impl Fn(&Variable) -> String,
    errors: &mut Vec<ConfigError>,
) -> Layer {
    let mut layer = Layer::new();
    for entry in entries {
        let name = entry.name.as_deref().unwrap_or_default();
        let direct = declared.get(name);
        let secret_file = || declared.get(name.strip_suffix("_FILE")?).filter(|variable| variable.secret);
        let (variable, value) = match (direct, secret_file()) {
            (Some(variable), _) => match command_of(entry.text.expose_secret()).filter(|_| variable.secret) {
                Some(line) => (variable, print_secret(line, declared, executed)),
                None => (variable, Ok(Given { text: entry.text.clone(), origin: entry.origin.clone() })),
            },
            (None, Some(variable)) => (variable, read_secret(entry.text.expose_secret())),
            (None, None) => {
                errors.push(problem(&entry, unknown(&entry.written, declared.values().map(&spelled))));
                continue;
            }
        };
        // Compose files pass unset variables on as empty ones.
        if entry.text.expose_secret().trim().is_empty() {
            continue;
        }
        match value {
            Ok(_) if layer.contains_key(variable.name) => {
                let (name, file) = (spelled(variable), &entry.written);
                errors.push(problem(&entry, format!("{name} and {file} are both given: give one")));
            }
            Ok(given) if given.text.expose_secret().trim().is_empty() => {
                errors.push(problem(&entry, "is an empty file"))
            }
            Ok(given) => {
                layer.insert(variable.name, given);
            }
            Err(reason) => errors.push(problem(&entry, reason)),
        }
    }
    layer
}

/// A secret that a command prints. It does not get to see the secrets that we were given.
fn print_secret(line: &str, declared: &Catalogue, executed: &Executed) -> Result<Given, String> {
    let hidden = declared.values().filter(|variable| variable.secret).map(|variable| variable.name);
    executed.run(line, hidden).map(|(text, origin)| Given { text, origin })
}

/// A secret from its file, without the newline that editors and `echo` put at the end.
fn read_secret(path: &str) -> Result<Given, String> {
    let text = fs::read_to_string(path).map(Zeroizing::new);
    let text = text.map_err(|error| format!("{} cannot be read: {}", Path::new(path).display(), error.kind()))?;
    let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    Ok(Given { text: SecretString::from(text), origin: format!("file {path}") })
}

fn problem(entry: &Entry, problem: impl Into<String>) -> ConfigError {
    ConfigError { name: entry.written.clone(), origin: entry.origin.clone(), problem: problem.into() }
}

/// What to say about a name that nobody declared.
fn unknown(written: &str, known: impl Iterator<Item = String>) -> String {
    let bare = |name: &str| name.to_ascii_lowercase().trim_start_matches("finhook_").to_owned();
    let likeness = |known: &String| strsim::normalized_damerau_levenshtein(&bare(written), &bare(known));
    let scored = known.map(|known| (likeness(&known), known));
    match scored.max_by(|one, other| one.0.total_cmp(&other.0)) {
        Some((likeness, known)) if likeness > 0.6 => format!("is not a setting; did you mean {known}?"),
        _ => "is not a setting; `finhook check` lists all".into(),
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
