//! One connection at work: publishes what is in stock, window by window, and says what became of it,
//! until the connection ends. It repeats only what a neighbour's fault left without an answer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::options::ExchangeDeclareOptions;
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection, Error, Event, ExchangeKind};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::classify::{self, code};
use super::keeper::{End, Order};
use super::link::{Link, Settings, connection_error, ended_channel, open_channel};
use super::misses::Misses;
use super::parcel::{Limits, Parcel};
use super::pulse::Pulse;
use super::queue::{Batch, message_id, share_destination};
use super::stock::Stock;
use super::teller::Teller;
use super::window::{self, Answer, Landing};
use crate::sink::{ErrorType, Failure, Fault, Shipment};

/// How often the unsaid is looked at: the client tells of most ends by itself, and of no missing answer.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long the windows of a connection that was cut may take to notice. They do at once.
const WRECK_TIMEOUT: Duration = Duration::from_secs(5);

type Flying = Pin<Box<dyn Future<Output = (usize, Landing)> + Send>>;
type Looking = Pin<Box<dyn Future<Output = (Arc<str>, Result<(), Error>)> + Send>>;

/// A window under way.
#[derive(Debug)]
struct Flight {
    batch: Batch,
    since: Instant,
}

/// What the end of the connection left of a window.
#[derive(Debug)]
struct Wreck {
    lane: usize,
    unknown: Vec<Shipment>,
    unsent: Vec<Shipment>,
    /// All of it may have been published before.
    suspected: bool,
}

impl Wreck {
    /// What may have been published, and what never was.
    fn told_apart(self) -> (Vec<Shipment>, Vec<Shipment>) {
        let Self { mut unknown, mut unsent, suspected, .. } = self;
        if suspected {
            unknown.append(&mut unsent);
        }
        (unknown, unsent)
    }
}

pub(super) struct Service<'k> {
    limits: Limits,
    confirm_timeout: Duration,
    pulse: Arc<Pulse>,
    link: Link,
    orders: &'k mut mpsc::UnboundedReceiver<Order>,
    stock: &'k mut Stock,
    teller: &'k mut Teller,
    /// Between two windows.
    idle: Vec<Channel>,
    /// Windows that may be under way at once, each on a channel.
    channels_max: usize,
    /// The lane whose turn it is, if there are more lanes than channels.
    turn: usize,
    /// By number of the lane.
    flights: Vec<Option<Flight>>,
    flying: FuturesUnordered<Flying>,
    looking: Option<(Instant, Looking)>,
    misses: Misses,
    /// An alarm: the broker reads nothing that is published.
    blocked: bool,
    /// The broker has ended a channel of this connection.
    channel_ended: bool,
    wrecks: Vec<Wreck>,
    /// Why the connection ended, as far as it said.
    cause: Option<Error>,
}

impl<'k> Service<'k> {
    pub(super) fn new(
        settings: &Settings,
        link: Link,
        orders: &'k mut mpsc::UnboundedReceiver<Order>,
        stock: &'k mut Stock,
        teller: &'k mut Teller,
    ) -> Self {
        let frame_bytes_max = link.frame_bytes_max();
        let lanes = settings.broker.channels;
        let channels_max = lanes.min(link.windows_max());
        Self {
            limits: Limits { message_bytes_max: settings.broker.message_bytes_max, frame_bytes_max },
            confirm_timeout: settings.broker.confirm_timeout,
            pulse: Arc::new(Pulse::new()),
            link,
            orders,
            stock,
            teller,
            idle: Vec::new(),
            channels_max,
            turn: 0,
            flights: (0..lanes).map(|_| None).collect(),
            flying: FuturesUnordered::new(),
            looking: None,
            misses: Misses::default(),
            blocked: false,
            channel_ended: false,
            wrecks: Vec::new(),
            cause: None,
        }
    }

