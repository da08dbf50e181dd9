"""The wire: what edge and hub say to each other, and the judgements both sides must make alike.

Nothing in this package opens a socket, reads a clock or draws a random number, with a few
exceptions that say so: `mqtt` (the one file that knows the MQTT client), `profile` and `plugins` (look
up what is installed) and `bundle` (reads model bundles, alike on both sides).
"""

PROTOCOL = 1
"""Version of the wire, the `v1` in every topic and the `protocol` in every birth."""

VERSION = "0.1.0"
"""Version of the distribution `tidegate`; pyproject.toml reads it from here."""
