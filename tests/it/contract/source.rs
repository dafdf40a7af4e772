//! The contract of [`Source`], sentence by sentence, for any source whose outbox a [`Harness`] can
//! play the application on. [`postgres`] runs it over real tables of many shapes and adds what only a
//! database can do.

use std::time::{Duration, Instant};

use outbox_relay::message::{Message, Payload, Position, RowId};
use outbox_relay::sink::Destination;
use outbox_relay::source::{Batch, Epoch, Fetch, Holder, LaneKey, Refusal, Settlement, Skip, Source};

mod postgres;

/// Bytes over which a payload stays in the database, in every harness.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4_096;

/// One outbox and its application. Dropped, nothing of it remains.
pub(crate) trait Harness {
    type Source: Source;
    /// An open transaction of the application.
    type Writer: Send;

    /// Another relay at the same outbox.
    fn source(&self) -> Self::Source;

    async fn begin(&self) -> Self::Writer;
    /// Inserts in the order of positions.
    async fn insert(&self, writer: &mut Self::Writer, rows: &[NewRow]);
    async fn commit(&self, writer: Self::Writer);
    async fn rollback(&self, writer: Self::Writer);

    /// How many rows are pending, as the application sees it.
    async fn pending(&self) -> usize;
    /// From now on the row cannot be marked, and whoever tries is told so.
    async fn refuse_mark(&self, id: &RowId);
    /// From now on marking the row does nothing, and nobody says so.
    async fn swallow_mark(&self, id: &RowId);
    /// Takes the row away, as an application that cleans up might.
    async fn delete(&self, id: &RowId);
    /// For how long a lease is taken.
    fn lease_ttl(&self) -> Duration;
    /// Lets every lease expire.
    async fn expire_lease(&self);
}

/// What the application wants published.
#[derive(Debug, Clone)]
pub(crate) struct NewRow {
    pub(crate) key: Option<String>,
    pub(crate) destination: Option<String>,
    pub(crate) payload: Option<String>,
}

pub(crate) fn row(key: &str, payload: &str) -> NewRow {
    NewRow {
        key: Some(key.to_owned()),
        destination: Some("orders".to_owned()),
        payload: Some(format!("\"{payload}\"")),
    }
}

pub(crate) fn everything() -> Fetch {
    Fetch {
        number: 1,
        epoch: 1,
        after: Position::START,
        exclude: Vec::new(),
        skip: Skip::default(),
        rows_max: 1_000,
        bytes_max: 1 << 20,
    }
}

pub(crate) async fn insert<H: Harness>(outbox: &H, rows: &[NewRow]) {
    let mut writer = outbox.begin().await;
    outbox.insert(&mut writer, rows).await;
    outbox.commit(writer).await;
}

pub(crate) async fn fetch(source: &impl Source, fetch: Fetch) -> Batch {
    source.fetch(fetch).await.expect("the outbox is there")
}

pub(crate) fn payloads(messages: &[Message]) -> Vec<String> {
    messages.iter().map(payload).collect()
}

fn payload(message: &Message) -> String {
    match &message.payload {
        Payload::Null => "NULL".to_owned(),
        Payload::Stored(bytes) => String::from_utf8_lossy(bytes).trim_matches('"').to_owned(),
        Payload::Oversize(size) => format!("oversize {}", *size > 0),
    }
}

pub(crate) fn delivered(messages: &[Message]) -> Vec<Settlement> {
    messages.iter().map(|message| Settlement::Delivered(message.row.clone())).collect()
}

/// Writes a test for each promise over the harness that `$open` makes, if it can be made here.
macro_rules! promises {
    ($open:expr; $($promise:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $promise() {
                let Some(outbox) = $open.await else { return };
                crate::contract::source::$promise(&outbox).await;
            }
        )*
    };
}

