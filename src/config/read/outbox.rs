//! `[outbox]`: the table, what its columns mean, and how a delivered row is told from a pending one.

use std::collections::BTreeMap;
use std::time::Duration;

use config::Value;

use super::ms;
use crate::config::problem::Wrong;
use crate::config::section::{Reader, Section};
use crate::config::value::{bytes, choice, column, count, duration, scalar, table, texts};
use crate::config::{ColumnName, Columns, HeaderColumns, Mark, MarkColumn, Outbox};
use crate::route::{CONTENT_TYPE, CORRELATION_ID, REPLY_TO};

/// librdkafka's own limit on a message.
const MESSAGE_BYTES_MAX: usize = 1_000_000_000;
const FETCH_ROWS_MAX: usize = 100_000;
const POLL_INTERVAL_MAX: Duration = Duration::from_secs(3_600);

/// Keys of `[outbox.columns]`, and the headers that their columns become.
pub(in crate::config) const NAMED_HEADERS: [(&str, &str); 3] =
    [("correlation_id", CORRELATION_ID), ("reply_to", REPLY_TO), ("content_type", CONTENT_TYPE)];

const PRESETS: [(&str, Preset); 3] =
    [("default", Preset::Default), ("debezium", Preset::Debezium), ("none", Preset::None)];

#[derive(Clone, Copy, PartialEq)]
enum Preset {
    Default,
    Debezium,
    None,
}

#[derive(Clone, Copy)]
enum MarkBy {
    Update,
    Delete,
}

#[derive(Clone, Copy, PartialEq)]
enum MarkKind {
    Timestamp,
    Boolean,
    Status,
}

pub(super) fn outbox(reader: &mut Reader) -> Option<Outbox> {
    let mut section = reader.section("outbox");
    let table = section.defaulted("table", table);
    let capture = section.defaulted("capture", choice(&[("poll", ())], &["tail"]));
    let preset = section.optional("preset", choice(&PRESETS, &[]));
    let mark = mark(&mut section, preset.flatten() == Some(Preset::Debezium));
    let poll_interval = section.defaulted("poll_interval", duration(ms(1)..=POLL_INTERVAL_MAX));
    let message_bytes_max = section.defaulted("message_bytes_max", bytes(1..=MESSAGE_BYTES_MAX));
    let fetch_rows_max = section.defaulted("fetch_rows_max", count(1..=FETCH_ROWS_MAX));
    let to_headers = header_columns(&mut section);
    let columns = columns(&mut reader.section("outbox.columns"), to_headers);
    capture.and(preset)?;
    Some(Outbox {
        table: table?,
        columns: columns?,
        // A missing mark was reported, and is no reason to hide what else is wrong.
        mark: mark.unwrap_or(Mark::Delete),
        poll_interval: poll_interval?,
        message_bytes_max: message_bytes_max?,
        fetch_rows_max: fetch_rows_max?,
    })
}

fn columns(section: &mut Section<'_>, to_headers: Option<BTreeMap<String, ColumnName>>) -> Option<Columns> {
    let id = section.required("id", column, "name the column that identifies a row, such as \"id\"");
    let order = section.optional("order", column);
    let key = section.optional("key", column);
    let kind = section.optional("kind", column);
    let destination = section.optional("destination", column);
    let payload = section.required("payload", column, "name the column that holds the message's body");
    let headers = section.optional("headers", headers);
    let created_at = section.optional("created_at", column);
    let to_headers = named_headers(section, to_headers);
    Some(Columns {
        id: id?,
        order: order?,
        key: key?,
        kind: kind?,
        destination: destination?,
        payload: payload?,
        headers: headers?,
        created_at: created_at?,
        to_headers: to_headers?,
    })
}

fn headers(value: &Value) -> Result<HeaderColumns, Wrong> {
    let Some(names) = texts(value) else { return column(value).map(HeaderColumns::Json) };
    let [names, values] = names.as_slice() else {
        let hint = "name one json column, or two array columns: [\"header_names\", \"header_values\"]";
        return Err(Wrong::new(format!("names {} columns", names.len()), hint));
    };
    let column = |name: &str| column(&Value::new(None, name));
    Ok(HeaderColumns::Arrays { names: column(names)?, values: column(values)? })
}

fn header_columns(section: &mut Section<'_>) -> Option<BTreeMap<String, ColumnName>> {
    const KEY: &str = "header_columns";
    let entries = section.open_table(KEY);
    let count = entries.len();
    let mut columns = BTreeMap::new();
    for (header, value) in entries {
        match column(&value) {
            Ok(column) => drop(columns.insert(header, column)),
            Err(wrong) => section.report_entry(KEY, &header, &value, wrong),
        }
    }
    (columns.len() == count).then_some(columns)
}

