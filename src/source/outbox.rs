//! The statements over the application's table, compiled from the mapping. What their rows mean is
//! [`decode`](super::decode)'s business, when they run is [`poll`](super::poll)'s.

use uuid::Uuid;

use super::floor::Floor;
use super::mark;
use super::schema::{Kind, Table};
use super::statement::{Statement, literal};
use crate::config::{self, ColumnName, HeaderColumns};
use crate::message::RowId;
use crate::source::{Fetch, Remark};

/// Every statement over one table as it is now.
#[derive(Debug)]
pub(crate) struct Outbox {
    pub(crate) id: IdKind,
    pub(crate) key: KeyKind,
    pub(crate) settle: Statement,
    /// The same for those rows that nobody else has locked.
    pub(crate) settle_unlocked: Statement,
    pub(crate) still_pending: Statement,
    pub(crate) backlog: Statement,
    pub(crate) remarks: Vec<Remark>,
    /// Said of it if reads take too long.
    pub(crate) unindexed: Option<Remark>,
    /// What lies below the pipeline's beginning, if not everything is its own.
    pub(crate) floor: Option<Floor>,
    /// By whether ids and whether lanes or scopes are left out.
    fetch: [[Statement; 2]; 2],
}

/// The type ids travel in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IdKind {
    Int,
    Uuid,
    Text,
}

/// The type keys are compared in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Bytes,
    Text,
}

/// Ids as the parameter of a statement.
#[derive(Debug, Clone)]
pub(crate) enum Ids {
    Int(Vec<i64>),
    Uuid(Vec<Uuid>),
    Text(Vec<String>),
}

impl Ids {
    /// An id of another kind, from before the column changed its type, names no row now.
    pub(crate) fn new<'a>(kind: IdKind, ids: impl Iterator<Item = &'a RowId>) -> Self {
        match kind {
            IdKind::Int => Self::Int(ids.filter_map(as_int).collect()),
            IdKind::Uuid => Self::Uuid(ids.filter_map(as_uuid).collect()),
            IdKind::Text => Self::Text(ids.map(RowId::to_string).collect()),
        }
    }
}

fn as_int(id: &RowId) -> Option<i64> {
    match id {
        RowId::Int(id) => Some(*id),
        RowId::Uuid(_) => None,
        RowId::Text(text) => text.parse().ok(),
    }
}

fn as_uuid(id: &RowId) -> Option<Uuid> {
    match id {
        RowId::Uuid(id) => Some(*id),
        RowId::Int(_) => None,
        RowId::Text(text) => text.parse().ok(),
    }
}

impl Outbox {
    pub(crate) fn new(table: &Table, outbox: &config::Outbox, scope_sql: &str) -> Self {
        let id = Id::new(table, &outbox.columns.id);
        let pending = mark::pending(&outbox.mark, table);
        let marked = [("table", &*table.name), ("id", &id.name), ("ids", &id.parameter)];
        let marked = [&marked[..], &[("pending", &pending), ("returned", &id.sent)]].concat();
        let unlocked = Statement::fill(include_str!("outbox/unlocked.sql"), &marked);
        let fetch = |exclude, skip| {
            fetch_statement(table, outbox, &Variant { scope_sql, pending: &pending, id: &id, exclude, skip })
        };
        Self {
            id: id.kind,
            key: key_kind(table, outbox.columns.key.as_ref()),
            settle: mark::settle(&outbox.mark, &id.parameter, &marked),
            settle_unlocked: mark::settle(&outbox.mark, &format!("array({})", unlocked.as_str()), &marked),
            still_pending: Statement::fill(include_str!("outbox/still_pending.sql"), &marked),
            backlog: backlog_statement(table, outbox, &pending, &id),
            remarks: table.remarks.clone(),
            unindexed: table.unindexed.clone(),
            floor: None,
            fetch: [[fetch(false, false), fetch(false, true)], [fetch(true, false), fetch(true, true)]],
        }
    }

    /// Rows at or below this position are not ours.
    pub(crate) fn begins_above(&self) -> Option<i64> {
        self.floor.as_ref().map(|floor| floor.position)
    }

    /// The statement for a read: clauses over nothing are left out, so that most reads stay simple.
    pub(crate) fn fetch(&self, fetch: &Fetch) -> &Statement {
        &self.fetch[usize::from(!fetch.exclude.is_empty())][usize::from(!fetch.skip.is_empty())]
    }
}

/// The id column: how it is named, sent and compared.
struct Id {
    kind: IdKind,
    name: String,
    sent: String,
    /// `$1` as an array of the column's type.
    parameter: String,
    /// The id and an array parameter's element type, comparable.
    compared: &'static str,
}