macro_rules! source_contract {
    ($open:expr) => {
        crate::contract::source::promises!($open;
            a_free_lease_is_taken_and_renewed_under_one_epoch,
            a_lease_held_by_another_is_not_taken,
            a_lease_held_by_another_is_said_to_expire,
            an_expired_lease_changes_hands_under_a_new_epoch,
            a_lease_given_back_is_free_at_once,
            a_lease_of_another_is_not_given_back,
            pending_rows_come_in_ascending_position,
            rows_at_or_below_after_do_not_come,
            excluded_rows_do_not_come,
            skipped_lanes_and_destinations_do_not_come,
            rows_without_a_key_or_destination_survive_every_skip,
            uncommitted_and_rolled_back_rows_do_not_come,
            a_batch_that_is_not_cut_holds_every_row,
            a_batch_stops_at_its_bytes_and_says_so,
            an_open_writer_is_named_until_it_ends,
            a_lower_position_committed_late_was_announced_by_its_writer,
            a_payload_over_the_limit_stays_behind,
            a_null_payload_is_not_an_empty_one,
            a_settled_row_is_pending_no_more,
            settling_again_is_done_again,
            settling_a_row_that_is_gone_is_done,
            a_row_that_refuses_its_mark_does_not_keep_the_others,
            a_mark_that_vanishes_is_reported,
            the_backlog_counts_what_could_be_fetched,
            an_empty_backlog_has_no_oldest_row,
            whoever_begins_to_listen_is_told_at_once,
            a_commit_wakes_whoever_listens,
        );
    };
}

pub(crate) use {promises, source_contract};

/// The epoch under which `source` holds the lease now, if it does.
async fn lease(source: &impl Source) -> Option<Epoch> {
    source.lease().await.expect("the lease can be asked for").epoch()
}

pub(crate) async fn a_free_lease_is_taken_and_renewed_under_one_epoch<H: Harness>(outbox: &H) {
    let source = outbox.source();
    let first = lease(&source).await;
    assert!(first.is_some());
    assert_eq!(lease(&source).await, first);
}

pub(crate) async fn a_lease_held_by_another_is_not_taken<H: Harness>(outbox: &H) {
    let (holder, standby) = (outbox.source(), outbox.source());
    lease(&holder).await.expect("the lease is free");
    assert_eq!(lease(&standby).await, None);
}

pub(crate) async fn a_lease_held_by_another_is_said_to_expire<H: Harness>(outbox: &H) {
    let (holder, standby) = (outbox.source(), outbox.source());
    let asked = Instant::now();
    lease(&holder).await.expect("the lease is free");
    let answer = standby.lease().await.expect("the lease can be asked for");
    let Holder::Other { expires_in } = answer else { panic!("it is held") };
    // The clocks of the source and of this test need not agree, but run at the same speed.
    let elapsed = asked.elapsed();
    assert!(expires_in <= outbox.lease_ttl(), "{expires_in:?}");
    assert!(expires_in + elapsed >= outbox.lease_ttl(), "{expires_in:?} after {elapsed:?}");
}

pub(crate) async fn an_expired_lease_changes_hands_under_a_new_epoch<H: Harness>(outbox: &H) {
    let (stalled, standby) = (outbox.source(), outbox.source());
    let before = lease(&stalled).await.expect("the lease is free");
    outbox.expire_lease().await;
    let after = lease(&standby).await.expect("the lease has expired");
    assert!(after > before, "{after} follows {before}");
    assert_eq!(lease(&stalled).await, None);
}

pub(crate) async fn a_lease_given_back_is_free_at_once<H: Harness>(outbox: &H) {
    let (leaving, standby) = (outbox.source(), outbox.source());
    let before = lease(&leaving).await.expect("the lease is free");
    leaving.release().await.expect("the lease is given back");
    let after = lease(&standby).await.expect("the lease is free");
    assert!(after > before, "{after} follows {before}");
}

pub(crate) async fn a_lease_of_another_is_not_given_back<H: Harness>(outbox: &H) {
    let (holder, other) = (outbox.source(), outbox.source());
    let epoch = lease(&holder).await;
    other.release().await.expect("there is nothing to give back");
    assert_eq!(lease(&holder).await, epoch);
}

