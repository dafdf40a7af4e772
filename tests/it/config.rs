//! What the configuration promises to whoever writes it.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use outbox_relay::config::load::keys;
use outbox_relay::config::{
    ColumnName, Config, HeaderColumns, Mark, MarkColumn, Ordering, Pooler, Problems, Sink, Sources, Start,
    load, show,
};

const URL: &str = "postgres://relay@localhost/app";

/// Sources built up by a test; nothing comes from the process running it.
#[derive(Default)]
struct Given {
    sources: Sources,
    directory: Option<tempfile::TempDir>,
}

impl Given {
    /// The least that can run.
    fn minimal() -> Self {
        Self::default()
            .variable("DATABASE_URL", URL)
            .variable("OUTBOX_RELAY__SINK__KAFKA__BROKERS", "localhost")
    }

    /// Nothing but a file.
    fn file(text: &str) -> Self {
        let mut given = Self::default();
        let path = given.secret("relay.toml", text);
        given.sources.file = Some(path);
        given
    }

    /// A file with what every configuration needs, and `text`.
    fn minimal_and(text: &str) -> Self {
        let mut given = Self::minimal();
        let path = given.secret("relay.toml", text);
        given.sources.file = Some(path);
        given
    }

    fn secret(&mut self, name: &str, text: &str) -> PathBuf {
        let directory = self.directory.get_or_insert_with(|| tempfile::tempdir().unwrap());
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.sources.environment.push((name.into(), value.into()));
        self
    }

    fn flag(mut self, key: &str, value: &str) -> Self {
        self.sources.flags.push((key.into(), value.into()));
        self
    }

