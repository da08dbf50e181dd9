"""The decisions of a rollout. No I/O."""
