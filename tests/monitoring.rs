//! What is shipped for Prometheus and Grafana: every metric that it names exists, and every alert fires when it should.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every word that looks like a metric of ours.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("finhook_")).map(str::to_owned).collect()
}

/// Every metric that there is, by the one list of their names, with the series that a histogram is made of.
fn known() -> BTreeSet<String> {
    let text = read("src/ops/metrics.rs");
    let names: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("const ")?.split_once("\"finhook_")?.1.split_once('"'))
        .map(|(name, _)| format!("finhook_{name}"))
        .collect();
    let seconds = names.iter().filter(|name| name.ends_with("_seconds"));
    let parts = seconds.flat_map(|name| ["bucket", "sum", "count"].map(|part| format!("{name}_{part}")));
    names.iter().cloned().chain(parts).collect()
}

#[test]
fn every_metric_that_rules_and_dashboard_name_exists() {
    let known = known();
    assert!(known.contains("finhook_deliveries_total") && known.len() > 15, "{known:?}");
    for path in ["deploy/prometheus/rules.yml", "tests/prometheus/rules.test.yml", "deploy/grafana/finhook.json"] {
        let unknown: Vec<_> = named(&read(path)).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{path} names {unknown:?}");
    }
}

#[test]
fn the_dashboard_shows_every_metric_and_asks_where_it_is_imported() {
    let text = read("deploy/grafana/finhook.json");
    let board: Value = serde_json::from_str(&text).unwrap();
    let shown = named(&text);
    let known = known();
    let metrics = known.iter().filter(|name| !["_bucket", "_sum", "_count"].iter().any(|part| name.ends_with(part)));
    for metric in metrics {
        let bucket = format!("{metric}_bucket");
        assert!(shown.contains(metric) || shown.contains(&bucket), "{metric} is on no panel");
    }
    // No source of data of somebody else's Grafana is baked in: it is asked for.
    assert_eq!(board["templating"]["list"][0]["type"], "datasource");
    let panels = board["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels have the same id");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty());
        for source in targets.iter().map(|target| &target["datasource"]).chain([&panel["datasource"]]) {
            assert_eq!(source["uid"], "${datasource}", "{}", panel["title"]);
        }
    }
}

/// Prometheus' own tool; `None`, with a word, where there is none.
fn promtool(test: &str) -> Option<PathBuf> {
    let given = std::env::var_os("FINHOOK_TEST_PROMTOOL").map(PathBuf::from);
    let tool = given.unwrap_or_else(|| PathBuf::from("promtool"));
    if Command::new(&tool).arg("--version").output().is_ok_and(|said| said.status.success()) {
        return Some(tool);
    }
    let required = std::env::var("FINHOOK_TEST_REQUIRED").is_ok_and(|value| value == "1");
    assert!(!required, "{test} needs promtool (Debian package prometheus), or FINHOOK_TEST_PROMTOOL");
    let _ = writeln!(std::io::stderr(), "left out: {test}: there is no promtool");
    None
}

fn succeeds(tool: &Path, arguments: &[&str]) -> String {
    let said = Command::new(tool).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(said.status.success(), "{text}");
    text
}

#[test]
fn every_alert_is_a_rule_and_fires_when_it_should() {
    let Some(tool) = promtool("every_alert_is_a_rule") else { return };
    let said = succeeds(&tool, &["check", "rules", "deploy/prometheus/rules.yml"]);
    assert!(said.contains("rules found"), "{said}");
    succeeds(&tool, &["test", "rules", "tests/prometheus/rules.test.yml"]);
    let (rules, tests) = (read("deploy/prometheus/rules.yml"), read("tests/prometheus/rules.test.yml"));
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(alert), "{alert} is not tried");
    }
}

/// The dashboard's questions as Prometheus reads them: `promtool` parses each as a rule.
#[test]
fn every_panel_asks_what_prometheus_understands() {
    let Some(tool) = promtool("every_panel_asks") else { return };
    let board: Value = serde_json::from_str(&read("deploy/grafana/finhook.json")).unwrap();
    let questions = board["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let rules: Vec<Value> = questions
        .enumerate()
        .map(|(number, target)| {
            let question =
                target["expr"].as_str().unwrap().replace("$__rate_interval", "1m").replace("$instance", ".*");
            serde_json::json!({ "record": format!("panel:{number}"), "expr": question })
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("panels.yml");
    // JSON is YAML.
    let groups = serde_json::json!({ "groups": [{ "name": "panels", "rules": rules }] });
    std::fs::write(&file, groups.to_string()).unwrap();
    succeeds(&tool, &["check", "rules", file.to_str().unwrap()]);
}
