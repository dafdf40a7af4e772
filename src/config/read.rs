//! Section by section: which keys there are, and what each may hold.
//!
//! Every function asks for all its keys before it gives up on any, so that all problems are reported
//! in one go. Ranges keep out what could only be a slip; the reason for a default is in
//! `config.example.toml`.

use std::time::Duration;

use super::section::{Reader, Section};
use super::value::{address, bytes, choice, column, count, duration, text};
use super::{
    Admin, Config, Database, Delivery, Lease, Log, LogFormat, Metrics, Ordering, Pipeline, Pooler, Sink,
    State, check, value,
};
use crate::config::problem::Wrong;

mod database_url;
mod kafka;
mod outbox;
mod rabbitmq;
mod route;

use database_url::{Urls, database_urls};
pub(super) use database_url::{
    has_options as url_has_options, is_plaintext_allowed as url_is_plaintext_allowed,
    redacted as url_redacted,
};
pub(super) use kafka::{is_plaintext_allowed as kafka_is_plaintext_allowed, is_secret as property_is_secret};
pub(super) use outbox::NAMED_HEADERS;
pub(super) use rabbitmq::{
    is_plaintext_allowed as amqp_is_plaintext_allowed, parsed as amqp_uri, redacted as amqp_redacted,
};

const HOUR: Duration = Duration::from_secs(3_600);
const ROWS_MAX: usize = 10_000_000;
const BYTES_MAX: usize = 64 << 30;

/// Reads all sections, reports unknown keys and checks what only shows across keys.
pub(super) fn config(reader: &mut Reader) -> Option<Config> {
    let pipeline = pipeline(&mut reader.section("pipeline"));
    let database = database(&mut reader.section("database"));
    let state = state(&mut reader.section("state"));
    let outbox = outbox::outbox(reader);
    let route = route::route(reader);
    let sink = sink(reader);
    let delivery = delivery(reader);
    let lease = lease(&mut reader.section("lease"));
    let metrics = metrics(&mut reader.section("metrics"));
    let admin = admin(&mut reader.section("admin"));
    let log = log(&mut reader.section("log"));

    check::timeouts(reader, database.as_ref());
    check::pooler(reader, database.as_ref(), outbox.as_ref());
    check::windows(reader, outbox.as_ref(), delivery.as_ref());
    check::backoff(reader, delivery.as_ref());
    check::ordering(reader, outbox.as_ref(), delivery.as_ref());
    check::route(reader, outbox.as_ref(), route.as_ref());
    check::listeners(reader, metrics.as_ref(), admin.as_ref());
    reader.report_unknown();

    Some(Config {
        pipeline: pipeline?,
        database: database?,
        state: state?,
        outbox: outbox?,
        route: route?,
        sink: sink?,
        delivery: delivery?,
        lease: lease?,
        metrics: metrics?,
        admin: admin?,
        log: log?,
    })
}

fn pipeline(section: &mut Section<'_>) -> Option<Pipeline> {
    let name = section.defaulted("name", |value| {
        let name = text(value)?;
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if name.len() <= 40 && name.chars().all(fits) {
            return Ok(name);
        }
        let hint = "write 1 to 40 of a-z, 0-9 and _: it becomes part of names in the database and of labels";
        Err(Wrong::new(format!("{name:?} cannot be a pipeline's name"), hint))
    });
    Some(Pipeline { name: name? })
}

fn database(section: &mut Section<'_>) -> Option<Database> {
    const POOLERS: [(&str, Pooler); 2] = [("none", Pooler::None), ("transaction", Pooler::Transaction)];

    let urls = database_urls(section);
    let statement_timeout = section.defaulted("statement_timeout", duration(ms(100)..=HOUR));
    let lock_timeout = section.defaulted("lock_timeout", duration(ms(10)..=HOUR));
    let connect_timeout = section.defaulted("connect_timeout", duration(ms(100)..=HOUR));
    let pooler = section.defaulted("pooler", choice(&POOLERS, &[]));
    let Urls { url, listen_url } = urls?;
    Some(Database {
        url,
        pooler: pooler?,
        listen_url,
        statement_timeout: statement_timeout?,
        lock_timeout: lock_timeout?,
        connect_timeout: connect_timeout?,
    })
}

fn state(section: &mut Section<'_>) -> Option<State> {
    let schema = section.defaulted("schema", column);
    Some(State { schema: schema? })
}

