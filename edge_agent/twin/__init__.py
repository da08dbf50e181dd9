"""Twin documents on the device: applies desired state with handlers and publishes reported state."""