pub(crate) async fn pending_rows_come_in_ascending_position<H: Harness>(outbox: &H) {
    insert(outbox, &[row("a", "1"), row("b", "2"), row("a", "3")]).await;
    let batch = fetch(&outbox.source(), everything()).await;
    assert_eq!(payloads(&batch.messages), ["1", "2", "3"]);
    assert!(batch.messages.windows(2).all(|pair| pair[0].row.position < pair[1].row.position));
    assert_eq!(batch.messages[0].key.as_deref(), Some(&b"a"[..]));
    assert_eq!(batch.highest, Some(batch.messages[2].row.position));
    assert!(!batch.cut);
}

pub(crate) async fn rows_at_or_below_after_do_not_come<H: Harness>(outbox: &H) {
    insert(outbox, &[row("a", "1"), row("a", "2")]).await;
    let source = outbox.source();
    let first = fetch(&source, everything()).await.messages[0].row.position;
    let rest = fetch(&source, Fetch { after: first, ..everything() }).await;
    assert_eq!(payloads(&rest.messages), ["2"]);
    let again = fetch(&source, Fetch { after: first.before(), ..everything() }).await;
    assert_eq!(payloads(&again.messages), ["1", "2"]);
}

pub(crate) async fn excluded_rows_do_not_come<H: Harness>(outbox: &H) {
    insert(outbox, &[row("a", "1"), row("a", "2"), row("a", "3")]).await;
    let source = outbox.source();
    let batch = fetch(&source, everything()).await;
    let exclude = vec![batch.messages[0].row.id.clone(), batch.messages[2].row.id.clone()];
    let rest = fetch(&source, Fetch { exclude, ..everything() }).await;
    assert_eq!(payloads(&rest.messages), ["2"]);
    assert_eq!(rest.highest, batch.highest, "rows left out are still visible");
}

pub(crate) async fn skipped_lanes_and_destinations_do_not_come<H: Harness>(outbox: &H) {
    let elsewhere = NewRow { destination: Some("bills".to_owned()), ..row("a", "2") };
    insert(outbox, &[row("a", "1"), elsewhere, row("b", "3")]).await;
    let source = outbox.source();
    let lane = LaneKey { scope: Some(Destination::Topic("orders".into())), key: "a".into() };
    let skip = Skip { lanes: vec![lane], scopes: Vec::new() };
    let batch = fetch(&source, Fetch { skip, ..everything() }).await;
    assert_eq!(payloads(&batch.messages), ["2", "3"], "a lane is one key of one destination");
    let skip = Skip { lanes: Vec::new(), scopes: vec![Destination::Topic("orders".into())] };
    let batch = fetch(&source, Fetch { skip, ..everything() }).await;
    assert_eq!(payloads(&batch.messages), ["2"]);
}

pub(crate) async fn rows_without_a_key_or_destination_survive_every_skip<H: Harness>(outbox: &H) {
    let keyless = NewRow { key: None, ..row("", "1") };
    let aimless = NewRow { destination: None, ..row("a", "2") };
    let nothing = NewRow { key: None, destination: None, ..row("", "3") };
    insert(outbox, &[keyless, aimless, nothing, row("a", "4")]).await;
    let source = outbox.source();
    let orders = Destination::Topic("orders".into());
    let lanes = vec![LaneKey { scope: Some(orders.clone()), key: "a".into() }];
    let skip = Skip { lanes, scopes: vec![Destination::Topic("other".into())] };
    let batch = fetch(&source, Fetch { skip, ..everything() }).await;
    assert_eq!(payloads(&batch.messages), ["1", "2", "3"]);
    let lanes = vec![LaneKey { scope: None, key: "a".into() }];
    let skip = Skip { lanes, scopes: vec![orders] };
    let batch = fetch(&source, Fetch { skip, ..everything() }).await;
    assert_eq!(payloads(&batch.messages), ["3"], "the lane without a destination is one like any other");
}

