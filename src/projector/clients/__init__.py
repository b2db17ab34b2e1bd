"""Clients of Redis and Kafka, and retries while they are unavailable."""