    fn config(&self) -> Config {
        load(&self.sources).unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn problems(&self) -> Problems {
        load(&self.sources).expect_err("there should be problems")
    }

    /// The only problem's key, problem and hint.
    fn problem(&self) -> (String, String, String) {
        let mut problems = self.problems();
        assert_eq!(problems.0.len(), 1, "{problems}");
        let problem = problems.0.remove(0);
        (problem.key, problem.problem, problem.hint)
    }
}

#[test]
fn a_database_and_a_broker_are_all_that_must_be_given() {
    let config = Given::minimal().config();
    assert_eq!(config.pipeline.name, "default");
    assert_eq!(config.outbox.table.quoted(), r#""outbox"."message""#);
    assert_eq!(config.outbox.columns.order, Some(ColumnName("id".into())));
    assert_eq!(config.delivery.ordering, Ordering::Key);
    assert_eq!(config.delivery.in_flight_bytes_max, 16 << 20);
    assert_eq!(config.lease.ttl, Duration::from_secs(10));
    assert!(
        matches!(config.outbox.mark, Mark::Update(MarkColumn::Timestamp(name)) if name.0 == "delivered_at")
    );
}

#[test]
fn every_problem_is_reported_at_once() {
    let problems = Given::file(
        r#"
        [pipeline]
        name = "Two Words"
        [database]
        lock_timeout = "1 fortnight"
        [outbox]
        mark = "updte"
        fetch_rows_max = 0
        message_bytes_max = "32MiB"
        [outbox.columns]
        id = ["a", "b"]
        [outbox.header_columns]
        traceparent = 7
        [sink.kafka]
        [sink.kafka.properties]
        "acks" = 1
        [delivery]
        read_ahead_rows_max = "many"
        [delivery.retry]
        backoff_min = "10m"
        [metrics]
        listen = "localhost"
        [log]
        filter = "outbox_relay=loud"
        [lease]
        tll = "5s"
        [lag]
        "#,
    )
    .flag("lease.ttl", "1s")
    .problems();
    let keys: BTreeSet<_> = problems.0.iter().map(|problem| problem.key.as_str()).collect();
    let expected = [
        "pipeline.name",
        "database.url",
        "database.lock_timeout",
        "outbox.mark",
        "outbox.fetch_rows_max",
        "outbox.columns.id",
        "outbox.header_columns.traceparent",
        "sink.kafka.brokers",
        "sink.kafka.properties.acks",
        "delivery.read_ahead_rows_max",
        "metrics.listen",
        "log.filter",
        "lease.ttl",
        "lease.tll",
        "lag",
    ];
    assert_eq!(keys, BTreeSet::from(expected), "{problems}");
    assert!(problems.0.iter().all(|problem| !problem.problem.is_empty() && !problem.hint.is_empty()));
    assert!(problems.to_string().starts_with("could not use the configuration: 15 problems\n"));
}

#[test]
fn a_problem_says_where_its_value_came_from() {
    let given = Given::minimal_and("[outbox]\npoll_interval = \"soon\"")
        .variable("OUTBOX_RELAY__OUTBOX__CAPTURE", "tail")
        .flag("log.format", "xml");
    let problems = given.problems();
    let origin = |key: &str| problems.0.iter().find(|p| p.key == key).unwrap().origin.clone().unwrap();
    assert!(origin("outbox.poll_interval").ends_with("relay.toml"));
    assert_eq!(origin("outbox.capture"), "OUTBOX_RELAY__OUTBOX__CAPTURE");
    assert_eq!(origin("log.format"), "--set");
}

#[test]
fn an_unknown_key_is_answered_with_the_nearest_one() {
    for (key, hint) in [
        ("outbox.pol_interval", "did you mean outbox.poll_interval?"),
        ("delivery.retry.backof_max", "did you mean delivery.retry.backoff_max?"),
        ("outbox.in_flight_rows_max", "did you mean delivery.in_flight_rows_max?"),
        ("outbx.table", "did you mean outbox?"),
        ("admin.zzz", "remove it; known here: listen"),
    ] {
        let (_, problem, answer) = Given::minimal().flag(key, "1").problem();
        assert_eq!((problem.as_str(), answer.as_str()), ("is an unknown key", hint), "{key}");
    }
}

#[test]
fn a_section_where_a_value_belongs_is_a_problem_and_the_other_way_round() {
    let (key, problem, _) = Given::minimal().flag("lease", "10s").problem();
    assert_eq!((key.as_str(), problem.as_str()), ("lease", "is a section, not a key"));
    let (key, problem, _) = Given::minimal().flag("lease.ttl.max", "10s").problem();
    assert_eq!((key.as_str(), problem.as_str()), ("lease.ttl", "is a section, not text"));
}

#[test]
fn what_comes_in_a_later_version_is_called_that() {
    for (key, value) in [
        ("outbox.capture", "tail"),
        ("outbox.mark", "ranges"),
        ("delivery.on_permanent_failure", "halt-key"),
        ("delivery.retry.attempts_max", "10"),
    ] {
        let (_, problem, _) = Given::minimal().flag(key, value).problem();
        assert!(problem.ends_with("is not available yet"), "{key}: {problem}");
    }
}

#[test]
fn environment_overrides_file_and_flags_override_both() {
    let file =
        "[lease]\nttl = \"20s\"\n[log]\nformat = \"json\"\nfilter = \"warn\"\n[pipeline]\nname = \"file\"";
    let config = Given::minimal_and(file)
        .variable("OUTBOX_RELAY__LOG__FILTER", "debug")
        .variable("OUTBOX_RELAY__PIPELINE__NAME", "environment")
        .flag("pipeline.name", "flag")
        .config();
    assert_eq!(config.lease.ttl, Duration::from_secs(20));
    assert_eq!(config.log.filter, "debug");
    assert_eq!(config.pipeline.name, "flag");
}

#[test]
fn the_environment_reaches_every_depth() {
    let config = Given::minimal()
        .variable("OUTBOX_RELAY__OUTBOX__COLUMNS__KEY", "Aggregate")
        .variable("OUTBOX_RELAY__OUTBOX__COLUMNS__HEADERS", r#"["names", "values"]"#)
        .variable("OUTBOX_RELAY__OUTBOX__FETCH_ROWS_MAX", "7")
        .variable("OUTBOX_RELAY__SINK__KAFKA__PROPERTIES__COMPRESSION__TYPE", "lz4")
        .config();
    assert_eq!(config.outbox.columns.key.unwrap().0, "Aggregate");
    assert!(
        matches!(config.outbox.columns.headers, Some(HeaderColumns::Arrays { values, .. }) if values.0 == "values")
    );
    assert_eq!(config.outbox.fetch_rows_max, 7);
    let Sink::Kafka(kafka) = config.sink else { panic!("kafka is the default") };
    assert_eq!(kafka.properties["compression.type"].reveal(), "lz4");
}

#[test]
fn a_property_means_the_same_however_its_dots_are_written() {
    for text in [
        "[sink.kafka.properties]\n\"linger.ms\" = 3",
        "[sink.kafka.properties]\nlinger.ms = 3",
        "[sink.kafka]\nproperties = { linger = { ms = \"3\" } }",
    ] {
        let given = Given::minimal_and(text);
        let Sink::Kafka(kafka) = given.config().sink else { panic!("kafka is the default") };
        assert_eq!(kafka.properties["linger.ms"].reveal(), "3");
        let over = given.variable("OUTBOX_RELAY__SINK__KAFKA__PROPERTIES__LINGER__MS", "4");
        let Sink::Kafka(kafka) = over.config().sink else { panic!("kafka is the default") };
        assert_eq!(kafka.properties.len(), 1);
        assert_eq!(kafka.properties["linger.ms"].reveal(), "4");
    }
}

#[test]
fn a_password_of_digits_stays_text() {
    let given = Given::minimal().variable("OUTBOX_RELAY__SINK__KAFKA__PROPERTIES__SASL__PASSWORD", "0123");
    let Sink::Kafka(kafka) = given.config().sink else { panic!("kafka is the default") };
    assert_eq!(kafka.properties["sasl.password"].reveal(), "0123");
}

#[test]
fn our_own_database_key_goes_before_database_url() {
    let own = "postgres://relay@localhost/own";
    let config = Given::minimal().variable("OUTBOX_RELAY__DATABASE__URL", own).config();
    assert_eq!(config.database.url.reveal(), own);
    assert_eq!(Given::minimal().config().database.url.reveal(), URL);
}

#[test]
fn a_secret_may_come_from_a_file() {
    let mut given = Given::minimal();
    let url = given.secret("url", "postgres://relay@localhost/from_file\n");
    let password = given.secret("password", "p@ss\r\n");
    let given = given
        .flag("database.url_file", url.to_str().unwrap())
        .flag("database.password_file", password.to_str().unwrap())
        .flag("sink.kafka.properties.sasl.password_file", password.to_str().unwrap());
    let config = given.config();
    assert_eq!(config.database.url.reveal(), "postgres://relay@localhost/from_file?password=p%40ss");
    let Sink::Kafka(kafka) = config.sink else { panic!("kafka is the default") };
    assert_eq!(kafka.properties["sasl.password"].reveal(), "p@ss");
}

#[test]
fn a_secret_file_that_is_missing_empty_or_one_too_many_is_a_problem() {
    let (key, problem, _) = Given::minimal().flag("database.password_file", "/nowhere/at/all").problem();
    assert_eq!(key, "database.password_file");
    assert!(problem.starts_with("could not read /nowhere/at/all: "), "{problem}");

    let mut given = Given::minimal();
    let empty = given.secret("empty", "\n");
    let (_, problem, _) = given.flag("database.url_file", empty.to_str().unwrap()).problem();
    assert!(problem.ends_with("it is empty"), "{problem}");

    let mut given = Given::minimal().flag("database.url", URL);
    let url = given.secret("url", URL);
    let (_, problem, _) = given.flag("database.url_file", url.to_str().unwrap()).problem();
    assert_eq!(problem, "is given besides url_file");
}

#[test]
fn behind_a_pooler_notifications_need_a_way_past_it() {
    let pooled = || Given::minimal().flag("database.pooler", "transaction");
    assert_eq!(pooled().config().database.pooler, Pooler::Transaction);
    let (key, problem, _) = pooled().flag("outbox.listen", "true").problem();
    assert_eq!(key, "database.listen_url");
    assert!(problem.contains("is missing"), "{problem}");
    let past = "postgres://relay@localhost:5432/app";
    let config = pooled().flag("outbox.listen", "true").flag("database.listen_url", past).config();
    assert_eq!(config.database.listen_url.unwrap().reveal(), past);
    assert_eq!(config.outbox.listen.as_deref(), Some("outbox_relay"));
    let (key, problem, _) = pooled().flag("database.listen_url", past).problem();
    assert!(key == "database.listen_url" && problem.contains("no effect"), "{problem}");
}

#[test]
fn a_url_with_options_does_not_go_through_a_pooler() {
    let url = "postgres://relay@localhost/app?options=-csearch_path%3Dcanary";
    let given = Given::minimal().flag("database.pooler", "transaction").flag("database.url", url);
    let (key, problem, hint) = given.problem();
    assert!(key == "database.url" && problem.contains("options"), "{problem}");
    assert!(!format!("{problem}{hint}").contains("canary"));
}

#[test]
fn the_url_past_a_pooler_takes_the_password_and_needs_tls_like_the_other() {
    let mut given = Given::minimal().flag("outbox.listen", "true");
    let file = given.secret("password", "p@ss\n");
    let given = given.flag("database.password_file", file.to_str().unwrap());
    let listening = |url: &str| {
        let mut given = Given { sources: given.sources.clone(), directory: None };
        given.sources.flags.push(("database.listen_url".into(), url.into()));
        load(&given.sources)
    };
    let config = listening("postgres://relay@localhost:5432/app").unwrap();
    assert!(config.database.listen_url.unwrap().reveal().ends_with("?password=p%40ss"));
    let config = listening("postgres://other:own@localhost:5432/app").unwrap();
    assert!(config.database.listen_url.unwrap().reveal().ends_with("other:own@localhost:5432/app"));
    let problems = listening("postgres://relay@db.example/app").expect_err("anybody could read along");
    assert!(problems.0.iter().any(|p| p.key == "database.listen_url" && p.problem.contains("TLS")));
}

#[test]
fn a_channel_is_a_name() {
    for name in ["", "a\"b", &"x".repeat(64)] {
        let given = Given::minimal().flag("outbox.listen", "true").flag("outbox.listen_channel", name);
        assert_eq!(given.problem().0, "outbox.listen_channel", "{name:?}");
    }
}

#[test]
fn a_file_that_is_missing_or_broken_is_the_only_problem() {
    let mut given = Given::default();
    given.sources.file = Some("/nowhere/relay.toml".into());
    let (key, problem, _) = given.problem();
    assert_eq!(key, "/nowhere/relay.toml");
    assert!(problem.starts_with("could not read this file: "), "{problem}");

    let (_, problem, _) = Given::file("[database]\nurl = postgres://relay:canary@localhost/app").problem();
    assert!(problem.starts_with("is not valid TOML at line 2, column 7"), "{problem}");
}

#[test]
fn a_secret_is_shown_nowhere() {
    let shown = |given: &Given| match load(&given.sources) {
        Ok(config) => format!("{config:?}{config:#?}{}{given:?}", show(&config), given = given.sources),
        Err(problems) => format!("{problems}{problems:?}"),
    };
    let url = "postgres://relay:canary@localhost/app?password=canary";
    let good = Given::minimal()
        .flag("database.url", url)
        .flag("database.listen_url", url)
        .flag("outbox.listen", "true")
        .flag("sink.kafka.properties.sasl.password", "canary")
        .flag("sink.kafka.properties.ssl.key.pem", "canary")
        .flag("sink.kafka.properties.sasl.oauthbearer.config", "canary");
    good.config();
    assert!(shown(&good).contains("***"));
    assert!(!shown(&good).contains("canary"), "{}", shown(&good));
    let rabbitmq = |key, value| to_rabbitmq("").flag(&format!("sink.rabbitmq.{key}"), value);
    let good = rabbitmq("url", "amqps://relay:canary@rabbit/%2f");
    good.config();
    assert!(shown(&good).contains("amqps://relay:***@rabbit"), "{}", shown(&good));
    assert!(!shown(&good).contains("canary"), "{}", shown(&good));

    let broken = [
        rabbitmq("url", "amqp://relay:canary@rabbit/%2f"),
        rabbitmq("url", "amqp://relay:can/ary@canary"),
        rabbitmq("url", "amqps://relay:canary@rabbit/%2f?canary=canary"),
        rabbitmq("url.password", "canary"),
        rabbitmq("password", "canary"),
        to_rabbitmq("url = [\"canary\"]"),
        to_rabbitmq("url = amqp://relay:canary@localhost"),
        Given::minimal().flag("database.url", "postgres://relay:can/ary@canary/app"),
        Given::minimal().flag("database.url", "postgres://relay:canary@db.example/app"),
        Given::minimal().flag("database.url", "postgres://relay:1?canary@db.example/app"),
        Given::minimal().flag("database.listen_url", "postgres://relay:canary@db.example/app"),
        Given::minimal().flag("database.url.password", "canary"),
        Given::minimal().flag("database.passwort", "canary"),
        Given::minimal().flag("sink.kafka.properties.sasl.pasword", "canary"),
        Given::minimal().flag("sink.kafka.properties.security.protocol", "canary"),
        Given::minimal().flag("sink.kafka.properties.transactional.id", "canary"),
        Given::minimal().flag("sink.kafka.properties", "canary"),
        Given::minimal().flag("sink.kafka.properties.sasl.oauthbearer.client.secret", "canary"),
        Given::file("[database]\nurl = \"postgres://relay:canary@h/d\"\nurl = \"canary\""),
        Given::file("[database]\nurl = postgres://relay:canary@localhost"),
        Given::file("[database]\nurl = \"postgres://relay:canary"),
        Given::file("canary"),
        Given::file(
            "[database]\nurl = [\"canary\"]\n[sink.kafka.properties]\n\"sasl.password\" = [\"canary\"]",
        ),
    ];
    for given in &broken {
        assert!(load(&given.sources).is_err());
        assert!(!shown(given).contains("canary"), "{}", shown(given));
    }
}

#[test]
fn a_promise_bearing_kafka_property_is_refused() {
    for name in [
        "bootstrap.servers",
        "enable.idempotence",
        "acks",
        "request.required.acks",
        "message.timeout.ms",
        "delivery.timeout.ms",
        "allow.auto.create.topics",
        "partitioner",
        "transactional.id",
        "enable.gapless.guarantee",
        "queue.buffering.max.messages",
        "queue.buffering.max.kbytes",
        "message.max.bytes",
        "delivery.report.only.error",
        "dr_msg_cb",
        "retries",
    ] {
        let (key, problem, _) =
            Given::minimal().flag(&format!("sink.kafka.properties.{name}"), "1").problem();
        assert_eq!(key, format!("sink.kafka.properties.{name}"));
        assert!(problem.starts_with("cannot be set: "), "{name}: {problem}");
    }
    let in_flight = |value| Given::minimal().flag("sink.kafka.properties.max.in.flight", value);
    assert!(in_flight("6").problem().1.starts_with("is out of range"));
    in_flight("5").config();
}

#[test]
fn a_property_librdkafka_would_refuse_is_refused_before_the_start() {
    let (_, problem, _) = Given::minimal().flag("sink.kafka.properties.lingr.ms", "1").problem();
    assert!(problem.starts_with("is unknown to librdkafka"), "{problem}");
    let (_, problem, _) = Given::minimal().flag("sink.kafka.properties.linger.ms", "soon").problem();
    assert!(problem.starts_with("has a value librdkafka does not accept"), "{problem}");
    let lacking = Given::minimal().flag("sink.kafka.properties.sasl.oauthbearer.client.secret", "canary");
    assert_eq!(lacking.problem().1, "is not part of this build of librdkafka");
}

#[test]
fn plaintext_beyond_loopback_needs_consent() {
    let far = Given::minimal().flag("database.url", "postgres://relay@db.example/app");
    assert_eq!(far.problem().0, "database.url");
    far.flag("database.insecure_allow_plaintext", "true").config();
    Given::minimal().flag("database.url", "postgres://relay@db.example/app?sslmode=verify-full").config();

    for brokers in ["kafka:9092", "localhost:9092,kafka:9092", "PLAINTEXT://10.0.0.1:9092"] {
        let far = Given::minimal().flag("sink.kafka.brokers", brokers);
        assert_eq!(far.problem().0, "sink.kafka.brokers");
        far.flag("sink.kafka.insecure_allow_plaintext", "true").config();
        let tls = Given::minimal().flag("sink.kafka.brokers", brokers);
        tls.flag("sink.kafka.properties.security.protocol", "SASL_SSL").config();
    }
    Given::minimal().flag("sink.kafka.brokers", "localhost:9092, 127.0.0.1:9093,[::1]:9094").config();

    for host in ["rabbit/%2f", "10.0.0.1:5672", "[2001:db8::1]:5672/app", "localhost.example"] {
        let far = to_rabbitmq("").flag("sink.rabbitmq.url", &format!("amqp://relay@{host}"));
        let (key, problem, hint) = far.problem();
        assert_eq!((&*key, &*problem), ("sink.rabbitmq.url", "leads to another host without TLS"));
        assert!(hint.contains("sink.rabbitmq.insecure_allow_plaintext = true"), "{hint}");
        far.flag("sink.rabbitmq.insecure_allow_plaintext", "true").config();
        to_rabbitmq("").flag("sink.rabbitmq.url", &format!("amqps://relay@{host}")).config();
    }
    for host in ["localhost/%2f", "127.0.0.1:5673", "[::1]:5673"] {
        to_rabbitmq("").flag("sink.rabbitmq.url", &format!("amqp://relay@{host}")).config();
    }
}

#[test]
fn quoted_and_mixed_case_names_survive() {
    let config = Given::minimal_and(
        r#"
        [outbox]
        table = '"My.App"."Outbox ""Message"""'
        mark_column = "DeliveredAt"
        [outbox.columns]
        id = "Id"
        order = '"Sequence.No"'
        key = "Aggregate.Id"
        destination = "Topic"
        payload = "payLoad"
        "#,
    )
    .config();
    assert_eq!(config.outbox.table.quoted(), r#""My.App"."Outbox ""Message""""#);
    assert_eq!(config.outbox.columns.id.0, "Id");
    assert_eq!(config.outbox.columns.order.unwrap().0, "Sequence.No");
    assert_eq!(config.outbox.columns.key.unwrap().0, "Aggregate.Id");
    assert!(
        matches!(config.outbox.mark, Mark::Update(MarkColumn::Timestamp(name)) if name.0 == "DeliveredAt")
    );
}

#[test]
fn another_table_is_not_taken_to_have_our_columns() {
    let problems = Given::minimal().flag("outbox.table", "app.events").problems();
    let keys: Vec<_> = problems.0.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["outbox.mark_column", "outbox.columns.id", "outbox.columns.payload"]);
    let given = Given::minimal().flag("outbox.table", "app.events").flag("outbox.preset", "default");
    assert_eq!(given.config().outbox.columns.payload.0, "payload");
}

#[test]
fn the_default_table_need_not_have_our_columns() {
    let given = Given::minimal()
        .flag("outbox.preset", "none")
        .flag("outbox.columns.id", "id")
        .flag("outbox.columns.payload", "body")
        .flag("outbox.mark", "delete")
        .flag("delivery.ordering", "none")
        .flag("route.topic", "events");
    let outbox = given.config().outbox;
    assert!(outbox.columns.key.is_none() && outbox.columns.headers.is_none());
    assert!(matches!(outbox.mark, Mark::Delete));
}

#[test]
fn a_beginning_is_all_now_or_after_a_position() {
    for (written, start) in [("all", Start::All), ("now", Start::Now), ("after:-7", Start::After(-7))] {
        let config = Given::minimal().flag("outbox.start", written).config();
        assert_eq!(config.outbox.start, Some(start));
        assert!(show(&config).contains(&format!("start = \"{written}\"")));
    }
    assert_eq!(Given::minimal().config().outbox.start, None);
    for wrong in ["today", "after", "after:", "after:x", "after:9223372036854775808"] {
        let (key, _, hint) = Given::minimal().flag("outbox.start", wrong).problem();
        assert_eq!(key, "outbox.start");
        assert!(hint.contains("after:1000"), "{hint}");
    }
}

#[test]
fn order_within_a_key_needs_a_key_and_an_order() {
    let given = || {
        Given::minimal()
            .flag("outbox.table", "app.events")
            .flag("outbox.columns.id", "id")
            .flag("outbox.columns.payload", "body")
            .flag("outbox.mark", "delete")
            .flag("route.topic", "events")
    };
    let problems = given().problems();
    let keys: Vec<_> = problems.0.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["outbox.columns.order", "outbox.columns.key"]);
    for way_out in [
        "alter table \"app\".\"events\" add column position bigint generated always as identity",
        "ordering = \"none\"",
    ] {
        assert!(problems.0[0].hint.contains(way_out), "{}", problems.0[0].hint);
    }
    given().flag("delivery.ordering", "none").config();
}

#[test]
fn a_mark_says_all_it_needs_and_nothing_it_does_not_use() {
    let status = || {
        Given::minimal()
            .flag("outbox.mark_kind", "status")
            .flag("outbox.mark_column", "state")
            .flag("outbox.pending_value", "0")
    };
    assert_eq!(status().problem().0, "outbox.mark_value");
    assert_eq!(status().flag("outbox.mark_value", "0").problem().1, "is the same as pending_value");
    let mark = status().flag("outbox.mark_value", "1").config().outbox.mark;
    let Mark::Update(MarkColumn::Status { pending, delivered, .. }) = mark else { panic!("{mark:?}") };
    assert_eq!((pending.as_str(), delivered.as_str()), ("0", "1"));

    assert_eq!(Given::minimal().flag("outbox.mark_kind", "boolean").problem().0, "outbox.mark_column");
    assert_eq!(Given::minimal().flag("outbox.pending_value", "0").problem().0, "outbox.pending_value");
    let delete = Given::minimal().flag("outbox.mark", "delete");
    assert!(matches!(delete.config().outbox.mark, Mark::Delete));
    assert_eq!(delete.flag("outbox.mark_column", "sent").problem().0, "outbox.mark_column");
}

#[test]
fn what_only_breaks_together_is_found() {
    for (key, value, at) in [
        ("database.lock_timeout", "30s", "database.lock_timeout"),
        ("outbox.message_bytes_max", "17MiB", "delivery.in_flight_bytes_max"),
        ("delivery.retry.backoff_min", "6m", "delivery.retry.backoff_min"),
        ("route.kind_header", "outbox-id", "route.kind_header"),
        ("route.key_header", "Outbox-Kind", "route.key_header"),
        ("outbox.header_columns.outbox-id", "id", "outbox.header_columns.outbox-id"),
        ("outbox.header_columns.relay-null", "id", "outbox.header_columns.relay-null"),
        ("admin.listen", "127.0.0.1:9717", "admin.listen"),
    ] {
        let problems = Given::minimal().flag(key, value).problems();
        assert_eq!(problems.0[0].key, at, "{problems}");
    }
    let given = Given::minimal_and(
        "[outbox]\ntable = \"t\"\nmark = \"delete\"\n[outbox.columns]\nid = \"i\"\norder = \"i\"\nkey = \"k\"\npayload = \"p\"",
    );
    assert_eq!(given.problem().0, "route.topic");
    given.flag("route.topic", "events").config();
}

/// What is wrong with a route to exchanges, and with nothing else.
fn problems_to_exchange(text: &str) -> Vec<(String, String)> {
    let given = Given::minimal_and(text).flag("sink.type", "rabbitmq");
    let problems = load(&given.sources).err().map_or(Vec::new(), |problems| problems.0);
    let own = problems.into_iter().filter(|problem| !problem.key.starts_with("sink"));
    own.map(|problem| (problem.key, format!("{}: {}", problem.problem, problem.hint))).collect()
}

#[test]
fn a_column_is_not_mapped_to_a_header_that_rabbitmq_takes_for_an_order() {
    for name in ["CC", "bcc", "user_id", "expiration", "x-match", "X-Delay"] {
        let mapped = format!("[outbox.header_columns]\n{name} = \"kind\"");
        let problems = problems_to_exchange(&format!("{mapped}\n[route]\nexchange = \"events\""));
        let [(key, problem)] = problems.as_slice() else { panic!("{name}: {problems:?}") };
        assert!(key == &format!("outbox.header_columns.{name}") && problem.contains("reserved"), "{problem}");
        // Kafka knows no such headers.
        Given::minimal_and(&mapped).config();
    }
}

#[test]
fn a_route_to_exchanges_names_one_that_is_not_the_default() {
    assert_eq!(problems_to_exchange("[route]\nexchange = \"events\""), []);
    assert_eq!(problems_to_exchange("[route]\nexchange = \"events\"\nallow = [\"events -> *\"]"), []);
    assert_eq!(problems_to_exchange("[route]\nexchange = \"{destination}\"\nrouting_key = \"\""), []);
    for (text, key, part) in [
        ("", "route.exchange", "is missing with sink.type = \"rabbitmq\""),
        ("[route]\nexchange = \"\"", "route.exchange", "bind the queue to an exchange"),
        ("[route]\nexchange = \"e\"\nrouting_key = \"a\\tb\"", "route.routing_key", "control character"),
        ("[route]\nexchange = \"e\"\non_unroutable = \"drop\"", "route.on_unroutable", "write \"block\" or"),
        ("[route]\nexchange = \"e\"\nallow = [\"commands\"]", "route.exchange", "route.allow"),
        ("[route]\nexchange = \"e\"\nallow = [\"c -> *\"]", "route.exchange", "route.allow"),
    ] {
        let problems = problems_to_exchange(text);
        let [(its_key, problem)] = problems.as_slice() else { panic!("{text}: {problems:?}") };
        assert!(its_key == key && problem.contains(part), "{its_key}: {problem}");
    }
}

/// A minimal relay to RabbitMQ, with `text` below `[sink.rabbitmq]`.
fn to_rabbitmq(text: &str) -> Given {
    Given::minimal_and(&format!("[route]\nexchange = \"events\"\n[sink.rabbitmq]\n{text}"))
        .flag("sink.type", "rabbitmq")
}

#[test]
fn a_broker_of_rabbitmq_is_told_what_is_wrong_with_it() {
    for (text, key, part) in [
        ("", "url", "is missing"),
        ("url = \"amqp://localhost\"\nurl_file = \"Cargo.toml\"", "url", "besides url_file"),
        ("url = \"localhost:5672\"", "url", "does not start with amqp"),
        ("url = \"amqp://localhost/\"", "url", "without a name"),
        ("url = \"amqp://relay@rabbit\"", "url", "without TLS"),
        ("url = \"amqp://localhost/a?heartbeat=3\"", "url", "not taken here"),
        ("url = \"amqp://localhost\"\nca_file = \"ca.pem\"", "ca_file", "uses no certificates"),
        ("url = \"amqps://rabbit\"\ncert_file = \"c.pem\"", "key_file", "is missing beside"),
        ("url = \"amqps://rabbit\"\nkey_file = \"k.pem\"", "cert_file", "is missing beside"),
        ("url = \"amqp://localhost\"\nchannels = 0", "channels", "out of range"),
        ("url = \"amqp://localhost\"\nheartbeat = \"30s\"", "confirm_timeout", "not above the heartbeat"),
        ("url = \"amqp://localhost\"\nchanels = 3", "chanels", "unknown key"),
    ] {
        let (its_key, problem, _) = to_rabbitmq(text).problem();
        assert!(its_key == format!("sink.rabbitmq.{key}") && problem.contains(part), "{its_key}: {problem}");
    }
    to_rabbitmq("url = \"amqp://relay@rabbit\"\ninsecure_allow_plaintext = true").config();
    to_rabbitmq("url = \"amqps://rabbit\"\nca_file = \"ca.pem\"").config();
}

#[test]
fn a_password_for_rabbitmq_is_neither_shown_nor_printed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "can@ry\n").unwrap();
    let given = to_rabbitmq("url = \"amqp://relay@localhost/%2f\"");
    let config = given.flag("sink.rabbitmq.password_file", file.to_str().unwrap()).config();
    let Sink::RabbitMq(broker) = &config.sink else { panic!("rabbitmq was asked for") };
    assert_eq!(broker.uri().unwrap().authority.userinfo.password, "can@ry");
    let shown = show(&config);
    assert!(shown.contains("url = \"amqp://relay:***@localhost/%2f\""), "{shown}");
    assert!(!format!("{config:?}{shown}").contains("can"), "{shown}");
}

