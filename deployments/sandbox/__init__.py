"""The platform on one machine: upload API, OAuth2, object store, sample studies."""
