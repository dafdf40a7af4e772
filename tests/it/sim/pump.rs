//! The real loop between the fakes, under a paused clock: what it takes to stop, and to wait.

use std::collections::BTreeMap;
use std::time::Duration;

use outbox_relay::config;
use outbox_relay::pump::{Observer, Requests, pump};
use outbox_relay::relay::{
    Action, Backoff, Exit, Input, LeaseTiming, Limits, Load, News, Relay, Rules, View,
};
use outbox_relay::route::{Route, Template};
use outbox_relay::sink::{Destination, OnUnroutable};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::fakes::{FakeBroker, FakeOutbox};
use super::memory_broker::position;
use super::memory_outbox::NewRow;

const TTL: Duration = Duration::from_secs(10);

/// A pipeline that runs, and what a test may do to it.
struct Running {
    outbox: FakeOutbox,
    broker: FakeBroker,
    requests: mpsc::UnboundedSender<Input>,
    news: mpsc::UnboundedReceiver<News>,
    exit: JoinHandle<Exit>,
}

impl Running {
    fn start(outbox: &FakeOutbox, broker: &FakeBroker) -> Self {
        Self::start_by(route(), outbox, broker)
    }

    fn start_by(mut route: Route, outbox: &FakeOutbox, broker: &FakeBroker) -> Self {
        let (requests, mut asked) = mpsc::unbounded_channel();
        let (mut listener, news) = listener();
        let (source, mut sink) = (outbox.source(), broker.sink());
        let relay = Relay::new(limits(), Rules::default(), 1);
        let exit = tokio::spawn(async move {
            pump(relay, &source, &mut sink, &mut route, &mut listener, &mut Asked(&mut asked)).await
        });
        Self { outbox: outbox.clone(), broker: broker.clone(), requests, news, exit }
    }

    fn new() -> Self {
        Self::start(&FakeOutbox::new(TTL), &FakeBroker::default())
    }

    fn ask(&self, input: Input) {
        self.requests.send(input).expect("the pump listens");
    }

    /// Waits until `done`; the paused clock moves on meanwhile.
    async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(300);
        while !done(self) {
            assert!(tokio::time::Instant::now() < deadline, "waited for {what} in vain");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn pending(&self) -> usize {
        self.outbox.look().rows().filter(|(_, row)| row.pending).count()
    }

    fn held(&self) -> usize {
        self.broker.log().len()
    }

    async fn exit(self) -> Exit {
        tokio::time::timeout(Duration::from_secs(300), self.exit).await.expect("it stops").expect("no panic")
    }
}

struct Asked<'a>(&'a mut mpsc::UnboundedReceiver<Input>);

impl Requests for Asked<'_> {
    async fn next(&mut self) -> Input {
        match self.0.recv().await {
            Some(input) => input,
            None => std::future::pending().await,
        }
    }
}

struct Listener(mpsc::UnboundedSender<News>);

fn listener() -> (Listener, mpsc::UnboundedReceiver<News>) {
    let (news, heard) = mpsc::unbounded_channel();
    (Listener(news), heard)
}

impl Observer for Listener {
    fn action(&mut self, _now: Duration, action: &Action) {
        if let Action::Tell(news) = action {
            // A test that has ended listens no more.
            let _ = self.0.send(news.clone());
        }
    }

    fn input(&mut self, _now: Duration, _input: &Input) {}

    fn view(&mut self, _now: Duration, _view: &View) {}
}

fn limits() -> Limits {
    Limits {
        in_flight: Load { rows: 100, bytes: 1 << 20 },
        read_ahead: Load { rows: 200, bytes: 1 << 20 },
        fetch_rows_max: 50,
        settle_rows_max: 100,
        held_max: 100,
        poll_interval: Duration::from_millis(250),
        backoff: Backoff { min: Duration::from_millis(200), max: Duration::from_secs(300) },
        lease: LeaseTiming { ttl: TTL },
        drain_timeout: Duration::from_secs(30),
        backlog_interval: Duration::from_secs(5),
    }
}

