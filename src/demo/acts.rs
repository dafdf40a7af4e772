//! What happens, in order: the stage is set, orders are placed, the relay is killed while they are,
//! everything arrives, and the books are compared.

use std::path::PathBuf;
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::time::Instant;

use super::binaries::Binaries;
use super::broker::{Broker, Reader};
use super::fetch::{self, Package};
use super::folder::Folder;
use super::ledger::{Commit, Latency, audit, peak_per_second};
use super::relay::{IN_FLIGHT_ROWS_MAX, LEASE_TTL, Relay, Setup};
use super::report::{Latencies, Report};
use super::screen::{Screen, grouped};
use super::server::Server;
use super::shop::{CUSTOMERS, ROLLED_BACK_ONE_IN, Shop, WRITERS, Writers};
use super::warden::Warden;
use super::{DemoError, Options};

/// The relay is killed whenever this share of all orders has arrived: the first time out of a quiet
/// flow, the second while it makes up for the first.
const KILLS_AT_PERCENT: [u64; 2] = [35, 60];

/// How long the orders take to be placed; few orders are not drawn out.
const PLACING_SECONDS: f64 = 12.0;
const ORDERS_PER_SECOND_MIN: f64 = 500.0;

/// A play that does not go on for this long has failed: far above the lease's time to live.
const STALL_MAX: Duration = Duration::from_secs(60);

/// Once all is committed and nothing more has arrived for this long, what is missing is lost. Longer
/// than a lease, which a relay that has just been started waits for.
const LOST_AFTER: Duration = Duration::from_secs(15);

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Orders placed this shortly before a kill may have been on their way when it came.
const DISTURBED_BEFORE: Duration = Duration::from_millis(100);

/// From an empty folder to the ledger.
pub(super) async fn play(
    options: &Options,
    screen: &Screen,
    warden: &Warden,
    folder: &Folder,
    broker: &Broker,
) -> Result<Report, DemoError> {
    let orders = grouped(options.rows);
    screen.title(&format!(
        "{orders} orders go from Postgres to {}, and the relay between them is killed twice",
        broker.name()
    ));
    let server = start_postgres(options, screen, warden, folder).await?;
    screen.line(&broker.description());
    let setup = Setup::write(&server, broker, folder, warden, &options.surroundings)?;
    setup.migrate().await?;
    screen.line("outbox-relay migrate: the table outbox.message and the relay's own are there");
    let shop = Shop { database: server.options(), destination: broker.destination().to_owned() };
    shop.open().await?;
    let load = Load::new(options, screen, &setup, &shop, broker).await?;
    load.play().await
}

async fn start_postgres<'w>(
    options: &Options,
    screen: &Screen,
    warden: &'w Warden,
    folder: &Folder,
) -> Result<Server<'w>, DemoError> {
    let binaries = match &options.postgres_bin {
        Some(given) => Binaries::given(given)?,
        None => match Binaries::find(&options.surroundings) {
            Some(found) => found,
            None => fetched(options, screen, warden, folder).await?,
        },
    };
    let busy = screen.busy("creating a Postgres cluster");
    let server = Server::start(&binaries, folder, warden).await?;
    drop(busy);
    screen.line(&format!(
        "Postgres {} from {} runs on port {}: private, temporary, without fsync",
        binaries.version,
        binaries.folder.display(),
        server.port
    ));
    Ok(server)
}

/// Programs unpacked into the demo's folder, from a package that is downloaded unless it was kept.
async fn fetched(
    options: &Options,
    screen: &Screen,
    warden: &Warden,
    folder: &Folder,
) -> Result<Binaries, DemoError> {
    let package = Package::of_this_machine()?;
    let cache = cache_folder(options, folder);
    let jar = match package.kept(&cache) {
        Some(kept) => kept,
        None => {
            screen.line(&format!(
                "no Postgres is installed here: downloading {} from {}",
                fetch::VERSION,
                package.host()
            ));
            warden.remove(&package.partial(&cache));
            download(package, cache, options, screen.download()).await?
        }
    };
    let busy = screen.busy("unpacking Postgres");
    let unpacked = folder.path("programs");
    fetch::unpack(&jar, &unpacked).await?;
    drop(busy);
    Binaries::given(&unpacked.join("bin"))
}

