"""Alarms as operators know them (ISA-18.2): their life, who is not called for them and why, floods, and the report."""
