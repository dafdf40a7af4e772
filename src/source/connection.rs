//! One connection to the database: how it is set up, how long a statement may take, and what its
//! errors mean. What is asked over it is not known here.

use std::future::Future;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgDatabaseError};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

use super::statement::literal;
use super::wire::Wire;
use super::{SourceError, SourceErrorKind};
use crate::config::{self, Pooler};
use crate::tls;

/// How much longer than the server we wait for a statement: after that the link is taken for dead.
const LINK_GRACE: Duration = Duration::from_secs(3);

/// How a connection is made; knows the password and does not show it.
#[derive(Clone)]
pub(crate) struct Connector {
    options: PgConnectOptions,
    /// Behind a pooler that shares sessions: the statements that begin each transaction.
    begin: Option<Arc<str>>,
    connect_timeout: Duration,
    statement_limit: Duration,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl Connector {
    /// # Errors
    /// `Unfit` if the URL cannot be read.
    pub(crate) fn new(database: &config::Database, pipeline: &str) -> Result<Self, SourceError> {
        let options = identified(&database.url, pipeline)?;
        Ok(match database.pooler {
            Pooler::None => Self::with(options.options(settings(database)), None, database),
            Pooler::Transaction => Self::with(options, Some(begin(database).into()), database),
        })
    }

    /// A way to a session of our own, as notifications need it: past any pooler.
    ///
    /// # Errors
    /// `Unfit` if the URL cannot be read.
    pub(crate) fn direct(database: &config::Database, pipeline: &str) -> Result<Self, SourceError> {
        let url = database.listen_url.as_ref().unwrap_or(&database.url);
        Ok(Self::with(identified(url, pipeline)?.options(settings(database)), None, database))
    }

    fn with(options: PgConnectOptions, begin: Option<Arc<str>>, database: &config::Database) -> Self {
        Self {
            options,
            begin,
            connect_timeout: database.connect_timeout,
            statement_limit: database.statement_timeout + LINK_GRACE,
        }
    }

    /// # Errors
    /// `Unavailable`, or `Unfit` for a refused login, a missing database or a standby server.
    pub(crate) async fn connect(&self) -> Result<Link, SourceError> {
        let made = bounded(self.connect_timeout, PgConnection::connect_with(&self.options)).await;
        let connection = made.map_err(|error| explain(CONNECT, &error))?;
        let shared = self.begin.is_some();
        let wire = Wire::new(connection, !shared);
        let mut link = Link {
            wire,
            process: Process::default(),
            begin: self.begin.clone(),
            limit: self.statement_limit,
        };
        let found = link.ask(CONNECT, async |c| look(c, shared).await).await?;
        if found.recovering {
            return Err(unfit(
                "could not use the database: this server is a standby, nothing can be marked on it",
                "point the url at the primary, or list every host with a name that follows it; to make this server the \
                 primary: select pg_promote()",
            ));
        }
        if !found.settled {
            // Among what was lost are those settings that order and durability rest on.
            return Err(unfit(
                "could not use the database: the session is not set up as asked, a pooler stands in between",
                POOLER_HINT,
            ));
        }
        // Behind a pooler the next transaction may be another process's.
        link.process = if shared { Process::default() } else { found.process };
        Ok(link)
    }

    /// How to connect, for a client that does it by itself.
    pub(crate) fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    pub(crate) const fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    pub(crate) const fn statement_limit(&self) -> Duration {
        self.statement_limit
    }
}

const CONNECT: &str = "could not connect to the database";
const POOLER_HINT: &str = "write database.pooler = \"transaction\", or the url of the server itself";

/// What a new connection leads to.
struct Found {
    process: Process,
    recovering: bool,
    /// Our settings have arrived.
    settled: bool,
}

/// Looks, and sees to it that nobody's search path has a say any more in what a name means. In a session that is
/// shared, each transaction begins by saying so, and no more than that one may hear of it.
async fn look(c: &mut Wire, shared: bool) -> Result<Found, sqlx::Error> {
    let sql = include_str!("outbox/session.sql").trim_end();
    let row = sqlx::query_as::<_, (i32, String, bool, bool, String)>(sql).bind(shared).fetch_one(c).await?;
    Ok(Found { process: Process { pid: row.0, started: row.1 }, recovering: row.2, settled: row.3 })
}

fn identified(url: &config::Secret, pipeline: &str) -> Result<PgConnectOptions, SourceError> {
    let options = PgConnectOptions::from_str(url.reveal())
        .map_err(|_| unfit("could not read the database url", "write it as postgres://user@host/database"))?;
    let named = options.application_name(&format!("outbox-relay/{pipeline}"));
    // Poolers refuse it at startup; it is among the settings.
    Ok(named.extra_float_digits(None).disable_statement_logging())
}

/// Session settings, independent of what the role or the database defaults to.
fn settings(database: &config::Database) -> Vec<(&'static str, String)> {
    let ms = |limit: Duration| limit.as_millis().max(1).to_string();
    let fixed = |name, value: &str| (name, value.to_owned());
    vec![
        ("statement_timeout", ms(database.statement_timeout)),
        ("lock_timeout", ms(database.lock_timeout)),
        fixed("idle_in_transaction_session_timeout", "10000"),
        fixed("default_transaction_isolation", "read committed"),
        // A mark that a crash takes back is a repeat, and the barrier rests on it.
        fixed("synchronous_commit", "on"),
        // Rows that row security hides are an error, not absent: they would wait with a lag of 0.
        fixed("row_security", "off"),
        // What is published is the text of columns: it must not depend on the server's settings.
        fixed("extra_float_digits", "1"),
        fixed("IntervalStyle", "postgres"),
        fixed("bytea_output", "hex"),
        fixed("xmlbinary", "base64"),
        fixed("lc_monetary", "C"),
        fixed("standard_conforming_strings", "on"),
        // Statistics of an outbox are always stale. A plan is made for the table as it is now, and
        // reads in order come from the index: never from a sort of the whole backlog.
        fixed("plan_cache_mode", "force_custom_plan"),
        fixed("enable_sort", "off"),
        fixed("max_parallel_workers_per_gather", "0"),
        fixed("jit", "off"),
    ]
}

/// Begins a transaction with the same settings, for as long as it lasts: a pooler hands the session to
/// somebody else afterwards, who must find it as it was.
fn begin(database: &config::Database) -> String {
    // The client sends the first three when a session of its own starts.
    let own =
        [("DateStyle", "ISO, MDY"), ("TimeZone", "UTC"), ("client_encoding", "UTF8"), ("search_path", "")];
    let own = own.map(|(name, value)| (name, value.to_owned()));
    let settings = own.into_iter().chain(settings(database));
    let settings = settings.map(|(name, value)| format!("set local \"{name}\" = {};\n", literal(&value)));
    "begin isolation level read committed;\n".to_owned() + &settings.collect::<String>()
}

/// A process of the server. Its number alone would also be that of whoever gets the number after it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Process {
    /// 0 for nobody.
    pub(crate) pid: i32,
    /// As the server writes it.
    pub(crate) started: String,
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Link {
    wire: Wire,
    /// The server process behind it; nobody if that changes.
    pub(crate) process: Process,
    begin: Option<Arc<str>>,
    limit: Duration,
}

impl Link {
    /// Runs `work`, for at most the statement timeout and a little. Behind a pooler it is one transaction,
    /// otherwise each statement commits by itself.
    pub(crate) async fn run<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Wire) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        match &self.begin {
            Some(begin) => bounded(self.limit, transaction(&mut self.wire, begin, work)).await,
            None => bounded(self.limit, work(&mut self.wire)).await,
        }
    }

    /// Like [`run`](Self::run), and always one transaction.
    pub(crate) async fn transact<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Wire) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let begin = self.begin.as_deref().unwrap_or("begin");
        bounded(self.limit, transaction(&mut self.wire, begin, work)).await
    }

    /// Like [`run`](Self::run), for callers that do nothing about an error but pass it on.
    pub(crate) async fn ask<T>(
        &mut self,
        attempt: &str,
        work: impl AsyncFnOnce(&mut Wire) -> Result<T, sqlx::Error>,
    ) -> Result<T, SourceError> {
        self.run(work).await.map_err(|error| explain(attempt, &error))
    }
}

