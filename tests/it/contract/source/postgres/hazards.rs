//! What can go wrong at a real database and nowhere else: each hazard by name.

use std::sync::Arc;
use std::time::{Duration, Instant};

use outbox_relay::config::{Mark, MarkColumn, Ordering, Secret};
use outbox_relay::message::{Header, Payload, RowId};
use outbox_relay::source::migrate::{migrate, print_sql, uninstall_sql};
use outbox_relay::source::{Fetch, Refusal, Source, SourceError, SourceErrorKind};
use sqlx::{AssertSqlSafe, PgConnection};

use super::super::{delivered, everything, fetch, insert, payloads, row};
use super::shapes::{default_table, partitioned, quoted_names, text_id, uuid_and_bytes};
use super::{Harness, Outbox, column};

const STATE_GRANTS: &str = "grant usage on schema outbox_relay to R;
    grant select, insert, update on all tables in schema outbox_relay to R";

async fn execute(c: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(c).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// What a fetch says that cannot be carried out until a person helps.
pub(super) async fn misfit(outbox: &Outbox) -> SourceError {
    let error = outbox.source().fetch(everything()).await.expect_err("the table does not fit");
    assert_eq!(error.kind, SourceErrorKind::Unfit, "{error}");
    error
}

pub(super) fn hint(error: &SourceError) -> &str {
    error.hint.as_deref().expect("an error that stays says what to do")
}

impl Outbox {
    /// The same outbox, seen by a role that may do what `grants` say (`R` stands for its name).
    async fn as_role(&mut self, grants: &str) -> String {
        let role = format!("{}_role", self.database.name);
        self.run(&format!("create role {role} login; {}", grants.replace("to R", &format!("to {role}"))))
            .await;
        let options = self.database.admin.clone().database(&self.database.name).username(&role);
        self.settings.database.url = Secret::new(sqlx::ConnectOptions::to_url_lossy(&options).to_string());
        role
    }

    async fn drop_role(&self, role: &str) {
        self.run(&format!("drop owned by {role}; drop role {role}")).await;
    }
}

/// The statement counts the row, and it is as pending as before.
#[tokio::test]
async fn a_mark_that_a_trigger_takes_back_is_reported_as_vanished() {
    let Some(outbox) = Outbox::open(default_table()).await else { return };
    insert(&outbox, &[row("a", "1"), row("a", "2")]).await;
    let source = outbox.source();
    let batch = fetch(&source, everything()).await;
    outbox.before_mark(&batch.messages[0].row.id, "return old;").await;
    let settled = source.settle(delivered(&batch.messages)).await.expect("the statement succeeds");
    assert_eq!(settled.done, [batch.messages[1].row.clone()]);
    assert!(matches!(&settled.refused[..], [(_, Refusal::Vanished(_))]), "{settled:?}");
}

/// A rule that puts something else in the place of the mark would be counted as one.
#[tokio::test]
async fn a_mark_that_a_rule_replaces_is_refused_aloud() {
    let Some(outbox) = Outbox::open(default_table()).await else { return };
    insert(&outbox, &[row("a", "1")]).await;
    let source = outbox.source();
    let batch = fetch(&source, everything()).await;
    let table = &outbox.table;
    outbox
        .run(&format!(
            "create table marks (n bigint); insert into marks values (1);
             create rule elsewhere as on update to {table} do instead update public.marks set n = n + 1"
        ))
        .await;
    let settled = source.settle(delivered(&batch.messages)).await;
    assert!(!matches!(&settled, Ok(settled) if settled.refused.is_empty()), "{settled:?}");
    assert_eq!(outbox.pending().await, 1);
}

/// A value is taken from the sequence before the transaction has an id, and shows up after higher ones.
#[tokio::test]
async fn a_position_taken_before_the_first_write_is_announced_too() {
    let Some(outbox) = Outbox::open(default_table()).await else { return };
    let source = outbox.source();
    let mut slow = outbox.begin().await;
    // The default is evaluated, and the lock held, before this insert finds that it has no row to write.
    execute(
        &mut slow,
        "insert into outbox.message (kind) select 'k' where nextval('outbox.message_id_seq') < 0",
    )
    .await;
    insert(&outbox, &[row("a", "higher")]).await;
    let early = fetch(&source, everything()).await;
    assert_eq!((payloads(&early.messages).len(), early.writers.len()), (1, 1));
    outbox.commit(slow).await;
    assert!(fetch(&source, everything()).await.writers.is_empty());
}

#[tokio::test]
async fn a_writer_of_a_single_partition_is_named() {
    let Some(outbox) = Outbox::open(partitioned()).await else { return };
    let mut writer = outbox.begin().await;
    execute(&mut writer, "lock table only events_now in row exclusive mode").await;
    assert_eq!(fetch(&outbox.source(), everything()).await.writers.len(), 1);
    outbox.rollback(writer).await;
}

#[tokio::test]
async fn our_own_marks_are_not_writers() {
    let Some(outbox) = Outbox::open(default_table()).await else { return };
    insert(&outbox, &[row("a", "1"), row("a", "2")]).await;
    let source = Arc::new(outbox.source());
    let batch = fetch(&*source, everything()).await;
    source.settle(delivered(&batch.messages[..1])).await.expect("the first call makes the connection");
    let blocker = outbox.blocked().await;
    let settlements = delivered(&batch.messages[1..]);
    let marking = tokio::spawn({
        let source = Arc::clone(&source);
        async move { source.settle(settlements).await }
    });
    outbox.until_blocked().await;
    assert!(fetch(&*source, everything()).await.writers.is_empty());
    outbox.rollback(blocker).await;
    marking.await.expect("it ends").expect("the mark is made");
}

/// A number is given to the next process once its first is gone, and that one may be a writer.
#[tokio::test]
async fn a_writer_with_the_number_of_a_marker_that_is_gone_is_named() {
    let Some(outbox) = Outbox::open(default_table()).await else { return };
    let source = outbox.source();
    fetch(&source, everything()).await;
    let connected = "datname = current_database() and application_name = 'outbox-relay/test'";
    let mut admin = outbox.database.connect().await;
    let reader = format!("select pid from pg_stat_activity where {connected}");
    let reader: i32 =
        sqlx::query_scalar(AssertSqlSafe(reader)).fetch_one(&mut admin).await.expect("the reader is there");
    source.settle(Vec::new()).await.expect("the marker is connected");
    let marker = format!("select pid from pg_stat_activity where {connected} and pid <> {reader}");
    let marker: i32 =
        sqlx::query_scalar(AssertSqlSafe(marker)).fetch_one(&mut admin).await.expect("so is the marker");
    execute(&mut admin, &format!("select pg_terminate_backend({marker}, 10000)")).await;

    let mut writer = outbox.begin().await;
    outbox.insert(&mut writer, &[row("a", "1")]).await;
    // Nobody chooses the numbers of processes, so the view says what it would.
    execute(
        &mut admin,
        &format!(
            "set allow_system_table_mods = on; alter view pg_catalog.pg_locks rename to pg_locks_as_they_are;
            create view pg_catalog.pg_locks as
            select locktype, mode, granted, database, relation, virtualtransaction, {marker} as pid
            from pg_catalog.pg_locks_as_they_are;
            grant select on pg_catalog.pg_locks to public"
        ),
    )
    .await;
    assert_eq!(fetch(&source, everything()).await.writers.len(), 1);
    outbox.rollback(writer).await;
}

#[tokio::test]
async fn a_relay_that_lost_its_lease_keeps_one_connection() {
    let Some(outbox) = Outbox::open(default_table()).await else { return };
    let (first, second) = (outbox.source(), outbox.source());
    first.lease().await.expect("the lease can be asked for").epoch().expect("and is free");
    fetch(&first, everything()).await;
    first.settle(Vec::new()).await.expect("the marker is connected");
    first.listen().await.expect("and the listener");
    let connected = |count: usize| {
        format!(
            "select count(*) = {count} from pg_stat_activity
            where datname = current_database() and application_name = 'outbox-relay/test'"
        )
    };
    outbox.until(&connected(4)).await;
    outbox.expire_lease().await;
    second.lease().await.expect("the lease can be asked for").epoch().expect("and has expired");
    assert_eq!(first.lease().await.expect("it can be asked for").epoch(), None);
    outbox.until(&connected(2)).await;
}

impl Outbox {
    /// Every mark waits for the row locks of this transaction, which takes no lock that an insert takes.
    pub(super) async fn blocked(&self) -> PgConnection {
        let mut blocker = self.begin().await;
        execute(&mut blocker, "select id from outbox.message where delivered_at is null for key share").await;
        execute(&mut blocker, "select id from outbox.message where delivered_at is null for share").await;
        blocker
    }

    pub(super) async fn until_blocked(&self) {
        let waiting = "select exists (select 1 from pg_stat_activity
            where wait_event_type = 'Lock' and datname = current_database())";
        self.until(waiting).await;
    }

    /// Waits until a query says true.
    pub(super) async fn until(&self, condition: &str) {
        let mut admin = self.database.connect().await;
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let query = sqlx::query_scalar(AssertSqlSafe(condition.to_owned()));
            if query.fetch_one(&mut admin).await.expect("the condition can be asked for") {
                return;
            }
            assert!(Instant::now() < deadline, "still not so: {condition}");
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn rows_hidden_by_row_security_are_refused_not_overlooked() {
    let Some(mut outbox) = Outbox::open(default_table()).await else { return };
    let all = "grant usage on schema outbox to R; grant select, update on outbox.message to R";
    let role = outbox.as_role(all).await;
    outbox.run("alter table outbox.message enable row level security").await;
    let error = misfit(&outbox).await;
    assert!(error.message.contains("row security"), "{error}");
    outbox.drop_role(&role).await;
}

#[tokio::test]
async fn a_missing_grant_is_said_with_the_sql_that_gives_it() {
    let Some(mut outbox) = Outbox::open(default_table()).await else { return };
    let role = outbox.as_role("grant usage on schema outbox to R").await;
    for expected in
        ["grant select on outbox.message to", "grant update (\"delivered_at\") on outbox.message to"]
    {
        let error = misfit(&outbox).await;
        assert!(hint(&error).contains(expected), "{}", hint(&error));
        let sql = hint(&error).split(" --").next().expect("there is SQL before the comment").to_owned();
        outbox.run(&sql).await;
    }
    let lease = outbox.source().lease().await.expect_err("the lease is not ours to use");
    let error = misfit(&outbox).await;
    assert_eq!(hint(&error), hint(&lease), "one grant for all of our own tables");
    let (_, sql) = hint(&error).split_once(": ").expect("there is SQL after who is to run it");
    outbox.run(sql).await;
    fetch(&outbox.source(), everything()).await;
    outbox.source().lease().await.expect("the lease can be asked for").epoch().expect("and is free");
    outbox.drop_role(&role).await;
}

#[tokio::test]
async fn rows_that_are_deleted_want_the_grant_that_passes_over_locked_ones() {
    let Some(mut outbox) = Outbox::open(default_table()).await else { return };
    outbox.settings.outbox.mark = Mark::Delete;
    let all = "grant usage on schema outbox to R; grant select, delete on outbox.message to R";
    let role = outbox.as_role(&format!("{all}; {STATE_GRANTS}")).await;
    let error = misfit(&outbox).await;
    assert!(hint(&error).contains("grant update (\"id\") on outbox.message to"), "{}", hint(&error));
    outbox.run(hint(&error)).await;
    fetch(&outbox.source(), everything()).await;
    outbox.drop_role(&role).await;
}

#[tokio::test]
async fn a_grant_taken_away_while_running_is_not_taken_for_bad_rows() {
    let Some(mut outbox) = Outbox::open(default_table()).await else { return };
    insert(&outbox, &[row("a", "1"), row("a", "2")]).await;
    let all = "grant usage on schema outbox to R; grant select, update on outbox.message to R";
    let role = outbox.as_role(&format!("{all}; {STATE_GRANTS}")).await;
    let source = outbox.source();
    let batch = fetch(&source, everything()).await;
    source.settle(Vec::new()).await.expect("the marker is connected");
    outbox.run(&format!("revoke update on outbox.message from {role}")).await;
    let error = source.settle(delivered(&batch.messages)).await.expect_err("no row can be marked");
    assert!(hint(&error).contains("grant update"), "{error}");
    outbox.drop_role(&role).await;
}

#[tokio::test]
async fn a_misspelt_name_is_answered_with_the_nearest() {
    let Some(mut outbox) = Outbox::open(default_table()).await else { return };
    outbox.settings.outbox.columns.payload = column("paylod");
    let error = misfit(&outbox).await;
    assert!(hint(&error).contains("\"payload\""), "{}", hint(&error));
    outbox.settings.outbox.table.table = "mesage".to_owned();
    let error = misfit(&outbox).await;
    assert!(hint(&error).contains("\"outbox.message\""), "{}", hint(&error));
}

#[tokio::test]
async fn a_column_of_the_wrong_type_is_refused() {
    let Some(mut outbox) = Outbox::open(default_table()).await else { return };
    outbox.settings.outbox.columns.created_at = Some(column("kind"));
    let error = misfit(&outbox).await;
    assert!(error.message.contains("is text, not timestamp"), "{error}");
}

#[tokio::test]
async fn a_status_that_the_column_cannot_hold_is_refused_before_any_row() {
    let Some(mut outbox) = Outbox::open(text_id()).await else { return };
    let column = column("state");
    let (pending, delivered) = ("pending".to_owned(), "snet".to_owned());
    outbox.settings.outbox.mark = Mark::Update(MarkColumn::Status { column, pending, delivered });
    let error = misfit(&outbox).await;
    assert!(error.message.contains("snet"), "{error}");
}

#[tokio::test]
async fn a_sequence_that_hands_out_many_values_is_refused() {
    let Some(outbox) = Outbox::open(text_id()).await else { return };
    outbox.run("alter sequence positions cache 20").await;
    let error = misfit(&outbox).await;
    assert_eq!(hint(&error), "alter sequence public.positions cache 1");
    outbox.run(hint(&error)).await;
    fetch(&outbox.source(), everything()).await;
}

/// Positions that the application makes up prove nothing about who may still show a lower one.
#[tokio::test]
async fn an_order_without_a_sequence_is_refused_for_key_order_and_ignored_without() {
    let Some(mut outbox) = Outbox::open(text_id()).await else { return };
    outbox.run("alter table notes alter seq drop default; insert into notes (seq, payload) values (2, 'b'), (1, 'a')").await;
    let error = misfit(&outbox).await;
    assert!(hint(&error).contains("generated always as identity"), "{}", hint(&error));
    outbox.settings.ordering = Ordering::None;
    let batch = fetch(&outbox.source(), everything()).await;
    assert_eq!((batch.messages.len(), batch.highest), (2, None));
    assert_eq!(outbox.source().backlog().await.expect("it can be measured").pending_rows, 2);
}

#[tokio::test]
async fn an_altered_table_is_read_again_after_one_failure_at_most() {
    let Some(outbox) = Outbox::open(quoted_names()).await else { return };
    insert(&outbox, &[row("a", "1")]).await;
    let source = outbox.source();
    let batch = fetch(&source, everything()).await;
    let table = &outbox.table;
    for change in [
        format!("alter table {table} add column more text default 'x'"),
        format!("alter table {table} alter \"Payload\" type varchar(100)"),
        format!("alter table {table} alter \"Id\" type bigint"),
    ] {
        outbox.run(&change).await;
        if source.fetch(everything()).await.is_err() {
            assert_eq!(fetch(&source, everything()).await.messages, batch.messages, "after {change}");
        }
    }
    outbox.run(&format!("alter table {table} rename column \"Payload\" to body")).await;
    let error = source.fetch(everything()).await.expect_err("the column is gone");
    assert_eq!(error.kind, SourceErrorKind::Unfit);
    outbox.run(&format!("alter table {table} rename column body to \"Payload\"")).await;
    assert_eq!(fetch(&source, everything()).await.messages, batch.messages);
    assert_eq!(source.settle(delivered(&batch.messages)).await.expect("it can be marked").done.len(), 1);
}

#[tokio::test]
async fn a_connection_that_was_cut_is_made_again() {
    let Some(outbox) = Outbox::open(default_table()).await else { return };
    let source = outbox.source();
    let epoch = source.lease().await.expect("the lease is free");
    fetch(&source, everything()).await;
    outbox
        .run(
            "select pg_terminate_backend(pid) from pg_stat_activity
        where application_name = 'outbox-relay/test' and datname = current_database()",
        )
        .await;
    let error = source.fetch(everything()).await.expect_err("the connection is gone");
    assert_eq!(error.kind, SourceErrorKind::Unavailable);
    fetch(&source, everything()).await;
    source.lease().await.expect_err("this one as well");
    assert_eq!(
        source.lease().await.expect("and made again"),
        epoch,
        "the lease is the process's, not the connection's"
    );
}

#[tokio::test]
async fn two_who_take_the_lease_at_once_do_not_both_get_it() {
    let Some(outbox) = Outbox::open(default_table()).await else { return };
    let sources: Vec<_> = (0..6).map(|_| outbox.source()).collect();
    for _ in 0..10 {
        let taken = futures_util::future::join_all(sources.iter().map(Source::lease)).await;
        let epochs: Vec<_> =
            taken.into_iter().filter_map(|lease| lease.expect("it can be asked for").epoch()).collect();
        assert_eq!(epochs.len(), 1, "{epochs:?}");
        outbox.expire_lease().await;
    }
}

/// A row committed asynchronously is visible before it is durable; the server may hold it back for long.
#[tokio::test]
async fn rows_are_flushed_before_they_are_returned() {
    let Some(outbox) = Outbox::open(default_table()).await else { return };
    let source = outbox.source();
    fetch(&source, everything()).await;
    let mut writer = outbox.database.connect().await;
    execute(&mut writer, "set synchronous_commit = off").await;
    let mut after = everything().after;
    for n in 0..200 {
        outbox.insert(&mut writer, &[row("a", &n.to_string())]).await;
        let written: String = sqlx::query_scalar("select pg_current_wal_insert_lsn()::text")
            .fetch_one(&mut writer)
            .await
            .expect("the position can be asked for");
        let batch = fetch(&source, Fetch { after, ..everything() }).await;
        assert_eq!(batch.messages.len(), 1);
        after = batch.messages[0].row.position;
        let flushed: bool = sqlx::query_scalar("select pg_current_wal_flush_lsn() >= $1::text::pg_lsn")
            .bind(&written)
            .fetch_one(&mut writer)
            .await
            .expect("the position can be asked for");
        assert!(flushed, "row {n} was returned while a crash could still take it back");
    }
}

#[tokio::test]
async fn every_type_is_published_as_its_own_text() {
    let Some(mut outbox) = Outbox::open(uuid_and_bytes()).await else { return };
    let columns = [
        ("yes", "bool", "true", "t"),
        ("address", "inet", "'10.0.0.1'", "10.0.0.1"),
        ("padded", "char(4)", "'ab'", "ab  "),
        ("amount", "numeric(10,2)", "1.5", "1.50"),
        ("at", "timestamptz", "'2026-01-02 03:04:05.5+01'", "2026-01-02 02:04:05.5+00"),
        ("span", "interval", "'1 day 2 hours'", "1 day 02:00:00"),
        ("ratio", "float8", "0.1", "0.1"),
        ("doc", "jsonb", "'{\"b\": 1,\"a\":2}'", "{\"a\": 2, \"b\": 1}"),
        ("raw", "json", "'{\"b\":  1}'", "{\"b\":  1}"),
        ("list", "text[]", "array['a', null, 'b c']", "{a,NULL,\"b c\"}"),
        ("bits", "bytea", "'\\x00ff'", "\u{0}ÿ"),
        ("none", "int", "null", ""),
    ];
    for (name, kind, value, _) in columns {
        outbox.run(&format!("alter table outbox_events add column {name} {kind} default {value}")).await;
        outbox.settings.outbox.columns.to_headers.insert(name.to_owned(), column(name));
    }
    outbox.run("insert into outbox_events (payload) values ('\\x00ff10')").await;
    let batch = fetch(&outbox.source(), everything()).await;
    let message = &batch.messages[0];
    assert_eq!(message.payload, Payload::Stored(bytes::Bytes::from_static(&[0, 255, 16])));
    for (name, _, _, expected) in columns {
        let Header { value, .. } = message.headers.iter().find(|h| &*h.name == name).expect("it is mapped");
        let expected: Option<Vec<u8>> = match name {
            "none" => None,
            "bits" => Some(vec![0, 255]),
            _ => Some(expected.into()),
        };
        assert_eq!(value.as_deref(), expected.as_deref(), "{name}");
    }
}

#[tokio::test]
async fn headers_keep_their_order_values_and_nulls() {
    let Some(outbox) = Outbox::open(default_table()).await else { return };
    outbox
        .run(
            r#"alter table outbox.message drop constraint message_headers_check, alter headers type json;
        insert into outbox.message (kind, headers) values
        ('k', '{"z": "a\"b", "a": null, "n": 1.50, "o": {"x": [1]}, "e": ""}'), ('k', null), ('k', '[1]')"#,
        )
        .await;
    let batch = fetch(&outbox.source(), everything()).await;
    let read: Vec<_> = batch.messages[0].headers.iter().map(|h| (&*h.name, h.value.as_deref())).collect();
    let expected: [(&str, Option<&[u8]>); 5] = [
        ("z", Some(b"a\"b")),
        ("a", None),
        ("n", Some(b"1.50")),
        ("o", Some(br#"{"x": [1]}"#)),
        ("e", Some(b"")),
    ];
    assert_eq!(read, expected);
    assert!(batch.messages[1].headers.is_empty() && batch.messages[1].malformed.is_none());
    assert!(batch.messages[2].malformed.is_some(), "a list is no headers, and no reason to lose the row");
}

#[tokio::test]
async fn header_arrays_of_different_lengths_are_malformed() {
    let Some(outbox) = Outbox::open(quoted_names()).await else { return };
    let sql = r#"insert into "App's"."Out""Box{id}" ("Names", "select") values
        (array['a', 'b'], array['1', null]), (array['a'], array['1', '2']), (null, null), (array[null], array['x'])"#;
    outbox.run(sql).await;
    let batch = fetch(&outbox.source(), everything()).await;
    let read: Vec<_> = batch.messages[0].headers.iter().map(|h| (&*h.name, h.value.as_deref())).collect();
    assert_eq!(read, [("a", Some(&b"1"[..])), ("b", None)]);
    let malformed: Vec<_> = batch.messages.iter().map(|message| message.malformed.is_some()).collect();
    assert_eq!(malformed, [false, true, false, true]);
}

#[tokio::test]
async fn payloads_that_were_stored_compressed_count_as_what_they_are() {
    let mut shape = default_table();
    shape.outbox.message_bytes_max = 1 << 20;
    let Some(outbox) = Outbox::open(shape).await else { return };
    // Ten times 100 kB, each stored in about 1 kB; and one of 2 MB, stored in about 20.
    let sql = "insert into outbox.message (key, destination, kind, payload)
        select 'a', 'd', 'k', to_json(repeat('x', n)) from unnest(array_fill(100000, array[10]) || 2000000) as n";
    outbox.run(sql).await;
    let source = outbox.source();
    let batch = fetch(&source, Fetch { bytes_max: 150_000, ..everything() }).await;
    assert_eq!((batch.messages.len(), batch.cut), (2, true));
    let batch = fetch(&source, Fetch { bytes_max: 1 << 30, ..everything() }).await;
    let last = batch.messages.last().expect("eleven rows");
    assert_eq!((batch.messages.len(), batch.cut), (11, false));
    assert_eq!(last.payload, Payload::Oversize(2_000_002));
}

#[tokio::test]
async fn a_row_that_somebody_keeps_locked_does_not_keep_the_others_from_being_marked() {
    let Some(outbox) = Outbox::open(default_table()).await else { return };
    insert(&outbox, &[row("a", "1"), row("b", "2"), row("c", "3")]).await;
    let mut holder = outbox.begin().await;
    let lock = sqlx::query("select 1 from outbox.message where id = 2 for update");
    lock.execute(&mut holder).await.expect("nobody else has it");
    let source = outbox.source();
    let batch = fetch(&source, everything()).await;
    let settled = source.settle(delivered(&batch.messages)).await.expect("the others can be marked");
    let [(row, Refusal::Failed(reason))] = &settled.refused[..] else { panic!("{settled:?}") };
    assert!(row.id == RowId::Int(2) && reason.contains("lock"), "{reason}");
    assert_eq!(settled.done.len(), 2);
    outbox.commit(holder).await;
    let settled = source.settle(delivered(&batch.messages)).await.expect("all can be marked");
    assert_eq!((settled.done.len(), settled.refused.len()), (3, 0));
}

#[tokio::test]
async fn a_row_that_a_constraint_refuses_is_named_without_its_values() {
    let Some(outbox) = Outbox::open(default_table()).await else { return };
    insert(&outbox, &[row("a", "1"), row("a", "2")]).await;
    outbox.run("alter table outbox.message add check (delivered_at is null or id <> 1)").await;
    let source = outbox.source();
    let batch = fetch(&source, everything()).await;
    let settled = source.settle(delivered(&batch.messages)).await.expect("the other can be marked");
    let [(_, Refusal::Failed(reason))] = &settled.refused[..] else { panic!("{settled:?}") };
    assert!(reason.contains("23514") && !reason.contains("Failing row"), "{reason}");
}

#[tokio::test]
async fn a_database_that_was_not_migrated_says_so() {
    let Some(outbox) = Outbox::open(default_table()).await else { return };
    outbox.run(&uninstall_sql(&outbox.settings)).await;
    let error = outbox.source().lease().await.expect_err("there is no lease");
    assert!(hint(&error).contains("outbox-relay migrate"), "{error}");
}

#[tokio::test]
async fn migrating_twice_changes_nothing_and_the_script_does_the_same() {
    let Some(outbox) = Outbox::open(default_table()).await else { return };
    assert!(migrate(&outbox.settings).await.expect("it may run again").is_empty());
    let script = print_sql(&outbox.settings);
    let owner = script.split("-- As the owner of both").next().expect("the owner's part comes first");
    outbox.run(owner).await;
    outbox.run(&uninstall_sql(&outbox.settings)).await;
    outbox.run(owner).await;
    assert!(migrate(&outbox.settings).await.expect("the script has done it").is_empty());
    fetch(&outbox.source(), everything()).await;
}

#[tokio::test]
async fn an_unreachable_database_shows_no_password() {
    let Some(mut outbox) = Outbox::open(default_table()).await else { return };
    outbox.settings.database.url = Secret::new("postgres://relay:hunter2@127.0.0.1:1/app");
    let source = outbox.source();
    let error = source.fetch(everything()).await.expect_err("nobody listens there");
    assert_eq!(error.kind, SourceErrorKind::Unavailable);
    assert!(!format!("{error:?} {source:?}").contains("hunter2"));
}
