"""Incidents: grouping of alarms, diagnosis by rules or a language model, and actions with approval.

A diagnosis proposes actions and never executes them; `actions` applies policy and approval. Text from devices is
treated as data, never as an instruction. A language model cannot propose an action outside `rules.allowed_actions`.
"""
