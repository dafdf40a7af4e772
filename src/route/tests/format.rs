//! What the formats change in a record, and what not.

use super::*;

fn formatted(format: config::Format) -> Route {
    let mut config = config("{destination}");
    config.format = format;
    made(&config)
}

#[test]
fn a_format_quotes_what_is_sent_and_not_what_order_is_kept_by() {
    let mut row = message();
    row.payload = Payload::Null;
    let routed = formatted(config::Format::JsonString).apply(row.clone());
    assert_eq!(routed.lane.expect("a lane").key, bytes("customer-1"));
    let record = routed.content.expect("a record");
    assert_eq!(
        (record.key.clone(), record.body.clone()),
        (Some(bytes("\"customer-1\"")), Some(bytes("null")))
    );
    assert_eq!(record.headers[0].value, Some(bytes("\"7\"")));

    row.headers[1].value = None;
    let record = formatted(config::Format::Plain).apply(row).content.expect("a record");
    assert_eq!((record.key.clone(), record.body.clone()), (Some(bytes("customer-1")), None));
    assert_eq!(record.headers[3], header("tenant", None));
}

#[test]
fn an_envelope_takes_its_fields_out_of_the_headers() {
    let field =
        |place: &str, name: &str| config::EnvelopeField { place: place.to_owned(), name: name.to_owned() };
    let fields = vec![field("tenant", "for \"whom\""), field("id", "id"), field("created_at", "when")];
    let mut row = message();
    row.created_at = None;
    let mut config = config("{destination}");
    config.format = config::Format::Envelope(fields);
    let mut outbox = outbox();
    outbox.columns.created_at = column("at");
    let mut route = Route::new(&config, &outbox, Ordering::Key).expect("a route");
    let record = route.apply(row).content.expect("a record");
    let expected = r#"{"payload":"{}","for \"whom\"":"acme","id":"7","when":null}"#;
    assert_eq!(record.body, Some(bytes(expected)));
    let names: Vec<_> = record.headers.iter().map(|header| &*header.name).collect();
    assert_eq!(names, ["outbox-id", "outbox-kind", "trace"]);
}

#[test]
fn what_is_no_text_or_grows_too_large_as_json_is_a_permanent_failure() {
    let mut row = message();
    row.payload = Payload::Stored(Bytes::from_static(b"\xff"));
    assert!(
        failure(formatted(config::Format::JsonString).apply(row)).reason.contains("its payload is not UTF-8")
    );
    let mut row = message();
    row.payload = Payload::Stored(Bytes::from(vec![b'"'; 1_000_000]));
    assert_eq!(failure(formatted(config::Format::JsonString).apply(row)).error_type, ErrorType::TooLarge);
}