#[test]
fn a_rule_is_told_what_is_wrong_with_it() {
    for (text, key, part) in [
        ("[[route.when]]\ntopic = \"a\"", "route.when[0]", "has no condition"),
        ("[[route.when]]\nkind = \"a\"\ntopik = \"b\"", "route.when[0].topik", "did you mean topic?"),
        ("[[route.when]]\ntenant = \"a\"", "route.when[0].tenant", "outbox.header_columns"),
        ("[[route.when]]\nkind = \"*\"\n[[route.when]]\nkind = 7", "route.when[1].kind", "is a number"),
        ("[[route.when]]\nkind = \"\"", "route.when[0].kind", "is empty"),
        ("[[route.when]]\nkind = \"a\"\ntopic = \"{lost}\"", "route.when[0].topic", "{lost}"),
        ("[[route.when]]\nkind = \"a\"\ntopic = \"__x\"", "route.when[0].topic", "reserved"),
        (
            "[route]\nallow = [\"b\"]\n[[route.when]]\nkind = \"a\"\ntopic = \"a\"",
            "route.when[0].topic",
            "route.allow",
        ),
        (
            "[route]\nallow = [\"*\", \"a -> b\"]\n[[route.when]]\nkind = \"a\"",
            "route.allow",
            "a topic has no routing key",
        ),
        ("[route]\nwhen = \"kind\"", "route.when", "write [[route.when]]"),
    ] {
        let (its_key, problem, hint) = Given::minimal_and(text).problem();
        assert_eq!(its_key, key, "{problem}");
        assert!(problem.contains(part) || hint.contains(part), "{problem}: {hint}");
    }
    let given = Given::minimal().variable("OUTBOX_RELAY__ROUTE__WHEN__0__KIND", "a");
    assert!(given.problem().2.ends_with("in the file"));
}

