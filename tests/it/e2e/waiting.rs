//! What a database may lack when the relay meets it: each is a state in which the relay waits, answers
//! its probes, and says in one message what mends it. The tests do what it says, and nothing else.

use sqlx::Executor;

use super::stage::{PATIENCE, stop};
use crate::support::database::{Database, pool};
use crate::support::postgres::Postgres;
use crate::support::relay::{Metrics, Relay, Settings, get};
use crate::support::services::Services;

/// Something wrong with the database, and the way out of it.
struct Lack {
    /// As a superuser, before the relay starts. `DB` stands for the database's name.
    sql: &'static str,
    said: &'static str,
    mend: Mend,
}

enum Mend {
    /// The statements that the hint ends with; where the next message asks for more, those too.
    Hint,
    /// The hint names what is to be done elsewhere (a name in the configuration); this does the like here.
    Sql(&'static str),
    /// `outbox-relay migrate`, and the grants it prints.
    Migrate,
}

use Mend::{Hint, Migrate, Sql};

const LACKS: [Lack; 19] = [
    Lack {
        sql: "alter table outbox.message rename to mesage",
        said: "could not find the table outbox.message",
        mend: Sql("alter table outbox.mesage rename to message"),
    },
    Lack {
        sql: "alter table outbox.message drop column headers",
        said: "has no column \"headers\"",
        mend: Hint,
    },
    Lack { sql: "alter table outbox.message drop column key", said: "has no column \"key\"", mend: Hint },
    // A new column also wants a grant: two messages, one after the other.
    Lack {
        sql: "alter table outbox.message drop column delivered_at",
        said: "has no column \"delivered_at\" (outbox.mark_column",
        mend: Hint,
    },
    Lack { sql: "revoke select on outbox.message from relay", said: "permission denied", mend: Hint },
    Lack {
        sql: "revoke update (delivered_at) on outbox.message from relay",
        said: "could not use outbox.message: permission denied",
        mend: Hint,
    },
    Lack { sql: "revoke usage on schema outbox from relay", said: "permission denied", mend: Hint },
    Lack {
        sql: "revoke usage on schema outbox_relay from relay; \
              revoke all on all tables in schema outbox_relay from relay",
        said: "could not take or renew the lease: permission denied",
        mend: Hint,
    },
    Lack {
        sql: "revoke all on outbox_relay.pipeline from relay",
        said: "could not tell where the pipeline begins: permission denied",
        mend: Hint,
    },
    Lack {
        sql: "revoke connect on database DB from public",
        said: "permission denied for database",
        mend: Hint,
    },
    Lack {
        sql: "alter table outbox.message alter id drop identity; alter table outbox.message alter id type text",
        said: "(outbox.columns.order) is text, not smallint, integer or bigint",
        mend: Sql("alter table outbox.message alter id type bigint using id::bigint; \
                   alter table outbox.message alter id add generated always as identity"),
    },
    Lack {
        sql: "alter table outbox.message alter id drop identity",
        said: "could not use \"id\" as order: no sequence allocates it",
        mend: Sql("alter table outbox.message alter id add generated always as identity"),
    },
    Lack {
        sql: "alter sequence outbox.message_id_seq cache 10",
        said: "its sequence hands out 10 values at a time",
        mend: Hint,
    },
    Lack {
        sql: "alter table outbox.message alter id drop identity, drop constraint message_pkey; \
              create sequence outbox.numbers; alter table outbox.message alter id drop not null, \
              alter id set default nextval('outbox.numbers')",
        said: "could not use \"id\" as order: it may be null",
        mend: Hint,
    },
    Lack {
        sql: "alter table outbox.message alter delivered_at type text",
        said: "is text, not timestamp with or without time zone",
        mend: Hint,
    },
    Lack {
        sql: "alter table outbox.message rename to stored; create view outbox.message as table outbox.stored",
        said: "it is not a table but a view",
        mend: Sql("drop view outbox.message; alter table outbox.stored rename to message"),
    },
    Lack {
        sql: "alter table outbox.message enable row level security",
        said: "row security hides rows",
        mend: Hint,
    },
    Lack {
        sql: "alter database DB set default_transaction_read_only = on",
        said: "read-only transaction",
        mend: Hint,
    },
    Lack {
        sql: "drop schema outbox_relay cascade",
        said: "could not take or renew the lease",
        mend: Migrate,
    },
];

/// A migrated database on a server of its own, whose role `relay` may do what a relay does.
struct Place {
    database: Database,
}

impl Place {
    async fn open(server: &Postgres) -> Self {
        let place = Self { database: Database::create_in(&server.url).await };
        place.migrate().await;
        place
    }

    fn settings(&self) -> Settings {
        Settings::stdout(&self.database.url_as("relay")).text("lease.ttl", "3s")
    }

