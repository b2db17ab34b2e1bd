"""Connections to Redis and Kafka, and retries while they are away."""
