//! The world around one or two relays, in virtual time: one seed is one run.
//!
//! The relays are the real core. What they ask for is carried out by an outbox and a broker in memory,
//! late, in another order, partly or not at all, as the weather has it; after the calm has begun
//! everything works. The [`Books`] note every promise that is broken.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use outbox_relay::relay::{Backoff, Input, LeaseTiming, Limits, Load, Rules};
use outbox_relay::sink::{Record, Token};

use super::books::{Books, Life, Tally, Violation};
use super::dice::Dice;
use super::memory_broker::MemoryBroker;
use super::memory_outbox::{MemoryOutbox, Owner, Transaction};
use super::weather::Weather;

/// A line of the trace, for whoever follows one seed step by step.
macro_rules! say {
    ($world:expr, $($line:tt)*) => {
        if $world.trace {
            let line = format!($($line)*);
            writeln!(std::io::stdout(), "{:>10.3} {line}", $world.now.as_secs_f64()).expect("a trace");
        }
    };
}

mod broker;
mod database;
mod process;
mod writers;

use database::Call;
use process::Process;
use writers::Writers;

/// The lease's time to live. The rest of the world is measured by it.
pub const TTL: Duration = Duration::from_secs(3);

/// After the calm has begun everything is delivered within this time.
const PATIENCE: Duration = Duration::from_secs(150);

/// A record that was under way when its client was closed arrives within this many milliseconds: less
/// than the lease's margin.
const WIRE_MILLIS: u64 = 200;

/// What a run is made of.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// `None` draws it.
    pub weather: Option<Weather>,
    /// `None` draws 1 or 2.
    pub relays: Option<usize>,
    pub rules: Rules,
    pub trace: bool,
}

impl Setting {
    pub fn any() -> Self {
        Self { weather: None, relays: None, rules: Rules::default(), trace: false }
    }
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Report {
    pub violations: Vec<Violation>,
    pub tally: Tally,
    /// Equal for equal runs.
    pub hash: u64,
}

enum Event {
    /// A writer begins a transaction, writes its next row, or ends.
    Begin,
    Insert(Transaction),
    End(Transaction),
    /// The database carries out a call.
    Database(Box<Call>),
    /// A process hears of something.
    Tell(Life, Box<Input>),
    Wake(Life, u64),
    /// A look at whether a process crashes, stalls or drains.
    Mischief(Life),
    Start(usize),
    /// A record arrives at the broker from a client's queue.
    Arrive(Life, Token),
    /// One arrives that nobody waits for, or whose answer is already on its way.
    Stray(Arc<Record>),
    /// One arrives that was under way when its client's queue was emptied.
    Purged(Life, Token, Arc<Record>),
    Outage,
    OutageOver,
}

struct Scheduled {
    at: Duration,
    serial: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The heap gives the greatest first: the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.serial).cmp(&(self.at, self.serial))
    }
}

pub struct World {
    seed: u64,
    dice: Dice,
    /// Dice of their own, so that a kept seed means what it meant before there were any.
    hints: Dice,
    weather: Weather,
    limits: Limits,
    rules: Rules,
    trace: bool,
    now: Duration,
    calm_from: Duration,
    queue: BinaryHeap<Scheduled>,
    serial: u64,
    outbox: MemoryOutbox,
    writers: Writers,
    broker: MemoryBroker,
    blocked_until: BTreeMap<&'static str, Duration>,
    processes: Vec<Process>,
    books: Books,
    hash: u64,
}

impl World {
    pub fn new(seed: u64, setting: Setting) -> Self {
        let mut dice = Dice::new(seed);
        let drawn = Weather::any(&mut dice);
        let limits = limits(&mut dice);
        let relays = dice.pick(&[1, 2, 2]);
        let relays = setting.relays.unwrap_or(relays);
        let faults = dice.pick(&[8_u64, 16, 30]);
        let writers = Writers::new(&mut dice);
        let mut hints = Dice::new(seed ^ 0x6869_6e74);
        Self {
            seed,
            weather: setting.weather.unwrap_or(drawn),
            rules: setting.rules,
            trace: setting.trace,
            now: Duration::ZERO,
            calm_from: Duration::from_secs(faults),
            queue: BinaryHeap::new(),
            serial: 0,
            outbox: MemoryOutbox::new(TTL),
            writers,
            broker: MemoryBroker::default(),
            blocked_until: BTreeMap::new(),
            processes: (0..relays).map(Process::new).collect(),
            books: Books::new(limits.in_flight.rows),
            hash: 0xcbf2_9ce4_8422_2325,
            limits: Limits { listen: hints.chance(0.5), ..limits },
            hints,
            dice,
        }
    }

