//! Finds rows by asking: [`Poll`] carries the calls of [`Source`] out over three connections. It
//! decides nothing, waits for nothing between calls, and starts afresh after every failure.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering as Memory};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::postgres::PgRow;
use tokio::sync::Mutex as Turns;

use super::connection::{
    self, Connector, INSUFFICIENT_PRIVILEGE, LOCK_NOT_AVAILABLE, Link, Process, Slot, explain,
};
use super::decode::{self, Decoder, Misread};
use super::floor::Below;
use super::indexes::explain_slow;
use super::lease::Lease;
use super::listener::Listener;
use super::outbox::{Ids, KeyKind, Outbox};
use super::page::{Flush, Page};
use super::schema::Table;
use super::state::{explain_login, explain_state};
use super::statement::Statement;
use super::wire::Wire;
use super::writers::Writers;
use super::{
    Backlog, Batch, Fetch, Holder, Refusal, Remark, Settled, Settlement, Source, SourceError,
    SourceErrorKind, start,
};
use crate::config::{self, ColumnName};
use crate::message::{RowId, RowRef, Timestamp};
use crate::sink::Destination;

const READ: &str = "could not read the outbox";
const MARK: &str = "could not mark rows delivered";
/// A healthy database on a bad day answers within this.
const LEASE_PATIENCE_MIN: Duration = Duration::from_secs(1);

const LEASE: &str = "could not take or renew the lease";
const MEASURE: &str = "could not measure the backlog";

/// Ids of one statement: more gain nothing, and a failing one is split.
const SETTLE_ROWS_MAX: usize = 5_000;

/// How long rows may wait for the server to flush the WAL by itself. An idle writer can hold it back
/// for seconds, so afterwards we make it flush.
const FLUSH_LOOKS_MAX: u32 = 5;
const FLUSH_LOOK_EVERY: Duration = Duration::from_millis(1);

/// What a polling source is made of.
#[derive(Debug, Clone)]
pub struct PollSettings {
    pub pipeline: config::Pipeline,
    pub database: config::Database,
    pub state: config::State,
    pub outbox: config::Outbox,
    pub lease: config::Lease,
    pub ordering: config::Ordering,
    /// An SQL expression over the outbox row `o`: the [identity](Destination::identity) of its scope as text,
    /// or NULL.
    pub scope_sql: String,
    /// The columns in it, ids aside.
    pub scope_columns: Vec<ColumnName>,
}

/// The outbox of one pipeline, polled.
#[derive(Debug)]
pub struct Poll {
    settings: PollSettings,
    connector: Connector,
    lease: Lease,
    /// Three connections, made when first needed, and never a fourth that asks. Reads and counts take turns on
    /// this one: what makes a count slow makes a read slow too, and neither may cost the lease.
    reader: Turns<Option<Reader>>,
    marker: Slot<Session>,
    /// The lease alone; all that a standby holds.
    keeper: Slot<Session>,
    /// One more if it listens.
    listener: Slot<Listener>,
    /// The marker's server process, which takes locks like a writer.
    marking: Mutex<Process>,
    /// The reader's latest.
    reader_pid: AtomicI32,
    writers: Mutex<Writers>,
    leading: AtomicBool,
    first_sight: Mutex<Option<(RowId, Timestamp)>>,
    /// Where the pipeline begins, as the reader knows it; nothing before it connected.
    floor: Mutex<Option<Option<i64>>>,
}

/// A connection and what the outbox looks like over it. Looked up once for each connection, so that
/// a changed table is seen by the next one.
#[derive(Debug)]
struct Session {
    link: Link,
    outbox: Option<Arc<Outbox>>,
}

#[derive(Debug)]
struct Reader {
    session: Session,
    outbox: Arc<Outbox>,
    decoder: Decoder,
    /// Not yet said over this connection.
    remarks: Vec<Remark>,
}

