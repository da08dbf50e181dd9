"""Commands from the hub: verbs, progress, results."""
