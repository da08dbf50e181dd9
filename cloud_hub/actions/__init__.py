"""Actions: what the hub may do to devices and to other systems, by a policy and with approvals.

An action is proposed (by a diagnosis, a playbook or a person), judged by the policy, approved by people where the
policy asks for it, executed once for each idempotency key, verified, and undone where its type can be undone.
"""
