"""OPC UA without I/O: which values a sample can hold, and what a write becomes."""
