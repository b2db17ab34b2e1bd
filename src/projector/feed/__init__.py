"""Events from files and agents' configurations, checked and sent to Kafka."""
