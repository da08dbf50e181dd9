"""Sparkplug B 3.0 without I/O: payloads, topics, and the sessions of edge nodes and hosts."""
