//! Who may still show a row: names of transactions that stay equal for as long as the transaction
//! lives, whatever the server calls it meanwhile. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::Writer;

/// Follows writers from one read to the next.
///
/// A transaction is named by its virtual id until `prepare transaction` renames it to `-1/…`. Taken at
/// its word the list would say that the writer ended, and its rows would be paged past. So whenever a
/// prepared transaction turns up, the writers that vanished since the last read may have become it,
/// and live on under their old names until it ends.
#[derive(Debug, Default)]
pub(crate) struct Writers {
    last: BTreeSet<Writer>,
    /// Prepared transaction → what it may have been called before.
    earlier: BTreeMap<Writer, BTreeSet<Writer>>,
}

impl Writers {
    /// The writers of a read, given the names that the server lists (separated by spaces).
    pub(crate) fn seen(&mut self, listed: &str) -> Vec<Writer> {
        let now: BTreeSet<Writer> = listed.split_whitespace().map(Writer::from).collect();
        self.earlier.retain(|prepared, _| now.contains(prepared));
        let vanished: BTreeSet<Writer> = self.last.difference(&now).cloned().collect();
        for prepared in now.iter().filter(|name| is_prepared(name) && !self.last.contains(*name)) {
            self.earlier.insert(Writer::clone(prepared), vanished.clone());
        }
        let renamed = self.earlier.values().flatten();
        let all: BTreeSet<Writer> = now.iter().chain(renamed).cloned().collect();
        self.last = now;
        all.into_iter().collect()
    }
}

fn is_prepared(name: &str) -> bool {
    name.starts_with("-1/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(writers: &[Writer]) -> Vec<&str> {
        writers.iter().map(AsRef::as_ref).collect()
    }

    #[test]
    fn a_writer_that_prepares_its_transaction_keeps_its_name_until_that_ends() {
        let mut writers = Writers::default();
        assert_eq!(names(&writers.seen("3/7 4/1")), ["3/7", "4/1"]);
        assert_eq!(names(&writers.seen("-1/900 4/1")), ["-1/900", "3/7", "4/1"]);
        assert_eq!(names(&writers.seen("-1/900")), ["-1/900", "3/7"]);
        assert!(writers.seen("").is_empty());
    }

    #[test]
    fn a_writer_that_ends_is_gone() {
        let mut writers = Writers::default();
        writers.seen("3/7 -1/5");
        assert_eq!(names(&writers.seen("-1/5")), ["-1/5"]);
    }
}
