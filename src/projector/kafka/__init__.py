"""Topics, records and dead letters in Kafka, beside Faust's agents."""
