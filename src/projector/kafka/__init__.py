"""Kafka without Faust's agents: topics, ranges of records, dead letters, tolerant parsing."""