fn route() -> Route {
    let topic = Template::parse("{destination}").expect("a template");
    route_to(config::Target::Topic(topic), OnUnroutable::Block)
}

fn route_to(target: config::Target, on_unroutable: OnUnroutable) -> Route {
    let column = |name: &str| config::ColumnName::parse(name).expect("a name");
    let columns = config::Columns {
        id: column("id"),
        order: Some(column("id")),
        key: Some(column("key")),
        kind: None,
        destination: Some(column("destination")),
        payload: column("payload"),
        headers: None,
        created_at: None,
        to_headers: BTreeMap::new(),
    };
    let outbox = config::Outbox {
        table: config::TableName::parse("outbox.message").expect("a name"),
        columns,
        mark: config::Mark::Delete,
        poll_interval: Duration::from_millis(250),
        message_bytes_max: 1 << 20,
        fetch_rows_max: 50,
    };
    let route = config::Route {
        rest: config::Way { target, on_unroutable, app_id: None },
        when: Vec::new(),
        allow: Vec::new(),
        id_header: "id".into(),
        kind_header: None,
        key_header: None,
        content_type: None,
        format: config::Format::Raw,
    };
    Route::new(&route, &outbox, config::Ordering::Key).expect("a route")
}

fn write(outbox: &FakeOutbox, rows: u8) {
    let mut outbox = outbox.look();
    let transaction = outbox.begin();
    for number in 0..rows {
        let row = NewRow {
            key: Some(vec![number % 7].into()),
            destination: Some("orders".into()),
            payload: Some(vec![number].into()),
        };
        outbox.insert(transaction, row);
    }
    outbox.commit(transaction);
}

