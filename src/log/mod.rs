//! What a running relay says: transitions, not traffic.
//!
//! [`Chronicle`] listens at the pump and writes a line when something changes: the lease, the database,
//! the broker, a message that is held back, the end. What goes on is said again every 30 seconds, with
//! how long or how often, so that neither an outage nor a poisoned table can fill a disk. ERROR means
//! that it stays so until someone acts. Keys, headers and payloads are never written.

use std::collections::HashSet;
use std::io::{self, IsTerminal};
use std::time::Duration;

use tracing::{debug, error, info, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

mod limit;

use crate::config::{Log, LogFormat};
use crate::health::{Health, advice, blames_broker, database_answer};
use crate::message::RowRef;
use crate::pump::Observer;
use crate::relay::{Action, Exit, Input, News, View};
use crate::sink::{Destination, ErrorType, Failure, Fault, SinkEvent};
use crate::source::{Epoch, Holder, Refusal, Remark, SourceError, SourceErrorKind};
use limit::{Outage, Summary, Tally};

/// Why nothing can be logged.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("could not understand log.filter: {0}")]
    Filter(#[from] ParseError),
    #[error("could not start logging: it was started before")]
    Started,
}

/// Starts logging to standard error, for the whole process.
///
/// # Errors
///
/// If `log.filter` is not a filter, or logging was started before.
pub fn init(log: &Log) -> Result<(), InitError> {
    let filter = without_client(EnvFilter::builder().parse(&log.filter)?, &log.filter);
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match log.format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|_| InitError::Started)
}

/// RabbitMQ's client reports what the relay reports too, and prints whole messages that come back; those
/// stay unsaid even if it is asked for.
fn without_client(filter: EnvFilter, written: &str) -> EnvFilter {
    let off = |directive: &str| directive.parse().expect("a directive of ours");
    let filter = filter.add_directive(off("lapin::returned_messages=off"));
    if written.contains("lapin") { filter } else { filter.add_directive(off("lapin=off")) }
}

/// The longest text taken over from a database or a broker, in characters.
const TEXT_MAX: usize = 600;

/// Text from elsewhere, fit for a line: no control characters, and not too long.
#[must_use]
pub fn clean(text: &str) -> String {
    let visible = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    visible.take(TEXT_MAX).collect()
}

/// A kind of failure: what is counted together.
type FailureKind = (Option<Destination>, ErrorType);

/// Writes down what changes.
#[derive(Debug)]
pub struct Chronicle {
    pipeline: String,
    health: Health,
    epoch: Option<Epoch>,
    standby_said: bool,
    database: Option<Outage<SourceError>>,
    listener: Option<Outage<SourceError>>,
    broker: Option<Outage<Failure>>,
    sink: Option<Outage<Failure>>,
    held: Tally<FailureKind>,
    refused: Tally<bool>,
    /// Said once: the source repeats them with each connection.
    remarks: HashSet<Remark>,
}

impl Chronicle {
    #[must_use]
    pub fn new(pipeline: &str) -> Self {
        Self {
            pipeline: pipeline.to_owned(),
            health: Health::default(),
            epoch: None,
            standby_said: false,
            database: None,
            listener: None,
            broker: None,
            sink: None,
            held: Tally::default(),
            refused: Tally::default(),
            remarks: HashSet::new(),
        }
    }

    fn told(&mut self, now: Duration, news: &News) {
        let pipeline = &self.pipeline;
        match news {
            News::LeaseTaken(epoch) => {
                self.standby_said = false;
                info!(pipeline, epoch, "lease taken: relaying");
            }
            News::LeaseLost => {
                warn!(pipeline, "lease lost: another relay may hold it; publishing has stopped")
            }
            News::TrustEnded => {
                warn!(pipeline, "lease not renewed in time: publishing has stopped until it is");
            }
            News::GateShut(failure) => self.gate_shut(now, failure),
            News::GateOpened => self.gate_opened(now),
            News::SinkFailed(failure) => self.sink_failed(now, failure),
            News::Held { row, destination, failure, tries, again_in } => {
                let kind = (destination.clone(), failure.error_type);
                if self.held.note(now, kind) {
                    self.say_held(row, destination.as_ref(), failure, *tries, *again_in);
                }
            }
            News::MarkRefused { row, refusal } => {
                if self.refused.note(now, matches!(refusal, Refusal::Vanished(_))) {
                    self.say_refused(row, refusal);
                }
            }
            News::MarksAccepted => info!(pipeline, "every delivered row is marked again"),
            News::Draining => info!(pipeline, "draining: reads have stopped, what is in flight is awaited"),
        }
    }

