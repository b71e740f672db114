//! Precedence, unknown names, `NAME_FILE`, and that all problems come at once.

use secrecy::ExposeSecret;

use super::*;

const DECLARED: &[Variable] = &[
    Variable { name: "FINHOOK_UNIT_TOKENS", secret: true, default: None, help: "Tokens." },
    Variable { name: "FINHOOK_PLAID_JWKS_FILE", secret: false, default: None, help: "A file." },
];

fn load(sources: Sources) -> Result<Values, String> {
    Values::load(&sources, &[DECLARED])
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | "))
}

fn of(environment: &[(&str, &str)]) -> Sources {
    Sources::of(environment.iter().copied())
}

fn exposed(values: &Values, name: &str) -> String {
    values.secret(name).unwrap().unwrap().expose_secret().to_owned()
}

#[test]
fn the_environment_beats_the_file_and_the_file_beats_the_default() {
    let file = "workers = 3\nbatch_max = 9\ndatabase_url = \"sqlite://x.db\"\nunit_tokens = [\"a\", \"b\"]\n";
    let values = load(of(&[("FINHOOK_WORKERS", "4")]).with_file("finhook.toml", file)).unwrap();
    assert_eq!(
        (values.number("FINHOOK_WORKERS").unwrap(), values.origin("FINHOOK_WORKERS")),
        (4, "environment".into())
    );
    assert_eq!(values.origin("FINHOOK_BATCH_MAX"), "finhook.toml:2");
    assert_eq!(exposed(&values, "DATABASE_URL"), "sqlite://x.db");
    assert_eq!(values.secrets("FINHOOK_UNIT_TOKENS").unwrap().len(), 2);
    assert_eq!(values.number("FINHOOK_UNLINKED_DAYS").unwrap(), 90);
}

#[test]
fn a_blank_variable_leaves_the_file_in_force() {
    let values = load(of(&[("FINHOOK_WORKERS", "")]).with_file("finhook.toml", "workers = 3")).unwrap();
    assert_eq!(values.number("FINHOOK_WORKERS").unwrap(), 3);
}

#[test]
fn an_unknown_variable_is_an_error_with_a_suggestion() {
    let problem = load(of(&[("FINHOOK_UNIT_TOKEN", "hunter2")])).err().unwrap();
    assert_eq!(problem, "FINHOOK_UNIT_TOKEN (environment): is not a setting; did you mean FINHOOK_UNIT_TOKENS?");
    let problem = load(of(&[("FINHOOK_COLOUR_SCHEME", "hunter2")])).err().unwrap();
    assert_eq!(problem, "FINHOOK_COLOUR_SCHEME (environment): is not a setting; `finhook check` lists all");
}

#[test]
fn an_unknown_key_is_an_error_with_its_line_and_a_suggestion() {
    let file = "workers = 1\n\nunit_token = \"hunter2\"\nFINHOOK_KEYS = \"hunter2\"\nconfig = \"other.toml\"\n";
    let problem = load(of(&[]).with_file("finhook.toml", file)).err().unwrap();
    assert!(problem.contains("unit_token (finhook.toml:3): is not a setting; did you mean unit_tokens?"), "{problem}");
    assert!(problem.contains("FINHOOK_KEYS (finhook.toml:4): is not a setting; did you mean keys?"), "{problem}");
    assert!(problem.contains("config (finhook.toml:5): can be given in the environment only"), "{problem}");
    assert!(!problem.contains("hunter2"), "{problem}");
}

#[test]
fn what_tests_and_kubernetes_put_into_the_environment_is_not_ours() {
    let environment = [
        ("FINHOOK_TEST_DATABASE_URL", "postgres://x"),
        ("FINHOOK_SERVICE_HOST", "10.0.0.1"),
        ("FINHOOK_SERVICE_PORT_HTTP", "8080"),
        ("FINHOOK_PORT", "tcp://10.0.0.1:8080"),
        ("FINHOOK_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("FINHOOK_WORKER_PORT_9090_TCP", "tcp://10.0.0.1:9090"),
        ("DATABASE_URLS", "x"),
    ];
    assert!(load(of(&environment)).is_ok());
}

#[test]
fn a_secret_is_read_from_its_file_without_the_last_newline() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    fs::write(&path, "a,b\r\n").unwrap();
    let path = path.to_str().unwrap();
    let values = load(of(&[("FINHOOK_UNIT_TOKENS_FILE", path)])).unwrap();
    assert_eq!(exposed(&values, "FINHOOK_UNIT_TOKENS"), "a,b");
    assert_eq!(values.origin("FINHOOK_UNIT_TOKENS"), format!("file {path}"));
    let values = load(of(&[]).with_file("finhook.toml", format!("amqp_url_file = {path:?}"))).unwrap();
    assert_eq!(exposed(&values, "AMQP_URL"), "a,b");
}

