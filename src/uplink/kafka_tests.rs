//! The configuration that Kafka's client gets.
