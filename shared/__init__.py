"""The wire protocol between agent and hub, and the rules that both must evaluate identically.

Modules in this package do not open sockets, read a clock or draw random numbers. Exceptions: `mqtt` (wraps the MQTT
client), `profile` and `plugins` (look up installed packages), `bundle` (reads model bundles).
"""

PROTOCOL = 1
"""Version of the wire protocol: the `v1` in every topic and the `protocol` of every birth."""

VERSION = "0.1.0"
"""Version of the distribution `tidegate`; pyproject.toml reads it from here."""
