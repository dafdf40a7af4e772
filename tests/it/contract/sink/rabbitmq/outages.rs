//! The broker as a whole: locked by another, short of memory, silent, gone and back.

use std::collections::BTreeMap;

use super::*;
use crate::support::rabbitmq::{RabbitServer, quorum};
use crate::support::relay::resident_bytes;

/// The failure of the next `Down`.
async fn down(sink: &mut RabbitSink) -> Failure {
    loop {
        for event in events(sink).await {
            match event {
                SinkEvent::Down(failure) => return failure,
                SinkEvent::Up | SinkEvent::Outcomes(_) => {}
            }
        }
    }
}

async fn up(sink: &mut RabbitSink) {
    while !events(sink).await.contains(&SinkEvent::Up) {}
}

#[tokio::test]
async fn a_second_sink_of_a_pipeline_stays_down_until_the_first_is_closed() {
    let Some(broker) = Proxied::find().await else { return };
    let destination = broker.destination().await;
    let (mut first, mut second) = (broker.sink(), broker.sink());
    first.open(1).await.expect("the sink opens");
    first.publish(shipments(&destination, 0..10));
    confirmed(&mut first, 10).await;

    second.open(2).await.expect("the sink opens");
    second.publish(shipments(&destination, 10..20));
    let failure = down(&mut second).await;
    assert_eq!((failure.fault, failure.error_type), (Fault::Unavailable, ErrorType::Fenced));
    assert!(failure.reason.contains("lock queue"), "{failure}");
    silence(&mut second).await;

    first.close().await;
    let (results, others) = outcomes(&mut second, 10).await;
    assert!(results.values().all(Result::is_ok), "{results:?}");
    assert_eq!(others, [SinkEvent::Up]);
    assert_eq!(broker.read(&destination).await.len(), 20, "each once");
}

#[tokio::test]
async fn a_lock_of_one_s_own_keeps_services_of_one_pipeline_name_apart() {
    let Some(broker) = Proxied::find().await else { return };
    let destination = broker.destination().await;
    let named = config::RabbitMq { lock: Some(format!("orders-{}", pipeline())), ..config(&broker.url()) };
    let (mut first, mut second) = (broker.sink(), RabbitSink::new(&named, &broker.pipeline));
    first.open(1).await.expect("the sink opens");
    second.open(1).await.expect("the sink opens");
    first.publish(shipments(&destination, 0..10));
    second.publish(shipments(&destination, 10..20));
    confirmed(&mut first, 10).await;
    confirmed(&mut second, 10).await;
    let mut third = RabbitSink::new(&named, &pipeline());
    third.open(1).await.expect("the sink opens");
    assert_eq!(down(&mut third).await.error_type, ErrorType::Fenced);
}

#[tokio::test]
async fn a_purge_frees_the_lock_for_another_relay() {
    let Some(broker) = Proxied::find().await else { return };
    let destination = broker.destination().await;
    let (mut first, mut second) = (broker.sink(), broker.sink());
    first.open(1).await.expect("the sink opens");
    first.publish(shipments(&destination, 0..10));
    confirmed(&mut first, 10).await;
    first.purge();
    second.open(2).await.expect("the sink opens");
    second.publish(shipments(&destination, 10..20));
    confirmed(&mut second, 10).await;
}

#[tokio::test]
async fn a_broker_that_answers_nothing_is_given_up_and_what_it_had_comes_back() {
    let Some(broker) = Proxied::find().await else { return };
    let destination = broker.destination().await;
    let patient = config(&broker.url());
    let hasty = config::RabbitMq { confirm_timeout: Duration::from_secs(1), ..patient };
    let mut sink = RabbitSink::new(&hasty, &pipeline());
    sink.open(1).await.expect("the sink opens");
    sink.publish(shipments(&destination, 0..10));
    confirmed(&mut sink, 10).await;
    broker.proxy.set(Network::Stall);
    sink.publish(shipments(&destination, 10..20));
    let (results, others) = outcomes(&mut sink, 10).await;
    for result in results.into_values() {
        let failure = result.expect_err("a failure");
        assert_eq!((failure.fault, failure.error_type), (Fault::Unavailable, ErrorType::Timeout));
        assert!(failure.maybe_published);
    }
    assert!(matches!(others[..], [SinkEvent::Down(_)]), "{others:?}");
    broker.proxy.reset_connections();
    broker.proxy.set(Network::Forward);
    up(&mut sink).await;
    sink.publish(shipments(&destination, 20..30));
    confirmed(&mut sink, 10).await;
}

