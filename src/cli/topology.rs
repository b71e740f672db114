//! `finhook topology`: the exchanges and queues that finhook has at the broker. `serve` declares them by itself; this is for
//! brokers where somebody else has to.

use anyhow::Context;
use clap::Subcommand;
use serde_json::Value;

use super::app::{App, BadConfiguration, Configured};
use super::opening::{broker, providers};
use super::{Done, output};
use crate::config::{QueueSettings, Values};
use crate::queue::rabbitmq::{RabbitMq, RabbitMqSettings, Topology};

/// Arguments of `finhook topology`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show which exchanges and queues the broker has; 1 if one is missing
    Show {
        /// One JSON object per exchange or queue
        #[arg(long)]
        json: bool,
    },
    /// Declare what is missing. A queue that is there with other arguments is an error
    Apply,
    /// Print the same as a definitions file that a broker imports; asks no broker
    Export {
        /// The virtual host that they are in
        #[arg(long, default_value = "/")]
        vhost: String,
    },
}

/// Shows, declares or prints.
pub async fn run(args: Args, app: App) -> anyhow::Result<Done> {
    match args.command {
        Command::Show { json } => show(&settings(&app.configured()?)?, json).await,
        Command::Apply => {
            RabbitMq::apply_topology(&settings(&app.configured()?)?).await.context("declare the topology")?;
            output::line("everything is declared")?;
            Ok(Done::Yes)
        }
        Command::Export { vhost } => {
            output::line(&export(&*app.as_given()?, &vhost))?;
            Ok(Done::Yes)
        }
    }
}

fn settings(app: &Configured) -> Result<RabbitMqSettings, BadConfiguration> {
    match &app.settings.queue {
        QueueSettings::RabbitMq(rabbit) => broker(app, rabbit),
        QueueSettings::Embedded { .. } => {
            Err(BadConfiguration::usage("AMQP_URL: is not set; the embedded queue has no exchanges and queues"))
        }
    }
}

async fn show(settings: &RabbitMqSettings, json: bool) -> anyhow::Result<Done> {
    let standing = RabbitMq::show_topology(settings).await.context("look at the topology")?;
    let complete = standing.iter().all(|it| it.present);
    if json {
        for it in &standing {
            output::json_line(&serde_json::json!({ "what": it.what, "name": it.name, "present": it.present }))?;
        }
    } else {
        let present = |present| if present { "yes" } else { "no" }.to_owned();
        let rows = standing.into_iter().map(|it| vec![it.what.to_owned(), it.name, present(it.present)]);
        output::table(&["what", "name", "present"], rows)?;
    }
    Ok(if complete { Done::Yes } else { Done::No })
}

/// The definitions, one entry a line, so that two of them can be compared.
fn export(values: &Values, vhost: &str) -> String {
    let prefix = values.text("FINHOOK_AMQP_PREFIX").unwrap_or_else(|| "finhook".to_owned());
    let definitions = Topology::new(prefix, &providers()).definitions(vhost);
    let list = |(name, list): (&String, &Value)| {
        let entries: Vec<String> = list.as_array().into_iter().flatten().map(Value::to_string).collect();
        format!("  {}: [\n    {}\n  ]", Value::from(name.as_str()), entries.join(",\n    "))
    };
    let lists: Vec<String> = definitions.as_object().into_iter().flatten().map(list).collect();
    format!("{{\n{}\n}}", lists.join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn the_definitions_that_are_shipped_are_what_is_exported() {
        let values = Values::load(&Sources::default(), &[]).unwrap_or_else(|_| unreachable!());
        let exported = export(&values, "/");
        let read: Value = serde_json::from_str(&exported).unwrap();
        assert_eq!(read, Topology::new("finhook", &providers()).definitions("/"));
        let shipped = include_str!("../../deploy/rabbitmq/definitions.json");
        assert_eq!(
            shipped.trim_end(),
            exported,
            "write it anew: finhook topology export >deploy/rabbitmq/definitions.json"
        );
    }
}