impl Poll {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// `Unfit` if the database URL cannot be read.
    pub fn new(settings: PollSettings) -> Result<Self, SourceError> {
        Ok(Self {
            connector: Connector::new(&settings.database, &settings.pipeline.name)?,
            lease: Lease::new(&settings.state.schema, &settings.pipeline.name, settings.lease.ttl),
            reader: Turns::default(),
            marker: Slot::default(),
            keeper: Slot::default(),
            listener: Slot::default(),
            marking: Mutex::default(),
            reader_pid: AtomicI32::new(0),
            writers: Mutex::default(),
            leading: AtomicBool::new(false),
            first_sight: Mutex::default(),
            floor: Mutex::default(),
            settings,
        })
    }

    async fn session(&self, slot: &Slot<Session>) -> Result<Session, SourceError> {
        match slot.take() {
            Some(session) => Ok(session),
            None => self.connect().await,
        }
    }

    async fn connect(&self) -> Result<Session, SourceError> {
        let link = self.connector.connect().await;
        let link = link.map_err(|error| explain_login(&self.settings.database, error))?;
        Ok(Session { link, outbox: None })
    }

    async fn outbox(&self, session: &mut Session) -> Result<Arc<Outbox>, SourceError> {
        if let Some(outbox) = &session.outbox {
            return Ok(Arc::clone(outbox));
        }
        let table = self.table(&mut session.link).await?;
        let begun = start::begin(&mut session.link, &self.settings, &table).await;
        if begun.as_ref().is_err_and(|error| error.kind == SourceErrorKind::Unfit && error.hint.is_none()) {
            // The table changed in the moment since it was looked up: what is wrong with it now?
            self.table(&mut session.link).await?;
        }
        let begun = begun.map_err(|error| explain_slow(error, table.unindexed.as_ref()))?;
        let table = table.begun(&begun);
        let mut outbox = Outbox::new(&table, &self.settings.outbox, &self.settings.scope_sql);
        outbox.floor = begun.floor;
        let outbox = Arc::new(outbox);
        session.outbox = Some(Arc::clone(&outbox));
        Ok(outbox)
    }

    async fn table(&self, link: &mut Link) -> Result<Table, SourceError> {
        let Self { settings, .. } = self;
        let table = Table::resolve(link, &settings.outbox, settings.ordering).await?;
        table.check_scope(&settings.outbox, &settings.scope_columns)?;
        Ok(table)
    }
}

impl Poll {
    async fn ask_for_lease(&self) -> Result<Holder, SourceError> {
        let mut session = self.session(&self.keeper).await?;
        let leading = self.leading.swap(false, Memory::Relaxed);
        let lease = &self.lease;
        let holder = session
            .link
            .run(async |c| if leading { lease.renew(c).await } else { lease.take(c).await })
            .await
            .map_err(|error| explain_state(&self.settings, LEASE, &error))?;
        self.leading.store(holder.epoch().is_some(), Memory::Relaxed);
        self.keeper.put(session);
        if holder.epoch().is_none() {
            self.stand_by();
        }
        Ok(holder)
    }

    /// Closes what only an active relay needs. What is in use this moment is closed at the next occasion.
    fn stand_by(&self) {
        if let Ok(mut reader) = self.reader.try_lock() {
            *reader = None;
        }
        drop((self.marker.take(), self.listener.take()));
    }
}

impl Source for Poll {
    async fn lease(&self) -> Result<Holder, SourceError> {
        // A link that answers nothing must not use up the time in which others would be tried.
        let patience = (self.settings.lease.ttl / 5).max(LEASE_PATIENCE_MIN);
        let asked = tokio::time::timeout(patience, self.ask_for_lease()).await;
        asked.unwrap_or_else(|_| Err(connection::silent(LEASE, patience)))
    }

    async fn release(&self) -> Result<(), SourceError> {
        let mut session = self.session(&self.keeper).await?;
        self.leading.store(false, Memory::Relaxed);
        session
            .link
            .run(async |c| self.lease.release(c).await)
            .await
            .map_err(|error| explain_state(&self.settings, LEASE, &error))?;
        self.keeper.put(session);
        Ok(())
    }

