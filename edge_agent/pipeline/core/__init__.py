"""Limits judged on the device. No I/O."""
