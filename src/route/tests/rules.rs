//! Which way a row goes, and whether it may.

use super::*;

#[test]
fn commands_go_to_the_exchange_of_their_queue_and_events_to_a_topic_exchange() {
    let mut config = to_exchange("events", "{destination}.{kind}");
    config.when =
        vec![rule(&[("kind", "Ship*"), ("destination", "orders")], exchange("commands", "{destination}"))];
    let mut route = made(&config);
    for (kind, destination, expected) in [
        ("ShipOrder", "orders", "commands:orders"),
        ("OrderShipped", "orders", "events:orders.OrderShipped"),
        ("ShipOrder", "returns", "events:returns.ShipOrder"),
    ] {
        let mut row = message();
        (row.kind, row.destination) = (Some(bytes(kind)), Some(bytes(destination)));
        assert_eq!(destination_of(&mut route, row), expected);
    }
    assert_eq!(route.fixed_destinations(), []);
}

#[test]
fn the_first_rule_a_row_meets_decides_and_null_meets_none() {
    let to = |topic: &str| config::Target::Topic(template(topic));
    let mut config = config("rest");
    config.when = vec![
        rule(&[("tenant", "acme")], to("first")),
        rule(&[("id", "7")], to("second")),
        rule(&[("key", "*")], to("third")),
    ];
    let mut route = made(&config);
    let mut row = message();
    assert_eq!(destination_of(&mut route, row.clone()), "first");
    row.headers = vec![header("tenant", Some("acme")), header("tenant", None)];
    assert_eq!(destination_of(&mut route, row.clone()), "second");
    row.row.id = RowId::Text("8".into());
    assert_eq!(destination_of(&mut route, row.clone()), "third");
    row.key = None;
    assert_eq!(destination_of(&mut route, row), "rest");
    assert_eq!(route.fixed_destinations().len(), 4);
}

#[test]
fn a_rule_has_its_own_word_on_what_nobody_takes() {
    let mut config = to_exchange("events", "r");
    config.when = vec![rule(&[("kind", "*")], exchange("events", "r"))];
    config.when[0].way.on_unroutable = OnUnroutable::Accept;
    let (record, _) = properties(made(&config).apply(message()));
    assert_eq!(record.on_unroutable(), OnUnroutable::Accept);
}

#[test]
fn rules_in_sql_are_cases() {
    let mut config = to_exchange("events", "{kind}");
    config.when = vec![rule(&[("kind", "it's_*"), ("key", "a")], exchange("c", ""))];
    let sql = made(&config).scope_sql(|name| format!("o.{name}"));
    assert_eq!(
        sql,
        r#"(case when (o.kind) collate "C" like 'it''s\_%' escape '\' and (o.key) collate "C" like 'a' escape '\' then (('c'::text) || chr(31)) else (('events'::text) || chr(31)) end)"#
    );
}

#[test]
fn a_row_reaches_only_what_is_allowed() {
    let allow =
        |patterns: &[&str]| patterns.iter().map(|text| Allowed::parse(text).expect("a pattern")).collect();
    let mut config = config("{destination}");
    config.allow = allow(&["orders", "audit.*"]);
    let mut route = made(&config);
    let mut row = message();
    assert_eq!(destination_of(&mut route, row.clone()), "orders");
    row.destination = Some(bytes("salaries"));
    for _ in 0..2 {
        let failure = failure(route.apply(row.clone()));
        assert_eq!(failure.error_type, ErrorType::InvalidRecord);
        assert_eq!(&*failure.reason, "the destination \"salaries\" is not among those of route.allow");
    }

    let mut config = to_exchange("{destination}", "{kind}");
    config.allow = allow(&["events", "orders -> Ship*"]);
    let mut route = made(&config);
    let mut row = message();
    assert_eq!(destination_of(&mut route, row.clone()), "orders:Shipped");
    row.kind = Some(bytes("Lost"));
    assert!(destination_of(&mut route, row.clone()).contains("route.allow"));
    row.destination = Some(bytes("events"));
    assert_eq!(destination_of(&mut route, row.clone()), "events:Lost");
    // A pattern about routing keys says nothing of exchanges whose names hold what it is written with.
    for name in ["orders:Ship", "orders -> Ship"] {
        (row.destination, row.kind) = (Some(bytes(name)), Some(bytes("Shipped")));
        assert!(destination_of(&mut route, row.clone()).contains("route.allow"), "{name}");
    }
}
