"""ISA-18.2 states of an alarm and the performance report. No I/O."""
