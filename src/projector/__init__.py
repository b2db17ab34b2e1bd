"""The write side: events from Kafka in, one finished answer per live job token in Redis out."""
