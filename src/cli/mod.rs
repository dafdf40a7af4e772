//! The command line: typed arguments in, one [`Command`] with a usable configuration out.
//!
//! Carries nothing out and reads no environment of its own. Data goes to standard output, talk to
//! standard error.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Parser as _;

use crate::config::{Config, Problems, Sources, load};
use crate::demo;

mod args;
pub mod exit;

use args::{Arguments, ConfigVerb, Demo, Settings, Verb};
pub use exit::Exit;

/// Names the configuration file if `--config` does not.
const CONFIG_VARIABLE: &str = "OUTBOX_RELAY_CONFIG";

/// What to do, with all that is needed for it.
#[derive(Debug)]
pub enum Command {
    Run(Config),
    Migrate {
        config: Config,
        /// Print the SQL instead of running it. The database url may be made up then.
        print_sql: bool,
    },
    /// Print the SQL that removes what `migrate` created. The database url may be made up.
    Uninstall {
        config: Config,
    },
    ConfigShow(Config),
    /// Show what the relay promises, with a database and a broker of its own.
    Demo(demo::Options),
}

/// Why there is nothing to do; for `--help` and `--version` not an error, but an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct CliError {
    pub exit_code: Exit,
    /// For a person; ends without a line break.
    pub text: String,
}

impl CliError {
    /// Writes the text where it belongs: an answer is data, anything else is talk.
    ///
    /// # Errors
    /// Whatever the stream says; there is nobody left to tell.
    pub fn print(&self) -> io::Result<()> {
        match self.exit_code {
            Exit::Ok => writeln!(io::stdout(), "{}", self.text),
            Exit::Failed
            | Exit::Usage
            | Exit::Unavailable
            | Exit::Bug
            | Exit::Temporary
            | Exit::Permission
            | Exit::Config
            | Exit::Interrupted
            | Exit::Terminated => writeln!(io::stderr(), "{}", self.text),
        }
    }

    fn usage(text: impl Into<String>) -> Self {
        Self { exit_code: Exit::Usage, text: text.into() }
    }
}

impl From<Problems> for CliError {
    fn from(problems: Problems) -> Self {
        Self { exit_code: Exit::Config, text: problems.to_string() }
    }
}

impl From<clap::Error> for CliError {
    fn from(error: clap::Error) -> Self {
        let exit_code = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
        Self { exit_code, text: error.render().to_string().trim_end().to_owned() }
    }
}

/// Understands `arguments`, the first of which is the program's name, in an `environment` of names
/// and values.
///
/// # Errors
/// Help and version with [`Exit::Ok`], a wrong command line with [`Exit::Usage`], every problem of the
/// configuration with [`Exit::Config`].
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    environment: Vec<(String, String)>,
) -> Result<Command, CliError> {
    let Arguments { settings, verb } = Arguments::try_parse_from(arguments)?;
    let is_configured = settings.config.is_some() || !settings.set.is_empty();
    let mut sources = sources(settings, environment)?;
    match verb {
        Verb::Run => Ok(Command::Run(load(&sources)?)),
        Verb::Migrate { print_sql } => {
            assume_no_broker(&mut sources);
            if print_sql {
                assume_a_database(&mut sources);
            }
            Ok(Command::Migrate { config: load(&sources)?, print_sql })
        }
        Verb::Uninstall { print_sql: _always } => {
            assume_no_broker(&mut sources);
            assume_a_database(&mut sources);
            Ok(Command::Uninstall { config: load(&sources)? })
        }
        Verb::Config { verb: ConfigVerb::Show } => Ok(Command::ConfigShow(load(&sources)?)),
        Verb::Demo(_) if is_configured => {
            let hint = "leave out --config and --set: it writes a configuration of its own";
            Err(CliError::usage(format!("could not configure the demo\n    hint: {hint}")))
        }
        Verb::Demo(asked) => Ok(Command::Demo(demo_options(asked, &sources.environment))),
    }
}

fn demo_options(asked: Demo, environment: &[(String, String)]) -> demo::Options {
    let Demo { rows, json, kafka, rabbitmq, insecure_allow_plaintext, pg_bin, keep } = asked;
    let broker = match (kafka, rabbitmq) {
        (Some(addresses), _) => demo::Target::Kafka(addresses),
        (None, Some(url)) => demo::Target::RabbitMq(url),
        (None, None) => demo::Target::Mock,
    };
    let surroundings = demo::Surroundings::read(environment);
    demo::Options { rows, json, broker, insecure_allow_plaintext, postgres_bin: pg_bin, keep, surroundings }
}

fn sources(settings: Settings, environment: Vec<(String, String)>) -> Result<Sources, CliError> {
    let from_environment = || {
        let found = environment.iter().find(|(name, value)| name == CONFIG_VARIABLE && !value.is_empty());
        found.map(|(_, path)| PathBuf::from(path))
    };
    let file = settings.config.or_else(from_environment);
    let flags = settings.set.iter().map(|text| pair(text)).collect::<Result<_, _>>()?;
    Ok(Sources { file, environment, flags, assumed: Vec::new() })
}

/// Quotes nothing: without a `=` in it, the text may be a secret that lost its key.
fn pair(text: &str) -> Result<(String, String), CliError> {
    let hint = "write KEY=VALUE, as in --set lease.ttl=20s";
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        Some(_) => Err(CliError::usage(format!("could not read --set: it has no key\n    hint: {hint}"))),
        None => Err(CliError::usage(format!("could not read --set: it has no `=`\n    hint: {hint}"))),
    }
}