pub(crate) async fn uncommitted_and_rolled_back_rows_do_not_come<H: Harness>(outbox: &H) {
    let (mut open, mut failed) = (outbox.begin().await, outbox.begin().await);
    outbox.insert(&mut open, &[row("a", "open")]).await;
    outbox.insert(&mut failed, &[row("a", "failed")]).await;
    outbox.rollback(failed).await;
    assert!(fetch(&outbox.source(), everything()).await.messages.is_empty());
    outbox.commit(open).await;
    assert_eq!(payloads(&fetch(&outbox.source(), everything()).await.messages), ["open"]);
}

pub(crate) async fn a_batch_that_is_not_cut_holds_every_row<H: Harness>(outbox: &H) {
    insert(outbox, &[row("a", "1"), row("a", "2"), row("a", "3")]).await;
    let source = outbox.source();
    let cut = fetch(&source, Fetch { rows_max: 2, ..everything() }).await;
    assert_eq!((payloads(&cut.messages), cut.cut), (vec!["1".to_owned(), "2".to_owned()], true));
    let whole = fetch(&source, Fetch { rows_max: 4, ..everything() }).await;
    assert_eq!((whole.messages.len(), whole.cut), (3, false));
}

pub(crate) async fn a_batch_stops_at_its_bytes_and_says_so<H: Harness>(outbox: &H) {
    let long = "x".repeat(1_000);
    insert(outbox, &[row("a", &long), row("a", &long), row("a", &long), row("a", &long)]).await;
    let source = outbox.source();
    let batch = fetch(&source, Fetch { bytes_max: 1_500, ..everything() }).await;
    assert_eq!((batch.messages.len(), batch.cut), (2, true));
    let batch = fetch(&source, Fetch { bytes_max: 1, ..everything() }).await;
    assert_eq!((batch.messages.len(), batch.cut), (1, true), "one row may go over the budget");
}

pub(crate) async fn an_open_writer_is_named_until_it_ends<H: Harness>(outbox: &H) {
    let source = outbox.source();
    let mut writer = outbox.begin().await;
    outbox.insert(&mut writer, &[row("a", "1")]).await;
    let named = fetch(&source, everything()).await.writers;
    assert_eq!(named.len(), 1);
    assert_eq!(fetch(&source, everything()).await.writers, named, "the same transaction, the same name");
    outbox.commit(writer).await;
    assert!(fetch(&source, everything()).await.writers.is_empty());
}

pub(crate) async fn a_lower_position_committed_late_was_announced_by_its_writer<H: Harness>(outbox: &H) {
    let source = outbox.source();
    let mut slow = outbox.begin().await;
    outbox.insert(&mut slow, &[row("a", "lower")]).await;
    insert(outbox, &[row("b", "higher")]).await;
    let early = fetch(&source, everything()).await;
    assert_eq!(payloads(&early.messages), ["higher"]);
    assert_eq!(early.writers.len(), 1, "who paged past the higher one would lose the lower one");
    outbox.commit(slow).await;
    let late = fetch(&source, everything()).await;
    assert_eq!(payloads(&late.messages), ["lower", "higher"]);
    assert_eq!(late.highest, early.highest);
}

pub(crate) async fn a_payload_over_the_limit_stays_behind<H: Harness>(outbox: &H) {
    let huge = "x".repeat(MESSAGE_BYTES_MAX);
    insert(outbox, &[row("a", &huge), row("a", "small")]).await;
    let batch = fetch(&outbox.source(), everything()).await;
    assert_eq!(payloads(&batch.messages), ["oversize true", "small"]);
}

pub(crate) async fn a_null_payload_is_not_an_empty_one<H: Harness>(outbox: &H) {
    insert(outbox, &[NewRow { payload: None, ..row("a", "") }, row("a", "")]).await;
    let batch = fetch(&outbox.source(), everything()).await;
    assert_eq!(payloads(&batch.messages), ["NULL", ""]);
}

pub(crate) async fn a_settled_row_is_pending_no_more<H: Harness>(outbox: &H) {
    insert(outbox, &[row("a", "1"), row("a", "2")]).await;
    let source = outbox.source();
    let batch = fetch(&source, everything()).await;
    let settled = source.settle(delivered(&batch.messages[..1])).await.expect("the row can be marked");
    assert_eq!((settled.done, settled.refused), (vec![batch.messages[0].row.clone()], Vec::new()));
    assert_eq!(outbox.pending().await, 1);
    assert_eq!(payloads(&fetch(&source, everything()).await.messages), ["2"]);
}

