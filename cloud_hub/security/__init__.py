"""Roles, secret files and AWS signatures: what access control stands on."""
