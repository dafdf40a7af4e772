//! The example of compose: what it says of the relay agrees with the relay, and what it does to the
//! database is done here, to a real one.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use super::{Installed, assert_content, defaults, path, text, tool, yaml};
use crate::support::database::Database;
use crate::support::kafka;
use crate::support::postgres::Postgres;
use crate::support::rabbitmq::{Rabbit, RabbitServer};
use crate::support::relay::Settings;
use crate::support::services::{self, Services};

const COMPOSE: &str = "deploy/compose/compose.yaml";
const PATIENCE: Duration = Duration::from_secs(90);

/// Each relay, and the file that is its configuration.
const RELAYS: [(&str, &str); 2] = [
    ("relay", "deploy/compose/outbox-relay.toml"),
    ("relay-rabbitmq", "deploy/compose/outbox-relay-rabbitmq.toml"),
];

fn services() -> Vec<(String, Value)> {
    let file = yaml::document(COMPOSE);
    let services = file["services"].as_object().expect("there are services");
    services.iter().map(|(name, service)| (name.clone(), service.clone())).collect()
}

fn service(name: &str) -> Value {
    yaml::document(COMPOSE)["services"][name].clone()
}

#[test]
fn each_relay_is_started_with_a_configuration_that_it_accepts() {
    for (name, toml) in RELAYS {
        let installed = Installed::new(&text(toml), "/run/secrets");
        installed.assert_accepted(&[]);
        let relay = service(name);
        let there = "/etc/outbox-relay/outbox-relay.toml";
        assert_eq!(yaml::texts(&relay["command"]), ["run", "--config", there], "{name}");
        let file = Path::new(toml).file_name().unwrap().to_str().unwrap();
        assert_eq!(yaml::texts(&relay["volumes"]), [format!("./{file}:{there}:ro")], "{name}");
        let grace = humantime::parse_duration(relay["stop_grace_period"].as_str().unwrap()).unwrap();
        assert!(grace > installed.load().delivery.drain_timeout, "{name}: a drain is not cut short");
    }
}

