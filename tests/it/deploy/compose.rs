//! The example of compose: what it says of the relay agrees with the relay, and what it does to the
//! database is done here, to a real one.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use super::{Installed, assert_content, defaults, path, text, tool, yaml};
use crate::support::database::Database;
use crate::support::kafka;
use crate::support::postgres::Postgres;
use crate::support::relay::Settings;
use crate::support::services::{self, Services};

const COMPOSE: &str = "deploy/compose/compose.yaml";
const TOML: &str = "deploy/compose/outbox-relay.toml";

fn services() -> Vec<(String, Value)> {
    let file = yaml::document(COMPOSE);
    let services = file["services"].as_object().expect("there are services");
    services.iter().map(|(name, service)| (name.clone(), service.clone())).collect()
}

fn service(name: &str) -> Value {
    yaml::document(COMPOSE)["services"][name].clone()
}

#[test]
fn the_relay_is_started_with_a_configuration_that_it_accepts() {
    let installed = Installed::new(&text(TOML), "/run/secrets");
    installed.assert_accepted(&[]);
    let relay = service("relay");
    assert_eq!(yaml::texts(&relay["command"]), ["run", "--config", "/etc/outbox-relay/outbox-relay.toml"]);
    let grace = humantime::parse_duration(relay["stop_grace_period"].as_str().unwrap()).unwrap();
    assert!(grace > installed.load().delivery.drain_timeout, "a drain is not cut short");
}

#[test]
fn the_relay_has_no_rights_and_writes_nothing() {
    for name in ["relay", "migrate"] {
        let service = service(name);
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(yaml::texts(&service["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(yaml::texts(&service["security_opt"]), ["no-new-privileges:true"], "{name}");
        assert_eq!(service["image"], "outbox-relay:compose", "{name}");
    }
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
    const PATIENCE: Duration = Duration::from_secs(90);
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
