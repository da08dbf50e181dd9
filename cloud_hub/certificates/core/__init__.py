"""X.509 certificates of the hub CA. No I/O."""
