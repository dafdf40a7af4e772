//! The contract over real tables of many shapes, and the hazards that only a database has.

use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::support::pgbouncer::PgBouncer;
use crate::support::services::Services;
use outbox_relay::config::{self, ColumnName, Mark, MarkColumn, Ordering as KeyOrdering, Pooler, Secret};
use outbox_relay::message::RowId;
use outbox_relay::source::migrate::migrate;
use outbox_relay::source::poll::{Poll, PollSettings};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

use super::{Harness, NewRow};

mod fitness;
mod hazards;
mod pooled;
mod shapes;
mod start;

use shapes::Shape;

/// What the application notifies when it commits.
pub(crate) const CHANNEL: &str = "outbox_relay_test";

/// A database of its own, with an outbox of some shape in it.
pub(crate) struct Outbox {
    database: Database,
    /// What the relay goes through, if not straight to the server.
    pooler: Option<PgBouncer>,
    settings: PollSettings,
    insert: String,
    id_text: String,
    table: String,
}

impl Outbox {
    /// `None` where tests may do without services.
    async fn open(shape: Shape) -> Option<Self> {
        Some(Self::open_in(Database::create().await?, shape).await)
    }

    async fn open_in(database: Database, shape: Shape) -> Self {
        let settings = settings(&database, shape.outbox, shape.scope_sql);
        migrate(&settings).await.expect("the owner may migrate");
        let mut admin = database.connect().await;
        sqlx::raw_sql(AssertSqlSafe(shape.ddl)).execute(&mut admin).await.expect("the table can be made");
        let id_text = format!("{}::text", settings.outbox.columns.id.quoted());
        let table = settings.outbox.table.quoted();
        Self { database, pooler: None, settings, insert: shape.insert, id_text, table }
    }

    /// The same, with a transaction pooler between the relay and the database.
    async fn pooled(shape: Shape) -> Option<Self> {
        let mut outbox = Self::open(shape).await?;
        let direct = outbox.database.url();
        let pooler = PgBouncer::start(&direct).await;
        let database = &mut outbox.settings.database;
        database.url = Secret::new(pooler.url(&direct));
        database.pooler = Pooler::Transaction;
        database.listen_url = Some(Secret::new(direct));
        outbox.pooler = Some(pooler);
        Some(outbox)
    }

    async fn run(&self, sql: &str) {
        let mut admin = self.database.connect().await;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut admin).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    /// Makes `body` run before a row with this id is marked.
    async fn before_mark(&self, id: &RowId, body: &str) {
        let (table, column) = (&self.table, self.settings.outbox.columns.id.quoted());
        self.run(&format!(
            "create function on_mark() returns trigger language plpgsql as $$ begin
                if old.{column}::text = '{id}' then {body} end if;
                if tg_op = 'DELETE' then return old; end if;
                return new;
            end $$;
            create trigger on_mark before update or delete on {table} for each row execute function on_mark()"
        ))
        .await;
    }
}

impl Harness for Outbox {
    type Source = Poll;
    type Writer = PgConnection;

    fn source(&self) -> Poll {
        Poll::new(self.settings.clone()).expect("the url can be read")
    }

    async fn begin(&self) -> PgConnection {
        let mut writer = self.database.connect().await;
        sqlx::raw_sql("begin").execute(&mut writer).await.expect("a transaction can be begun");
        writer
    }

    async fn insert(&self, writer: &mut PgConnection, rows: &[NewRow]) {
        for row in rows {
            let query = sqlx::query(AssertSqlSafe(self.insert.clone()));
            let query = query.bind(&row.key).bind(&row.destination).bind(&row.payload);
            query.execute(&mut *writer).await.expect("the application can insert");
        }
    }

    async fn commit(&self, mut writer: PgConnection) {
        let commit = sqlx::raw_sql("notify outbox_relay_test; commit");
        commit.execute(&mut writer).await.expect("the transaction can be committed");
    }

