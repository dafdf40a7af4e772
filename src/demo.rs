//! `outbox-relay demo`: the promises, shown to whoever has nothing but this program. A private Postgres,
//! a broker, writers that place orders, a relay that is killed while they do, and a ledger at the end.
//!
//! What it shows is the real thing: the relay is this executable as another process, with a
//! configuration file, and the commands are those anybody would type. Only the stage is the demo's own:
//!
//! * [`binaries`] and [`fetch`]: where Postgres comes from; [`server`] runs it, as an [`account`] it accepts
//! * [`broker`]: a Kafka or a RabbitMQ, and what can be read from it
//! * [`shop`]: the application, whose orders and outbox rows share their transactions
//! * [`relay`]: the process that is killed
//! * [`acts`]: what happens, in order
//! * [`ledger`]: what was committed against what arrived (pure); [`report`] says it
//! * [`warden`]: ends every [`process`] and removes the [`folder`], also when the demo itself is killed
//! * [`screen`]: what is seen meanwhile

use std::future::Future;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::Exit;
use crate::config::Secret;

mod account;
mod acts;
mod binaries;
mod broker;
mod fetch;
mod folder;
mod ledger;
mod process;
mod relay;
mod report;
mod screen;
mod server;
mod shop;
mod surroundings;
mod warden;

use broker::Broker;
use folder::{Folder, Keep};
use report::Report;
use screen::Screen;
pub use surroundings::Surroundings;
use warden::Warden;

/// What was asked for.
#[derive(Debug)]
pub struct Options {
    /// Orders to commit.
    pub rows: u64,
    /// The ledger as JSON.
    pub json: bool,
    pub broker: Target,
    /// Consent to a broker beyond this host without TLS.
    pub insecure_allow_plaintext: bool,
    /// The folder of `initdb` and `postgres`.
    pub postgres_bin: Option<PathBuf>,
    /// Where to leave the configuration and the logs.
    pub keep: Option<PathBuf>,
    pub surroundings: Surroundings,
}

/// Where the orders go.
#[derive(Debug)]
pub enum Target {
    /// A Kafka in this process.
    Mock,
    /// The Kafka at `host:port`.
    Kafka(String),
    /// The RabbitMQ at this url.
    RabbitMq(Secret),
}

/// What kept the demo from being played; the promises were not tried.
#[derive(Debug, thiserror::Error)]
#[error("could not {what}: {reason}{}", .hint.as_ref().map_or(String::new(), |hint| format!("\n    hint: {hint}")))]
pub struct DemoError {
    what: String,
    reason: String,
    hint: Option<String>,
}

impl DemoError {
    fn new(what: impl Into<String>, reason: impl ToString) -> Self {
        Self { what: what.into(), reason: reason.to_string(), hint: None }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// Plays the demo and says how the process ends: well only if every promise was kept.
///
/// # Errors
/// What kept it from being played.
pub fn play(options: &Options) -> Result<Exit, DemoError> {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| DemoError::new("start the demo", error))?;
    let screen = Screen::new(&options.surroundings);
    let ended = runtime.block_on(stage(options, &screen));
    // A download that was interrupted must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    screen.close();
    let (told, left) = ended?;
    match told {
        Told::Finished(report) => {
            say(&report, &left, options, &screen)
                .map_err(|error| DemoError::new("print the ledger", error))?;
            Ok(if report.is_kept() { Exit::Ok } else { Exit::Failed })
        }
        Told::Stop(exit) => {
            screen.line(&format!("stopped: everything the demo started has ended; {}", left.removed()));
            Ok(exit)
        }
    }
}

/// Sets the stage, plays, and clears it again, whatever happened.
async fn stage(options: &Options, screen: &Screen) -> Result<(Told<Report>, Left), DemoError> {
    let mut signals = Signals::listen().map_err(|error| DemoError::new("listen for signals", error))?;
    // First, and so dropped last: what is made from here on is ended and removed by it.
    let warden = Warden::start()?;
    let folder = Folder::create(&warden)?;
    let keep = options.keep.as_deref().map(Keep::at).transpose()?;
    let mut broker = Broker::new(options)?;
    let play = async {
        broker.open().await?;
        acts::play(options, screen, &warden, &folder, &broker).await
    };
    let played = signals.unless_told(Box::pin(play)).await;
    let left = clear(broker, keep, &folder, screen).await;
    match played {
        Told::Finished(report) => Ok((Told::Finished(report?), left)),
        Told::Stop(exit) => Ok((Told::Stop(exit), left)),
    }
}

/// Neither failure may hide what the play has shown.
async fn clear(broker: Broker, keep: Option<Keep>, folder: &Folder, screen: &Screen) -> Left {
    let mut left = Left::default();
    if let Err(error) = broker.close().await {
        screen.bad(&error.to_string());
        left.on_broker = true;
    }
    if let Some(keep) = keep {
        match keep.take(folder) {
            Ok(()) => left.papers = Some(keep.path().to_owned()),
            Err(error) => screen.bad(&error.to_string()),
        }
    }
    left
}

/// What outlasts the demo.
#[derive(Debug, Default)]
struct Left {
    /// Something that could not be removed, as was said.
    on_broker: bool,
    /// The folder of the configuration and the logs.
    papers: Option<PathBuf>,
}

impl Left {
    fn removed(&self) -> &'static str {
        if self.on_broker {
            "what it wrote is removed, but for what is still on the broker"
        } else {
            "what it wrote is removed"
        }
    }
}

/// The ledger is the data; what to do next is talk.
fn say(report: &Report, left: &Left, options: &Options, screen: &Screen) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if options.json {
        writeln!(out, "{}", report.json())?;
    } else {
        write!(out, "\n{}", report.text(screen::paint_of_stdout(&options.surroundings)))?;
    }
    out.flush()?;
    screen.text(&report::next_steps(report, left, options));
    Ok(())
}

/// How something ended that may be told to stop.
enum Told<T> {
    Finished(T),
    /// By a signal; how the process exits then.
    Stop(Exit),
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        let listen = |kind| signal(kind);
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// Drops `work`, and with it all it holds, as soon as a signal comes.
    async fn unless_told<T>(&mut self, work: impl Future<Output = T>) -> Told<T> {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => Told::Stop(Exit::Interrupted),
            _ = self.terminate.recv() => Told::Stop(Exit::Terminated),
            _ = self.hang_up.recv() => Told::Stop(Exit::Terminated),
            done = work => Told::Finished(done),
        }
    }
}
