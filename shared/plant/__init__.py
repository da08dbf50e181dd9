"""What the agent and the hub must do alike towards plant equipment: the rules for writes."""
