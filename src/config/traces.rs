//! Where spans are exported, from OpenTelemetry's own variables, which mean here what they mean everywhere
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>).
//!
//! `None` as long as no endpoint is given: the specification's default of `localhost` would make every finhook try one.

use std::time::Duration;

use http::Uri;
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};

use super::{ConfigError, Values};

const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const OWN: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const RATIO: &str = "OTEL_TRACES_SAMPLER_ARG";

/// The export of spans by OTLP, http/protobuf.
#[derive(Debug, Clone)]
pub struct TraceSettings {
    /// The whole address that is posted to.
    pub endpoint: String,
    /// Header fields that go with it; their values authenticate.
    pub headers: Vec<(String, SecretString)>,
    /// How long one post may take.
    pub timeout: Duration,
    /// What the process is called.
    pub service: String,
    /// What else is said of it.
    pub resource: Vec<(String, String)>,
    /// Which spans are recorded.
    pub sampling: Sampling,
}

/// Which spans are recorded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Whether a request that says whether it is recorded decides.
    pub follows_parent: bool,
    /// The share of the others, 0 to 1.
    pub ratio: f64,
}

impl TraceSettings {
    /// Reads them; `None` where nothing is to be exported.
    pub fn from_values(values: &Values) -> Result<Option<Self>, ConfigError> {
        let text = |name: &str| values.text(name).map(|text| text.trim().to_owned());
        let disabled = text("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true"));
        match text("OTEL_TRACES_EXPORTER").as_deref() {
            _ if disabled => return Ok(None),
            Some("none") => return Ok(None),
            Some("otlp") | None => {}
            Some(_) => return Err(values.error("OTEL_TRACES_EXPORTER", "takes otlp or none")),
        }
        let Some(endpoint) = endpoint(values)? else { return Ok(None) };
        let protocol = first_given(values, ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"]);
        if text(protocol).is_some_and(|protocol| protocol != "http/protobuf") {
            let problem = "takes http/protobuf alone: give the collector's port for HTTP, mostly 4318";
            return Err(values.error(protocol, problem));
        }
        let headers = first_given(values, ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"]);
        let given = values.secret(headers)?;
        let given = given.as_ref().map_or("", |given| given.expose_secret());
        let pairs = pairs(given).ok_or_else(|| values.error(headers, "takes NAME=VALUE[,NAME=VALUE…]"))?;
        let timeout = first_given(values, ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"]);
        let resource = text("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        let resource = self::pairs(&resource)
            .ok_or_else(|| values.error("OTEL_RESOURCE_ATTRIBUTES", "takes NAME=VALUE[,NAME=VALUE…]"))?;
        Ok(Some(Self {
            endpoint,
            headers: pairs.into_iter().map(|(name, value)| (name, SecretString::from(value))).collect(),
            timeout: Duration::from_millis(values.number_in(timeout, 1..=600_000)?),
            service: text("OTEL_SERVICE_NAME").unwrap_or_default(),
            resource,
            sampling: sampling(values)?,
        }))
    }
}

/// The first of two names that somebody gave, else the second, which has the default.
fn first_given<'n>(values: &Values, [own, general]: [&'n str; 2]) -> &'n str {
    if values.is_given(own) { own } else { general }
}

/// The address of traces: their own as it is, or the general one with their path.
fn endpoint(values: &Values) -> Result<Option<String>, ConfigError> {
    let name = first_given(values, [OWN, BASE]);
    let Some(text) = values.text(name) else { return Ok(None) };
    let text = text.trim();
    let problem =
        "takes http://host:port or https://host:port; what authenticates belongs in OTEL_EXPORTER_OTLP_HEADERS";
    let address: Uri = text.parse().map_err(|_| values.error(name, problem))?;
    let plain = matches!(address.scheme_str(), Some("http" | "https"))
        && address.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        && (name == OWN || address.query().is_none());
    match plain {
        true if name == OWN => Ok(Some(text.to_owned())),
        true => Ok(Some(format!("{}/v1/traces", text.trim_end_matches('/')))),
        false => Err(values.error(name, problem)),
    }
}

/// Pairs as the specification writes them: names, equals signs, values with what is special percent-encoded.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries
        .map(|entry| {
            let (name, value) = entry.split_once('=')?;
            let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
            let name = name.trim();
            (!name.is_empty()).then(|| (name.to_owned(), value.into_owned()))
        })
        .collect()
}

