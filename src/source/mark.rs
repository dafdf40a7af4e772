//! How a delivered row is told from a pending one. A mark owns exactly two things: the pending
//! predicate and the settle statement.

use super::schema::Table;
use super::statement::{Statement, literal};
use crate::config::{Mark, MarkColumn};

/// The predicate that rows of alias `o` are pending.
pub(crate) fn pending(mark: &Mark, table: &Table) -> String {
    match mark {
        Mark::Delete => "true".to_owned(),
        Mark::Update(MarkColumn::Timestamp(column)) => format!("o.{} is null", column.quoted()),
        Mark::Update(MarkColumn::Boolean(column)) => {
            boolean_pending(&column.quoted(), table.column(column).not_null)
        }
        Mark::Update(MarkColumn::Status { column, pending, .. }) => {
            format!("o.{} = {}", column.quoted(), literal(pending))
        }
    }
}

/// Written as people write the predicate of a partial index, so that the planner recognises it.
fn boolean_pending(column: &str, not_null: bool) -> String {
    if not_null { format!("not o.{column}") } else { format!("o.{column} is not true") }
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
