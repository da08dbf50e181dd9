"""Learning of limits: policies, scheduled refits, trials on stored history."""