/// The user's cache; without one that can be written, the demo's own folder, and nothing is kept.
fn cache_folder(options: &Options, folder: &Folder) -> PathBuf {
    let cache = options.surroundings.cache.as_ref().map(|cache| cache.join("outbox-relay"));
    cache.filter(|cache| std::fs::create_dir_all(cache).is_ok()).unwrap_or_else(|| folder.path(""))
}

async fn download(
    package: Package,
    cache: PathBuf,
    options: &Options,
    progress: ProgressBar,
) -> Result<PathBuf, DemoError> {
    let surroundings = options.surroundings.clone();
    let download = tokio::task::spawn_blocking(move || {
        let fetched = package.fetch(&cache, &surroundings, &progress);
        progress.finish_and_clear();
        fetched
    });
    download.await.expect("a download does not panic")
}

/// Orders are placed and relayed.
struct Load<'a, 'w> {
    orders: u64,
    screen: &'a Screen,
    setup: &'a Setup<'a, 'w>,
    shop: &'a Shop,
    broker: &'a Broker,
    reader: Reader,
    /// None between a kill and the next start.
    relay: Option<Relay<'w>>,
    writers: Writers,
    /// Committed by the writers before these.
    first: Vec<Commit>,
    kills: Vec<Instant>,
}

impl<'a, 'w> Load<'a, 'w> {
    async fn new(
        options: &Options,
        screen: &'a Screen,
        setup: &'a Setup<'a, 'w>,
        shop: &'a Shop,
        broker: &'a Broker,
    ) -> Result<Self, DemoError> {
        let reader = broker.reader().await?;
        let relay = setup.run()?;
        screen.line(&format!(
            "relay {} runs: outbox-relay run --config {}",
            relay.id(),
            setup.config().display()
        ));
        screen.quote(&setup.text()?);
        // One order, so that no later one has to wait for the relay to have started.
        let writers = shop.place(1, 1.0);
        let (relay, first, kills) = (Some(relay), Vec::new(), Vec::new());
        Ok(Self { orders: options.rows, screen, setup, shop, broker, reader, relay, writers, first, kills })
    }

    async fn play(mut self) -> Result<Report, DemoError> {
        self.first_order().await?;
        let started = Instant::now();
        self.place();
        for percent in KILLS_AT_PERCENT {
            let enough = (self.orders * percent).div_ceil(100);
            self.until(|load| Ok(load.reader.delivered() >= enough)).await?;
            self.kill_and_restart().await?;
        }
        self.until(|load| load.writers.are_done()).await?;
        self.screen.line(&format!("{} orders are committed; the writers go home", grouped(self.orders)));
        self.all_arrived().await?;
        let took = started.elapsed();
        self.screen.end_load();
        self.audit(took).await
    }

    /// Waits until the way is open.
    async fn first_order(&mut self) -> Result<(), DemoError> {
        let busy = self.screen.busy("the first order is on its way");
        self.until(|load| load.writers.are_done()).await?;
        self.until(|load| Ok(load.reader.delivered() >= 1)).await?;
        drop(busy);
        self.screen.line(&format!("the first order is on {}", self.broker.name()));
        Ok(())
    }

    /// Sends the writers to work on all other orders.
    fn place(&mut self) {
        let rows = self.orders - 1;
        #[allow(clippy::cast_precision_loss, reason = "nobody places 2^52 orders")]
        let per_second = (rows as f64 / PLACING_SECONDS).max(ORDERS_PER_SECOND_MIN);
        let writers = self.shop.place(rows, per_second);
        self.first = std::mem::replace(&mut self.writers, writers).into_commits();
        self.screen.line(&format!(
            "{WRITERS} writers place orders of {CUSTOMERS} customers, {per_second:.0} a second; \
             one transaction in {ROLLED_BACK_ONE_IN} is rolled back"
        ));
        self.screen.begin_load(self.orders);
    }

