//! How a delivered row is told from a pending one. A mark owns exactly two things: the pending
//! predicate and the settle statement.

use super::schema::Table;
use super::statement::{Statement, literal};
use crate::config::{Mark, MarkColumn};

/// The predicate that rows of alias `o` are pending, and this pipeline's.
pub(crate) fn pending(mark: &Mark, table: &Table) -> String {
    let unmarked = unmarked(mark, table, "o.");
    match (table.floor, &table.order) {
        (Some(floor), Some(order)) => format!("{unmarked} and o.{} > {floor}", order.quoted()),
        (Some(_) | None, _) => unmarked,
    }
}

/// The predicate of a partial index that holds the pending rows, whatever pipeline they belong to.
pub(crate) fn unmarked(mark: &Mark, table: &Table, alias: &str) -> String {
    match mark {
        Mark::Delete => "true".to_owned(),
        Mark::Update(MarkColumn::Timestamp(column)) => format!("{alias}{} is null", column.quoted()),
        Mark::Update(MarkColumn::Boolean(column)) => {
            let is_not_null = table.column(column).not_null;
            boolean_pending(&format!("{alias}{}", column.quoted()), is_not_null)
        }
        Mark::Update(MarkColumn::Status { column, pending, .. }) => {
            format!("{alias}{} = {}", column.quoted(), literal(pending))
        }
    }
}

/// Written as people write the predicate of a partial index, so that the planner recognises it.
fn boolean_pending(column: &str, is_not_null: bool) -> String {
    if is_not_null { format!("not {column}") } else { format!("{column} is not true") }
}

/// A table and what marks its rows, as one name: the same rows may be history under another mark.
pub(crate) fn identity(mark: &Mark, table: &str) -> String {
    match mark {
        Mark::Delete => format!("{table}, delete"),
        Mark::Update(MarkColumn::Timestamp(column) | MarkColumn::Boolean(column)) => {
            format!("{table}, {}", column.quoted())
        }
        Mark::Update(MarkColumn::Status { column, pending, .. }) => {
            format!("{table}, {} = {}", column.quoted(), literal(pending))
        }
    }
}

/// For a person to run: marks every pending row as if it had been delivered.
pub(crate) fn everything(mark: &Mark, table: &Table) -> String {
    let Mark::Update(column) = mark else { return format!("delete from {}", table.name) };
    let (column, value) = assignment(column);
    format!("update {} set {column} = {value} where {}", table.name, unmarked(mark, table, ""))
}

/// Marks the pending ones among the ids in `$1`. Absolute, so it may run twice.
///
/// `chosen`: an array of ids as SQL; `places`: what both statements need, see the `.sql` files.
pub(crate) fn settle(mark: &Mark, chosen: &str, places: &[(&str, &str)]) -> Statement {
    let places = [places, &[("chosen", chosen)]].concat();
    let places = places.as_slice();
    let Mark::Update(column) = mark else {
        return Statement::fill(include_str!("outbox/settle_delete.sql"), places);
    };
    let (column, value) = assignment(column);
    let places = [places, &[("column", &column), ("value", &value)]].concat();
    Statement::fill(include_str!("outbox/settle_update.sql"), &places)
}

fn assignment(column: &MarkColumn) -> (String, String) {
    match column {
        MarkColumn::Timestamp(column) => (column.quoted(), "clock_timestamp()".to_owned()),
        MarkColumn::Boolean(column) => (column.quoted(), "true".to_owned()),
        MarkColumn::Status { column, delivered, .. } => (column.quoted(), literal(delivered)),
    }
}
