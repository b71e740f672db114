//! RabbitMQ: topology, a publisher that pipelines confirms, consumers, and the supervision of both connections.
