//! The manifests: Pods under the restricted standard, probes where the relay answers, time enough to
//! drain, and configurations that are accepted.

use std::time::Duration;

use serde_json::Value;

use super::{Installed, defaults, files, path, secret_names, text, yaml};

const ROOT: &str = "deploy/kubernetes";
const SECRETS: &str = "/run/secrets/outbox-relay";

/// Documents of that kind, with the directory each lies in.
fn of_kind(kind: &str) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for name in files(ROOT).into_iter().filter(|name| name.ends_with(".yaml")) {
        let directory = name.rsplit_once('/').expect("it lies in a directory").0.to_owned();
        let documents = yaml::documents(&name).into_iter().filter(|document| document["kind"] == kind);
        found.extend(documents.map(|document| (directory.clone(), document)));
    }
    assert!(!found.is_empty(), "there is no {kind}");
    found
}

/// Every Pod there is, as the workload that makes it describes it.
fn pods() -> Vec<(String, Value)> {
    let workloads = of_kind("Deployment").into_iter().chain(of_kind("Job"));
    let pods: Vec<_> =
        workloads.map(|(place, workload)| (place, workload["spec"]["template"].clone())).collect();
    assert_eq!(pods.len(), 3, "standalone, sidecar, migrate");
    pods
}

fn containers(pod: &Value) -> Vec<&Value> {
    let spec = &pod["spec"];
    yaml::items(&spec["initContainers"]).iter().chain(yaml::items(&spec["containers"])).collect()
}

/// The Pods that relay, each with the container that does.
fn relays() -> Vec<(String, Value, Value)> {
    let relaying = |pod: &Value| {
        let mut containers = containers(pod).into_iter();
        containers.find(|container| yaml::texts(&container["args"]).first() == Some(&"run")).cloned()
    };
    let found = pods().into_iter().filter_map(|(place, pod)| Some((place, relaying(&pod)?, pod)));
    let found: Vec<_> = found.map(|(place, relay, pod)| (place, pod, relay)).collect();
    assert_eq!(found.len(), 2, "standalone and sidecar");
    found
}

#[test]
fn every_container_keeps_to_the_restricted_standard() {
    for (place, pod) in pods() {
        let whole = &pod["spec"]["securityContext"];
        assert_eq!(whole["runAsNonRoot"], true, "{place}");
        assert_eq!(whole["seccompProfile"]["type"], "RuntimeDefault", "{place}");
        assert_eq!(pod["spec"]["automountServiceAccountToken"], false, "{place}");
        for container in containers(&pod) {
            let context = &container["securityContext"];
            let user = context["runAsUser"].as_u64().or(whole["runAsUser"].as_u64());
            assert!(user.is_some_and(|user| user > 0), "{place}: {user:?}");
            assert_eq!(context["allowPrivilegeEscalation"], false, "{place}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{place}");
            assert_eq!(yaml::texts(&context["capabilities"]["drop"]), ["ALL"], "{place}");
            assert!(container["resources"]["limits"]["memory"].is_string(), "{place}");
        }
    }
}

