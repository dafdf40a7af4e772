//! What lies at or below a pipeline's beginning: how much is left out, and whether a sequence that was
//! restarted numbers new rows there, where nobody looks. Where a pipeline begins is not decided here.

use std::sync::{Mutex, PoisonError};

use super::connection::{Link, unfit};
use super::mark;
use super::start::Pipeline;
use super::statement::{Statement, literal};
use super::{Backlog, Remark, SourceError};

const COUNT: &str = "could not count what the pipeline leaves out";
const LOOK: &str = "could not look below the pipeline's beginning";

/// The highest position that is not the pipeline's, and what is watched for below it.
#[derive(Debug)]
pub(crate) struct Floor {
    pub(crate) position: i64,
    look: Statement,
    pipeline: String,
    outbox: String,
    /// The table had come up to it at the first look, so a newer row below was numbered anew.
    is_reached: bool,
    /// At the last look.
    edges: Mutex<Option<Edges>>,
    restarted: SourceError,
    appeared: Remark,
}

/// The first and the last pending position at or below the floor.
type Edges = (i64, i64);

/// What a look below the floor finds.
#[derive(Debug)]
pub(crate) enum Below {
    /// What was there, or less.
    Unchanged,
    /// Rows that were not there before and do not say how old they are.
    Appeared(Remark),
    /// Rows that were written since.
    Restarted(SourceError),
    /// Somebody put the floor elsewhere.
    Moved,
}

/// A row of the look.
type Seen = (bool, Option<i64>, Option<i64>, Option<bool>);

impl Floor {
    /// Looks for the first time, and says what is left out.
    ///
    /// # Errors
    /// `Unfit` if new rows are numbered below it, or whatever kept us from asking.
    pub(super) async fn find(
        link: &mut Link,
        pipeline: &Pipeline<'_>,
        position: i64,
        is_reached: bool,
        began: &str,
    ) -> Result<(Self, Option<Remark>), SourceError> {
        let floor = Self::new(pipeline, position, is_reached);
        let seen = floor.seen(link).await.map_err(|error| super::connection::explain(LOOK, &error))?;
        if is_reached && seen.3 == Some(true) {
            return Err(floor.restarted);
        }
        let remark = match floor.remember(seen.1.zip(seen.2)) {
            true => Some(left_out(link, pipeline, position, began).await?),
            false => None,
        };
        Ok((floor, remark))
    }

    fn new(pipeline: &Pipeline<'_>, position: i64, is_reached: bool) -> Self {
        let table = &pipeline.table.name;
        let text = |what: &str| {
            format!(
                "the pipeline began above {position}, and {what} below in {table}: was its sequence restarted?"
            )
        };
        let mend = format!("if so, to publish what is pending: {}", lift(pipeline));
        Self {
            position,
            look: Statement::fill(
                include_str!("outbox/floor_look.sql"),
                &places(pipeline).each_ref().map(|(place, value)| (*place, value.as_str())),
            ),
            pipeline: pipeline.settings.pipeline.name.clone(),
            outbox: pipeline.outbox.clone(),
            is_reached,
            edges: Mutex::default(),
            restarted: unfit(format!("could not go on: {}", text("rows written since are")), mend.clone()),
            appeared: Remark::warning(text("pending rows appeared"), mend),
        }
    }

    /// Cheap: two rows by the index, and the pipeline's own.
    ///
    /// # Errors
    /// Whatever kept us from asking.
    pub(crate) async fn look(&self, link: &mut Link) -> Result<Below, sqlx::Error> {
        let (is_moved, first, last, is_new) = self.seen(link).await?;
        let is_wider = self.remember(first.zip(last));
        Ok(match is_new {
            _ if is_moved => Below::Moved,
            Some(true) if self.is_reached => Below::Restarted(self.restarted.clone()),
            None if self.is_reached && is_wider => Below::Appeared(self.appeared.clone()),
            Some(_) | None => Below::Unchanged,
        })
    }

    async fn seen(&self, link: &mut Link) -> Result<Seen, sqlx::Error> {
        let look =
            sqlx::query_as(self.look.sql()).bind(&self.pipeline).bind(&self.outbox).bind(self.position);
        link.run(async |c| look.fetch_one(c).await).await
    }

    /// Whether something lies further out than at the last look. History only becomes less.
    fn remember(&self, edges: Option<Edges>) -> bool {
        let mut last = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *last, edges);
        edges.is_some_and(|now| before.is_none_or(|before| now.0 < before.0 || now.1 > before.1))
    }
}

async fn left_out(
    link: &mut Link,
    pipeline: &Pipeline<'_>,
    position: i64,
    began: &str,
) -> Result<Remark, SourceError> {
    let places = places(pipeline);
    let places = places.each_ref().map(|(place, value)| (*place, value.as_str()));
    let sql = Statement::fill(include_str!("outbox/floor_left_out.sql"), &places);
    let count = sqlx::query_scalar(sql.sql()).bind(position).bind(Backlog::counted_max());
    let rows: i64 = link.ask(COUNT, async |c| count.fetch_one(c).await).await?;
    let unknown = match pipeline.settings.outbox.columns.created_at {
        Some(_) => "",
        None => "; nothing says how old they are: was its sequence restarted?",
    };
    Ok(Remark::warning(
        format!(
            "{} of {} up to {position} are left out: the pipeline began {began}{unknown}",
            Backlog::counted(rows.unsigned_abs()),
            pipeline.table.name
        ),
        format!("nothing, if they are to stay unpublished; to publish them after all: {}", lift(pipeline)),
    ))
}

/// For a person to run: nothing is left out any more.
fn lift(pipeline: &Pipeline<'_>) -> String {
    format!(
        "update {}.pipeline set start_after = null where pipeline = {} and outbox = {}",
        pipeline.settings.state.schema.quoted(),
        literal(&pipeline.settings.pipeline.name),
        literal(&pipeline.outbox)
    )
}

fn places(pipeline: &Pipeline<'_>) -> [(&'static str, String); 5] {
    [
        ("schema", pipeline.settings.state.schema.quoted()),
        ("table", pipeline.table.name.clone()),
        ("unmarked", mark::unmarked(&pipeline.settings.outbox.mark, pipeline.table, "o.")),
        ("position", pipeline.position()),
        ("created_at", pipeline.created_at()),
    ]
}
