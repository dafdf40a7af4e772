//! The relay's own tables: made, brought up to date, and removed. The only place with DDL; `run` never
//! comes here.

use super::connection::{Connector, INSUFFICIENT_PRIVILEGE, explain, sqlstate};
use super::poll::PollSettings;
use super::state::explain_login;
use super::statement::Statement;
use super::wire::Wire;
use super::{SourceError, SourceErrorKind};
use crate::config::name::quote;
use crate::config::{Mark, MarkColumn};

const ATTEMPT: &str = "could not migrate the database";

/// Any two numbers nobody else uses: held by a transaction that migrates, so that two do not race.
const MIGRATION_LOCK: (i32, i32) = (0x6f62, 0x7278);

struct Migration {
    version: i32,
    name: &'static str,
    sql: &'static str,
    /// Only for those who use the table it makes.
    only_default_table: bool,
}

const MIGRATIONS: [Migration; 3] = [
    Migration {
        version: 1,
        name: "0001_lease",
        sql: include_str!("../../migrations/0001_lease.sql"),
        only_default_table: false,
    },
    Migration {
        version: 2,
        name: "0002_outbox",
        sql: include_str!("../../migrations/0002_outbox.sql"),
        only_default_table: true,
    },
    Migration {
        version: 3,
        name: "0003_pipeline",
        sql: include_str!("../../migrations/0003_pipeline.sql"),
        only_default_table: false,
    },
];

/// Applies the migrations that are missing and returns their names; none, if there is nothing to do.
///
/// Each is a transaction of its own, gives up a lock it does not get within `lock_timeout`, and may be
/// run again.
///
/// # Errors
/// Whatever the database said: the role needs `create` on the database.
pub async fn migrate(settings: &PollSettings) -> Result<Vec<String>, SourceError> {
    let connector = Connector::new(&settings.database, &settings.pipeline.name)?;
    let mut link = connector.connect().await.map_err(|error| explain_login(&settings.database, error))?;
    let mut applied = Vec::new();
    for migration in wanted(settings) {
        let recorded = link.run(async |c| recorded(c, settings, migration).await).await;
        if recorded.map_err(|error| hinted(&error))? {
            continue;
        }
        let done = link.transact(async |c| apply(c, settings, migration).await).await;
        if done.map_err(|error| hinted(&error))? {
            applied.push(migration.name.to_owned());
        }
    }
    Ok(applied)
}

/// Within a transaction.
async fn apply(c: &mut Wire, settings: &PollSettings, migration: &Migration) -> Result<bool, sqlx::Error> {
    let (high, low) = MIGRATION_LOCK;
    let lock = sqlx::query("select pg_advisory_xact_lock($1, $2)");
    lock.bind(high).bind(low).execute(&mut *c).await?;
    // Somebody else may have been first while we waited.
    let missing = !recorded(c, settings, migration).await?;
    if missing {
        sqlx::raw_sql(own(REGISTER, settings).sql()).execute(&mut *c).await?;
        sqlx::raw_sql(own(migration.sql, settings).sql()).execute(&mut *c).await?;
        sqlx::raw_sql(record(migration, settings).sql()).execute(c).await?;
    }
    Ok(missing)
}

async fn recorded(c: &mut Wire, settings: &PollSettings, migration: &Migration) -> Result<bool, sqlx::Error> {
    let table = format!("{}.migration", settings.state.schema.quoted());
    let exists: bool =
        sqlx::query_scalar("select to_regclass($1) is not null").bind(table).fetch_one(&mut *c).await?;
    if !exists {
        return Ok(false);
    }
    let look = "select exists (select 1 from {schema}.migration where version = $1)";
    let look = own(look, settings);
    sqlx::query_scalar(look.sql()).bind(migration.version).fetch_one(c).await
}

/// Where applied migrations are written down.
const REGISTER: &str = "\
create schema if not exists {schema};
create table if not exists {schema}.migration (
    version integer primary key,
    name text not null,
    applied_at timestamptz not null default clock_timestamp()
);";

fn wanted(settings: &PollSettings) -> impl Iterator<Item = &'static Migration> {
    let default_table = is_default_table(settings);
    MIGRATIONS.iter().filter(move |migration| default_table || !migration.only_default_table)
}

fn is_default_table(settings: &PollSettings) -> bool {
    let table = &settings.outbox.table;
    table.schema.as_deref() == Some("outbox") && table.table == "message"
}

/// A statement over our own schema.
fn own(sql: &str, settings: &PollSettings) -> Statement {
    Statement::fill(sql, &[("schema", &settings.state.schema.quoted())])
}

