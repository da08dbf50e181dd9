"""SCADA: the hub as Sparkplug host application, and the conformance checker."""