    async fn fetch(&self, fetch: Fetch) -> Result<Batch, SourceError> {
        let mut turn = self.reader.lock().await;
        let mut reader = self.reader_at(&mut turn).await?;
        let mut read = self.read(&mut reader, &fetch).await;
        if read.as_ref().is_err_and(connection::is_outdated_plan) {
            // The table was altered since this connection planned its statements: nothing to tell people.
            drop(reader);
            reader = self.connect_reader().await?;
            read = self.read(&mut reader, &fetch).await;
        }
        let (batch, insert_lsn) = match read {
            Ok(read) => read,
            Err(error) => return Err(self.explain_read(&mut reader, READ, &error).await),
        };
        if let (Flush::Awaited(lsn), false) = (insert_lsn, batch.messages.is_empty()) {
            await_flush(&mut reader.session.link, lsn).await?;
        }
        *turn = Some(reader);
        Ok(batch)
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Settled, SourceError> {
        let mut session = self.session(&self.marker).await?;
        let reads_from = *lock(&self.floor);
        session.outbox.take_if(|outbox| reads_from.is_some_and(|floor| floor != outbox.begins_above()));
        *lock(&self.marking) = session.link.process.clone();
        let outbox = self.outbox(&mut session).await?;
        let mut settled = Settled::default();
        for part in settlements.chunks(SETTLE_ROWS_MAX) {
            let rows = part.iter().map(|settlement| settlement.row().clone()).collect();
            self.settle_part(&mut session, &outbox, rows, &mut settled).await?;
        }
        self.marker.put(session);
        Ok(settled)
    }

    async fn backlog(&self) -> Result<Backlog, SourceError> {
        let mut turn = self.reader.lock().await;
        let mut reader = self.reader_at(&mut turn).await?;
        if self.is_moved(&mut reader).await? {
            drop(reader);
            reader = self.connect_reader().await?;
        }
        let Reader { session, outbox, .. } = &mut reader;
        let statement = &outbox.backlog;
        let count =
            async |c: &mut Wire| sqlx::query(statement.sql()).bind(Backlog::counted_max()).fetch_one(c).await;
        let row = match session.link.run(count).await {
            Ok(row) => row,
            Err(error) => return Err(self.explain_read(&mut reader, MEASURE, &error).await),
        };
        let backlog = self.read_backlog(outbox, &row).map_err(|misread| misread_error(MEASURE, &misread))?;
        *turn = Some(reader);
        Ok(backlog)
    }

    async fn listen(&self) -> Result<(), SourceError> {
        let Some(channel) = &self.settings.outbox.listen else { return std::future::pending().await };
        let Some(mut listener) = self.listener.take() else {
            let connector = Connector::direct(&self.settings.database, &self.settings.pipeline.name)?;
            self.listener.put(Listener::open(&connector, channel).await?);
            return Ok(());
        };
        listener.notified().await?;
        self.listener.put(listener);
        Ok(())
    }
}

/// Reading.
impl Poll {
    /// The reader, taken out: it is put back by a call that succeeds, and made anew after any other.
    async fn reader_at(&self, turn: &mut Option<Reader>) -> Result<Reader, SourceError> {
        match turn.take() {
            Some(reader) => Ok(reader),
            None => self.connect_reader().await,
        }
    }

    async fn connect_reader(&self) -> Result<Reader, SourceError> {
        let mut session = self.connect().await?;
        let abandoned = self.reader_pid.swap(session.link.process.pid, Memory::Relaxed);
        cancel_abandoned(&mut session.link, abandoned).await?;
        let outbox = self.outbox(&mut session).await?;
        *lock(&self.floor) = Some(outbox.begins_above());
        let columns = &self.settings.outbox.columns;
        let mapped = columns.to_headers.keys().map(|name| Arc::from(name.as_str())).collect();
        let decoder = Decoder::new(outbox.id, columns.headers.clone(), mapped);
        let remarks = outbox.remarks.clone();
        Ok(Reader { session, outbox, decoder, remarks })
    }

