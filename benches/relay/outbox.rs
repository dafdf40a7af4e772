//! An outbox of its own for each measurement: a new database, made by the relay's `migrate`, so that
//! no run meets the dead rows of another.

use std::path::Path;
use std::str::FromStr as _;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection};
use tokio::process::Command;

use crate::Bench;

/// A database with the default outbox table and the relay's state.
pub(crate) struct Outbox {
    pub(crate) url: String,
    pub(crate) name: String,
    pub(crate) connection: PgConnection,
    /// Connected to another database, so that what it does is not counted for this one.
    pub(crate) admin: PgConnection,
}

/// Rows to write.
pub(crate) struct Rows<'a> {
    pub(crate) topic: &'a str,
    pub(crate) count: u64,
    pub(crate) keys: u64,
    pub(crate) payload_bytes: usize,
}

impl Outbox {
    /// Runs `work` on a new outbox and drops it afterwards, whatever came of the work.
    pub(crate) async fn with<T>(bench: &Bench, work: impl AsyncFnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let mut outbox = Self::create(bench).await?;
        let result = work(&mut outbox).await;
        outbox.drop().await?;
        result
    }

    async fn create(bench: &Bench) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("outbox_bench_{}_{number}", std::process::id());
        let mut admin = connect(&bench.postgres).await?;
        admin.execute(AssertSqlSafe(format!("create database {name}"))).await?;
        let url = beside(&bench.postgres, &name)?;
        migrate(&bench.relay, &url).await?;
        let connection = connect(&url).await?;
        Ok(Self { url, name, connection, admin })
    }

    async fn drop(mut self) -> Result<()> {
        self.connection.close().await?;
        self.admin.execute(AssertSqlSafe(format!("drop database {} with (force)", self.name))).await?;
        Ok(())
    }

    /// Writes rows in one transaction and leaves the table as a quiet night would: vacuumed, analyzed,
    /// flushed.
    pub(crate) async fn fill(&mut self, rows: &Rows<'_>) -> Result<()> {
        self.insert(rows).await?;
        self.connection.execute("vacuum (analyze) outbox.message").await?;
        self.connection.execute("checkpoint").await?;
        Ok(())
    }

    /// Writes rows in one transaction: payload `{"n":1,"fill":"…"}`, keys in turn.
    pub(crate) async fn insert(&mut self, rows: &Rows<'_>) -> Result<()> {
        self.write(rows, "null").await
    }

    /// Writes rows that were delivered long ago.
    pub(crate) async fn insert_delivered(&mut self, rows: &Rows<'_>) -> Result<()> {
        self.write(rows, "now() - interval '1 day'").await
    }

    async fn write(&mut self, rows: &Rows<'_>, delivered_at: &str) -> Result<()> {
        let sql = format!(
            r#"
            insert into outbox.message (destination, key, kind, payload, delivered_at)
            select
                $1, 'key-' || n % $2, 'OrderPlaced', ('{{"n":' || n || ',"fill":"' || $3 || '"}}')::json,
                {delivered_at}
            from generate_series(1, $4) as n
            "#
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(rows.topic)
            .bind(i64::try_from(rows.keys)?)
            .bind(fill(rows.payload_bytes))
            .bind(i64::try_from(rows.count)?)
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    pub(crate) async fn pending(&mut self) -> Result<i64> {
        let sql = "select count(*) from outbox.message where delivered_at is null";
        Ok(sqlx::query_scalar(sql).fetch_one(&mut self.connection).await?)
    }
}

/// What the relay is told in a payload of this size besides its number.
const FRAME_BYTES: usize = r#"{"n":123456,"fill":""}"#.len();

/// Text that does not compress, so that a large row is read as large as it is.
pub(crate) fn fill(payload_bytes: usize) -> String {
    let mut random = SmallRng::seed_from_u64(1);
    let digits = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_";
    (0..payload_bytes.saturating_sub(FRAME_BYTES))
        .map(|_| char::from(digits[random.random_range(0..digits.len())]))
        .collect()
}

/// A connection that logs no statements, so that slow ones do not end up in the report.
pub(crate) async fn connect(url: &str) -> Result<PgConnection> {
    let options = PgConnectOptions::from_str(url)?.disable_statement_logging();
    options.connect().await.with_context(|| format!("could not connect to {url}"))
}

/// The URL of database `name` on the same server.
fn beside(url: &str, name: &str) -> Result<String> {
    let (address, parameters) = url.split_once('?').map_or((url, None), |(a, p)| (a, Some(p)));
    let (server, _) = address.rsplit_once('/').context("the Postgres URL names no database")?;
    Ok(parameters.map_or(format!("{server}/{name}"), |p| format!("{server}/{name}?{p}")))
}

async fn migrate(relay: &Path, url: &str) -> Result<()> {
    let output = Command::new(relay)
        .arg("migrate")
        .env("DATABASE_URL", url)
        .output()
        .await
        .with_context(|| format!("could not run {}", relay.display()))?;
    ensure!(output.status.success(), "migrate failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
