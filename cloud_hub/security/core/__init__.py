"""Roles and AWS Signature Version 4. No I/O."""
