//! What the operator asked for, checked and typed. Nothing here connects to anything.
//!
//! [`load`](load::load) reads the file, the environment and flags and either returns a [`Config`] in
//! which every value is usable as it stands, or every problem at once; [`show`](show::show) writes it
//! out again. `config.example.toml` shows each key with its default and the reason for it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

mod check;
pub mod load;
mod merge;
pub mod name;
pub mod problem;
mod read;
pub mod secret;
mod section;
pub mod show;
mod size;
mod value;

pub use load::{Sources, load};
pub use name::{ColumnName, TableName};
pub use problem::{Problem, Problems};
pub use secret::Secret;
pub use show::show;

use crate::route::{Allowed, Glob, Template};
use crate::sink::OnUnroutable;

#[derive(Debug, Clone)]
pub struct Config {
    pub pipeline: Pipeline,
    pub database: Database,
    pub state: State,
    pub outbox: Outbox,
    pub route: Route,
    pub sink: Sink,
    pub delivery: Delivery,
    pub lease: Lease,
    pub metrics: Metrics,
    pub admin: Admin,
    pub log: Log,
}

/// `[pipeline]`
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// `[a-z0-9_]{1,40}`: it becomes part of slot names, labels and `application_name`.
    pub name: String,
}

/// `[database]`
#[derive(Debug, Clone)]
pub struct Database {
    /// `postgres://…`, with the password merged in from `password_file` if that is set.
    pub url: Secret,
    pub pooler: Pooler,
    /// Where notifications are listened for, if not at `url`.
    pub listen_url: Option<Secret>,
    /// How long one statement may run on the server.
    pub statement_timeout: Duration,
    /// How long a statement may wait for a lock.
    pub lock_timeout: Duration,
    pub connect_timeout: Duration,
}

/// What stands between us and the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooler {
    None,
    /// It lends a session for one transaction: nothing may be left behind in it.
    Transaction,
}

/// `[state]`
#[derive(Debug, Clone)]
pub struct State {
    /// The schema of the relay's own tables.
    pub schema: ColumnName,
}

/// `[outbox]`
#[derive(Debug, Clone)]
pub struct Outbox {
    pub table: TableName,
    pub columns: Columns,
    pub mark: Mark,
    /// Where the pipeline begins; asked for when its first look finds history.
    pub start: Option<Start>,
    /// The longest pause between two reads while idle.
    pub poll_interval: Duration,
    /// The channel on which writers may notify us; `None` if nobody listens.
    pub listen: Option<String>,
    pub message_bytes_max: usize,
    /// Rows a single read returns at most.
    pub fetch_rows_max: usize,
}

/// `[outbox.columns]`
#[derive(Debug, Clone)]
pub struct Columns {
    pub id: ColumnName,
    /// Required with `ordering = "key"`; defaults to the id column of the default table.
    pub order: Option<ColumnName>,
    pub key: Option<ColumnName>,
    pub kind: Option<ColumnName>,
    pub destination: Option<ColumnName>,
    pub payload: ColumnName,
    pub headers: Option<HeaderColumns>,
    pub created_at: Option<ColumnName>,
    /// Header name → column whose text becomes its value (`[outbox.header_columns]`).
    pub to_headers: BTreeMap<String, ColumnName>,
}

/// The key of `[outbox]` that maps a column to this header.
pub(crate) fn header_key(header: &str) -> String {
    let named = read::NAMED_HEADERS.iter().find(|(_, named)| *named == header);
    named.map_or_else(|| format!("header_columns.{header}"), |(key, _)| format!("columns.{key}"))
}

#[derive(Debug, Clone)]
pub enum HeaderColumns {
    /// One json or jsonb object of names to values.
    Json(ColumnName),
    /// Two text arrays of the same length (`headers = ["names", "values"]`).
    Arrays { names: ColumnName, values: ColumnName },
}

/// `mark` and, for `update`, `mark_column`, `mark_value`, `pending_value`.
#[derive(Debug, Clone)]
pub enum Mark {
    Update(MarkColumn),
    Delete,
}

#[derive(Debug, Clone)]
pub enum MarkColumn {
    /// Pending while NULL; set to the database's clock.
    Timestamp(ColumnName),
    /// Pending while not true (NULL counts as false).
    Boolean(ColumnName),
    /// Pending while equal to `pending`; set to `delivered`.
    Status { column: ColumnName, pending: String, delivered: String },
}

/// What of an outbox that was there before the pipeline is to be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Every pending row.
    All,
    /// Not what was pending at the pipeline's first look.
    Now,
    /// Only rows above this position.
    After(i64),
}

/// As it is written in the configuration.
impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Now => f.write_str("now"),
            Self::After(position) => write!(f, "after:{position}"),
        }
    }
}

