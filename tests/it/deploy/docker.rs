//! The image: who it runs as, and that its build is given every file it reads. It was never built here;
//! see docs/deployment.md.

use std::collections::BTreeSet;

use super::{defaults, files, text};

const DOCKERFILE: &str = "deploy/docker/Dockerfile";

/// Instructions with their arguments, continued lines joined.
pub(super) fn instructions() -> Vec<(String, String)> {
    let file = text(DOCKERFILE);
    let lines: Vec<&str> = file.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let joined = lines.join("\n").replace("\\\n", " ");
    let split = joined.lines().filter_map(|line| line.trim().split_once(' '));
    split.map(|(name, rest)| (name.to_owned(), rest.trim().to_owned())).collect()
}

/// The arguments of the last instruction of that name: the one that counts.
pub(super) fn last(name: &str) -> String {
    let found = instructions().into_iter().rev().find(|(instruction, _)| instruction == name);
    found.unwrap_or_else(|| panic!("{DOCKERFILE} has no {name}")).1
}

#[test]
fn the_image_runs_the_relay_as_nobody_in_particular() {
    let user: Vec<u32> = last("USER").split(':').map(|id| id.parse().expect("a number")).collect();
    assert!(user.len() == 2 && user.iter().all(|&id| id > 0), "{user:?}");
    assert_eq!(last("ENTRYPOINT"), r#"["/usr/local/bin/outbox-relay"]"#);
    assert_eq!(last("CMD"), r#"["run"]"#);
    let defaults = defaults();
    let ports = [defaults.metrics.listen.port(), defaults.admin.listen.port()];
    assert_eq!(last("EXPOSE"), ports.map(|port| port.to_string()).join(" "));
}

#[test]
fn the_image_is_built_from_the_lock_file_by_the_rust_that_the_project_asks_for() {
    let manifest = text("Cargo.toml");
    let version = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).expect("it says");
    assert!(text(DOCKERFILE).contains(&format!("ARG RUST_VERSION={}\n", version.trim_matches('"'))));
    let version = manifest.lines().find_map(|line| line.strip_prefix("version = ")).expect("it says");
    assert!(text(DOCKERFILE).contains(&format!("ARG VERSION={}\n", version.trim_matches('"'))));
    let build = instructions().into_iter().find(|(_, rest)| rest.contains("cargo build"));
    assert!(build.is_some_and(|(_, rest)| rest.contains("--locked --release")));
}

/// What the build is given: everything is left out but these.
fn context() -> BTreeSet<String> {
    let ignored = text("deploy/docker/Dockerfile.dockerignore");
    let mut lines = ignored.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(lines.next(), Some("*"), "everything is left out first");
    lines.map(|line| line.strip_prefix('!').expect("then comes what is given").to_owned()).collect()
}

#[test]
fn the_build_is_given_every_file_that_it_reads() {
    let given = context();
    let is_given =
        |name: &str| given.iter().any(|given| name == given || name.starts_with(&format!("{given}/")));
    for name in ["Cargo.toml", "Cargo.lock", "src/main.rs", "tests/it/main.rs"] {
        assert!(is_given(name), "{name} is left out");
    }
    for name in &given {
        assert!(super::path(name).exists(), "{name} is given and not there");
    }
    for source in files("src").iter().filter(|name| name.ends_with(".rs")) {
        for included in included(&text(source)) {
            let from = source.rsplit_once('/').expect("it lies below src").0;
            let name = normal(&format!("{from}/{included}"));
            assert!(is_given(&name), "{source} includes {name}, which is left out");
        }
    }
}

/// What the source includes as text or bytes.
fn included(source: &str) -> Vec<&str> {
    let of = |macro_name| source.split(macro_name).skip(1).filter_map(|rest: &str| rest.split('"').next());
    of("include_str!(\"").chain(of("include_bytes!(\"")).collect()
}

/// The path without its `..`.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}
