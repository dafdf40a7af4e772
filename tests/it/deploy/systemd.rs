//! The unit: it speaks the protocol the relay speaks, knows its exit codes, and gives it time and secrets.

use std::fs;
use std::time::Duration;

use outbox_relay::cli::Exit;
use outbox_relay::status::LOOP_SILENCE_MAX;

use super::{Installed, defaults, text};

const UNIT: &str = "deploy/systemd/outbox-relay.service";

/// Every value of that key, in the order of the file. With `#` before it, what is offered commented out.
fn values(key: &str) -> Vec<String> {
    let unit = text(UNIT);
    let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    lines.map(str::to_owned).collect()
}

fn value(key: &str) -> String {
    let mut values = values(key);
    assert_eq!(values.len(), 1, "{key} stands once: {values:?}");
    values.remove(0)
}

fn duration(key: &str) -> Duration {
    humantime::parse_duration(&value(key)).expect("a duration with its unit")
}

fn codes(key: &str) -> Vec<u8> {
    value(key).split(' ').map(|code| code.parse().expect("an exit code")).collect()
}

#[test]
fn it_waits_for_the_relays_word_and_feeds_on_its_loop() {
    assert_eq!((value("Type"), value("NotifyAccess")), ("notify".to_owned(), "main".to_owned()));
    // The loop turns every few seconds at most, and a look at it is taken three times in this time.
    assert!(duration("WatchdogSec") >= Duration::from_secs(15));
    assert!(duration("WatchdogSec") < LOOP_SILENCE_MAX);
}

#[test]
fn a_stop_is_given_time_to_drain() {
    assert_eq!(value("KillSignal"), "SIGTERM");
    assert!(duration("TimeoutStopSec") > defaults().delivery.drain_timeout + Duration::from_secs(5));
}

#[test]
fn it_is_started_again_unless_that_would_not_help() {
    assert_eq!(value("Restart"), "always");
    let hopeless = [Exit::Usage, Exit::Permission, Exit::Config].map(Exit::code);
    assert_eq!(codes("RestartPreventExitStatus"), hopeless);
    assert_eq!(codes("SuccessExitStatus"), [Exit::Temporary.code()]);
}

#[test]
fn secrets_come_as_credentials_and_the_keys_that_name_them_are_accepted() {
    let start = value("ExecStart");
    assert!(start.ends_with("/outbox-relay run --config /etc/outbox-relay/outbox-relay.toml"), "{start}");
    let toml = "database.url = \"postgres://relay@localhost/app\"\nsink.kafka.brokers = \"localhost\"\n";
    let installed = Installed::new(toml, "/nowhere");
    let credentials: Vec<String> = [values("LoadCredential"), values("# LoadCredential")].concat();
    for credential in &credentials {
        let (name, source) = credential.split_once(':').expect("name:path");
        assert!(source.starts_with("/etc/outbox-relay/secrets/"), "{source}");
        fs::write(installed.dir.path().join(name), "secret").unwrap();
    }
    let here = installed.dir.path().display().to_string();
    let variables = [values("Environment"), values("# Environment")].concat();
    assert_eq!(variables.len(), credentials.len(), "one key for every credential");
    let variables = variables.iter().map(|pair| {
        let (name, value) = pair.split_once('=').expect("name=value");
        assert!(value.starts_with("%d/"), "{value} is no credential");
        (name.to_owned(), value.replace("%d", &here))
    });
    let variables: Vec<_> = variables.collect();
    let shown = String::from_utf8(installed.show(&variables).stdout).unwrap();
    assert!(shown.contains("sasl.password") && shown.contains("***"), "{shown}");
    installed.assert_accepted(&variables);
}

#[test]
fn it_has_no_rights_but_the_network() {
    for (key, wanted) in [
        ("DynamicUser", "yes"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("ProtectSystem", "strict"),
        ("MemoryDenyWriteExecute", "yes"),
        ("LimitCORE", "0"),
    ] {
        assert_eq!(value(key), wanted, "{key}");
    }
    assert_eq!(values("SystemCallFilter"), ["@system-service", "~@privileged @resources"]);
}
