"""Answers questions about the fleet in words, with citations: by a language model, or by fixed question forms."""
