"""The agent as a Sparkplug B edge node: its metrics for SCADA systems, and writes from them."""