    fn gate_shut(&mut self, now: Duration, failure: &Failure) {
        let (pipeline, reason) = (&self.pipeline, clean(&failure.reason));
        if !blames_broker(failure) {
            return debug!(pipeline, reason, "publishing paused for a moment");
        }
        self.broker = Some(Outage::new(now, failure.clone()));
        let (error_type, hint) = (failure.error_type.as_str(), advice(failure.error_type));
        warn!(pipeline, error_type, reason, hint, "broker lost: publishing waits until it is back");
    }

    fn gate_opened(&mut self, now: Duration) {
        let pipeline = &self.pipeline;
        match self.broker.take() {
            Some(outage) => info!(pipeline, lasted_s = outage.lasted_s(now), "broker regained"),
            None => debug!(pipeline, "publishing goes on"),
        }
    }

    /// A client made anew may break again at once, so only a confirmation ends this.
    fn sink_failed(&mut self, now: Duration, failure: &Failure) {
        if let Some(outage) = &mut self.sink {
            return outage.goes_on(failure);
        }
        self.sink = Some(Outage::new(now, failure.clone()));
        let (pipeline, reason) = (&self.pipeline, clean(&failure.reason));
        let (error_type, hint) = (failure.error_type.as_str(), advice(failure.error_type));
        error!(pipeline, error_type, reason, hint, "broker client failed: it is made anew until it works");
    }

    fn say_held(
        &self,
        row: &RowRef,
        destination: Option<&Destination>,
        failure: &Failure,
        tries: u32,
        again_in: Duration,
    ) {
        let pipeline = &self.pipeline;
        let row = clean(&row.id.to_string());
        let destination = destination.map(|destination| clean(&destination.to_string()));
        let (error_type, hint) = (failure.error_type.as_str(), advice(failure.error_type));
        let reason = clean(&failure.reason);
        let again_in_s = again_in.as_secs_f64();
        match failure.fault {
            Fault::Permanent | Fault::Blocked => error!(
                pipeline,
                row,
                destination,
                error_type,
                reason,
                hint,
                tries,
                again_in_s,
                "message held back, and its key with it, until someone acts"
            ),
            Fault::Transient | Fault::Unavailable | Fault::Fenced | Fault::Fatal => warn!(
                pipeline,
                row,
                destination,
                error_type,
                reason,
                hint,
                tries,
                again_in_s,
                "message held back, and its key with it"
            ),
        }
    }

    fn say_refused(&self, row: &RowRef, refusal: &Refusal) {
        let (pipeline, row) = (&self.pipeline, clean(&row.id.to_string()));
        match refusal {
            Refusal::Vanished(reason) => {
                let reason = clean(reason);
                let hint = "look for row security, a trigger or a rule on the outbox table";
                error!(
                    pipeline,
                    row, reason, hint, "delivered row does not stay marked: publishing has stopped"
                );
            }
            Refusal::Failed(reason) => {
                let reason = clean(reason);
                error!(
                    pipeline,
                    row, reason, "delivered row cannot be marked: it will repeat after a restart"
                );
            }
        }
    }

    fn heard_from_database(&mut self, now: Duration, answer: Result<(), &SourceError>) {
        match (answer, &mut self.database) {
            (Err(failure), Some(outage)) => outage.goes_on(failure),
            (Err(failure), None) => {
                self.database = Some(Outage::new(now, failure.clone()));
                self.say_database(failure, None);
            }
            (Ok(()), Some(outage)) if self.health.database() == Some(true) => {
                info!(pipeline = self.pipeline, lasted_s = outage.lasted_s(now), "database regained");
                self.database = None;
            }
            (Ok(()), _) => {}
        }
    }

    /// Told once: while it lasts, rows are found as they would be without it.
    fn heard_from_listener(&mut self, now: Duration, answer: &Result<(), SourceError>) {
        let pipeline = &self.pipeline;
        match (answer, &mut self.listener) {
            (Err(failure), Some(outage)) => outage.goes_on(failure),
            (Err(failure), None) => {
                let (reason, hint) = (clean(&failure.message), failure.hint.as_deref().map(clean));
                warn!(pipeline, reason, hint, "notifications lost: rows are found by polling alone");
                self.listener = Some(Outage::new(now, failure.clone()));
            }
            (Ok(()), Some(outage)) => {
                info!(pipeline, lasted_s = outage.lasted_s(now), "notifications regained");
                self.listener = None;
            }
            (Ok(()), None) => {}
        }
    }

