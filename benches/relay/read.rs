//! The read statement where it could become slow: a few pending rows among ten million delivered ones,
//! and a snapshot held open that keeps every mark's dead index entry alive.
//!
//! The statement is not known here: the server explains what the relay really asks (`auto_explain`) in
//! a notice, which the relay's client library logs.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use crate::Bench;
use crate::bare;
use crate::drain::KEYS;
use crate::kafka::Topic;
use crate::outbox::{self, Outbox, Rows};
use crate::relay::Relay;
use crate::report::{self, median};

const DELIVERED: u64 = 10_000_000;
const PENDING: u64 = 10_000;
const BEHIND_SNAPSHOT: u64 = 200_000;
const PAYLOAD_BYTES: usize = 100;
const TIMEOUT: Duration = Duration::from_secs(300);

/// What only the relay's read asks for: who may still be writing.
const SIGN: &str = "pg_locks";

pub(crate) async fn measure(bench: &Bench) -> Result<()> {
    let topic = Topic::create(bench, "read").await?;
    Outbox::with(bench, async |outbox: &mut Outbox| {
        let row = |count| Rows { topic: &topic.name, count, keys: KEYS, payload_bytes: PAYLOAD_BYTES };
        explain_statements(outbox).await?;
        outbox.insert_delivered(&row(DELIVERED)).await?;
        outbox.fill(&row(PENDING)).await?;
        let bare = explain_bare(outbox).await?;
        println!("\n## The read among {DELIVERED} delivered and {PENDING} pending rows\n");
        println!("The bare loop's:\n\n```text\n{bare}\n```\n");

        let reads = reads_of(bench, outbox, PENDING).await?;
        let first = reads.first().context("the relay's log shows no explained read")?;
        println!("The relay's first:\n\n```text\n{}\n```", first.plan);
        let mut rows = vec![line("10⁷ delivered, 10⁴ pending", &reads)];

        let mut reader = outbox::connect(&outbox.url).await?;
        reader.execute("begin isolation level repeatable read").await?;
        reader.execute("select count(*) from outbox.message where id = 1").await?;
        outbox.insert(&row(BEHIND_SNAPSHOT)).await?;
        rows.push(line(
            "old snapshot: 200,000 rows drained",
            &reads_of(bench, outbox, BEHIND_SNAPSHOT).await?,
        ));
        outbox.insert(&row(1)).await?;
        rows.push(line("old snapshot: a restart after them", &reads_of(bench, outbox, 1).await?));
        reader.execute("commit").await?;
        outbox.insert(&row(1)).await?;
        rows.push(line("snapshot gone", &reads_of(bench, outbox, 1).await?));
        report::table("The read's time", &["when", "reads", "first", "median", "max"], &rows);
        Ok(())
    })
    .await?;
    topic.delete().await
}

fn line(when: &str, reads: &[Read]) -> Vec<String> {
    let times: Vec<f64> = reads.iter().map(|read| read.ms).collect();
    let show = |ms: f64| format!("{ms:.1} ms");
    let Some(first) = times.first() else { return vec![when.to_owned(); 5] };
    let max = report::percentile(&times, 1.0);
    vec![when.to_owned(), times.len().to_string(), show(*first), show(median(&times)), show(max)]
}

/// From now on, new connections are told the plan of every statement they ran.
async fn explain_statements(outbox: &mut Outbox) -> Result<()> {
    let settings = [
        "session_preload_libraries = 'auto_explain'",
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_analyze = on",
        "auto_explain.log_buffers = on",
        "auto_explain.log_timing = off",
        "auto_explain.log_level = notice",
    ];
    // A name with a dot is known only where the library is loaded.
    outbox.connection.execute("load 'auto_explain'").await?;
    for setting in settings {
        let sql = format!("alter database {} set {setting}", outbox.name);
        outbox.connection.execute(AssertSqlSafe(sql)).await?;
    }
    Ok(())
}

async fn explain_bare(outbox: &mut Outbox) -> Result<String> {
    let statement = bare::READ.replace("$1", "0").replace("$2", "5000");
    let sql = format!("explain (analyze, buffers, timing off) {statement}");
    let lines = outbox.connection.fetch_all(AssertSqlSafe(sql)).await?;
    let lines: Result<Vec<String>, sqlx::Error> = lines.iter().map(|line| line.try_get(0)).collect();
    Ok(lines?.join("\n"))
}

/// A read as the server saw it.
struct Read {
    ms: f64,
    plan: String,
}

/// Lets a new relay drain `rows` pending rows, and returns the reads it made.
async fn reads_of(bench: &Bench, outbox: &Outbox, rows: u64) -> Result<Vec<Read>> {
    let settings = [r#"log.format = "json""#, r#"log.filter = "info,sqlx::postgres::notice=info""#];
    let mut relay = Relay::start(bench, outbox, &settings)?;
    relay.until("marked_total", rows as f64, TIMEOUT).await?;
    let log = relay.log()?;
    relay.stop().await?;
    let reads: Vec<Read> = log.lines().filter_map(read).collect();
    ensure!(!reads.is_empty(), "the relay's log shows no explained read:\n{log}");
    Ok(reads)
}

/// `duration: 1.234 ms  plan:`, the query and the plan, in any field of a JSON log line.
fn read(line: &str) -> Option<Read> {
    let value: Value = serde_json::from_str(line).ok()?;
    let notice = text(&value)?;
    let ms = notice.strip_prefix("duration: ")?.split(' ').next()?.parse().ok()?;
    let lines: Vec<&str> = notice.lines().collect();
    let (query, plan) = lines.split_at(lines.iter().position(|line| line.contains("  (cost="))?);
    query.iter().any(|line| line.contains(SIGN)).then(|| Read { ms, plan: plan.join("\n") })
}

/// The first string that is an explanation.
fn text(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => text.starts_with("duration: ").then_some(text),
        Value::Array(values) => values.iter().find_map(text),
        Value::Object(fields) => fields.values().find_map(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}
