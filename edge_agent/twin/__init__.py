"""The device side of its twins: desired state in, handlers, reported state out."""
