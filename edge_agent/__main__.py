"""`python -m edge_agent` and the `tidegate-edge` command."""

from __future__ import annotations

import sys

from edge_agent.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