fn sampling(values: &Values) -> Result<Sampling, ConfigError> {
    let name = values.text(SAMPLER).unwrap_or_default();
    let (follows_parent, rule) = match name.trim().strip_prefix("parentbased_") {
        Some(rule) => (true, rule),
        None => (false, name.trim()),
    };
    let ratio = match rule {
        "always_on" => 1.0,
        "always_off" => 0.0,
        "traceidratio" => {
            let share: Option<f64> = values.text(RATIO).and_then(|text| text.trim().parse().ok());
            let share = share.filter(|share| (0.0..=1.0).contains(share));
            share.ok_or_else(|| values.error(RATIO, "takes a share from 0 to 1, such as 0.01"))?
        }
        _ => {
            let problem = "takes always_on, always_off or traceidratio, each also with parentbased_ before it";
            return Err(values.error(SAMPLER, problem));
        }
    };
    Ok(Sampling { follows_parent, ratio })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn read(given: &[(&str, &str)]) -> Result<Option<TraceSettings>, String> {
        let values = Values::load(&Sources::of(given.iter().copied()), &[]).unwrap();
        TraceSettings::from_values(&values).map_err(|error| error.to_string())
    }

    fn endpoint_of(given: &[(&str, &str)]) -> Option<String> {
        read(given).unwrap().map(|settings| settings.endpoint)
    }

    #[test]
    fn nothing_is_exported_without_an_endpoint_or_when_it_is_switched_off() {
        let on = (BASE, "http://collector:4318");
        assert_eq!(endpoint_of(&[]), None);
        assert_eq!(endpoint_of(&[on, ("OTEL_SDK_DISABLED", "TRUE")]), None);
        assert_eq!(endpoint_of(&[on, ("OTEL_TRACES_EXPORTER", "none")]), None);
        assert!(endpoint_of(&[on, ("OTEL_SDK_DISABLED", "false"), ("OTEL_TRACES_EXPORTER", "otlp")]).is_some());
    }

    #[test]
    fn the_general_endpoint_gets_the_path_of_traces_and_their_own_is_taken_as_it_is() {
        for base in ["http://collector:4318", "http://collector:4318/"] {
            assert_eq!(endpoint_of(&[(BASE, base)]).unwrap(), "http://collector:4318/v1/traces");
        }
        assert_eq!(endpoint_of(&[(BASE, "https://c/otlp")]).unwrap(), "https://c/otlp/v1/traces");
        assert_eq!(endpoint_of(&[(BASE, "http://c:1"), (OWN, "http://t:2/x?y=z")]).unwrap(), "http://t:2/x?y=z");
        for bad in ["collector:4318", "ftp://c", "http://", "http://u:hunter2@c:4318", "https://c/?key=hunter2"] {
            let problem = read(&[(BASE, bad)]).unwrap_err();
            assert!(problem.starts_with(BASE) && !problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn headers_are_secrets_with_their_values_decoded() {
        let given = [(BASE, "http://c"), ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20hunter2, x=a=b")];
        let settings = read(&given).unwrap().unwrap();
        let headers: Vec<_> =
            settings.headers.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect();
        assert_eq!(headers, [("authorization", "Bearer hunter2"), ("x", "a=b")]);
        assert!(!format!("{settings:?}").contains("hunter2"));
        let problem = read(&[(BASE, "http://c"), ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2")]).unwrap_err();
        assert!(problem.contains("NAME=VALUE") && !problem.contains("hunter2"), "{problem}");
        let own = [given[0], given[1], ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "y=1")];
        assert_eq!(read(&own).unwrap().unwrap().headers.len(), 1, "their own beat the general ones");
    }

    #[test]
    fn everything_else_has_the_defaults_of_the_specification() {
        let settings = read(&[(BASE, "http://c")]).unwrap().unwrap();
        assert_eq!((settings.timeout, settings.service.as_str()), (Duration::from_secs(10), "finhook"));
        assert_eq!(settings.sampling, Sampling { follows_parent: true, ratio: 1.0 });
        assert!(settings.headers.is_empty() && settings.resource.is_empty());
        let given = [(BASE, "http://c"), ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=a%2Cb")];
        assert_eq!(read(&given).unwrap().unwrap().resource, [("deployment.environment".into(), "a,b".into())]);
    }

    #[test]
    fn samplers_are_those_of_the_specification() {
        let sampling = |given: &[(&'static str, &'static str)]| {
            read(&[&[(BASE, "http://c")], given].concat()).map(|settings| settings.unwrap().sampling)
        };
        for (name, follows_parent, ratio) in [
            ("always_on", false, 1.0),
            ("always_off", false, 0.0),
            ("parentbased_always_off", true, 0.0),
            ("traceidratio", false, 0.25),
            ("parentbased_traceidratio", true, 0.25),
        ] {
            assert_eq!(sampling(&[(SAMPLER, name), (RATIO, "0.25")]), Ok(Sampling { follows_parent, ratio }), "{name}");
        }
        for bad in ["2", "-1", "x", "NaN"] {
            assert!(sampling(&[(SAMPLER, "traceidratio"), (RATIO, bad)]).unwrap_err().starts_with(RATIO), "{bad}");
        }
        assert!(sampling(&[(SAMPLER, "jaeger_remote")]).unwrap_err().starts_with(SAMPLER));
    }

    #[test]
    fn a_protocol_that_is_not_spoken_is_an_error() {
        let given = [(BASE, "http://c"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")];
        assert!(read(&given).unwrap_err().contains("4318"));
        assert!(read(&[given[0], ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]).is_ok());
    }
}
