//! What a pooler makes of sessions: lent for a transaction, to anybody, in any order.

use std::sync::Arc;

use outbox_relay::config::{Pooler, Secret};
use outbox_relay::source::migrate::migrate;
use outbox_relay::source::{Fetch, Source, SourceErrorKind};

use super::super::{delivered, everything, fetch, insert, payloads, row};
use super::shapes::default_table;
use super::{Harness, Outbox};
use crate::support::pgbouncer::PgBouncer;

/// Another client of the pooler finds every session as the server made it.
#[tokio::test]
async fn nothing_is_left_behind_in_a_session_that_was_lent() {
    let Some(outbox) = Outbox::pooled(default_table()).await else { return };
    let rows: Vec<_> = (0..8).map(|n| row("a", &n.to_string())).collect();
    insert(&outbox, &rows).await;
    let source = outbox.source();
    for _ in 0..8 {
        source.lease().await.expect("the lease is free");
        let batch = fetch(&source, everything()).await;
        source.settle(delivered(&batch.messages[..1])).await.expect("it can be marked");
        source.backlog().await.expect("it can be measured");
    }
    let direct = outbox.session_of(&outbox.database.url()).await;
    for _ in 0..8 {
        assert_eq!(outbox.session_of(outbox.settings.database.url.reveal()).await, direct);
    }
}

impl Outbox {
    /// Settings and prepared statements of whatever session `url` leads to.
    async fn session_of(&self, url: &str) -> String {
        use sqlx::ConnectOptions as _;

        let options: sqlx::postgres::PgConnectOptions = url.parse().expect("a url");
        let mut connection = options.extra_float_digits(None).connect().await.expect("it answers");
        let look = "select string_agg(name || '=' || setting, ' ' order by name) || ' '
                || (select count(*) from pg_prepared_statements)
            from pg_settings where source = 'session' and name <> 'application_name' or name in ('search_path', 'statement_timeout', 'row_security')";
        let rows = sqlx::raw_sql(look).fetch_all(&mut connection).await.expect("settings can be read");
        sqlx::Row::get(&rows[0], 0)
    }
}

/// Whose lock it is cannot be told by a process number behind a pooler, so a mark counts as a writer: that
/// slows the safe position down and endangers nothing.
#[tokio::test]
async fn a_mark_under_way_is_taken_for_a_writer_and_only_while_it_lasts() {
    let Some(outbox) = Outbox::pooled(default_table()).await else { return };
    insert(&outbox, &[row("a", "1"), row("a", "2")]).await;
    let source = Arc::new(outbox.source());
    let batch = fetch(&*source, everything()).await;
    let blocker = outbox.blocked().await;
    let settlements = delivered(&batch.messages[1..]);
    let marking = tokio::spawn({
        let source = Arc::clone(&source);
        async move { source.settle(settlements).await }
    });
    outbox.until_blocked().await;
    assert_eq!(fetch(&*source, everything()).await.writers.len(), 1);
    outbox.rollback(blocker).await;
    marking.await.expect("it ends").expect("the mark is made");
    assert!(fetch(&*source, everything()).await.writers.is_empty());
}

#[tokio::test]
async fn a_statement_that_fails_leaves_no_transaction_behind() {
    let Some(outbox) = Outbox::pooled(default_table()).await else { return };
    let rows: Vec<_> = (0..20).map(|n| row("a", &n.to_string())).collect();
    insert(&outbox, &rows).await;
    let source = outbox.source();
    let batch = fetch(&source, everything()).await;
    outbox.run("alter table outbox.message add check (delivered_at is null or id % 5 <> 0)").await;
    let settled = source.settle(delivered(&batch.messages)).await.expect("the others can be marked");
    assert_eq!((settled.done.len(), settled.refused.len()), (16, 4));
    let open = "select not exists (select 1 from pg_stat_activity
        where datname = current_database() and state like 'idle in transaction%')";
    outbox.until(open).await;
}

#[tokio::test]
async fn migrations_go_through_a_pooler_too() {
    let Some(outbox) = Outbox::pooled(default_table()).await else { return };
    outbox.run("drop schema outbox_relay cascade; drop schema outbox cascade").await;
    let applied = migrate(&outbox.settings).await.expect("the owner may migrate");
    assert!(applied.len() >= 2, "{applied:?}");
    assert!(migrate(&outbox.settings).await.expect("it may run again").is_empty());
    insert(&outbox, &[row("a", "1")]).await;
    let batch = fetch(&outbox.source(), Fetch { rows_max: 1, ..everything() }).await;
    assert_eq!(payloads(&batch.messages), ["1"]);
}

/// Settings that a pooler drops are worse than settings that it refuses: nobody would notice.
#[tokio::test]
async fn a_pooler_that_nobody_mentioned_is_noticed() {
    let Some(mut outbox) = Outbox::pooled(default_table()).await else { return };
    outbox.settings.database.pooler = Pooler::None;
    let ignoring = PgBouncer::ignoring(&outbox.database.url(), "extra_float_digits, options").await;
    let urls = [outbox.settings.database.url.clone(), Secret::new(ignoring.url(&outbox.database.url()))];
    for url in urls {
        outbox.settings.database.url = url;
        let error = outbox.source().fetch(everything()).await.expect_err("it is not set up as asked");
        assert_eq!(error.kind, SourceErrorKind::Unfit, "{error}");
        assert!(error.hint.is_some_and(|hint| hint.contains("database.pooler")), "{}", error.message);
    }
}
