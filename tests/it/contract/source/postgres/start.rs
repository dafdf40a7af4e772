//! Where a pipeline begins at a table that was there before it.

use outbox_relay::config::{Mark, MarkColumn, Ordering, Start};
use outbox_relay::source::{Source, SourceErrorKind};

use super::super::{delivered, everything, fetch, insert, payloads, row};
use super::hazards::{hint, misfit};
use super::shapes::{default_table, text_id};
use super::{Harness, Outbox, column};

impl Outbox {
    /// An outbox that nobody said anything about, with `rows` of two hours ago in it.
    async fn with_history(rows: usize) -> Option<Self> {
        let mut outbox = Self::open(default_table()).await?;
        outbox.settings.outbox.start = None;
        outbox.old_rows(1, rows).await;
        Some(outbox)
    }

    async fn old_rows(&self, from: usize, to: usize) {
        self.run(&format!(
            "insert into outbox.message (key, destination, kind, payload, created_at)
            select 'a', 'orders', 'k', to_json(n::text), clock_timestamp() - interval '2 hours'
            from generate_series({from}, {to}) as n"
        ))
        .await;
    }

    async fn now(&self) -> Vec<String> {
        payloads(&fetch(&self.source(), everything()).await.messages)
    }
}

#[tokio::test]
async fn history_is_held_back_until_someone_says_where_to_begin() {
    let Some(mut outbox) = Outbox::with_history(3).await else { return };
    let error = misfit(&outbox).await;
    assert!(error.message.contains("3 pending rows, the oldest from 20"), "{error}");
    for answer in ["outbox.start", "\"all\"", "\"now\"", "\"after:3\""] {
        assert!(hint(&error).contains(answer), "{answer}: {}", hint(&error));
    }
    let measured = outbox.source().backlog().await.expect_err("what is ours is not known yet");
    assert_eq!(measured.kind, SourceErrorKind::Unfit);

    outbox.settings.outbox.start = Some(Start::All);
    assert_eq!(outbox.now().await, ["1", "2", "3"]);
    outbox.settings.outbox.start = None;
    assert_eq!(outbox.now().await, ["1", "2", "3"], "it is asked once");
}

#[tokio::test]
async fn an_empty_table_and_young_rows_need_no_answer_and_none_is_asked_for_later() {
    for young in [0, 2] {
        let Some(outbox) = Outbox::with_history(0).await else { return };
        insert(&outbox, &vec![row("a", "young"); young]).await;
        assert_eq!(outbox.now().await.len(), young);
        outbox.old_rows(1, 3).await;
        assert_eq!(outbox.now().await.len(), young + 3, "a backlog is not history");
    }
}

#[tokio::test]
async fn rows_of_no_known_age_are_history() {
    let Some(mut outbox) = Outbox::with_history(0).await else { return };
    outbox.settings.outbox.columns.created_at = None;
    insert(&outbox, &[row("a", "1")]).await;
    let error = misfit(&outbox).await;
    assert!(error.message.contains("nothing says how old"), "{error}");
}

#[tokio::test]
async fn now_leaves_what_was_pending_at_the_first_look_of_all_and_lag_does_not_count_it() {
    let Some(mut outbox) = Outbox::with_history(3).await else { return };
    misfit(&outbox).await;
    // Written while the answer was thought over.
    insert(&outbox, &[row("a", "4"), row("b", "5")]).await;
    outbox.settings.outbox.start = Some(Start::Now);
    let source = outbox.source();
    let batch = fetch(&source, everything()).await;
    assert_eq!(payloads(&batch.messages), ["4", "5"]);
    assert_eq!(source.backlog().await.expect("it can be measured").pending_rows, 2);

    let settled = source.settle(delivered(&batch.messages)).await.expect("they can be marked");
    assert_eq!((settled.done.len(), outbox.pending().await), (2, 3));
    let backlog = source.backlog().await.expect("it can be measured");
    assert_eq!((backlog.pending_rows, backlog.oldest), (0, None));
}

