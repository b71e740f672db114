//! Every setting that is not a provider's: the list from which `finhook check`, the README's table and the tests are made.
//! A provider declares its own in its file.

use super::Variable;

const fn plain(name: &'static str, default: Option<&'static str>, help: &'static str) -> Variable {
    Variable { name, secret: false, default, help }
}

const fn secret(name: &'static str, help: &'static str) -> Variable {
    Variable { name, secret: true, default: None, help }
}

/// Every setting that is not a provider's.
pub const VARIABLES: &[Variable] = &[
    // The two URLs count as secrets because passwords stand in them.
    secret("DATABASE_URL", "The store: postgres://… or sqlite://path; unset, an embedded one in the data folder."),
    secret("AMQP_URL", "The broker: amqp://… or amqps://…; unset, an embedded queue, which needs the sqlite store."),
    plain(
        "FINHOOK_TRUST_NETWORK",
        Some("false"),
        "Whether database and broker may be on other machines without verified TLS (sslmode=verify-full, amqps).",
    ),
    plain("FINHOOK_CONFIG", Some("finhook.toml"), "The configuration file; only the environment can name it."),
    plain("FINHOOK_DATA_DIR", Some("./finhook-data"), "The folder of the embedded database, queue and secrets."),
    plain("FINHOOK_HTTP_BIND", Some("127.0.0.1:8080"), "Where providers post webhooks."),
    plain("FINHOOK_HTTP_TLS_CERT", None, "The certificate chain (a PEM file) with which that port speaks HTTPS."),
    plain("FINHOOK_HTTP_TLS_KEY", None, "Its key (a PEM file); both are read again when they change."),
    plain("FINHOOK_OPS_BIND", Some("127.0.0.1:9090"), "Where health, metrics, the dashboard and /v1 are served."),
    plain(
        "FINHOOK_OPS_TLS_CERT",
        None,
        "The certificate chain (a PEM file) with which the operators' port speaks HTTPS.",
    ),
    plain("FINHOOK_OPS_TLS_KEY", None, "Its key (a PEM file); both are read again when they change."),
    secret("FINHOOK_OPS_TOKENS", "Bearer tokens of /v1 as ROLE:TOKEN, roles ops and app; without any, loopback only."),
    secret("FINHOOK_KEYS", "The key ring as ID:KEY[,ID:KEY…], keys in base64 of 32 bytes; the first seals, all open."),
    secret("FINHOOK_INDEX_KEY", "The key of the blind indexes, base64 of 32 bytes; it cannot be rotated."),
    secret(
        "FINHOOK_URL_KEYS",
        "Keys of bound webhook URLs, base64 of 32 bytes each; the first mints; without any they are off.",
    ),
    secret(
        "FINHOOK_TYPEORM_KEY",
        "The key with which typeorm-encrypted wrote the product's columns, 64 hex digits; until they are moved in for good.",
    ),
    plain("FINHOOK_TYPEORM_IV", None, "Its IV, 32 hex digits, where it is fixed and not in front of the values."),
    plain("FINHOOK_TYPEORM_ENCODING", Some("base64"), "How it wrote them: base64 or hex."),
    plain("FINHOOK_AMQP_PREFIX", Some("finhook"), "What the names of exchange and queues start with."),
    secret(
        "FINHOOK_RABBITMQ_MANAGEMENT_URL",
        "RabbitMQ's management API (http://user:password@host:15672), asked for unacked messages and rates; user and \
         password are those of AMQP_URL if it has none.",
    ),
    plain("FINHOOK_CREATE_USERS", Some("true"), "Whether a user that a verified event names is created if missing."),
    plain(
        "FINHOOK_UNLINKED_DAYS",
        Some("90"),
        "How many days an event waits for its subject's user before it is dead.",
    ),
    plain(
        "FINHOOK_PAYLOAD_DAYS",
        None,
        "How many days after receipt the sealed payload of an applied or recorded event is kept; unset, as long as its row.",
    ),
    plain(
        "FINHOOK_EVENT_DAYS",
        None,
        "How many days, at least 90, rows of applied, recorded and dead events are kept; unset, for ever.",
    ),
    plain("FINHOOK_MAX_BODY_BYTES", Some("1048576"), "The largest webhook body that is read; larger ones get 413."),
    plain("FINHOOK_MAX_IN_FLIGHT", Some("1024"), "How many deliveries are handled at once; more get 503."),
    plain("FINHOOK_MAX_IN_FLIGHT_BYTES", Some("16777216"), "How many bytes of bodies are held at once; more get 503."),
    plain("FINHOOK_MAX_CONNECTIONS", Some("12288"), "How many connections the webhook port holds open."),
    plain(
        "FINHOOK_TRUSTED_PROXIES",
        None,
        "Addresses and networks whose X-Forwarded-For is believed where a provider's ALLOW_FROM is checked, comma-separated.",
    ),
    plain(
        "FINHOOK_CONFIRM_TIMEOUT",
        Some("5s"),
        "How long a delivery waits for the queue's confirm before its sender gets 503; with a spool, 2s at most.",
    ),
    plain(
        "FINHOOK_SPOOL",
        None,
        "A file or folder on a disk that outlives the process, where a receiver keeps deliveries that the broker does not \
         take and answers 200; unset, their senders get 503.",
    ),
    plain("FINHOOK_SPOOL_MAX_BYTES", Some("1073741824"), "How many bytes of deliveries the spool holds; more get 503."),
    plain("FINHOOK_SHUTDOWN_TIMEOUT", Some("25s"), "How long a stopping process finishes what it began."),
    plain("FINHOOK_BATCH_MAX", Some("448"), "How many deliveries are committed together at most."),
    plain("FINHOOK_WORKERS", Some("4"), "How many workers one process runs."),
    plain(
        "FINHOOK_STALLED_AFTER",
        Some("60s"),
        "How long there may be work and nothing be committed before /readyz says no.",
    ),
    plain(
        "FINHOOK_NOTIFY",
        Some("true"),
        "Whether a commit on PostgreSQL notifies listeners of the channel finhook_changes of the rows that it changed.",
    ),
    plain(
        "FINHOOK_CHANGES_EXCHANGE",
        None,
        "An exchange at the broker of AMQP_URL where changed rows are told, at least once; made as a topic exchange if missing.",
    ),
    plain("FINHOOK_LOG", Some("info"), "What is logged, as a tracing filter (info, finhook=debug,warn)."),
    plain("FINHOOK_LOG_FORMAT", Some("auto"), "How it is logged: text, json, or auto: text on a terminal, else json."),
    plain(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        None,
        "Where spans are exported by OTLP over HTTP (http://collector:4318); unset, none are recorded.",
    ),
    plain("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", None, "The whole address instead, with its path."),
    secret("OTEL_EXPORTER_OTLP_HEADERS", "Header fields that authenticate there, as NAME=VALUE[,NAME=VALUE…]."),
    secret("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "The same for spans alone; they take the others' place."),
    plain("OTEL_EXPORTER_OTLP_TIMEOUT", Some("10000"), "How many milliseconds one export may take."),
    plain("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", None, "The same for spans alone."),
    plain("OTEL_EXPORTER_OTLP_PROTOCOL", Some("http/protobuf"), "The only protocol that is spoken."),
    plain("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", None, "The same for spans alone."),
    plain("OTEL_TRACES_EXPORTER", Some("otlp"), "Takes otlp, or none to switch the export off."),
    plain("OTEL_SDK_DISABLED", Some("false"), "Takes true to switch it off, whatever else is set."),
    plain("OTEL_SERVICE_NAME", Some("finhook"), "What this process is called in traces."),
    plain("OTEL_RESOURCE_ATTRIBUTES", None, "What else is said of it, as NAME=VALUE[,NAME=VALUE…]."),
    plain(
        "OTEL_TRACES_SAMPLER",
        Some("parentbased_always_on"),
        "Which spans are recorded: always_on, always_off or traceidratio, each also with parentbased_ before it.",
    ),
    plain("OTEL_TRACES_SAMPLER_ARG", Some("1"), "The share of traceidratio, 0 to 1."),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_variable_is_declared_once_and_explained_in_one_sentence() {
        let names: BTreeSet<&str> = VARIABLES.iter().map(|variable| variable.name).collect();
        assert_eq!(names.len(), VARIABLES.len());
        for variable in VARIABLES {
            assert!(variable.help.ends_with('.') && variable.help.matches(". ").count() == 0, "{}", variable.name);
            assert!(!variable.secret || variable.default.is_none(), "{}", variable.name);
        }
    }
}
