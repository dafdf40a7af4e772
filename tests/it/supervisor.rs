//! What a service manager is told of a relay: by the board alone, and by a real process over a real
//! socket.

use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use outbox_relay::metrics::Meter;
use outbox_relay::pump::Observer;
use outbox_relay::relay::{Input, View};
use outbox_relay::status::{Board, LOOP_SILENCE_MAX, Reporter};
use outbox_relay::supervisor::{Herald, Word};
use tempfile::TempDir;

use crate::heard::{Time, database_out, leading, standing_by};
use crate::support::process::free_port;
use crate::support::relay::Settings;
use crate::support::wait;

const WATCHDOG: Duration = Duration::from_secs(30);

/// A relay whose loop turns when told to, and what is told about it.
struct Told {
    time: Time,
    board: Arc<Board>,
    reporter: Reporter,
    herald: Herald,
}

impl Told {
    fn new(watchdog: Option<Duration>) -> Self {
        let time = Time::default();
        let page = Meter::new("orders", Duration::from_secs(5), &[], time.clock()).page();
        let board = Board::new("orders", page, time.clock());
        Self { reporter: Reporter::new(Arc::clone(&board)), board, herald: Herald::new(watchdog), time }
    }

    fn turn(&mut self, view: &View) {
        self.reporter.view(self.time.now(), view);
    }

    fn due(&mut self) -> Vec<Word> {
        self.herald.due(self.time.now(), &self.board)
    }

    fn alive(&mut self) -> bool {
        self.due().contains(&Word::Alive)
    }
}

fn status(line: &str) -> Word {
    Word::Status(line.to_owned())
}

#[test]
fn ready_is_said_once_when_the_loop_turns_and_not_before() {
    let mut told = Told::new(None);
    assert_eq!(told.due(), []);
    told.turn(&standing_by());
    assert_eq!(told.due(), [Word::Ready, status("starting")]);
    told.turn(&standing_by());
    assert_eq!(told.due(), []);
}

#[test]
fn a_database_that_is_out_does_not_keep_it_from_being_ready() {
    let mut told = Told::new(None);
    told.reporter.input(told.time.now(), &Input::Lease(Err(database_out())));
    told.turn(&standing_by());
    assert_eq!(told.due(), [Word::Ready, status("starting, database out")]);
}

#[test]
fn the_watchdog_is_fed_while_the_loop_turns_and_starves_as_livez_fails() {
    let mut told = Told::new(Some(WATCHDOG));
    told.turn(&leading());
    assert!(told.alive(), "at once");
    told.time.pass(WATCHDOG / 3 - Duration::from_millis(1));
    assert!(!told.alive(), "not all the time");
    told.time.pass(Duration::from_millis(1));
    assert!(told.alive(), "three times before it bites");

    told.time.pass(LOOP_SILENCE_MAX);
    assert!(!told.alive(), "the loop is stuck");
    told.turn(&leading());
    assert!(told.alive(), "the loop turns again");
}

#[test]
fn without_a_watchdog_none_is_fed() {
    let mut told = Told::new(None);
    told.turn(&leading());
    assert!(!told.alive());
}

#[test]
fn a_new_role_is_said_at_once_and_the_numbers_now_and_then() {
    let mut told = Told::new(None);
    told.turn(&leading());
    assert_eq!(told.due(), [Word::Ready, status("relaying, lag unknown")]);
    told.turn(&View { held: 2, ..leading() });
    assert_eq!(told.due(), [], "the role is the same");
    told.time.pass(Duration::from_secs(5));
    assert_eq!(told.due(), [status("relaying, lag unknown, 2 messages held")]);
    told.turn(&View { draining: true, ..leading() });
    assert_eq!(told.due(), [Word::Stopping, status("draining")]);
    told.turn(&View { draining: true, ..leading() });
    assert_eq!(told.due(), [], "stopping is said once");
}

/// Everything that came through the socket so far, a line each.
fn lines(socket: &UnixDatagram, heard: &mut Vec<String>) {
    let mut buffer = [0; 4096];
    while let Ok(length) = socket.recv(&mut buffer) {
        let text = std::str::from_utf8(&buffer[..length]).expect("the protocol is text");
        heard.extend(text.lines().map(str::to_owned));
    }
}

#[tokio::test]
async fn a_service_manager_hears_ready_the_watchdog_and_stopping_though_nothing_else_is_up() {
    const PATIENCE: Duration = Duration::from_secs(30);
    let dir = TempDir::new().expect("the temporary directory takes files");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("the temporary directory takes sockets");
    socket.set_nonblocking(true).expect("every socket can be");
    let nobody = free_port();
    let url = format!("postgres://relay@127.0.0.1:{nobody}/app");
    let mut relay = Settings::kafka(&url, &format!("127.0.0.1:{nobody}"))
        .environment("NOTIFY_SOCKET", path.to_str().expect("it is text"))
        .environment("WATCHDOG_USEC", "300000")
        .run();

    let mut heard = Vec::new();
    let count = |heard: &[String], line: &str| heard.iter().filter(|heard| *heard == line).count();
    relay
        .wait_for(PATIENCE, "READY, and the watchdog is fed again and again", async || {
            lines(&socket, &mut heard);
            count(&heard, "READY=1") == 1 && count(&heard, "WATCHDOG=1") >= 5
        })
        .await;
    assert_eq!(heard[0], "READY=1");
    let out = "STATUS=starting, database out";
    relay
        .wait_for(PATIENCE, out, async || {
            lines(&socket, &mut heard);
            count(&heard, out) >= 1
        })
        .await;
    assert_eq!(relay.get("/startupz").await.expect("the page answers").0, 200);
    assert_eq!(count(&heard, "STOPPING=1"), 0);

    relay.sigterm();
    let code = relay.wait(PATIENCE).await;
    wait::eventually(PATIENCE, "STOPPING", async || {
        lines(&socket, &mut heard);
        count(&heard, "STOPPING=1") == 1
    })
    .await;
    assert_eq!((code, count(&heard, "READY=1")), (0, 1));
}
