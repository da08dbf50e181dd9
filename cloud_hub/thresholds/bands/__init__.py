"""Bands: forecast the next value of a metric with a range around it, and derive limits from that. No I/O."""
