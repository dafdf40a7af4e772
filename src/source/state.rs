//! The relay's own tables: what it means when they cannot be used, and the SQL that mends it.

use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

use super::connection::{
    INSUFFICIENT_PRIVILEGE, READ_ONLY, UNDEFINED_COLUMN, UNDEFINED_SCHEMA, UNDEFINED_TABLE, explain,
    sqlstate, unfit,
};
use super::poll::PollSettings;
use super::{SourceError, SourceErrorKind};
use crate::config::{self, name::quote};

/// What a failure to read or write the relay's own tables means.
pub(crate) fn explain_state(settings: &PollSettings, attempt: &str, error: &sqlx::Error) -> SourceError {
    let explained = explain(attempt, error);
    let schema = settings.state.schema.quoted();
    let (role, database) = login(&settings.database);
    match sqlstate(error) {
        Some(UNDEFINED_TABLE | UNDEFINED_COLUMN | UNDEFINED_SCHEMA) => {
            unfit(explained.message, "run `outbox-relay migrate` as the owner of the database")
        }
        Some(INSUFFICIENT_PRIVILEGE) => unfit(
            explained.message,
            format!(
                "as the owner of {schema}: grant usage on schema {schema} to {role}; grant select, insert, update on \
                 {schema}.lease, {schema}.pipeline to {role}"
            ),
        ),
        Some(READ_ONLY) => unfit(
            explained.message,
            format!(
                "point the url at the primary; or end what makes this one read-only: begin read write; alter \
                 database {database} set default_transaction_read_only = off; commit"
            ),
        ),
        _ => explained,
    }
}

/// Why no connection could be made, with the SQL that mends it where the server named a name.
pub(crate) fn explain_login(database: &config::Database, error: SourceError) -> SourceError {
    let (role, database) = login(database);
    let hint = match error.kind {
        SourceErrorKind::Unavailable => return error,
        SourceErrorKind::Unfit if error.message.contains("(3D000)") => {
            format!("name another database in the url; or: create database {database}")
        }
        SourceErrorKind::Unfit if error.message.contains("(42501)") => {
            format!("as the owner of the database: grant connect on database {database} to {role}")
        }
        SourceErrorKind::Unfit => return error,
    };
    unfit(error.message, hint)
}

/// The role and the database of the url, as SQL names.
fn login(database: &config::Database) -> (String, String) {
    let options = PgConnectOptions::from_str(database.url.reveal()).unwrap_or_default();
    let role = options.get_username();
    // As libpq has it: who names no database means the one with the role's name.
    (quote(role), quote(options.get_database().unwrap_or(role)))
}
