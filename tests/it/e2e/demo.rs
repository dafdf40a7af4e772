//! `outbox-relay demo` as a newcomer meets it: a process that is started, watched, or stopped. It brings
//! its own Postgres and, unless it is given a broker, its own Kafka; whatever happens, nothing of it may be left.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;
use tempfile::TempDir;

use super::stage::PATIENCE;
use crate::support::process::Process;
use crate::support::proxy::{Network, Proxy};
use crate::support::rabbitmq::{Rabbit, control, control_says};
use crate::support::relay::binary;
use crate::support::services::{self, Services};
use crate::support::wait;

/// The fewest orders the demo agrees to; they are placed in two seconds.
const FEW: &str = "1000";

/// A demo whose every file is below a folder of its own.
struct Demo {
    process: Process,
    folder: TempDir,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let folder =
            TempDir::with_prefix("outbox-relay-demo-test").expect("the temporary directory takes files");
        // Started by root, its Postgres runs as another user, who has to pass through.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("the folder is ours");
        let mut command = binary();
        command.env("TMPDIR", folder.path()).env("TERM", "xterm-256color");
        // Would point its relay elsewhere, if it listened to them.
        command.env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none");
        command.env("OUTBOX_RELAY__SINK__TYPE", "stdout");
        command.arg("demo").arg("--pg-bin").arg(services::postgres_bin()).args(arguments);
        Self { process: Process::spawn(&mut command), folder }
    }

    async fn says(&mut self, text: &str) {
        let (out, err) = (self.process.stdout.clone(), self.process.stderr.clone());
        wait::eventually(PATIENCE, text, async || {
            let ended = self.process.exited();
            assert!(ended.is_none() || err.contain(text), "{}\n{}", out.tail(40), err.tail(40));
            err.contain(text)
        })
        .await;
    }

    async fn exit_code(&mut self) -> Option<i32> {
        self.process.ended(PATIENCE).await.code()
    }

    fn output(&self) -> String {
        format!("{}\n{}", self.process.stdout.tail(60), self.process.stderr.tail(60))
    }

    /// Neither a file nor a process that works on one.
    fn is_gone(&self) -> bool {
        let files = fs::read_dir(self.folder.path()).expect("the folder is there").count();
        files == 0 && users_of(self.folder.path()).is_empty()
    }

    /// Waits for the warden, which outlives a demo that is killed.
    async fn leaves_nothing(&self) {
        wait::eventually(Duration::from_secs(20), "nothing of the demo is left", async || self.is_gone())
            .await;
    }
}

/// The command lines of processes that name a folder, as those of the relay and of Postgres do.
fn users_of(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().expect("the folder's name is text");
    let processes = fs::read_dir("/proc").expect("Linux has /proc").flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(folder)).collect()
}

#[tokio::test]
async fn the_demo_keeps_every_promise_says_so_as_json_and_leaves_nothing() {
    let name = "the_demo_keeps_every_promise_says_so_as_json_and_leaves_nothing";
    let Some(_) = Services::find(name) else { return };
    let mut demo = Demo::start(&["--json", "--rows", FEW]);

    let code = demo.exit_code().await;

    assert_eq!(code, Some(0), "{}", demo.output());
    // At once: the demo itself waits until all is gone.
    assert!(demo.is_gone(), "{:?}", users_of(demo.folder.path()));
    let lines = demo.process.stdout.all();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let ledger: Value = serde_json::from_str(&lines[0]).expect("the ledger is JSON");
    for (key, expected) in [("committed", 1000), ("delivered", 1000), ("kills", 2)] {
        assert_eq!(ledger[key], expected, "{key}: {ledger}");
    }
    for key in ["lost", "phantom", "disorder"] {
        assert_eq!(ledger[key], 0, "{key}: {ledger}");
    }
    assert!(ledger["rolled_back"].as_u64() > Some(0), "{ledger}");
    assert!(ledger["repeated"].as_u64() <= ledger["repeated_max"].as_u64(), "{ledger}");
    assert!(ledger["latency_ms"]["overall"]["p99"].as_f64() > Some(0.0), "{ledger}");
}

