"""Grouping, diagnosis rules, prompts and action policy. No I/O."""