#[test]
fn a_rule_has_what_it_leaves_out_from_the_route() {
    let given = Given::minimal_and(
        "[route]\ntopic = \"rest\"\napp_id = \"shop\"\n[[route.when]]\nkind = \"a*\"\non_unroutable = \"accept\"",
    );
    let route = given.config().route;
    assert_eq!(route.when[0].way.target, route.rest.target);
    assert_eq!(route.when[0].way.app_id.as_deref(), Some("shop"));
    assert_ne!(route.when[0].way.on_unroutable, route.rest.on_unroutable);
}

#[test]
fn the_preset_of_debezium_leaves_mark_and_order_to_choose() {
    let given = Given::minimal().flag("outbox.preset", "debezium");
    let problems = given.problems();
    let keys: Vec<_> = problems.0.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["outbox.mark_column", "outbox.columns.order"], "{problems}");
    assert!(problems.0[0].hint.contains("mark = \"delete\"") && problems.0[0].hint.contains("add column"));

    let given = given.flag("outbox.mark", "delete");
    let (key, _, hint) = given.problem();
    assert_eq!(key, "outbox.columns.order");
    let sql = r#"alter table "outbox" add column position bigint generated always as identity"#;
    assert!(hint.contains(sql) && hint.contains("delivery.ordering = \"none\""), "{hint}");

    let config = given.flag("delivery.ordering", "none").config();
    assert_eq!(config.outbox.table.quoted(), r#""outbox""#);
    assert_eq!(config.outbox.columns.key.unwrap().0, "aggregateid");
    assert_eq!((config.route.id_header.as_str(), config.route.kind_header), ("id", None));
    assert!(
        show(
            &Given::minimal()
                .flag("outbox.preset", "debezium")
                .flag("outbox.mark", "delete")
                .flag("outbox.columns.order", "seq")
                .flag("outbox.table", "app.events")
                .config()
        )
        .contains("topic = \"outbox.event.{destination}\"")
    );
}

