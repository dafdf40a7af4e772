//! The Grafana dashboard: every query names metrics that exist, every panel says what it shows.

use serde_json::Value;

use super::prometheus::recorded;
use super::{assert_metrics_exist, text, yaml};

const DASHBOARD: &str = "deploy/grafana/dashboard.json";

fn dashboard() -> Value {
    serde_json::from_str(&text(DASHBOARD)).expect("the dashboard is JSON")
}

/// Those that show something: a row only has a title.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels: Vec<&Value> =
        yaml::items(&dashboard["panels"]).iter().filter(|panel| panel["type"] != "row").collect();
    assert!(panels.len() > 15, "only {} panels were found", panels.len());
    panels
}

#[test]
fn every_query_names_metrics_that_exist_and_heeds_the_variables() {
    let (dashboard, recorded) = (dashboard(), recorded());
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().expect("a panel has a title");
        let targets = yaml::items(&panel["targets"]);
        assert!(!targets.is_empty(), "{title} asks for nothing");
        for target in targets {
            let query = target["expr"].as_str().expect("a target has a query");
            assert_metrics_exist(query, &recorded, title);
            for variable in ["pipeline=~\"$pipeline\"", "instance=~\"$instance\""] {
                assert!(query.contains(variable), "{title}: {query} does not heed {variable}");
            }
        }
    }
    for variable in yaml::items(&dashboard["templating"]["list"]) {
        if variable["type"] == "query" {
            let query = variable["definition"].as_str().expect("a variable has a query");
            assert_metrics_exist(query, &recorded, "a variable");
        }
    }
}

#[test]
fn every_metric_of_the_table_is_on_the_dashboard_or_known_not_to_be() {
    // Its age is shown as lag; a dashboard of timestamps would show the same twice.
    let left_out = ["outbox_relay_oldest_pending_timestamp_seconds"];
    let text = text(DASHBOARD);
    for spec in outbox_relay::metrics::table::TABLE {
        let name = spec.full_name();
        let shown = text.contains(&name);
        assert_eq!(shown, !left_out.contains(&name.as_str()), "{name}");
    }
}

#[test]
fn every_panel_has_a_description_a_unit_and_a_number_of_its_own() {
    let dashboard = dashboard();
    let mut numbers = std::collections::BTreeSet::new();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().expect("a panel has a title");
        assert!(panel["description"].as_str().is_some_and(|text| text.ends_with('.')), "{title}");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title} has no unit");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        assert!(numbers.insert(panel["id"].as_u64().expect("a panel has a number")), "{title}");
    }
}