impl Id {
    fn new(table: &Table, column: &ColumnName) -> Self {
        let name = column.quoted();
        let typed = table.column(column);
        let plain = format!("o.{name}");
        let (kind, sent, parameter, compared) = match typed.kind {
            Kind::Int => (IdKind::Int, plain, "$1::bigint []".to_owned(), "bigint"),
            Kind::Uuid => (IdKind::Uuid, plain, "$1::uuid []".to_owned(), "uuid"),
            Kind::Text => (IdKind::Text, plain, "$1::text []".to_owned(), "text"),
            Kind::Bytes
            | Kind::Json
            | Kind::Jsonb
            | Kind::Timestamp
            | Kind::Boolean
            | Kind::TextArray
            | Kind::Other => {
                (IdKind::Text, written(&plain), format!("$1::text []::{} []", typed.type_name), "text")
            }
        };
        Self { kind, name, sent, parameter, compared }
    }
}

struct Variant<'a> {
    scope_sql: &'a str,
    pending: &'a str,
    id: &'a Id,
    exclude: bool,
    skip: bool,
}

fn fetch_statement(table: &Table, outbox: &config::Outbox, variant: &Variant<'_>) -> Statement {
    let columns = row_columns(table, outbox, variant.id);
    let row: Vec<_> = columns.iter().enumerate().map(|(i, sql)| format!("{sql} as c{i}")).collect();
    let names: Vec<_> = (0..columns.len()).map(|i| format!("c{i}")).collect();
    let nulls = vec!["null"; columns.len() + 3].join(", ");
    let payload = payload_sql(table, &outbox.columns.payload);
    let order = order_sql(table);
    let above = table.order.as_ref().map_or("true".to_owned(), |c| format!("o.{} > $1", c.quoted()));
    let highest = highest_sql(table, variant.pending, &above);
    let (insert_lsn, durable) = wal_sql(table);
    Statement::fill(
        include_str!("outbox/fetch.sql"),
        &[
            ("table", &table.name),
            ("pending", variant.pending),
            ("above", &above),
            ("exclude", &exclude_sql(variant)),
            ("skip", &skip_sql(table, outbox, variant)),
            ("row", &row.join(", ")),
            ("payload", &payload.column),
            ("stored", &payload.stored),
            ("size", payload.size),
            ("evaluated", payload.evaluated),
            ("order", &order),
            ("body", payload.body),
            ("highest", &highest),
            ("relations", &relations_sql(table)),
            ("insert_lsn", insert_lsn),
            ("durable", durable),
            ("no_row", &nulls),
            ("row_names", &names.join(", ")),
        ],
    )
}

/// What of a row is sent, in the order in which [`decode`](super::decode) reads it.
fn row_columns(table: &Table, outbox: &config::Outbox, id: &Id) -> Vec<String> {
    let columns = &outbox.columns;
    let text = |column: &Option<ColumnName>| {
        column.as_ref().map_or("null::text".to_owned(), |column| sent(table, column))
    };
    let raw = |column: Option<&ColumnName>, absent: &str| {
        column.map_or(absent.to_owned(), |column| format!("o.{}", column.quoted()))
    };
    let (names, values) = match &columns.headers {
        Some(HeaderColumns::Json(column)) => (sent(table, column), "null::text".to_owned()),
        Some(HeaderColumns::Arrays { names, values }) => (raw(Some(names), ""), raw(Some(values), "")),
        None => ("null::text".to_owned(), "null::text".to_owned()),
    };
    let mut row = vec![
        id.sent.clone(),
        raw(table.order.as_ref(), "0::bigint"),
        text(&columns.key),
        text(&columns.kind),
        text(&columns.destination),
        raw(columns.created_at.as_ref(), "null::timestamptz"),
        names,
        values,
    ];
    row.extend(columns.to_headers.values().map(|column| sent(table, column)));
    row
}

/// A column as it is published: bytes raw, everything else its text output.
fn sent(table: &Table, column: &ColumnName) -> String {
    let plain = format!("o.{}", column.quoted());
    match table.column(column).kind {
        // Their binary format is their text.
        Kind::Text | Kind::Json | Kind::Bytes => plain,
        Kind::Int
        | Kind::Uuid
        | Kind::Jsonb
        | Kind::Timestamp
        | Kind::Boolean
        | Kind::TextArray
        | Kind::Other => written(&plain),
    }
}

/// The text output. A cast to text would differ: it writes `true` for `t`, trims `char(n)` and adds
/// `/32` to an inet.
fn written(value: &str) -> String {
    format!("case when {value} is not null then concat({value}) end")
}

/// What the statement needs to know of the payload.
struct PayloadSql {
    /// The column.
    column: String,
    /// Its size as far as it is known without reading it.
    stored: String,
    /// What is sent of it.
    body: &'static str,
    /// Bytes that takes.
    size: &'static str,
    /// Keeps `body` from being computed for the size and again for the row.
    evaluated: &'static str,
}

