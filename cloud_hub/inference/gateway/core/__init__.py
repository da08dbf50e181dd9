"""Decisions of the gateway without I/O: queue, balancing, circuit breaker, budgets, cache, routing and redaction."""
