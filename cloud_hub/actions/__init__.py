"""Proposed actions: `policy` says what may happen, `desk` carries it out by command and verifies it in the twin."""