/// Compression makes a value at most 256 times smaller (LZ4; pglz 91 times), so one that is stored in
/// a 256th of the limit is below the limit, and its exact size does not matter. What is stored in more
/// than 2 kB may have been moved out of line, where reading it twice costs little beside reading it.
const JSON_SIZE: &str =
    "case when stored > least(2000, $4 / 256) then octet_length(concat(body)) else stored end";

fn payload_sql(table: &Table, column: &ColumnName) -> PayloadSql {
    let payload = format!("o.{}", column.quoted());
    match table.column(column).kind {
        Kind::Text | Kind::Bytes => PayloadSql {
            stored: format!("octet_length({payload})"),
            column: payload,
            body: "payload",
            size: "stored",
            evaluated: "",
        },
        // Its binary format is its text.
        Kind::Json => PayloadSql {
            stored: format!("pg_column_size({payload})"),
            column: payload,
            body: "payload",
            size: JSON_SIZE,
            evaluated: "",
        },
        Kind::Int
        | Kind::Uuid
        | Kind::Jsonb
        | Kind::Timestamp
        | Kind::Boolean
        | Kind::TextArray
        | Kind::Other => PayloadSql {
            stored: format!("pg_column_size({payload})"),
            column: payload,
            body: "case when payload is not null then concat(payload) end",
            size: "octet_length(body)",
            evaluated: "offset 0",
        },
    }
}

fn order_sql(table: &Table) -> String {
    // Without positions any order will do.
    table.order.as_ref().map_or(String::new(), |column| format!("order by o.{}", column.quoted()))
}

fn highest_sql(table: &Table, pending: &str, above: &str) -> String {
    let Some(order) = &table.order else { return "null::bigint".to_owned() };
    let name = &table.name;
    format!("(select max(o.{}) from {name} as o where {pending} and {above})::bigint", order.quoted())
}

fn relations_sql(table: &Table) -> String {
    // By name, as the rows are read: after a table was swapped for another, both mean the new one.
    let oid = format!("{}::regclass::oid", literal(&table.name));
    if table.has_parts {
        Statement::fill(include_str!("outbox/relations_parts.sql"), &[("oid", &oid)]).as_str().to_owned()
    } else {
        oid
    }
}

/// With synchronous standbys, or blind to the WAL, the barrier is always forced: no position, never durable.
fn wal_sql(table: &Table) -> (&'static str, &'static str) {
    if table.lsn_readable {
        (
            "case when current_setting('synchronous_standby_names') = '' then pg_current_wal_insert_lsn()::text end",
            "pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn() \
             and current_setting('synchronous_standby_names') = ''",
        )
    } else {
        ("null::text", "false")
    }
}

/// `not in (select …)` is hashed once, whatever the server's version and however long the list.
fn exclude_sql(variant: &Variant<'_>) -> String {
    if !variant.exclude {
        return String::new();
    }
    let Id { sent, compared, .. } = variant.id;
    format!("\n        and {sent} not in (select unnest($6::{compared} []))")
}

fn skip_sql(table: &Table, outbox: &config::Outbox, variant: &Variant<'_>) -> String {
    if !variant.skip {
        return String::new();
    }
    // Byte for byte, whatever the collation of the column thinks equal.
    let scope = format!("({}) collate \"C\"", variant.scope_sql);
    let scopes = format!("({scope} is null or {scope} not in (select unnest($9::text [])))");
    let Some(key) = &outbox.columns.key else { return format!("\n        and {scopes}") };
    let (key, key_type) = match key_kind(table, Some(key)) {
        KeyKind::Bytes => (sent(table, key), "bytea"),
        KeyKind::Text => (format!("({})::text collate \"C\"", sent(table, key)), "text"),
    };
    // NULL equals nothing in SQL; a lane without a scope is told from all others by its prefix.
    format!(
        "\n        and {scopes}\
         \n        and ({key} is null or ({key}, coalesce('=' || {scope}, '')) not in (\
         \n            select lane.key, coalesce('=' || lane.scope, '')\
         \n            from unnest($7::{key_type} [], $8::text []) as lane (key, scope)\
         \n        ))"
    )
}

fn key_kind(table: &Table, key: Option<&ColumnName>) -> KeyKind {
    match key.map(|key| table.column(key).kind) {
        Some(Kind::Bytes) => KeyKind::Bytes,
        _ => KeyKind::Text,
    }
}

fn backlog_statement(table: &Table, outbox: &config::Outbox, pending: &str, id: &Id) -> Statement {
    let created_at = outbox.columns.created_at.as_ref();
    let created_at = created_at.map_or("null::timestamptz".to_owned(), |c| format!("o.{}", c.quoted()));
    let order = order_sql(table);
    let places = [
        ("table", &*table.name),
        ("pending", pending),
        ("id", &id.sent),
        ("created_at", &created_at),
        ("order", &order),
    ];
    Statement::fill(include_str!("outbox/backlog.sql"), &places)
}
