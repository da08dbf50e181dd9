"""Question forms, facts, wording and the check of citations. No I/O."""
