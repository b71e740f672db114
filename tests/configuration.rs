//! The README's table of settings is the list that the code declares: every variable, its default and its meaning.

use finhook::config::{VARIABLES, Variable};
use finhook::providers::PROVIDERS;

const BEGIN: &str = "<!-- configuration:begin -->\n";
const END: &str = "<!-- configuration:end -->";

/// All settings, the providers' last.
fn variables() -> Vec<&'static Variable> {
    VARIABLES.iter().chain(PROVIDERS.iter().flat_map(|provider| provider.variables)).collect()
}

/// The table as it has to stand in the README.
fn table() -> String {
    let mut table = String::from("| Variable | Default | Meaning |\n| --- | --- | --- |\n");
    for variable in variables() {
        let secret = if variable.secret { " \\*" } else { "" };
        let default = variable.default.map(|default| format!(" `{default}`")).unwrap_or_default();
        let help = variable.help.replace('|', "\\|");
        table.push_str(&format!("| `{}`{secret} |{default} | {help} |\n", variable.name));
    }
    table
}

#[test]
fn the_readme_lists_every_setting() {
    let readme = include_str!("../README.md");
    let (_, rest) = readme.split_once(BEGIN).expect("the README marks where the table begins");
    let (written, _) = rest.split_once(END).expect("the README marks where the table ends");
    let declared = table();
    let missing: Vec<&str> = declared.lines().filter(|row| !written.lines().any(|line| line == *row)).collect();
    let surplus: Vec<&str> = written.lines().filter(|row| !declared.lines().any(|line| line == *row)).collect();
    assert!(
        written == declared,
        "README.md, between the configuration marks.\nmissing: {missing:#?}\nsurplus: {surplus:#?}\nall of it:\n{declared}"
    );
}

#[test]
fn no_setting_is_declared_twice() {
    let mut names: Vec<&str> = variables().iter().map(|variable| variable.name).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all, "a name is in the list twice");
}
