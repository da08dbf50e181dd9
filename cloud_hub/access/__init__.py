"""Who calls the REST API: tokens, OpenID Connect, lockout after wrong tokens."""