/// Columns that have a key of their own because brokers have a place of their own for them.
fn named_headers(
    section: &mut Section<'_>,
    to_headers: Option<BTreeMap<String, ColumnName>>,
) -> Option<BTreeMap<String, ColumnName>> {
    let named = NAMED_HEADERS.map(|(key, header)| (key, header, section.optional(key, column)));
    let mut to_headers = to_headers?;
    for (key, header, name) in named {
        let Some(name) = name? else { continue };
        if to_headers.insert(header.to_owned(), name).is_some() {
            let problem = format!("is given besides outbox.header_columns.{header}");
            section.report(key, Wrong::new(problem, "remove one of them: they mean the same"));
        }
    }
    Some(to_headers)
}

fn mark(section: &mut Section<'_>, is_debezium: bool) -> Option<Mark> {
    const MARKS: [(&str, MarkBy); 2] = [("update", MarkBy::Update), ("delete", MarkBy::Delete)];
    const KINDS: [(&str, MarkKind); 3] =
        [("timestamp", MarkKind::Timestamp), ("boolean", MarkKind::Boolean), ("status", MarkKind::Status)];

    let mark = section.defaulted("mark", choice(&MARKS, &["ranges"]));
    let kind = section.defaulted("mark_kind", choice(&KINDS, &[]));
    let column = section.optional("mark_column", column);
    let delivered = section.optional("mark_value", scalar);
    let pending = section.optional("pending_value", scalar);
    let (mark, kind, column, delivered, pending) = (mark?, kind?, column?, delivered?, pending?);
    match mark {
        MarkBy::Delete => {
            let idle = ["mark_kind", "mark_column", "mark_value", "pending_value"];
            refuse_idle(section, &idle, "mark = \"delete\" removes the row")?;
            Some(Mark::Delete)
        }
        MarkBy::Update => {
            let column = chosen_column(section, kind, column, is_debezium);
            mark_column(section, kind, column, delivered, pending).map(Mark::Update)
        }
    }
}

fn chosen_column(
    section: &mut Section<'_>,
    kind: MarkKind,
    column: Option<ColumnName>,
    is_debezium: bool,
) -> Option<ColumnName> {
    // A preset's column is a timestamp: with another kind it would be the wrong one.
    let column = column.filter(|_| kind == MarkKind::Timestamp || section.is_given("mark_column"));
    if column.is_none() {
        let hint = if is_debezium {
            "write mark = \"delete\", as is done with Debezium, or add a column (alter table … add column \
             delivered_at timestamptz) and write mark_column = \"delivered_at\""
        } else {
            "name the column that tells delivered rows from pending ones, or write mark = \"delete\" if \
             delivered rows may go"
        };
        section.report("mark_column", Wrong::new("is missing", hint));
    }
    column
}

fn mark_column(
    section: &mut Section<'_>,
    kind: MarkKind,
    column: Option<ColumnName>,
    delivered: Option<String>,
    pending: Option<String>,
) -> Option<MarkColumn> {
    match kind {
        MarkKind::Timestamp | MarkKind::Boolean => {
            refuse_idle(section, &["mark_value", "pending_value"], "only mark_kind = \"status\" uses it")?;
            let column = column?;
            Some(if kind == MarkKind::Boolean {
                MarkColumn::Boolean(column)
            } else {
                MarkColumn::Timestamp(column)
            })
        }
        MarkKind::Status => status(section, column, delivered, pending),
    }
}

fn status(
    section: &mut Section<'_>,
    column: Option<ColumnName>,
    delivered: Option<String>,
    pending: Option<String>,
) -> Option<MarkColumn> {
    for (key, value, what) in
        [("mark_value", &delivered, "delivered"), ("pending_value", &pending, "pending")]
    {
        if value.is_none() {
            let hint = format!("write the status of a {what} row, such as {what:?}");
            section.report(key, Wrong::new("is missing with mark_kind = \"status\"", hint));
        }
    }
    if delivered.is_some() && delivered == pending {
        let hint = "write two different values: a delivered row would still be pending";
        section.report("mark_value", Wrong::new("is the same as pending_value", hint));
        return None;
    }
    Some(MarkColumn::Status { column: column?, pending: pending?, delivered: delivered? })
}

/// A key that has no effect was written by someone who believes that it has one.
fn refuse_idle(section: &mut Section<'_>, keys: &[&str], why: &str) -> Option<()> {
    let idle: Vec<_> = keys.iter().filter(|key| section.is_given(key)).collect();
    for key in &idle {
        section.report(key, Wrong::new(format!("has no effect: {why}"), "remove it, or change the other"));
    }
    idle.is_empty().then_some(())
}
