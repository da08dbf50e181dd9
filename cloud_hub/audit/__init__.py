"""The audit trail: an append-only chain of who did what, when, with which result."""
