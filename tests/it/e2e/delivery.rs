//! What arrives: the bytes that were stored, where and when they belong, however large; and who waits
//! when one of them cannot go.

use std::collections::HashMap;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::stage::{PATIENCE, Stage, stop};
use crate::support::kafka::{self, Received};
use crate::support::ledger::Writers;
use crate::support::relay::{Settings, resident_bytes};

/// Every kind of payload column with the values that are easily damaged on the way; as SQL.
const PAYLOADS: [(&str, &[&str]); 4] = [
    ("bytea", &["'\\x00ff10'", "''", "decode(repeat('00ff0d0a', 1000), 'hex')"]),
    ("text", &["E'zwei\\nZeilen\\t\\r\\\\'", "''", "'😀 Ünïcödé e\u{301} \u{feff}'", "' '"]),
    (
        "json",
        &[r#"'{"b":  1, "a": 1.00, "a": "\u00e9"}'"#, "' [1 ,2]  '", "E'{\"t\":\\n\\t\"\\\\n\"}'", "'null'"],
    ),
    ("jsonb", &[r#"'{"b":  1, "a": 1.00, "a": "\u00e9"}'"#, "'\"😀\"'", "'12345678901234567890.10'"]),
];

const TABLE: &str = r#"
    create schema "App's";
    create table "App's"."Event {type}" (
        "Id" uuid primary key default gen_random_uuid(), seq bigint generated always as identity,
        "Key" text, body {type}, names text[], "Values" text[], trace text, made timestamptz, done boolean);
    create index on "App's"."Event {type}" (seq) where not coalesce(done, false)"#;

/// A relay of such a table: quoted names, a mark that is a boolean, headers in two arrays.
fn mapped(stage: &Stage, payload_type: &str) -> Settings {
    stage
        .settings()
        .text("outbox.table", &format!(r#""App's"."Event {payload_type}""#))
        .text("outbox.start", "all")
        .text("outbox.mark_kind", "boolean")
        .text("outbox.mark_column", "done")
        .text("outbox.columns.id", "Id")
        .text("outbox.columns.order", "seq")
        .text("outbox.columns.key", "Key")
        .text("outbox.columns.payload", "body")
        .set("outbox.columns.headers", r#"["names", "Values"]"#)
        .text("outbox.columns.created_at", "made")
        .text("outbox.header_columns.traceparent", "trace")
        .text("route.topic", &stage.topic)
}

/// Kafka's own murmur2 puts this key on the last of three partitions.
const KEY: &str = "a-little-bit-long-string";

/// Everything but the payload is the same in every row.
const INSERT: &str = r#"
    insert into {table} ("Key", names, "Values", trace, made, body) values
    ('a-little-bit-long-string', '{content-type, ü, none}', '{"a\"b", "", NULL}', '00-ab-01',
     '2026-03-04 05:06:07.89+02', {value})"#;

/// A row's id, its payload's bytes as the column writes them, and its creation time in milliseconds.
type Stored = (String, Option<Vec<u8>>, i64);

#[tokio::test]
async fn every_kind_of_payload_arrives_as_it_was_stored_with_key_headers_and_timestamp() {
    for (payload_type, values) in PAYLOADS {
        let Some(stage) = Stage::open("fidelity").await else { return };
        stage.database.execute(&TABLE.replace("{type}", payload_type)).await;
        let table = format!(r#""App's"."Event {payload_type}""#);
        for value in values.iter().chain(&["null"]) {
            let insert = INSERT.replace("{table}", &table).replace("{value}", value);
            stage.database.execute(&insert).await;
        }
        let mut relay = mapped(&stage, payload_type).run();
        let pending = format!("{table} where done is not true");
        let drained = async || stage.database.count(&pending).await == 0;
        relay.wait_for(PATIENCE, "every row is delivered", drained).await;
        stop(relay).await;

        let received = kafka::read_all(&stage.brokers, &stage.topic).await;
        let expected: Vec<_> = stored(&stage, &table, payload_type).await.into_iter().map(expected).collect();
        let arrived: Vec<_> = received.into_iter().map(|record| Received { offset: 0, ..record }).collect();
        assert_eq!(arrived, expected, "{payload_type}");
    }
}

async fn stored(stage: &Stage, table: &str, payload_type: &str) -> Vec<Stored> {
    let body = if payload_type == "bytea" { "body" } else { "convert_to(body::text, 'UTF8')" };
    let sql = format!(
        r#"select "Id"::text, {body}, (extract(epoch from made) * 1000)::bigint from {table} order by seq"#
    );
    let rows = sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&stage.database.pool).await;
    rows.expect("the table can be read")
}

fn expected((id, payload, timestamp_ms): Stored) -> Received {
    let header = |name: &str, value: Option<&str>| (name.to_owned(), value.map(|value| value.into()));
    let headers = vec![
        header("outbox-id", Some(&id)),
        header("content-type", Some("a\"b")),
        header("ü", Some("")),
        header("none", None),
        header("traceparent", Some("00-ab-01")),
    ];
    let key = Some(KEY.into());
    Received { partition: 2, offset: 0, key, headers, payload, timestamp_ms: Some(timestamp_ms) }
}

#[tokio::test]
async fn the_default_table_sends_its_kind_and_its_json_headers() {
    let Some(stage) = Stage::open("default headers").await else { return };
    let insert = r#"insert into outbox.message (destination, kind, headers)
        values ($1, 'OrderPlaced', '{"a": "ü", "n": 1.50, "none": null}') returning id"#;
    let insert = sqlx::query_scalar::<_, i64>(insert).bind(&stage.topic);
    let id = insert.fetch_one(&stage.database.pool).await.expect("the outbox takes rows");
    let mut relay = stage.settings().run();
    stage.drained(&mut relay).await;
    stop(relay).await;

    let received = kafka::read_all(&stage.brokers, &stage.topic).await;
    let [record] = &received[..] else { panic!("one record, not {}", received.len()) };
    let header = |name: &str, value: Option<&str>| (name.to_owned(), value.map(|value| value.into()));
    let id = id.to_string();
    let expected = [
        header("outbox-id", Some(&id)),
        header("outbox-kind", Some("OrderPlaced")),
        header("a", Some("ü")),
        header("n", Some("1.50")),
        header("none", None),
    ];
    assert_eq!((&record.headers[..], &record.key, &record.payload), (&expected[..], &None, &None));
}

const MEBIBYTE: usize = 1 << 20;
/// 25 MB, twice the windows in bytes, and as much again as one read may hold.
const RESIDENT_MAX: u64 = (25 + 2 * (16 + 16) + 16) << 20;

#[tokio::test]
async fn rows_of_a_mebibyte_arrive_byte_for_byte_in_bounded_memory_and_one_byte_more_holds_its_key_alone() {
    let Some(stage) = Stage::open("large rows").await else { return };
    let large = kafka::fresh_topic("large");
    kafka::create_topic(&stage.brokers, &large, 3, &[("max.message.bytes", "2097152")]).await;
    let mut rng = SmallRng::seed_from_u64(9);
    let mut payloads = Vec::new();
    for n in 0..80 {
        payloads.push(incompressible(&mut rng, MEBIBYTE));
        insert(&stage, &large, &format!("k{}", n % 8), &payloads[n]).await;
    }
    insert(&stage, &large, "held", &incompressible(&mut rng, MEBIBYTE + 1)).await;
    insert(&stage, &large, "held", "\"behind it\"").await;
    insert(&stage, &large, "free", "\"beside it\"").await;

    let mut relay = stage.settings().text("delivery.retry.backoff_max", "500ms").run();
    let mut resident = 0;
    let id = relay.id();
    let two_left = async || {
        resident = resident.max(resident_bytes(id));
        stage.pending().await == 2
    };
    relay.wait_for(PATIENCE, "all but two are delivered", two_left).await;
    assert!(resident < RESIDENT_MAX, "{resident} bytes resident");
    assert!(relay.stderr().contain("the payload has 1048577 bytes"), "{}", relay.stderr().tail(20));

    // Its owner corrects it, and the key goes on.
    stage
        .database
        .execute("update outbox.message set payload = '1' where length(payload::text) > 1048576")
        .await;
    stage.drained(&mut relay).await;
    stop(relay).await;
    payloads.extend(["\"beside it\"".to_owned(), "1".to_owned(), "\"behind it\"".to_owned()]);
    compare(&payloads, &kafka::read_all(&stage.brokers, &large).await);
}

/// A JSON string of so many bytes that no compression makes smaller by much.
fn incompressible(rng: &mut SmallRng, bytes: usize) -> String {
    let text = rng.sample_iter(rand::distr::Alphanumeric).take(bytes - 2).map(char::from);
    format!("\"{}\"", text.collect::<String>())
}

async fn insert(stage: &Stage, topic: &str, key: &str, payload: &str) {
    let sql = "insert into outbox.message (destination, key, kind, payload) values ($1, $2, 'k', $3::json)";
    let insert = sqlx::query(sql).bind(topic).bind(key).bind(payload);
    insert.execute(&stage.database.pool).await.expect("the outbox takes rows");
}

/// All of them, once each, and those behind each other in this order.
fn compare(payloads: &[String], received: &[Received]) {
    let arrived: HashMap<&[u8], i64> = received
        .iter()
        .map(|record| (record.payload.as_deref().unwrap_or_default(), record.offset))
        .collect();
    assert_eq!((received.len(), arrived.len()), (payloads.len(), payloads.len()), "each arrives once");
    for payload in payloads {
        assert!(arrived.contains_key(payload.as_bytes()), "a payload was altered: {:.40}…", payload);
    }
    let [.., first, second] = payloads else { return };
    assert!(arrived[first.as_bytes()] < arrived[second.as_bytes()], "what waited behind it came first");
}

#[tokio::test]
async fn a_missing_topic_holds_back_its_own_rows_alone_until_somebody_creates_it() {
    let Some(stage) = Stage::open("missing topic").await else { return };
    let missing = kafka::fresh_topic("missing");
    let load = stage.load();
    let writers = Writers::start(&stage.database.url, &load);
    // The same keys: order is kept within a key of a destination.
    for n in 0..50 {
        insert(&stage, &missing, &format!("k{}", n % 5), &n.to_string()).await;
    }
    let settings = stage.settings().text("delivery.retry.backoff_max", "500ms");
    let settings = settings.text(r#"sink.kafka.properties."topic.metadata.propagation.max.ms""#, "500");
    let mut relay = settings.run();
    let log = relay.stderr().clone();
    let named = async || log.contain(&missing) && log.contain("create the topic");
    relay.wait_for(PATIENCE, "the log names it", named).await;
    for _ in 0..3 {
        stage.progress(&mut relay).await;
    }
    writers.stop().await;
    relay.wait_for(PATIENCE, "only its rows are left", async || stage.pending().await == 50).await;

    kafka::create_topic(&stage.brokers, &missing, 1, &[]).await;
    stage.drained(&mut relay).await;
    stop(relay).await;
    stage.verdict().await.assert_kept(0);
    let received = kafka::read_all(&stage.brokers, &missing).await;
    assert_eq!(received.len(), 50);
    for key in 0..5 {
        let of_key = received.iter().filter(|record| record.key == Some(format!("k{key}").into()));
        let numbers: Vec<u32> = of_key.map(number).collect();
        assert!(numbers.is_sorted() && numbers.len() == 10, "key k{key} arrived as {numbers:?}");
    }
}

fn number(record: &Received) -> u32 {
    let text = record.payload.as_deref().map(String::from_utf8_lossy).expect("it has a payload");
    text.parse().expect("a number was stored")
}
