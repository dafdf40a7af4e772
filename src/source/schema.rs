//! The application's table as it is now: does it hold what the mapping names, and may we use it?
//! Every misfit is said once, with the SQL that mends it. Nothing here reads or changes a row.

use std::collections::BTreeMap;

use sqlx::postgres::PgRow;
use sqlx::postgres::types::Oid;
use sqlx::{AssertSqlSafe, Row};

use super::connection::{Link, unfit};
use super::indexes::{self, Indexes};
use super::start::Begun;
use super::statement::literal;
use super::{Remark, SourceError};
use crate::config::{self, ColumnName, HeaderColumns, Mark, MarkColumn, Ordering};

pub(super) const ATTEMPT: &str = "could not look the outbox table up";

/// A table that fits its mapping.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// Schema and name, quoted.
    pub(crate) name: String,
    /// Partitioned, or inherited from: rows also live in other tables.
    pub(crate) has_parts: bool,
    /// We may ask how far the WAL is written and flushed.
    pub(crate) lsn_readable: bool,
    /// The column positions are read from; `None` reads every pending row each time.
    pub(crate) order: Option<ColumnName>,
    /// Rows at or below this position are not this pipeline's.
    pub(crate) floor: Option<i64>,
    /// What people should know of it, though it can be used.
    pub(crate) remarks: Vec<Remark>,
    /// That of them which explains slow reads.
    pub(crate) unindexed: Option<Remark>,
    columns: BTreeMap<String, Column>,
}

#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) kind: Kind,
    /// As SQL writes the type, with its schema where that is needed.
    pub(crate) type_name: String,
    pub(crate) not_null: bool,
    readable: bool,
    writable: bool,
    sequence: Option<Sequence>,
}

#[derive(Debug, Clone)]
struct Sequence {
    name: String,
    cache: i64,
}

impl Column {
    /// A sequence hands its values out.
    pub(super) const fn is_numbered(&self) -> bool {
        self.sequence.is_some()
    }
}

/// As far as reading a column depends on its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Int,
    Uuid,
    /// `text` and `varchar`: sent as they are, their size known without reading them.
    Text,
    Bytes,
    Json,
    Jsonb,
    /// With and without time zone; the latter is taken as UTC.
    Timestamp,
    Boolean,
    TextArray,
    Other,
}

impl Kind {
    /// From the oid of a built-in type: these never change.
    fn of(base_type: u32) -> Self {
        match base_type {
            20 | 21 | 23 => Self::Int,
            2950 => Self::Uuid,
            25 | 1043 => Self::Text,
            17 => Self::Bytes,
            114 => Self::Json,
            3802 => Self::Jsonb,
            1114 | 1184 => Self::Timestamp,
            16 => Self::Boolean,
            1009 | 1015 => Self::TextArray,
            _ => Self::Other,
        }
    }
}

impl Table {
    /// A column that was checked to exist when the table was resolved.
    pub(crate) fn column(&self, name: &ColumnName) -> &Column {
        self.columns.get(&name.0).expect("every mapped column was looked up when the table was resolved")
    }

    /// Looks up the table and all that the mapping names.
    ///
    /// # Errors
    /// `Unfit` with the SQL that mends it, or whatever kept us from asking.
    pub(crate) async fn resolve(
        link: &mut Link,
        outbox: &config::Outbox,
        ordering: Ordering,
    ) -> Result<Self, SourceError> {
        let row = locate(link, outbox).await?;
        check_table(&row, outbox)?;
        let oid: Oid = get(&row, "oid")?;
        let table = Self {
            name: get(&row, "name")?,
            has_parts: get(&row, "has_parts")?,
            lsn_readable: get(&row, "lsn_readable")?,
            order: None,
            floor: None,
            remarks: Vec::new(),
            unindexed: None,
            columns: columns(link, oid).await?,
        };
        table.check_columns(outbox)?;
        table.check_grants(outbox, &row)?;
        table.check_mark_values(link, outbox).await?;
        let table = Self { order: table.check_order(outbox, ordering)?, ..table };
        let indexes = Indexes::of(link, oid).await?;
        let is_partitioned = get::<String>(&row, "kind")? == "p";
        let plan =
            indexes::Plan { table: &table, outbox, is_partitioned, part_columns: get(&row, "part_columns")? };
        let unindexed = indexes.check_pending(&plan);
        let remarks = [Some(role(&row)?), indexes.check_id(&plan)?, unindexed.clone()];
        let remarks = remarks.into_iter().flatten().collect();
        Ok(Self { remarks, unindexed, ..table })
    }

    /// The same table, of which only what lies above the pipeline's beginning counts.
    pub(crate) fn begun(self, begun: &Begun) -> Self {
        let mut remarks = self.remarks;
        remarks.extend(begun.remarks.iter().cloned());
        Self { floor: begun.floor.as_ref().map(|floor| floor.position), remarks, ..self }
    }

