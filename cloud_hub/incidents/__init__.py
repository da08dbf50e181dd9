"""The incident desk: evidence in, a diagnosis with proposed actions out, by rules or by a language model.

It proposes and never acts: policy and approval live in `cloud_hub.actions`. What devices say is data here,
never an instruction, and nothing that an engine answers can name an action outside `rules.allowed_actions`.
"""
