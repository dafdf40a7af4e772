//! Where a pipeline begins. A table may hold years of rows that nobody wants published because a column
//! was mapped today, so a pipeline whose first look finds history asks, and the answer is written down
//! once. When the table is looked at, and what a pending row is, is not known here.

use super::connection::{Link, unfit};
use super::floor::Floor;
use super::mark;
use super::poll::PollSettings;
use super::schema::Table;
use super::state::explain_state;
use super::statement::{Statement, literal};
use super::{Backlog, Remark, SourceError};
use crate::config::{ColumnName, Start};

const LOOK: &str = "could not look at what is pending before the pipeline begins";
const STATE: &str = "could not tell where the pipeline begins";

/// Older rows are history; what an application wrote while its relay was being set up is younger.
const HISTORY_SECONDS: f64 = 3_600.0;

/// Where the pipeline began.
#[derive(Debug)]
pub(crate) struct Begun {
    /// Rows at or below its position are not ours.
    pub(crate) floor: Option<Floor>,
    /// `outbox.start` says something else by now; rows are left out.
    pub(crate) remarks: Vec<Remark>,
}

/// What a look finds before the pipeline began.
#[derive(Debug)]
struct Look {
    pending_rows: i64,
    is_history: bool,
    /// For people. `None`: no row says when it was created.
    oldest: Option<String>,
    highest: Option<i64>,
}

/// The pipeline's row.
#[derive(Debug)]
struct Known {
    first_look_highest: Option<i64>,
    /// For people. `None`: the pipeline holds and asks.
    started: Option<String>,
    start: Option<String>,
    start_after: Option<i64>,
}

/// Where the pipeline began under another name: another table, or another mark of the same rows.
#[derive(Debug)]
struct Elsewhere {
    outbox: String,
    /// For people.
    started: String,
    left_rows_out: bool,
}

/// Says where the pipeline began, and lets it begin if it is clear where.
///
/// # Errors
/// `Unfit` while a person has to say where, or whatever kept us from asking.
pub(crate) async fn begin(
    link: &mut Link,
    settings: &PollSettings,
    table: &Table,
) -> Result<Begun, SourceError> {
    let pipeline = Pipeline { settings, table, outbox: mark::identity(&settings.outbox.mark, &table.name) };
    let known = pipeline.known(link).await?;
    if known.as_ref().is_some_and(|known| known.started.is_some()) {
        return pipeline.begun(link, known).await;
    }
    let look = pipeline.look(link).await?;
    let elsewhere = pipeline.elsewhere(link).await?;
    let first = known.and_then(|known| known.first_look_highest).or(look.highest);
    let decided = match &elsewhere {
        Some(elsewhere) => pipeline.decide_again(&look, elsewhere),
        None => pipeline.decide(&look, first),
    };
    match decided {
        Ok(start) => pipeline.start(link, first, start).await?,
        Err(question) => {
            pipeline.hold(link, first).await?;
            return Err(question);
        }
    }
    // Another relay may have been first, and have said otherwise.
    let known = pipeline.known(link).await?;
    pipeline.begun(link, known).await
}

/// A pipeline at its table.
pub(super) struct Pipeline<'a> {
    pub(super) settings: &'a PollSettings,
    pub(super) table: &'a Table,
    /// The table and what marks its rows, as one name.
    pub(super) outbox: String,
}