    async fn read(&self, reader: &mut Reader, fetch: &Fetch) -> Result<(Batch, Flush), sqlx::Error> {
        let Reader { session, outbox, decoder, remarks } = reader;
        let own = [session.link.process.clone(), lock(&self.marking).clone()];
        let sent = session.link.run(async |c| {
            let mut page = Page::new(fetch.rows_max, fetch.bytes_max);
            let mut rows = self.fetch_query(outbox, fetch, &own).fetch(c);
            while let Some(row) = rows.try_next().await? {
                page.add(&row, decoder).map_err(|misread| sqlx::Error::Decode(misread.into()))?;
            }
            Ok(page)
        });
        let page = sent.await?;
        let writers = lock(&self.writers).seen(&page.writers);
        let remarks = std::mem::take(remarks);
        let batch =
            Batch { cut: page.cut(), messages: page.messages, highest: page.highest, writers, remarks };
        Ok((batch, page.flush))
    }

    fn fetch_query<'q>(
        &self,
        outbox: &Outbox,
        fetch: &Fetch,
        own: &[Process; 2],
    ) -> sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments> {
        let query = sqlx::query(outbox.fetch(fetch).sql())
            .bind(fetch.after.0)
            .bind(to_i64(fetch.rows_max))
            .bind(to_i64(fetch.bytes_max))
            .bind(to_i64(self.settings.outbox.message_bytes_max))
            .bind(own.each_ref().map(|process| process.pid));
        let query = bind_ids(query, Ids::new(outbox.id, fetch.exclude.iter()));
        let lanes = &fetch.skip.lanes;
        let query = match outbox.key {
            KeyKind::Bytes => query.bind(lanes.iter().map(|lane| lane.key.to_vec()).collect::<Vec<_>>()),
            KeyKind::Text => query.bind(lanes.iter().map(|lane| utf8(&lane.key)).collect::<Vec<_>>()),
        };
        let scopes = lanes.iter().map(|lane| lane.scope.as_ref().map(Destination::identity));
        query
            .bind(scopes.collect::<Vec<_>>())
            .bind(fetch.skip.scopes.iter().map(Destination::identity).collect::<Vec<_>>())
            .bind(own.each_ref().map(|process| process.started.clone()))
    }
}

/// Explaining.
impl Poll {
    /// Looks below the beginning, where nobody else does. True if that is elsewhere by now, so that all that is
    /// known of the outbox is out of date.
    async fn is_moved(&self, reader: &mut Reader) -> Result<bool, SourceError> {
        let Some(floor) = &reader.outbox.floor else { return Ok(false) };
        match floor.look(&mut reader.session.link).await {
            Ok(Below::Unchanged) => Ok(false),
            Ok(Below::Appeared(remark)) => {
                if !reader.remarks.contains(&remark) {
                    reader.remarks.push(remark);
                }
                Ok(false)
            }
            Ok(Below::Restarted(error)) => Err(error),
            Ok(Below::Moved) => Ok(true),
            Err(error) => Err(self.explain_read(reader, MEASURE, &error).await),
        }
    }

    async fn explain_read(&self, reader: &mut Reader, attempt: &str, error: &sqlx::Error) -> SourceError {
        let explained = self.explain_misfit(&mut reader.session.link, attempt, error).await;
        explain_slow(explained, reader.outbox.unindexed.as_ref())
    }

    /// A statement that no longer fits the table is answered with what has become of the table, and with
    /// the SQL that mends it, rather than with what the parser says.
    async fn explain_misfit(&self, link: &mut Link, attempt: &str, error: &sqlx::Error) -> SourceError {
        if connection::is_about_the_schema(error)
            && let Err(misfit) = self.table(link).await
        {
            return misfit;
        }
        explain(attempt, error)
    }
}

