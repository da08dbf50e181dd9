"""Names, PromQL comparisons and the remote-write wire format. No I/O."""