/// Whoever migrates, perhaps long before there is a broker, should not be asked for one.
fn assume_no_broker(sources: &mut Sources) {
    for (key, value) in [("sink.kafka.brokers", "localhost"), ("sink.rabbitmq.url", "amqp://relay@localhost")]
    {
        sources.assumed.push((key.to_owned(), value.to_owned()));
    }
}

/// Printing takes no connection. Last in the environment, so that a real url goes before it.
fn assume_a_database(sources: &mut Sources) {
    sources.environment.push(("DATABASE_URL".to_owned(), "postgres://localhost".to_owned()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str, environment: &[(&str, &str)]) -> Result<Command, CliError> {
        let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        parse(line.split(' ').map(OsString::from), environment.collect())
    }

    fn refused(line: &str) -> CliError {
        parsed(line, &[]).expect_err("should be refused")
    }

    const DATABASE: (&str, &str) = ("DATABASE_URL", "postgres://relay@localhost/app");
    const BROKER: (&str, &str) = ("OUTBOX_RELAY__SINK__KAFKA__BROKERS", "localhost");

    #[test]
    fn help_puts_examples_before_usage_and_the_pointer_last_at_every_level() {
        for line in ["", " demo", " run", " migrate", " uninstall", " config", " config show"] {
            let help = refused(&format!("outbox-relay{line} --help"));
            assert_eq!(help.exit_code, Exit::Ok);
            let examples = help.text.find("Examples:").expect("there are examples");
            let usage = help.text.find("Usage:").expect("there is a usage");
            assert!(examples < usage, "{}", help.text);
            assert!(help.text.ends_with("README.md and docs/."), "{}", help.text);
        }
    }

    #[test]
    fn a_wrong_command_line_ends_with_2_and_a_wrong_configuration_with_78() {
        for line in ["outbox-relay", "outbox-relay fly", "outbox-relay uninstall", "outbox-relay config"] {
            assert_eq!(refused(line).exit_code.code(), 2, "{line}");
        }
        assert_eq!(refused("outbox-relay run").exit_code.code(), 78);
    }

    #[test]
    fn a_setting_without_a_key_is_refused_and_not_quoted() {
        for line in ["outbox-relay run --set canary", "outbox-relay run --set =canary"] {
            let error = refused(line);
            assert_eq!(error.exit_code, Exit::Usage);
            assert!(!error.text.contains("canary"), "{}", error.text);
        }
    }

    #[test]
    fn settings_stand_before_or_after_the_command_and_a_value_may_hold_equals_signs() {
        for line in [
            "outbox-relay --set log.filter=a=debug,b=info run",
            "outbox-relay run --set log.filter=a=debug,b=info",
        ] {
            let Ok(Command::Run(config)) = parsed(line, &[DATABASE, BROKER]) else { panic!("{line}") };
            assert_eq!(config.log.filter, "a=debug,b=info");
        }
    }

    #[test]
    fn a_file_named_by_the_flag_goes_before_the_one_of_the_environment() {
        let variable = ("OUTBOX_RELAY_CONFIG", "/nowhere/variable.toml");
        let by_variable = parsed("outbox-relay run", &[variable]).expect_err("there is no such file");
        assert!(by_variable.text.contains("/nowhere/variable.toml"));
        let by_flag = parsed("outbox-relay run --config /nowhere/flag.toml", &[variable]);
        assert!(by_flag.expect_err("there is no such file").text.contains("/nowhere/flag.toml"));
    }

    #[test]
    fn nobody_is_asked_for_what_a_command_does_not_need() {
        assert!(matches!(parsed("outbox-relay migrate", &[DATABASE]), Ok(Command::Migrate { .. })));
        assert_eq!(refused("outbox-relay migrate").exit_code, Exit::Config);
        let printing = parsed("outbox-relay migrate --print-sql", &[]);
        assert!(matches!(printing, Ok(Command::Migrate { print_sql: true, .. })));
        let Ok(Command::Uninstall { config }) = parsed("outbox-relay uninstall --print-sql", &[DATABASE])
        else {
            panic!("should parse")
        };
        assert_eq!(config.database.url.reveal(), DATABASE.1);
    }

    #[test]
    fn the_demo_takes_no_configuration_and_is_not_configured_by_the_environment() {
        let variable = ("OUTBOX_RELAY_CONFIG", "/nowhere/variable.toml");
        let Ok(Command::Demo(options)) = parsed("outbox-relay demo --rows 5000", &[variable, DATABASE])
        else {
            panic!("should parse")
        };
        assert_eq!((options.rows, options.json), (5_000, false));
        assert!(matches!(options.broker, demo::Target::Mock));
        for line in [
            "outbox-relay demo --set lease.ttl=3s",
            "outbox-relay demo --config x",
            "outbox-relay demo --rows 1",
            "outbox-relay demo --kafka localhost:9092 --rabbitmq amqp://localhost",
            "outbox-relay demo --insecure-allow-plaintext",
        ] {
            assert_eq!(refused(line).exit_code, Exit::Usage, "{line}");
        }
    }

    #[test]
    fn the_url_of_the_demo_s_broker_does_not_show_what_may_be_its_password() {
        let parsed = parsed("outbox-relay demo --rabbitmq amqp://u:canary@localhost", &[]);
        let Ok(Command::Demo(options)) = &parsed else { panic!("should parse") };
        assert!(
            matches!(&options.broker, demo::Target::RabbitMq(url) if url.reveal() == "amqp://u:canary@localhost")
        );
        assert!(!format!("{parsed:?}").contains("canary"));
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;

        Arguments::command().debug_assert();
    }
}
