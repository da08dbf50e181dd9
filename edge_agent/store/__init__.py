"""What is durable on the device: outbox, state store, disk reserve."""
