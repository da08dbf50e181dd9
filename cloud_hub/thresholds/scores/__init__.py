"""The anomaly score: one number for every series, so that one threshold serves a whole fleet. No I/O."""
