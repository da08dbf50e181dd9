"""Connections: the MQTT client with its reconnection, and TLS."""
