"""How the agent runs: event loop, health metrics, clock monitor."""
