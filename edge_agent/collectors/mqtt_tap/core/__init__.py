"""What messages say, without I/O: JSON paths, plain payloads, metrics of Sparkplug."""
