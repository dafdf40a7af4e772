//! A database of its own for each test, gone when the test is over, passed or failed.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor};

use super::services;

/// A fresh, empty database and a pool of connections to it.
#[derive(Debug)]
pub struct Database {
    /// `postgres://…` of this database, as a superuser.
    pub url: String,
    pub pool: PgPool,
    name: String,
    server_url: String,
}

impl Database {
    /// In the shared Postgres.
    pub async fn create() -> Self {
        Self::create_in(&services::postgres_url()).await
    }

    /// In the server that `server_url` (of any of its databases) leads to.
    pub async fn create_in(server_url: &str) -> Self {
        let name = fresh_name();
        execute_once(server_url, &format!("create database {name}"))
            .await
            .expect("the server takes databases");
        let url = with_database(server_url, &name);
        let pool = pool(&url).await;
        Self { url, pool, name, server_url: server_url.to_owned() }
    }

    /// The URL for another user, who logs in without a password.
    pub fn url_as(&self, user: &str) -> String {
        let (_, address) = self.url.split_once('@').expect("test URLs name their user");
        format!("postgres://{user}@{address}")
    }

    /// Runs statements that return nothing; several may be separated by semicolons.
    pub async fn execute(&self, sql: &str) {
        let done = self.pool.execute(AssertSqlSafe(sql)).await;
        done.unwrap_or_else(|error| panic!("could not run {sql}: {error}"));
    }

    /// The first column of the only row.
    pub async fn one<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        let found = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.pool).await;
        found.unwrap_or_else(|error| panic!("could not read {sql}: {error}"))
    }

    /// Rows of `from` (a table, perhaps with a `where`).
    pub async fn count(&self, from: &str) -> i64 {
        self.one(&format!("select count(*) from {from}")).await
    }

    /// A connection outside the pool, for a transaction that is to stay open or to die.
    pub async fn connection(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.expect("the test's Postgres answers")
    }
}

impl Drop for Database {
    /// In a thread with a runtime of its own, as a destructor has none to wait in. A server that was
    /// stopped takes its databases with it.
    fn drop(&mut self) {
        let sql = format!("drop database if exists {} with (force)", self.name);
        let server_url = std::mem::take(&mut self.server_url);
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            _ = runtime.block_on(async {
                tokio::time::timeout(Duration::from_secs(10), execute_once(&server_url, &sql)).await
            });
            std::io::Result::Ok(())
        });
        _ = dropping.join();
    }
}

/// A pool that waits 10 s for a connection and outlives a restart of the server.
pub async fn pool(url: &str) -> PgPool {
    let options: PgConnectOptions = url.parse().expect("test URLs are well formed");
    let pool = PgPoolOptions::new().max_connections(20).acquire_timeout(Duration::from_secs(10));
    pool.connect_with(options).await.expect("the test's Postgres answers")
}

async fn execute_once(url: &str, sql: &str) -> sqlx::Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    connection.execute(AssertSqlSafe(sql)).await?;
    connection.close().await
}

/// Unique among the processes and runs that share a server.
fn fresh_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").subsec_nanos();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("t_{}_{nanos}_{number}", std::process::id())
}

fn with_database(server_url: &str, name: &str) -> String {
    let (server, _) = server_url.rsplit_once('/').expect("postgres://user@host:port/database");
    format!("{server}/{name}")
}