/// Leaves no transaction open unless the connection is lost, which ends it too.
async fn transaction<T>(
    wire: &mut Wire,
    begin: &str,
    work: impl AsyncFnOnce(&mut Wire) -> Result<T, sqlx::Error>,
) -> Result<T, sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut *wire).await?;
    let done = work(wire).await;
    match &done {
        Ok(_) => {
            sqlx::raw_sql("commit").execute(wire).await?;
        }
        Err(error) if sqlstate(error).is_some() => {
            // The error of the work says more than one of this.
            let _ = sqlx::raw_sql("rollback").execute(wire).await;
        }
        Err(_) => {}
    }
    done
}

/// A half-open TCP connection answers nothing for many minutes: our own clock bounds every wait.
pub(crate) async fn bounded<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => {
            let text = format!("no answer within {}", humantime::format_duration(limit));
            Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, text)))
        }
    }
}

/// A place for one connection, empty while it is in use.
///
/// A call takes the connection out and puts it back once it succeeded. One that failed or whose
/// future was dropped half way is gone with it, and the next call connects again.
#[derive(Debug)]
pub(crate) struct Slot<T>(Mutex<Option<T>>);

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Slot<T> {
    pub(crate) fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(crate) fn put(&self, connection: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
    }
}

/// The error of an attempt that was given up after `patience`.
pub(crate) fn silent(attempt: &str, patience: Duration) -> SourceError {
    SourceError {
        kind: SourceErrorKind::Unavailable,
        message: format!("{attempt}: no answer within {}", humantime::format_duration(patience)).into(),
        hint: None,
    }
}

