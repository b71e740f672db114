//! The laws of the house as tests: who may import whom, who owns which crate, and what every file has to have.
//!
//! Plain text is read, with comments and test code left out where a law is about the program. A law that is in the way is
//! changed here and in the header that states it, in one commit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which rooms a room may import; `lib.rs` and `main.rs` are no rooms.
const IMPORTS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("config", &[]),
    ("fixtures", &["domain"]),
    ("ops", &["domain", "config"]),
    ("crypto", &["domain", "config"]),
    ("providers", &["domain", "config", "crypto"]),
    ("queue", &["domain", "config", "crypto", "ops"]),
    ("store", &["domain", "config", "crypto", "ops"]),
    ("pipeline", &["domain", "config", "crypto", "providers", "queue", "store", "ops"]),
    ("http", &["domain", "config", "ops", "pipeline"]),
    ("cli", &["domain", "config", "fixtures", "ops", "crypto", "providers", "queue", "store", "pipeline", "http"]),
];

/// What is named in one place only: the name as it stands in code, and the beginnings of the paths that may have it.
const OWNERS: &[(&str, &[&str])] = &[
    ("axum::", &["src/http"]),
    ("lapin::", &["src/queue/rabbitmq"]),
    ("async_rs::", &["src/queue/rabbitmq/gate.rs"]),
    ("sqlx::", &["src/store", "src/queue/embedded"]),
    ("aes_gcm::", &["src/crypto"]),
    ("xaes_256_gcm::", &["src/crypto"]),
    ("hkdf::", &["src/crypto"]),
    ("clap::", &["src/cli", "src/main.rs"]),
    ("include_dir::", &["src/fixtures"]),
    ("backoff::", &["src/ops/delays.rs"]),
    ("std::env", &["src/config"]),
    ("now_utc", &["src/domain"]),
    ("SystemTime::now", &["src/domain"]),
    ("Delivery::assemble", &["src/domain", "src/providers/mod.rs", "src/crypto"]),
    ("SealedDelivery::restored", &["src/crypto", "src/queue/spool"]),
];

/// Names that say nothing about what is in a file.
const EMPTY_NAMES: &[&str] = &["utils", "util", "helpers", "helper", "manager", "common", "core", "types", "misc"];

/// How many steps the way of a webhook has.
const STEPS: usize = 12;

struct Source {
    /// From the repository's root, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// The name of the folder below `src`, or of the file that opens such a folder.
    fn room(&self) -> &str {
        let inside = self.path.strip_prefix("src/").unwrap_or_default();
        inside.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// What the program is made of: no comments, and nothing from the first inline test module on.
    fn code(&self) -> String {
        let program = match self.text.find("#[cfg(test)]\nmod ") {
            // A test module in a file of its own is one line here; the code may go on behind it.
            Some(at) if self.text[at..].lines().nth(1).is_some_and(|line| line.ends_with('{')) => &self.text[..at],
            _ => &self.text,
        };
        let lines = program.lines().filter(|line| !line.trim_start().starts_with("//"));
        lines.map(|line| line.split(" // ").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names in a folder, sorted; none if it is not there.
fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).into_iter().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Every Rust file below a folder.
fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    for name in names(folder) {
        let path = format!("{folder}/{name}");
        if root().join(&path).is_dir() {
            found.extend(sources(&path));
        } else if name.ends_with(".rs") {
            found.push(Source { text: read(&path), path });
        }
    }
    found
}

/// The files of the program: those of `src` that are not declared below `#[cfg(test)]`.
fn program() -> Vec<Source> {
    let all = sources("src");
    let mut tests = BTreeSet::new();
    for source in &all {
        let here = Path::new(&source.path);
        let folder = match here.file_stem().and_then(|stem| stem.to_str()) {
            Some("mod" | "lib" | "main") | None => here.parent().unwrap().to_owned(),
            Some(stem) => here.with_file_name(stem),
        };
        let mut below_cfg_test = false;
        for line in source.text.lines().map(str::trim) {
            let declared = line.trim_start_matches("pub(crate) ").trim_start_matches("pub ").strip_prefix("mod ");
            if let (true, Some(name)) = (below_cfg_test, declared.and_then(|rest| rest.strip_suffix(';'))) {
                tests.insert(folder.join(name).to_str().unwrap().to_owned());
            }
            below_cfg_test = line == "#[cfg(test)]" || (below_cfg_test && line.starts_with('#'));
        }
    }
    let is_test =
        |path: &str| tests.iter().any(|test| path == format!("{test}.rs") || path.starts_with(&format!("{test}/")));
    all.into_iter().filter(|source| !is_test(&source.path)).collect()
}

/// The modules of ours that `code` names: what follows `crate::`, also in braces.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(first_word(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = true;
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                c if start && depth == 0 && c.is_alphanumeric() => {
                    found.insert(first_word(&list[at..]));
                    start = false;
                }
                _ => {}
            }
        }
    }
    found
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Whether `code` names `name`, and not only something that ends like it.
fn has(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && c != '_')
    })
}

