"""The band of a metric: what its next value should be, and the limits learned from it. No I/O."""