/// Waits until everything below `lsn` would survive a crash of the database.
async fn await_flush(link: &mut Link, lsn: Option<String>) -> Result<(), SourceError> {
    const ATTEMPT: &str = "could not make sure that the rows read are durable";
    if let Some(lsn) = lsn {
        for _ in 0..FLUSH_LOOKS_MAX {
            tokio::time::sleep(FLUSH_LOOK_EVERY).await;
            let look = "select pg_current_wal_flush_lsn() >= $1::text::pg_lsn";
            if link.ask(ATTEMPT, async |c| sqlx::query_scalar(look).bind(&lsn).fetch_one(c).await).await? {
                return Ok(());
            }
        }
    }
    // A commit of our own comes after theirs in the WAL, and is synchronous: it flushes (and, with
    // synchronous standbys, replicates) theirs. It must write something, or it flushes nothing.
    let force = "select pg_logical_emit_message(true, 'outbox_relay.barrier', '')::text";
    link.ask(ATTEMPT, async |c| sqlx::query(force).execute(c).await.map(drop)).await
}

/// Ends what our last reader was doing when we gave it up: a barrier that no standby answers waits for
/// ever, and the next one must not pile up on it.
async fn cancel_abandoned(link: &mut Link, pid: i32) -> Result<(), SourceError> {
    const ATTEMPT: &str = "could not end a wait that was given up";
    let cancel = sqlx::query(include_str!("outbox/cancel_abandoned.sql").trim_end()).bind(pid);
    link.ask(ATTEMPT, async |c| cancel.execute(c).await.map(drop)).await
}

/// Marking.
impl Poll {
    /// Marks what can be marked. A statement that fails because of a row is split until the row is alone.
    async fn settle_part(
        &self,
        session: &mut Session,
        outbox: &Outbox,
        rows: Vec<RowRef>,
        settled: &mut Settled,
    ) -> Result<(), SourceError> {
        let mut parts = vec![rows];
        while let Some(mut rows) = parts.pop() {
            match mark(session, outbox, &outbox.settle, &rows).await {
                Ok(kept) => sort_out(rows, &kept, vanished, settled),
                // Somebody holds a row (or all of the table: then this fails in the same way).
                Err(error) if connection::sqlstate(&error) == Some(LOCK_NOT_AVAILABLE) => {
                    let kept = mark(session, outbox, &outbox.settle_unlocked, &rows).await;
                    let kept = kept.map_err(|error| explain(MARK, &error))?;
                    sort_out(rows, &kept, locked, settled);
                }
                Err(error) if !connection::is_about_a_row(&error) => {
                    return Err(self.explain_misfit(&mut session.link, MARK, &error).await);
                }
                Err(error) => {
                    self.check_grant(session, &error).await?;
                    let half = rows.split_off(rows.len() / 2);
                    if rows.is_empty() {
                        let reason = connection::reason(&error);
                        settled.refused.extend(half.into_iter().map(|row| (row, failed(&reason))));
                    } else {
                        parts.extend([half, rows]);
                    }
                }
            }
        }
        Ok(())
    }

    /// "Permission denied" comes from a trigger about one row, or from a grant that was taken away.
    async fn check_grant(&self, session: &mut Session, error: &sqlx::Error) -> Result<(), SourceError> {
        if connection::sqlstate(error) != Some(INSUFFICIENT_PRIVILEGE) {
            return Ok(());
        }
        self.table(&mut session.link).await.map(drop)
    }
}

fn failed(reason: &str) -> Refusal {
    Refusal::Failed(reason.into())
}

