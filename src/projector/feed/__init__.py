"""Events from files and from agents' configurations, checked and sent to Kafka."""