fn sink(reader: &mut Reader) -> Option<Sink> {
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Kafka,
        RabbitMq,
        Stdout,
    }
    const KINDS: [(&str, Kind); 3] =
        [("kafka", Kind::Kafka), ("rabbitmq", Kind::RabbitMq), ("stdout", Kind::Stdout)];

    let kind = reader.section("sink").defaulted("type", choice(&KINDS, &[]));
    if kind != Some(Kind::Kafka) {
        kafka::pass_over(&mut reader.section("sink.kafka"));
    }
    if kind != Some(Kind::RabbitMq) {
        rabbitmq::pass_over(&mut reader.section("sink.rabbitmq"));
    }
    match kind? {
        Kind::Kafka => kafka::kafka(&mut reader.section("sink.kafka")).map(Sink::Kafka),
        Kind::RabbitMq => rabbitmq::rabbitmq(&mut reader.section("sink.rabbitmq")).map(Sink::RabbitMq),
        Kind::Stdout => Some(Sink::Stdout),
    }
}

fn delivery(reader: &mut Reader) -> Option<Delivery> {
    const ORDERINGS: [(&str, Ordering); 2] = [("key", Ordering::Key), ("none", Ordering::None)];

    let mut section = reader.section("delivery");
    let ordering = section.defaulted("ordering", choice(&ORDERINGS, &[]));
    let in_flight_rows_max = section.defaulted("in_flight_rows_max", count(1..=ROWS_MAX));
    let in_flight_bytes_max = section.defaulted("in_flight_bytes_max", bytes(1..=BYTES_MAX));
    let read_ahead_rows_max = section.defaulted("read_ahead_rows_max", count(1..=ROWS_MAX));
    let read_ahead_bytes_max = section.defaulted("read_ahead_bytes_max", bytes(1..=BYTES_MAX));
    let drain_timeout = section.defaulted("drain_timeout", duration(ms(0)..=HOUR));
    let mut section = reader.section("delivery.retry");
    let backoff_min = section.defaulted("backoff_min", duration(ms(1)..=24 * HOUR));
    let backoff_max = section.defaulted("backoff_max", duration(ms(1)..=24 * HOUR));
    Some(Delivery {
        ordering: ordering?,
        in_flight_rows_max: in_flight_rows_max?,
        in_flight_bytes_max: in_flight_bytes_max?,
        read_ahead_rows_max: read_ahead_rows_max?,
        read_ahead_bytes_max: read_ahead_bytes_max?,
        backoff_min: backoff_min?,
        backoff_max: backoff_max?,
        drain_timeout: drain_timeout?,
    })
}

fn lease(section: &mut Section<'_>) -> Option<Lease> {
    // Below 3 s a slow round trip or two would end the trust in a lease that is still ours.
    let ttl = section.defaulted("ttl", duration(ms(3_000)..=HOUR));
    Some(Lease { ttl: ttl? })
}

fn metrics(section: &mut Section<'_>) -> Option<Metrics> {
    let listen = section.defaulted("listen", address);
    let backlog_interval = section.defaulted("backlog_interval", duration(ms(100)..=HOUR));
    Some(Metrics { listen: listen?, backlog_interval: backlog_interval? })
}

fn admin(section: &mut Section<'_>) -> Option<Admin> {
    let listen = section.defaulted("listen", address);
    Some(Admin { listen: listen? })
}

fn log(section: &mut Section<'_>) -> Option<Log> {
    const FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];

    let format = section.defaulted("format", choice(&FORMATS, &[]));
    let filter = section.defaulted("filter", |value| {
        let filter = text(value)?;
        match tracing_subscriber::EnvFilter::try_new(&filter) {
            Ok(_) => Ok(filter),
            Err(error) => {
                let hint = "write a level, or levels by module: \"info,outbox_relay=debug\"";
                Err(Wrong::new(format!("{filter:?} is not a log filter: {error}"), hint))
            }
        }
    });
    Some(Log { format: format?, filter: filter? })
}

/// The contents of the file a `*_file` key names, without the line end that editors put there.
fn secret_file(value: &config::Value) -> Result<String, Wrong> {
    let path = value::path(value)?;
    let name = path.display();
    let text = std::fs::read_to_string(&path).map_err(|error| {
        let hint = "make the file readable for the user the relay runs as";
        Wrong::new(format!("could not read {name}: {error}"), hint)
    })?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(Wrong::new(format!("could not use {name}: it is empty"), "write the secret into the file")),
        secret => Ok(secret.to_owned()),
    }
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
