"""Collector `mqtt_tap`."""