#[tokio::test]
async fn a_row_below_the_beginning_is_never_marked() {
    let Some(mut outbox) = Outbox::with_history(1).await else { return };
    let mut all = outbox.settings.clone();
    all.pipeline.name = "other".to_owned();
    all.outbox.start = Some(Start::All);
    let all = outbox_relay::source::poll::Poll::new(all).expect("the url can be read");
    let rows = delivered(&fetch(&all, everything()).await.messages);
    outbox.settings.outbox.start = Some(Start::Now);
    let settled = outbox.source().settle(rows).await.expect("nothing keeps it");
    assert_eq!((settled.done.len(), settled.refused.len(), outbox.pending().await), (1, 0, 1));
}

#[tokio::test]
async fn after_a_position_only_higher_ones_are_the_pipelines() {
    let Some(mut outbox) = Outbox::with_history(5).await else { return };
    outbox.settings.outbox.start = Some(Start::After(3));
    assert_eq!(outbox.now().await, ["4", "5"]);
    assert_eq!(outbox.source().backlog().await.expect("it can be measured").pending_rows, 2);
}

#[tokio::test]
async fn a_beginning_that_changed_its_mind_is_told_that_it_has_no_effect() {
    let Some(mut outbox) = Outbox::with_history(3).await else { return };
    outbox.settings.outbox.start = Some(Start::After(2));
    outbox.now().await;
    outbox.settings.outbox.start = Some(Start::All);
    let source = outbox.source();
    let batch = fetch(&source, everything()).await;
    assert_eq!(payloads(&batch.messages), ["3"]);
    let said = |text: &&str| batch.remarks.iter().any(|remark| remark.text.contains(text));
    assert!(said(&"outbox.start = \"all\" has no effect") && said(&"\"after:2\""), "{:?}", batch.remarks);
    assert!(fetch(&source, everything()).await.remarks.is_empty(), "once for each connection");
}

#[tokio::test]
async fn without_an_order_now_is_answered_with_the_statement_that_does_the_same() {
    let Some(mut outbox) = Outbox::open(text_id()).await else { return };
    outbox
        .run("alter table notes alter seq drop default; insert into notes (seq, payload) values (1, 'old')")
        .await;
    outbox.settings.ordering = Ordering::None;
    for start in [Start::Now, Start::After(0)] {
        outbox.settings.outbox.start = Some(start);
        let error = misfit(&outbox).await;
        assert!(error.message.contains("outbox.columns.order"), "{error}");
        assert!(hint(&error).contains("start = \"all\""), "{}", hint(&error));
    }
    let error = misfit(&outbox).await;
    let (_, mark) = hint(&error).rsplit_once(": ").expect("the statement comes last");
    outbox.run(mark).await;
    outbox.settings.outbox.start = Some(Start::All);
    outbox.run("insert into notes (seq, payload) values (2, 'new')").await;
    assert_eq!(outbox.now().await, ["new"]);
}

#[tokio::test]
async fn relays_that_begin_at_once_agree_where() {
    let Some(mut outbox) = Outbox::with_history(3).await else { return };
    let sources: Vec<_> = [Start::All, Start::Now, Start::After(1), Start::After(2)]
        .into_iter()
        .map(|start| {
            outbox.settings.outbox.start = Some(start);
            outbox.source()
        })
        .collect();
    let batches =
        futures_util::future::join_all(sources.iter().map(|source| fetch(source, everything()))).await;
    let read: Vec<_> = batches.iter().map(|batch| payloads(&batch.messages)).collect();
    assert!(read.windows(2).all(|pair| pair[0] == pair[1]), "{read:?}");
}

#[tokio::test]
async fn history_under_another_mark_is_looked_at_again() {
    let Some(mut outbox) = Outbox::with_history(2).await else { return };
    outbox.settings.outbox.start = Some(Start::All);
    let source = outbox.source();
    source.settle(delivered(&fetch(&source, everything()).await.messages)).await.expect("they can be marked");
    outbox.settings.outbox.start = None;
    outbox.run("alter table outbox.message add column sent_at timestamptz").await;
    outbox.settings.outbox.mark = Mark::Update(MarkColumn::Timestamp(column("sent_at")));
    let error = misfit(&outbox).await;
    assert!(error.message.contains("2 pending rows"), "{error}");
}

