//! Whether a table can be relayed from at all, and what is said of one that can but should not be.

use std::time::{Duration, Instant};

use outbox_relay::config::{Mark, Ordering};
use outbox_relay::source::{Batch, Remark, Source, SourceErrorKind};

use super::super::{everything, fetch, insert, row};
use super::hazards::{hint, misfit};
use super::shapes::{default_table, partitioned, text_id, uuid_and_bytes};
use super::{Database, Harness, Outbox};
use crate::support::postgres::Postgres;
use crate::support::services::Services;

fn warning<'b>(batch: &'b Batch, text: &str) -> Option<&'b Remark> {
    batch.remarks.iter().find(|remark| remark.text.contains(text))
}

fn mend(remark: &Remark) -> &str {
    remark.hint.as_deref().expect("a warning says what mends it")
}

#[tokio::test]
async fn an_order_that_may_be_null_is_refused_for_key_order_and_ignored_without() {
    let Some(mut outbox) = Outbox::open(text_id()).await else { return };
    outbox.run("alter table notes alter seq drop not null; insert into notes (payload) values ('a')").await;
    let error = misfit(&outbox).await;
    assert!(error.message.contains("may be null"), "{error}");
    outbox.settings.ordering = Ordering::None;
    outbox.run("insert into notes (seq, payload) values (null, 'b')").await;
    assert_eq!(fetch(&outbox.source(), everything()).await.messages.len(), 2);
    outbox.settings.ordering = Ordering::Key;
    outbox.run("delete from notes where seq is null").await;
    outbox.run(hint(&error)).await;
    assert_eq!(fetch(&outbox.source(), everything()).await.messages.len(), 1);
}

/// Rows of a lane that is left out would come all the same: SQL writes bytes as digits.
#[tokio::test]
async fn bytes_that_say_where_a_row_goes_are_refused() {
    let Some(mut outbox) = Outbox::open(default_table()).await else { return };
    insert(&outbox, &[row("a", "1")]).await;
    let to_bytes =
        "alter table outbox.message alter destination type bytea using convert_to(destination, 'UTF8')";
    outbox.run(to_bytes).await;
    let error = misfit(&outbox).await;
    assert!(error.message.contains("(outbox.columns.destination), and it is bytea"), "{error}");
    let (_, sql) = hint(&error).split_once("or: ").expect("one way is SQL");
    outbox.run(sql).await;
    assert_eq!(fetch(&outbox.source(), everything()).await.messages.len(), 1);
    outbox.run(to_bytes).await;
    outbox.settings.scope_columns.clear();
    assert_eq!(fetch(&outbox.source(), everything()).await.messages.len(), 1, "bytes are welcome elsewhere");
}

/// Marked by id, both of two rows would be, and one of them was never published.
#[tokio::test]
async fn ids_that_nothing_keeps_apart_are_refused() {
    for no_index in [
        "alter table notes drop constraint notes_pkey",
        "alter table notes drop constraint notes_pkey; create unique index on notes (id, seq)",
        "alter table notes drop constraint notes_pkey; create unique index on notes (id) where seq > 0",
        "alter table notes drop constraint notes_pkey; create unique index on notes (lower(id))",
    ] {
        let Some(outbox) = Outbox::open(text_id()).await else { return };
        outbox.run(no_index).await;
        let error = misfit(&outbox).await;
        assert_eq!(hint(&error), "create unique index concurrently on public.notes (\"id\")", "{no_index}");
        outbox.run(hint(&error)).await;
        fetch(&outbox.source(), everything()).await;
    }
}

#[tokio::test]
async fn numbered_ids_without_a_unique_index_are_warned_about() {
    let Some(outbox) = Outbox::open(default_table()).await else { return };
    outbox.run("alter table outbox.message drop constraint message_pkey").await;
    let batch = fetch(&outbox.source(), everything()).await;
    let remark = warning(&batch, "no unique index").expect("it is said");
    outbox.run(mend(remark)).await;
    assert_eq!(warning(&fetch(&outbox.source(), everything()).await, "no unique index"), None);
}

#[tokio::test]
async fn a_partitioned_tables_id_is_kept_apart_together_with_its_partition_key() {
    let Some(outbox) = Outbox::open(partitioned()).await else { return };
    assert_eq!(warning(&fetch(&outbox.source(), everything()).await, "no unique index"), None);
    outbox.run("alter table events drop constraint events_pkey").await;
    let batch = fetch(&outbox.source(), everything()).await;
    let remark = warning(&batch, "no unique index").expect("it is said");
    outbox.run(mend(remark)).await;
    assert_eq!(warning(&fetch(&outbox.source(), everything()).await, "no unique index"), None);
}

