"""Alarm management after ISA-18.2: alarm states, acknowledgement, suppression, and the performance report."""
