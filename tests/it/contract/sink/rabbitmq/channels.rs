//! Messages for which the broker ends a channel, or says no, among neighbours that must not suffer.

use super::*;
use crate::support::rabbitmq::control;

#[tokio::test]
async fn an_exchange_deleted_under_way_fails_its_messages_and_no_others() {
    let Some(services) = Services::find("a deleted exchange") else { return };
    let rabbit = Rabbit::at(&services.rabbitmq_url).await;
    let (good, bad) = (rabbit.exchange().await, rabbit.exchange().await);
    let queue = rabbit.queue(&good, "#", &[]).await;
    rabbit.queue(&bad, "#", &[]).await;
    let mut sink = opened(&services.rabbitmq_url).await;
    sink.publish(shipments(&to(&good, "first"), 0..1));
    sink.publish(shipments(&to(&bad, "first"), 1..2));
    confirmed(&mut sink, 2).await;
    rabbit.delete_exchange(&bad).await;

    let every =
        |n: u64| record(&to(if n % 100 == 50 { &bad } else { &good }, "key"), &n.to_string(), &n.to_string());
    sink.publish((2..2_000).map(|n| shipment(n, every(n))).collect());
    let (results, _) = outcomes(&mut sink, 1_998).await;
    for (Token(token), result) in &results {
        let expected = (token % 100 == 50).then_some((Fault::Blocked, ErrorType::UnknownDestination));
        assert_eq!(judged(result), expected, "{token}: {result:?}");
    }
    // What was in doubt may be there twice, and everything is there.
    let taken = rabbit.take(&queue).await;
    let bodies: std::collections::HashSet<Vec<u8>> = taken.into_iter().map(|message| message.data).collect();
    assert_eq!(bodies.len(), 1 + 1_998 - 20);

    // Once it is there again it is used again, as soon as the miss is forgotten.
    rabbit.declare_exchange(&bad).await;
    rabbit.queue(&bad, "#", &[]).await;
    wait::eventually(PATIENCE, "the exchange is used again", async || {
        sink.publish(shipments(&to(&bad, "key"), 5_000..5_001));
        outcomes(&mut sink, 1).await.0.values().all(Result::is_ok)
    })
    .await;
}

/// The client calls for a new channel by the number of an old one, and answers with what had ended that.
#[tokio::test]
async fn channels_ended_without_number_are_blamed_on_no_other_exchange() {
    let Some(services) = Services::find("many ended channels") else { return };
    let rabbit = Rabbit::at(&services.rabbitmq_url).await;
    let queue = rabbit.queue(&rabbit.exchange().await, "#", &[]).await;
    let mut sink = opened(&format!("{}?channel_max=8", services.rabbitmq_url)).await;
    let mut taken = 0;
    for n in 0..40 {
        // Each is looked for on a channel of its own.
        let good = rabbit.exchange().await;
        rabbit.bind(&queue, &good, "#").await;
        let missing = to(&format!("missing-{}", uuid::Uuid::new_v4()), "key");
        sink.publish(shipments(&missing, n * 2..n * 2 + 1));
        sink.publish(shipments(&to(&good, "key"), n * 2 + 1..n * 2 + 2));
        for (Token(token), result) in outcomes(&mut sink, 2).await.0 {
            match judged(&result) {
                None => taken += u32::from(token % 2 == 1),
                Some((Fault::Blocked, ErrorType::UnknownDestination)) => assert_eq!(token % 2, 0),
                Some((fault, _)) => assert_eq!(fault, Fault::Unavailable, "{token}: {result:?}"),
            }
        }
    }
    assert!(taken > 20 && rabbit.depth(&queue).await >= taken, "{taken} were taken");
}

