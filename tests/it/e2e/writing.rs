//! The examples of docs/writing.md, each run as it stands: what their reader is promised holds for every
//! one of them. `scripts/examples` makes them ready.

use std::path::{Path, PathBuf};
use std::process::Command;

use sqlx::Executor;

use super::stage::{PATIENCE, Stage, stop};
use crate::support::kafka;
use crate::support::process::{Lines, Process};
use crate::support::services;
use crate::support::wait;

/// The application's table, with order 1.
const ORDERS: &str = include_str!("../../../examples/sql/orders.sql");

/// Orders 2 and 3. Number 2 cannot be committed: the failure comes after everything was written.
const REFUSE_ORDER_2: &str = "
    insert into orders (state) values ('placed'), ('placed');
    create function refuse() returns trigger language plpgsql as
        $$ begin raise exception 'the order is refused at commit'; end $$;
    create constraint trigger refuse after update on orders deferrable initially deferred
        for each row when (new.id = 2) execute function refuse()";

const CORRECTED: &str = "insert into outbox.message (destination, key, kind, payload)
    values ('orders', '3', 'OrderCorrected', '{\"order\": 3}')";

/// How an example is run: its command, to which order and carrier are added.
struct Example {
    name: &'static str,
    command: fn(order: &str, database_url: &str) -> Command,
}

#[tokio::test]
async fn an_order_shipped_in_plain_sql_is_published() {
    let command = |order: &str, database_url: &str| {
        let mut psql = Command::new(Path::new(&services::postgres_bin()).join("psql"));
        psql.args(["-X", "-q", "-v", &format!("order={order}"), "-v", "carrier=post"]);
        psql.arg("-f").arg(file("examples/sql/ship_order.sql")).arg(database_url);
        psql
    };
    keeps_what_is_promised(Example { name: "plain SQL", command }).await;
}

#[tokio::test]
async fn an_order_shipped_with_sqlalchemy_is_published() {
    let command = |order: &str, database_url: &str| {
        program(
            "target/examples/python/bin/python",
            &["examples/python/sqlalchemy_orders.py"],
            order,
            database_url,
        )
    };
    keeps_what_is_promised(Example { name: "SQLAlchemy", command }).await;
}

#[tokio::test]
async fn an_order_shipped_with_django_is_published() {
    let command = |order: &str, database_url: &str| {
        program(
            "target/examples/python/bin/python",
            &["examples/python/django_orders.py"],
            order,
            database_url,
        )
    };
    keeps_what_is_promised(Example { name: "Django", command }).await;
}

#[tokio::test]
async fn an_order_shipped_with_node_is_published() {
    let command = |order: &str, database_url: &str| {
        assert!(file("examples/node/node_modules").exists(), "{HOW}");
        let mut node = Command::new("node");
        node.arg(file("examples/node/ship_order.mjs")).args([order, "post"]);
        node.env("DATABASE_URL", database_url);
        node
    };
    keeps_what_is_promised(Example { name: "Node", command }).await;
}

#[tokio::test]
async fn an_order_shipped_with_go_is_published() {
    let command =
        |order: &str, database_url: &str| program("target/examples/go/ship_order", &[], order, database_url);
    keeps_what_is_promised(Example { name: "Go", command }).await;
}

#[tokio::test]
async fn an_order_shipped_with_rust_is_published() {
    let command = |order: &str, database_url: &str| {
        // Cargo builds examples beside the binaries of the same profile.
        let binary = Path::new(env!("CARGO_BIN_EXE_outbox-relay"));
        let example = binary.with_file_name("examples").join("ship_order");
        program(&example.to_string_lossy(), &[], order, database_url)
    };
    keeps_what_is_promised(Example { name: "Rust", command }).await;
}

const HOW: &str = "the example is not ready: run scripts/test, or scripts/examples and then cargo test";

fn program(program: &str, arguments: &[&str], order: &str, database_url: &str) -> Command {
    let program = file(program);
    assert!(program.exists(), "{} is missing; {HOW}", program.display());
    let mut command = Command::new(program);
    command.args(arguments.iter().map(|argument| file(argument))).args([order, "post"]);
    command.env("DATABASE_URL", database_url);
    command
}

/// A file of the project; an absolute path stays as it is.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