#[tokio::test]
async fn a_sequence_restarted_below_the_beginning_is_noticed_not_waited_under() {
    let Some(mut outbox) = Outbox::with_history(9).await else { return };
    outbox.settings.outbox.start = Some(Start::Now);
    outbox.now().await;
    outbox.run("truncate outbox.message restart identity").await;
    assert!(outbox.now().await.is_empty());
    insert(&outbox, &[row("a", "1")]).await;
    let error = misfit(&outbox).await;
    assert!(error.message.contains("sequence"), "{error}");
    outbox.settings.outbox.columns.created_at = None;
    let remarks = fetch(&outbox.source(), everything()).await.remarks;
    let said = remarks.iter().any(|remark| remark.text.contains("sequence") && remark.hint.is_some());
    assert!(said, "what has no known age stops nobody: {remarks:?}");
    let (_, mend) = hint(&error).split_once(": ").expect("the statement comes last");
    outbox.run(mend).await;
    assert_eq!(outbox.now().await, ["1"]);
}

#[tokio::test]
async fn history_that_is_cleaned_up_below_the_beginning_disturbs_nobody() {
    let Some(mut outbox) = Outbox::with_history(9).await else { return };
    outbox.settings.outbox.start = Some(Start::Now);
    outbox.now().await;
    outbox.run("delete from outbox.message where id > 5").await;
    assert!(outbox.now().await.is_empty());
    insert(&outbox, &[row("a", "10")]).await;
    assert_eq!(outbox.now().await, ["10"]);
}

#[tokio::test]
async fn a_beginning_above_all_there_is_waits_for_it() {
    let Some(mut outbox) = Outbox::with_history(2).await else { return };
    outbox.settings.outbox.start = Some(Start::After(4));
    assert!(outbox.now().await.is_empty());
    for payload in ["3", "4"] {
        insert(&outbox, &[row("a", payload)]).await;
        assert!(outbox.now().await.is_empty(), "another relay hands over at 4");
    }
    insert(&outbox, &[row("a", "5")]).await;
    assert_eq!(outbox.now().await, ["5"]);
}

#[tokio::test]
async fn a_beginning_is_not_applied_to_another_outbox_it_was_not_written_for() {
    for (start, answer, published) in [
        (Some(Start::Now), "start = 'all'", 4),
        (Some(Start::Now), "start = 'now'", 1),
        (Some(Start::After(4)), "start = 'all'", 4),
        (None, "start = 'all'", 4),
    ] {
        let Some(mut outbox) = Outbox::with_history(1).await else { return };
        outbox.settings.outbox.start = start.or(Some(Start::Now));
        assert!(outbox.now().await.is_empty());
        insert(&outbox, &[row("a", "2"), row("a", "3")]).await;
        outbox.settings.outbox.start = start;
        outbox.run("alter table outbox.message rename column delivered_at to sent_at").await;
        outbox.settings.outbox.mark = Mark::Update(MarkColumn::Timestamp(column("sent_at")));
        let error = misfit(&outbox).await;
        assert!(error.message.contains("3 pending rows"), "{error}");
        // Written while the answer was thought over.
        insert(&outbox, &[row("a", "4")]).await;
        misfit(&outbox).await;
        let update = hint(&error).split(": ").find(|part| part.contains(answer)).expect("it is an answer");
        outbox.run(update.split(';').next().expect("a statement")).await;
        assert_eq!(outbox.now().await.len(), published, "{answer}");
    }
}

#[tokio::test]
async fn all_is_taken_at_its_word_for_another_outbox_too() {
    let Some(mut outbox) = Outbox::with_history(2).await else { return };
    outbox.settings.outbox.start = Some(Start::Now);
    assert!(outbox.now().await.is_empty());
    outbox.run("alter table outbox.message rename column delivered_at to sent_at").await;
    outbox.settings.outbox.mark = Mark::Update(MarkColumn::Timestamp(column("sent_at")));
    outbox.settings.outbox.start = Some(Start::All);
    assert_eq!(outbox.now().await, ["1", "2"]);
}