    /// Runs until everything is delivered, or should have been.
    pub fn run(mut self) -> Report {
        for process in 0..self.processes.len() {
            let at = self.dice.millis(0, 200);
            self.at(at, Event::Start(process));
        }
        for _ in 0..self.writers.count {
            let at = self.dice.millis(0, 300);
            self.at(at, Event::Begin);
        }
        self.schedule_outage();
        while let Some(Scheduled { at, serial, event }) = self.queue.pop() {
            self.now = at;
            self.note(serial);
            if !self.books.violations.is_empty() || at > self.calm_from + PATIENCE {
                break;
            }
            if self.calm() && self.finished() {
                break;
            }
            self.happen(event);
        }
        self.check_nothing_is_lost();
        Report { violations: self.books.violations, tally: self.books.tally, hash: self.hash }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Begin => self.begin(),
            Event::Insert(transaction) => self.insert(transaction),
            Event::End(transaction) => self.end(transaction),
            Event::Database(call) => self.call(*call),
            Event::Tell(life, input) => self.tell(life, input),
            Event::Wake(life, serial) => self.wake(life, serial),
            Event::Mischief(life) => self.mischief(life),
            Event::Start(process) => self.start(process),
            Event::Arrive(life, token) => self.arrive(life, token),
            Event::Stray(record) => self.apply(&record),
            Event::Purged(life, token, record) => self.purged(life, token, &record),
            Event::Outage => self.outage(),
            Event::OutageOver => self.outage_over(),
        }
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.serial += 1;
        self.queue.push(Scheduled { at, serial: self.serial, event });
    }

    fn calm(&self) -> bool {
        self.now >= self.calm_from
    }

    /// The weather of now.
    fn weather(&self) -> Weather {
        if self.calm() { Weather::CALM } else { self.weather }
    }

    fn finished(&self) -> bool {
        self.writers.done()
            && self.outbox.idle()
            && self.outbox.rows().all(|(_, row)| !row.pending)
            && !self.queue.iter().any(|scheduled| matches!(scheduled.event, Event::Stray(_)))
    }

    /// How long a statement takes, one way.
    fn lag(&mut self) -> Duration {
        let weather = self.weather();
        if self.dice.chance(weather.very_slow) {
            self.dice.millis(400, 3_000)
        } else if self.dice.chance(weather.slow) {
            self.dice.millis(50, 400)
        } else {
            self.dice.millis(1, 40)
        }
    }

    fn check_nothing_is_lost(&mut self) {
        if !self.books.violations.is_empty() {
            return;
        }
        let rows: Vec<_> =
            self.outbox.rows().map(|(position, row)| (position, row.pending, row.new.clone())).collect();
        for (position, pending, row) in rows {
            let held = self.books.holds(position);
            if pending || !held {
                let what = format!("{position} is pending: {pending}, at the broker: {held}; {row:?}");
                self.books.violated("I1 no loss", what);
            }
        }
    }

    /// Makes the run's hash depend on this step.
    fn note(&mut self, word: u64) {
        let micros = u64::try_from(self.now.as_micros()).expect("a short run");
        for word in [micros, word] {
            self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

fn limits(dice: &mut Dice) -> Limits {
    let small_bytes = dice.chance(0.3);
    Limits {
        in_flight: Load { rows: dice.pick(&[2, 4, 4, 6]), bytes: if small_bytes { 150 } else { 1_000_000 } },
        read_ahead: Load { rows: dice.pick(&[8, 12, 24]), bytes: if small_bytes { 600 } else { 1_000_000 } },
        fetch_rows_max: dice.pick(&[3, 6, 12]),
        settle_rows_max: dice.pick(&[1, 3, 100]),
        held_max: dice.pick(&[2, 5, 100]),
        poll_interval: Duration::from_millis(150),
        listen: false,
        backoff: Backoff { min: Duration::from_millis(50), max: Duration::from_secs(1) },
        lease: LeaseTiming { ttl: TTL },
        drain_timeout: Duration::from_millis(dice.pick(&[300, 2_000, 10_000])),
        backlog_interval: Duration::from_secs(1),
    }
}

/// Names a process's life to the lease.
fn owner(life: Life) -> Owner {
    life.number * 2 + life.process as u64
}