    pub(super) async fn run(mut self) -> End {
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            self.launch();
            self.look_for_exchange();
            tokio::select! { biased;
                // 1 Orders: a purge waits for nothing.
                order = self.orders.recv() => match order {
                    Some(Order::Publish(shipments)) => self.stock.admit(shipments),
                    Some(Order::Purge) => return self.purged().await,
                    None => {
                        self.link.close().await;
                        return End::Closed;
                    }
                },
                // 2 Alarms.
                Some(event) = self.link.news.next() => self.heard(event),
                // 3 Windows that have landed make room for others.
                Some((lane, landing)) = self.flying.next() => self.landed(lane, landing),
                // 4 An exchange that was looked for.
                Some((exchange, found)) = looked(&mut self.looking) => self.found(exchange, found),
                // 5 Time, for what never comes.
                _ = look.tick() => {}
            }
            if self.is_overdue() {
                let reason = "the broker confirmed nothing within sink.rabbitmq.confirm_timeout";
                return self
                    .lost(Some(Failure::unknown(Fault::Unavailable, ErrorType::Timeout, reason)))
                    .await;
            }
            if self.cause.is_some() || !self.link.is_up() {
                return self.lost(None).await;
            }
        }
    }

    /// Every lane without a window under way takes its next one.
    fn launch(&mut self) {
        if self.blocked {
            // The client would keep it all in memory.
            return;
        }
        let (first, lanes) = (self.turn, self.flights.len());
        for lane in (0..lanes).map(|step| (first + step) % lanes) {
            while self.flights[lane].is_none()
                && self.flying.len() < self.channels_max
                && let Some(batch) = self.stock.next(lane)
            {
                self.take_off(lane, batch);
                self.turn = lane + 1;
            }
        }
    }

    /// Sends a window on its way, without what cannot be sent at all.
    fn take_off(&mut self, lane: usize, batch: Batch) {
        let Batch { shipments, suspected } = batch;
        let (mut sent, mut parcels) =
            (Vec::with_capacity(shipments.len()), Vec::with_capacity(shipments.len()));
        for shipment in shipments {
            match Parcel::new(&shipment.record, self.limits) {
                Ok(parcel) => {
                    parcels.push(parcel);
                    sent.push(shipment);
                }
                Err(failure) => self.teller.failed(&[shipment], &failure),
            }
        }
        if sent.is_empty() {
            return;
        }
        let ids: Vec<Bytes> = sent.iter().map(message_id).collect();
        let pulse = Arc::clone(&self.pulse);
        let (connection, channel) = (Arc::clone(&self.link.connection), self.idle.pop());
        self.flying.push(Box::pin(async move {
            (lane, window::publish(connection, channel, parcels, ids, suspected, pulse).await)
        }));
        let batch = Batch { shipments: sent, suspected };
        self.flights[lane] = Some(Flight { batch, since: Instant::now() });
    }

    /// One at a time: each exchange is new once.
    fn look_for_exchange(&mut self) {
        self.turn_away_misses();
        if self.looking.is_none()
            && !self.blocked
            && let Some(exchange) = self.stock.exchange_to_see()
        {
            let connection = Arc::clone(&self.link.connection);
            let looking = async move {
                let found = look_for(&connection, &exchange).await;
                (exchange, found)
            };
            self.looking = Some((Instant::now(), Box::pin(looking)));
        }
    }

    /// What was just looked for in vain is not looked for again for each of its messages.
    fn turn_away_misses(&mut self) {
        while let Some(exchange) = self.stock.exchange_to_see()
            && let Some(failure) = self.misses.recent(&exchange, Instant::now())
        {
            self.teller.failed(&self.stock.missed(&exchange), failure);
        }
    }

    fn found(&mut self, exchange: Arc<str>, found: Result<(), Error>) {
        self.looking = None;
        self.pulse.beat();
        match found {
            Ok(()) => self.stock.seen(exchange),
            Err(error) if classify::is_about_a_channel(&error) => {
                let failure = classify::message_failure(&error, false);
                self.teller.failed(&self.stock.missed(&exchange), &failure);
                self.misses.add(exchange, failure, Instant::now());
            }
            Err(error) => self.explain(error),
        }
    }

    fn heard(&mut self, event: Event) {
        match event {
            Event::ConnectionBlocked(reason) => {
                self.blocked = true;
                self.teller.down(classify::alarm(&reason));
            }
            Event::ConnectionUnblocked => {
                self.blocked = false;
                // Nothing could be confirmed meanwhile.
                let flights = self.flights.iter_mut().flatten().map(|flight| &mut flight.since);
                let looking = self.looking.iter_mut().map(|(since, _)| since);
                flights.chain(looking).for_each(|since| *since = Instant::now());
                self.teller.up();
            }
            Event::Error(error) if !self.link.is_up() => self.explain(error),
            // The end of a channel shows in its window.
            _ => {}
        }
    }

    fn is_overdue(&self) -> bool {
        let flights = self.flights.iter().flatten().map(|flight| flight.since);
        let looking = self.looking.iter().map(|(since, _)| *since);
        let oldest = flights.chain(looking).min();
        let has_stopped = |oldest| self.pulse.has_stopped(oldest, Instant::now(), self.confirm_timeout);
        !self.blocked && oldest.is_some_and(has_stopped)
    }

    /// Passes a window's answers on. What has none is put down to a neighbour or to the connection.
    fn landed(&mut self, lane: usize, landing: Landing) {
        let flight = self.flights[lane].take().expect("a window lands once");
        let suspected = flight.batch.suspected;
        let (mut unknown, mut unsent) = (Vec::new(), Vec::new());
        for (shipment, answer) in flight.batch.shipments.into_iter().zip(landing.answers) {
            match answer {
                Answer::Confirmed => self.teller.confirmed(&shipment),
                Answer::Nacked => self.teller.failed(&[shipment], &classify::nack()),
                Answer::Returned => self.teller.failed(&[shipment], &classify::no_route()),
                Answer::Unknown => unknown.push(shipment),
                Answer::Unsent => unsent.push(shipment),
            }
        }
        self.idle.extend(landing.channel);
        match landing.error {
            None => self.teller.failed(&unknown, &classify::unconfirmed()),
            // The end of the connection may follow at once, and changes nothing: one of these is to blame.
            Some(error) if self.is_about_a_channel(&error) => {
                self.channel_ended = true;
                self.stock.queue(lane).put_back(Batch { shipments: unsent, suspected });
                self.isolate(lane, unknown, suspected, &error);
            }
            Some(error) => {
                self.explain(error);
                self.wrecks.push(Wreck { lane, unknown, unsent, suspected });
            }
        }
    }

    fn is_about_a_channel(&self, error: &Error) -> bool {
        classify::is_about_a_channel(error) || (self.link.is_up() && ended_channel(error))
    }

    /// Takes an error for why the connection ends.
    fn explain(&mut self, error: Error) {
        self.cause = classify::cause(self.cause.take(), error);
    }

    /// The channel was ended for one of these: that one fails, or its whole destination; the others are
    /// published again.
    fn isolate(&mut self, lane: usize, unknown: Vec<Shipment>, was_suspected: bool, error: &Error) {
        let code = classify::code_of(error);
        let blames_destination = matches!(code, Some(code::NOT_FOUND | code::ACCESS_REFUSED));
        let is_guilty = unknown.len() == 1 || (blames_destination && share_destination(&unknown));
        if !is_guilty {
            return self.stock.queue(lane).suspect(unknown, blames_destination);
        }
        if let (Some(code::NOT_FOUND), Some(first)) = (code, unknown.first()) {
            self.stock.forget_exchange_of(first);
        }
        // Of a message that was always alone it is certain that the broker refused it.
        let maybe_published = was_suspected || unknown.len() > 1;
        self.teller.failed(&unknown, &classify::message_failure(error, maybe_published));
    }

    async fn purged(mut self) -> End {
        self.link.cut();
        self.crash().await;
        self.purge_wrecks();
        End::Purged
    }

    /// The connection is gone: what it left without an answer fails with it, what never left stays.
    async fn lost(mut self, failure: Option<Failure>) -> End {
        self.link.cut();
        self.crash().await;
        self.last_news();
        if let Some(end) = self.last_orders() {
            self.purge_wrecks();
            return end;
        }
        let (wrecks, cause) = (std::mem::take(&mut self.wrecks), self.cause.take());
        let failure = failure.or_else(|| cause.as_ref().map(classify::outage)).unwrap_or_else(classify::gone);
        self.teller.down(failure.clone());
        // The client goes on writing to a channel that was ended, for which the broker ends the connection.
        // So that, too, is a neighbour's fault.
        let is_sequel =
            self.channel_ended && cause.and_then(|e| classify::code_of(&e)) == Some(code::CHANNEL_ERROR);
        for Wreck { lane, mut unknown, unsent, suspected } in wrecks {
            if !is_sequel {
                self.teller.failed(&unknown, &failure);
                unknown.clear();
            }
            let suspected = suspected || !unknown.is_empty();
            unknown.extend(unsent);
            self.stock.queue(lane).put_back(Batch { shipments: unknown, suspected });
        }
        End::Lost
    }

    fn purge_wrecks(&mut self) {
        for wreck in std::mem::take(&mut self.wrecks) {
            let (doubtful, unsent) = wreck.told_apart();
            self.teller.purged(&doubtful, &unsent);
        }
    }

    /// Why the connection ended may have been said after the windows noticed that it had.
    fn last_news(&mut self) {
        while let Some(Some(event)) = self.link.news.next().now_or_never() {
            if let Event::Error(error) = event {
                self.explain(error);
            }
        }
    }

    /// Waits until every window under way knows that there is no connection any more.
    async fn crash(&mut self) {
        let deadline = Instant::now() + WRECK_TIMEOUT;
        while let Ok(Some((lane, landing))) = timeout_at(deadline, self.flying.next()).await {
            self.landed(lane, landing);
        }
        for (lane, flight) in self.flights.iter_mut().enumerate() {
            if let Some(flight) = flight.take() {
                let Batch { shipments: unknown, suspected } = flight.batch;
                self.wrecks.push(Wreck { lane, unknown, unsent: Vec::new(), suspected });
            }
        }
    }

    /// The connection may have ended because of an order that has not been looked at.
    fn last_orders(&mut self) -> Option<End> {
        loop {
            match self.orders.try_recv() {
                Ok(Order::Publish(shipments)) => self.stock.admit(shipments),
                Ok(Order::Purge) => return Some(End::Purged),
                Err(mpsc::error::TryRecvError::Disconnected) => return Some(End::Closed),
                Err(mpsc::error::TryRecvError::Empty) => return None,
            }
        }
    }
}

/// The search under way, if there is one.
async fn looked(looking: &mut Option<(Instant, Looking)>) -> Option<(Arc<str>, Result<(), Error>)> {
    match looking {
        Some((_, looking)) => Some(looking.await),
        None => None,
    }
}

/// Whether an exchange exists. On a channel of its own, which ends if it does not: a soft error is about it.
async fn look_for(connection: &Connection, exchange: &str) -> Result<(), Error> {
    // A longer name cannot be sent, so nothing will be.
    let Ok(name) = ShortString::try_new(exchange) else { return Ok(()) };
    let channel = open_channel(connection).await?;
    let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
    channel.exchange_declare(name, ExchangeKind::Direct, options, FieldTable::default()).await?;
    channel.close(200, "OK".into()).await.map_err(connection_error)
}