#[tokio::test]
async fn rows_that_are_left_out_are_said_with_their_number_and_what_publishes_them() {
    let Some(mut outbox) = Outbox::with_history(3).await else { return };
    outbox.settings.outbox.start = Some(Start::Now);
    let remarks = fetch(&outbox.source(), everything()).await.remarks;
    let said = remarks.iter().find(|remark| remark.text.contains("3 pending rows of outbox.message up to 3"));
    let mend = said.and_then(|remark| remark.hint.as_deref()).unwrap_or_else(|| panic!("{remarks:?}"));
    outbox.run(mend.rsplit_once(": ").expect("the statement comes last").1).await;
    assert_eq!(outbox.now().await, ["1", "2", "3"]);
    let remarks = fetch(&outbox.source(), everything()).await.remarks;
    assert!(!remarks.iter().any(|remark| remark.text.contains("left out")), "{remarks:?}");
}

#[tokio::test]
async fn a_sequence_restarted_while_running_is_noticed_and_so_is_its_mending() {
    let renumber = [
        "truncate outbox.message restart identity",
        "delete from outbox.message where id < 8; alter table outbox.message alter id restart",
        "delete from outbox.message where id > 3; alter table outbox.message alter id restart with 4",
    ];
    for sql in renumber {
        let Some(mut outbox) = Outbox::with_history(9).await else { return };
        outbox.settings.outbox.start = Some(Start::Now);
        let source = outbox.source();
        assert!(fetch(&source, everything()).await.messages.is_empty());
        source.settle(Vec::new()).await.expect("the marker is connected");
        assert_eq!(source.backlog().await.expect("it can be measured").pending_rows, 0);
        outbox.run(sql).await;
        insert(&outbox, &[row("b", "new"), row("b", "new")]).await;

        let error = source.backlog().await.expect_err("rows wait unseen");
        assert!(error.message.contains("sequence"), "{error}");
        assert_eq!(source.fetch(everything()).await.expect_err("and still do").kind, SourceErrorKind::Unfit);
        outbox.run(hint(&error).split_once(": ").expect("the statement comes last").1).await;
        let batch = fetch(&source, everything()).await;
        assert_eq!(payloads(&batch.messages).iter().filter(|payload| *payload == "new").count(), 2, "{sql}");
        source.settle(delivered(&batch.messages)).await.expect("they can be marked");
        assert_eq!(outbox.pending().await, 0, "the marker knows of it too");
    }
}

#[tokio::test]
async fn rows_of_no_known_age_that_appear_below_the_beginning_are_said_and_can_be_let_in() {
    let Some(mut outbox) = Outbox::with_history(5).await else { return };
    outbox.settings.outbox.start = Some(Start::Now);
    outbox.settings.outbox.columns.created_at = None;
    let source = outbox.source();
    fetch(&source, everything()).await;
    outbox.run("truncate outbox.message restart identity").await;
    source.backlog().await.expect("it can be measured");
    assert!(fetch(&source, everything()).await.remarks.is_empty(), "history only became less");
    insert(&outbox, &[row("a", "1")]).await;
    source.backlog().await.expect("what has no known age stops nobody");
    let remarks = fetch(&source, everything()).await.remarks;
    let said = remarks.iter().find(|remark| remark.text.contains("sequence"));
    let mend = said.and_then(|remark| remark.hint.as_deref()).unwrap_or_else(|| panic!("{remarks:?}"));
    outbox.run(mend.split_once(": ").expect("the statement comes last").1).await;
    assert_eq!(source.backlog().await.expect("it can be measured").pending_rows, 1);
    assert_eq!(payloads(&fetch(&source, everything()).await.messages), ["1"]);
}

#[tokio::test]
async fn history_written_by_a_clock_that_is_ahead_is_still_history() {
    let Some(mut outbox) = Outbox::with_history(5).await else { return };
    outbox.run("update outbox.message set created_at = clock_timestamp() + interval '3 hours'").await;
    outbox.settings.outbox.start = Some(Start::Now);
    let source = outbox.source();
    assert!(fetch(&source, everything()).await.messages.is_empty());
    assert_eq!(source.backlog().await.expect("it can be measured").pending_rows, 0);
}
