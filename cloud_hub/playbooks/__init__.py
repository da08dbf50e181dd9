"""Playbooks: YAML graphs of actions that run durably and survive a killed hub."""
