//! Messages that no queue takes, among many that one does.

use std::collections::HashSet;

use super::*;
use crate::support::rabbitmq::quorum;

const MESSAGES: u64 = 60_000;

/// The client gives a return to the wrong confirmation a dozen times in such a run, more on queues that
/// answer late: an unroutable message would count as delivered, and a delivered one as unroutable.
async fn every_return_finds_its_message(arguments: &[(&str, AMQPValue)]) {
    let Some(services) = Services::find("unroutable messages") else { return };
    let rabbit = Rabbit::at(&services.rabbitmq_url).await;
    let exchange = rabbit.exchange().await;
    let bounded = [arguments, &[("x-max-length", AMQPValue::LongInt(1_000))]].concat();
    rabbit.queue(&exchange, "bound", &bounded).await;
    let unroutable = |n: u64| n % 50 == 17;
    // Large enough that a window's first messages are confirmed while its last are still on their way:
    // that is when a return meets another's confirmation.
    let body = Bytes::from(vec![b'x'; 2_000]);
    let shipment = |n: u64| {
        let destination = to(&exchange, if unroutable(n) { "nowhere" } else { "bound" });
        let record = record(&destination, &n.to_string(), &n.to_string());
        super::shipment(n, Record { body: Some(body.clone()), ..record })
    };
    let mut sink = opened(&services.rabbitmq_url).await;
    sink.publish((0..MESSAGES).map(shipment).collect());
    let (results, _) = outcomes(&mut sink, usize::try_from(MESSAGES).expect("fits")).await;
    let expected: HashSet<u64> = (0..MESSAGES).filter(|n| unroutable(*n)).collect();
    let returned: HashSet<u64> = results
        .iter()
        .filter(|(_, result)| judged(result) == Some((Fault::Blocked, ErrorType::Unroutable)))
        .map(|(token, _)| token.0)
        .collect();
    let silent = expected.difference(&returned).count();
    let wrong = returned.difference(&expected).count();
    assert_eq!((silent, wrong), (0, 0), "silently dropped, and wrongly called unroutable");
    let failed = results.values().filter(|result| result.is_err()).count();
    assert_eq!(failed, expected.len());
}

#[tokio::test]
async fn every_unroutable_message_of_sixty_thousand_is_told_and_no_other_on_a_classic_queue() {
    every_return_finds_its_message(&[]).await;
}

#[tokio::test]
async fn every_unroutable_message_of_sixty_thousand_is_told_and_no_other_on_a_quorum_queue() {
    every_return_finds_its_message(&quorum()).await;
}
