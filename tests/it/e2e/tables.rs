//! Tables that others designed: drained by mapping alone, and with the records their consumers know.

use serde_json::{Value, json};

use super::stage::{PATIENCE, stop};
use crate::support::database::Database;
use crate::support::relay::{Relay, Settings};
use crate::support::services::Services;

const TABLE: &str = include_str!("../data/debezium/table.sql");
const ROWS: &str = include_str!("../data/debezium/rows.sql");

/// A relay's schema in a new database, and settings that lead to standard output.
async fn open(test: &str, ddl: &str) -> Option<(Database, Settings)> {
    let services = Services::find(test)?;
    let database = Database::create_in(&services.postgres_url).await;
    let settings = Settings::stdout(&database.url).text("lease.ttl", "3s");
    let migrated = settings.output(&["migrate"]);
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    database.execute(ddl).await;
    Some((database, settings))
}

/// What the relay has printed, a JSON object a line.
fn lines(relay: &Relay) -> Vec<Value> {
    let lines = relay.stdout().all();
    lines.iter().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

/// Runs a relay until nothing is `pending`, and returns what it printed.
async fn drained(database: &Database, settings: &Settings, pending: &str) -> Vec<Value> {
    let mut relay = settings.run();
    relay.wait_for(PATIENCE, "every row is marked", async || database.count(pending).await == 0).await;
    let printed = lines(&relay);
    stop(relay).await;
    printed
}

/// Topic, key, value and headers as the golden files have them, in an order of their own.
fn records(lines: &[Value]) -> Vec<String> {
    let record = |line: &Value| {
        let value = line.get("value").or(line.get("payload"));
        json!([line["topic"], line["key"], value, line["headers"]]).to_string()
    };
    let mut records: Vec<String> = lines.iter().map(record).collect();
    records.sort_unstable();
    records
}

/// What Debezium sent for the same rows, without the row that only a reader of the WAL can see.
fn golden(file: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_json::from_str(file).expect("the file is JSON");
    let deleted = "\"00000000-0000-4000-8000-00000000000b\"";
    let visible = all.into_iter().filter(|record| record["headers"][0][1] != deleted);
    visible.collect()
}

#[tokio::test]
async fn records_are_those_of_debezium_byte_for_byte() {
    let Some((database, settings)) = open("debezium", TABLE).await else { return };
    let settings = settings
        .text("outbox.preset", "debezium")
        .text("outbox.mark", "delete")
        .text("delivery.ordering", "none");
    let plain = include_str!("../data/debezium/plain.json");
    let json = include_str!("../data/debezium/json.json");
    let envelope = include_str!("../data/debezium/envelope.json");
    for (variant, format, file) in
        [("plain", "plain", plain), ("json", "json-string", json), ("envelope", "envelope", envelope)]
    {
        database.execute(ROWS).await;
        let mut settings = settings
            .clone()
            .text("route.topic", &format!("gold.{variant}.{{destination}}"))
            .text("route.format", format);
        if variant == "envelope" {
            settings = settings
                .set("route.envelope_fields", r#"["kind:eventType", "created_at:when"]"#)
                .text("outbox.columns.created_at", "ts");
        }
        let mut expected = golden(file);
        if variant == "plain" {
            // A NULL payload never arrives from Debezium in this format.
            let id = "\"00000000-0000-4000-8000-000000000008\"";
            expected.push(
                json!({"topic": "gold.plain.order", "key": "7", "value": null, "headers": [["id", id]]}),
            );
        }
        assert_eq!(expected.len(), 9);
        let printed = drained(&database, &settings, "outbox").await;
        assert_eq!(records(&printed), records(&expected), "{variant}");
    }
}

#[tokio::test]
async fn an_aggregate_type_that_is_no_topic_stops_one_row_and_not_the_relay() {
    let Some((database, settings)) = open("debezium's topic", TABLE).await else { return };
    database
        .execute(
            "insert into outbox (id, aggregatetype, aggregateid, type, payload) values
            (gen_random_uuid(), 'two words', '1', 'Lost', '{}'), (gen_random_uuid(), 'order', '2', 'Sent', '{}')",
        )
        .await;
    let settings = settings
        .text("outbox.preset", "debezium")
        .text("outbox.mark", "delete")
        .text("delivery.ordering", "none");
    let mut relay = settings.run();
    relay.wait_for(PATIENCE, "the other is sent", async || database.count("outbox").await == 1).await;
    relay.wait_until(PATIENCE, "the one is held", |metrics| metrics.get("held_messages") == Some(1.0)).await;
    assert_eq!(lines(&relay)[0]["topic"], "outbox.event.order");
    stop(relay).await;
}

#[tokio::test]
async fn debeziums_table_keeps_order_once_it_has_an_order_column() {
    let Some((database, settings)) = open("debezium in order", TABLE).await else { return };
    // As the hints of the configuration say.
    database
        .execute(
            "alter table outbox add column position bigint generated always as identity;
            alter table outbox add column delivered_at timestamptz;
            insert into outbox (id, aggregatetype, aggregateid, type, payload)
            select gen_random_uuid(), 'order', 'one', 'Placed', to_jsonb(n) from generate_series(1, 300) as n",
        )
        .await;
    let settings = settings
        .text("outbox.preset", "debezium")
        .text("outbox.mark_column", "delivered_at")
        .text("outbox.columns.order", "position");
    let printed = drained(&database, &settings, "outbox where delivered_at is null").await;
    let numbers: Vec<String> =
        printed.iter().map(|line| line["payload"].as_str().expect("text").to_owned()).collect();
    assert_eq!(numbers, (1..=300).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_entity_framework_table_is_drained_by_mapping_alone() {
    let ddl = r#"create table "OutboxMessages" ("Id" uuid primary key, "Type" text not null, "Payload" jsonb not null,
        "OccurredOnUtc" timestamptz not null, "ProcessedOnUtc" timestamptz, "Error" text)"#;
    let Some((database, settings)) = open("entity framework", ddl).await else { return };
    database
        .execute(
            r#"insert into "OutboxMessages" ("Id", "Type", "Payload", "OccurredOnUtc", "ProcessedOnUtc") values
            ('00000000-0000-4000-8000-000000000001', 'OrderPlaced', '{"id": 1}', '2026-01-02 03:04:05.678Z', null),
            ('00000000-0000-4000-8000-000000000002', 'OrderPlaced', '{"id": 2}', '2026-01-02 03:04:05Z', now())"#,
        )
        .await;
    let settings = settings
        .text("outbox.table", "OutboxMessages")
        .text("outbox.columns.id", "Id")
        .text("outbox.columns.kind", "Type")
        .text("outbox.columns.payload", "Payload")
        .text("outbox.columns.created_at", "OccurredOnUtc")
        .text("outbox.mark_column", "ProcessedOnUtc")
        .text("delivery.ordering", "none")
        .text("route.topic", "orders");
    let printed = drained(&database, &settings, r#""OutboxMessages" where "ProcessedOnUtc" is null"#).await;
    let expected = json!({
        "topic": "orders", "key": null, "payload": "{\"id\": 1}", "timestamp": 1_767_323_045_678_i64,
        "headers": [["outbox-id", "00000000-0000-4000-8000-000000000001"], ["outbox-kind", "OrderPlaced"]],
    });
    assert_eq!(printed, [expected]);
}

#[tokio::test]
async fn a_time_without_a_zone_is_read_as_utc_and_a_boolean_is_set() {
    let ddl = r#"create table "Outbox" ("MessageId" uuid primary key, "MessageData" text, "MessageTime" timestamp,
        "IsProcessed" boolean not null default false)"#;
    let Some((database, settings)) = open("zoneless", ddl).await else { return };
    database
        .execute(
            r#"insert into "Outbox" ("MessageId", "MessageData", "MessageTime") values
            ('00000000-0000-4000-8000-000000000001', 'one', '2026-01-02 03:04:05.678'),
            ('00000000-0000-4000-8000-000000000002', 'two', null);
            alter table "Outbox" add column "Seq" bigint generated always as identity"#,
        )
        .await;
    // Whatever zone the server or the role is set to.
    let role = r#"do $$ begin execute format('alter database %I set timezone to ''Asia/Tokyo''', current_database()); end $$"#;
    database.execute(role).await;
    let settings = settings
        .text("outbox.table", "Outbox")
        .text("outbox.columns.id", "MessageId")
        .text("outbox.columns.order", "Seq")
        .text("outbox.columns.payload", "MessageData")
        .text("outbox.columns.created_at", "MessageTime")
        .text("outbox.mark_kind", "boolean")
        .text("outbox.mark_column", "IsProcessed")
        .text("delivery.ordering", "none")
        .text("route.topic", "notes");
    let printed = drained(&database, &settings, r#""Outbox" where not "IsProcessed""#).await;
    let sent: Vec<_> = printed.iter().map(|line| (&line["payload"], &line["timestamp"])).collect();
    assert_eq!(sent, [(&json!("one"), &json!(1_767_323_045_678_i64)), (&json!("two"), &Value::Null)]);
}

#[tokio::test]
async fn columns_of_a_request_become_headers_and_a_missing_one_is_named_by_its_key() {
    let ddl = "alter table outbox.message add column correlation uuid, add column answers text";
    let Some((database, settings)) = open("requests", ddl).await else { return };
    database
        .execute(
            "insert into outbox.message (destination, kind, correlation, headers)
            values ('orders', 'k', '00000000-0000-4000-8000-000000000001', '{\"own\": 1}')",
        )
        .await;
    let settings = settings
        .text("outbox.columns.correlation_id", "correlation")
        .text("outbox.columns.reply_to", "answers");
    let printed = drained(&database, &settings, "outbox.message where delivered_at is null").await;
    let id = "00000000-0000-4000-8000-000000000001";
    assert_eq!(
        printed[0]["headers"].as_array().expect("headers")[2..],
        [json!(["own", "1"]), json!(["correlation-id", id]), json!(["reply-to", null]),]
    );

    let mut relay = settings.text("outbox.columns.reply_to", "answer").run();
    let log = relay.stderr().clone();
    let named = async || log.all().iter().any(|line| line.contains("(outbox.columns.reply_to)"));
    relay.wait_for(PATIENCE, "the key is named", named).await;
    stop(relay).await;
}

#[tokio::test]
async fn rules_send_commands_and_events_different_ways() {
    let Some((database, settings)) = open("rules", "").await else { return };
    database
        .execute(
            "insert into outbox.message (destination, key, kind, payload) values
            ('orders', 'a', 'ShipOrder', '1'), ('orders', 'a', 'OrderShipped', '2'), ('orders', null, 'Ship', '3')",
        )
        .await;
    let rule = r#"[{ kind = "Ship*", key = "*", topic = "commands.{destination}" }]"#;
    let settings = settings.set("route.when", rule).set("route.allow", r#"["orders", "commands.*"]"#);
    let printed = drained(&database, &settings, "outbox.message where delivered_at is null").await;
    let mut sent: Vec<_> =
        printed.iter().map(|line| (line["payload"].clone(), line["topic"].clone())).collect();
    sent.sort_by_key(|(payload, _)| payload.to_string());
    let expected = [("1", "commands.orders"), ("2", "orders"), ("3", "orders")];
    assert_eq!(sent, expected.map(|(payload, topic)| (json!(payload), json!(topic))));
}
