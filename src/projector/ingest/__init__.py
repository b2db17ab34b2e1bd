"""Events over HTTP: CloudEvents in, records in Kafka out."""
