"""The hub as Sparkplug host application: nodes of a plant become devices of the fleet, and can be written to by rule."""