fn record(migration: &Migration, settings: &PollSettings) -> Statement {
    let sql =
        "insert into {schema}.migration (version, name) values ({version}, '{name}') on conflict do nothing";
    let (schema, version) = (settings.state.schema.quoted(), migration.version.to_string());
    Statement::fill(sql, &[("schema", &schema), ("version", &version), ("name", migration.name)])
}

/// All migrations as a script, for those who run their DDL themselves: first what the owner of the
/// database runs, then what the role of the relay needs. It may be run again.
#[must_use]
pub fn print_sql(settings: &PollSettings) -> String {
    let mut script = String::from("-- As the owner of the database.\nbegin;\n");
    add_to(&mut script, &own(REGISTER, settings));
    for migration in wanted(settings) {
        add_to(&mut script, &own(migration.sql, settings));
        add_to(&mut script, &record(migration, settings));
    }
    script.push_str("commit;\n\n");
    script.push_str(&grants(settings));
    if let Some(channel) = &settings.outbox.listen {
        script.push_str(
            "\n-- As the owner of both schemas, for outbox.listen: worth it if messages are rare.\n",
        );
        add_to(&mut script, &notifier(settings, channel));
    }
    script
}

/// What has the outbox table notify `channel`.
fn notifier(settings: &PollSettings, channel: &str) -> Statement {
    let places = [
        ("schema", settings.state.schema.quoted()),
        ("table", settings.outbox.table.quoted()),
        ("channel", quote(channel)),
        ("function", format!("notify_{}", settings.pipeline.name)),
        ("trigger", trigger(settings)),
    ];
    let places = places.each_ref().map(|(place, value)| (*place, value.as_str()));
    Statement::fill(include_str!("outbox/notify.sql"), &places)
}

fn trigger(settings: &PollSettings) -> String {
    format!("outbox_relay_{}", settings.pipeline.name)
}

fn add_to(script: &mut String, statement: &Statement) {
    script.push_str(statement.as_str());
    script.push_str(";\n\n");
}

/// What `:relay`, the role of the relay, needs: no more, and no DDL.
fn grants(settings: &PollSettings) -> String {
    let outbox = &settings.outbox;
    let (state, table) = (settings.state.schema.quoted(), outbox.table.quoted());
    let marking = match &outbox.mark {
        // The latter for `for update skip locked`, which passes over rows that somebody keeps locked.
        Mark::Delete => format!("delete, update ({})", outbox.columns.id.quoted()),
        Mark::Update(
            MarkColumn::Timestamp(column) | MarkColumn::Boolean(column) | MarkColumn::Status { column, .. },
        ) => format!("update ({})", column.quoted()),
    };
    let schema = outbox
        .table
        .schema
        .as_ref()
        .map_or(String::new(), |schema| format!("grant usage on schema {} to :relay;\n", quote(schema)));
    format!(
        "-- As the owner of both schemas, for the role of the relay: psql -v relay=<role>\n\
         grant usage on schema {state} to :relay;\n\
         grant select, insert, update on {state}.lease, {state}.pipeline to :relay;\n\
         {schema}grant select on {table} to :relay;\n\
         grant {marking} on {table} to :relay;\n"
    )
}

/// Removes everything [`migrate`] made but the application's table, whose rows are not ours to drop.
#[must_use]
pub fn uninstall_sql(settings: &PollSettings) -> String {
    let schema = settings.state.schema.quoted();
    let mut script = format!(
        "-- As the owner of the database, once no relay runs.\n\
         drop trigger if exists {} on {};\n\
         drop function if exists {schema}.notify_{}();\n\
         drop table if exists {schema}.lease, {schema}.pipeline, {schema}.migration;\n\
         drop schema if exists {schema};\n",
        trigger(settings),
        settings.outbox.table.quoted(),
        settings.pipeline.name,
    );
    if is_default_table(settings) {
        script.push_str(
            "\n-- The outbox holds the application's messages. To drop them too:\n\
             -- drop table if exists outbox.message;\n\
             -- drop schema if exists outbox;\n",
        );
    }
    script
}

fn hinted(error: &sqlx::Error) -> SourceError {
    let explained = explain(ATTEMPT, error);
    if sqlstate(error) != Some(INSUFFICIENT_PRIVILEGE) {
        return explained;
    }
    let hint = "run `outbox-relay migrate --print-sql` and have the owner of the database run what it prints";
    SourceError { kind: SourceErrorKind::Unfit, hint: Some(hint.into()), ..explained }
}
