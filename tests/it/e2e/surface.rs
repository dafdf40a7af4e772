//! What its operator meets: exit codes, messages that say what to do, scripts for psql, and pages and
//! logs that give nothing away.

use std::path::Path;
use std::process::{Command, Output};

use super::stage::{PATIENCE, Stage, stop};
use crate::support::database::Database;
use crate::support::kafka;
use crate::support::postgres::Postgres;
use crate::support::relay::{Metrics, Relay, Settings, get};
use crate::support::services::{self, Services};

#[tokio::test]
async fn every_configuration_problem_is_said_at_once_and_no_port_is_bound() {
    // Taken: a relay that bound it before it read on would say so instead.
    let taken = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("there is a free port");
    let taken = taken.local_addr().expect("it is bound");
    let settings = Settings::kafka("postgres://relay@localhost/app", "localhost:9092")
        .text("metrics.listen", &taken.to_string())
        .text("outbox.poll_intervall", "1s")
        .text("lease.ttl", "soon")
        .text("sink.kafka.properties.acks", "1")
        .text("route.topic", "{aggregate}");
    let output = settings.output(&["run"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    for problem in ["outbox.poll_intervall", "lease.ttl", "acks", "{aggregate}"] {
        assert!(said.contains(problem), "{problem} is not among:\n{said}");
    }
    assert!(output.stdout.is_empty() && !said.contains("listen on"), "{said}");
}

/// Waits until the status page says `text`; probes are in good order all the while.
async fn says(relay: &mut Relay, text: &str) {
    let port = relay.admin_port;
    let said = async || {
        let page = get(port, "/status").await;
        page.is_some_and(|(_, page)| page.contains(text))
    };
    relay.wait_for(PATIENCE, text, said).await;
    for path in ["/livez", "/readyz"] {
        let (status, body) = relay.get(path).await.expect("the page answers");
        assert_eq!(status, 200, "{path}: {body}");
    }
    assert!(relay.stderr().contain(&text.replace("\\\"", "\"")), "{}", relay.stderr().tail(20));
}

#[tokio::test]
async fn a_database_that_is_not_ready_is_waited_for_with_a_message_that_says_what_to_do() {
    let Some(services) = Services::find("not ready") else { return };
    let database = Database::create_in(&services.postgres_url).await;
    let topic = kafka::fresh_topic("late");
    kafka::create_topic(&services.kafka_brokers, &topic, 1, &[]).await;
    let settings = Settings::kafka(&database.url, &services.kafka_brokers).text("lease.ttl", "3s");
    let mut relay = settings.run();

    says(&mut relay, "run `outbox-relay migrate`").await;
    let migrated = settings.output(&["migrate"]);
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    relay.wait_until(PATIENCE, "it leads", |metrics| metrics.get("leader") == Some(1.0)).await;

    database.execute("alter table outbox.message rename to mesage").await;
    says(&mut relay, "could not find the table outbox.message").await;
    database.execute("alter table outbox.mesage rename to message").await;
    let insert = "insert into outbox.message (destination, kind) values ($1, 'k')";
    sqlx::query(insert).bind(&topic).execute(&database.pool).await.expect("the outbox takes rows");
    let pending = "outbox.message where delivered_at is null";
    relay.wait_for(PATIENCE, "the row is delivered", async || database.count(pending).await == 0).await;
    stop(relay).await;
}

/// Runs what `settings` print with the arguments through psql, as an operator would.
fn piped(settings: &Settings, arguments: &[&str], psql: &[&str], url: &str) -> Output {
    let printed = settings.output(arguments);
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let dir = tempfile::TempDir::new().expect("the temporary directory takes files");
    let script = dir.path().join("script.sql");
    std::fs::write(&script, printed.stdout).expect("the temporary directory takes files");
    let program = Path::new(&services::postgres_bin()).join("psql");
    let mut command = Command::new(program);
    command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(script).args(psql).arg(url);
    command.output().expect("psql is beside postgres")
}

#[tokio::test]
async fn what_migrate_prints_runs_in_psql_as_the_owner_and_uninstall_undoes_it() {
    let Some(services) = Services::find("print-sql") else { return };
    let server = Postgres::start(&[]).await;
    let database = Database::create_in(&server.url).await;
    let owned = "create role owner login; create role relay login;
        do $$ begin execute format('alter database %I owner to owner', current_database()); end $$";
    database.execute(owned).await;
    let owner = database.url_as("owner");
    let topic = kafka::fresh_topic("printed");
    kafka::create_topic(&services.kafka_brokers, &topic, 1, &[]).await;
    let settings = Settings::kafka(&database.url_as("relay"), &services.kafka_brokers);

    // Twice: it may be repeated, and so may its undoing.
    for _ in 0..2 {
        let done = piped(&settings, &["migrate", "--print-sql"], &["-v", "relay=relay"], &owner);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let mut relay = settings.run();
    let insert = "insert into outbox.message (destination, kind) values ($1, 'k')";
    sqlx::query(insert).bind(&topic).execute(&database.pool).await.expect("the outbox takes rows");
    let pending = "outbox.message where delivered_at is null";
    relay.wait_for(PATIENCE, "the row is delivered", async || database.count(pending).await == 0).await;
    stop(relay).await;
    for _ in 0..2 {
        let undone = piped(&settings, &["uninstall", "--print-sql"], &[], &owner);
        assert!(undone.status.success(), "{}", String::from_utf8_lossy(&undone.stderr));
    }
    assert_eq!(database.count("pg_namespace where nspname = 'outbox_relay'").await, 0);
    assert_eq!(database.count("outbox.message").await, 1, "the application's rows are not ours to drop");
}

/// Each in a place of its own, and none in any other.
const CANARIES: [&str; 6] = [
    "canary-in-the-payload",
    "canary-in-the-key",
    "canary-in-a-header",
    "canary-in-the-database-password",
    "canary-in-a-broker-password",
    "canary-in-a-column",
];

#[tokio::test]
async fn no_payload_key_header_or_secret_is_shown_anywhere_at_any_level() {
    for format in ["text", "json"] {
        let Some(stage) = Stage::open("canary").await else { return };
        stage.database.execute(CANARY_COLUMN).await;
        canary_rows(&stage).await;
        let url = stage.database.url.replace("postgres@", "postgres:canary-in-the-database-password@");
        let settings = stage
            .settings()
            .text("database.url", &url)
            .text(r#"sink.kafka.properties."sasl.password""#, "canary-in-a-broker-password")
            .text("outbox.header_columns.extra", "extra")
            .text("outbox.message_bytes_max", "1KiB")
            .text("delivery.retry.backoff_max", "500ms")
            .text("delivery.drain_timeout", "1s")
            .text("log.format", format)
            .text("log.filter", "trace");
        let mut relay = settings.run();
        // Delivered, held for four reasons, or not markable.
        let left = async || stage.pending().await == 5;
        relay.wait_for(PATIENCE, "what can go is delivered", left).await;
        relay
            .wait_until(PATIENCE, "the rest is held", |metrics| metrics.get("held_messages") >= Some(4.0))
            .await;
        let refused = |metrics: &Metrics| metrics.get("refused_marks") == Some(1.0);
        relay.wait_until(PATIENCE, "one is not marked", refused).await;

        let pages = pages(&relay).await;
        relay.sigterm();
        relay.wait(PATIENCE).await;
        let (log, out) = (relay.stderr().all().join("\n"), relay.stdout().all().join("\n"));
        assert!(log.lines().count() > 5, "what happened was not said:\n{log}");
        for canary in CANARIES {
            for text in [&log, &out, &pages] {
                let line = text.lines().find(|line| line.contains(canary));
                assert!(line.is_none(), "{canary} in {format}: {line:?}");
            }
        }
    }
}

const CANARY_COLUMN: &str = "alter table outbox.message add column extra text default 'canary-in-a-column';
    alter table outbox.message add constraint unmarkable check (kind <> 'unmarkable' or delivered_at is null)";

/// One that is well, one that cannot be marked, and one for every way to be held: too large, no topic, a
/// topic that cannot be, and a header of the relay's own.
async fn canary_rows(stage: &Stage) {
    let insert = "insert into outbox.message (destination, key, kind, payload, headers) values
        ($1, 'canary-in-the-key', 'well', $2::json, $3::jsonb),
        ($1, 'canary-in-the-key unmarkable', 'unmarkable', $2::json, $3::jsonb),
        ($1, 'canary-in-the-key large', 'large', json_build_array($2::json, repeat('x', 2000)), $3::jsonb),
        (null, 'canary-in-the-key no topic', 'lost', $2::json, $3::jsonb),
        ('no such/topic', 'canary-in-the-key bad topic', 'lost', $2::json, $3::jsonb),
        ($1, 'canary-in-the-key header', 'lost', $2::json, $3::jsonb || jsonb_build_object('outbox-id', 'x'))";
    let (payload, headers) = (r#""canary-in-the-payload""#, r#"{"h": "canary-in-a-header"}"#);
    let insert = sqlx::query(insert).bind(&stage.topic).bind(payload).bind(headers);
    insert.execute(&stage.database.pool).await.expect("the outbox takes rows");
}

async fn pages(relay: &Relay) -> String {
    let (_, metrics) = relay.get("/metrics").await.expect("the page answers");
    let (_, status) = relay.get_admin("/status").await.expect("the page answers");
    metrics + &status
}