/// Deciding.
impl Pipeline<'_> {
    /// `first`: the highest position that was pending at the first look of all.
    fn decide(&self, look: &Look, first: Option<i64>) -> Result<Start, SourceError> {
        let is_ordered = self.table.order.is_some();
        match self.settings.outbox.start {
            None if self.is_history(look) => Err(self.question(look, first)),
            None => Ok(Start::All),
            Some(start @ Start::All) => Ok(start),
            Some(start @ Start::Now) if is_ordered || look.pending_rows == 0 => Ok(start),
            Some(start @ Start::After(_)) if is_ordered => Ok(start),
            Some(start @ (Start::Now | Start::After(_))) => Err(self.unordered(start)),
        }
    }

    /// `outbox.start` was written for the first beginning of this pipeline. Applied to another outbox too,
    /// `now` would pass over rows that nobody has thought of; only `all` passes over none.
    fn decide_again(&self, look: &Look, elsewhere: &Elsewhere) -> Result<Start, SourceError> {
        let leaves_out = elsewhere.left_rows_out || self.settings.outbox.start.is_some();
        match self.settings.outbox.start {
            Some(Start::All) => Ok(Start::All),
            Some(Start::Now | Start::After(_)) | None
                if look.pending_rows > 0 && (leaves_out || self.is_history(look)) =>
            {
                Err(self.question_again(look, elsewhere))
            }
            Some(Start::Now | Start::After(_)) | None => Ok(Start::All),
        }
    }

    /// The oldest come first; without an order those that were not counted may be of any age.
    fn is_history(&self, look: &Look) -> bool {
        look.is_history || (look.is_limited() && self.table.order.is_none())
    }

    fn question_again(&self, look: &Look, elsewhere: &Elsewhere) -> SourceError {
        let (mark, table) = (&self.settings.outbox.mark, self.table);
        let none = match table.order {
            Some(_) => self.answer("start = 'now', start_after = first_look_highest"),
            None => mark::everything(mark, table),
        };
        unfit(
            format!(
                "could not begin by itself: {} holds {}, and the pipeline began on {} at another outbox ({}), which                  is what outbox.start was written for",
                table.name,
                look.count(),
                elsewhere.started,
                elsewhere.outbox
            ),
            format!(
                "to leave out what was pending at the first look of this one ({}): {none}; to publish all that is                  pending, set outbox.start = \"all\" and restart, or without a restart: {}",
                self.outbox,
                self.answer("start = 'all'")
            ),
        )
    }

    /// For a person to run: lets the pipeline begin.
    fn answer(&self, set: &str) -> String {
        format!(
            "update {}.pipeline set {set}, started_at = clock_timestamp() where pipeline = {} and outbox = {}",
            self.settings.state.schema.quoted(),
            literal(&self.settings.pipeline.name),
            literal(&self.outbox)
        )
    }

    fn question(&self, look: &Look, first: Option<i64>) -> SourceError {
        let age = match &look.oldest {
            Some(oldest) => format!("the oldest from {oldest}"),
            None => "and nothing says how old they are".to_owned(),
        };
        let written = |position: Option<i64>| position.map_or_else(|| "1000".to_owned(), |p| p.to_string());
        let up_to = first.map_or_else(String::new, |first| format!(" (up to {first})"));
        unfit(
            format!("could not begin by itself: {} holds {}, {age}", self.table.name, look.count()),
            format!(
                "set outbox.start and restart: \"all\" publishes them, \"now\" never publishes what was pending at \
                 the first look{up_to}, \"after:{}\" publishes only what is above that value of the order column",
                written(look.highest)
            ),
        )
    }

    fn unordered(&self, start: Start) -> SourceError {
        let (mark, table) = (&self.settings.outbox.mark, self.table);
        unfit(
            format!(
                "could not begin with outbox.start = \"{start}\": without an order column (outbox.columns.order) \
                 that a sequence numbers, old rows of {} cannot be told from new ones",
                table.name
            ),
            format!(
                "mark what is not to be published, set outbox.start = \"all\" and restart; all that is pending is \
                 marked by: {}",
                mark::everything(mark, table)
            ),
        )
    }

    fn ignored(&self, known: &Known) -> Option<Remark> {
        let (at, start) = (known.started.as_ref()?, known.start.as_ref()?);
        let ignored = self.settings.outbox.start.filter(|configured| configured.to_string() != *start)?;
        Some(Remark::notice(format!(
            "outbox.start = \"{ignored}\" has no effect: the pipeline began on {at} with \"{start}\""
        )))
    }
}

impl Look {
    fn is_limited(&self) -> bool {
        self.pending_rows.unsigned_abs() > Backlog::COUNT_MAX
    }

    fn count(&self) -> String {
        Backlog::counted(self.pending_rows.unsigned_abs())
    }
}

