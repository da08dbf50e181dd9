"""The hub as Sparkplug host application: nodes of a plant are devices of the fleet, and can be written to by rule."""