#[tokio::test]
async fn without_a_terminal_the_demo_tells_its_story_in_plain_lines_and_keeps_its_papers() {
    let name = "without_a_terminal_the_demo_tells_its_story_in_plain_lines_and_keeps_its_papers";
    let Some(_) = Services::find(name) else { return };
    let papers = TempDir::with_prefix("outbox-relay-papers").expect("the temporary directory takes files");
    let keep = papers.path().join("new").display().to_string();
    let mut demo = Demo::start(&["--rows", FEW, "--keep", &keep]);

    assert_eq!(demo.exit_code().await, Some(0), "{}", demo.output());

    let (out, err) = (demo.process.stdout.tail(100), demo.process.stderr.tail(100));
    for line in out.lines().chain(err.lines()) {
        assert!(!line.contains(['\u{1b}', '\r']), "{line:?}");
    }
    assert!(out.contains("kept: nothing lost"), "{out}");
    for told in ["outbox-relay migrate", "kill -9", "has taken over", "in_flight_rows_max = 500", "Next, "] {
        assert!(err.contains(told), "{told} is missing:\n{err}");
    }
    for paper in ["relay.toml", "relay.log", "postgres.log"] {
        assert!(
            fs::exists(papers.path().join("new").join(paper)).expect("the folder can be read"),
            "{paper}"
        );
    }
}

#[tokio::test]
async fn a_demo_that_is_told_to_stop_cleans_up_at_once_and_says_by_what() {
    let name = "a_demo_that_is_told_to_stop_cleans_up_at_once_and_says_by_what";
    let Some(_) = Services::find(name) else { return };
    // Amid the making of Postgres, and amid the play.
    for (moment, signal, code) in
        [(" orders go from", "INT", 130), ("writers place orders", "INT", 130), ("kill -9", "TERM", 143)]
    {
        let mut demo = Demo::start(&["--rows", "20000"]);
        demo.says(moment).await;
        demo.process.signal(signal);

        assert_eq!(demo.exit_code().await, Some(code), "{moment}: {}", demo.output());
        assert!(demo.is_gone(), "{moment}: {:?}", users_of(demo.folder.path()));
        assert!(demo.process.stdout.all().is_empty(), "a ledger of half a play would mislead");
    }
}

#[tokio::test]
async fn a_demo_that_is_killed_leaves_nothing_either() {
    let Some(_) = Services::find("a_demo_that_is_killed_leaves_nothing_either") else { return };
    let mut demo = Demo::start(&["--rows", "20000"]);
    demo.says("writers place orders").await;
    assert!(users_of(demo.folder.path()).len() >= 2, "a relay and a Postgres run");

    demo.process.signal("KILL");

    demo.process.ended(PATIENCE).await;
    demo.leaves_nothing().await;
}

#[tokio::test]
async fn a_real_kafka_is_used_if_it_is_named_and_left_as_it_was() {
    let Some(services) = Services::find("a_real_kafka_is_used_if_it_is_named_and_left_as_it_was") else {
        return;
    };
    let mut demo = Demo::start(&["--json", "--rows", FEW, "--kafka", &services.kafka_brokers]);

    assert_eq!(demo.exit_code().await, Some(0), "{}", demo.output());

    assert!(demo.process.stdout.tail(1).contains("\"kept\":true"), "{}", demo.output());
    let told = demo.process.stderr.all();
    let line = told.iter().find(|line| line.contains("Kafka is the one at")).expect("the demo says where");
    let topic = line.split("topic ").nth(1).and_then(|rest| rest.split(',').next()).expect("and which topic");
    wait::eventually(PATIENCE, "the topic is removed", async || {
        !topics(&services.kafka_brokers).iter().any(|known| known == topic)
    })
    .await;
}

#[tokio::test]
async fn a_topic_that_cannot_be_removed_is_named() {
    let Some(services) = Services::find("a_topic_that_cannot_be_removed_is_named") else { return };
    // Only the first contact is made through the proxy: Kafka names its own address after that.
    let proxy = Proxy::start(0, services.kafka_brokers.parse().expect("host:port")).await;
    let address = format!("127.0.0.1:{}", proxy.port);
    let mut demo = Demo::start(&["--rows", "20000", "--kafka", &address]);
    demo.says("writers place orders").await;
    proxy.set(Network::Cut);

    demo.process.signal("INT");

    assert_eq!(demo.exit_code().await, Some(130), "{}", demo.output());
    let told = demo.output();
    assert!(told.contains("could not remove the topic outbox-relay-demo-"), "{told}");
    assert!(told.contains("but for what is still on the broker"), "{told}");
}

