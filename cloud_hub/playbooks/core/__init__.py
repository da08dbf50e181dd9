"""Pure parts of playbooks: reading, checking, planning, drawing, and what a run does next."""
