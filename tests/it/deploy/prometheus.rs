//! Alerts and recording rules: sound, tested, about metrics that exist, and each with a page to turn to.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{assert_content, assert_metrics_exist, text, tool, yaml};

const RULES: &str = "deploy/prometheus/alerts.yml";
const TESTS: &str = "deploy/prometheus/rules_test.yml";
const RUNBOOK: &str = "docs/operations.md";

fn rules() -> Vec<Value> {
    let file = yaml::document(RULES);
    yaml::items(&file["groups"]).iter().flat_map(|group| yaml::items(&group["rules"]).to_vec()).collect()
}

fn named(rules: &[Value], kind: &str) -> BTreeMap<String, Value> {
    let named = rules.iter().filter_map(|rule| Some((rule[kind].as_str()?.to_owned(), rule.clone())));
    named.collect()
}

fn alerts() -> BTreeMap<String, Value> {
    named(&rules(), "alert")
}

/// Names that recording rules make.
pub(super) fn recorded() -> BTreeSet<String> {
    named(&rules(), "record").into_keys().collect()
}

#[test]
fn promtool_accepts_the_rules_and_every_case_of_them() {
    assert_content(&tool("promtool", &["check", "rules", RULES]));
    assert_content(&tool("promtool", &["test", "rules", TESTS]));
}

#[test]
fn every_rule_names_metrics_that_exist() {
    let recorded = recorded();
    for rule in rules() {
        let name = rule["alert"].as_str().or(rule["record"].as_str()).expect("a rule has a name");
        assert_metrics_exist(rule["expr"].as_str().expect("a rule has an expression"), &recorded, name);
    }
}

#[test]
fn every_alert_says_how_bad_it_is_and_waits_before_it_does() {
    let alerts = alerts();
    assert!(alerts.len() > 10, "only {} alerts were found", alerts.len());
    for (name, alert) in alerts {
        assert!(name.starts_with("OutboxRelay"), "{name}");
        assert!(alert["for"].is_string(), "{name} has no `for`");
        let severity = alert["labels"]["severity"].as_str().unwrap_or_default();
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity:?}");
        for annotation in ["summary", "description"] {
            let said = alert["annotations"][annotation].as_str().unwrap_or_default();
            assert!(said.ends_with('.'), "{name}: {annotation} {said:?} is no sentence");
        }
    }
}

/// The sections of the runbook that are named after an alert, with their text.
fn sections() -> BTreeMap<String, String> {
    let text = text(RUNBOOK);
    let sections = text.split("\n### ").skip(1).filter_map(|section| section.split_once('\n'));
    let ours = sections.filter(|(title, _)| title.starts_with("OutboxRelay"));
    ours.map(|(title, body)| (title.to_owned(), body.split("\n## ").next().unwrap().to_owned())).collect()
}

#[test]
fn every_alert_has_a_section_of_the_runbook_and_every_section_an_alert() {
    let (alerts, sections) = (alerts(), sections());
    assert_eq!(sections.keys().collect::<Vec<_>>(), alerts.keys().collect::<Vec<_>>());
    for (name, alert) in alerts {
        let link = format!("{RUNBOOK}#{}", name.to_lowercase());
        assert_eq!(alert["annotations"]["runbook_url"], link, "{name}");
        for part in ["**Means.**", "**Look at.**", "**Mend.**"] {
            assert!(sections[&name].contains(part), "the section {name} has no {part}");
        }
    }
}

#[test]
fn every_alert_is_tested_where_it_fires_and_where_it_must_not() {
    let file = yaml::document(TESTS);
    let cases = yaml::items(&file["tests"]).iter().flat_map(|test| yaml::items(&test["alert_rule_test"]));
    let (mut fires, mut rests) = (BTreeSet::new(), BTreeSet::new());
    for case in cases {
        let name = case["alertname"].as_str().expect("a case names its alert").to_owned();
        let expected = case["exp_alerts"].as_array().expect("a case says what it expects");
        if expected.is_empty() {
            rests.insert(name)
        } else {
            fires.insert(name)
        };
    }
    let alerts: BTreeSet<String> = alerts().into_keys().collect();
    assert_eq!(fires, alerts, "each fires in a case");
    assert_eq!(rests, alerts, "each rests in a case");
}
