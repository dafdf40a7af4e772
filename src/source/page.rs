//! One read as it comes in: rows until a budget is used up, and what was true of the moment. How it is asked
//! for, and when its rows are durable, is not known here.

use sqlx::postgres::PgRow;

use super::decode::{self, Decoder, Misread};
use crate::message::{Message, Position};

/// How a read's rows become durable.
pub(super) enum Flush {
    Done,
    /// Once the WAL is flushed to this position; `None` is unknown, so it has to be forced.
    Awaited(Option<String>),
}

/// A batch in the making.
pub(super) struct Page {
    rows_max: usize,
    bytes_max: u64,
    pub(super) messages: Vec<Message>,
    stored: u64,
    sent: u64,
    pub(super) highest: Option<Position>,
    pub(super) writers: String,
    pub(super) flush: Flush,
}

impl Page {
    pub(super) fn new(rows_max: usize, bytes_max: usize) -> Self {
        let bytes_max = u64::try_from(bytes_max).unwrap_or(u64::MAX);
        Self {
            rows_max,
            bytes_max,
            messages: Vec::new(),
            stored: 0,
            sent: 0,
            highest: None,
            writers: String::new(),
            flush: Flush::Awaited(None),
        }
    }

    pub(super) fn add(&mut self, row: &PgRow, decoder: &mut Decoder) -> Result<(), Misread> {
        if decode::bytes(row, 3).is_some() {
            return self.moment(row);
        }
        if self.sent >= self.bytes_max {
            // Compressed, it was stored within the budget.
            return Ok(());
        }
        let decoded = decoder.row(row)?;
        self.stored = self.stored.saturating_add(decoded.stored);
        self.sent = self.sent.saturating_add(decoded.sent);
        self.messages.push(decoded.message);
        Ok(())
    }

    fn moment(&mut self, row: &PgRow) -> Result<(), Misread> {
        self.highest = decode::bytes(row, 0).map(decode::int).transpose()?.map(Position);
        self.writers = decode::text(row, 1).unwrap_or_default().to_owned();
        let durable = decode::bytes(row, 3) == Some(&[1]);
        self.flush =
            if durable { Flush::Done } else { Flush::Awaited(decode::text(row, 2).map(str::to_owned)) };
        Ok(())
    }

    /// The statement leaves a row out if and only if the rows or the stored bytes are used up, and
    /// [`add`](Self::add) if the sent bytes are.
    pub(super) fn cut(&self) -> bool {
        self.messages.len() >= self.rows_max || self.stored >= self.bytes_max || self.sent >= self.bytes_max
    }
}
