"""Computes limits from a policy and histories. No I/O."""