    /// A value that the status column cannot hold would fail once for every row.
    async fn check_mark_values(&self, link: &mut Link, outbox: &config::Outbox) -> Result<(), SourceError> {
        let Mark::Update(MarkColumn::Status { column, pending, delivered }) = &outbox.mark else {
            return Ok(());
        };
        let type_name = &self.column(column).type_name;
        let cast = |value: &str| format!("({}::{type_name}) is not null", literal(value));
        let sql = format!("select {} and {}", cast(pending), cast(delivered));
        let attempt = "could not use outbox.pending_value or outbox.mark_value";
        link.ask(attempt, async |c| sqlx::raw_sql(AssertSqlSafe(sql)).execute(c).await.map(drop)).await
    }

    fn check_columns(&self, outbox: &config::Outbox) -> Result<(), SourceError> {
        for (key, name) in mapped(outbox) {
            let Some(column) = self.columns.get(&name.0) else {
                return Err(self.missing(&key, name));
            };
            check_type(&self.name, &key, name, column)?;
        }
        Ok(())
    }

    /// What tells where a row goes is read here and compared in SQL, which writes bytes as digits. Only text
    /// is the same in both.
    pub(super) fn check_scope(
        &self,
        outbox: &config::Outbox,
        scope: &[ColumnName],
    ) -> Result<(), SourceError> {
        let used = mapped(outbox)
            .into_iter()
            .find(|(_, name)| scope.contains(name) && self.column(name).kind == Kind::Bytes);
        let Some((key, name)) = used else { return Ok(()) };
        let (table, column) = (&self.name, name.quoted());
        Err(unfit(
            format!(
                "could not use {table}: [route] reads text from {column} (outbox.{key}), and it is bytea"
            ),
            format!(
                "name a column of text in outbox.{key}, or write [route] without it; or: alter table {table} \
                 alter column {column} type text using convert_from({column}, 'UTF8')"
            ),
        ))
    }

    fn missing(&self, key: &str, name: &ColumnName) -> SourceError {
        let near = nearest(&name.0, self.columns.keys());
        // Rows that are there get no creation time, so that nothing passes off as young.
        let made = match key {
            "columns.id" => "bigint generated always as identity unique",
            "columns.order" => "bigint generated always as identity",
            "columns.payload" => "json",
            "columns.headers" => "jsonb",
            "columns.headers[0]" | "columns.headers[1]" => "text[]",
            "columns.created_at" | "mark_column (timestamp)" => "timestamptz",
            "mark_column (boolean)" => "boolean not null default false",
            _ => "text",
        };
        unfit(
            format!("could not use {}: it has no column \"{name}\" (outbox.{key})", self.name),
            format!(
                "set outbox.{key} to one of its columns{near}; or: alter table {} add column {} {made}",
                self.name,
                name.quoted()
            ),
        )
    }

    fn check_grants(&self, outbox: &config::Outbox, row: &PgRow) -> Result<(), SourceError> {
        let (role, schema): (String, String) = (get(row, "role")?, get(row, "schema")?);
        if !get::<bool>(row, "usable")? {
            return Err(ungranted(self, format!("grant usage on schema {schema} to {role}")));
        }
        if let Some(name) = self.unreadable(outbox) {
            let columns = format!("{} ({})", self.name, name.quoted());
            let sql = format!("grant select on {} to {role}", self.name);
            return Err(ungranted(self, format!("{sql} -- at least on the mapped columns, as {columns}")));
        }
        match &outbox.mark {
            Mark::Delete if !get::<bool>(row, "deletable")? => {
                Err(ungranted(self, format!("grant delete on {} to {role}", self.name)))
            }
            // Rows that somebody keeps locked are passed over by `for update skip locked`, which wants it.
            Mark::Delete if !self.columns.values().any(|column| column.writable) => {
                let id = outbox.columns.id.quoted();
                Err(ungranted(self, format!("grant update ({id}) on {} to {role}", self.name)))
            }
            Mark::Update(mark) if !self.column(mark_column(mark)).writable => {
                let column = mark_column(mark).quoted();
                Err(ungranted(self, format!("grant update ({column}) on {} to {role}", self.name)))
            }
            Mark::Delete | Mark::Update(_) => Ok(()),
        }
    }