#[test]
fn an_envelope_has_fields_and_nothing_else_has() {
    for (text, part) in [
        ("format = \"envelope\"", "is empty with format"),
        ("envelope_fields = [\"kind:type\"]", "has no effect"),
        ("format = \"envelope\"\nenvelope_fields = [\"kind\"]", "is not a field"),
        ("format = \"envelope\"\nenvelope_fields = [\"nobody:x\"]", "the mapping does not have"),
        ("format = \"envelope\"\nenvelope_fields = [\"kind:payload\"]", "twice"),
    ] {
        let (key, problem, _) = Given::minimal_and(&format!("[route]\n{text}")).problem();
        assert_eq!(key, "route.envelope_fields");
        assert!(problem.contains(part), "{problem}");
    }
    let given = Given::minimal()
        .flag("route.format", "envelope")
        .flag("route.envelope_fields", r#"["kind:eventType", "created_at:when"]"#);
    let shown = show(&given.config());
    assert_eq!(
        shown,
        show(&Given::file(&shown).variable("OUTBOX_RELAY__SINK__KAFKA__BROKERS", "localhost").config())
    );
}

#[test]
fn a_column_with_a_key_of_its_own_is_mapped_once() {
    let given = Given::minimal().flag("outbox.columns.reply_to", "answers");
    assert_eq!(given.config().outbox.columns.to_headers["reply-to"].0, "answers");
    let twice = given.flag("outbox.header_columns.reply-to", "answers");
    assert_eq!(twice.problem().0, "outbox.columns.reply_to");
}

#[test]
fn standard_output_needs_no_broker_and_keeps_the_kafka_section_for_later() {
    let given = Given::minimal_and("[sink.kafka]\nbrokers = \"kafka:9092\"").flag("sink.type", "stdout");
    assert!(matches!(given.config().sink, Sink::Stdout));
}

#[test]
fn what_is_shown_loads_and_shows_the_same() {
    let mapped = Given::minimal_and(
        r#"
        [outbox]
        table = '"My.App".events'
        mark_kind = "status"
        mark_column = '"state'
        mark_value = "sent\t\"now\""
        pending_value = 0
        [outbox.columns]
        id = "Id"
        order = "Id"
        key = "a\\b"
        payload = "p"
        headers = ["names", "values"]
        correlation_id = "correlation"
        [outbox.header_columns]
        "x.Trace-Id" = "trace"
        [route]
        topic = "events"
        allow = ["events", "audit.*"]
        kind_header = ""
        app_id = "shop"
        [[route.when]]
        key = "a\\*"
        "x.Trace-Id" = "*-01"
        topic = "audit.{key}"
        on_unroutable = "accept"
        [[route.when]]
        correlation-id = "*"
        [sink.kafka]
        brokers = "kafka:9092"
        insecure_allow_plaintext = true
        [sink.kafka.properties]
        "linger.ms" = 5
        "#
        .replace("'\"state'", "'\"st\"\"ate\"'")
        .as_str(),
    );
    // The broker of the file, not of the environment.
    let mut mapped = mapped;
    mapped.sources.environment.retain(|(name, _)| name == "DATABASE_URL");
    let deleting = Given::minimal().flag("outbox.mark", "delete").flag("sink.type", "stdout");
    for given in [Given::minimal(), mapped, deleting] {
        let shown = show(&given.config());
        let again = show(&Given::file(&shown).config());
        assert_eq!(shown, again);
    }
}

#[test]
fn the_example_loads_as_it_stands() {
    let config = Given::file(EXAMPLE).config();
    let minimal = Given::minimal().flag("sink.kafka.brokers", "localhost:9092").config();
    assert_eq!(show(&config), show(&minimal));
}

#[test]
fn the_example_shows_each_default() {
    let uncommented: String = example_lines().map(|line| line.setting + "\n").collect();
    let with_defaults = Given::file(&uncommented).config();
    assert_eq!(show(&with_defaults), show(&Given::file(EXAMPLE).config()));
    // Not merely by leaving a key out: each default must be there to be compared.
    let settings = example_settings(|line| !line.is_sample);
    for line in show(&with_defaults).lines().filter(|line| line.contains(" = ")) {
        let key = line.split(" = ").next().unwrap();
        assert!(settings.iter().any(|path| path.ends_with(&format!(".{key}"))), "{key} has no default shown");
    }
}

#[test]
fn the_example_has_every_key() {
    let shown = example_settings(|_| true);
    let known = keys();
    let missing: Vec<_> = known.iter().filter(|key| !shown.contains(*key)).collect();
    assert!(missing.is_empty(), "config.example.toml lacks {missing:?}");
    let stray: Vec<_> = shown.iter().filter(|key| !known.contains(*key)).collect();
    assert!(stray.is_empty(), "config.example.toml shows unknown {stray:?}");
}

const EXAMPLE: &str = include_str!("../../config.example.toml");

/// A line of the example as it reads without its leading `#`.
struct Line {
    setting: String,
    /// No default: it only shows what could be written.
    is_sample: bool,
}

/// Section headers, settings and defaults; samples are blank. Prose starts with `# `.
fn example_lines() -> impl Iterator<Item = Line> {
    all_example_lines().filter(|line| !line.is_sample)
}

fn all_example_lines() -> impl Iterator<Item = Line> {
    EXAMPLE.lines().filter(|line| !line.is_empty() && *line != "#" && !line.starts_with("# ")).map(|line| {
        let setting = line.strip_prefix('#').unwrap_or(line);
        Line { setting: setting.to_owned(), is_sample: setting.ends_with("# sample") }
    })
}

/// The paths of the example's settings; an open table counts as one.
fn example_settings(wanted: impl Fn(&Line) -> bool) -> BTreeSet<String> {
    const OPEN: [&str; 3] = ["outbox.header_columns", "sink.kafka.properties", "route.when"];
    let mut section = String::new();
    let mut paths = BTreeSet::new();
    for line in all_example_lines().filter(wanted) {
        if let Some(header) = line.setting.strip_prefix('[') {
            header.trim_start_matches('[').split(']').next().unwrap().clone_into(&mut section);
            if OPEN.contains(&section.as_str()) {
                paths.insert(section.clone());
            }
        } else if !OPEN.contains(&section.as_str()) {
            paths.insert(format!("{section}.{}", line.setting.split(" =").next().unwrap()));
        }
    }
    paths
}
