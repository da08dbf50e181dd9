"""The built-in action types."""
