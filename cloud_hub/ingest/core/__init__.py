"""From topic and payload to a typed message. No I/O."""