    /// Kills the relay and starts another, which has to wait until the lease of the dead one ends.
    async fn kill_and_restart(&mut self) -> Result<(), DemoError> {
        let at = Instant::now();
        let dead = self.relay.take().expect("a relay runs but here").kill();
        let next = self.setup.run()?;
        let next_id = next.id();
        self.relay = Some(next);
        self.kills.push(at);
        self.screen
            .bad(&format!("kill -9 {dead}: the relay is dead; relay {next_id} waits for its lease to end"));
        // What the dead one had published may still be on its way to the reader.
        let settled = at + LEASE_TTL / 4;
        self.until(|_| Ok(Instant::now() >= settled)).await?;
        let arrived = self.reader.delivered();
        self.until(|load| Ok(load.reader.delivered() > arrived || arrived >= load.orders)).await?;
        let waited = at.elapsed().as_secs_f64();
        self.screen.good(&format!("relay {next_id} has taken over, {waited:.1} s after the kill"));
        Ok(())
    }

    /// Waits for all orders; or, if some do not come, until it is certain that they will not.
    async fn all_arrived(&mut self) -> Result<(), DemoError> {
        let mut last = (Instant::now(), self.reader.delivered());
        self.until(|load| {
            let delivered = load.reader.delivered();
            if delivered > last.1 {
                last = (Instant::now(), delivered);
            }
            Ok(delivered >= load.orders || last.0.elapsed() > LOST_AFTER)
        })
        .await
    }

    /// Goes on until `condition` holds, and says how far things are meanwhile.
    async fn until(
        &mut self,
        mut condition: impl FnMut(&mut Self) -> Result<bool, DemoError>,
    ) -> Result<(), DemoError> {
        let mut last = (Instant::now(), self.far());
        while !condition(self)? {
            self.look()?;
            if self.far() != last.1 {
                last = (Instant::now(), self.far());
            }
            if last.0.elapsed() > STALL_MAX {
                return Err(self.setup.stalled(STALL_MAX));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// How many orders are committed, and how many have arrived.
    fn far(&self) -> (u64, u64) {
        (self.first.len() as u64 + self.writers.committed(), self.reader.delivered())
    }

    /// Shows how far things are; an error if somebody has left the play.
    fn look(&mut self) -> Result<(), DemoError> {
        let (committed, delivered) = self.far();
        self.screen.progress(committed, delivered);
        if let Some(status) = self.relay.as_mut().and_then(Relay::ended) {
            return Err(self.setup.ended("run", status));
        }
        self.reader.failure().map_or(Ok(()), Err)
    }

    /// Stops the relay in good order, reads the broker to its end, and compares.
    async fn audit(self, took: Duration) -> Result<Report, DemoError> {
        self.setup.stop(self.relay.expect("a relay runs but after a kill")).await?;
        self.screen.line("the relay is asked to stop, drains, and ends with exit code 0");
        let arrivals = self.reader.finish().await?;
        let orders = self.shop.orders().await?;
        let audit = audit(&orders, &arrivals);
        let rolled_back = self.writers.rolled_back();
        // Without the first order, which waited for the relay to start.
        let commits = self.writers.into_commits();
        let quiet_until = self.kills.first().map(|kill| *kill - DISTURBED_BEFORE);
        let is_quiet = |commit: &Commit| quiet_until.is_none_or(|until| commit.at < until);
        let all = || commits.iter().copied();
        let latencies = Latencies {
            undisturbed: Latency::of(all().filter(is_quiet), &audit.first_arrivals),
            overall: Latency::of(all(), &audit.first_arrivals),
        };
        Ok(Report {
            peak_per_second: peak_per_second(&audit.first_arrivals),
            audit,
            broker: self.broker.name(),
            rolled_back,
            customers: CUSTOMERS,
            kills: self.kills.len() as u64,
            window: IN_FLIGHT_ROWS_MAX,
            latencies,
            took,
        })
    }
}
