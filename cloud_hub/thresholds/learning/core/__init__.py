"""From a policy and histories to limits. No I/O."""
