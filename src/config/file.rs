//! A TOML file as a flat list of settings, each with its line. Values are strings, integers, booleans or lists of strings.

use secrecy::SecretString;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::ConfigError;

/// One setting as it stands in a file.
pub(super) struct Line {
    /// Its key as written.
    pub(super) key: String,
    /// Its value as the environment would have it.
    pub(super) text: SecretString,
    /// `finhook.toml:12`.
    pub(super) origin: String,
}

/// Reads a file's lines. All problems are reported, and none quotes a value.
pub(super) fn lines(name: &str, text: &str) -> Result<Vec<Line>, Vec<ConfigError>> {
    let line_of = |at: usize| 1 + text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count();
    let origin = |at: usize| format!("{name}:{}", line_of(at));
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let problem = |error: &toml::de::Error| ConfigError {
            name: name.to_owned(),
            origin: origin(error.span().map_or(0, |span| span.start)),
            // The message names what the grammar wants there and never what stands there; only its rendering quotes the line.
            problem: format!("is not TOML ({}): a line is KEY = VALUE, and text stands in quotes", error.message()),
        };
        // One broken line makes the parser stumble over the next ones too: the first says enough.
        return Err(errors.first().map(problem).into_iter().collect());
    }
    let (mut lines, mut errors) = (Vec::new(), Vec::new());
    for (key, value) in table.get_ref() {
        let (key, origin) = (key.get_ref().to_string(), origin(key.span().start));
        match as_text(value.get_ref()) {
            Ok(text) => lines.push(Line { key, text: SecretString::from(text.as_str()), origin }),
            Err(problem) => errors.push(ConfigError { name: key, origin, problem: problem.into() }),
        }
    }
    if errors.is_empty() { Ok(lines) } else { Err(errors) }
}

/// A value as the environment would have it.
fn as_text(value: &DeValue<'_>) -> Result<Zeroizing<String>, &'static str> {
    let text = match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(|number| number.to_string())
            .map_err(|_| "is a number out of range")?,
        DeValue::Array(items) => {
            let items = items.iter().map(|item| match item.get_ref() {
                DeValue::String(item) if item.contains(',') => {
                    Err("has an entry with a comma, which separates entries")
                }
                DeValue::String(item) => Ok(item.as_ref()),
                _ => Err("is a list of something else than strings"),
            });
            items.collect::<Result<Vec<_>, _>>()?.join(",")
        }
        DeValue::Table(_) => {
            return Err("is a table, and settings are not nested: write KEY = VALUE above any [table]");
        }
        DeValue::Float(_) | DeValue::Datetime(_) => return Err("takes a string, an integer, true, false or a list"),
    };
    Ok(Zeroizing::new(text))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn problem(text: &str) -> String {
        let errors = lines("finhook.toml", text).err().unwrap();
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn values_become_what_the_environment_would_hold() {
        let text = "a = \"x\"\n\nb = 1_000\nc = true\nd = [\"p\", \"q\"] # list\ne = 0x10\n";
        let lines = lines("finhook.toml", text).unwrap();
        let shown: Vec<_> = lines.iter().map(|line| (line.text.expose_secret(), line.origin.as_str())).collect();
        let expected = [
            ("x", "finhook.toml:1"),
            ("1000", "finhook.toml:3"),
            ("true", "finhook.toml:4"),
            ("p,q", "finhook.toml:5"),
            ("16", "finhook.toml:6"),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_is_not_toml_is_named_by_line_and_never_quoted() {
        for text in ["\nkeys = 1:hunter2=\n", "\nkeys = \"hunter2\n", "\nkeys = 'a'\nkeys = 'hunter2'", "\n[hunter2"] {
            let problem = problem(text);
            assert!(problem.starts_with("finhook.toml (finhook.toml:"), "{problem}");
            assert!(problem.contains("is not TOML") && !problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn shapes_that_no_setting_has_are_all_reported_with_their_lines() {
        let problem = problem("a = 1.5\nb = [1]\nc = [\"p,q\"]\n\n[http]\nbind = \"x\"\n");
        assert_eq!(problem.matches(" | ").count(), 3);
        assert!(
            problem.contains("a (finhook.toml:1)") && problem.contains("http (finhook.toml:5): is a table"),
            "{problem}"
        );
    }
}
