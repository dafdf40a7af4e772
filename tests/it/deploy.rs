//! What stands in `deploy/`, held against the code it is for: metrics that exist, configurations that are
//! accepted, ports and times that agree. What is read here is read by real parsers; whether a cluster or
//! an engine takes it is for those to say, and docs/deployment.md tells what was never run.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use outbox_relay::config::{Config, Sources, load};
use outbox_relay::metrics::table::TABLE;
use tempfile::TempDir;

use crate::support::relay::binary;

mod compose;
mod dashboard;
mod docker;
mod kubernetes;
mod prometheus;
mod systemd;
mod yaml;

/// A path below the root of the project.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("could not read {name}: {error}"))
}

/// Every file below a directory of the project, by its name within the project.
fn files(directory: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path(directory)).unwrap().flatten() {
        let name = format!("{directory}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() { found.extend(files(&name)) } else { found.push(name) }
    }
    found.sort();
    found
}

/// What config.example.toml comes to: the defaults, and the least that must be given.
fn defaults() -> Config {
    let sources = Sources { file: Some(path("config.example.toml")), ..Sources::default() };
    load(&sources).expect("the example is valid")
}

/// Words of `text` that are made of letters, digits, `_` and `:`, as names in PromQL are.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).filter(|word| !word.is_empty())
}

/// Every name under which a metric of ours stands on the page.
fn metric_names() -> BTreeSet<String> {
    let series = |name: String| ["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}"));
    let process = [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_threads",
        "process_start_time_seconds",
    ];
    let ours = TABLE.iter().flat_map(|spec| match spec.kind {
        outbox_relay::metrics::table::Kind::Histogram(_) => series(spec.full_name()).to_vec(),
        outbox_relay::metrics::table::Kind::Counter | outbox_relay::metrics::table::Kind::Gauge => {
            vec![spec.full_name()]
        }
    });
    ours.chain(process.map(str::to_owned)).collect()
}

/// Panics unless every metric that `expression` names exists, or is one of `recorded`.
#[track_caller]
fn assert_metrics_exist(expression: &str, recorded: &BTreeSet<String>, place: &str) {
    let known = metric_names();
    let named = words(expression)
        .filter(|word| word.contains("outbox_relay_") || word.starts_with("process_") || word.contains(':'));
    let mut count = 0;
    for name in named {
        count += 1;
        assert!(known.contains(name) || recorded.contains(name), "{place}: there is no {name}");
    }
    assert!(count > 0, "{place}: {expression} names no metric");
}

/// A configuration file, with the files it names put where it finds them.
struct Installed {
    dir: TempDir,
    config: PathBuf,
}

impl Installed {
    /// `toml` whose secrets below `secrets_at` are files of one line each.
    fn new(toml: &str, secrets_at: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let here = dir.path().display().to_string();
        for name in secret_names(toml, secrets_at) {
            fs::write(dir.path().join(name), "secret\n").unwrap();
        }
        let config = dir.path().join("outbox-relay.toml");
        fs::write(&config, toml.replace(secrets_at, &here)).unwrap();
        Self { dir, config }
    }

    /// What `outbox-relay config show` says of it.
    fn show(&self, environment: &[(String, String)]) -> Output {
        let mut command = binary();
        command.envs(environment.iter().cloned()).arg("--config").arg(&self.config);
        command.args(["config", "show"]).output().expect("the binary under test starts")
    }

    /// The same, read.
    fn load(&self) -> Config {
        let sources = Sources { file: Some(self.config.clone()), ..Sources::default() };
        load(&sources).unwrap_or_else(|problems| panic!("{problems}"))
    }

    #[track_caller]
    fn assert_accepted(&self, environment: &[(String, String)]) {
        let output = self.show(environment);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Names of the files that `toml` expects below `secrets_at`.
fn secret_names(toml: &str, secrets_at: &str) -> BTreeSet<String> {
    let settings = toml.lines().filter(|line| !line.trim_start().starts_with('#'));
    let after = settings.flat_map(|line| line.split(secrets_at).skip(1));
    after.map(|rest| rest.trim_start_matches('/').split(['"', '&']).next().unwrap().to_owned()).collect()
}

/// Runs a tool that `scripts/prepare` installs; missing, it is a failure and not a pass.
fn tool(name: &str, arguments: &[&str]) -> Output {
    let output = Command::new(name).args(arguments).current_dir(path("")).output();
    output.unwrap_or_else(|error| panic!("could not run {name}: {error}; run scripts/prepare"))
}

#[track_caller]
fn assert_content(output: &Output) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
}

#[test]
fn every_yaml_and_json_file_can_be_read() {
    let mut read = 0;
    for name in files("deploy") {
        match Path::new(&name).extension().and_then(|extension| extension.to_str()) {
            Some("yaml" | "yml") => assert!(!yaml::documents(&name).is_empty(), "{name} is empty"),
            Some("json") => drop(serde_json::from_str::<serde_json::Value>(&text(&name)).expect(&name)),
            _ => continue,
        }
        read += 1;
    }
    assert!(read > 15, "only {read} files were found");
}

#[test]
fn the_table_of_deploy_lists_what_is_there() {
    let listed = text("deploy/README.md");
    for entry in fs::read_dir(path("deploy")).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let there = name == "README.md" || listed.contains(&format!("({name}"));
        assert!(there, "deploy/{name} is not in the table of deploy/README.md");
    }
}
