"""Replay, vectorized judging, walk-forward evaluation and comparison. No I/O."""