/// Fails with all that was found, one per line.
fn none(law: &str, found: &[String]) {
    assert!(found.is_empty(), "{law}\n  {}\n", found.join("\n  "));
}

#[test]
fn rooms_import_only_lower_rooms() {
    let rooms: BTreeMap<&str, &[&str]> = IMPORTS.iter().copied().collect();
    let mut found = Vec::new();
    for source in program().iter().filter(|source| !["lib", "main"].contains(&source.room())) {
        let Some(allowed) = rooms.get(source.room()) else {
            found.push(format!("{}: {} is no room; give it its place in IMPORTS", source.path, source.room()));
            continue;
        };
        for import in imports(&source.code()) {
            if rooms.contains_key(import.as_str()) && import != source.room() && !allowed.contains(&import.as_str()) {
                found.push(format!("{}: {} may not import {import}", source.path, source.room()));
            }
        }
    }
    none("a room imports only what IMPORTS in this file allows it:", &found);
}

#[test]
fn what_has_an_owner_is_named_there_only() {
    let mut found = Vec::new();
    for source in &program() {
        let code = source.code();
        for (name, owners) in OWNERS {
            if has(&code, name) && !owners.iter().any(|owner| source.path.starts_with(owner)) {
                found.push(format!("{}: {name} belongs to {}", source.path, owners.join(" and ")));
            }
        }
    }
    none("a crate or call with an owner is named by its owner only:", &found);
}

#[test]
fn every_file_opens_with_a_sentence() {
    let mut found = Vec::new();
    for source in sources("src").iter().chain(&sources("tests")) {
        let header = source.text.lines().map_while(|line| line.strip_prefix("//! "));
        let paragraph = header.collect::<Vec<_>>().join(" ");
        if !paragraph.contains(['.', ':']) {
            found.push(source.path.clone());
        }
    }
    none("these files do not begin with a `//!` sentence that says what they answer:", &found);
}

#[test]
fn files_are_named_after_what_is_in_them() {
    let parts = |source: &Source| {
        source.path.split('/').map(|part| part.trim_end_matches(".rs").to_owned()).collect::<Vec<_>>()
    };
    let all = sources("src");
    let found: Vec<String> = all
        .iter()
        .filter(|source| parts(source).iter().any(|part| EMPTY_NAMES.contains(&part.as_str())))
        .map(|source| source.path.clone())
        .collect();
    none("these names say nothing:", &found);
}

#[test]
fn every_provider_is_in_the_list_and_has_fixtures() {
    let list = read("src/providers/mod.rs");
    let list = list.split_once("pub static PROVIDERS").and_then(|(_, rest)| rest.split_once(';')).unwrap().0.to_owned();
    let mut found = Vec::new();
    let mut providers = BTreeSet::new();
    for source in sources("src/providers").iter().filter(|source| source.code().contains("pub static PROVIDER: ")) {
        let name = source.path.trim_start_matches("src/providers/").trim_end_matches(".rs").trim_end_matches("/mod");
        providers.insert(name.to_owned());
        if !list.contains(&format!("&{name}::PROVIDER")) {
            found.push(format!("{}: not in PROVIDERS", source.path));
        }
        if names(&format!("fixtures/{name}")).is_empty() {
            found.push(format!("{}: no fixture in fixtures/{name}", source.path));
        }
    }
    for folder in names("fixtures").iter().filter(|folder| !providers.contains(*folder)) {
        found.push(format!("fixtures/{folder}: no provider of that name"));
    }
    none("a provider is a file, an entry in PROVIDERS and a folder of fixtures:", &found);
}

