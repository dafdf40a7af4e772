//! The indexes of the application's table: whether its ids tell rows apart, and whether the pending rows
//! can be found without reading the delivered ones. What else a table needs is not known here.

use std::sync::Arc;

use super::connection::{self, Link, unfit};
use super::schema::{ATTEMPT, Table, get, mark_column};
use super::{Remark, SourceError, mark};
use crate::config::{self, Mark};

/// What indexes are asked about.
pub(crate) struct Plan<'a> {
    pub(crate) table: &'a Table,
    pub(crate) outbox: &'a config::Outbox,
    pub(crate) is_partitioned: bool,
    /// Columns that a unique index over all partitions must hold besides.
    pub(crate) part_columns: Vec<String>,
}

pub(crate) struct Indexes(Vec<Index>);

struct Index {
    /// No two rows are the same to it.
    tells_apart: bool,
    columns: Vec<String>,
    /// Of a partial one, as the server writes it.
    predicate: String,
}

impl Indexes {
    pub(crate) async fn of(link: &mut Link, oid: sqlx::postgres::types::Oid) -> Result<Self, SourceError> {
        let sql = include_str!("outbox/indexes.sql").trim_end();
        let rows = link.ask(ATTEMPT, async |c| sqlx::query(sql).bind(oid).fetch_all(c).await).await?;
        let index = |row| {
            Ok(Index {
                tells_apart: get(row, "tells_apart")?,
                columns: get(row, "columns")?,
                predicate: get(row, "predicate")?,
            })
        };
        rows.iter().map(index).collect::<Result<_, _>>().map(Self)
    }

    /// Rows are marked by id, so two rows with one id are marked when one of them is delivered: the other
    /// is lost.
    ///
    /// # Errors
    /// `Unfit` if nothing keeps ids apart.
    pub(crate) fn check_id(&self, plan: &Plan<'_>) -> Result<Option<Remark>, SourceError> {
        let id = &plan.outbox.columns.id;
        let is_known = |column: &String| *column == id.0 || plan.part_columns.contains(column);
        let tells_apart = |index: &&Index| {
            index.tells_apart && index.columns.contains(&id.0) && index.columns.iter().all(is_known)
        };
        if self.0.iter().any(|index| tells_apart(&index)) {
            return Ok(None);
        }
        let mut columns = vec![id.quoted()];
        let others = plan.part_columns.iter().filter(|column| **column != id.0);
        columns.extend(others.map(|column| config::name::quote(column)));
        let sql = plan.create("unique index", &columns, "");
        let text =
            format!("no unique index keeps the ids of {} apart, and rows are marked by id", plan.table.name);
        // A sequence keeps them apart as long as nobody writes ids of his own, and partitions may each have
        // an index.
        if plan.is_partitioned || plan.table.column(id).is_numbered() {
            return Ok(Some(Remark::warning(text, sql)));
        }
        Err(unfit(format!("could not use {}: {text}", id.quoted()), sql))
    }

    /// Without such an index a read looks at the delivered rows too, and becomes slower as they grow.
    pub(crate) fn check_pending(&self, plan: &Plan<'_>) -> Option<Remark> {
        let order = plan.table.order.as_ref();
        let leads = |index: &Index, column: &str| index.columns.first().is_some_and(|first| first == column);
        let in_order = |index: &Index| order.is_none_or(|order| leads(index, &order.0));
        let marked = match &plan.outbox.mark {
            Mark::Delete => None,
            Mark::Update(mark) => Some(&mark_column(mark).0),
        };
        let finds_pending = |index: &Index| match marked {
            None => in_order(index),
            Some(mark) => (index.predicate.contains(mark.as_str()) && in_order(index)) || leads(index, mark),
        };
        // Every row of a table without a mark is pending, and without an order any will do.
        if self.0.iter().any(finds_pending) || (marked.is_none() && order.is_none()) {
            return None;
        }
        let column = order.unwrap_or(&plan.outbox.columns.id).quoted();
        let table = plan.table;
        let pending = match marked {
            None => String::new(),
            Some(_) => format!(" where {}", mark::unmarked(&plan.outbox.mark, table, "")),
        };
        let text = format!("no index finds the pending rows of {}: reads slow down as it grows", table.name);
        Some(Remark::warning(text, plan.create("index", &[column], &pending)))
    }
}

impl Plan<'_> {
    /// A partitioned table takes no index concurrently.
    fn create(&self, what: &str, columns: &[String], pending: &str) -> String {
        let concurrently = if self.is_partitioned { "" } else { " concurrently" };
        format!("create {what}{concurrently} on {} ({}){pending}", self.table.name, columns.join(", "))
    }
}

/// A read that took too long, if an index is missing that would have made it quick: it stays so until somebody
/// makes the index.
pub(crate) fn explain_slow(error: SourceError, unindexed: Option<&Remark>) -> SourceError {
    match unindexed.and_then(|remark| Some((&remark.text, remark.hint.as_ref()?))) {
        Some((text, index)) if connection::is_timeout(&error) => {
            unfit(format!("{}; {text}", error.message), Arc::clone(index))
        }
        Some(_) | None => error,
    }
}