#[test]
fn a_secret_given_twice_in_one_source_is_an_error_and_in_two_the_higher_wins() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    fs::write(&path, "from file").unwrap();
    let path = path.to_str().unwrap();
    let problem = load(of(&[("FINHOOK_UNIT_TOKENS", "a"), ("FINHOOK_UNIT_TOKENS_FILE", path)])).err().unwrap();
    assert!(problem.contains("FINHOOK_UNIT_TOKENS and FINHOOK_UNIT_TOKENS_FILE are both given"), "{problem}");
    let sources = of(&[("FINHOOK_UNIT_TOKENS", "a")]).with_file("finhook.toml", format!("unit_tokens_file = {path:?}"));
    assert_eq!(exposed(&load(sources).unwrap(), "FINHOOK_UNIT_TOKENS"), "a");
}

#[test]
fn a_secret_file_that_cannot_be_read_or_is_empty_is_named() {
    let problem = load(of(&[("FINHOOK_KEYS_FILE", "/nowhere/keys")])).err().unwrap();
    assert!(problem.starts_with("FINHOOK_KEYS_FILE (environment): /nowhere/keys cannot be read"), "{problem}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty");
    fs::write(&path, "\n").unwrap();
    let problem = load(of(&[("FINHOOK_KEYS_FILE", path.to_str().unwrap())])).err().unwrap();
    assert!(problem.contains("is an empty file"), "{problem}");
}

#[test]
fn only_secrets_have_a_file_and_a_name_that_ends_so_is_itself() {
    assert!(load(of(&[("FINHOOK_WORKERS_FILE", "/nowhere")])).err().unwrap().contains("is not a setting"));
    let values = load(of(&[("FINHOOK_PLAID_JWKS_FILE", "/nowhere/jwks.json")])).unwrap();
    assert_eq!(values.text("FINHOOK_PLAID_JWKS_FILE").unwrap(), "/nowhere/jwks.json");
}

#[test]
fn all_problems_are_reported_at_once() {
    let environment = [("FINHOOK_KEY", "x"), ("FINHOOK_WORKER", "x"), ("FINHOOK_KEYS_FILE", "/nowhere")];
    let problem = load(of(&environment).with_file("finhook.toml", "nonsense = 1\n")).err().unwrap();
    assert_eq!(problem.matches(" | ").count(), 3, "{problem}");
}

#[test]
fn a_command_can_give_a_setting_and_take_one_away_everywhere() {
    let sources = of(&[("DATABASE_URL", "postgres://real"), ("AMQP_URL_FILE", "/nowhere")])
        .with_file("finhook.toml", "database_url = \"postgres://real\"\n")
        .without("DATABASE_URL")
        .without("AMQP_URL")
        .with("FINHOOK_DATA_DIR", "/tmp/demo");
    let values = load(sources).unwrap();
    assert!(!values.is_given("DATABASE_URL") && !values.is_given("AMQP_URL"));
    assert_eq!(values.text("FINHOOK_DATA_DIR").unwrap(), "/tmp/demo");
    assert_eq!(values.origin("FINHOOK_DATA_DIR"), "command line");
}

#[cfg(unix)]
#[test]
fn a_value_that_is_not_text_is_named() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    let sources = Sources::of([("FINHOOK_LOG", OsString::from_vec(vec![0xff]))]);
    assert_eq!(load(sources).err().unwrap(), "FINHOOK_LOG (environment): is not valid UTF-8");
}

#[test]
fn a_secret_can_be_what_a_command_prints_and_other_settings_cannot() {
    let file = "unit_tokens = \"exec:echo from the file\"\n";
    let values = load(of(&[("FINHOOK_KEYS", "exec:echo '1:x'"), ("FINHOOK_AMQP_PREFIX", "exec:echo no")]));
    let values = values.unwrap();
    assert_eq!(
        (exposed(&values, "FINHOOK_KEYS").as_str(), values.origin("FINHOOK_KEYS").as_str()),
        ("1:x", "exec echo")
    );
    assert_eq!(values.text("FINHOOK_AMQP_PREFIX").unwrap(), "exec:echo no");
    let values = load(of(&[]).with_file("finhook.toml", file)).unwrap();
    assert_eq!(exposed(&values, "FINHOOK_UNIT_TOKENS"), "from the file");
}

#[test]
fn a_command_that_fails_is_an_error_of_its_setting_that_shows_nothing() {
    let given = [("FINHOOK_KEYS", "exec:sh -c 'echo hunter2 >&2; exit 1' hunter3"), ("FINHOOK_WORKERS", "2")];
    let problem = load(of(&given)).err().unwrap();
    assert!(problem.starts_with("FINHOOK_KEYS (environment): exec: sh ended with exit code 1"), "{problem}");
    assert!(!problem.contains("hunter"), "{problem}");
}