/// `[route]`
#[derive(Debug, Clone)]
pub struct Route {
    /// Where rows go that meet no rule.
    pub rest: Way,
    /// `[[route.when]]`: the first rule that a row meets decides.
    pub when: Vec<Rule>,
    /// Destinations a row may reach; empty: all that are valid and not reserved.
    pub allow: Vec<Allowed>,
    /// The header that carries the row's id, where it is not a property of the message.
    pub id_header: String,
    /// The header that carries the event type, if the kind column is mapped. `None`: it is not sent.
    pub kind_header: Option<String>,
    /// The header that carries the key to an exchange. `None`: it is not sent.
    pub key_header: Option<String>,
    /// What messages to an exchange say their body is, unless the row says so.
    pub content_type: Option<String>,
    pub format: Format,
}

/// `format` and `envelope_fields`: how key, body and header values are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// As they are stored.
    Raw,
    /// Header values as JSON strings.
    Plain,
    /// All of them as JSON strings.
    JsonString,
    /// The same, with the body in an object beside these fields, which are not sent as headers.
    Envelope(Vec<EnvelopeField>),
}

/// A field of an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvelopeField {
    /// A place of a template, or `created_at`.
    pub place: String,
    pub name: String,
}

/// How a row goes to its broker: keys of `[route]` that `[[route.when]]` may override.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    pub target: Target,
    pub on_unroutable: OnUnroutable,
    pub app_id: Option<Arc<str>>,
}

/// What a destination is made of: of one kind for all rows, which follows from the sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Topic(Template),
    Exchange { exchange: Template, routing_key: Template },
}

/// An entry of `[[route.when]]`, with what it inherits.
#[derive(Debug, Clone)]
pub struct Rule {
    /// A place and what its value must look like; all of them must hold.
    pub conditions: Vec<(String, Glob)>,
    pub way: Way,
}

/// `[sink]`
#[derive(Debug, Clone)]
pub enum Sink {
    Kafka(Kafka),
    RabbitMq(RabbitMq),
    Stdout,
}

/// `[sink.kafka]`
#[derive(Debug, Clone)]
pub struct Kafka {
    pub brokers: String,
    /// librdkafka properties passed through; those a promise rests on were refused on load.
    pub properties: BTreeMap<String, Secret>,
}

/// `[sink.rabbitmq]`
#[derive(Debug, Clone)]
pub struct RabbitMq {
    /// `amqp://…` or `amqps://…`, with the password merged in from `password_file` if that is set.
    pub url: Secret,
    /// Whom to trust instead of the machine's own authorities.
    pub ca_file: Option<PathBuf>,
    /// How we prove who we are.
    pub identity: Option<Identity>,
    pub channels: usize,
    /// How long a broker that owes confirmations may give none before the connection counts as dead.
    pub confirm_timeout: Duration,
    pub heartbeat: Duration,
    /// What the broker shows this connection as; `outbox-relay.<pipeline>` if not given.
    pub connection_name: Option<String>,
    /// The queue whose holder alone publishes; `relay.lock.<pipeline>` if not given.
    pub lock: Option<String>,
    /// What the broker takes in one message.
    pub message_bytes_max: usize,
}

impl RabbitMq {
    /// The url as the client takes it.
    ///
    /// # Errors
    /// None once the url was read by this module; the text may quote it.
    pub fn uri(&self) -> Result<lapin::uri::AMQPUri, String> {
        read::amqp_uri(self.url.reveal())
    }
}

/// A certificate and its key, as PEM files.
#[derive(Debug, Clone)]
pub struct Identity {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

/// `[delivery]` and `[delivery.retry]`
#[derive(Debug, Clone)]
pub struct Delivery {
    pub ordering: Ordering,
    pub in_flight_rows_max: usize,
    pub in_flight_bytes_max: usize,
    pub read_ahead_rows_max: usize,
    pub read_ahead_bytes_max: usize,
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    pub drain_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordering {
    /// One unconfirmed message per destination and key.
    Key,
    None,
}

/// `[lease]`
#[derive(Debug, Clone)]
pub struct Lease {
    /// After a crash another relay takes over this much later.
    pub ttl: Duration,
}

/// `[metrics]`
#[derive(Debug, Clone)]
pub struct Metrics {
    pub listen: SocketAddr,
    /// How often the backlog is measured.
    pub backlog_interval: Duration,
}

/// `[admin]`
#[derive(Debug, Clone)]
pub struct Admin {
    pub listen: SocketAddr,
}

/// `[log]`
#[derive(Debug, Clone)]
pub struct Log {
    pub format: LogFormat,
    /// A `tracing` filter, as in `info,outbox_relay=debug`.
    pub filter: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Where the configuration file was found, for messages.
#[derive(Debug, Clone)]
pub enum Origin {
    File(PathBuf),
    /// No file: defaults, environment and flags only.
    None,
}
