"""What both programs do as processes: logs, lock file, terminal output, checks."""