    fn unreadable<'m>(&self, outbox: &'m config::Outbox) -> Option<&'m ColumnName> {
        mapped(outbox).into_iter().map(|(_, name)| name).find(|name| !self.column(name).readable)
    }

    /// Reading by position cannot lose a row only if the INSERT itself allocates the position, one at
    /// a time: then whoever may still show a lower one holds a lock on the table.
    fn check_order(
        &self,
        outbox: &config::Outbox,
        ordering: Ordering,
    ) -> Result<Option<ColumnName>, SourceError> {
        let Some(order) = &outbox.columns.order else { return Ok(None) };
        let column = self.column(order);
        match (&column.sequence, ordering) {
            // No comparison finds NULL: such a row would wait for ever, unseen.
            (Some(_), Ordering::Key) if !column.not_null => Err(unfit(
                format!(
                    "could not use {} as order: it may be null, and such a row is never found",
                    order.quoted()
                ),
                format!("alter table {} alter column {} set not null", self.name, order.quoted()),
            )),
            (Some(_), Ordering::None) if !column.not_null => Ok(None),
            (Some(sequence), _) if sequence.cache > 1 => Err(unfit(
                format!(
                    "could not use {} as order: its sequence hands out {} values at a time, so positions do not \
                     follow time",
                    order.quoted(),
                    sequence.cache
                ),
                format!("alter sequence {} cache 1", sequence.name),
            )),
            (Some(_), _) => Ok(Some(order.clone())),
            // Without positions to trust, every pending row is read each time: slower, and complete.
            (None, Ordering::None) => Ok(None),
            (None, Ordering::Key) => Err(unfit(
                format!("could not use {} as order: no sequence allocates it", order.quoted()),
                format!(
                    "alter table {} add column position bigint generated always as identity, and set \
                     outbox.columns.order = \"position\"; or set delivery.ordering = \"none\"; or, if a trigger \
                     takes it from a sequence: alter sequence … owned by {}.{}",
                    self.name,
                    self.name,
                    order.quoted()
                ),
            )),
        }
    }
}

async fn locate(link: &mut Link, outbox: &config::Outbox) -> Result<PgRow, SourceError> {
    let name = outbox.table.clone();
    let found = link
        .transact(async |c| {
            // A name without a schema means what it would mean in psql; everything after that is resolved
            // and quoted, and nobody's search path has a say in it.
            sqlx::raw_sql("set local search_path to default").execute(&mut *c).await?;
            let query = sqlx::query(include_str!("outbox/table.sql").trim_end());
            query.bind(&name.schema).bind(&name.table).fetch_optional(c).await
        })
        .await
        .map_err(|error| super::connection::explain(ATTEMPT, &error))?;
    let Some(row) = found else { return Err(no_table(link, outbox).await?) };
    Ok(row)
}

async fn no_table(link: &mut Link, outbox: &config::Outbox) -> Result<SourceError, SourceError> {
    let names: Vec<String> = link
        .ask(ATTEMPT, async |c| sqlx::query_scalar(include_str!("outbox/tables.sql")).fetch_all(c).await)
        .await?;
    let near = nearest(&outbox.table.to_string(), names.iter());
    Ok(unfit(
        format!("could not find the table {} in this database", outbox.table),
        format!(
            "set outbox.table to the application's outbox{near}, or run `outbox-relay migrate` to create the default one"
        ),
    ))
}

fn check_table(row: &PgRow, outbox: &config::Outbox) -> Result<(), SourceError> {
    let name: String = get(row, "name")?;
    let kind: String = get(row, "kind")?;
    if kind != "r" && kind != "p" {
        let message = format!("could not use {name}: it is not a table but a view or a foreign table");
        let behind: Vec<String> = get(row, "behind")?;
        let behind = if behind.is_empty() { String::new() } else { format!(": {}", behind.join(" or ")) };
        return Err(unfit(message, format!("set outbox.table to the table itself{behind}")));
    }
    if get(row, "row_security")? {
        let role: String = get(row, "role")?;
        return Err(unfit(
            format!("could not use {}: row security hides rows of it, they would wait unseen", outbox.table),
            format!("alter role {role} bypassrls, or: alter table {name} disable row level security"),
        ));
    }
    Ok(())
}

/// Who we are in the database. Whoever owns the table can do all that the relay never does.
fn role(row: &PgRow) -> Result<Remark, SourceError> {
    let (role, name): (String, String) = (get(row, "role")?, get(row, "name")?);
    let rank = if get::<Option<bool>>(row, "is_superuser")? == Some(true) {
        "a superuser".to_owned()
    } else if get(row, "is_owner")? {
        format!("an owner of {name}")
    } else {
        return Ok(Remark::notice(format!("works as the database role {role}")));
    };
    let hint = "give the relay a role of its own that may do no more than it does: deploy/sql/roles.sql";
    Ok(Remark::warning(format!("works as the database role {role}, {rank}"), hint))
}

async fn columns(link: &mut Link, oid: Oid) -> Result<BTreeMap<String, Column>, SourceError> {
    let rows = link
        .ask(ATTEMPT, async |c| {
            sqlx::query(include_str!("outbox/columns.sql").trim_end()).bind(oid).fetch_all(c).await
        })
        .await?;
    rows.iter().map(|row| Ok((get(row, "name")?, column(row)?))).collect()
}