/// Marks `rows` and returns the ids of those that are pending nevertheless. The statement counts,
/// so the usual case costs one row on its way back.
async fn mark(
    session: &mut Session,
    outbox: &Outbox,
    statement: &Statement,
    rows: &[RowRef],
) -> Result<Vec<RowId>, sqlx::Error> {
    let query = bind_ids(sqlx::query(statement.sql()), ids(outbox, rows));
    let counted = session.link.run(async |c: &mut Wire| query.fetch_one(c).await).await?;
    let marked = decode::bytes(&counted, 0).map(decode::int).transpose();
    let marked = marked.map_err(|misread| sqlx::Error::Decode(misread.into()))?;
    if marked.and_then(|marked| usize::try_from(marked).ok()) == Some(rows.len()) {
        return Ok(Vec::new());
    }
    ids_of(session, outbox, outbox.still_pending.sql(), ids(outbox, rows)).await
}

fn ids(outbox: &Outbox, rows: &[RowRef]) -> Ids {
    Ids::new(outbox.id, rows.iter().map(|row| &row.id))
}

async fn ids_of(
    session: &mut Session,
    outbox: &Outbox,
    statement: sqlx::AssertSqlSafe<Arc<str>>,
    ids: Ids,
) -> Result<Vec<RowId>, sqlx::Error> {
    let query = bind_ids(sqlx::query(statement), ids);
    let rows = session.link.run(async |c: &mut Wire| query.fetch_all(c).await).await?;
    let ids = rows.iter().map(|row| decode::id(outbox.id, decode::bytes(row, 0)));
    ids.collect::<Result<_, _>>().map_err(|misread| sqlx::Error::Decode(misread.into()))
}

fn sort_out(rows: Vec<RowRef>, kept: &[RowId], refusal: fn() -> Refusal, settled: &mut Settled) {
    if kept.is_empty() {
        return settled.done.extend(rows);
    }
    let kept: HashSet<&RowId> = kept.iter().collect();
    for row in rows {
        if kept.contains(&row.id) {
            settled.refused.push((row, refusal()));
        } else {
            settled.done.push(row);
        }
    }
}

fn locked() -> Refusal {
    failed("another transaction holds a lock on the row")
}

fn vanished() -> Refusal {
    Refusal::Vanished(
        "the mark had no effect and the row is still pending: look for row security, a trigger or a rule on the \
         outbox table"
            .into(),
    )
}

/// Measuring.
impl Poll {
    fn read_backlog(&self, outbox: &Outbox, row: &PgRow) -> Result<Backlog, Misread> {
        let pending_rows = decode::int(decode::bytes(row, 0).ok_or(Misread("a count is NULL"))?)?;
        let measured_at = decode::timestamp(decode::bytes(row, 3).ok_or(Misread("the clock is NULL"))?)?;
        let first = decode::bytes(row, 2).map(|id| decode::id(outbox.id, Some(id))).transpose()?;
        let sighted = self.sighted(first, measured_at);
        let oldest = decode::bytes(row, 1).map(decode::timestamp).transpose()?;
        Ok(Backlog { pending_rows: pending_rows.unsigned_abs(), oldest: oldest.or(sighted), measured_at })
    }

    /// When the first pending row was first seen: all there is to go by without a creation time.
    fn sighted(&self, first: Option<RowId>, now: Timestamp) -> Option<Timestamp> {
        let mut sight = lock(&self.first_sight);
        *sight = first.map(|id| match sight.take() {
            Some((known, since)) if known == id => (known, since),
            _ => (id, now),
        });
        sight.as_ref().map(|(_, since)| *since)
    }
}

fn misread_error(attempt: &str, misread: &Misread) -> SourceError {
    SourceError { kind: SourceErrorKind::Unfit, message: format!("{attempt}: {misread}").into(), hint: None }
}

fn bind_ids<'q>(
    query: sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>,
    ids: Ids,
) -> sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments> {
    match ids {
        Ids::Int(ids) => query.bind(ids),
        Ids::Uuid(ids) => query.bind(ids),
        Ids::Text(ids) => query.bind(ids),
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn to_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Keys of a text column are UTF-8, as the connection's encoding is.
fn utf8(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}