async fn keeps_what_is_promised(example: Example) {
    let Some(stage) = Stage::open(example.name).await else { return };
    stage.database.execute(ORDERS).await;
    stage.database.execute(REFUSE_ORDER_2).await;

    let (shipped, said) = ships(&stage, &example, "1").await;
    assert!(shipped, "{}", said.tail(20));
    an_order_that_does_not_exist_leaves_no_event(&stage, &example).await;
    an_order_that_is_rolled_back_takes_its_event_with_it(&stage, &example).await;
    an_event_is_numbered_once_its_order_is_locked(&stage, &example).await;

    let payload = serde_json::json!({"order": 3, "carrier": "post"});
    let stored: String =
        stage.database.one("select payload::text from outbox.message order by id desc limit 1").await;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&stored).ok(), Some(payload));
    all_is_on_kafka_as_it_was_written(&stage).await;
}

/// Runs the example to its end: whether it succeeded, and what it says, of which the end may still come.
async fn ships(stage: &Stage, example: &Example, order: &str) -> (bool, Lines) {
    let mut process = Process::spawn(&mut (example.command)(order, &stage.database.url));
    let status = process.ended(PATIENCE).await;
    (status.success(), process.stderr.clone())
}

async fn an_order_that_does_not_exist_leaves_no_event(stage: &Stage, example: &Example) {
    let (shipped, _) = ships(stage, example, "99").await;
    assert!(!shipped, "there is no such order");
    assert_eq!(stage.database.count("outbox.message where key = '99'").await, 0);
}

async fn an_order_that_is_rolled_back_takes_its_event_with_it(stage: &Stage, example: &Example) {
    let before = last_id(stage).await;
    let (shipped, said) = ships(stage, example, "2").await;
    assert!(!shipped, "the commit is refused");
    let refused = async || said.contain("refused at commit");
    wait::eventually(PATIENCE, "the example says why it failed", refused).await;
    assert_eq!(last_id(stage).await, before + 1, "the event had been written when the order was refused");
    assert_eq!(stage.database.count("outbox.message where key = '2'").await, 0);
    assert_eq!(stage.database.count("orders where id = 2 and state = 'placed'").await, 1);
}

/// Otherwise the events of two writers of one order could swap.
async fn an_event_is_numbered_once_its_order_is_locked(stage: &Stage, example: &Example) {
    let mut other = stage.database.connection().await;
    other.execute("begin").await.expect("a transaction begins");
    other.execute("select from orders where id = 3 for update").await.expect("the order is there");
    let before = last_id(stage).await;

    let mut process = Process::spawn(&mut (example.command)("3", &stage.database.url));
    let waiting = "pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    wait::eventually(PATIENCE, "the example waits for the order", async || {
        assert!(process.exited().is_none(), "{}", process.stderr.tail(20));
        stage.database.count(waiting).await == 1
    })
    .await;
    assert_eq!(last_id(stage).await, before, "the event was numbered before the order was locked");
    other.execute(CORRECTED).await.expect("the outbox takes rows");
    other.execute("commit").await.expect("the other writer commits");

    let status = process.ended(PATIENCE).await;
    assert!(status.success(), "{}", process.stderr.tail(20));
}

/// The highest id the outbox has given out, kept or not.
async fn last_id(stage: &Stage) -> i64 {
    stage.database.one("select last_value from outbox.message_id_seq").await
}

async fn all_is_on_kafka_as_it_was_written(stage: &Stage) {
    let topic = format!("{}.orders", stage.topic);
    kafka::create_topic(&stage.brokers, &topic, 3, &[]).await;
    let mut relay = stage.settings().text("route.topic", &format!("{}.{{destination}}", stage.topic)).run();
    stage.drained(&mut relay).await;
    stop(relay).await;

    let received = kafka::read_all(&stage.brokers, &topic).await;
    let mut arrived: Vec<_> = received
        .iter()
        .map(|record| {
            let text = |bytes: &Option<Vec<u8>>| bytes.as_deref().map(|b| String::from_utf8_lossy(b).into());
            (text(&record.key), record.header("outbox-kind"), text(&record.payload))
        })
        .collect::<Vec<(Option<String>, Option<String>, Option<String>)>>();
    // Partitions have no order among each other; within a key the broker's stays.
    arrived.sort_by(|a, b| a.0.cmp(&b.0));
    let written = sqlx::query_as("select key, kind, payload::text from outbox.message order by key, id");
    let written: Vec<_> = written.fetch_all(&stage.database.pool).await.expect("the outbox can be read");
    assert_eq!(arrived, written);
    let kinds: Vec<_> = arrived.iter().filter_map(|(_, kind, _)| kind.as_deref()).collect();
    assert_eq!(kinds, ["OrderShipped", "OrderCorrected", "OrderShipped"]);
}