#[tokio::test]
async fn papers_that_cannot_be_kept_hide_no_verdict_and_overwrite_nothing() {
    let name = "papers_that_cannot_be_kept_hide_no_verdict_and_overwrite_nothing";
    let Some(_) = Services::find(name) else { return };
    let papers = TempDir::with_prefix("outbox-relay-papers").expect("the temporary directory takes files");
    let (keep, mine) = (papers.path().display().to_string(), papers.path().join("relay.log"));
    let mut demo = Demo::start(&["--rows", FEW, "--keep", &keep]);
    demo.says("writers place orders").await;
    fs::write(&mine, "mine").expect("the folder takes files");

    assert_eq!(demo.exit_code().await, Some(0), "{}", demo.output());
    let told = demo.output();
    assert!(told.contains("kept: nothing lost") && told.contains("could not keep relay.log in "), "{told}");
    assert!(!told.contains("the logs are in"), "{told}");
    assert_eq!(fs::read_to_string(&mine).expect("it is still there"), "mine");

    let mut again = Demo::start(&["--rows", FEW, "--keep", &keep]);
    assert_eq!(again.exit_code().await, Some(1), "{}", again.output());
    assert!(again.output().contains("name another folder"), "{}", again.output());
}

/// A user of the shared RabbitMQ who may do what the pattern says; gone with this value.
struct User {
    name: String,
}

impl User {
    fn allowed(pattern: &str) -> Self {
        let user = Self { name: format!("demo-{}", uuid::Uuid::new_v4()) };
        control(&["add_user", &user.name, PASSWORD]);
        control(&["set_permissions", &user.name, pattern, pattern, pattern]);
        user
    }

    fn url(&self, services: &Services) -> String {
        let (_, host) = services.rabbitmq_url.rsplit_once('@').expect("the url names a user");
        format!("amqp://{}:{PASSWORD}@{host}", self.name)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        control(&["delete_user", &self.name]);
    }
}

const PASSWORD: &str = "canary-of-the-demo";

/// What the demo says its user must be granted.
const GRANT: &str = r"^(outbox-relay-demo-|relay\.lock\.)";

/// The exchange and the queue of a demo that has said their name.
fn declared_by(demo: &Demo) -> String {
    let told = demo.process.stderr.all();
    let line = told.iter().find(|line| line.contains("RabbitMQ is the one at")).expect("it says where");
    let name = line.split("quorum queue ").nth(1).and_then(|rest| rest.split(',').next());
    name.unwrap_or_else(|| panic!("no quorum queue in {line}")).to_owned()
}

#[tokio::test]
async fn a_real_rabbitmq_is_used_if_it_is_named_and_left_as_it_was() {
    let name = "a_real_rabbitmq_is_used_if_it_is_named_and_left_as_it_was";
    let Some(services) = Services::find(name) else { return };
    let user = User::allowed(GRANT);
    let papers = TempDir::with_prefix("outbox-relay-papers").expect("the temporary directory takes files");
    let keep = papers.path().display().to_string();
    let url = user.url(&services);
    let mut demo = Demo::start(&["--json", "--rows", FEW, "--keep", &keep, "--rabbitmq", &url]);

    assert_eq!(demo.exit_code().await, Some(0), "{}", demo.output());

    let ledger: Value = serde_json::from_str(&demo.process.stdout.tail(1)).expect("the ledger is JSON");
    assert_eq!((&ledger["kept"], &ledger["delivered"]), (&true.into(), &1000.into()), "{ledger}");
    let config = fs::read_to_string(papers.path().join("relay.toml")).expect("the papers are kept");
    assert!(config.contains("type = \"rabbitmq\""), "{config}");
    assert!(!config.contains(PASSWORD) && !demo.output().contains(PASSWORD), "{config}\n{}", demo.output());
    let rabbit = Rabbit::at(&services.rabbitmq_url).await;
    assert!(!rabbit.knows(&declared_by(&demo)).await, "nothing is left");
    assert!(demo.is_gone(), "{:?}", users_of(demo.folder.path()));
}