#[tokio::test]
async fn connections_that_end_before_anything_is_confirmed_follow_after_pauses_that_grow() {
    let Some(broker) = Proxied::find().await else { return };
    let destination = broker.destination().await;
    let mut sink = broker.sink();
    sink.open(1).await.expect("the sink opens");
    sink.publish(shipments(&destination, 0..10));
    confirmed(&mut sink, 10).await;
    let since = tokio::time::Instant::now();
    for _ in 0..5 {
        broker.proxy.reset_connections();
        up(&mut sink).await;
    }
    let least = Duration::from_millis(100 + 100 + 200 + 400 + 800);
    assert!(since.elapsed() >= least, "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_broker_that_allows_few_channels_is_given_no_more() {
    let Some(services) = Services::find("few channels") else { return };
    let rabbit = Rabbit::at(&services.rabbitmq_url).await;
    let (exchange, other) = (rabbit.exchange().await, rabbit.exchange().await);
    for exchange in [&exchange, &other] {
        rabbit.queue(exchange, "#", &[]).await;
    }
    let few = format!("{}?channel_max=4", services.rabbitmq_url);
    let many = config::RabbitMq { channels: 16, ..config(&few) };
    let mut sink = RabbitSink::new(&many, &pipeline());
    sink.open(1).await.expect("the sink opens");
    let every = |n: u64| {
        let exchange = if n.is_multiple_of(2) { &exchange } else { &other };
        shipment(n, record(&to(exchange, "key"), &n.to_string(), &n.to_string()))
    };
    sink.publish((0..5_000).map(every).collect());
    let (results, others) = outcomes(&mut sink, 5_000).await;
    assert!(results.values().all(Result::is_ok), "all are delivered");
    assert_eq!(others, [], "on one connection");
}

#[tokio::test]
async fn nobody_listening_is_an_outage_that_names_its_cause() {
    let port = crate::support::process::free_port();
    let mut sink = opened(&format!("amqp://guest:guest@127.0.0.1:{port}/%2f")).await;
    let failure = down(&mut sink).await;
    assert_eq!((failure.fault, failure.error_type), (Fault::Unavailable, ErrorType::BrokerUnavailable));
    assert!(failure.reason.contains("refused"), "{failure}");
}

#[tokio::test]
async fn wrong_credentials_are_an_outage_and_the_password_is_not_told() {
    let Some(services) = Services::find("wrong credentials") else { return };
    let mut sink = opened(&services.rabbitmq_url.replace("guest:guest", "guest:canary")).await;
    let failure = down(&mut sink).await;
    assert_eq!((failure.fault, failure.error_type), (Fault::Unavailable, ErrorType::Auth));
    assert!(
        !format!("{failure:?}").contains("canary") && !format!("{sink:?}").contains("canary"),
        "{failure}"
    );
}

#[tokio::test]
async fn an_alarm_is_told_costs_no_memory_and_everything_is_delivered_after_it() {
    if Services::find("a memory alarm").is_none() {
        return;
    }
    let server = RabbitServer::start().await;
    let rabbit = Rabbit::at(&server.url()).await;
    let exchange = rabbit.exchange().await;
    let queue = rabbit.queue(&exchange, "#", &quorum()).await;
    let mut sink = opened(&server.url()).await;
    sink.publish(shipments(&to(&exchange, "key"), 0..10));
    confirmed(&mut sink, 10).await;

    server.control(&["set_vm_memory_high_watermark", "0.0001"]);
    // The broker blocks a connection once it publishes.
    let body = "x".repeat(1_000);
    let heavy = |n: u64| {
        shipment(
            n,
            Record {
                body: Some(Bytes::from(body.clone())),
                ..record(&to(&exchange, "key"), &n.to_string(), &n.to_string())
            },
        )
    };
    sink.publish(vec![heavy(10)]);
    let failure = down(&mut sink).await;
    assert_eq!((failure.fault, failure.error_type), (Fault::Unavailable, ErrorType::Throttled));
    assert!(failure.reason.contains("memory"), "{failure}");
    let before = resident_bytes(std::process::id());
    sink.publish((11..10_011).map(heavy).collect());
    silence(&mut sink).await;
    let grown = resident_bytes(std::process::id()).saturating_sub(before);
    // What was published is ten megabytes and stays here; a copy of it in the client would double that.
    assert!(grown < 64 << 20, "{grown} bytes more");

    server.control(&["set_vm_memory_high_watermark", "0.4"]);
    let (results, others) = outcomes(&mut sink, 10_001).await;
    assert!(results.values().all(Result::is_ok), "all are delivered");
    assert_eq!(others, [SinkEvent::Up]);
    wait::eventually(PATIENCE, "the queue holds them", async || rabbit.depth(&queue).await == 10_011).await;
}

#[tokio::test]
async fn every_message_has_one_outcome_through_a_crash_of_the_broker() {
    if Services::find("a crash of the broker").is_none() {
        return;
    }
    let mut server = RabbitServer::start().await;
    let rabbit = Rabbit::at(&server.url()).await;
    let exchange = rabbit.exchange().await;
    // Not a quorum queue: the only member of one may take minutes to elect itself after a crash.
    let queue = rabbit.queue(&exchange, "#", &[]).await;
    let mut sink = opened(&server.url()).await;
    let destination = to(&exchange, "key");
    let count = 30_000;
    let all = |tokens: std::ops::Range<u64>| -> Vec<Shipment> {
        tokens.map(|n| shipment(n, record(&destination, &n.to_string(), &n.to_string()))).collect()
    };
    sink.publish(all(0..count));
    let mut results = BTreeMap::new();
    take(&mut sink, &mut results, 1_000).await;
    drop(rabbit);
    server.kill_9().await;
    server.restart().await;
    take(&mut sink, &mut results, usize::try_from(count).expect("fits")).await;
    silence(&mut sink).await;

    // What failed was in doubt, and is published again as the relay would.
    let failed: Vec<u64> =
        results.iter().filter(|(_, result)| result.is_err()).map(|(token, _)| token.0).collect();
    for token in &failed {
        let failure = results[&Token(*token)].as_ref().expect_err("a failure");
        assert!(failure.fault == Fault::Unavailable && failure.maybe_published, "{failure:?}");
    }
    sink.publish(failed.iter().flat_map(|token| all(*token..*token + 1)).collect());
    confirmed(&mut sink, failed.len()).await;
    let rabbit = Rabbit::at(&server.url()).await;
    let held: std::collections::HashSet<Vec<u8>> =
        rabbit.take(&queue).await.into_iter().map(|message| message.data).collect();
    assert_eq!(held.len() as u64, count, "every message is there");
}

/// Takes outcomes until `count` have come in all.
async fn take(sink: &mut RabbitSink, results: &mut BTreeMap<Token, Result<(), Failure>>, count: usize) {
    while results.len() < count {
        for event in events(sink).await {
            if let SinkEvent::Outcomes(outcomes) = event {
                super::super::collect(results, outcomes);
            }
        }
    }
}
