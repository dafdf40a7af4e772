//! Puts the parts together and carries commands out.

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use rand::{RngCore as _, TryRngCore as _};
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::admin::{self, Shown};
use crate::cli::{Command, Exit};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::demo::{self, DemoError};
use crate::log::{self, Chronicle};
use crate::metrics::Meter;
use crate::pump::{Observer, Requests, pump};
use crate::relay::{self, Backoff, Input, LeaseTiming, Limits, Load, Relay, Rules};
use crate::route::Route;
use crate::sink::Sink;
use crate::sink::kafka::{self, KafkaSink};
use crate::sink::rabbitmq::RabbitSink;
use crate::sink::stdout::StdoutSink;
use crate::source::migrate::{migrate, print_sql, uninstall_sql};
use crate::source::poll::{Poll, PollSettings};
use crate::source::{SourceError, SourceErrorKind};
use crate::status::{Board, Reporter};
use crate::supervisor::Supervisor;

/// Why a command ended early: what to tell people, and how the process exits.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Failed {
    pub exit: Exit,
    pub text: String,
}

impl Failed {
    fn new(exit: Exit, text: impl Display) -> Self {
        Self { exit, text: text.to_string() }
    }
}

impl From<SourceError> for Failed {
    fn from(error: SourceError) -> Self {
        let exit = match error.kind {
            SourceErrorKind::Unavailable => Exit::Unavailable,
            SourceErrorKind::Unfit => Exit::Failed,
        };
        let hint = error.hint.map_or(String::new(), |hint| format!("\n    hint: {hint}"));
        Self::new(exit, format!("{}{hint}", error.message))
    }
}

impl From<DemoError> for Failed {
    fn from(error: DemoError) -> Self {
        Self::new(Exit::Failed, error)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::new(Exit::Failed, error)
    }
}

/// Carries `command` out and says how the process ends.
///
/// # Errors
/// Whatever kept it from being carried out, in words for people.
pub fn run(command: Command) -> Result<Exit, Failed> {
    match command {
        Command::Run(config) => relay_until_stopped(&config),
        Command::Migrate { config, print_sql: true } => {
            show(&print_sql(&source_settings(&config)?.0))?;
            Ok(Exit::Ok)
        }
        Command::Migrate { config, print_sql: false } => migrate_now(&config),
        Command::Uninstall { config } => {
            show(&uninstall_sql(&source_settings(&config)?.0))?;
            Ok(Exit::Ok)
        }
        Command::ConfigShow(config) => {
            show(&config::show(&config))?;
            Ok(Exit::Ok)
        }
        Command::Demo(options) => Ok(demo::play(&options)?),
    }
}

/// Writes data to standard output.
fn show(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn migrate_now(config: &Config) -> Result<Exit, Failed> {
    let (settings, _) = source_settings(config)?;
    let applied = runtime()?.block_on(migrate(&settings))?;
    let mut talk = io::stderr().lock();
    if applied.is_empty() {
        writeln!(talk, "nothing to do: the database is up to date")?;
    }
    for name in applied {
        writeln!(talk, "applied {name}")?;
    }
    Ok(Exit::Ok)
}

fn runtime() -> io::Result<runtime::Runtime> {
    // The pump runs on the calling thread; one worker serves the pages and signals beside it.
    runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()
}

fn relay_until_stopped(config: &Config) -> Result<Exit, Failed> {
    log::init(&config.log).map_err(|error| Failed::new(Exit::Config, error))?;
    let (settings, route) = source_settings(config)?;
    let runtime = runtime()?;
    let exit = runtime.block_on(async {
        // Made and dropped in here: a connection that listens says good-bye in a task.
        let source = Poll::new(settings)?;
        match &config.sink {
            config::Sink::Kafka(kafka) => {
                relay_into(config, &source, route, KafkaSink::new(kafka, client_limits(config))).await
            }
            config::Sink::RabbitMq(broker) => {
                relay_into(config, &source, route, RabbitSink::new(broker, &config.pipeline.name)).await
            }
            config::Sink::Stdout => relay_into(config, &source, route, StdoutSink::new()).await,
        }
    })?;
    // A thread stuck in a name lookup must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(exit)
}

async fn relay_into(
    config: &Config,
    source: &Poll,
    mut route: Route,
    mut sink: impl Sink,
) -> Result<Exit, Failed> {
    let mut signals = Signals::listen()?;
    let pipeline = &config.pipeline.name;
    let clock = Clock::system();
    let fixed = route.fixed_destinations();
    let meter = Meter::new(pipeline, config.metrics.backlog_interval, &fixed, clock.clone());
    let board = Board::new(pipeline, meter.page(), clock);
    let shown = Shown { page: meter.page(), board: Arc::clone(&board) };
    // Before anything else: probes are answered while the database and the broker are still away.
    let pages = admin::serve(config.metrics.listen, config.admin.listen, shown).await?;
    let supervisor = Supervisor::start(Arc::clone(&board));
    let mut observers: Vec<Box<dyn Observer>> =
        vec![Box::new(meter), Box::new(Chronicle::new(pipeline)), Box::new(Reporter::new(board))];
    let relay = Relay::new(limits(config), Rules::default(), rand::rngs::OsRng.unwrap_err().next_u64());
    let exit = pump(relay, source, &mut sink, &mut route, &mut observers, &mut signals).await;
    if let Some(supervisor) = supervisor {
        supervisor.close().await;
    }
    sink.close().await;
    pages.close().await;
    Ok(match exit {
        relay::Exit::Drained => Exit::Ok,
        relay::Exit::Unfinished { .. } => Exit::Temporary,
    })
}

/// SIGTERM and SIGINT: the first asks for a drain, the second ends everything.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    asked: bool,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, asked: false })
    }
}