    fn say_database(&self, failure: &SourceError, lasted_s: Option<u64>) {
        let (pipeline, reason) = (&self.pipeline, clean(&failure.message));
        let hint = failure.hint.as_deref().map(clean);
        match failure.kind {
            SourceErrorKind::Unavailable => {
                warn!(pipeline, reason, hint, lasted_s, "database lost: it is tried again until it is back");
            }
            SourceErrorKind::Unfit => {
                error!(
                    pipeline,
                    reason, hint, lasted_s, "database refuses: it is asked again until someone acts"
                );
            }
        }
    }

    fn say_remark(&mut self, remark: &Remark) {
        if !self.remarks.insert(remark.clone()) {
            return;
        }
        let (pipeline, text) = (&self.pipeline, clean(&remark.text));
        match remark.hint.as_deref().map(clean) {
            Some(hint) => warn!(pipeline, hint, "{text}"),
            None => info!(pipeline, "{text}"),
        }
    }

    fn say_stopped(&self, exit: Exit) {
        let pipeline = &self.pipeline;
        match exit {
            Exit::Drained => info!(pipeline, "stopped: every published row is settled"),
            Exit::Unfinished { unknown } => {
                warn!(pipeline, unknown, "stopped before every published row was settled: they may repeat");
            }
        }
    }

    /// Says again what goes on.
    fn remind(&mut self, now: Duration) {
        if let Some(outage) = &mut self.database
            && outage.due(now)
        {
            let (failure, lasted_s) = (outage.latest.clone(), outage.lasted_s(now));
            self.say_database(&failure, Some(lasted_s));
        }
        let pipeline = &self.pipeline;
        if let Some(outage) = self.broker.as_mut().filter(|_| self.epoch.is_some())
            && outage.due(now)
        {
            let (lasted_s, reason) = (outage.lasted_s(now), clean(&outage.latest.reason));
            warn!(pipeline, lasted_s, reason, "broker still out");
        }
        if let Some(outage) = self.sink.as_mut().filter(|_| self.epoch.is_some())
            && outage.due(now)
        {
            let (lasted_s, reason) = (outage.lasted_s(now), clean(&outage.latest.reason));
            error!(pipeline, lasted_s, reason, "broker client still failing");
        }
        if let Some(Summary { times, kinds, most: (destination, error_type) }) = self.held.due(now) {
            let destination = destination.map(|destination| clean(&destination.to_string()));
            let error_type = error_type.as_str();
            warn!(
                pipeline,
                times, kinds, destination, error_type, "messages held back again; most often this one"
            );
        }
        if let Some(Summary { times, .. }) = self.refused.due(now) {
            error!(pipeline, times, "delivered rows still cannot be marked");
        }
    }
}

impl Observer for Chronicle {
    fn action(&mut self, now: Duration, action: &Action) {
        match action {
            Action::Tell(news) => self.told(now, news),
            Action::Stop(exit) => self.say_stopped(*exit),
            Action::Lease
            | Action::Release
            | Action::Open(_)
            | Action::Fetch(_)
            | Action::Publish(_)
            | Action::Purge
            | Action::Settle(_)
            | Action::Measure
            | Action::Listen => {}
        }
    }

    fn input(&mut self, now: Duration, input: &Input) {
        self.health.hear(input);
        if let Some((_, answer)) = database_answer(input) {
            self.heard_from_database(now, answer);
        }
        match input {
            Input::Lease(Ok(Holder::Other { .. })) if self.epoch.is_none() && !self.standby_said => {
                self.standby_said = true;
                info!(pipeline = self.pipeline, "standing by: another relay holds the lease");
            }
            Input::Hinted(answer) => self.heard_from_listener(now, answer),
            Input::Sink(events) if self.sink.is_some() && confirms(events) => {
                let outage = self.sink.take().expect("it was looked at");
                let lasted_s = outage.lasted_s(now);
                info!(pipeline = self.pipeline, lasted_s, "broker client works again");
            }
            Input::Fetched { result: Ok(batch), .. } => {
                batch.remarks.iter().for_each(|remark| self.say_remark(remark));
            }
            Input::Lease(_)
            | Input::Released(_)
            | Input::Opened(_)
            | Input::Fetched { result: Err(_), .. }
            | Input::Sink(_)
            | Input::Settled(_)
            | Input::Measured(_)
            | Input::Tick
            | Input::Drain
            | Input::Abort => {}
        }
    }

    fn view(&mut self, now: Duration, view: &View) {
        self.epoch = view.epoch;
        if view.epoch.is_none() {
            self.health.stand_by();
        }
        self.remind(now);
    }
}

fn confirms(events: &[SinkEvent]) -> bool {
    events.iter().any(|event| match event {
        SinkEvent::Outcomes(outcomes) => outcomes.iter().any(|outcome| outcome.result.is_ok()),
        SinkEvent::Down(_) | SinkEvent::Up => false,
    })
}
