"""The rebuild: facts read from Kafka again, compared, and put in place."""
