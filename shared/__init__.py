"""The wire protocol between agent and hub, and the rules that both must evaluate identically.

`protocol`, `sparkplug`, `twin` and `thresholds` are pure: they do not open sockets, read a clock or draw random
numbers. So are `models.gate` and `models.manifest`. `transport` connects, `process` is what a program needs around its
work, `models` also reads bundles, `plugins` and `device_profile` look up installed packages.
"""

PROTOCOL = 1
"""Version of the wire protocol: the `v1` in every topic and the `protocol` of every birth."""

VERSION = "0.1.0"
"""Version of the distribution `tidegate`; pyproject.toml reads it from here."""
