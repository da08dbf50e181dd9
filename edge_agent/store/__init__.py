"""Durable storage of the device: outbox, state store, disk reserve."""
