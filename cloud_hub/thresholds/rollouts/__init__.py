"""Rollouts of limits: canaries, observation, the rest of the fleet, automatic rollback."""
