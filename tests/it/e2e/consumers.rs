//! The SQL of docs/consumers.md, run as it stands: a consumer that keeps an inbox handles a message once,
//! however often it comes.

use std::path::Path;
use std::process::{Command, ExitStatus};

use sqlx::Executor;

use super::stage::PATIENCE;
use crate::support::database::Database;
use crate::support::process::Process;
use crate::support::services::{self, Services};
use crate::support::wait;

const INBOX: &str = include_str!("../../../examples/sql/inbox.sql");
const FORGET: &str = include_str!("../../../examples/sql/inbox_forget.sql");

/// A consumer's database.
async fn consumer(test: &str) -> Option<Database> {
    let services = Services::find(test)?;
    let database = Database::create_in(&services.postgres_url).await;
    database.execute(INBOX).await;
    Some(database)
}

/// Starts to handle a message; several may be at it.
fn handle(database: &Database, source: &str, message_id: &str) -> Process {
    let mut psql = Command::new(Path::new(&services::postgres_bin()).join("psql"));
    psql.args(["-X", "-q", "-v", "order=1", "-v", "carrier=post"]);
    psql.args(["-v", &format!("source={source}"), "-v", &format!("message_id={message_id}")]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/sql/inbox_handle.sql");
    psql.arg("-f").arg(script).arg(&database.url);
    Process::spawn(&mut psql)
}

async fn handled(mut process: Process) -> ExitStatus {
    process.ended(PATIENCE).await
}

#[tokio::test]
async fn a_message_that_comes_again_is_handled_once_and_one_of_another_outbox_is_another() {
    let Some(database) = consumer("inbox").await else { return };
    for _ in 0..3 {
        assert!(handled(handle(&database, "shop", "7")).await.success(), "a repeat is no error");
    }
    assert_eq!(database.count("invoice").await, 1);
    assert!(handled(handle(&database, "warehouse", "7")).await.success());
    assert_eq!(database.count("invoice").await, 2);
}

#[tokio::test]
async fn a_message_whose_handling_failed_is_handled_when_it_comes_again() {
    let Some(database) = consumer("inbox failure").await else { return };
    database.execute("alter table invoice add constraint closed check (false) not valid").await;
    assert!(!handled(handle(&database, "shop", "7")).await.success(), "the invoice is refused");
    assert_eq!(database.count("inbox").await, 0, "the inbox has forgotten what was not handled");
    database.execute("alter table invoice drop constraint closed").await;
    assert!(handled(handle(&database, "shop", "7")).await.success());
    assert_eq!(database.count("invoice").await, 1);
}

#[tokio::test]
async fn a_copy_waits_for_the_one_being_handled_and_takes_over_only_if_that_fails() {
    for (end, copies) in [("commit", 0), ("rollback", 1)] {
        let Some(database) = consumer("inbox race").await else { return };
        let mut first = database.connection().await;
        first.execute("begin").await.expect("a transaction begins");
        first.execute("insert into inbox values ('shop', '7')").await.expect("the inbox takes rows");
        let copy = handle(&database, "shop", "7");
        let waiting = "pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        wait::eventually(PATIENCE, "the copy waits", async || database.count(waiting).await == 1).await;
        first.execute(end).await.expect("the transaction ends");
        assert!(handled(copy).await.success());
        assert_eq!(database.count("invoice").await, copies, "after a {end}");
    }
}

#[tokio::test]
async fn the_inbox_forgets_what_is_old() {
    let Some(database) = consumer("inbox size").await else { return };
    database
        .execute(
            "insert into inbox values ('shop', 'old', now() - interval '31 days'), ('shop', 'new', now())",
        )
        .await;
    database.execute(FORGET).await;
    assert_eq!(database.one::<String>("select message_id from inbox").await, "new");
}
