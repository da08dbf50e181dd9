"""The inference gateway: routes, bounds, caches and records what devices, people and the hub ask language models."""
