"""Configurations: desired state kept in force on every device that a query finds."""
