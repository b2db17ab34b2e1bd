"""`projector dev`: embedded Kafka and Redis, a worker and the API, for trying the product."""
