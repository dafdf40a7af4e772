//! Records to Kafka, by librdkafka.
