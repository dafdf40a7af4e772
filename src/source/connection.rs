//! One connection to the database: how it is set up, how long a statement may take, and what its
//! errors mean. What is asked over it is not known here.

use std::future::Future;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgDatabaseError};
use sqlx::{ConnectOptions, Connection, PgConnection};

use super::{SourceError, SourceErrorKind};
use crate::config;

/// How much longer than the server we wait for a statement: after that the link is taken for dead.
const LINK_GRACE: Duration = Duration::from_secs(3);

/// How a connection is made; knows the password and does not show it.
#[derive(Clone)]
pub(crate) struct Connector {
    options: PgConnectOptions,
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
        let options = PgConnectOptions::from_str(database.url.reveal())
            .map_err(|_| {
                unfit("could not read the database url", "write it as postgres://user@host/database")
            })?
            .application_name(&format!("outbox-relay/{pipeline}"))
            .extra_float_digits(1)
            .options(settings(database))
            .disable_statement_logging();
        Ok(Self {
            options,
            connect_timeout: database.connect_timeout,
            statement_limit: database.statement_timeout + LINK_GRACE,
        })
    }

    /// # Errors
    /// `Unavailable`, or `Unfit` for a refused login, a missing database or a standby server.
    pub(crate) async fn connect(&self) -> Result<Link, SourceError> {
        let attempt = "could not connect to the database";
        let made = bounded(self.connect_timeout, PgConnection::connect_with(&self.options)).await;
        let connection = made.map_err(|error| explain(attempt, &error))?;
        let mut link = Link { connection, pid: 0, limit: self.statement_limit };
        let (pid, recovering) = link
            .ask(attempt, async |c| {
                sqlx::query_as::<_, (i32, bool)>("select pg_backend_pid(), pg_is_in_recovery()")
                    .fetch_one(c)
                    .await
            })
            .await?;
        if recovering {
            return Err(unfit(
                "could not use the database: this server is a standby, nothing can be marked on it",
                "point the url at the primary, or list every host with a name that follows it; to make this server the \
                 primary: select pg_promote()",
            ));
        }
        link.pid = pid;
        Ok(link)
    }
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

/// An open connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) connection: PgConnection,
    /// The server process behind it.
    pub(crate) pid: i32,
    limit: Duration,
}

impl Link {
    /// Runs `statement`, for at most the statement timeout and a little.
    pub(crate) async fn run<'c, T, F>(
        &'c mut self,
        statement: impl FnOnce(&'c mut PgConnection) -> F,
    ) -> Result<T, sqlx::Error>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        bounded(self.limit, statement(&mut self.connection)).await
    }

    /// Like [`run`](Self::run), for callers that do nothing about an error but pass it on.
    pub(crate) async fn ask<'c, T, F>(
        &'c mut self,
        attempt: &str,
        statement: impl FnOnce(&'c mut PgConnection) -> F,
    ) -> Result<T, SourceError>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        self.run(statement).await.map_err(|error| explain(attempt, &error))
    }
}

/// A half-open TCP connection answers nothing for many minutes: our own clock bounds every wait.
async fn bounded<T>(
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

/// A prepared statement would now return other types; a new connection prepares it anew.
pub(crate) fn is_outdated_plan(error: &sqlx::Error) -> bool {
    sqlstate(error) == Some("0A000")
}

/// The statement does not fit the tables as they are now, or may not use them.
pub(crate) fn is_about_the_schema(error: &sqlx::Error) -> bool {
    sqlstate(error).is_some_and(|code| code.starts_with("42") || code == UNDEFINED_SCHEMA)
}

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
    let (kind, hint) = match sqlstate(error) {
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