fn column(row: &PgRow) -> Result<Column, SourceError> {
    let sequence: Option<String> = get(row, "sequence")?;
    let cache: Option<i64> = get(row, "sequence_cache")?;
    Ok(Column {
        kind: Kind::of(get::<Oid>(row, "base_type")?.0),
        type_name: get(row, "type")?,
        not_null: get(row, "not_null")?,
        readable: get(row, "readable")?,
        writable: get(row, "writable")?,
        sequence: sequence.zip(cache).map(|(name, cache)| Sequence { name, cache }),
    })
}

pub(super) fn get<'r, T>(row: &'r PgRow, column: &str) -> Result<T, SourceError>
where
    T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    row.try_get(column).map_err(|error| super::connection::explain(ATTEMPT, &error))
}

fn ungranted(table: &Table, sql: String) -> SourceError {
    unfit(format!("could not use {}: permission denied", table.name), sql)
}

/// Every mapped column with the configuration key that names it.
fn mapped(outbox: &config::Outbox) -> Vec<(String, &ColumnName)> {
    let columns = &outbox.columns;
    let own = |key: &str| format!("columns.{key}");
    let mut mapped = vec![(own("id"), &columns.id), (own("payload"), &columns.payload)];
    let optional = [
        ("order", &columns.order),
        ("key", &columns.key),
        ("kind", &columns.kind),
        ("destination", &columns.destination),
        ("created_at", &columns.created_at),
    ];
    mapped.extend(optional.into_iter().filter_map(|(key, name)| Some((own(key), name.as_ref()?))));
    match &columns.headers {
        Some(HeaderColumns::Json(name)) => mapped.push((own("headers"), name)),
        Some(HeaderColumns::Arrays { names, values }) => {
            mapped.extend([(own("headers[0]"), names), (own("headers[1]"), values)]);
        }
        None => {}
    }
    mapped.extend(columns.to_headers.iter().map(|(header, name)| (config::header_key(header), name)));
    if let Mark::Update(mark) = &outbox.mark {
        mapped.push((mark_key(mark).to_owned(), mark_column(mark)));
    }
    mapped
}

pub(super) fn mark_column(mark: &MarkColumn) -> &ColumnName {
    match mark {
        MarkColumn::Timestamp(column) | MarkColumn::Boolean(column) | MarkColumn::Status { column, .. } => {
            column
        }
    }
}

/// Only for the sake of its type does a mark column have a key of its own.
fn mark_key(mark: &MarkColumn) -> &'static str {
    match mark {
        MarkColumn::Timestamp(_) => "mark_column (timestamp)",
        MarkColumn::Boolean(_) => "mark_column (boolean)",
        MarkColumn::Status { .. } => "mark_column (status)",
    }
}

fn check_type(table: &str, key: &str, name: &ColumnName, column: &Column) -> Result<(), SourceError> {
    let (wanted, made, fits) = match key {
        "columns.order" => {
            ("smallint, integer or bigint", "bigint generated always as identity", column.kind == Kind::Int)
        }
        "columns.created_at" | "mark_column (timestamp)" => {
            ("timestamp with or without time zone", "timestamptz", column.kind == Kind::Timestamp)
        }
        "mark_column (boolean)" => ("boolean", "boolean", column.kind == Kind::Boolean),
        "columns.headers" => ("json or jsonb", "jsonb", matches!(column.kind, Kind::Json | Kind::Jsonb)),
        "columns.headers[0]" | "columns.headers[1]" => ("text[]", "text[]", column.kind == Kind::TextArray),
        _ => return Ok(()),
    };
    if fits {
        return Ok(());
    }
    // An id of another type cannot be made a number.
    let mended = match key {
        "columns.order" => format!("add column position {made}, and outbox.columns.order = \"position\""),
        _ => format!("alter column {0} type {made} using {0}::text::{made}", name.quoted()),
    };
    Err(unfit(
        format!("could not use {table}: \"{name}\" (outbox.{key}) is {}, not {wanted}", column.type_name),
        format!("name a column of type {wanted} in outbox.{key}; or: alter table {table} {mended}"),
    ))
}

/// `: perhaps "a" or "b"`, from the names most like `name`; empty if none is.
fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n String>) -> String {
    let mut near: Vec<_> = names
        .map(|other| (strsim::jaro_winkler(&name.to_lowercase(), &other.to_lowercase()), other))
        .filter(|(likeness, _)| *likeness > 0.75)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near: Vec<_> = near.iter().take(3).map(|(_, other)| format!("\"{other}\"")).collect();
    if near.is_empty() { String::new() } else { format!(", perhaps {}", near.join(" or ")) }
}
