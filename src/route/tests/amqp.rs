//! What a record to an exchange says of itself, case by case.

use super::*;

#[test]
fn to_an_exchange_id_and_kind_are_properties_and_the_key_is_a_header() {
    let (record, properties) =
        properties(made(&to_exchange("events", "{destination}.{kind}")).apply(message()));
    assert_eq!(record.destination, destination("events", "orders.Shipped"));
    assert_eq!(record.destination.identity(), "events\u{1f}orders.Shipped");
    assert_eq!(properties.message_id, bytes("7"));
    assert_eq!(properties.kind, Some(bytes("Shipped")));
    assert_eq!((properties.content_type, properties.correlation_id, properties.reply_to), (None, None, None));
    let expected = [
        header("outbox-key", Some("customer-1")),
        header("trace", Some("abc")),
        header("tenant", Some("acme")),
    ];
    assert_eq!(record.headers, expected);
}

#[test]
fn events_of_one_key_keep_one_lane_whatever_their_routing_keys() {
    let mut route = made(&to_exchange("events", "{kind}"));
    let lane = LaneKey { scope: Some(destination("events", "")), key: bytes("customer-1") };
    for kind in [Some("Placed"), Some("Shipped"), None] {
        let mut row = message();
        row.kind = kind.map(bytes);
        let routed = route.apply(row);
        assert_eq!(routed.lane, Some(lane.clone()), "{kind:?}");
        let sent_to = routed.content.ok().map(|record| record.destination.clone());
        assert_eq!(sent_to, kind.map(|kind| destination("events", kind)));
    }
}

fn destination(exchange: &str, routing_key: &str) -> Destination {
    Destination::Exchange { exchange: exchange.into(), routing_key: routing_key.into() }
}

#[test]
fn a_row_without_a_key_and_a_route_without_a_key_header_send_none() {
    let mut row = message();
    row.key = None;
    let (record, _) = properties(made(&to_exchange("events", "")).apply(row));
    assert_eq!(record.headers.len(), 2);
    let mut config = to_exchange("events", "");
    config.key_header = None;
    let (record, _) = properties(made(&config).apply(message()));
    assert_eq!(record.headers.len(), 2);
}

#[test]
fn columns_that_amqp_has_properties_for_are_lifted_out_of_the_headers() {
    let config = to_exchange("events", "");
    let mut route = Route::new(&config, &outbox_of_requests(), Ordering::Key).expect("a route");
    let (record, properties) = properties(route.apply(request()));
    assert_eq!(properties.content_type, Some(bytes("text/plain")));
    assert_eq!(properties.correlation_id, Some(bytes("c-1")));
    assert_eq!(properties.reply_to, Some(bytes("answers")));
    let names: Vec<_> = record.headers.iter().map(|header| &*header.name).collect();
    assert_eq!(names, ["outbox-key", "trace", "tenant"]);
}

#[test]
fn a_rows_own_header_is_never_lifted() {
    let mut outbox = outbox();
    outbox.columns.to_headers.insert(CORRELATION_ID.to_owned(), ColumnName("c".to_owned()));
    let mut route = Route::new(&to_exchange("e", ""), &outbox, Ordering::Key).expect("a route");
    let mut row = request();
    row.headers = vec![
        header("reply-to", Some("own")),
        header("correlation-id", Some("c-1")),
        header("tenant", Some("acme")),
    ];
    let (record, properties) = properties(route.apply(row));
    assert_eq!((properties.reply_to, properties.correlation_id), (None, Some(bytes("c-1"))));
    assert_eq!(record.headers[1..], [header("reply-to", Some("own")), header("tenant", Some("acme"))]);
}

#[test]
fn to_a_topic_the_same_columns_are_headers() {
    let mut route =
        Route::new(&config("{destination}"), &outbox_of_requests(), Ordering::Key).expect("a route");
    let record = route.apply(request()).content.expect("a record");
    assert_eq!(record.headers[2..], request().headers);
    assert_eq!(record.properties, None);
}

#[test]
fn a_row_may_not_speak_for_a_mapped_property() {
    for target in [config("{destination}"), to_exchange("events", "")] {
        for name in ["correlation-id", "Reply-To", "content-type"] {
            let mut row = request();
            row.headers[0] = header(name, Some("forged"));
            let mut route = Route::new(&target, &outbox_of_requests(), Ordering::Key).expect("a route");
            assert!(failure(route.apply(row)).reason.contains(name));
        }
    }
}

#[test]
fn a_content_type_and_an_app_id_of_the_route_go_with_every_message() {
    let mut config = to_exchange("events", "");
    config.content_type = Some("application/json".to_owned());
    config.rest.app_id = Some("shop".into());
    config.rest.on_unroutable = OnUnroutable::Accept;
    let (record, sent) = properties(made(&config).apply(message()));
    assert_eq!((sent.content_type, sent.app_id), (Some(bytes("application/json")), Some("shop".into())));
    assert_eq!(record.on_unroutable(), OnUnroutable::Accept);
    let mut route = Route::new(&config, &outbox_of_requests(), Ordering::Key).expect("a route");
    let (_, sent) = properties(route.apply(request()));
    assert_eq!(sent.content_type, Some(bytes("text/plain")));
}

#[test]
fn a_property_that_amqp_cannot_carry_is_a_permanent_failure() {
    for bad in [Bytes::from(vec![b'x'; 256]), Bytes::from_static(b"\xff"), Bytes::from_static(b"a\0b")] {
        let mut row = message();
        row.kind = Some(bad.clone());
        assert!(failure(made(&to_exchange("events", "")).apply(row)).reason.contains("its kind"));
        let mut row = request();
        row.headers[2].value = Some(bad);
        let mut route =
            Route::new(&to_exchange("e", ""), &outbox_of_requests(), Ordering::Key).expect("a route");
        assert!(failure(route.apply(row)).reason.contains("its correlation-id"));
    }
    let mut row = message();
    row.row.id = RowId::Text("x".repeat(256).into());
    assert!(failure(made(&to_exchange("events", "")).apply(row)).reason.contains("its id has 256 bytes"));
}

#[test]
fn a_row_cannot_reach_the_default_exchange_or_send_what_amqp_cannot_carry() {
    for (name, rule) in [("", "default exchange"), ("a\nb", "control character"), (&"x".repeat(256), "255")] {
        let mut row = message();
        row.destination = Some(Bytes::from(name.to_owned()));
        let routed = made(&to_exchange("{destination}", "r")).apply(row.clone());
        assert_eq!(
            routed.lane.as_ref().and_then(|lane| lane.scope.clone()).map(|it| it.identity()),
            Some(format!("{name}\u{1f}"))
        );
        let reason = failure(routed).reason;
        assert!(reason.contains(rule), "{reason}");
        if !name.is_empty() {
            let reason = failure(made(&to_exchange("e", "{destination}")).apply(row)).reason;
            assert!(reason.contains("routing key") && reason.contains(rule), "{reason}");
        }
    }
}

#[test]
fn a_reply_to_that_would_close_the_channel_is_a_permanent_failure() {
    let mut row = request();
    row.headers[3] = header("reply-to", Some("amq.rabbitmq.reply-to"));
    let mut route = Route::new(&to_exchange("e", ""), &outbox_of_requests(), Ordering::Key).expect("a route");
    assert!(failure(route.apply(row)).reason.contains("reply-to"));
}
