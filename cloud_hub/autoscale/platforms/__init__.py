"""The platforms on which targets are scaled, one module each; their options are documented in docs/configuration.md.

A module implements `Platform` (read, write, rehearse) and translates the answers of its API; `idempotent` adds what is
the same everywhere: one write a key, read-back, limits, dry run.
"""