    async fn rollback(&self, mut writer: PgConnection) {
        sqlx::raw_sql("rollback").execute(&mut writer).await.expect("the transaction can be rolled back");
    }

    async fn pending(&self) -> usize {
        let pending = match &self.settings.outbox.mark {
            Mark::Delete => "true".to_owned(),
            Mark::Update(MarkColumn::Timestamp(column)) => format!("{} is null", column.quoted()),
            Mark::Update(MarkColumn::Boolean(column)) => format!("{} is not true", column.quoted()),
            Mark::Update(MarkColumn::Status { column, pending, .. }) => {
                format!("{}::text = '{pending}'", column.quoted())
            }
        };
        let count = format!("select count(*) from {} where {pending}", self.table);
        let mut admin = self.database.connect().await;
        let count: i64 =
            sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&mut admin).await.expect("it counts");
        usize::try_from(count).expect("a count is positive")
    }

    async fn refuse_mark(&self, id: &RowId) {
        self.before_mark(id, "raise exception 'this one stays';").await;
    }

    async fn swallow_mark(&self, id: &RowId) {
        self.before_mark(id, "return null;").await;
    }

    async fn delete(&self, id: &RowId) {
        self.run(&format!("delete from {} where {} = '{id}'", self.table, self.id_text)).await;
    }

    fn lease_ttl(&self) -> Duration {
        self.settings.lease.ttl
    }

    async fn expire_lease(&self) {
        self.run("update outbox_relay.lease set expires_at = clock_timestamp() - interval '1 second'").await;
    }
}

pub(crate) fn settings(database: &Database, outbox: config::Outbox, scope_sql: String) -> PollSettings {
    PollSettings {
        pipeline: config::Pipeline { name: "test".to_owned() },
        database: config::Database {
            url: Secret::new(database.url()),
            pooler: Pooler::None,
            listen_url: None,
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(10),
        },
        state: config::State { schema: column("outbox_relay") },
        outbox,
        lease: config::Lease { ttl: Duration::from_secs(30) },
        ordering: KeyOrdering::Key,
        scope_sql,
        scope_columns: vec![column("destination")],
    }
}

pub(crate) fn column(name: &str) -> ColumnName {
    ColumnName(name.to_owned())
}

/// A database that goes away with its test.
pub(crate) struct Database {
    admin: PgConnectOptions,
    name: String,
}

impl Database {
    async fn create() -> Option<Self> {
        let url = Services::find("the source's contract over Postgres")?.postgres_url;
        Some(Self::create_in(&url).await)
    }

    async fn create_in(url: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let admin = PgConnectOptions::from_str(url).expect("OUTBOX_TEST_POSTGRES is a postgres url");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("outbox_relay_test_{}_{number}", std::process::id());
        let mut connection = admin.connect().await.expect("OUTBOX_TEST_POSTGRES can be connected to");
        // One at a time: they all copy the same template, which nobody may use meanwhile.
        let lock = sqlx::raw_sql("select pg_advisory_lock(7110)");
        lock.execute(&mut connection).await.expect("it is our turn");
        let create = sqlx::raw_sql(AssertSqlSafe(format!("create database {name}")));
        create.execute(&mut connection).await.expect("a database can be created");
        Self { admin, name }
    }

    fn url(&self) -> String {
        self.admin.clone().database(&self.name).to_url_lossy().to_string()
    }

    async fn connect(&self) -> PgConnection {
        self.admin.clone().database(&self.name).connect().await.expect("the test's database answers")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (admin, name) = (self.admin.clone(), self.name.clone());
        // A test's runtime cannot be waited on from inside it.
        let dropping = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let dropping = async {
                let mut connection = admin.connect().await.expect("the server still answers");
                let drop = format!("drop database {name} with (force)");
                let dropped = sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut connection).await;
                dropped.expect("it is ours to drop");
                connection.close().await.expect("a connection can be closed");
            };
            // A commit that waits for a standby must not keep a test that failed.
            _ = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), dropping).await });
        });
        dropping.join().ok();
    }
}