/// The error is about a row we named, and another row might fare better.
///
/// Everything that may be about the connection, the moment or the server as a whole is not.
pub(crate) fn is_about_a_row(error: &sqlx::Error) -> bool {
    let Some(code) = sqlstate(error) else { return false };
    let whole_server = ["08", "0A", "25", "26", "28", "40", "42", "53", "54", "55", "57", "58", "XX", "F0"];
    code == INSUFFICIENT_PRIVILEGE || !whole_server.contains(&&code[..2])
}

/// The server ended a statement of ours because of the time it took.
pub(crate) fn is_timeout(error: &SourceError) -> bool {
    error.message.ends_with("(57014)")
}

/// A prepared statement would now return other types; a new connection prepares it anew.
pub(crate) fn is_outdated_plan(error: &sqlx::Error) -> bool {
    sqlstate(error) == Some("0A000")
}

/// The statement does not fit the tables as they are now, or may not use them.
pub(crate) fn is_about_the_schema(error: &sqlx::Error) -> bool {
    sqlstate(error).is_some_and(|code| code.starts_with("42") || code == UNDEFINED_SCHEMA)
}

const PROTOCOL_VIOLATION: &str = "08P01";
pub(crate) const INSUFFICIENT_PRIVILEGE: &str = "42501";
pub(crate) const READ_ONLY: &str = "25006";
pub(crate) const LOCK_NOT_AVAILABLE: &str = "55P03";
pub(crate) const UNDEFINED_TABLE: &str = "42P01";
pub(crate) const UNDEFINED_COLUMN: &str = "42703";
pub(crate) const UNDEFINED_SCHEMA: &str = "3F000";

/// The five characters of the SQLSTATE, if the server said anything.
pub(crate) fn sqlstate(error: &sqlx::Error) -> Option<&str> {
    database_error(error).map(PgDatabaseError::code)
}

fn database_error(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>())
}

/// What went wrong in one line. Without DETAIL, where servers quote values of the row.
pub(crate) fn reason(error: &sqlx::Error) -> String {
    match (database_error(error), error) {
        (Some(error), _) => format!("{} ({})", error.message(), error.code()),
        (None, sqlx::Error::Io(error)) => error.to_string(),
        (None, error) => error.to_string(),
    }
}

/// What `error` means to the relay and to people.
pub(crate) fn explain(attempt: &str, error: &sqlx::Error) -> SourceError {
    if let Some(distrust) = tls::distrust(error) {
        return unfit(format!("{attempt}: {}", distrust.reason), distrust.hint);
    }
    let (kind, hint) = match sqlstate(error) {
        Some(PROTOCOL_VIOLATION) if reason(error).contains("startup parameter") => {
            (SourceErrorKind::Unfit, Some(POOLER_HINT))
        }
        Some(code) => judge(code),
        None => (SourceErrorKind::Unavailable, None),
    };
    let message = format!("{attempt}: {}", reason(error));
    SourceError { kind, message: message.into(), hint: hint.map(Arc::from) }
}

fn judge(code: &str) -> (SourceErrorKind, Option<&'static str>) {
    match &code[..2] {
        "28" => (SourceErrorKind::Unfit, Some("check user, password and pg_hba.conf")),
        "3D" => (SourceErrorKind::Unfit, Some("create the database, or name another in the url")),
        "25" => (SourceErrorKind::Unfit, Some("the server refuses writes: point the url at the primary")),
        "22" | "23" | "3F" | "42" | "0A" | "P0" => (SourceErrorKind::Unfit, None),
        _ => (SourceErrorKind::Unavailable, None),
    }
}

/// An error that stays until a person does what `hint` says.
pub(crate) fn unfit(message: impl Into<Arc<str>>, hint: impl Into<Arc<str>>) -> SourceError {
    SourceError { kind: SourceErrorKind::Unfit, message: message.into(), hint: Some(hint.into()) }
}
