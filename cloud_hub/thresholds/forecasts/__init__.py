"""The probability that a series crosses a limit within the next 15 minutes. No I/O."""