#[tokio::test]
async fn a_demo_on_rabbitmq_that_is_told_to_stop_leaves_nothing_there_and_killed_only_for_an_hour() {
    let name = "a_demo_on_rabbitmq_that_is_told_to_stop_leaves_nothing_there_and_killed_only_for_an_hour";
    let Some(services) = Services::find(name) else { return };
    let rabbit = Rabbit::at(&services.rabbitmq_url).await;
    let mut demo = Demo::start(&["--rows", "20000", "--rabbitmq", &services.rabbitmq_url]);
    demo.says("writers place orders").await;
    let declared = declared_by(&demo);
    assert!(rabbit.knows(&declared).await, "{declared}");
    let queues = control_says(&["list_queues", "name", "arguments"]);
    let queue = queues.lines().find(|line| line.contains(&declared)).expect("it was just there");
    assert!(queue.contains("x-expires") && queue.contains("3600000"), "{queue}");
    let exchanges = control_says(&["list_exchanges", "name", "auto_delete"]);
    let exchange = exchanges.lines().find(|line| line.contains(&declared)).expect("it was just there");
    assert!(exchange.contains("true"), "it goes with its queue: {exchange}");

    demo.process.signal("INT");

    assert_eq!(demo.exit_code().await, Some(130), "{}", demo.output());
    assert!(!rabbit.knows(&declared).await, "nothing is left");
}

#[tokio::test]
async fn a_rabbitmq_that_cannot_be_used_ends_the_demo_with_what_to_do() {
    let Some(services) = Services::find("a_rabbitmq_that_cannot_be_used_ends_the_demo_with_what_to_do")
    else {
        return;
    };
    let user = User::allowed("^$");
    let stranger = user.url(&services).replace(PASSWORD, "not-the-password");
    for (url, said, hint) in [
        (
            "amqp://u:canary@127.0.0.1:1/%2f",
            "could not connect to RabbitMQ at 127.0.0.1:1: ",
            "see that it runs",
        ),
        (&stranger, "could not connect to RabbitMQ at ", "compare user, password"),
        (&user.url(&services), "could not declare an exchange and a queue on RabbitMQ at ", GRANT),
        ("amqp://u:canary@rabbit.example/%2f", "without TLS", "--insecure-allow-plaintext"),
        ("rabbit.example:5672", "could not use the value of --rabbitmq", "write amqp://"),
    ] {
        let mut demo = Demo::start(&["--rabbitmq", url]);
        assert_eq!(demo.exit_code().await, Some(1), "{said}: {}", demo.output());
        let told = demo.output();
        assert!(told.contains(said) && told.contains(hint), "{said}, {hint}: {told}");
        assert!(!told.contains("canary") && !told.contains("not-the-password"), "{told}");
        assert!(demo.is_gone(), "{:?}", users_of(demo.folder.path()));
    }
}

#[test]
fn a_folder_without_postgres_ends_the_demo_with_what_to_do() {
    let done =
        binary().args(["demo", "--pg-bin", "/nowhere"]).output().expect("the binary under test starts");
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("error: could not use the Postgres in /nowhere"), "{said}");
    assert!(said.contains("hint: name the folder"), "{said}");
}

#[test]
fn a_terminal_sees_bars_and_colors_unless_it_wants_none() {
    let Some(_) = Services::find("a_terminal_sees_bars_and_colors_unless_it_wants_none") else { return };
    for (variable, has_bars, has_colors) in
        [("COLORTERM=truecolor", true, true), ("NO_COLOR=1", true, false), ("TERM=dumb", false, false)]
    {
        let seen = in_a_terminal(variable);
        assert!(seen.contains("kept: nothing lost"), "{variable}: {seen}");
        assert_eq!(seen.contains("━"), has_bars, "{variable}: {seen}");
        assert_eq!(seen.contains("\u{1b}[1;31m"), has_colors, "{variable}: {seen}");
    }
}

/// Everything a terminal is sent; `script`, which every Debian has, is one.
fn in_a_terminal(variable: &str) -> String {
    let demo = format!(
        "exec env LANG=C.UTF-8 TERM=xterm-256color {variable} '{}' demo --rows {FEW} --pg-bin '{}'",
        env!("CARGO_BIN_EXE_outbox-relay"),
        services::postgres_bin(),
    );
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &demo, "/dev/null"]).stdin(Stdio::null());
    let done = command.env_remove("NO_COLOR").output().expect("bsdutils is installed");
    let seen = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{variable}: {seen}");
    seen
}

fn topics(brokers: &str) -> Vec<String> {
    let mut config = ClientConfig::new();
    let consumer: BaseConsumer = config.set("bootstrap.servers", brokers).create().expect("a consumer");
    let metadata = consumer.fetch_metadata(None, PATIENCE).expect("Kafka answers");
    metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
}
