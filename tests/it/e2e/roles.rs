//! `deploy/sql/roles.sql`: a role that gets through everything a relay does, and through nothing else.

use std::path::Path;
use std::process::Command;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::stage::{PATIENCE, stop};
use crate::support::database::Database;
use crate::support::postgres::Postgres;
use crate::support::relay::Settings;
use crate::support::services::{self, Services};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/sql/roles.sql");

/// What no relay ever does, whatever marks its rows.
const FORBIDDEN: [&str; 24] = [
    "insert into outbox.message (kind) values ('k')",
    "update outbox.message set payload = '1'",
    "update outbox.message set key = 'k'",
    "truncate outbox.message",
    "alter table outbox.message add column note text",
    "alter table outbox.message disable trigger all",
    "drop table outbox.message",
    "create index on outbox.message (key)",
    "select nextval('outbox.message_id_seq')",
    "select * from app.secret",
    "create table outbox.own (id int)",
    "create table outbox_relay.own (id int)",
    "create table public.own (id int)",
    "create schema own",
    "delete from outbox_relay.lease",
    "delete from outbox_relay.pipeline",
    "truncate outbox_relay.lease",
    "alter table outbox_relay.lease add column note text",
    "drop table outbox_relay.pipeline",
    "select * from outbox_relay.migration",
    "create role own",
    "set role postgres",
    "select pg_read_file('postgresql.conf')",
    "alter role relay bypassrls",
];

fn run_script(database: &Database, variables: &[&str]) {
    let psql = Path::new(&services::postgres_bin()).join("psql");
    let mut command = Command::new(psql);
    command.args(["-X", "-q", "-f", SCRIPT]);
    command.args(variables.iter().flat_map(|variable| ["-v", variable]));
    let done = command.arg(&database.url).output().expect("psql is beside postgres");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.is_empty(), "{said}");
}

/// A database with the outbox, and another table that is nobody's business.
async fn database(server: &Postgres) -> Database {
    let database = Database::create_in(&server.url).await;
    let migrated = Settings::stdout(&database.url).output(&["migrate"]);
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    database.execute("create schema app; create table app.secret (id int)").await;
    database
}

async fn assert_denied(role: &mut PgConnection, statement: &str) {
    let done = role.execute(AssertSqlSafe(statement)).await;
    let error = done.expect_err(&format!("allowed: {statement}"));
    let code = error.as_database_error().and_then(|error| error.code()).map(|code| code.to_string());
    assert_eq!(code.as_deref(), Some("42501"), "{statement}: {error}");
}

#[tokio::test]
async fn the_role_of_the_script_relays_and_may_do_nothing_else() {
    if Services::find("roles").is_none() {
        return;
    }
    let server = Postgres::start(&[]).await;
    let marks: [(&str, &[&str]); 2] = [
        ("update", &["delete from outbox.message", "update outbox.message set id = default"]),
        ("delete", &["update outbox.message set delivered_at = clock_timestamp()"]),
    ];
    for (mark, others) in marks {
        let database = database(&server).await;
        // Twice: it may be run again.
        for _ in 0..2 {
            run_script(&database, &["relay=relay", &format!("mark={mark}")]);
        }
        let settings =
            Settings::stdout(&database.url_as("relay")).text("outbox.mark", mark).text("lease.ttl", "3s");
        // A row that the application keeps locked keeps no other from being marked.
        database.execute("insert into outbox.message (destination, kind) values ('orders', 'k')").await;
        let mut holder = PgConnection::connect(&database.url).await.expect("the server answers");
        let lock = "begin; select 1 from outbox.message for update";
        sqlx::raw_sql(lock).execute(&mut holder).await.expect("nobody else has it");
        let mut relay = settings.run();
        database
            .execute("insert into outbox.message (destination, kind) select 'orders', 'k' from generate_series(1, 100)")
            .await;
        let pending = "outbox.message where delivered_at is null";
        relay.wait_for(PATIENCE, "the others are marked", async || database.count(pending).await == 1).await;
        holder.close().await.expect("it lets go of the row");
        relay.wait_for(PATIENCE, "all is delivered", async || database.count(pending).await == 0).await;
        assert_eq!(database.count("outbox_relay.lease where owner is not null").await, 1);
        let log = relay.stderr().clone();
        assert!(
            log.contain("works as the database role relay")
                && !log.contain("role relay,")
                && !log.contain("denied"),
            "{}",
            log.tail(20)
        );
        stop(relay).await;

        let mut role = PgConnection::connect(&database.url_as("relay")).await.expect("it may log in");
        for statement in FORBIDDEN.into_iter().chain(others.iter().copied()) {
            assert_denied(&mut role, statement).await;
        }
        let timeout: String =
            sqlx::query_scalar("show statement_timeout").fetch_one(&mut role).await.expect("it is set");
        assert_eq!(timeout, "30s");
    }
}

#[tokio::test]
async fn the_script_takes_names_that_need_quotes_and_a_limit_of_connections() {
    if Services::find("quoted roles").is_none() {
        return;
    }
    let server = Postgres::start(&[]).await;
    let database = database(&server).await;
    database
        .execute(
            r#"create schema "App's"; alter schema outbox_relay rename to "Re lay";
            create table "App's"."Out""Box" ("Id" bigserial primary key, "Body" text, "Done?" boolean)"#,
        )
        .await;
    let variables = [
        "relay=The \"Relay\"",
        "outbox_schema=App's",
        "outbox_table=Out\"Box",
        "mark_column=Done?",
        "state_schema=Re lay",
        "connections=7",
    ];
    run_script(&database, &variables);
    let may = r#"select has_column_privilege('The "Relay"', '"App''s"."Out""Box"', 'Done?', 'update')
        and has_table_privilege('The "Relay"', '"Re lay".lease', 'insert')
        and (select rolconnlimit = 7 from pg_roles where rolname = 'The "Relay"')"#;
    assert!(database.one::<bool>(may).await);
}