#[test]
fn the_relays_have_no_rights_and_write_nothing() {
    for name in RELAYS.map(|(name, _)| name).into_iter().chain(["migrate"]) {
        let service = service(name);
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(yaml::texts(&service["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(yaml::texts(&service["security_opt"]), ["no-new-privileges:true"], "{name}");
        assert_eq!(service["image"], "outbox-relay:compose", "{name}");
    }
}

/// Whoever is started without a profile would not start if it waited for one that has it.
#[test]
fn rabbitmq_and_what_it_takes_are_one_profile_that_nothing_else_needs() {
    let services = services();
    let has_profile = |service: &Value| !service["profiles"].is_null();
    for (name, service) in &services {
        let expected = if name.contains("rabbitmq") { vec!["rabbitmq"] } else { vec![] };
        assert_eq!(yaml::texts(&service["profiles"]), expected, "{name}");
        for other in service["depends_on"].as_object().into_iter().flat_map(|others| others.keys()) {
            let (_, other) = services.iter().find(|(name, _)| name == other).expect("it is there");
            assert!(has_profile(service) || !has_profile(other), "{name}");
        }
    }
    let relay = service("relay-rabbitmq");
    assert_eq!(yaml::texts(&relay["networks"]["default"]["aliases"]), ["relay"], "Prometheus finds it");
    assert_eq!(relay["healthcheck"], service("relay")["healthcheck"]);
}

#[test]
fn images_are_pinned_and_ports_are_on_loopback() {
    for (name, service) in services() {
        let image = service["image"].as_str().expect("a service has an image");
        let (_, tag) = image.split_once(':').unwrap_or_else(|| panic!("{name}: {image} has no tag"));
        let pinned = tag == "compose" || tag.matches('.').count() >= 1;
        assert!(pinned, "{name}: {image} may change from one day to the next");
        for port in yaml::texts(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "{name} is open to the network: {port}");
        }
    }
}

#[test]
fn what_is_mounted_or_waited_for_is_there() {
    let file = yaml::document(COMPOSE);
    for (name, service) in services() {
        for volume in yaml::texts(&service["volumes"]) {
            let (source, _) = volume.split_once(':').expect("source:target");
            let local = source.starts_with('.') && path("deploy/compose").join(source).exists();
            assert!(local || file["volumes"].get(source).is_some(), "{name}: {source} is not there");
        }
        for other in service["depends_on"].as_object().into_iter().flat_map(|others| others.keys()) {
            assert!(file["services"].get(other).is_some(), "{name} waits for {other}");
        }
    }
    let relay = service("relay");
    assert!(path("deploy/compose").join(relay["build"]["context"].as_str().unwrap()).exists());
    assert!(path(relay["build"]["dockerfile"].as_str().unwrap()).exists());
    assert!(
        path("deploy/compose").join(file["secrets"]["relay-password"]["file"].as_str().unwrap()).exists()
    );
}

#[test]
fn prometheus_is_configured_and_looks_where_the_relay_listens() {
    let dir = tempfile::tempdir().unwrap();
    let rules = path("deploy/prometheus/alerts.yml").display().to_string();
    let config = text("deploy/compose/prometheus.yml").replace("/etc/prometheus/alerts.yml", &rules);
    let file = dir.path().join("prometheus.yml");
    std::fs::write(&file, config).unwrap();
    assert_content(&tool("promtool", &["check", "config", file.to_str().unwrap()]));
    let scrape = &yaml::document("deploy/compose/prometheus.yml")["scrape_configs"][0];
    assert_eq!(scrape["dns_sd_configs"][0]["port"], defaults().metrics.listen.port());
    assert_eq!(yaml::texts(&scrape["dns_sd_configs"][0]["names"]), ["relay"]);
}

/// Runs a script through psql, as the containers do.
fn psql(url: &str, script: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("script.sql");
    std::fs::write(&file, script).unwrap();
    let mut command = Command::new(Path::new(&services::postgres_bin()).join("psql"));
    command.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file"]).arg(file).arg(url);
    command.output().expect("psql is beside postgres")
}

/// Whether the health check of compose, run by a shell of ours, likes what listens on `port`.
fn healthy(port: u16) -> bool {
    let test = service("relay")["healthcheck"]["test"].clone();
    let test = yaml::texts(&test);
    assert_eq!(test[0], "CMD");
    let port_of_ours = format!("/{}", defaults().metrics.listen.port());
    assert!(test[3].contains(&port_of_ours), "{} asks another port", test[3]);
    // Compose takes one of two dollar signs for itself.
    let script = test[3].replace("$$", "$").replace(&port_of_ours, &format!("/{port}"));
    let mut command = Command::new(test[1]);
    command.arg(test[2]).arg(script).stderr(std::process::Stdio::null());
    command.status().expect("there is a bash").success()
}

#[tokio::test]
async fn orders_of_the_example_writer_are_relayed_by_a_role_with_the_example_rights() {
    let Some(services) = Services::find("compose") else { return };
    let server = Postgres::start(&[]).await;
    let database = Database::create_in(&server.url).await;
    let topic = kafka::fresh_topic("orders");
    kafka::create_topic(&services.kafka_brokers, &topic, 3, &[]).await;
    let owner = Settings::kafka(&database.url, &services.kafka_brokers);
    assert_content(&owner.output(&["migrate"]));
    let writer = text("deploy/compose/writer.sql");
    let once = writer.replace("\\watch 1", "\\g").replace("'orders'", &format!("'{topic}'"));
    assert_ne!(writer, once, "the writer is another by now");
    // Twice, as after `down` and `up`.
    for _ in 0..2 {
        assert_content(&psql(&database.url, &text("deploy/sql/roles.sql")));
        assert_content(&psql(&database.url, &once));
    }
    let orders = database.count("shop.purchase").await;
    assert!(orders > 0 && orders == database.count("outbox.message").await, "one event an order");

    let mut relay = Settings::kafka(&database.url_as("relay"), &services.kafka_brokers).run();
    let pending = "outbox.message where delivered_at is null";
    relay.wait_for(PATIENCE, "every order is relayed", async || database.count(pending).await == 0).await;
    let received = kafka::read_all(&services.kafka_brokers, &topic).await;
    assert_eq!(i64::try_from(received.len()).unwrap(), orders);
    assert!(healthy(relay.metrics_port));
    relay.kill_9();
    assert!(!healthy(relay.metrics_port), "nobody answers");
}

/// What a configuration file says, to be changed key by key.
fn settings_of(toml: &str) -> Settings {
    let file = ::config::File::from_str(&text(toml), ::config::FileFormat::Toml);
    let file = ::config::Config::builder().add_source(file).build().expect("the file is TOML");
    let sections: BTreeMap<String, Value> = file.try_deserialize().expect("it has sections");
    sections.iter().fold(Settings::default(), |settings, (name, value)| put(settings, name, value))
}

fn put(settings: Settings, key: &str, value: &Value) -> Settings {
    // A text, a number or a claim is the same in JSON as in TOML.
    let Some(section) = value.as_object() else { return settings.set(key, &value.to_string()) };
    section.iter().fold(settings, |settings, (name, value)| put(settings, &format!("{key}.{name}"), value))
}

/// `roles.sql` with the column that compose names for the second mark.
fn roles_for_the_second_mark() -> String {
    let service = service("rabbitmq-mark");
    let arguments = yaml::texts(&service["entrypoint"]);
    let column = arguments.iter().find_map(|argument| argument.strip_prefix("--set=mark_column="));
    format!("\\set mark_column {}\n{}", column.expect("the script is told it"), text("deploy/sql/roles.sql"))
}

#[tokio::test]
async fn orders_reach_rabbitmq_too_by_a_user_and_a_role_with_the_example_rights() {
    if Services::find("compose with RabbitMQ").is_none() {
        return;
    }
    let (server, broker) = (Postgres::start(&[]).await, RabbitServer::start().await);
    broker.control(&[
        "import_definitions",
        &path("deploy/compose/rabbitmq-definitions.json").to_string_lossy(),
    ]);
    let database = Database::create_in(&server.url).await;
    let password = path("deploy/compose/relay-password.txt");
    let relays = settings_of(RELAYS[1].1)
        .text("database.url", &database.url_as("relay"))
        .text("database.password_file", &password.to_string_lossy())
        .text("sink.rabbitmq.url", &format!("amqp://relay@127.0.0.1:{}/%2f", broker.port))
        .text("sink.rabbitmq.password_file", &password.to_string_lossy());
    assert_content(&Settings::stdout(&database.url).output(&["migrate"]));
    let (roles, mark) = (text("deploy/sql/roles.sql"), text("deploy/compose/rabbitmq-mark.sql"));
    let writer = text("deploy/compose/writer.sql").replace("\\watch 1", "\\g");
    // Twice, as after `down` and `up`.
    for _ in 0..2 {
        for script in [&roles, &mark, &roles_for_the_second_mark(), &writer] {
            assert_content(&psql(&database.url, script));
        }
    }
    let orders = database.count("outbox.message").await;
    assert!(orders > 0, "there are orders");

    let mut relay = relays.run();
    let pending = "outbox.message where rabbitmq_delivered_at is null";
    relay.wait_for(PATIENCE, "every order is relayed", async || database.count(pending).await == 0).await;
    let depth = Rabbit::at(&broker.url()).await.depth("orders").await;
    assert_eq!(i64::from(depth), orders);
    assert_eq!(
        database.count("outbox.message where delivered_at is null").await,
        orders,
        "Kafka's are its own"
    );
    relay.sigterm();
    assert_eq!(relay.wait(PATIENCE).await, 0);
}
