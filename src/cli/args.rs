//! The command line as typed, and its help. What it means is in [`cli`](super).

use std::convert::Infallible;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::Secret;

/// Examples first: they are what most readers came for.
const TEMPLATE: &str = "\
{about-with-newline}
{before-help}{usage-heading}
  {usage}

{all-args}{after-help}";

const POINTER: &str = "\
Every key, its default and the reason for it: config.example.toml.
What is guaranteed, and what a record looks like: README.md and docs/.";

#[derive(Debug, Parser)]
#[command(
    name = "outbox-relay",
    version,
    about = "Relays the rows of a Postgres outbox table to a message broker.",
    help_template = TEMPLATE,
    before_help = "\
Examples:
  # see it work, and survive kill -9, with nothing to set up
  outbox-relay demo
  # create the default outbox table and the relay's own tables
  DATABASE_URL=postgres://admin@localhost/app outbox-relay migrate
  # relay to Kafka
  outbox-relay run --config relay.toml
  # try it without a broker: one line of JSON a record, and rows are marked delivered all the same
  outbox-relay run --set sink.type=stdout
",
    after_help = POINTER,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) settings: Settings,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

/// Where the configuration comes from; understood before and after the command.
#[derive(Debug, Args)]
pub(super) struct Settings {
    /// The configuration file [default: $OUTBOX_RELAY_CONFIG, or none]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Override one key of the configuration; may be repeated. Not for secrets: others can see arguments
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Orders to commit
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1_000..=1_000_000))]
    pub(super) rows: u64,
    /// Print the ledger as JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Use a real Kafka, without TLS or login, instead of one in memory; the topic is removed in the end
    #[arg(long, value_name = "HOST:PORT", group = "broker")]
    pub(super) kafka: Option<String>,
    /// Use a real RabbitMQ, amqp:// or amqps://; others can see a password in it. What is declared is removed in the end
    #[arg(long, value_name = "URL", group = "broker", value_parser = secret)]
    pub(super) rabbitmq: Option<Secret>,
    /// Consent to a broker beyond this host without TLS
    #[arg(long, requires = "broker")]
    pub(super) insecure_allow_plaintext: bool,
    /// The folder of initdb and postgres [default: where packages put them, otherwise they are downloaded]
    #[arg(long, value_name = "DIR")]
    pub(super) pg_bin: Option<PathBuf>,
    /// Leave the configuration and the logs in this folder
    #[arg(long, value_name = "DIR")]
    pub(super) keep: Option<PathBuf>,
}

#[allow(clippy::unnecessary_wraps, reason = "what clap asks for")]
fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text))
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// See it work, with a database and a broker of its own
    #[command(
        help_template = TEMPLATE,
        before_help = "\
Examples:
  outbox-relay demo
  # with a real Kafka, as one program to another
  outbox-relay demo --kafka localhost:9092 --json
  # with a real RabbitMQ
  outbox-relay demo --rabbitmq amqp://guest:guest@localhost/%2f

Starts a private Postgres and a Kafka in memory, places orders, relays them, kills the relay
twice, and compares what was committed with what arrived. Stops and removes all of it in the end,
also at Ctrl-C.
",
        after_help = POINTER
    )]
    Demo(Demo),

    /// Publish committed rows until told to stop
    #[command(
        help_template = TEMPLATE,
        before_help = "\
Examples:
  outbox-relay run --config relay.toml
  # no file: DATABASE_URL from the environment, the rest from defaults and flags
  outbox-relay run --set sink.kafka.brokers=localhost:9092

SIGTERM or SIGINT drains and stops; a second one stops at once.
",
        after_help = POINTER
    )]
    Run,

    /// Create what the relay needs in the database; safe to repeat
    #[command(
        help_template = TEMPLATE,
        before_help = "\
Examples:
  outbox-relay migrate --config relay.toml
  # review it first, or run it as another role; needs no database
  outbox-relay migrate --print-sql | psql -v ON_ERROR_STOP=1 -v relay=ROLE_OF_THE_RELAY app
",
        after_help = POINTER
    )]
    Migrate {
        /// Print the SQL instead of running it
        #[arg(long)]
        print_sql: bool,
    },

    /// Print the SQL that removes what `migrate` created
    #[command(
        help_template = TEMPLATE,
        before_help = "\
Examples:
  # read it, then run it yourself; needs no database
  outbox-relay uninstall --print-sql
",
        after_help = POINTER
    )]
    Uninstall {
        /// Print the SQL; nothing is ever removed for you
        #[arg(long, required = true)]
        print_sql: bool,
    },

    /// Look at the configuration
    #[command(
        help_template = TEMPLATE,
        before_help = "\
Examples:
  outbox-relay config show --config relay.toml
",
        after_help = POINTER,
        subcommand_required = true,
        arg_required_else_help = true,
        disable_help_subcommand = true
    )]
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigVerb {
    /// Print what file, environment and flags come to, as TOML; secrets show as ***
    #[command(
        help_template = TEMPLATE,
        before_help = "\
Examples:
  # is the configuration usable? exit code 78 if not
  outbox-relay config show --config relay.toml > /dev/null
  # what does a variable change?
  OUTBOX_RELAY__DELIVERY__ORDERING=none outbox-relay config show | grep ordering
",
        after_help = POINTER
    )]
    Show,
}
