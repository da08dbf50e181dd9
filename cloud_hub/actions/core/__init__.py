"""The pure part: the policy and the approvals."""
