"""Who may come in over HTTP: the bearers of the tokens in a file, and of an OAuth issuer's JWTs."""
