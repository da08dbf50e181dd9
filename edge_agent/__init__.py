"""The device: collect, judge, keep what is sure, escalate the rest; offline too."""