#[test]
fn every_fixture_is_a_test() {
    let used = sources("tests").iter().any(|source| source.code().contains("\"/fixture_tests.rs\""));
    assert!(
        used,
        "no file in tests/ includes OUT_DIR's fixture_tests.rs, which makes each fixture a test (see build.rs)"
    );
}

#[test]
fn both_databases_have_the_same_migrations() {
    let postgres = names("migrations/postgres");
    assert_eq!(postgres, names("migrations/sqlite"), "migrations/postgres and migrations/sqlite differ in names");
    assert!(!postgres.is_empty(), "there are no migrations");
    let mut found = Vec::new();
    for (at, pair) in postgres.chunks(2).enumerate() {
        let number = format!("{:04}_", at + 1);
        let stem = pair[0].strip_suffix(".down.sql").unwrap_or_default();
        if !stem.starts_with(&number) || pair.get(1) != Some(&format!("{stem}.up.sql")) {
            found.push(format!("{pair:?}: expected {number}….down.sql and the .up.sql of the same name"));
        }
        if stem.matches('_').count() < 3 {
            found.push(format!("{stem}: a migration's name is a sentence"));
        }
    }
    none("migrations are numbered without gaps and go up and down:", &found);
}

#[test]
fn the_steps_in_the_code_are_those_of_the_list() {
    let lib = read("src/lib.rs");
    let list: Vec<(usize, &str)> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("//!")?.trim_start().split_once(' '))
        .filter_map(|(number, step)| Some((number.parse().ok()?, step.trim_start())))
        .collect();
    let numbers: Vec<usize> = list.iter().map(|(number, _)| *number).collect();
    let wanted: Vec<usize> = (1..=STEPS).collect();
    assert_eq!(
        numbers, wanted,
        "the header of src/lib.rs lists the way's steps, one per line, `//!  1 http::webhooks …`"
    );

    let mut marked: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    let mut found = Vec::new();
    for source in &program() {
        for (at, _) in source.text.match_indices("way: ") {
            let Some((number, rest)) = source.text[at + "way: ".len()..].split_once('/') else { continue };
            let Ok(number) = number.parse::<usize>() else { continue };
            if first_word(rest) != STEPS.to_string() || !wanted.contains(&number) {
                found.push(format!("{}: way: {number}/{} is no step", source.path, first_word(rest)));
            }
            marked.entry(number).or_default().insert(source.room().to_owned());
        }
    }
    for (number, step) in list {
        let room = first_word(step);
        let rooms = marked.get(&number).cloned().unwrap_or_default();
        if rooms.is_empty() {
            found.push(format!(
                "step {number} ({step}) is marked nowhere; put `way: {number}/{STEPS}` where it is taken"
            ));
        } else if IMPORTS.iter().any(|(name, _)| *name == room) && !rooms.contains(&room) {
            found.push(format!("step {number} ({step}) is marked in {rooms:?} and not in {room}"));
        }
    }
    none("the way in src/lib.rs and its marks in the code agree:", &found);
}

#[test]
fn nothing_is_unfinished_or_switched_off() {
    // In two parts, so that this file does not find itself.
    let marks = [concat!("#[", "ignore"), concat!("todo", "!("), concat!("unimplemented", "!("), concat!("dbg", "!(")];
    let mut found = Vec::new();
    for source in sources("src").iter().chain(&sources("tests")).chain(&sources("benches")) {
        for (at, line) in source.text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                found.push(format!("{}:{}: {}", source.path, at + 1, line.trim()));
            }
        }
    }
    none("left over:", &found);
}

#[test]
fn imports_are_read_with_and_without_braces() {
    let code = "use crate::domain::Event;\nuse crate::{crypto::{self, KeyRing}, store, queue::Queue as Q};\nlet x = crate::ops::now();";
    assert_eq!(imports(code).into_iter().collect::<Vec<_>>(), ["crypto", "domain", "ops", "queue", "store"]);
}

#[test]
fn names_are_found_whole() {
    assert!(has("use axum::Router;", "axum::"));
    assert!(!has("use my_axum::Router;", "axum::"));
}