/// Asking and writing down.
impl Pipeline<'_> {
    async fn look(&self, link: &mut Link) -> Result<Look, SourceError> {
        let table = self.table;
        let position = self.position();
        let order = table.order.as_ref().map_or(String::new(), |_| format!("order by {position}"));
        let places = [
            ("table", &*table.name),
            ("pending", &mark::pending(&self.settings.outbox.mark, table)),
            ("created_at", &self.created_at()),
            ("position", &position),
            ("order", &order),
        ];
        let sql = Statement::fill(include_str!("outbox/start_look.sql"), &places);
        let look = sqlx::query_as(sql.sql()).bind(Backlog::counted_max()).bind(HISTORY_SECONDS);
        let (pending_rows, is_history, oldest, highest) =
            link.ask(LOOK, async |c| look.fetch_one(c).await).await?;
        Ok(Look { pending_rows, is_history, oldest, highest })
    }

    async fn known(&self, link: &mut Link) -> Result<Option<Known>, SourceError> {
        let sql = self.own(include_str!("outbox/start_known.sql"));
        let known = sqlx::query_as(sql.sql()).bind(&self.settings.pipeline.name).bind(&self.outbox);
        let known = link.run(async |c| known.fetch_optional(c).await).await;
        let known = known.map_err(|error| explain_state(self.settings, STATE, &error))?;
        Ok(known.map(|(first_look_highest, started, start, start_after)| Known {
            first_look_highest,
            started,
            start,
            start_after,
        }))
    }

    async fn elsewhere(&self, link: &mut Link) -> Result<Option<Elsewhere>, SourceError> {
        let sql = self.own(include_str!("outbox/start_elsewhere.sql"));
        let elsewhere = sqlx::query_as(sql.sql()).bind(&self.settings.pipeline.name).bind(&self.outbox);
        let elsewhere = link.run(async |c| elsewhere.fetch_optional(c).await).await;
        let elsewhere = elsewhere.map_err(|error| explain_state(self.settings, STATE, &error))?;
        Ok(elsewhere.map(|(outbox, started, left_rows_out)| Elsewhere { outbox, started, left_rows_out }))
    }

    async fn hold(&self, link: &mut Link, first: Option<i64>) -> Result<(), SourceError> {
        let sql = self.own(include_str!("outbox/start_hold.sql"));
        let hold = sqlx::query(sql.sql()).bind(&self.settings.pipeline.name).bind(&self.outbox).bind(first);
        let held = link.run(async |c| hold.execute(c).await.map(drop)).await;
        held.map_err(|error| explain_state(self.settings, STATE, &error))
    }

    async fn start(&self, link: &mut Link, first: Option<i64>, start: Start) -> Result<(), SourceError> {
        let floor = match start {
            Start::All => None,
            Start::Now => first,
            Start::After(position) => Some(position),
        };
        let sql = self.own(include_str!("outbox/start_begin.sql"));
        let begin = sqlx::query(sql.sql()).bind(&self.settings.pipeline.name).bind(&self.outbox);
        let begin = begin.bind(first).bind(start.to_string()).bind(floor);
        let begun = link.run(async |c| begin.execute(c).await.map(drop)).await;
        begun.map_err(|error| explain_state(self.settings, STATE, &error))
    }

    async fn begun(&self, link: &mut Link, known: Option<Known>) -> Result<Begun, SourceError> {
        let known = known.ok_or_else(|| unfit(format!("{STATE}: its row is gone"), "restart the relay"))?;
        let mut remarks = Vec::from_iter(self.ignored(&known));
        let Some(position) = known.start_after.filter(|_| self.table.order.is_some()) else {
            return Ok(Begun { floor: None, remarks });
        };
        // A floor that was set above all there was says nothing about the sequence.
        let is_reached = known.first_look_highest.is_some_and(|first| first >= position);
        let began = known.started.zip(known.start);
        let began = began.map_or_else(String::new, |(at, start)| format!("on {at} with \"{start}\""));
        let (floor, left_out) = Floor::find(link, self, position, is_reached, &began).await?;
        remarks.extend(left_out);
        Ok(Begun { floor: Some(floor), remarks })
    }

    /// `null` without an order.
    pub(super) fn position(&self) -> String {
        self.value(self.table.order.as_ref(), "null::bigint")
    }

    pub(super) fn created_at(&self) -> String {
        self.value(self.settings.outbox.columns.created_at.as_ref(), "null::timestamptz")
    }

    fn value(&self, column: Option<&ColumnName>, absent: &str) -> String {
        column.map_or(absent.to_owned(), |column| format!("o.{}", column.quoted()))
    }

    fn own(&self, sql: &str) -> Statement {
        Statement::fill(sql, &[("schema", &self.settings.state.schema.quoted())])
    }
}