#[tokio::test(start_paused = true)]
async fn committed_rows_are_delivered_once_and_marked() {
    let running = Running::new();
    write(&running.outbox, 200);
    running.until("every row to be marked", |running| running.pending() == 0).await;
    assert_eq!(running.held(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_drain_asked_for_leaves_nothing_unknown_and_gives_the_lease_back() {
    let running = Running::new();
    write(&running.outbox, 200);
    running.until("the first records", |running| running.held() > 0).await;
    running.ask(Input::Drain);
    let (outbox, broker) = (running.outbox.clone(), running.broker.clone());
    assert_eq!(running.exit().await, Exit::Drained);
    assert_eq!(outbox.look().lease.owner, None);

    // Whoever comes next publishes the rest, and nothing again.
    let next = Running::start(&outbox, &broker);
    next.until("every row to be marked", |next| next.pending() == 0).await;
    assert_eq!(next.held(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_second_request_stops_at_once_and_says_what_is_unknown() {
    let running = Running::new();
    running.until("the lease", |running| running.outbox.look().lease.owner.is_some()).await;
    write(&running.outbox, 1);
    running.until("the first record", |running| running.pending() == 0).await;
    running.broker.configure(|broker| broker.down = true);
    write(&running.outbox, 5);
    running.until("records in flight", |running| running.broker.published() == 6).await;

    running.ask(Input::Drain);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!running.exit.is_finished(), "five records are in flight");
    running.ask(Input::Abort);
    let asked = tokio::time::Instant::now();
    assert_eq!(running.exit().await, Exit::Unfinished { unknown: 5 });
    assert_eq!(asked.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_cannot_finish_ends_after_its_time() {
    let running = Running::new();
    write(&running.outbox, 1);
    running.until("the first record", |running| running.pending() == 0).await;
    running.broker.configure(|broker| broker.down = true);
    write(&running.outbox, 3);
    running.until("records in flight", |running| running.broker.published() == 4).await;
    running.ask(Input::Drain);
    let asked = tokio::time::Instant::now();
    assert_eq!(running.exit().await, Exit::Unfinished { unknown: 3 });
    assert_eq!(asked.elapsed().as_secs(), limits().drain_timeout.as_secs());
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_a_minute_loses_nothing_and_attempts_nothing() {
    let mut running = Running::new();
    write(&running.outbox, 10);
    running.until("the first rows to be marked", |running| running.pending() == 0).await;

    running.broker.stop();
    tokio::time::sleep(Duration::from_secs(1)).await;
    write(&running.outbox, 250);
    let before = running.broker.published();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let probes = running.broker.published() - before;
    // A probe that is not answered is followed by others, after 5 s, 10 s, 20 s.
    assert!(probes <= 5, "{probes} records were handed to a broker that is down");

    running.broker.start();
    running.until("every row to be marked", |running| running.pending() == 0).await;
    assert_eq!(running.held(), 260, "each once");
    let positions: Vec<_> = running.broker.log().iter().map(|record| position(record)).collect();
    assert!(positions.iter().max() == Some(&outbox_relay::message::Position(260)));
    while let Ok(news) = running.news.try_recv() {
        assert!(!matches!(news, News::Held { .. }), "an outage is nobody's fault: {news:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_standby_takes_over_at_once_after_a_drain_and_after_the_ttl_after_a_crash() {
    let (outbox, broker) = (FakeOutbox::new(TTL), FakeBroker::default());
    let first = Running::start(&outbox, &broker);
    first.until("a holder", |first| first.outbox.look().lease.owner == Some(0)).await;
    let second = Running::start(&outbox, &broker);
    first.ask(Input::Drain);
    let drained = tokio::time::Instant::now();
    assert_eq!(first.exit().await, Exit::Drained);
    second.until("the hand-over", |second| second.outbox.look().lease.owner == Some(1)).await;
    assert!(drained.elapsed() <= Duration::from_millis(600), "{:?}", drained.elapsed());

    let third = Running::start(&outbox, &broker);
    second.exit.abort();
    let crashed = tokio::time::Instant::now();
    third.until("the takeover", |third| third.outbox.look().lease.owner == Some(2)).await;
    let elapsed = crashed.elapsed();
    assert!(elapsed <= TTL + Duration::from_secs(1), "{elapsed:?}");
    assert!(elapsed >= TTL / 2, "it was renewed shortly before: {elapsed:?}");
}

/// Ten rows to an exchange that no queue is bound to.
fn to_nobody(on_unroutable: OnUnroutable) -> Running {
    let template = |text| Template::parse(text).expect("a template");
    let target =
        config::Target::Exchange { exchange: template("events"), routing_key: template("{destination}") };
    let (outbox, broker) = (FakeOutbox::new(TTL), FakeBroker::default());
    let nobody = Destination::Exchange { exchange: "events".into(), routing_key: "orders".into() };
    broker.configure(|broker| broker.unroutable = [nobody].into());
    write(&outbox, 10);
    Running::start_by(route_to(target, on_unroutable), &outbox, &broker)
}

#[tokio::test(start_paused = true)]
async fn an_event_that_nobody_wants_is_delivered_where_that_is_legal() {
    let mut running = to_nobody(OnUnroutable::Accept);
    running.until("every row to be marked", |running| running.pending() == 0).await;
    assert_eq!((running.held(), running.broker.published()), (0, 10), "each was tried once");
    while let Ok(news) = running.news.try_recv() {
        assert!(!matches!(news, News::Held { .. }), "nothing is held: {news:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_nobody_wants_waits_for_a_queue_where_that_is_not() {
    for on_unroutable in [OnUnroutable::Block, OnUnroutable::DeadLetter] {
        let running = to_nobody(on_unroutable);
        running.until("every key to be tried", |running| running.broker.published() >= 7).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!((running.pending(), running.held()), (10, 0));
        running.broker.configure(|broker| broker.unroutable.clear());
        running.until("every row to be marked", |running| running.pending() == 0).await;
        assert_eq!(running.held(), 10);
    }
}