pub(crate) async fn settling_again_is_done_again<H: Harness>(outbox: &H) {
    insert(outbox, &[row("a", "1"), row("a", "2")]).await;
    let source = outbox.source();
    let batch = fetch(&source, everything()).await;
    source.settle(delivered(&batch.messages[..1])).await.expect("the row can be marked");
    let settled = source.settle(delivered(&batch.messages)).await.expect("and once more");
    assert_eq!((settled.done.len(), settled.refused.len()), (2, 0));
}

pub(crate) async fn settling_a_row_that_is_gone_is_done<H: Harness>(outbox: &H) {
    insert(outbox, &[row("a", "1"), row("a", "2")]).await;
    let source = outbox.source();
    let batch = fetch(&source, everything()).await;
    outbox.delete(&batch.messages[0].row.id).await;
    let settled = source.settle(delivered(&batch.messages)).await.expect("what is left can be marked");
    assert_eq!((settled.done.len(), settled.refused.len()), (2, 0));
}

pub(crate) async fn a_row_that_refuses_its_mark_does_not_keep_the_others<H: Harness>(outbox: &H) {
    let rows: Vec<_> = (0..9).map(|n| row("a", &n.to_string())).collect();
    insert(outbox, &rows).await;
    let source = outbox.source();
    let batch = fetch(&source, everything()).await;
    let poisoned = batch.messages[5].row.clone();
    outbox.refuse_mark(&poisoned.id).await;
    let settled = source.settle(delivered(&batch.messages)).await.expect("the others can be marked");
    assert_eq!(settled.done.len(), 8);
    assert!(matches!(&settled.refused[..], [(row, Refusal::Failed(_))] if *row == poisoned));
    assert_eq!(outbox.pending().await, 1);
}

pub(crate) async fn a_mark_that_vanishes_is_reported<H: Harness>(outbox: &H) {
    insert(outbox, &[row("a", "1"), row("a", "2")]).await;
    let source = outbox.source();
    let batch = fetch(&source, everything()).await;
    outbox.swallow_mark(&batch.messages[0].row.id).await;
    let settled = source.settle(delivered(&batch.messages)).await.expect("the statement succeeds");
    assert_eq!(settled.done, [batch.messages[1].row.clone()]);
    assert!(matches!(&settled.refused[..], [(_, Refusal::Vanished(_))]));
}

pub(crate) async fn the_backlog_counts_what_could_be_fetched<H: Harness>(outbox: &H) {
    insert(outbox, &[row("a", "1"), row("a", "2"), row("a", "3")]).await;
    let source = outbox.source();
    let batch = fetch(&source, everything()).await;
    source.settle(delivered(&batch.messages[..1])).await.expect("the row can be marked");
    let backlog = source.backlog().await.expect("the backlog can be measured");
    assert_eq!((backlog.pending_rows, backlog.limited()), (2, false));
    assert!(backlog.oldest.expect("rows are pending") <= backlog.measured_at);
}

pub(crate) async fn an_empty_backlog_has_no_oldest_row<H: Harness>(outbox: &H) {
    let backlog = outbox.source().backlog().await.expect("the backlog can be measured");
    assert_eq!((backlog.pending_rows, backlog.oldest), (0, None));
}

pub(crate) async fn whoever_begins_to_listen_is_told_at_once<H: Harness>(outbox: &H) {
    // Rows may have come before it listened, and nobody will notify it of those.
    outbox.source().listen().await.expect("it can listen");
}

pub(crate) async fn a_commit_wakes_whoever_listens<H: Harness>(outbox: &H) {
    let source = outbox.source();
    source.listen().await.expect("it can listen");
    insert(outbox, &[row("a", "1")]).await;
    source.listen().await.expect("it is told");
    assert_eq!(payloads(&fetch(&source, everything()).await.messages), ["1"]);
}
