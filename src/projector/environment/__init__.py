"""What is around a process: settings, credentials, and how Kafka and Redis are reached."""