#[tokio::test]
async fn pending_rows_that_no_index_finds_are_warned_about_with_the_index_that_does() {
    const SAID: &str = "no index finds the pending rows";
    for shape in [text_id, partitioned, default_table, uuid_and_bytes] {
        let Some(mut outbox) = Outbox::open(shape()).await else { return };
        if matches!(outbox.settings.outbox.mark, Mark::Delete) {
            outbox.run("alter table outbox_events drop constraint outbox_events_seq_key").await;
        }
        if outbox.table.contains("message") {
            assert_eq!(warning(&fetch(&outbox.source(), everything()).await, SAID), None);
            outbox.run("drop index outbox.message_pending").await;
        }
        let batch = fetch(&outbox.source(), everything()).await;
        let remark = warning(&batch, SAID).unwrap_or_else(|| panic!("{}", outbox.table));
        outbox.run(mend(remark)).await;
        assert_eq!(warning(&fetch(&outbox.source(), everything()).await, SAID), None, "{}", mend(remark));
        outbox.settings.ordering = Ordering::None;
        assert_eq!(warning(&fetch(&outbox.source(), everything()).await, SAID), None);
    }
}

#[tokio::test]
async fn a_read_that_takes_too_long_is_answered_with_the_index_that_is_missing() {
    let Some(mut outbox) = Outbox::open(default_table()).await else { return };
    outbox
        .run(
            "drop index outbox.message_pending;
            insert into outbox.message (kind, delivered_at)
            select 'k', clock_timestamp() from generate_series(1, 400000)",
        )
        .await;
    outbox.settings.database.statement_timeout = Duration::from_millis(20);
    let begun = outbox.source();
    let index = slow(async || begun.fetch(everything()).await.err()).await;
    outbox.settings.outbox.start = None;
    outbox.run("delete from outbox_relay.pipeline").await;
    let first = outbox.source();
    assert_eq!(slow(async || first.fetch(everything()).await.err()).await, index);
    outbox.run(&index).await;
    outbox.settings.database.statement_timeout = Duration::from_secs(30);
    fetch(&outbox.source(), everything()).await;
}

/// The hint of the read that is too slow; on a busy machine something else may be so before it.
async fn slow(ask: impl AsyncFn() -> Option<outbox_relay::source::SourceError>) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let error = ask().await.expect("it takes too long");
        if error.message.contains("no index finds") {
            assert_eq!(error.kind, SourceErrorKind::Unfit);
            return hint(&error).to_owned();
        }
        assert!(Instant::now() < deadline, "{error}");
    }
}

#[tokio::test]
async fn a_superuser_is_warned_about() {
    let Some(outbox) = Outbox::open(default_table()).await else { return };
    let batch = fetch(&outbox.source(), everything()).await;
    let remark = warning(&batch, "postgres, a superuser").expect("it is said");
    assert!(mend(remark).contains("deploy/sql/roles.sql"));
}

#[tokio::test]
async fn a_barrier_that_no_standby_answers_returns_no_row_and_piles_up_no_process() {
    if Services::find("synchronous standbys").is_none() {
        return;
    }
    let server = Postgres::start(&[]).await;
    let mut outbox = Outbox::open_in(Database::create_in(&server.url).await, default_table()).await;
    outbox.settings.database.statement_timeout = Duration::from_millis(200);
    outbox.settings.database.lock_timeout = Duration::from_millis(100);
    let source = outbox.source();
    fetch(&source, everything()).await;
    insert(&outbox, &[row("a", "1")]).await;
    outbox.run("alter system set synchronous_standby_names = 'nobody'").await;
    outbox.run("select pg_reload_conf()").await;
    outbox.until("select current_setting('synchronous_standby_names') = 'nobody'").await;

    for _ in 0..3 {
        let error = source.fetch(everything()).await.expect_err("no standby has the row");
        assert_eq!(error.kind, SourceErrorKind::Unavailable, "{error}");
    }
    let waiting = "select count(*) <= 1 from pg_stat_activity where wait_event = 'SyncRep'";
    outbox.until(waiting).await;

    outbox.run("alter system reset synchronous_standby_names").await;
    outbox.run("select pg_reload_conf()").await;
    outbox.until("select current_setting('synchronous_standby_names') = ''").await;
    assert_eq!(fetch(&source, everything()).await.messages.len(), 1);
}