#[test]
fn probes_ask_where_the_relay_answers() {
    let port = defaults().metrics.listen.port();
    for (place, _, relay) in relays() {
        let ports = yaml::items(&relay["ports"]);
        assert_eq!(ports[0]["containerPort"], port, "{place}");
        for (probe, page) in
            [("startupProbe", "/startupz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
        {
            assert_eq!(relay[probe]["httpGet"]["path"], page, "{place}");
            assert_eq!(relay[probe]["httpGet"]["port"], ports[0]["name"], "{place}");
        }
    }
}

#[test]
fn pods_are_given_more_time_to_end_than_a_drain_takes() {
    for (place, pod, _) in relays() {
        let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64().expect("it is said");
        let config = Installed::new(&text(&format!("{ROOT}/base/outbox-relay.toml")), SECRETS).load();
        // A second for the pages and two for the broker's client.
        assert!(
            Duration::from_secs(grace) > config.delivery.drain_timeout + Duration::from_secs(5),
            "{place}"
        );
    }
}

#[test]
fn the_sidecar_is_a_native_one() {
    let (_, pod, relay) = relays().into_iter().find(|(place, ..)| place.ends_with("sidecar")).unwrap();
    assert_eq!(yaml::items(&pod["spec"]["initContainers"]), std::slice::from_ref(&relay));
    assert_eq!(relay["restartPolicy"], "Always");
}

#[test]
fn a_rollout_has_the_new_relay_stand_by_before_the_old_one_goes() {
    let (_, deployment) =
        of_kind("Deployment").into_iter().find(|(place, _)| place.ends_with("standalone")).unwrap();
    assert_eq!(deployment["spec"]["replicas"], 2);
    assert_eq!(deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
    let (_, budget) = of_kind("PodDisruptionBudget").remove(0);
    assert_eq!(budget["spec"]["maxUnavailable"], 1);
    assert_eq!(budget["spec"]["selector"], deployment["spec"]["selector"]);
}

#[test]
fn configurations_are_accepted_and_their_secrets_are_in_the_secret() {
    let tomls: Vec<String> = files(ROOT).into_iter().filter(|name| name.ends_with(".toml")).collect();
    assert_eq!(tomls.len(), 2, "{tomls:?}");
    let (_, secret) = of_kind("Secret").remove(0);
    for name in tomls {
        let toml = text(&name);
        let named = secret_names(&toml, SECRETS);
        assert!(named.len() >= 2, "{name}: {named:?}");
        for file in named {
            assert!(secret["stringData"].get(&file).is_some(), "{name} reads {file}");
        }
        // `config show` asks for a broker, which `migrate` does without.
        let broker = ("OUTBOX_RELAY__SINK__KAFKA__BROKERS".to_owned(), "localhost:9092".to_owned());
        let environment = if toml.contains("[sink.kafka]") { vec![] } else { vec![broker] };
        Installed::new(&toml, SECRETS).assert_accepted(&environment);
    }
}

#[test]
fn files_are_mounted_where_the_configuration_looks_for_them() {
    for (place, pod) in pods() {
        let ours = containers(&pod).into_iter().filter(|container| container["image"] == "outbox-relay");
        for container in ours {
            let args = yaml::texts(&container["args"]);
            assert_eq!(args[1..], ["--config", "/etc/outbox-relay/outbox-relay.toml"], "{place}");
            let mounts = yaml::items(&container["volumeMounts"]);
            let paths: Vec<&str> = mounts.iter().filter_map(|mount| mount["mountPath"].as_str()).collect();
            assert_eq!(paths, ["/etc/outbox-relay", SECRETS], "{place}");
            for mount in mounts {
                let volumes = yaml::items(&pod["spec"]["volumes"]);
                assert!(volumes.iter().any(|volume| volume["name"] == mount["name"]), "{place}: {mount}");
            }
        }
    }
}

#[test]
fn what_a_kustomization_names_is_there() {
    for (place, kustomization) in of_kind("Kustomization") {
        let generators = yaml::items(&kustomization["configMapGenerator"]);
        let generated = generators.iter().flat_map(|generator| yaml::texts(&generator["files"]));
        for name in yaml::texts(&kustomization["resources"]).into_iter().chain(generated) {
            assert!(path(&place).join(name).exists(), "{place}: {name} is not there");
        }
    }
}

#[test]
fn pod_monitors_and_annotations_find_the_metrics_page() {
    let monitors = of_kind("PodMonitor");
    for (place, pod, relay) in relays() {
        let port = &yaml::items(&relay["ports"])[0];
        let labels = &pod["metadata"]["labels"];
        let finds = |monitor: &Value| {
            let wanted = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
            wanted.iter().all(|(label, value)| labels[label] == *value)
        };
        let found: Vec<_> = monitors.iter().filter(|(_, monitor)| finds(monitor)).collect();
        assert_eq!(found.len(), 1, "{place}");
        assert_eq!(found[0].1["spec"]["podMetricsEndpoints"][0]["port"], port["name"], "{place}");
        let annotations = &pod["metadata"]["annotations"];
        assert_eq!(annotations["prometheus.io/port"], port["containerPort"].to_string(), "{place}");
    }
}

#[test]
fn the_network_policy_lets_the_relay_reach_what_its_configuration_names() {
    let (_, policy) = of_kind("NetworkPolicy").remove(0);
    let rules = yaml::items(&policy["spec"]["egress"]).iter().flat_map(|rule| yaml::items(&rule["ports"]));
    let ports: Vec<u64> = rules.filter_map(|port| port["port"].as_u64()).collect();
    let toml = text(&format!("{ROOT}/base/outbox-relay.toml"));
    let named = toml.split(".svc:").skip(1).map(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().expect("a port follows a host")
    });
    let named: Vec<u64> = named.collect();
    assert_eq!(named.len(), 2, "{named:?}");
    assert!(named.iter().all(|port| ports.contains(port)), "{named:?} are not all among {ports:?}");
}
