"""Jobs: one change or command, once, for every device that a query finds."""