#[tokio::test]
async fn a_permission_taken_away_fails_its_messages_and_no_others() {
    let Some(services) = Services::find("a permission taken away") else { return };
    let rabbit = Rabbit::at(&services.rabbitmq_url).await;
    let (good, bad) = (rabbit.exchange().await, rabbit.exchange().await);
    let queue = rabbit.queue(&good, "#", &[]).await;
    rabbit.queue(&bad, "#", &[]).await;
    let user = format!("relay-{}", uuid::Uuid::new_v4());
    let lock = r"^relay\.lock\..*";
    control(&["add_user", &user, "secret"]);
    control(&["set_permissions", &user, lock, &format!("^({good}|{bad})$"), "^$"]);
    let url = services.rabbitmq_url.replace("guest:guest", &format!("{user}:secret"));
    let mut sink = opened(&url).await;
    sink.publish(shipments(&to(&good, "first"), 0..1));
    sink.publish(shipments(&to(&bad, "first"), 1..2));
    confirmed(&mut sink, 2).await;

    control(&["set_permissions", &user, lock, &format!("^{good}$"), "^$"]);
    let every =
        |n: u64| record(&to(if n % 10 == 5 { &bad } else { &good }, "key"), &n.to_string(), &n.to_string());
    sink.publish((2..500).map(|n| shipment(n, every(n))).collect());
    let (results, _) = outcomes(&mut sink, 498).await;
    for (Token(token), result) in &results {
        let expected = (token % 10 == 5).then_some((Fault::Blocked, ErrorType::Auth));
        // A channel caches what it was once permitted, for a dozen exchanges.
        let is_cached = token % 10 == 5 && result.is_ok();
        assert!(judged(result) == expected || is_cached, "{token}: {result:?}");
    }
    let failed = results.values().filter(|result| result.is_err()).count();
    assert!(failed > 0, "the broker refused nothing");
    assert!(rabbit.depth(&queue).await >= 449);
    control(&["delete_user", &user]);
}

#[tokio::test]
async fn a_full_queue_that_refuses_is_blocked_and_takes_again_once_there_is_room() {
    let Some(services) = Services::find("a full queue") else { return };
    let rabbit = Rabbit::at(&services.rabbitmq_url).await;
    let (exchange, other) = (rabbit.exchange().await, rabbit.exchange().await);
    rabbit.queue(&other, "#", &[]).await;
    let healthy = rabbit.queue(&exchange, "#", &[]).await;
    let reject = AMQPValue::LongString("reject-publish".into());
    let full = rabbit
        .queue(&exchange, "#", &[("x-max-length", AMQPValue::LongInt(5)), ("x-overflow", reject)])
        .await;
    let mut sink = opened(&services.rabbitmq_url).await;
    let mut batch = shipments(&to(&exchange, "key"), 0..50);
    batch.extend(shipments(&to(&other, "key"), 50..100));
    sink.publish(batch);
    let (results, _) = outcomes(&mut sink, 100).await;
    let refused =
        results.values().filter(|result| judged(result) == Some((Fault::Blocked, ErrorType::Nack))).count();
    let accepted = results.iter().filter(|(token, result)| token.0 < 50 && result.is_ok()).count();
    assert!(refused > 0 && refused + accepted == 50, "{refused} refused, {accepted} accepted");
    assert!((50..100).all(|token| results[&Token(token)].is_ok()), "the neighbours are delivered");
    assert_eq!(rabbit.depth(&healthy).await, 50, "a queue with room takes what the full one refuses");
    assert!(
        results.values().filter_map(|result| result.as_ref().err()).all(|failure| failure.maybe_published)
    );

    rabbit.take(&full).await;
    sink.publish(shipments(&to(&exchange, "key"), 100..101));
    confirmed(&mut sink, 1).await;
}

#[tokio::test]
async fn a_topic_has_no_place_here() {
    let Some(services) = Services::find("a topic at RabbitMQ") else { return };
    let mut sink = opened(&services.rabbitmq_url).await;
    sink.publish(vec![shipment(1, record(&Destination::Topic("topic".into()), "key", "body"))]);
    let (results, _) = outcomes(&mut sink, 1).await;
    assert_eq!(judged(&results[&Token(1)]), Some((Fault::Permanent, ErrorType::InvalidRecord)));
}
