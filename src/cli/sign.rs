//! `finhook sign`: a ready request for a fixture, headers and body, or the curl command that sends it.

use std::io::Write;

use anyhow::Context;

use super::Done;
use super::app::{App, BadConfiguration};
use super::posting::{Press, Signed, Treatment};
use crate::domain::UserId;
use crate::fixtures;

/// Arguments of `finhook sign`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Plaid is signed with the development key that embedded mode makes and alone trusts.\n\
                        Example: finhook sign unit/customer.created --curl | sh")]
pub struct Args {
    /// PROVIDER/CASE, or a path to a case's folder or a body
    fixture: String,
    /// Print a curl command
    #[arg(long)]
    curl: bool,
    /// Which body of the case, counted from 1
    #[arg(long, default_value_t = 1, value_name = "N")]
    body: usize,
    /// Bind the URL to this user (Plaid)
    #[arg(long, value_name = "ID")]
    user: Option<String>,
}

/// Prints the request.
pub fn run(args: Args, app: App) -> anyhow::Result<Done> {
    let app = app.configured()?;
    let cases = fixtures::select(&args.fixture).map_err(|error| BadConfiguration::usage(error.to_string()))?;
    let [case] = cases.as_slice() else {
        return Err(BadConfiguration::usage(format!("{} is {} cases; name one", args.fixture, cases.len())).into());
    };
    let body = args.body.checked_sub(1).and_then(|at| case.bodies.get(at)).ok_or_else(|| {
        BadConfiguration::usage(format!("{} has {} bodies, and --body counts from 1", case.path(), case.bodies.len()))
    })?;
    let treatment = Treatment { user: args.user.map(UserId), ..Treatment::default() };
    let signed = Press::new(app.setup()?)?.request(case, body, &treatment)?;
    let mut out = std::io::stdout().lock();
    if args.curl {
        writeln!(out, "{}", curl(&signed, &app.settings.http.own_url())?)?;
    } else {
        writeln!(out, "POST {} HTTP/1.1", signed.path)?;
        for (name, value) in &signed.headers {
            writeln!(out, "{name}: {}", value.to_str().context("a header value is not text")?)?;
        }
        writeln!(out, "Content-Length: {}\n", signed.body.len())?;
        out.write_all(&signed.body)?;
    }
    Ok(Done::Yes)
}

/// A shell command that posts it byte for byte.
fn curl(signed: &Signed, to: &str) -> anyhow::Result<String> {
    let mut command = format!("curl -sS -X POST {}", quoted(&format!("{to}{}", signed.path)));
    for (name, value) in &signed.headers {
        let value = value.to_str().context("a header value is not text")?;
        command.push_str(&format!(" \\\n  -H {}", quoted(&format!("{name}: {value}"))));
    }
    let body = std::str::from_utf8(&signed.body).context("the body is not text; leave --curl out")?;
    command.push_str(&format!(" \\\n  --data-binary {}", quoted(body)));
    Ok(command)
}

/// A word in single quotes, as every POSIX shell reads it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_word_survives_the_shell() {
        let text = "it's {\"a\": \"$HOME `x` \\n\"}";
        let out =
            std::process::Command::new("sh").arg("-c").arg(format!("printf %s {}", quoted(text))).output().unwrap();
        assert_eq!(String::from_utf8(out.stdout).unwrap(), text);
    }
}