    async fn migrate(&self) {
        let owner = Settings::stdout(&self.database.url);
        let migrated = owner.output(&["migrate"]);
        assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        let script =
            String::from_utf8(owner.output(&["migrate", "--print-sql"]).stdout).expect("SQL is text");
        let (_, grants) = script.split_once("psql -v relay=<role>\n").expect("the grants come last");
        self.database.execute(&grants.replace(":relay", "relay")).await;
    }

    fn name(&self) -> &str {
        self.database.url.rsplit_once('/').expect("a URL ends with the database").1
    }

    /// As a person would: over a connection made now.
    async fn run(&self, sql: &str) {
        let mut connection = self.database.connection().await;
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    async fn insert(&self, kind: &str) {
        let insert = sqlx::query("insert into outbox.message (destination, kind) values ('orders', $1)");
        insert.bind(kind).execute(&mut self.database.connection().await).await.expect("it takes rows");
    }
}

/// Message and hint of the last database error on the status page.
async fn complaint(admin_port: u16) -> Option<(String, String)> {
    let (_, page) = get(admin_port, "/status").await?;
    let page: serde_json::Value = serde_json::from_str(&page).expect("the page is JSON");
    let error = &page["last_errors"]["database"];
    Some((error["message"].as_str()?.to_owned(), error["hint"].as_str()?.to_owned()))
}

/// Waits until the status page says `text`, holds what a waiting relay owes against it, and returns the
/// hint.
async fn says(relay: &mut Relay, text: &str) -> String {
    let (port, mut hint) = (relay.admin_port, String::new());
    let said = async || {
        let heard = complaint(port).await.filter(|(message, _)| message.contains(text));
        hint = heard.map_or_else(String::new, |(_, hint)| hint);
        !hint.is_empty()
    };
    relay.wait_for(PATIENCE, text, said).await;
    for path in ["/livez", "/readyz", "/startupz"] {
        let (status, body) = relay.get(path).await.expect("the page answers");
        assert_eq!(status, 200, "{path} while {text:?}: {body}");
    }
    let lag = relay.metrics().await.expect("the page answers").get("lag_seconds");
    assert!(lag.is_none_or(f64::is_nan), "the lag is not known while {text:?}: {lag:?}");
    let written = text.replace('"', "\\\"");
    // What it wrote may take a moment to be read.
    let log = relay.stderr().clone();
    relay.wait_for(PATIENCE, "it is written too", async || log.contain(&written)).await;
    let lines = relay.stderr().all();
    let times = lines.iter().filter(|line| line.contains("ERROR") && line.contains(&written)).count();
    assert_eq!(times, 1, "{text:?} is said once\n{}", relay.stderr().tail(20));
    hint
}

/// The statements that a hint ends with.
fn statements(hint: &str) -> &str {
    hint.rsplit_once(": ").map_or(hint, |(_, statements)| statements)
}

/// Waits until the row is published.
async fn arrives(relay: &mut Relay) {
    let out = relay.stdout().clone();
    relay.wait_for(PATIENCE, "the row arrives", async || out.contain("arrived")).await;
}

/// Does what the hint says, and what the relay asks for after that, until the row is published.
async fn mended_by_hints(relay: &mut Relay, place: &Place, first: String) {
    place.run(statements(&first)).await;
    place.insert("arrived").await;
    let (port, out, mut done) = (relay.admin_port, relay.stdout().clone(), vec![first]);
    let arrived = async || {
        if let Some((_, hint)) = complaint(port).await.filter(|(_, hint)| !done.contains(hint)) {
            place.run(statements(&hint)).await;
            done.push(hint);
        }
        out.contain("arrived")
    };
    relay.wait_for(PATIENCE, "the row arrives", arrived).await;
}

#[tokio::test]
async fn whatever_a_database_lacks_is_waited_for_and_mended_by_the_sql_that_is_said_without_a_restart() {
    if Services::find("waiting states").is_none() {
        return;
    }
    let server = Postgres::start(&[]).await;
    Database::create_in(&server.url).await.execute("create role relay login").await;
    for lack in LACKS {
        let place = Place::open(&server).await;
        place.run(&lack.sql.replace("DB", place.name())).await;
        let mut relay = place.settings().run();
        let hint = says(&mut relay, lack.said).await;
        match lack.mend {
            Hint => mended_by_hints(&mut relay, &place, hint).await,
            Sql(sql) => place.run(sql).await,
            Migrate => place.migrate().await,
        }
        place.insert("arrived").await;
        arrives(&mut relay).await;
        stop(relay).await;
        place.run("alter role relay nobypassrls").await;
    }
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_waited_for() {
    let Some(services) = Services::find("missing database") else { return };
    let place = Place { database: Database::create_in(&services.postgres_url).await };
    let missing = format!("{}_missing", place.name());
    let url = place.database.url.replace(place.name(), &missing);
    let settings = Settings::stdout(&url).text("lease.ttl", "3s");
    let mut relay = settings.run();
    let hint = says(&mut relay, "does not exist").await;
    place.run(statements(&hint)).await;
    let next = says(&mut relay, "outbox_relay").await;
    assert_eq!(next, "run `outbox-relay migrate` as the owner of the database");
    assert!(settings.output(&["migrate"]).status.success());
    relay.wait_until(PATIENCE, "it leads", |metrics| metrics.get("leader") == Some(1.0)).await;
    stop(relay).await;
    place.run(&format!("drop database {missing} with (force)")).await;
}

#[tokio::test]
async fn ids_that_nothing_keeps_apart_wait_for_the_index_that_does() {
    let Some(services) = Services::find("ids") else { return };
    let place = Place { database: Database::create_in(&services.postgres_url).await };
    let settings = Settings::stdout(&place.database.url).text("outbox.columns.id", "message_id");
    assert!(settings.output(&["migrate"]).status.success());
    let mut relay = settings.run();
    let hint = says(&mut relay, "no unique index keeps the ids of outbox.message apart").await;
    assert_eq!(hint, "create unique index concurrently on outbox.message (\"message_id\")");
    mended_by_hints(&mut relay, &place, hint).await;
    stop(relay).await;
}

#[tokio::test]
async fn a_missing_index_is_said_with_the_statement_that_makes_it_and_stops_nobody() {
    let Some(services) = Services::find("index") else { return };
    let place = Place { database: Database::create_in(&services.postgres_url).await };
    let settings = Settings::stdout(&place.database.url);
    assert!(settings.output(&["migrate"]).status.success());
    place.run("drop index outbox.message_pending").await;
    place.insert("arrived").await;
    let mut relay = settings.run();
    arrives(&mut relay).await;
    let lines = relay.stderr().all();
    let said: Vec<_> = lines.iter().filter(|line| line.contains("no index finds the pending rows")).collect();
    let [line] = said[..] else { panic!("once, not {said:?}") };
    let create = r#"create index concurrently on outbox.message ("id") where "delivered_at" is null"#;
    assert!(line.contains("WARN") && line.replace('\\', "").contains(create), "{line}");
    place.run(create).await;
    stop(relay).await;
}

#[tokio::test]
async fn a_standby_is_waited_at_until_it_is_promoted() {
    if Services::find("standby").is_none() {
        return;
    }
    let server = Postgres::start(&[]).await;
    Database::create_in(&server.url).await.execute("create role relay login").await;
    let place = Place::open(&server).await;
    let standby = server.standby().await;
    let there = |url: &str| url.replace(&server.port.to_string(), &standby.port.to_string());
    let mut relay = Settings::stdout(&there(&place.database.url_as("relay"))).text("lease.ttl", "3s").run();
    let hint = says(&mut relay, "this server is a standby").await;

    let follower = pool(&there(&place.database.url)).await;
    follower.execute(sqlx::AssertSqlSafe(statements(&hint))).await.expect("it can be promoted");
    let insert = "insert into outbox.message (destination, kind) values ('orders', 'arrived')";
    relay.wait_for(PATIENCE, "it takes rows", async || follower.execute(insert).await.is_ok()).await;
    arrives(&mut relay).await;
    stop(relay).await;
}

#[tokio::test]
async fn a_table_with_history_waits_for_an_answer_and_after_a_restart_begins_where_it_says() {
    let Some(services) = Services::find("first start") else { return };
    let place = Place { database: Database::create_in(&services.postgres_url).await };
    let settings = Settings::stdout(&place.database.url).text("lease.ttl", "3s");
    assert!(settings.output(&["migrate"]).status.success());
    let history = "insert into outbox.message (destination, kind, created_at)
        select 'orders', 'history', clock_timestamp() - interval '9 years' from generate_series(1, 12345)";
    place.run(history).await;
    let mut relay = settings.run();
    let hint = says(&mut relay, "more than 10000 pending rows, the oldest from 20").await;
    for answer in ["outbox.start", "\"all\"", "\"now\"", "\"after:12345\""] {
        assert!(hint.contains(answer), "{answer} is not in {hint}");
    }
    place.insert("arrived").await;
    stop(relay).await;

    let mut relay = settings.text("outbox.start", "now").run();
    arrives(&mut relay).await;
    let idle =
        |metrics: &Metrics| ["pending_rows", "lag_seconds"].iter().all(|n| metrics.get(n) == Some(0.0));
    relay.wait_until(PATIENCE, "nothing is left to do", idle).await;
    assert!(!relay.stdout().contain("history"));
    stop(relay).await;
    assert_eq!(place.database.count("outbox.message where delivered_at is null").await, 12_345);
}