impl Requests for Signals {
    async fn next(&mut self) -> Input {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        if std::mem::replace(&mut self.asked, true) { Input::Abort } else { Input::Drain }
    }
}

fn client_limits(config: &Config) -> kafka::Limits {
    kafka::Limits {
        message_bytes_max: config.outbox.message_bytes_max,
        in_flight_rows_max: config.delivery.in_flight_rows_max,
        in_flight_bytes_max: config.delivery.in_flight_bytes_max,
    }
}

/// Rows of one settlement. Marking five thousand takes tens of milliseconds, far below the second
/// that a transaction of ours may last.
const SETTLE_ROWS_MAX: usize = 5_000;

/// Lanes and rows held back after a failure. Their keys travel with every read, so that it can pass
/// them over.
const HELD_MAX: usize = 10_000;

/// Everything of the configuration that bounds the relay.
fn limits(config: &Config) -> Limits {
    let delivery = &config.delivery;
    Limits {
        in_flight: Load { rows: delivery.in_flight_rows_max, bytes: delivery.in_flight_bytes_max },
        read_ahead: Load { rows: delivery.read_ahead_rows_max, bytes: delivery.read_ahead_bytes_max },
        fetch_rows_max: config.outbox.fetch_rows_max,
        settle_rows_max: SETTLE_ROWS_MAX,
        held_max: HELD_MAX,
        poll_interval: config.outbox.poll_interval,
        listen: config.outbox.listen.is_some(),
        backoff: Backoff { min: delivery.backoff_min, max: delivery.backoff_max },
        lease: LeaseTiming { ttl: config.lease.ttl },
        drain_timeout: delivery.drain_timeout,
        backlog_interval: config.metrics.backlog_interval,
    }
}

/// What the source needs of the configuration, with the route's scope as SQL.
///
/// # Errors
/// Everything wrong with the route.
fn source_settings(config: &Config) -> Result<(PollSettings, Route), Failed> {
    let route = Route::new(&config.route, &config.outbox, config.delivery.ordering)
        .map_err(|problems| Failed { exit: Exit::Config, text: problems.join("\n") })?;
    let columns = &config.outbox.columns;
    let (scope_sql, scope_columns) = (scope_sql(&route, columns), scope_columns(&route, columns));
    let settings = PollSettings {
        pipeline: config.pipeline.clone(),
        database: config.database.clone(),
        state: config.state.clone(),
        outbox: config.outbox.clone(),
        lease: config.lease.clone(),
        ordering: config.delivery.ordering,
        scope_sql,
        scope_columns,
    };
    Ok((settings, route))
}

/// The scope of a row of the table `o`, as SQL.
#[must_use]
pub fn scope_sql(route: &Route, columns: &config::Columns) -> String {
    route.scope_sql(|place| {
        // `concat` writes what the column's output function writes, which a cast to text does not.
        place_column(place, columns).map_or("null::text".to_owned(), |column| {
            let column = format!("o.{}", column.quoted());
            format!("case when {column} is not null then concat({column}) end")
        })
    })
}

/// The columns in it. Those of ids are left out: whatever their type, they are read as text.
#[must_use]
pub fn scope_columns(route: &Route, columns: &config::Columns) -> Vec<config::ColumnName> {
    let places = route.scope_places().into_iter().filter(|place| *place != "id");
    places.filter_map(|place| place_column(place, columns).cloned()).collect()
}

fn place_column<'c>(place: &str, columns: &'c config::Columns) -> Option<&'c config::ColumnName> {
    match place {
        "id" => Some(&columns.id),
        "destination" => columns.destination.as_ref(),
        "kind" => columns.kind.as_ref(),
        "key" => columns.key.as_ref(),
        header => columns.to_headers.get(header),
    }
}
